"""Checks what two papers claim on runs of one's own.

They are Vasiljevic et al. 2016 (arXiv 1611.05760) and Noroozi et al. 2017 (arXiv 1701.01486).

    python benchmarks/claims.py runs/vasiljevic2016_table3_fashion [--out FILE.csv]
        [--records FILE.csv]
    python benchmarks/claims.py runs/segment_stamps [...]
    python benchmarks/claims.py runs/deblur_wild_small [...]

RUNS are folders of the tests of one network that was trained on each mix of a `Study`, with the
same two or more seeds each; those trained on anything else are passed over. A claim is a set of
differences that all have to exceed a threshold. It `holds` if the 95 % intervals of all lie above,
`does not hold` if one lies below, and is else `within noise`. Tests of which all must succeed need
no correction for their number (Berger 1982, Technometrics 24, 295-300).

A difference is taken image by image and seed by seed, since all networks see the same images, and
those of one seed in the same order. Both are samples, of seeds and of images, so the variance of
the mean is that of the means of seeds plus that of the means of images. Each comes with Student's t
for its own number; the half widths are added in squares (Howe 1974, J. Am. Stat. Assoc. 69,
789-794). In simulations with three seeds these intervals cover 95 to 99 %. A two-level bootstrap
covers 75 % where the seeds scatter: three of them are too few to draw from. All seeds begin with
the same trained network; what another one would do is outside of the interval.

Mean IoU is no mean over images. Each image stands there for its jackknife pseudo-value (Tukey 1958,
Ann. Math. Stat. 29, 614): n times the value of all images less n - 1 times that without it.
"""

import argparse
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.records.counts import COUNTED
from blur_lightning.records.robustness import (
    PROVENANCE,
    RECORDS,
    read_records,
    record_files,
    replacing,
    write_records,
    write_table,
)
from blur_lightning.records.rounding import rounded
from blur_lightning.records.tested import Measured, load_run

SHARP, DISKS, SHAKE = "sharp", "sharp+D1+D2+D3", "0.2*sharp+0.8*shake"
MIXES = (SHARP, "sharp+D2", DISKS, "sharp+D3", "D3", SHAKE)
RADII = ("sharp", "D1", "D2", "D3", "D4")
LARGE_DISKS, LARGE_RADII = "sharp+D2+D4+D6", ("sharp", "D2", "D4", "D6", "D8")
WILD, SHAKEN = "wild_small", "wild_small (sharp, and shake)"
STRAIGHT = "wild_small (sharp, and M1..15@0..180)"
GAIN = "psnr_gain"  # over the blurry image; not in any record
# Metric -> what it is multiplied by, and the unit that results.
UNITS = {
    "top1": (100, "points"),
    "entropy": (1, "nats"),
    "miou": (100, "points"),
    "boundary_miou": (100, "points"),
    "psnr": (1, "dB"),
    "psnr_input": (1, "dB"),
    GAIN: (1, "dB"),
}

Cell = tuple[str, str]  # the mix that was trained on, the blur that was tested under
# (seed, mix, condition, metric) -> values of all images, in the order of their indices.
Values = Mapping[tuple[int, str, str, str], np.ndarray]


class Difference(NamedTuple):
    """A weighted sum of means that a claim says is above a threshold.

    Attributes:
        label: How it is printed.
        weights: Of the mean of each cell; they sum to 0, unless the metric is a difference.
        metric: Key of `UNITS`.
        threshold: In the unit of the metric.
    """

    label: str
    weights: Mapping[Cell, float]
    metric: str = "top1"
    threshold: float = 0.0


class Estimate(NamedTuple):
    """A mean and the ends of its 95 % interval."""

    mean: float
    low: float
    high: float


class Study(NamedTuple):
    """What is claimed of networks of one kind, each trained on one of several mixes.

    Attributes:
        mixes: What networks must have been trained on.
        claims: Differences by the claim that they make up.
        sweep: File that makes all runs.
    """

    mixes: Sequence[str]
    claims: Mapping[str, Sequence[Difference]]
    sweep: str

    @property
    def metrics(self) -> list[str]:
        """Metrics that the claims are about."""
        differences = (d for claim in self.claims.values() for d in claim)
        return list(dict.fromkeys(difference.metric for difference in differences))


def _gain(mix: str, condition: str, threshold: float = 0.0, *, metric: str = "top1") -> Difference:
    """What a mix adds to the same epochs on sharp images."""
    weights = {(mix, condition): 1.0, (SHARP, condition): -1.0}
    return Difference(f"{mix} on {condition}", weights, metric, threshold)


def _harm(radii: Sequence[str], metric: str) -> list[Difference]:
    """What each step to a larger radius costs a network that was trained on sharp images."""
    return [
        Difference(f"{weak}-{strong}", {(SHARP, weak): 1.0, (SHARP, strong): -1.0}, metric)
        for weak, strong in pairwise(radii)
    ]


def _loss(mix: str, condition: str, threshold: float = 0.0) -> Difference:
    weights = {(SHARP, condition): 1.0, (mix, condition): -1.0}
    return Difference(f"{mix} on {condition}", weights, threshold=threshold)


def _above_halfway(mix: str, condition: str) -> Difference:
    """More than half of what the blur costs is regained where this is above 0."""
    weights = {(mix, condition): 1.0, (SHARP, condition): -0.5, (SHARP, "sharp"): -0.5}
    return Difference(f"{mix} on {condition}", weights)


CLAIMS: Mapping[str, Sequence[Difference]] = {
    "blur harms, the more the larger its radius (Table 1)": _harm(RADII, "top1"),
    "entropy rises with the radius (Table 2)": [
        Difference(f"{strong}-{weak}", {(SHARP, strong): 1.0, (SHARP, weak): -1.0}, "entropy")
        for weak, strong in pairwise(RADII)
    ],
    "a mix regains more than half of the loss (Table 3)": [
        _above_halfway(DISKS, condition) for condition in ("D2", "D3")
    ],
    "a mix costs less than 1 point on sharp images (Table 3)": [
        _gain(mix, "sharp", threshold=-1.0) for mix in ("sharp+D2", DISKS, "sharp+D3")
    ],
    "a mix helps against degrees not trained on (Table 3)": [
        _gain("sharp+D2", "D4"),
        _gain("sharp+D3", "D2"),
        _gain(DISKS, "D1.5"),
        _gain(DISKS, "D4"),
    ],
    "disks help against shake, and shake against disks (Table 3)": [
        _gain(DISKS, "shake"),
        _gain(SHAKE, "D2"),
        _gain(SHAKE, "D3"),
    ],
    "disks harm against linear motion (Table 3)": [_loss(DISKS, "H5"), _loss(DISKS, "V5")],
    "shake helps against linear motion (Table 3)": [_gain(SHAKE, "H5"), _gain(SHAKE, "V5")],
    # The paper loses 75 points of top-5; the threshold is ours.
    "one strong blur alone costs 10 points on sharp images (Table 3)": [
        _loss("D3", "sharp", threshold=10.0)
    ],
}

CLAIMS_OF_SEGMENTATION: Mapping[str, Sequence[Difference]] = {
    "blur harms, the more the larger its radius (Table 6, all)": _harm(LARGE_RADII, "miou"),
    "it harms near boundaries too (Table 6, boundaries)": _harm(LARGE_RADII, "boundary_miou"),
    "a mix helps under blur (Table 6, all)": [
        _gain(LARGE_DISKS, radius, metric="miou") for radius in LARGE_RADII[1:]
    ],
    "a mix helps near boundaries too (Table 6, boundaries)": [
        _gain(LARGE_DISKS, radius, metric="boundary_miou") for radius in LARGE_RADII[1:]
    ],
    "a gap to sharp images stays (Table 6, all)": [
        Difference(
            f"sharp-{radius}", {(LARGE_DISKS, "sharp"): 1.0, (LARGE_DISKS, radius): -1.0}, "miou"
        )
        for radius in ("D4", "D6", "D8")
    ],
    "a mix costs on sharp images (Table 6, all)": [
        Difference(
            f"{LARGE_DISKS} on sharp", {(SHARP, "sharp"): 1.0, (LARGE_DISKS, "sharp"): -1.0}, "miou"
        )
    ],
}
CLAIMS_OF_DEBLURRING: Mapping[str, Sequence[Difference]] = {
    "averaged frames train better than shift-invariant blur (Table 2)": [
        Difference(f"WILD-{name}", {(WILD, "sharp"): 1.0, (mix, "sharp"): -1.0}, GAIN)
        for name, mix in (("shake", SHAKEN), ("lines", STRAIGHT))
    ],
    # The paper does not give the PSNR of the blurry images; the threshold is ours.
    "a narrow DeblurNet gains 1.5 dB": [Difference("WILD", {(WILD, "sharp"): 1.0}, GAIN, 1.5)],
}
# By the metric that networks of a kind are known by.
STUDIES = {
    "top1": Study(MIXES, CLAIMS, "sweeps/vasiljevic2016_table3_fashion.yaml"),
    "miou": Study((SHARP, LARGE_DISKS), CLAIMS_OF_SEGMENTATION, "sweeps/segment_stamps.yaml"),
    "psnr": Study((WILD, SHAKEN, STRAIGHT), CLAIMS_OF_DEBLURRING, "sweeps/deblur_wild_small.yaml"),
}


def study_of(paths: Sequence[Path]) -> Study:
    """What can be claimed of runs, by the metrics that they have."""
    found = {record.metric for path in paths for record in read_records(path)}
    for metric, study in STUDIES.items():
        if metric in found:
            return study
    raise InputError(f"RUNS: none has {' or '.join(STUDIES)}; name tests of trained networks")


def read_runs(paths: Sequence[Path], study: Study) -> dict[tuple[int, str], Path]:
    """Find the folder of each seed and mix; InputError if one is missing, or there twice."""
    folders: dict[tuple[int, str], Path] = {}
    networks: dict[tuple[str, str], Path] = {}
    for file in (file for path in paths for file in record_files(path)):
        record, folder = read_records(file)[0], file.parent
        if record.trained_on not in study.mixes:
            continue
        other = networks.setdefault((record.model, record.dataset), folder)
        if len(networks) > 1:
            raise InputError(f"{folder}: another network or data set than in {other}; check alone")
        key = (seed_of(folder / PROVENANCE), record.trained_on)
        if folders.setdefault(key, folder) != folder:
            raise InputError(
                f"{folder}: seed {key[0]} and mix {key[1]}, as in {folders[key]}; name one of them"
            )
    seeds = {seed for seed, _ in folders}
    wanted = [(seed, mix) for seed in sorted(seeds) for mix in study.mixes]
    missing = [pair for pair in wanted if pair not in folders]
    if missing:
        raise InputError(
            f"RUNS: none trained on {missing[0][1]} with seed {missing[0][0]}; the sweep "
            f"{study.sweep} makes all"
        )
    if len(seeds) < 2:
        raise InputError(f"RUNS: {len(seeds)} seeds leave no measure of noise; train with 2 or 3")
    return folders


def seed_of(file: Path) -> int:
    """Seed of the run whose provenance a file holds; InputError if it tells none."""
    try:
        return int(json.loads(file.read_text(encoding="utf-8"))["seed"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{file}: tells no seed ({error!r}); repeat the test") from error


def read_images(folders: Mapping[tuple[int, str], Path], study: Study) -> Values:
    """Read what was measured of each image; InputError if runs measured different images."""
    measured, indices = {}, None
    for key, folder in folders.items():
        run = load_run(folder / RECORDS)
        for condition, rows in run.rows.items():
            indices = run.columns["index"][rows] if indices is None else indices
            if not np.array_equal(run.columns["index"][rows], indices):
                raise InputError(f"{folder}: other images than in the first run; repeat the test")
            for metric in study.metrics:
                try:
                    values = pseudo_values(metric, run, rows)
                except KeyError as error:
                    raise InputError(f"{folder}: no column {error}; repeat the test") from error
                measured[*key, condition, metric] = UNITS[metric][0] * values
    return measured


def pseudo_values(metric: str, run: Measured, rows: np.ndarray) -> np.ndarray:
    """Values of images; jackknife pseudo-values where a metric is of all images at once."""
    if metric == GAIN:
        return pseudo_values("psnr", run, rows) - pseudo_values("psnr_input", run, rows)
    if metric not in COUNTED:
        return run.columns[metric][rows].astype(np.float64)
    statistic, names = COUNTED[metric]
    counts = [run.columns[name][rows].astype(np.float64) for name in names]
    sums, n = [count.sum(0) for count in counts], len(rows)
    without = statistic(*(total - count for total, count in zip(sums, counts, strict=True)))
    return n * statistic(*sums) - (n - 1) * without


def estimate(difference: Difference, measured: Values) -> Estimate:
    """Evaluate a difference: its mean and 95 % interval over seeds and images, in its unit."""
    seeds = sorted({seed for seed, *_ in measured})
    cells, weights = zip(*difference.weights.items(), strict=True)
    try:
        values = [[measured[seed, *cell, difference.metric] for cell in cells] for seed in seeds]
    except KeyError as error:
        seed, mix, condition, _ = error.args[0]
        raise InputError(
            f"RUNS: seed {seed} of {mix} was not tested under {condition}; repeat its test with "
            f"{condition} in model.conditions"
        ) from error
    return crossed_interval(np.einsum("c,sci->si", weights, values))


def crossed_interval(values: np.ndarray) -> Estimate:
    """Mean and 95 % interval of values (seeds, images), both drawn from many; see the module.

    Of one seed it is the interval over images alone.
    """
    from scipy.stats import t as student

    mean = float(values.mean())
    half_widths = [
        student.ppf(0.975, means.size - 1) * (means.var(ddof=1) / means.size) ** 0.5
        for means in (values.mean(axis=1), values.mean(axis=0))
        if means.size > 1
    ]
    half = math.hypot(*half_widths)
    return Estimate(mean, mean - half, mean + half)


def verdict(differences: Sequence[Difference], estimates: Sequence[Estimate]) -> str:
    """Judge a claim by all its differences."""
    pairs = list(zip(differences, estimates, strict=True))
    if all(estimate.low > difference.threshold for difference, estimate in pairs):
        return "holds"
    if any(estimate.high < difference.threshold for difference, estimate in pairs):
        return "does not hold"
    return "within noise"


def check(paths: Sequence[Path], *, out: Path | None = None) -> None:
    """Print a line for each claim, and write a line for each difference.

    Args:
        paths: Folders of test runs.
        out: CSV file to write.
    """
    study = study_of(paths)
    measured = read_images(read_runs(paths, study), study)
    rows: list[dict[str, Any]] = []
    for claim, differences in study.claims.items():
        estimates = [estimate(difference, measured) for difference in differences]
        judged, numbers, unit = verdict(differences, estimates), [], UNITS[differences[0].metric][1]
        for difference, interval in zip(differences, estimates, strict=True):
            half = (interval.high - interval.low) / 2
            mean = rounded(interval.mean, 2, sign="+")
            numbers.append(f"{difference.label} {mean} ± {rounded(half, 2)}")
            row = {"claim": claim, "verdict": judged, "difference": difference.label}
            threshold = {"threshold": difference.threshold, "unit": unit}
            rows.append(row | interval._asdict() | threshold)
        width = max(map(len, study.claims))
        print(f"{claim:{width}}  {judged:13}  {', '.join(numbers)} {unit}")
    if out is not None:
        write_table(out, [{name: np.array([row[name] for row in rows]) for name in rows[0]}])


def gather(paths: Sequence[Path], out: Path) -> None:
    """Write the records of all runs as one file, and beside it what produced them."""
    files = [file for path in paths for file in record_files(path)]
    records = [r for file in files for r in read_records(file) if r.metric in UNITS]
    write_records(out, records)
    provenances = {}
    for file in files:
        content = json.loads((file.parent / PROVENANCE).read_text(encoding="utf-8"))
        provenances[file.parent.name] = {k: v for k, v in content.items() if k != "config"}
    with replacing(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(provenances, indent=1) + "\n", encoding="utf-8")


def status_of(command: Callable[[], None]) -> int:
    """Run a command and return its exit status: 2 where a mistake became one line."""
    try:
        command()
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0 if all claims could be checked, 2 if not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("runs", metavar="RUNS", type=Path, nargs="+", help="folders of test runs")
    parser.add_argument("--out", metavar="FILE.csv", type=Path, help="write all numbers here")
    parser.add_argument(
        "--records",
        metavar="FILE.csv",
        type=Path,
        help="gather what the claims are about of all runs here, their provenance in FILE.json",
    )
    options = parser.parse_args(arguments)

    def run() -> None:
        check(options.runs, out=options.out)
        if options.records:
            gather(options.runs, options.records)

    return status_of(run)


if __name__ == "__main__":
    sys.exit(main())

"""Checks whether blur leaves a larger gap in segmentation than in classification after training.

    python benchmarks/gap.py [--segmentation RUNS...] [--classification RUNS...] [--out FILE.csv]

Vasiljevic et al. 2016 (arXiv 1611.05760, section 5) find that a network trained on a mix of blurs
stays farther below its own sharp images where it segments than where it classifies. RUNS are
folders of tests or files of records: of networks that were trained on `sharp` and on mixes of sharp
images and disks, with two or more seeds each. Of several mixes that with the most disks counts.

The gap is the relative loss (sharp - blurry) / sharp of mean IoU, or of top-1, of one network. It
is taken under the strongest disk of the mix, and under the strongest that was tested. Both tasks
have their own data and networks, so the two gaps differ by more than the task: a disk of radius 3
covers more of a photograph of 28 pixels than one of radius 8 of 256. How much there was to regain,
the gap of the same networks trained on sharp images, is printed beside.

Intervals have a part from the seeds (Student's t) and one from the images; half widths are added in
squares, as in `claims`. The part of the images comes from the intervals of the two values as if
they were of different images (delta method). They are of the same ones, so it is rather too wide.
"""

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from claims import SHARP, Difference, Estimate, status_of, verdict

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import Record, read_records, write_table

RESULTS = Path(__file__).parents[1] / "experiments/results"
CLAIM = "a larger gap stays than in classification, relative to sharp images (section 5)"
_NORMAL = 1.96  # half widths of 95 % intervals in standard errors


class Task(NamedTuple):
    """Tests of networks of one kind.

    Attributes:
        name: How it is printed.
        mix: What the networks to compare were trained on.
        trained: Strongest disk of the mix.
        tested: Strongest disk of the tests.
        records: One metric under sharp and disks, of networks trained on the mix and on sharp.
    """

    name: str
    mix: str
    trained: str
    tested: str
    records: Sequence[Record]

    def values(self, trained_on: str, condition: str) -> list[Record]:
        """One record a seed, in the order of the runs; InputError if there are fewer than two."""
        found = [r for r in self.records if (r.trained_on, r.condition) == (trained_on, condition)]
        if len(found) < 2:
            raise InputError(
                f"RUNS: {len(found)} of {self.name} trained on {trained_on} were tested under "
                f"{condition}; name the tests of two or more seeds"
            )
        return sorted(found, key=lambda record: record.run)


def read_task(paths: Sequence[Path], metric: str) -> Task:
    """Read the records of one task; InputError if no network was trained on a mix of disks.

    Args:
        paths: Folders of runs or files of records.
        metric: miou or top1.
    """
    records = [r for path in paths for r in read_records(path) if r.metric == metric]
    mixes = {r.trained_on for r in records if re.fullmatch(r"sharp(\+D[\d.]+)+", r.trained_on)}
    if not mixes:
        raise InputError(f"RUNS: none with {metric} was trained on sharp images and disks")
    if len(networks := {(r.model, r.dataset) for r in records}) > 1:
        raise InputError(f"RUNS: {metric} of several networks or data sets, {networks}; name one")
    mix = max(sorted(mixes), key=lambda name: name.count("D"))
    disks = {r.condition: r.parameter or 0.0 for r in records if r.family == "disk"}
    known = [disk for disk in disks if disk in mix.split("+")]
    if not known:
        raise InputError(f"RUNS: no disk of {mix} was tested; repeat the tests under these too")
    strongest = max(known, key=disks.__getitem__)
    name = f"{metric} of {records[0].model} on {records[0].dataset}"
    return Task(name, mix, strongest, max(disks, key=disks.__getitem__), records)


def relative_loss(sharp: Sequence[Record], blurry: Sequence[Record]) -> Estimate:
    """Share of the sharp value that a blur costs, in percent, mean of the seeds.

    Args:
        sharp: Of each seed.
        blurry: Of the same seeds in the same order.
    """
    from scipy.stats import t as student

    values = np.array([[r.value for r in records] for records in (sharp, blurry)])
    ends = np.array(
        [[(r.low, r.high) for r in records] for records in (sharp, blurry)], dtype=float
    )
    losses, ratios = 1 - values[1] / values[0], values[1] / values[0]
    errors = (ends[..., 1] - ends[..., 0]) / 2 / _NORMAL
    # The images are the same for all seeds: their error does not shrink with these.
    images = float(np.mean(np.hypot(errors[1], ratios * errors[0]) / values[0]))
    seeds = student.ppf(0.975, losses.size - 1) * losses.std(ddof=1) / losses.size**0.5
    half = 100 * float(np.hypot(seeds, _NORMAL * images))
    mean = 100 * float(losses.mean())
    return Estimate(mean, mean - half, mean + half)


def gap(task: Task, condition: str, *, trained_on: str | None = None) -> Estimate:
    """Relative loss under a condition of networks trained on the mix, or on something else."""
    mix = trained_on or task.mix
    sharp, blurry = task.values(mix, SHARP), task.values(mix, condition)
    if [record.run for record in sharp] != [record.run for record in blurry]:
        raise InputError(
            f"RUNS: other runs trained on {mix} were tested under {condition} than under {SHARP}; "
            "repeat the tests under both"
        )
    return relative_loss(sharp, blurry)


def less(one: Estimate, other: Estimate) -> Estimate:
    """Difference of two estimates from different images and networks."""
    half = float(np.hypot(one.high - one.low, other.high - other.low)) / 2
    mean = one.mean - other.mean
    return Estimate(mean, mean - half, mean + half)


def check(segmentation: Sequence[Path], classification: Sequence[Path], out: Path | None) -> None:
    """Print the gaps of both tasks and what they say of the claim; write a line a difference.

    Args:
        segmentation: Runs with miou.
        classification: Runs with top1.
        out: CSV file to write.
    """
    tasks = read_task(segmentation, "miou"), read_task(classification, "top1")
    differences = []
    for which in ("trained", "tested"):
        disks = [getattr(task, which) for task in tasks]
        gaps = [gap(task, disk) for task, disk in zip(tasks, disks, strict=True)]
        for task, disk, found in zip(tasks, disks, gaps, strict=True):
            alone = gap(task, disk, trained_on=SHARP)
            print(
                f"{task.name}, {disk}: trained on {SHARP} {_text(alone)}, {task.mix} {_text(found)}"
            )
        label = f"{disks[0]} less {disks[1]}, the strongest {which}"
        differences.append((Difference(label, {}), less(*gaps)))
    judged = verdict(*zip(*differences, strict=True))
    texts = [f"{difference.label} {_text(estimate)}" for difference, estimate in differences]
    print(f"{CLAIM}  {judged}  {'; '.join(texts)}")
    if out is not None:
        columns = {
            "claim": [CLAIM for _ in differences],
            "verdict": [judged for _ in differences],
            "difference": [difference.label for difference, _ in differences],
            **{name: [getattr(e, name) for _, e in differences] for name in Estimate._fields},
            "unit": ["% of sharp" for _ in differences],
        }
        write_table(out, [{name: np.array(column) for name, column in columns.items()}])


def _text(estimate: Estimate) -> str:
    return f"{estimate.mean:.1f} ± {(estimate.high - estimate.low) / 2:.1f} %"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the program; return 0 if the claim could be checked, 2 if not."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for task, table in (("segmentation", "segment_stamps"), ("classification", "fashion_table3")):
        parser.add_argument(
            f"--{task}",
            metavar="RUNS",
            type=Path,
            nargs="+",
            default=[RESULTS / f"{table}.csv"],
            help=f"folders of tests, or records; {table}.csv of the results by default",
        )
    parser.add_argument("--out", metavar="FILE.csv", type=Path, help="write the differences here")
    options = parser.parse_args(arguments)

    def run() -> None:
        check(options.segmentation, options.classification, options.out)

    return status_of(run)


if __name__ == "__main__":
    sys.exit(main())

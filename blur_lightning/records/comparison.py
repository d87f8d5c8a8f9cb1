"""Two runs on the same images: how much they differ, and whether that is more than noise.

Both runs saw the same images, so the difference is taken image by image: most of what makes one
image harder than another cancels, and far smaller differences show than two intervals side by side
would tell apart.
"""

import csv
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.records.counts import COUNTED, with_interval
from blur_lightning.records.robustness import RECORDS, bootstrap_interval, record_files, replacing
from blur_lightning.records.rounding import rounded
from blur_lightning.records.tested import METRICS, RESTORED, Measured, load_run, on_same_images

_LEVEL = 0.05  # below it a p-value is more than noise, as outside it a 95 % interval is


class Difference(NamedTuple):
    """One metric of two runs under one condition; the fields are the columns of the CSV."""

    run: str
    other: str
    metric: str
    condition: str
    n: int  # images
    run_value: float
    other_value: float
    difference: float  # other - run
    low: float  # 95 %, paired bootstrap
    high: float
    within_noise: bool  # p of 0.05 or more; without p, an interval that contains 0
    only_run: int | None = None  # images that it alone got right; None: nothing is right or wrong
    only_other: int | None = None
    p: float | None = None  # McNemar's test
    p_holm: float | None = None  # the same, corrected for the number of conditions


def compare(
    run: Path, other: Path, *, out: Path | None = None, mid_p: bool = False
) -> list[Difference]:
    """Compare two runs on the same images, for every condition and metric that both have.

    Prints a table. Differences are the other run's value minus the run's.

    Args:
        run: Folder of a test run, the one to measure against, or its robustness.csv.
        other: Folder of another, or its robustness.csv.
        out: Also write the table; ends in .csv.
        mid_p: Take the mid-p value of McNemar's test: closer to the level than the exact one, which
            finds too little on few images.
    """
    if out is not None and (out.suffix != ".csv" or out.name == RECORDS):
        raise InputError(f"{out}: CSV is written here; end it in .csv, but not as {RECORDS}")
    first, second = (load_run(_only_file(path)) for path in (run, other))
    both = f"{first.folder} and {second.folder}"
    if not on_same_images(first, second):
        raise InputError(f"{both} were tested on different images; test both on the same data")
    differences = differences_of(first, second, mid_p=mid_p)
    if not differences:
        raise InputError(f"{both} share no condition or no metric; test both under the same blurs")
    print(f"run: {first.folder}\nother: {second.folder}\n\n{_text(differences)}")
    if out is not None:
        with replacing(out) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([Difference._fields, *differences])
        print(f"\nwritten: {out}")
    return differences


# Statistics


@lru_cache(maxsize=2**14)
def mcnemar(only_run: int, only_other: int, *, mid_p: bool = False) -> float:
    """Two-sided p-value of McNemar's test of paired proportions (1947, Psychometrika 12, 153-157).

    Images that both runs get right, or both wrong, say nothing: of the others each run gets half
    if the two are equally good, by the binomial distribution.

    Args:
        only_run: How many images the one run alone gets right.
        only_other: How many the other alone gets right.
        mid_p: Count what was observed by half (Fagerland et al. 2013, BMC Med. Res. Methodol. 13,
            91), instead of in full as the exact test does.
    """
    from scipy.special import bdtr

    n = only_run + only_other
    if n == 0:
        return 1.0
    exact = min(1.0, 2 * float(bdtr(min(only_run, only_other), n, 0.5)))
    if not mid_p:
        return exact
    from scipy.stats import binom

    observed = float(binom.pmf(only_run, n, 0.5))
    # Of two equal counts there is no mirror image that is as likely.
    return exact - (observed / 2 if only_run == only_other else observed)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number, in their order (Holm 1979, Scand. J. Stat. 6, 65-70).

    Where all null hypotheses hold, one of the results is below 0.05 in 5 % of the cases at most.
    """
    order = np.argsort(p_values, kind="stable")
    corrected = np.empty(len(order))
    steps = np.asarray(p_values)[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected.tolist()


@lru_cache(maxsize=2**14)  # many pairs of runs differ in as many images
def paired_interval(
    only_run: int, only_other: int, n: int, *, resamples: int = 1000, seed: int = 0
) -> tuple[float, float]:
    """95 % percentile bootstrap of the difference of two shares of the same images.

    To resample images of which each counts -1, 0 or 1 is to draw the three counts from their
    multinomial distribution.

    Args:
        only_run: How many images the one run alone gets right.
        only_other: How many the other alone gets right.
        n: How many images there are.
        resamples: How often they are resampled.
        seed: Of the draws.
    """
    shares = [only_run / n, only_other / n, (n - only_run - only_other) / n]
    draws = np.random.default_rng(seed).multinomial(n, shares, size=resamples)
    differences = np.sort(draws[:, 1] - draws[:, 0]) / n
    # What np.quantile gives, in a quarter of its time.
    places = np.array([0.025, 0.975]) * (resamples - 1)
    low, high = np.interp(places, np.arange(resamples), differences)
    return float(low), float(high)


def differences_of(
    run: Measured, other: Measured, *, mid_p: bool = False, metrics: Sequence[str] = METRICS
) -> list[Difference]:
    """Compare runs on the same images, metric by metric and condition by condition."""
    conditions = [condition for condition in run.rows if condition in other.rows]
    differences: list[Difference] = []
    for metric in metrics:
        needed = COUNTED[metric][1] if metric in COUNTED else (metric,)
        if all(_has(one, name) for one in (run, other) for name in needed):
            family = [_difference(run, other, metric, c, mid_p=mid_p) for c in conditions]
            if p_values := [d.p for d in family if d.p is not None]:
                corrected = holm(p_values)
                family = [d._replace(p_holm=p) for d, p in zip(family, corrected, strict=True)]
            differences += family
    return differences


def _has(run: Measured, name: str) -> bool:
    """Whether a run has a column; that of a search for blurs has no PSNR where nothing changed."""
    column = run.columns.get(name)
    return column is not None and not (name in RESTORED and bool(np.isnan(column).any()))


def _difference(
    run: Measured, other: Measured, metric: str, condition: str, *, mid_p: bool
) -> Difference:
    if metric in COUNTED:
        return _counted_difference(run, other, metric, condition)
    first, second = (one.columns[metric][one.rows[condition]] for one in (run, other))
    run_value, other_value = (float(column.mean(dtype=np.float64)) for column in (first, second))
    counts: dict[str, Any] = {}
    if first.dtype == np.bool_:
        only_run, only_other = int((first & ~second).sum()), int((second & ~first).sum())
        low, high = paired_interval(only_run, only_other, len(first))
        p = mcnemar(only_run, only_other, mid_p=mid_p)
        counts = {"only_run": only_run, "only_other": only_other, "p": p}
        within_noise = p >= _LEVEL
    else:
        # A network that diverged measures infinities, whose difference is no number.
        with np.errstate(invalid="ignore"):
            low, high = bootstrap_interval(second.astype(np.float64) - first.astype(np.float64))
        within_noise = not (low > 0 or high < 0)
    return Difference(
        run.name,
        other.name,
        metric,
        condition,
        n=len(first),
        run_value=run_value,
        other_value=other_value,
        difference=other_value - run_value,
        low=low,
        high=high,
        within_noise=within_noise,
        **counts,
    )


def _counted_difference(run: Measured, other: Measured, metric: str, condition: str) -> Difference:
    """A metric of all pixels of all images: the same images are resampled of both runs."""
    statistic, names = COUNTED[metric]
    first, second = ([one.columns[n][one.rows[condition]] for n in names] for one in (run, other))

    def both(*sums: np.ndarray) -> np.ndarray:
        values = statistic(*sums[: len(names)]), statistic(*sums[len(names) :])
        return np.stack([*values, values[1] - values[0]], axis=-1)

    value, low, high = with_interval(both, *first, *second)
    return Difference(
        run.name,
        other.name,
        metric,
        condition,
        n=len(first[0]),
        run_value=float(value[0]),
        other_value=float(value[1]),
        difference=float(value[2]),
        low=float(low[2]),
        high=float(high[2]),
        within_noise=not (low[2] > 0 or high[2] < 0),
    )


def _only_file(path: Path) -> Path:
    files = record_files(path)
    if len(files) > 1:
        raise InputError(f"{path}: {len(files)} test runs are in this folder; name that of one")
    return files[0]


def _text(differences: Sequence[Difference]) -> str:
    """Lay differences out for a terminal: a line for each."""
    titles = "metric,condition,n,run,other,difference,95 % interval,only run,only other,p,p Holm"
    rows = [[*titles.split(","), "within noise"]]
    for d in differences:
        values = [rounded(value, 4) for value in (d.run_value, d.other_value)]
        values.append(rounded(d.difference, 4, sign="+"))
        counts = ("" if count is None else str(count) for count in (d.only_run, d.only_other))
        p_values = ("" if p is None else f"{p:.3g}" for p in (d.p, d.p_holm))
        noise = "yes" if d.within_noise else "no"
        interval = " to ".join(rounded(end, 4, sign="+") for end in (d.low, d.high))
        rows.append([d.metric, d.condition, str(d.n), *values, interval, *counts, *p_values, noise])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    aligned = (
        [*map(str.ljust, row[:2], widths), *map(str.rjust, row[2:], widths[2:])] for row in rows
    )
    return "\n".join("  ".join(cells) for cells in aligned)

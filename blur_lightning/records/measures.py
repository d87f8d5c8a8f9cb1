"""What is computed from records and images: curves, ImageNet-C's errors, calibration, abstention.

Accuracies, errors, confidences and coverages are fractions in 0..1.
"""

import re
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Bool, Float, Int

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import Record

# Families that are sharp at 0, their parameter being a size in pixels. The others are not: 0 waves
# of an aberration leave an Airy pattern of 1 pixel, and ImageNet-C's severities begin at 1.
SHARP_AT_ZERO = frozenset({"disk", "horizontal", "vertical", "motion", "gaussian", "airy"})

SUMMED_UP = ("top1", "top5", "miou", "boundary_miou")  # metrics whose curves have an area
BLURS_OF_IMAGENET_C = ("defocus_blur", "glass_blur", "motion_blur", "zoom_blur")
# AlexNet's errors under these, means over the five severities: as the authors use them themselves
# (Hendrycks et al. 2020, arXiv 1912.02781, `imagenet.py` of google-research/augmix), and as
# RobustBench measured them on 5000 of the images (Croce et al. 2021, arXiv 2010.09670).
ALEXNET_ERRORS = {
    "hendrycks2019": (0.819880, 0.826268, 0.785948, 0.798360),
    "robustbench": (0.822, 0.831, 0.787, 0.796),
}


class Curve(NamedTuple):
    """One metric of one run over the strengths of one family of blurs."""

    run: str
    model: str
    trained_on: str
    dataset: str
    scale: str  # px of the network's input
    family: str  # with its direction in degrees where one is fixed: motion@30
    metric: str
    points: int  # how many strengths, sharp among them where it is the family's 0
    from_: float  # least parameter, in the unit of the records
    to: float  # largest parameter
    area: float  # see `area_under_curve`
    half: float | None  # see `half_blur`


def area_under_curve(parameters: Sequence[float], values: Sequence[float]) -> float:
    """Mean of a curve over its parameters: the area of its trapezoids, divided by the range.

    Parameters that are not strictly increasing, or fewer than 2, are an InputError.
    """
    _check_curve(parameters, values)
    return float(np.trapezoid(values, parameters) / (parameters[-1] - parameters[0]))


def half_blur(parameters: Sequence[float], values: Sequence[float]) -> float | None:
    """Smallest parameter at which a curve has fallen to half of its first value.

    Straight lines lead from one point to the next. None: it never falls that far, or begins at 0.
    Parameters that are not strictly increasing, or fewer than 2, are an InputError.
    """
    _check_curve(parameters, values)
    half = values[0] / 2
    for i in range(1, len(values)):
        if values[i] <= half < values[i - 1]:
            share = (values[i - 1] - half) / (values[i - 1] - values[i])
            return float(parameters[i - 1] + share * (parameters[i] - parameters[i - 1]))
    return None


def _check_curve(parameters: Sequence[float], values: Sequence[float]) -> None:
    if len(parameters) != len(values):
        raise InputError(f"parameters: {len(parameters)} for {len(values)} values; give one each")
    if len(parameters) < 2 or not np.all(np.diff(parameters) > 0):
        raise InputError("parameters: give at least 2, each larger than the one before")


def curve_records(records: Sequence[Record]) -> list[Curve]:
    """Sum up `SUMMED_UP` over each family of which two strengths or more were measured.

    A condition counts if it has one strength and at most one direction: D4, M8@30, zoom_blur-3.
    Mixes, ranges and shares of an image do not. Sharp is the strength 0 of `SHARP_AT_ZERO`. What
    is measured twice under one name of a run becomes its mean. The order is that of the records.
    """
    sharp: dict[tuple[Any, ...], list[float]] = {}
    curves: dict[tuple[Any, ...], dict[float, list[float]]] = {}
    for record in records:
        network: Sequence[Any] = (*record[:4], record.scale)
        plain = re.fullmatch(r"[A-Za-z_]+-?\d+(?:\.\d+)?(@-?\d+(?:\.\d+)?)?", record.condition)
        if record.metric not in SUMMED_UP:
            continue
        if record.condition == "sharp":
            sharp.setdefault((*network, record.metric), []).append(record.value)
        elif plain and record.parameter is not None:
            key = (*network, record.family + (plain[1] or ""), record.metric)
            curves.setdefault(key, {}).setdefault(record.parameter, []).append(record.value)
    summaries = []
    for key, measured in curves.items():
        *network, family, metric = key
        if family.partition("@")[0] in SHARP_AT_ZERO and (*network, metric) in sharp:
            measured = {0.0: sharp[*network, metric]} | measured
        if len(measured) > 1:
            x = sorted(measured)
            y = [fmean(measured[parameter]) for parameter in x]
            area, half = area_under_curve(x, y), half_blur(x, y)
            summaries.append(Curve._make((*key, len(x), x[0], x[-1], area, half)))
    return summaries


class CrossBlur(NamedTuple):
    """What networks trained under each blur make of each other blur."""

    conditions: list[str]  # tested under: the rows
    trained_on: list[str]  # the columns
    values: Float[np.ndarray, "conditions trained_on"]  # means over the runs; NaN: none
    runs: Int[np.ndarray, "conditions trained_on"]  # how many


def cross_blur_matrix(records: Sequence[Record], metric: str = "top1") -> CrossBlur:
    """Lay out one metric of one network by the blur that it was trained on and tested under.

    Args:
        records: Of one model, data set and scale; else InputError. Rows and columns keep their
            order.
        metric: One that the records have; else InputError.
    """
    chosen = [record for record in records if record.metric == metric]
    if not chosen:
        known = ", ".join(dict.fromkeys(record.metric for record in records)) or "none"
        raise InputError(f"metric: no record has '{metric}'; use one that they have: {known}")
    _check_one(chosen, "model", "dataset", "scale")
    cells: dict[tuple[str, str], list[float]] = {}
    for record in chosen:
        cells.setdefault((record.condition, record.trained_on), []).append(record.value)
    conditions, trained_on = (list(dict.fromkeys(names)) for names in zip(*cells, strict=True))
    found = [[cells.get((row, column), []) for column in trained_on] for row in conditions]
    values = np.array([[fmean(cell) if cell else np.nan for cell in row] for row in found])
    runs = np.array([[len(cell) for cell in row] for row in found])
    return CrossBlur(conditions, trained_on, values, runs)


def _check_one(records: Sequence[Record], *fields: str) -> None:
    for field in fields:
        if len(found := {str(getattr(record, field)) for record in records}) > 1:
            raise InputError(f"records: {field} is {' and '.join(sorted(found))}; keep one of them")


# ImageNet-C


def corruption_error(
    records: Sequence[Record], family: str, *, denominator: str, legacy: bool
) -> float:
    """Errors under a blur of ImageNet-C over AlexNet's (Hendrycks and Dietterich 2019, section 4).

    Args:
        records: Of one run, with top1 under severities 1 to 5; else InputError.
        family: One of `BLURS_OF_IMAGENET_C`; under gaussian_blur AlexNet's errors are not known.
        denominator: Who measured AlexNet: a key of `ALEXNET_ERRORS`.
        legacy: Whether to take the conditions that keep the faults of the reference, such as
            defocus_blur_legacy-3: only these compare with published numbers.

    Returns:
        Sum of the five errors, divided by AlexNet's; at 1 a network is as bad as AlexNet.
    """
    if denominator not in ALEXNET_ERRORS:
        raise InputError(f"denominator: '{denominator}'; use one of {', '.join(ALEXNET_ERRORS)}")
    if family not in BLURS_OF_IMAGENET_C:
        raise InputError(f"family: '{family}'; use one of {', '.join(BLURS_OF_IMAGENET_C)}")
    wanted = _severities(family, legacy)
    chosen = [r for r in records if r.metric == "top1" and r.condition in wanted]
    _check_one(chosen, *Record._fields[:4], "scale")
    errors = {record.condition: 1 - record.value for record in chosen}
    if missing := ", ".join(condition for condition in wanted if condition not in errors):
        raise InputError(f"records: no top1 under {missing}; test under these too")
    alexnet = ALEXNET_ERRORS[denominator][BLURS_OF_IMAGENET_C.index(family)]
    return fmean(errors.values()) / alexnet


def mean_corruption_error(records: Sequence[Record], *, denominator: str, legacy: bool) -> float:
    """Mean of `corruption_error` over those of `BLURS_OF_IMAGENET_C` that were tested.

    The mCE of the paper is a mean over 15 corruptions: no number to compare this one with.
    Arguments and errors are those of `corruption_error`.
    """
    tested = {record.condition for record in records}
    families = [f for f in BLURS_OF_IMAGENET_C if tested.intersection(_severities(f, legacy))]
    return fmean(
        corruption_error(records, family, denominator=denominator, legacy=legacy)
        for family in families or ["defocus_blur"]  # whose error then names what to test
    )


def _severities(family: str, legacy: bool) -> list[str]:
    return [f"{family}{'_legacy' if legacy else ''}-{severity}" for severity in range(1, 6)]


# Confidence


def expected_calibration_error(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], *, bins: int = 15
) -> float:
    """How far confidence is from accuracy (Guo et al. 2017, arXiv 1706.04599, equation 3).

    Too high on few images: chance alone makes the two differ in every bin.

    Args:
        confidence: Probability of the class that was predicted, in 0..1.
        correct: Whether it was right.
        bins: How many bins of equal width, each with its upper end.

    Returns:
        Mean over the images of |accuracy - confidence| in the bin of each.
    """
    _check_confidence(confidence)
    place = np.digitize(confidence, np.linspace(0, 1, bins + 1)[1:-1], right=True)
    gap = np.bincount(place, correct - confidence.astype(np.float64))
    return float(np.abs(gap).sum() / len(confidence))


def _check_confidence(confidence: np.ndarray) -> None:
    if len(confidence) == 0 or not np.all((confidence >= 0) & (confidence <= 1)):
        raise InputError("confidence: empty or not in 0..1; give the probability of each answer")


def risk_coverage(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Error among the images that are answered, by how many are (Geifman and El-Yaniv 2017).

    A system answers where its confidence reaches a threshold: images that tie are answered
    together, so there is one point for each of the k values of confidence (arXiv 1705.08500).

    Returns:
        Coverage, the share of images that are answered, rising to 1; and risk, the share of those
        that are wrong.
    """
    _check_confidence(confidence)
    _, place = np.unique(-confidence, return_inverse=True)
    answered = np.cumsum(np.bincount(place))
    return answered / len(place), np.cumsum(np.bincount(place, ~correct)) / answered


def area_under_risk_coverage(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"]
) -> float:
    """Mean over the images of the risk with the confidence of each as threshold, in 0..1.

    Without ties it is the area of Geifman et al. 2019 (arXiv 1805.08206); with, the order of the
    images still does not matter, and constant confidence gives the error of the network.
    """
    coverage, risk = risk_coverage(confidence, correct)
    return float(np.diff(coverage, prepend=0) @ risk)


def coverage_at_risk(
    confidence: Float[np.ndarray, " n"], correct: Bool[np.ndarray, " n"], risk: float
) -> float:
    """Largest share of the images that can be answered with an error of at most `risk`.

    The threshold is chosen on these very images; on others its error may be larger.
    """
    coverage, risks = risk_coverage(confidence, correct)
    return float(coverage[risks <= risk].max(initial=0))


def abstention_table(
    images: Mapping[str, np.ndarray], conditions: Sequence[str]
) -> dict[str, np.ndarray]:
    """Calibration, and what abstaining gains, for each condition.

    Args:
        images: Columns `condition`, `confidence` and `top1` of `images.parquet`.
        conditions: Which conditions, in the order of the rows.

    Returns:
        Columns: condition, n, ece with the ends of its interval (percentile bootstrap, 95 %, 200
        resamples, seed 0), aurc, and coverage at 5 % risk.
    """
    if missing := [name for name in ("condition", "confidence", "top1") if name not in images]:
        raise InputError(f"images: no column '{missing[0]}'; test a network on labelled images")
    names = np.asarray(images["condition"])
    rows = []
    for condition in conditions:
        confidence, correct = (images[name][names == condition] for name in ("confidence", "top1"))
        n, generator = len(correct), np.random.default_rng(0)
        if n == 0:
            raise InputError(f"conditions: '{condition}' was not tested; name one that was")
        draws = (generator.integers(n, size=n) for _ in range(200))
        errors = [expected_calibration_error(confidence[draw], correct[draw]) for draw in draws]
        interval = np.quantile(errors, [0.025, 0.975])
        error = expected_calibration_error(confidence, correct)
        area = area_under_risk_coverage(confidence, correct)
        coverage = coverage_at_risk(confidence, correct, 0.05)
        rows.append((condition, n, error, *interval, area, coverage))
    titles = ("condition", "n", "ece", "ece_low", "ece_high", "aurc", "coverage_at_5_percent_risk")
    return {title: np.array([row[i] for row in rows]) for i, title in enumerate(titles)}

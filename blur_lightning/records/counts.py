"""Values of a data set from sums of what was counted in its images, with bootstrap intervals.

Percentile bootstrap: Efron 1979, Ann. Stat. 7, 1-26.
"""

from collections.abc import Callable, Mapping

import numpy as np
from jaxtyping import Float
from numpy.typing import ArrayLike

# Files of a test of segmentations beside its records: shares by condition and class, or width.
CLASSES_TABLE, TRIMAP_TABLE = "class_iou.csv", "trimap.csv"
_CHUNK = 2**20  # resampled images held at once: 8 MiB of indices


def fraction(part: ArrayLike, whole: ArrayLike) -> Float[np.ndarray, "..."]:
    """Divide counts element by element, as right by counted pixels; NaN where `whole` is 0."""
    return np.divide(part, whole, out=np.full(np.shape(whole), np.nan), where=np.greater(whole, 0))


def class_iou(
    intersection: np.ndarray, truth: np.ndarray, predicted: np.ndarray
) -> Float[np.ndarray, "*sums classes"]:
    """IoU of each class from summed counts; NaN: neither in the truth nor predicted."""
    return fraction(intersection, truth + predicted - intersection)


def mean_iou(
    intersection: np.ndarray, truth: np.ndarray, predicted: np.ndarray
) -> Float[np.ndarray, "*sums"]:
    """Mean IoU of the classes that are in the truth or predicted, from summed counts."""
    iou = class_iou(intersection, truth, predicted)
    return fraction(np.nansum(iou, axis=-1), np.sum(~np.isnan(iou), axis=-1))


def pixel_accuracy(intersection: np.ndarray, truth: np.ndarray) -> Float[np.ndarray, "*sums"]:
    """Share of right pixels, from summed counts."""
    return fraction(np.sum(intersection, axis=-1), np.sum(truth, axis=-1))


# Metrics of segmentations: what makes their values, and which columns of images.parquet are summed.
COUNTED: Mapping[str, tuple[Callable[..., np.ndarray], tuple[str, ...]]] = {
    "miou": (mean_iou, ("intersection", "truth", "predicted")),
    "boundary_miou": (
        mean_iou,
        ("boundary_intersection", "boundary_truth", "boundary_predicted"),
    ),
    "boundary_iou": (mean_iou, ("contour_intersection", "contour_truth", "contour_predicted")),
    "pixel_accuracy": (pixel_accuracy, ("intersection", "truth")),
}


def with_interval(
    statistic: Callable[..., np.ndarray],
    *counts: np.ndarray,
    level: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
) -> Float[np.ndarray, "3 ..."]:
    """Compute a value from summed counts, with its percentile bootstrap over images.

    Resamples are those of `robustness.bootstrap_interval`: one seed draws the same images for any
    value and condition, so that their intervals move together.

    Args:
        statistic: From sums of counts (..., k) to values (...) or (..., k): `mean_iou`, `fraction`.
        counts: Its arguments before the sum, (n,) or (n, k), one row an image.
        level: Share of resamples in the interval.
        resamples: How many.
        seed: Of the resamples.

    Returns:
        The value, and the low and high end of its interval. Resamples in which it is NaN, as the
        IoU of a class that none of their images has, are left out.
    """
    n = len(counts[0])
    if n == 0:
        raise ValueError("no images have no value")
    columns = [np.asarray(count, dtype=np.float64) for count in counts]
    generator = np.random.default_rng(seed)
    values = []
    rows = max(1, _CHUNK // n)
    for start in range(0, resamples, rows):
        draws = generator.integers(n, size=(min(rows, resamples - start), n))
        draws += n * np.arange(len(draws))[:, None]
        weights = np.bincount(draws.ravel(), minlength=draws.size).reshape(draws.shape)
        values.append(statistic(*(weights.astype(np.float64) @ column for column in columns)))
    ends = np.apply_along_axis(_quantiles, 0, np.concatenate(values), level)
    return np.stack([statistic(*(column.sum(0, keepdims=True) for column in columns))[0], *ends])


def _quantiles(values: np.ndarray, level: float) -> np.ndarray:
    known = values[~np.isnan(values)]
    if known.size == 0:
        return np.full(2, np.nan)
    return np.quantile(known, [(1 - level) / 2, (1 + level) / 2])

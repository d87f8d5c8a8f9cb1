"""What the pixels of a segmentation tell: counts of each image, and values of all images."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64
from torch import Tensor

from blur_lightning.images import VOID
from blur_lightning.metrics import (
    ClassCounts,
    TrimapCounts,
    boundary_counts,
    class_counts,
    trimap_counts,
)
from blur_lightning.records.counts import (
    CLASSES_TABLE,
    COUNTED,
    TRIMAP_TABLE,
    class_iou,
    fraction,
    with_interval,
)
from blur_lightning.records.robustness import Interval, bootstrap_interval
from blur_lightning.tasks.rows import Columns


def best_classes(logits: Float[Tensor, "b classes h w"]) -> Int64[Tensor, "b h w"]:
    """The class of each pixel; on a CPU five times as fast as argmax."""
    return logits.max(dim=1).indices


def count_pixels(
    logits: Float[Tensor, "b classes h w"],
    truth: Int64[Tensor, "b h w"],
    bands: Int64[Tensor, "b h w"],
    *,
    num_widths: int,
    place: int,
) -> dict[str, Tensor]:
    """Count the pixels of each image of a batch.

    Args:
        logits: Of each pixel.
        truth: True classes, and void.
        bands: `boundaries.trimap` of the truth.
        num_widths: How many widths it has.
        place: Of the width among these within which the counts `boundary_...` are taken.

    Returns:
        Columns (b, classes): intersection, truth and predicted of all pixels, of those near a
        boundary (boundary_...) and of the classes' inner boundaries (contour_...); trimap_right
        and trimap_counted (b, widths); cross_entropy (b,), in nats a pixel.
    """
    prediction, classes = best_classes(logits), logits.shape[1]
    counts: dict[str, ClassCounts | TrimapCounts] = {
        "": class_counts(prediction, truth, num_classes=classes),
        "boundary_": class_counts(prediction, truth, num_classes=classes, region=bands <= place),
        "contour_": boundary_counts(prediction, truth, num_classes=classes),
        "trimap_": trimap_counts(prediction, truth, bands, num_widths=num_widths),
    }
    # One at a time: buffers for all of a batch cost a CPU more than the sums.
    losses = [
        F.cross_entropy(own[None].float(), labels[None], ignore_index=VOID)
        for own, labels in zip(logits, truth, strict=True)
    ]
    return {
        prefix + name: column
        for prefix, of_image in counts.items()
        for name, column in of_image._asdict().items()
    } | {"cross_entropy": torch.stack(losses)}


def values_of(rows: Columns) -> dict[str, Interval]:
    """Values of all images under one condition, from the sums of their counts."""
    values = {
        metric: with_interval(statistic, *(rows[name] for name in names))
        for metric, (statistic, names) in COUNTED.items()
    }
    # Without a boundary in any image there is nothing near one.
    found: dict[str, Interval] = {
        name: (float(value), float(low), float(high))
        for name, (value, low, high) in values.items()
        if not np.isnan(value)
    }
    losses = rows["cross_entropy"][np.isfinite(rows["cross_entropy"])]
    if losses.size:
        found["cross_entropy"] = (float(losses.mean()), *bootstrap_interval(losses))
    return found


def tables_of(
    rows: Columns, classes: Sequence[str], widths: Sequence[int]
) -> Mapping[str, Columns]:
    """Lines for the IoU of each class, and the accuracy within each width, under one condition."""
    counts = [rows[name] for name in ClassCounts._fields]
    trimaps = (rows["trimap_right"], rows["trimap_counted"])
    tables = {
        CLASSES_TABLE: ("class", classes, with_interval(class_iou, *counts)),
        TRIMAP_TABLE: ("width", widths, with_interval(fraction, *trimaps)),
    }
    return {
        name: {
            "condition": np.full(len(keys), rows["condition"][0]),
            title: np.array(keys),
            **dict(zip(("value", "low", "high"), values, strict=True)),
        }
        for name, (title, keys, values) in tables.items()
    }

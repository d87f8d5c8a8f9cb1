"""Metrics of semantic segmentation: what of each class is found, and how exactly its boundary.

Counts are taken for each image, on the device of its label maps. Values of a data set come from the
sums of its counts, as in PASCAL VOC (Everingham et al. 2015, Int. J. Comput. Vis. 111, 98-136).

Label maps (b, h, w) hold the classes 0..num_classes - 1; the truth also `ignore_index`, void, whose
pixels never count, whatever is predicted there. Values are fractions in 0..1; NaN where nothing was
counted.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor
from torchmetrics import Metric
from typing_extensions import override

from blur_lightning.boundaries import Boundary, inner_boundary, trimap
from blur_lightning.errors import InputError
from blur_lightning.images import VOID
from blur_lightning.records.counts import fraction, mean_iou


class ClassCounts(NamedTuple):
    """Pixels of each image by class."""

    intersection: Int64[Tensor, "b classes"]  # of the class, and predicted as such
    truth: Int64[Tensor, "b classes"]
    predicted: Int64[Tensor, "b classes"]


class TrimapCounts(NamedTuple):
    """Pixels of each image within each width of a boundary."""

    right: Int64[Tensor, "b widths"]
    counted: Int64[Tensor, "b widths"]


def class_counts(
    prediction: Int64[Tensor, "b h w"],
    truth: Int64[Tensor, "b h w"],
    *,
    num_classes: int,
    region: Bool[Tensor, "b h w"] | None = None,
    ignore_index: int = VOID,
) -> ClassCounts:
    """Count the pixels of each class: what IoU and pixel accuracy are made of.

    Args:
        prediction: Predicted classes.
        truth: True classes, and void.
        num_classes: 1 or more.
        region: Where to count; None counts everywhere. `trimap(truth, widths=[4]) == 0` are the
            pixels within 4 px of a boundary (Vasiljevic et al. 2016, arXiv 1611.05760, section 5).
        ignore_index: Label of void.
    """
    _check(prediction, truth, num_classes, ignore_index)
    counted = truth != ignore_index
    if region is not None:
        counted = counted & region
    return _counts_within(prediction, counted, truth, counted, num_classes)


def boundary_counts(
    prediction: Int64[Tensor, "b h w"],
    truth: Int64[Tensor, "b h w"],
    *,
    num_classes: int,
    width: int | None = None,
    ignore_index: int = VOID,
) -> ClassCounts:
    """Count the pixels in the inner boundary of each class: what Boundary IoU is made of.

    Void cuts the prediction as it cuts the truth: what is predicted there changes nothing, and a
    prediction that is right elsewhere has the truth's boundary. (The panoptic evaluation of Cheng
    et al. 2021 does not count void either, but lets the prediction's boundary run through it.)

    Args:
        prediction: Predicted classes.
        truth: True classes, and void.
        num_classes: 1 or more.
        width: Of the boundary in pixels, 1 or more; None is 2 % of the image's diagonal, rounded,
            as Cheng et al. have it.
        ignore_index: Label of void.
    """
    _check(prediction, truth, num_classes, ignore_index)
    if width is None:
        width = max(1, round(0.02 * math.hypot(*truth.shape[1:])))
    seen = torch.where(truth == ignore_index, ignore_index, prediction)
    in_prediction, in_truth = (
        inner_boundary(labels, width=width, ignore_index=ignore_index) for labels in (seen, truth)
    )
    return _counts_within(prediction, in_prediction, truth, in_truth, num_classes)


def trimap_counts(
    prediction: Int64[Tensor, "b h w"],
    truth: Int64[Tensor, "b h w"],
    bands: Int64[Tensor, "b h w"],
    *,
    num_widths: int,
) -> TrimapCounts:
    """Count the pixels, and the right ones, within each width of a boundary.

    Args:
        prediction: Predicted classes.
        truth: True classes, and void.
        bands: `trimap` of the truth.
        num_widths: How many widths it has.
    """
    _check_shapes(prediction, truth)
    pixels = _joint_counts(bands, prediction == truth, num_widths + 1, 2)[:, :-1].cumsum(1)
    return TrimapCounts(right=pixels[..., 1], counted=pixels.sum(-1))


def _check(prediction: Tensor, truth: Tensor, num_classes: int, ignore_index: int) -> None:
    _check_shapes(prediction, truth)
    labelled = torch.where(truth == ignore_index, 0, truth)
    for name, labels in (("prediction", prediction), ("truth", labelled)):
        # A label too large would be counted as one of the next image.
        for label in torch.stack(labels.aminmax()).tolist() if labels.numel() else []:
            if not 0 <= label < num_classes:
                raise InputError(
                    f"{name}: has the label {label}, but num_classes is {num_classes}; "
                    f"raise it, or make the label void ({ignore_index})"
                )


def _check_shapes(prediction: Tensor, truth: Tensor) -> None:
    if prediction.shape != truth.shape:
        shapes = f"{tuple(prediction.shape)} for a truth of {tuple(truth.shape)}"
        raise InputError(f"prediction: {shapes}; resize the logits to the truth before argmax")


def _counts_within(
    prediction: Tensor, in_prediction: Tensor, truth: Tensor, in_truth: Tensor, num_classes: int
) -> ClassCounts:
    """Compare two label maps, each of which counts in a region of its own."""
    rows = torch.where(in_truth, truth.int(), num_classes)
    columns = torch.where(in_prediction, prediction.int(), num_classes)
    confusion = _joint_counts(rows, columns, num_classes + 1, num_classes + 1)
    counts = confusion.diagonal(dim1=1, dim2=2), confusion.sum(2), confusion.sum(1)
    return ClassCounts(*(count[:, :num_classes] for count in counts))


def _joint_counts(first: Tensor, second: Tensor, rows: int, columns: int) -> Tensor:
    """How many pixels of each image have each pair of values, (b, rows, columns)."""
    image = torch.arange(len(first), device=first.device, dtype=first.dtype)[:, None, None]
    places = (image * rows + first) * columns + second
    counts = torch.bincount(places.flatten(), minlength=len(first) * rows * columns)
    return counts.view(len(first), rows, columns)


class _Counted(Metric, ABC):
    """Sums of counts over batches and processes; `statistic` makes the value of them."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: type[ClassCounts] | type[TrimapCounts] = ClassCounts
    statistic: Callable[..., np.ndarray] = staticmethod(mean_iou)

    def __init__(self, size: int, ignore_index: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.size, self.ignore_index = size, ignore_index
        for name in self.counts._fields:
            self.add_state(name, torch.zeros(size, dtype=torch.long), dist_reduce_fx="sum")

    @abstractmethod
    def count(self, prediction: Tensor, truth: Tensor) -> ClassCounts | TrimapCounts:
        """Count in each image of a batch."""

    @override
    def update(self, prediction: Tensor, truth: Tensor) -> None:
        for name, count in self.count(prediction, truth)._asdict().items():
            setattr(self, name, getattr(self, name) + count.sum(0))

    @override
    def compute(self) -> Tensor:
        sums = (getattr(self, name).cpu().numpy() for name in self.counts._fields)
        return torch.tensor(self.statistic(*sums), dtype=torch.float32, device=self.device)


class MeanIoU(_Counted):
    """Mean IoU of the classes that are in the truth or predicted: everywhere, or at boundaries.

    Args:
        num_classes: 1 or more.
        width: Count what is within so many pixels of a boundary, 1 or more; None counts all.
        boundary: What a boundary is: label_change or void_band, see `boundaries.trimap`.
        ignore_index: Label of void, in the truth.
        kwargs: As torchmetrics.Metric.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        width: int | None = None,
        boundary: Boundary = "label_change",
        ignore_index: int = VOID,
        **kwargs: Any,
    ) -> None:
        super().__init__(num_classes, ignore_index, **kwargs)
        self.width, self.boundary = width, boundary

    @override
    def count(self, prediction: Tensor, truth: Tensor) -> ClassCounts:
        void, near = self.ignore_index, None
        if self.width is not None:
            bands = trimap(truth, widths=[self.width], boundary=self.boundary, ignore_index=void)
            near = bands == 0
        return class_counts(
            prediction, truth, num_classes=self.size, region=near, ignore_index=void
        )


class BoundaryIoU(_Counted):
    """Mean Boundary IoU of the classes that are in the truth or predicted (Cheng et al. 2021).

    Args:
        num_classes: 1 or more.
        width: Of the boundaries in pixels, 1 or more; None is 2 % of each image's diagonal.
        ignore_index: Label of void, in the truth.
        kwargs: As torchmetrics.Metric.
    """

    def __init__(
        self, num_classes: int, *, width: int | None = None, ignore_index: int = VOID, **kwargs: Any
    ) -> None:
        super().__init__(num_classes, ignore_index, **kwargs)
        self.width = width

    @override
    def count(self, prediction: Tensor, truth: Tensor) -> ClassCounts:
        void = self.ignore_index
        return boundary_counts(
            prediction, truth, num_classes=self.size, width=self.width, ignore_index=void
        )


class TrimapAccuracy(_Counted):
    """Share of right pixels within each width of a boundary (Kohli et al. 2009); one value a width.

    Args:
        widths: In pixels, each larger than the one before and at least 1.
        boundary: What a boundary is: label_change or void_band, see `boundaries.trimap`.
        ignore_index: Label of void, in the truth.
        kwargs: As torchmetrics.Metric.
    """

    counts = TrimapCounts
    statistic = staticmethod(fraction)

    def __init__(
        self,
        widths: Sequence[int] = (1, 2, 4, 8, 16),
        *,
        boundary: Boundary = "label_change",
        ignore_index: int = VOID,
        **kwargs: Any,
    ) -> None:
        super().__init__(len(widths), ignore_index, **kwargs)
        self.widths, self.boundary = widths, boundary

    @override
    def count(self, prediction: Tensor, truth: Tensor) -> TrimapCounts:
        bands = trimap(
            truth, widths=self.widths, boundary=self.boundary, ignore_index=self.ignore_index
        )
        return trimap_counts(prediction, truth, bands, num_widths=self.size)

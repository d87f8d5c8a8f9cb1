"""Boundaries in label maps: the bands around them, and the inner boundary of each class.

Label maps (b, h, w) hold classes from 0 on and void, `ignore_index`. Distances are those of pixels'
centres, in pixels. All is exact, and runs on the device of the label maps.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Int64
from torch import Tensor

from blur_lightning.errors import InputError
from blur_lightning.images import VOID

Boundary = Literal["label_change", "void_band"]


def trimap(
    truth: Int64[Tensor, "b h w"],
    *,
    widths: Sequence[int],
    boundary: Boundary = "label_change",
    ignore_index: int = VOID,
) -> Int64[Tensor, "b h w"]:
    """Which bands around the boundaries of classes each pixel lies in (Kohli et al. 2009).

    It depends on the truth alone, so one trimap serves all predictions of an image. Kohli, Ladický
    and Torr: Int. J. Comput. Vis. 82, 302-324.

    Args:
        truth: True classes, and void.
        widths: Of the bands in pixels, each larger than the one before and at least 1. A band holds
            the pixels whose distance to the nearest boundary pixel is at most its width.
        boundary: What the boundary pixels are. `label_change`: those with a direct neighbour (left,
            right, above, below) of another label, once void has taken the label of the nearest
            pixel that has one, the smallest label of several as near. So the outlines that VOC
            leaves void have their boundary in the middle. `void_band`: void itself, as Chen et al.
            2018 (arXiv 1606.00915) have it, and pixels with a direct neighbour of another class.
        ignore_index: Label of void.

    Returns:
        Place in `widths` of the narrowest band of each pixel; len(widths) for pixels in none, and
        for void.
    """
    _check_widths(widths)
    if boundary not in ("label_change", "void_band"):
        raise InputError(f"boundary: '{boundary}' is neither label_change nor void_band")
    void = truth == ignore_index
    if boundary == "label_change":
        # Void farther than that from all classes is farther than the widest band from what counts.
        edges = _label_changes(_filled(truth, widths[-1] + 1, ignore_index), ignore_index)
    else:
        edges = void | _label_changes(truth, ignore_index)
    beyond = (widths[-1] + 1) ** 2
    distance = _lowest(torch.where(edges, 0, beyond).int(), widths[-1])
    squares = torch.tensor([width**2 for width in widths], device=truth.device).int()
    return torch.bucketize(distance.masked_fill(void, beyond), squares)


def inner_boundary(
    labels: Int64[Tensor, "b h w"], *, width: int, ignore_index: int = VOID
) -> Bool[Tensor, "b h w"]:
    """Pixels of each class that are near its boundary (Cheng et al. 2021, arXiv 2103.16562).

    These are the pixels with another label, or the outside of the image, in the square of side
    2 width + 1 around them: what `width` erosions by 3x3 take from the mask of their class.

    Args:
        labels: Classes, and void, which is another label and has no boundary itself.
        width: Of the boundary in pixels, 1 or more.
        ignore_index: Label of void.
    """
    _check_widths([width])
    # 16 bits tell labels apart up to 65,535 classes, and take a quarter of the time of 64.
    padded = F.pad(labels.short(), (width,) * 4, value=ignore_index)
    highest, lowest = (_slide(padded, 2 * width + 1, f) for f in (torch.maximum, torch.minimum))
    return (highest != lowest) & (labels != ignore_index)


def _check_widths(widths: Sequence[int]) -> None:
    if not widths or widths[0] < 1 or any(b <= a for a, b in pairwise(widths)):
        raise InputError(f"widths: {list(widths)} are not whole pixels from 1 on that increase")


def _label_changes(labels: Tensor, ignore_index: int) -> Tensor:
    """Pixels with a direct neighbour of another class, void not being one."""
    changes, void = torch.zeros_like(labels, dtype=torch.bool), labels == ignore_index
    for axis in (-2, -1):
        rest = labels.shape[axis] - 1
        before, after = (labels.narrow(axis, start, rest) for start in (0, 1))
        either_void = void.narrow(axis, 0, rest) | void.narrow(axis, 1, rest)
        differs = (before != after) & ~either_void
        for start in (0, 1):
            changes.narrow(axis, start, rest).logical_or_(differs)
    return changes


def _filled(truth: Tensor, limit: int, ignore_index: int) -> Tensor:
    """Give void up to `limit` px from a class the nearest one; smallest label of several."""
    # One number is distance and label: the lowest one is nearest, and then smallest.
    unit, beyond = 2**32, (limit + 1) ** 2
    void = truth == ignore_index
    nearest = _lowest(torch.where(void, beyond * unit, truth.long()), limit, unit)
    return torch.where(nearest < beyond * unit, nearest % unit, ignore_index)


def _lowest(values: Tensor, limit: int, unit: int = 1) -> Tensor:
    """Lowest sum of a pixel's value and its squared distance times `unit`, up to `limit` px away.

    Squared distances are sums over the axes, which are so searched one after the other
    (Felzenszwalb and Huttenlocher 2012, Theory of Computing 8, 415-428, section 4).
    """
    for axis in (-2, -1):
        lowest = values.clone()
        for step in range(1, min(limit + 1, values.shape[axis])):
            rest, cost = values.shape[axis] - step, unit * step**2
            for here, there in ((0, step), (step, 0)):
                part = lowest.narrow(axis, here, rest)
                torch.minimum(part, values.narrow(axis, there, rest) + cost, out=part)
        values = lowest
    return values


def _slide(values: Tensor, side: int, extreme: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """Extreme of each square of a side, by windows that double: no cost for large squares."""
    for axis in (-2, -1):
        reach = 1
        while reach < side:
            step = min(reach, side - reach)
            rest = values.shape[axis] - step
            values = extreme(values.narrow(axis, 0, rest), values.narrow(axis, step, rest))
            reach += step
    return values

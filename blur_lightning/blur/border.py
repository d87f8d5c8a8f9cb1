"""What lies beyond the edge of an image, and where images with their border around are kept."""

from math import prod
from typing import Literal

import torch
from torch import Tensor

# Mirrored without repeating the last row (SciPy's "mirror"), the last row repeated, or black.
Border = Literal["reflect", "replicate", "constant"]

# Bytes; vectors of 512 bits are read fastest from such places.
_ALIGNMENT = 64


class Workspace:
    """Memory that the images of a batch use one after another: fresh pages cost more than sums."""

    def __init__(self) -> None:
        self._memory, self._used = torch.empty(0, dtype=torch.uint8), 0
        self._views: dict[tuple[int, tuple[int, ...], torch.dtype], Tensor] = {}

    def clear(self) -> None:
        """Give back all that was taken: it will be overwritten."""
        self._used = 0

    def take(self, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return uninitialised memory."""
        start, size = self._used, prod(shape) * dtype.itemsize
        self._used += -(-size // _ALIGNMENT) * _ALIGNMENT
        if self._used > len(self._memory):  # tensors that were taken keep the old one
            self._memory, self._views = torch.empty(2 * self._used, dtype=torch.uint8), {}
        key = start, shape, dtype  # images of a batch take the same ones
        if key not in self._views:
            self._views[key] = self._memory[start : start + size].view(dtype).view(shape)
        return self._views[key]


def inner_size(image: Tensor, margin: int) -> tuple[int, int]:
    """Rows and columns of (..., h, w) without a margin at each edge."""
    return image.shape[-2] - 2 * margin, image.shape[-1] - 2 * margin


def pad(
    image: Tensor,
    rows: int,
    columns: int,
    border: Border,
    dtype: torch.dtype,
    workspace: Workspace,
    *,
    margin: int = 0,
    more: tuple[int, int] = (0, 0),
) -> Tensor:
    """Copy (c, h, w) with rows and columns around it.

    Args:
        image: What is copied, but for its margin.
        rows: How many rows above and below.
        columns: How many columns on the left and on the right.
        border: What they hold where the margin ends.
        dtype: Type of the copy.
        workspace: Where it lies.
        margin: Pixels at each edge of the image that can only be part of what is around.
        more: Rows below all this and columns on the right, which are 0.
    """
    c, h, w = image.shape[0], *inner_size(image, margin)
    bottom, right = h + 2 * rows, w + 2 * columns
    padded = whole = workspace.take((c, bottom + more[0], right + more[1]), dtype)
    if any(more):
        whole[:, bottom:].zero_()
        whole[:, :, right:].zero_()
        padded = whole[:, :bottom, :right]
    # What of the margin is copied, and what is left for the border.
    above, left = min(rows, margin), min(columns, margin)
    rows, columns, h, w = rows - above, columns - left, h + 2 * above, w + 2 * left
    top, first = margin - above, margin - left
    part = image[:, top : top + h, first : first + w]
    if not rows and not columns:  # each view takes microseconds
        padded.copy_(part)
        return whole
    padded[:, rows : rows + h, columns : columns + w] = part
    for axis, reach, length in ((1, rows, h), (2, columns, w)):
        if reach == 0:
            continue
        before = padded.narrow(axis, 0, reach)
        after = padded.narrow(axis, reach + length, reach)
        if border == "reflect":
            before.copy_(padded.narrow(axis, reach + 1, reach).flip(axis))
            after.copy_(padded.narrow(axis, length - 1, reach).flip(axis))
        elif border == "replicate":
            before.copy_(padded.narrow(axis, reach, 1).expand_as(before))
            after.copy_(padded.narrow(axis, reach + length - 1, 1).expand_as(after))
        else:
            before.zero_()
            after.zero_()
    return whole


def to_8_bits(values: Tensor) -> Tensor:
    """Round float values of 0..255 half to even, which overwrites them."""
    # By way of 16 bits, which torch does three times faster.
    return values.round_().to(torch.int16).to(torch.uint8)

"""What lies beyond the edge of an image, and where images with their border around are kept."""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

# Mirrored without repeating the last row (SciPy's "mirror"), the last row repeated, or black.
Border = Literal["reflect", "replicate", "constant"]


class Workspace:
    """Memory that the images of a batch use one after another: fresh pages cost more than sums."""

    def __init__(self) -> None:
        self._buffers: dict[tuple[str, torch.dtype], Tensor] = {}

    def take(self, name: str, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
        """Return uninitialised memory; what was taken by the same name before is overwritten."""
        count = int(np.prod(shape))
        buffer = self._buffers.get((name, dtype))
        if buffer is None or len(buffer) < count:
            buffer = self._buffers[name, dtype] = torch.empty(count, dtype=dtype)
        return buffer[:count].view(shape)


def pad(
    image: Tensor,
    rows: int,
    columns: int,
    border: Border,
    dtype: torch.dtype,
    workspace: Workspace,
    *,
    rows_first: bool = False,
) -> Tensor:
    """Copy (c, h, w) with its border around it; `rows_first` puts channels inside rows."""
    c, h, w = image.shape
    shape = (c, h + 2 * rows, w + 2 * columns)
    if rows_first:
        memory = workspace.take("padded", (shape[1], c, shape[2]), dtype)
        padded = memory.transpose(0, 1)
    else:
        padded = workspace.take("padded", shape, dtype)
    padded[:, rows : rows + h, columns : columns + w] = image
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
    return padded

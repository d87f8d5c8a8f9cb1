"""Kernels of equal taps (disks, boxes, lines) as sums of runs, in whole numbers."""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from blur_lightning.blur.border import Border, Workspace, inner_size, pad

# Bytes that are worked on at once: fewer cost more in calls of NumPy than they save in its loops.
_CACHE = 2**21


@dataclass(frozen=True)
class Runs:
    """A kernel of equal taps as runs along one axis: 8-bit values are summed in whole numbers.

    Attributes:
        count: Number of taps.
        half_width: Reach in (rows, columns).
        vertical: Whether the runs are columns.
        runs: (row, column, length) of each run of the kernel turned by half a turn.
        chain: (length, first, second) in order: a sum over `length` pixels is one over `first`
            plus one over `second`, both made before.
    """

    count: int
    half_width: tuple[int, int]
    vertical: bool
    runs: tuple[tuple[int, int, int], ...]
    chain: tuple[tuple[int, int, int], ...]

    def __call__(
        self, image: Tensor, border: Border, workspace: Workspace, margin: int = 0
    ) -> Tensor:
        """Blur (c, h, w) but for a margin, in memory of the workspace; 8 bits stay 8 bits."""
        h, w = inner_size(image, margin)
        rows, columns = self.half_width
        if image.is_floating_point():
            dtype = out_type = torch.promote_types(image.dtype, torch.float32)
        else:
            # The widest sum, and half of the taps to round with, must fit 16 bits without a sign.
            dtype = torch.int16 if self.count * 255 + self.count // 2 < 2**16 else torch.int32
            out_type = torch.uint8
        padded = pad(image, rows, columns, border, dtype, workspace, margin=margin)
        blurred = workspace.take(tuple(padded.shape), out_type)
        # In flat memory a shift by (y, x) is one by y * width + x, and each sum runs over a single
        # stretch; what is summed across the ends of rows is cut off with the padding.
        width = padded.shape[2]
        reach = 2 * rows * width + 2 * columns
        size = max(reach, _CACHE // ((len(self.chain) + 4) * dtype.itemsize))
        memory = workspace.take((len(self.chain) + 2, size + reach), dtype).numpy()
        values, mean = padded.view(-1).numpy(), blurred.view(-1).numpy()
        if out_type == torch.uint8:
            memory, values = (array.view(f"u{array.itemsize}") for array in (memory, values))
        with np.errstate(all="ignore"):  # float images may hold infinity, as on every other path
            for start in range(0, len(values) - reach, size):
                total = self._sum(values[start : start + size + reach], width, memory[1:])
                self._divide(total, memory[0, : len(total)], mean[start : start + len(total)])
        return blurred[:, :h, :w]

    def _sum(self, values: NDArray, width: int, memory: NDArray) -> NDArray:
        """Sum what each pixel of a stretch draws on."""
        step = width if self.vertical else 1
        sums = {1: values}
        for buffer, (length, first, second) in zip(memory[1:], self.chain, strict=True):
            valid = len(values) - (length - 1) * step
            parts = sums[first][:valid], sums[second][first * step : first * step + valid]
            sums[length] = np.add(*parts, out=buffer[:valid])
        count = len(values) - 2 * self.half_width[0] * width - 2 * self.half_width[1]
        shifted = [sums[n][y * width + x : y * width + x + count] for y, x, n in self.runs]
        total = shifted[0]
        for run in shifted[1:]:
            total = np.add(total, run, out=memory[0, :count])
        return total

    def _divide(self, total: NDArray, memory: NDArray, mean: NDArray) -> None:
        """Divide by the number of taps; of whole numbers a tie goes to the even one."""
        if mean.dtype != np.uint8:
            np.divide(total, self.count, out=mean)
            return
        half = (self.count - 1) // 2
        if self.count % 2 == 0:  # others have no ties
            np.floor_divide(total, self.count, out=memory)
            memory &= 1  # less than half is added where rounding down gives an even value
            memory += half
            memory += total
        else:
            np.add(total, half, out=memory)
        memory //= self.count
        np.copyto(mean, memory, casting="unsafe")


def plan_runs(taken: NDArray, vertical: bool) -> Runs | None:
    """Plan the sums for a mask of taps; None if a line of it is broken."""
    lines = taken.T if vertical else taken
    runs = []
    for line, places in enumerate(lines):
        (tapped,) = places.nonzero()
        if len(tapped) == 0:
            continue
        first, length = int(tapped[0]), len(tapped)
        if tapped[-1] - first + 1 != length:
            return None
        runs.append((first, line, length) if vertical else (line, first, length))
    chain: dict[int, tuple[int, int]] = {}
    for length in sorted({length for *_, length in runs}):
        _extend(chain, length)
    half_width = (taken.shape[0] // 2, taken.shape[1] // 2)
    steps = tuple((length, *parts) for length, parts in chain.items())
    return Runs(int(taken.sum()), half_width, vertical, tuple(runs), steps)


def _extend(chain: dict[int, tuple[int, int]], length: int) -> None:
    """Add the sums that a sum over `length` pixels needs: about log2(length), fewer if known."""
    if length == 1 or length in chain:
        return
    first = max((known for known in chain if known < length), default=1)
    if 2 * first < length:
        first = (length + 1) // 2
    for part in (first, length - first):
        _extend(chain, part)
    chain[length] = (first, length - first)

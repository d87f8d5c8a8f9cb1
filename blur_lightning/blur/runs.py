"""Kernels of equal taps (disks, boxes, lines) as sums of runs, in whole numbers."""

from dataclasses import dataclass

import torch
from numpy.typing import NDArray
from torch import Tensor

from blur_lightning.blur.border import Border, Workspace, inner_size, pad


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
        """Blur (c, h, w) but for a margin; the result is float and may lie in the workspace."""
        h, w = inner_size(image, margin)
        rows, columns = self.half_width
        if image.is_floating_point():
            dtype = float_type = torch.promote_types(image.dtype, torch.float32)
        else:
            # 16 bits may wrap around: they are read without a sign in the end.
            dtype = torch.int16 if self.count * 255 < 2**16 else torch.int32
            float_type = torch.float32
        padded = pad(image, rows, columns, border, dtype, workspace, margin=margin)
        # In flat memory a shift by (y, x) is one by y * width + x, and each sum runs over a single
        # stretch of it; what is summed across the ends of rows is cut off with the padding.
        width = padded.shape[2]
        step = width if self.vertical else 1
        sums = {1: padded.view(-1)}
        for length, first, second in self.chain:
            valid = padded.numel() - (length - 1) * step
            sums[length] = torch.add(
                sums[first][:valid],
                sums[second][first * step : first * step + valid],
                out=workspace.take((valid,), dtype),
            )
        valid = padded.numel() - 2 * rows * width - 2 * columns
        shifted = [sums[n][y * width + x : y * width + x + valid] for y, x, n in self.runs]
        total, memory = shifted[0], workspace.take((valid,), dtype)
        for run in shifted[1:]:
            total = torch.add(total, run, out=memory)
        mean = workspace.take(tuple(padded.shape), float_type)
        flat = mean.view(-1)[:valid]
        flat.copy_(total.view(torch.uint16) if dtype == torch.int16 else total)
        flat.div_(self.count)  # a quotient is rounded exactly, so a tie stays a tie
        return mean[:, :h, :w]


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

"""The fastest exact way on a CPU to blur one image, by what its kernel is.

    kernel                                   path                  images a second
    equal taps in unbroken rows or columns   sums of runs          D2 1990, D8 790, H8 2330
    a column times a row                     convolved lines       G1 1060, G2 1090, G4 720, G8 520
    few taps                                 shift and add         41 taps on a line 450
    many taps, not too wide                  convolved strips      shake 390, 17x17 270, 25x25 210
    others                                   Fourier transform     120-160

Measured on one core (AVX-512) of a shared machine, one thread, uint8 images of 3x384x384 with
border and rounding, the best of 9 rounds; `benchmarks/blur.py` repeats it. Slower were: shift and
add for Gaussians, products of their band matrices (half as fast), sums of a whole image at once
(D2 1570, D8 700), and a grouped convolution of several images at once, in six times the memory.
A Fourier transform in float32 takes half the time (340-420), but its rounding depends on all
pixels of an image: so a window cut out of it would not be blurred to the same 8-bit values. In
float64 it is, save at exact ties.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from blur_lightning.blur.border import Border, Workspace, inner_size, pad, to_8_bits
from blur_lightning.blur.runs import Runs, plan_runs
from blur_lightning.blur.separable import Separable

# Channels that fill the vectors of a convolution.
_CHANNELS = 16
# Milliseconds an image of 3x384x384, for the choice among what fits any kernel.
_SHIFT_COST, _FOURIER_COST = 0.045, 7.0


def _strips_cost(taps: int) -> float:
    return 0.7 + 0.0065 * taps


@dataclass(frozen=True)
class Shifts:
    """A kernel of few taps: the image is shifted to each, weighted and added.

    Attributes:
        half_width: Reach in (rows, columns).
        taps: (row, column, value) of each tap of the kernel turned by half a turn.
    """

    half_width: tuple[int, int]
    taps: tuple[tuple[int, int, float], ...]

    def __call__(
        self, image: Tensor, border: Border, workspace: Workspace, margin: int = 0
    ) -> Tensor:
        """Blur (c, h, w) but for a margin; the result is float and lies in the workspace."""
        h, w = inner_size(image, margin)
        rows, columns = self.half_width
        dtype = torch.promote_types(image.dtype, torch.float32)
        padded = pad(image, rows, columns, border, dtype, workspace, margin=margin)
        width = padded.shape[2]  # flat memory, as in `Runs`
        valid = padded.numel() - 2 * rows * width - 2 * columns
        blurred = workspace.take(tuple(padded.shape), dtype)
        total = blurred.view(-1)[:valid].zero_()
        for y, x, value in self.taps:
            start = y * width + x
            total.add_(padded.view(-1)[start : start + valid], alpha=value)
        return blurred[:, :h, :w]


@dataclass(frozen=True, eq=False)
class Strips:
    """A kernel of many taps: convolution in torch.

    oneDNN convolves 16 channels side by side in a vector, fastest where they lie side by side in
    memory too (torch's channels_last). So an image is cut into strips of rows, which become
    channels, and NumPy transposes them, which it does in half the time of torch.

    Attributes:
        half_width: Reach in (rows, columns).
        first: The (row, column) that the taps begin at, in a kernel of that reach.
        taps: (rows, columns) for all channels, or (c, rows, columns); turned by half a turn.
    """

    half_width: tuple[int, int]
    first: tuple[int, int]
    taps: Tensor

    def __call__(
        self, image: Tensor, border: Border, workspace: Workspace, margin: int = 0
    ) -> Tensor:
        """Blur (c, h, w) but for a margin; 8 bits stay 8 bits."""
        c, h, w = image.shape[0], *inner_size(image, margin)
        (y, x), (rows, columns) = self.first, self.taps.shape[-2:]
        dtype = torch.promote_types(image.dtype, torch.float32)
        count = min(max(1, _CHANNELS // c), h)
        height = -(-h // count)
        # Rows below the image fill the last strip; what is made of them is cut off.
        more = (count * height - h, 0)
        stored = dtype if image.is_floating_point() else image.dtype
        padded = pad(image, *self.half_width, border, stored, workspace, margin=margin, more=more)
        used = padded[:, y : y + count * height + rows - 1, x : x + w + columns - 1]
        strips = used.unfold(1, height + rows - 1, height).transpose(2, 3)
        # Channels without a strip are 0: a vector that is not full takes longer than a full one.
        channels = -(-c * count // _CHANNELS) * _CHANNELS
        planes = workspace.take((channels, *strips.shape[2:]), stored)
        planes[: c * count].view(strips.shape).copy_(strips)
        planes[c * count :].zero_()
        pixels = torch.from_numpy(np.ascontiguousarray(planes.permute(1, 2, 0).numpy())).to(dtype)
        weights = self.taps.new_zeros(channels, 1, rows, columns, dtype=dtype)
        weights[: c * count].view(c, count, rows, columns)[:] = self.taps.view(-1, 1, rows, columns)
        convolved = F.conv2d(pixels[None].permute(0, 3, 1, 2), weights, groups=channels)
        if not image.is_floating_point():
            convolved = to_8_bits(convolved)
        planar = np.ascontiguousarray(convolved[0, : c * count].numpy())
        return torch.from_numpy(planar).view(c, count * height, w)[:, :h]


@dataclass(frozen=True, eq=False)
class Fourier:
    """A kernel of many taps far apart: the product of two Fourier transforms.

    Attributes:
        taps: (rows, columns) for all channels, or (c, rows, columns).
    """

    taps: Tensor

    def __call__(
        self, image: Tensor, border: Border, workspace: Workspace, margin: int = 0
    ) -> Tensor:
        """Blur (c, h, w) but for a margin; the result is float."""
        h, w = inner_size(image, margin)
        rows, columns = self.taps.shape[-2] // 2, self.taps.shape[-1] // 2
        padded = pad(image, rows, columns, border, torch.float64, workspace, margin=margin)
        size = [_fast_length(side) for side in padded.shape[1:]]
        spectrum = torch.fft.rfft2(padded, s=size)
        spectrum *= torch.fft.rfft2(self.taps.double(), s=size)
        blurred = torch.fft.irfft2(spectrum, s=size)
        return blurred[:, 2 * rows : 2 * rows + h, 2 * columns : 2 * columns + w]


Path = Runs | Separable | Shifts | Strips | Fourier


def path_of(factors: Sequence[Tensor]) -> Path:
    """Choose the path for the kernel of one image.

    Args:
        factors: As in `KernelGroup.factors`, without the first axis.
    """
    if factors[0].ndim == 3:  # each channel has a kernel of its own
        kernel = factors[0].detach()
        if _strips_cost(kernel[0].numel()) < _FOURIER_COST:
            # conv2d correlates; turning a kernel by half a turn makes it a convolution.
            return Strips((kernel.shape[1] // 2, kernel.shape[2] // 2), (0, 0), kernel.flip(-2, -1))
        return Fourier(kernel)
    arrays = [factor.detach().numpy() for factor in factors]
    shapes = tuple(array.shape for array in arrays)
    return _path(tuple(array.tobytes() for array in arrays), shapes, arrays[0].dtype.str)


# As many as the bank of camera shake that tests draw from, and some more.
@lru_cache(maxsize=128)
def _path(taps: tuple[bytes, ...], shapes: tuple[tuple[int, ...], ...], dtype: str) -> Path:
    factors = [
        np.frombuffer(data, dtype).reshape(shape) for data, shape in zip(taps, shapes, strict=True)
    ]
    if len(factors) == 2:
        return Separable(_taps(factors[0][:, 0]), _taps(factors[1][0]))
    kernel = _trimmed(factors[0])
    if kernel.min(initial=np.inf, where=kernel > 0) == kernel.max():
        plans = [plan_runs(kernel[::-1, ::-1] > 0, vertical) for vertical in (False, True)]
        unbroken = [plan for plan in plans if plan is not None]
        if unbroken:
            return min(unbroken, key=lambda plan: len(plan.runs) + len(plan.chain))
    column, row = kernel.sum(axis=1), kernel.sum(axis=0)
    # Up to rounding the kernel is their product, if it is one at all.
    if np.abs(np.outer(column, row) - kernel * kernel.sum()).sum() < 8 * np.finfo(dtype).eps:
        return Separable(_taps(column), _taps(row / row.sum()))
    turned, half_width = kernel[::-1, ::-1], (kernel.shape[0] // 2, kernel.shape[1] // 2)
    places = np.argwhere(turned)
    (top, left), (bottom, right) = places.min(axis=0), places.max(axis=0) + 1
    box = turned[top:bottom, left:right]
    strips, fourier = _strips_cost(box.size), _FOURIER_COST
    if _SHIFT_COST * len(places) < min(strips, fourier):
        return Shifts(half_width, tuple((int(y), int(x), float(turned[y, x])) for y, x in places))
    if strips < fourier:
        return Strips(half_width, (int(top), int(left)), torch.from_numpy(box.copy()))
    return Fourier(torch.from_numpy(kernel.copy()))


def _trimmed(kernel: NDArray) -> NDArray:
    """Cut off rows and columns that hold no tap, as many on one side as on the other."""
    middle = (kernel.shape[0] // 2, kernel.shape[1] // 2)
    reach = np.abs(np.argwhere(kernel > 0) - middle).max(axis=0)
    return kernel[
        middle[0] - reach[0] : middle[0] + reach[0] + 1,
        middle[1] - reach[1] : middle[1] + reach[1] + 1,
    ]


def _taps(line: NDArray) -> Tensor | None:
    """Turn a column or a row by half a turn; None where it is a single 1."""
    return None if len(line) == 1 else torch.from_numpy(line[::-1].copy())


def _fast_length(length: int) -> int:
    """Find the next multiple of 4 without prime factors beyond 5, which FFTs are fast with."""
    length = -(-length // 4) * 4
    while True:
        rest = length
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return length
        length += 4

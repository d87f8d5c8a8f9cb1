"""Camera shake: kernels along random splines, in banks that a seed names.

Source: `make_kernels.m` of ayanc/ndeblur (Chakrabarti 2016, arXiv 1603.04771), with the numbers of
Vasiljevic, Chakrabarti, Shakhnarovich 2016 (arXiv 1611.05760), section 3.
"""

import hashlib
from collections.abc import Collection
from functools import cache
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from blur_lightning.errors import InputError

# (kernels, seed) of the usual banks: the paper's 100 to test with, a separate 10,000 to train with.
SHAKE_BANKS = {"test": (100, 0), "training": (10_000, 1)}
# Kernels of a bank of another size: fewer than the paper tests with, or over a GiB, are a slip.
BANK_SIZES = (100, 1_000_000)
# The paper: six control points on a 15x15 grid, kernels 17x17.
_GRID, _SIZE, _CONTROL_POINTS, _SAMPLES_PER_POINT = 15, 17, 6, 5000
SHAKE_HALF_WIDTH = _SIZE // 2
# Splines are looked at every so many samples first. Between two of these they are straight but for
# less than _STRAY pixels, the square of their distance times an eighth of the second derivative.
_STRIDE, _STRAY = 32, 1e-3
_DRAWS = 64  # at once; part of what a seed names


@cache
def shake_bank(count: int, *, seed: int) -> Float[Tensor, "{count} 17 17"]:
    """Camera-shake kernels: splines through random control points, random intensity on the way.

    Follows `make_kernels(15, 17, 6, count)` of ndeblur step by step: integer control points, a
    not-a-knot cubic through them, the set of pixels it visits, an independent weight
    max(0, 1 + N(0, 1) / 2) for each, shifted so that the rounded centroid is the middle, rejected
    when that does not fit 17x17. MATLAB's random stream cannot be had, so the draws are ours.

    Args:
        count: Number of kernels, at least 1; each takes 1156 bytes.
        seed: A seed, 0 or more, names one bank; banks of other seeds have no kernel in common.

    Returns:
        Kernels of sum 1 on the CPU, in the order of their acceptance: a bank begins like a shorter
        one of its seed.
    """
    for name, number, least in (("count", count, 1), ("seed", seed, 0)):
        if not isinstance(number, Integral) or number < least:
            raise ValueError(f"{name}: {number!r} is no whole number of {least} or more")
    generator = np.random.default_rng([seed, _GRID, _SIZE, _CONTROL_POINTS])
    bank, found = np.empty((count, _SIZE, _SIZE), np.float32), 0
    while found < count:
        points = generator.integers(1, _GRID + 1, size=(_DRAWS, 2, _CONTROL_POINTS))
        weights = np.maximum(0, 1 + 0.5 * generator.standard_normal((_DRAWS, _GRID, _GRID)))
        kernels = _centred(weights * _visited(points))[: count - found]
        bank[found : found + len(kernels)] = kernels
        found += len(kernels)
    return torch.from_numpy(bank)


def bank_hash(bank: Float[Tensor, "n k k"]) -> str:
    """SHA-256 of a bank's taps as little-endian float32: equal hashes, equal kernels."""
    return hashlib.sha256(np.ascontiguousarray(bank.numpy(), "<f4").data).hexdigest()


def bank_hashes(usual: str, sizes: Collection[float]) -> dict[str, str]:
    """Hashes of the banks of these sizes with the seed of one of `SHAKE_BANKS`, by name."""
    names = [bank_name(usual, size) for size in sorted(sizes)]
    return {f"shake-{name}": bank_hash(named_bank(name)) for name in names}


def read_bank_size(blur: str, digits: str) -> float:
    """Read the number of `shake100000`; InputError names the blur if it is no size."""
    least, most = BANK_SIZES
    size = float(digits) if digits.isdecimal() else 0.0
    if not least <= size <= most:
        raise InputError(
            f"'{blur}' has a number that is no size of a bank, {least} to {most} kernels; "
            "write shake alone"
        )
    return size


def bank_name(usual: str, size: float) -> str:
    """Name the bank of so many kernels that has the seed of one of `SHAKE_BANKS`; 0 is that one."""
    return f"{usual}-{size:.0f}" if size else usual


def bank_settings(name: str) -> tuple[int, int]:
    """Kernels and seed of a bank by its name: `training`, or `training-100000`."""
    usual, _, size = name.partition("-")
    count, seed = SHAKE_BANKS[usual]
    return int(size or count), seed


def named_bank(name: str) -> Float[Tensor, "n 17 17"]:
    """One of `SHAKE_BANKS`, or that of another size which `bank_name` names."""
    count, seed = bank_settings(name)
    return shake_bank(count, seed=seed)


@cache
def _spline_basis(points: int, samples: int) -> NDArray:
    """Weights (points, samples) with which a not-a-knot cubic blends its control points.

    The spline is linear in its values: f = linear interpolation + terms in the second derivatives
    m, which solve the usual tridiagonal system closed by equal third derivatives across the first
    and the last inner knot (de Boor, A Practical Guide to Splines, chapter IV).
    """
    rows = np.arange(1, points - 1)
    left, right = np.zeros((2, points, points))
    for offset, value in ((-1, 1), (0, 4), (1, 1)):
        left[rows, rows + offset] = value
    for offset, value in ((-1, 6), (0, -12), (1, 6)):
        right[rows, rows + offset] = value
    left[0, :3] = left[-1, -3:] = 1, -2, 1
    second = np.linalg.solve(left, right)  # per unit of knot spacing squared
    position = np.linspace(0, points - 1, samples)
    knot = np.minimum(position.astype(int), points - 2)
    t = (position - knot)[:, None]
    eye = np.eye(points)
    value = (1 - t) * eye[knot] + t * eye[knot + 1]
    bend = ((1 - t) ** 3 - (1 - t)) * second[knot] + (t**3 - t) * second[knot + 1]
    return (value + bend / 6).T


def _visited(points: NDArray) -> NDArray:
    """Pixels (n, row, column) that splines through control points (n, column or row, 6) visit.

    They are those of `_SAMPLES_PER_POINT` samples a point; but where two samples some way apart
    leave no doubt about those between, these are not computed.
    """
    parts, ends = _parts_of_basis()
    curves = points @ ends
    visited = np.zeros((len(points), _GRID, _GRID), dtype=bool)
    column, row = pixels = _pixels(curves)
    visited[np.arange(len(points))[:, None], row, column] = True
    # In doubt: neither in one pixel nor in two that share a side, or close to an edge of one.
    steps = np.abs(np.diff(pixels)).sum(axis=0) > 1
    close = (np.abs(curves - np.rint(curves)) > 0.5 - _STRAY).any(axis=1)
    curve, part = np.nonzero(steps | close[:, 1:] | close[:, :-1])
    column, row = _pixels(points[curve] @ parts[part])
    visited[curve[:, None], row, column] = True
    return visited


def _pixels(curves: NDArray) -> NDArray:
    """Column and row (2, n, samples), from 0, of the pixels at samples (n, 2, samples)."""
    return (np.clip(curves, 1, _GRID) - 0.5).astype(int).swapaxes(0, 1)


@cache
def _parts_of_basis() -> tuple[NDArray, NDArray]:
    """The spline basis cut into parts of `_STRIDE` samples (parts, 6, samples), and at their ends.

    The last part repeats the last sample.
    """
    basis = _spline_basis(_CONTROL_POINTS, _CONTROL_POINTS * _SAMPLES_PER_POINT)
    last = basis.shape[1] - 1
    ends = np.minimum(np.arange(0, last + _STRIDE, _STRIDE), last)
    inside = np.minimum(ends[:-1, None] + np.arange(_STRIDE), last)
    return basis[:, inside].swapaxes(0, 1).copy(), basis[:, ends]


def _centred(kernels: NDArray) -> NDArray:
    """Normalise kernels (n, 15, 15) and move their centroids to the middle of those that fit."""
    sums = kernels.reshape(len(kernels), -1).sum(axis=1)
    kernels = kernels[sums > 0] / sums[sums > 0, None, None]
    axis, margin = np.arange(1, _GRID + 1), (_SIZE - _GRID) // 2
    centroids = np.stack([kernels.sum(axis=side) @ axis for side in (2, 1)], axis=1)
    corners = margin + (_GRID + 1) // 2 - (centroids + 0.5).astype(int)
    fits = ((corners >= 0) & (corners <= 2 * margin)).all(axis=1)
    placed = np.zeros((fits.sum(), _SIZE, _SIZE))
    for target, kernel, (top, left) in zip(placed, kernels[fits], corners[fits], strict=True):
        target[top : top + _GRID, left : left + _GRID] = kernel
    return placed

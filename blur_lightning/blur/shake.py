"""Camera shake: kernels along random splines, in banks that a seed names.

Source: `make_kernels.m` of ayanc/ndeblur (Chakrabarti 2016, arXiv 1603.04771), with the numbers of
Vasiljevic, Chakrabarti, Shakhnarovich 2016 (arXiv 1611.05760), section 3.
"""

import hashlib
from functools import cache
from numbers import Integral

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

# (kernels, seed) of the two banks: the paper's 100 to test with, a separate 10,000 to train with.
SHAKE_BANKS = {"test": (100, 0), "training": (10_000, 1)}
# The paper: six control points on a 15x15 grid, kernels 17x17.
_GRID, _SIZE, _CONTROL_POINTS, _SAMPLES_PER_POINT = 15, 17, 6, 5000
SHAKE_HALF_WIDTH = _SIZE // 2


@cache
def shake_bank(count: int, *, seed: int) -> Float[Tensor, "{count} 17 17"]:
    """Camera-shake kernels: splines through random control points, random intensity on the way.

    Follows `make_kernels(15, 17, 6, count)` of ndeblur step by step: integer control points, a
    not-a-knot cubic through them, the set of pixels it visits, an independent weight
    max(0, 1 + N(0, 1) / 2) for each, shifted so that the rounded centroid is the middle, rejected
    when that does not fit 17x17. MATLAB's random stream cannot be had, so the draws are ours.

    Args:
        count: Number of kernels, at least 1.
        seed: A seed, 0 or more, names one bank; banks of other seeds have no kernel in common.

    Returns:
        Kernels of sum 1 on the CPU, in the order of their acceptance.
    """
    for name, number, least in (("count", count, 1), ("seed", seed, 0)):
        if not isinstance(number, Integral) or number < least:
            raise ValueError(f"{name}: {number!r} is no whole number of {least} or more")
    generator = np.random.default_rng([seed, _GRID, _SIZE, _CONTROL_POINTS])
    basis = _spline_basis(_CONTROL_POINTS, _CONTROL_POINTS * _SAMPLES_PER_POINT)
    kernels: list[NDArray] = []
    while len(kernels) < count:
        points = generator.integers(1, _GRID + 1, size=(64, 2, _CONTROL_POINTS))
        weights = np.maximum(0, 1 + 0.5 * generator.standard_normal((64, _GRID, _GRID)))
        for trajectory, weight in zip(points @ basis, weights, strict=True):
            kernel = _shake_kernel(trajectory, weight)
            if kernel is not None:
                kernels.append(kernel)
    return torch.from_numpy(np.stack(kernels[:count]).astype(np.float32))


def bank_hash(bank: Float[Tensor, "n k k"]) -> str:
    """SHA-256 of a bank's taps as little-endian float32: equal hashes, equal kernels."""
    return hashlib.sha256(bank.numpy().astype("<f4").tobytes()).hexdigest()


def named_bank(name: str) -> Float[Tensor, "n 17 17"]:
    """One of `SHAKE_BANKS`."""
    count, seed = SHAKE_BANKS[name]
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


def _shake_kernel(trajectory: NDArray, weight: NDArray) -> NDArray | None:
    column, row = (np.clip(trajectory, 1, _GRID) + 0.5).astype(int)
    visited = np.zeros((_GRID + 1, _GRID + 1), dtype=bool)
    visited[row, column] = True
    kernel = weight * visited[1:, 1:]
    if not kernel.any():
        return None
    kernel /= kernel.sum()
    axis = np.arange(1, _GRID + 1)
    margin = (_SIZE - _GRID) // 2
    shift_y, shift_x = (
        (_GRID + 1) // 2 - int(centroid + 0.5)
        for centroid in (kernel.sum(axis=1) @ axis, kernel.sum(axis=0) @ axis)
    )
    if max(abs(shift_y), abs(shift_x)) > margin:
        return None
    placed = np.zeros((_SIZE, _SIZE))
    top, left = margin + shift_y, margin + shift_x
    placed[top : top + _GRID, left : left + _GRID] = kernel
    return placed

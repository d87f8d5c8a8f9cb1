"""Point-spread functions: from parameters in pixels to kernels of sum 1.

Sources: Vasiljevic, Chakrabarti, Shakhnarovich 2016 (arXiv 1611.05760), section 3, for the
families; `make_kernels.m` of ayanc/ndeblur (Chakrabarti 2016, arXiv 1603.04771) for camera shake.

Kernels are (n, k, k) with odd k, the middle pixel being where an unblurred point of light falls,
row 0 at the top. The paper does not say which pixels a shape covers; `rim` names the two readings:

* "hard": a pixel counts whole when its centre lies inside the shape (what the paper's "constant
  inside, zero outside" says, and the reading of MATLAB and ImageNet-C). A box of even length has
  no middle pixel then, so its centroid lies half a pixel off.
* "area": a pixel counts by the share of it that the shape covers, to first order. Centred for
  every length, continuous in the parameters, so gradients can be followed.
"""

import hashlib
from functools import cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

Rim = Literal["hard", "area"]

# Shapes whose edge passes exactly through a pixel centre must not depend on rounding.
_EDGE_TOLERANCE = 1e-4


def disk_half_width(radius: float) -> int:
    """Pixels on each side of the middle that a disk can reach."""
    return int(np.ceil(radius))


def box_half_width(length: float) -> int:
    """Pixels on each side of the middle that a box can reach, at any angle."""
    return int(np.ceil(length / 2))


def gaussian_half_width(sigma: float) -> int:
    """Where a Gaussian is cut off: 4 sigma, as SciPy does (6e-5 of the mass lies outside)."""
    return int(4 * sigma + 0.5)


def disk_kernel(
    radius: Float[Tensor, " n"], *, half_width: int | None = None, rim: Rim = "hard"
) -> Float[Tensor, "n k k"]:
    """Defocus: light spreads evenly over the circle of confusion.

    Args:
        radius: Radius of each disk in pixels, at least 0; below 1 a hard disk blurs nothing.
        half_width: Half the kernel's side, (k - 1) / 2; None takes what the largest disk needs.
        rim: Whether pixels at the rim count whole or by the covered share; see the module.

    Returns:
        Kernels of sum 1, symmetric about their middle.
    """
    if half_width is None:
        half_width = disk_half_width(float(radius.max()))
    x, y = _offsets(half_width, like=radius)
    radius = radius[:, None, None]
    if rim == "hard":
        return _normalized((x**2 + y**2 <= radius**2 + _EDGE_TOLERANCE).to(radius.dtype))
    return _normalized((radius + 0.5 - torch.hypot(x, y)).clamp(0, 1))


def box_kernel(
    length: Float[Tensor, " n"],
    angle: Float[Tensor, " n"] | None = None,
    *,
    half_width: int | None = None,
    rim: Rim = "hard",
) -> Float[Tensor, "n k k"]:
    """Uniform linear motion: a line one pixel wide.

    Args:
        length: Length of each line in pixels; up to 1 blurs nothing.
        angle: Its direction in degrees, counter-clockwise from horizontal; None is horizontal.
        half_width: Half the kernel's side, (k - 1) / 2; None takes what the longest line needs.
        rim: Whether pixels at the edge count whole or by the covered share; see the module.

    Returns:
        Kernels of sum 1; a hard horizontal box of whole length has `length` equal taps.
    """
    if half_width is None:
        half_width = box_half_width(float(length.max()))
    x, y = _offsets(half_width, like=length)
    turn = torch.deg2rad(torch.zeros_like(length) if angle is None else angle)[:, None, None]
    # Rows count downwards, angles turn counter-clockwise as seen: hence the signs of y.
    along = x * turn.cos() - y * turn.sin()
    across = x * turn.sin() + y * turn.cos()
    half = length[:, None, None].clamp_min(1) / 2
    if rim == "hard":
        # Half-open, so that an even length covers as many pixels as it says.
        inside = (along >= -half - _EDGE_TOLERANCE) & (along < half - _EDGE_TOLERANCE)
        inside &= (across >= -0.5 - _EDGE_TOLERANCE) & (across < 0.5 - _EDGE_TOLERANCE)
        return _normalized(inside.to(length.dtype))
    covered_along = (half + 0.5 - along.abs()).clamp(0, 1)
    return _normalized(covered_along * (1 - across.abs()).clamp_min(0))


def gaussian_taps(
    sigma: Float[Tensor, " n"], *, half_width: int | None = None
) -> Float[Tensor, "n k"]:
    """One axis of a Gaussian; the kernel is the outer product of the taps with themselves.

    Args:
        sigma: Standard deviation of each in pixels; 0 blurs nothing.
        half_width: Half the number of taps, (k - 1) / 2; None cuts the widest off at 4 sigma.

    Returns:
        Sampled, not integrated, Gaussians of sum 1.
    """
    if half_width is None:
        half_width = gaussian_half_width(float(sigma.max()))
    offset = torch.arange(-half_width, half_width + 1, dtype=sigma.dtype, device=sigma.device)
    # The floor turns sigma 0 into a single tap instead of 0 / 0.
    taps = torch.exp(-0.5 * (offset / sigma[:, None].clamp_min(1e-6)) ** 2)
    return taps / taps.sum(dim=1, keepdim=True)


# The paper: six control points on a 15x15 grid, kernels 17x17.
_GRID, _SIZE, _CONTROL_POINTS, _SAMPLES_PER_POINT = 15, 17, 6, 5000


@cache
def shake_bank(count: int, *, seed: int) -> Float[Tensor, "{count} 17 17"]:
    """Camera-shake kernels: splines through random control points, random intensity on the way.

    Follows `make_kernels(15, 17, 6, count)` of ndeblur step by step: integer control points, a
    not-a-knot cubic through them, the set of pixels it visits, an independent weight
    max(0, 1 + N(0, 1) / 2) for each, shifted so that the rounded centroid is the middle, rejected
    when that does not fit 17x17. MATLAB's random stream cannot be had, so the draws are ours.

    Args:
        count: Number of kernels.
        seed: A seed names one bank; other seeds give kernels that have none in common with it.

    Returns:
        Kernels of sum 1 on the CPU, in the order of their acceptance.
    """
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


def _offsets(half_width: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    offset = torch.arange(-half_width, half_width + 1, dtype=like.dtype, device=like.device)
    return offset[None, :], offset[:, None]


def _normalized(taps: Tensor) -> Tensor:
    return taps / taps.sum(dim=(-2, -1), keepdim=True)


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

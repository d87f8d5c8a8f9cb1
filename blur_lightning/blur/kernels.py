"""Point-spread functions: from parameters in pixels to kernels of sum 1.

Source: Vasiljevic, Chakrabarti, Shakhnarovich 2016 (arXiv 1611.05760), section 3.

Kernels are (n, k, k) with odd k, the middle pixel being where an unblurred point of light falls,
row 0 at the top. The paper does not say which pixels a shape covers; `rim` names the two readings:

* "hard": a pixel counts whole when its centre lies inside the shape (what the paper's "constant
  inside, zero outside" says, and the reading of MATLAB and ImageNet-C). A box of even length has
  no middle pixel then, so its centroid lies half a pixel off.
* "area": a pixel counts by the share of it that the shape covers, to first order. Centred for
  every length, continuous in the parameters, so gradients can be followed.
"""

from collections.abc import Callable
from math import inf, isfinite
from numbers import Integral
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from blur_lightning.errors import InputError

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
    check_rim(rim)
    half_width = _half_width(half_width, disk_half_width, "radius", radius)
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
    check_rim(rim)
    half_width = _half_width(half_width, box_half_width, "length", length)
    if angle is not None:
        _check_values("angle", angle, least=-inf, unit="degrees")
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
    half_width = _half_width(half_width, gaussian_half_width, "sigma", sigma)
    offset = torch.arange(-half_width, half_width + 1, dtype=sigma.dtype, device=sigma.device)
    # The floor turns sigma 0 into a single tap instead of 0 / 0.
    taps = torch.exp(-0.5 * (offset / sigma[:, None].clamp_min(1e-6)) ** 2)
    return taps / taps.sum(dim=1, keepdim=True)


def check_rim(rim: Any) -> None:
    """Refuse what is no `Rim`: InputError."""
    if rim not in get_args(Rim):
        raise InputError(f"rim: '{rim}' is none of {', '.join(get_args(Rim))}")


def _half_width(given: Any, needed: Callable[[float], int], name: str, values: Any) -> int:
    """Half the side of kernels as it is given, or as the largest of their sizes needs it."""
    _check_values(name, values)
    if given is None:
        if not len(values):
            raise ValueError(f"{name}: is empty; give half_width, or one {name} for each kernel")
        return needed(float(values.detach().max()))
    if not isinstance(given, Integral) or given < 0:
        raise ValueError(f"half_width: {given} is no whole number of 0 or more pixels")
    return int(given)


def _check_values(name: str, values: Any, *, least: float = 0.0, unit: str = "pixels") -> None:
    """Refuse what is no vector of finite numbers, each at least so large."""
    if not isinstance(values, Tensor) or values.ndim != 1 or not values.is_floating_point():
        is_tensor = isinstance(values, Tensor)
        found = f"{values.dtype} {tuple(values.shape)}" if is_tensor else type(values).__name__
        raise ValueError(f"{name}: {found} is no float tensor (n,), as torch.tensor([4.0]) is")
    wrong = [value for value in values.tolist() if not (isfinite(value) and value >= least)]
    if wrong:
        bound = "" if least == -inf else f"{least:g} or more and "
        raise ValueError(f"{name}: {wrong[0]:g} {unit} is not {bound}finite")


def _offsets(half_width: int, *, like: Tensor) -> tuple[Tensor, Tensor]:
    offset = torch.arange(-half_width, half_width + 1, dtype=like.dtype, device=like.device)
    return offset[None, :], offset[:, None]


def _normalized(taps: Tensor) -> Tensor:
    return taps / taps.sum(dim=(-2, -1), keepdim=True)

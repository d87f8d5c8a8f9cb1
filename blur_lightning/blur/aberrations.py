"""Point-spread functions of a lens with wavefront aberrations, one for each colour channel.

A point of light leaves the circular pupil of a lens with a wavefront W off a perfect sphere and
interferes in the image: the point-spread function is the squared modulus of the pupil's Fourier
transform (Goodman, Introduction to Fourier Optics, 3rd ed., section 6.4). W is a sum of Zernike
polynomials whose RMS over the pupil is 1 (Noll 1976, J. Opt. Soc. Am. 66, 207), so a coefficient
is an RMS error in waves of green light; up to 1/14 of a wave counts as a perfect lens (Marechal).

A wavefront is off by a length: the shorter the wave, the more waves that is, and the smaller the
Airy pattern. Without aberrations red is therefore the widest channel, with many waves of them all
channels approach the one pattern of the rays.

Kernels are (n, 3, k, k) with the channels R, G, B; otherwise as in `kernels`, rim "area".
"""

import math
from collections.abc import Iterable, Mapping

import numpy as np
import torch
from jaxtyping import Complex, Float
from torch import Tensor

from blur_lightning.errors import InputError

# Radial degree n and azimuthal frequency m of the Zernike polynomials.
ABERRATIONS = {
    "defocus": (2, 0),
    "astigmatism": (2, 2),
    "coma": (3, 1),
    "trefoil": (3, 3),
    "spherical": (4, 0),
}

# Of the channels R, G, B in micrometres; only their ratios to green matter.
WAVELENGTHS = (0.61, 0.54, 0.46)

# First zero of J1(pi r) / r: the Airy radius in wavelengths times f-number.
_DARK_RING = 1.2196698912665045


def aberration_half_width(coefficients: Mapping[str, float], airy_radius: float = 1.0) -> int:
    """Pixels on each side of the middle that hold at least 99 % of the light in every channel.

    A ray lands 2 lambda F |grad W| from the middle (W in waves, pupil of radius 1), and every W
    here is steepest at the rim. Diffraction adds a tail whose light falls off with 1 / r only: of
    a perfect lens, 1 % of red lies beyond 17 Airy radii. The two add up in quadrature, as few rays
    land furthest out; 20 is measured to do for each aberration and all together, up to 0.5 waves.

    Args:
        coefficients: RMS errors in waves of green light, by the names of `ABERRATIONS`.
        airy_radius: Radius of the first dark ring of green in pixels, above 0.

    Raises:
        InputError: A name is unknown, or the radius is not above 0.
    """
    _check(coefficients, airy_radius)
    slope = sum(abs(waves) * _rim_slope(*ABERRATIONS[name]) for name, waves in coefficients.items())
    return math.ceil(airy_radius * math.hypot(2 / _DARK_RING * slope, 20))


def aberration_kernel(
    coefficients: Mapping[str, Float[Tensor, " n"]],
    angle: Float[Tensor, " n"] | None = None,
    *,
    airy_radius: Float[Tensor, " n"] | float = 1.0,
    half_width: int | None = None,
) -> Float[Tensor, "n 3 k k"]:
    """Aberrations of a lens: diffraction at its round pupil and the errors of its wavefront.

    Each pixel gets the light that falls on its area. Coma comes with the tilt that makes the mean
    slope of the wavefront, the centroid of the light, zero: bare Noll coma has a mean slope of
    sqrt(8) and would move the image. Its coefficient is the RMS before that tilt is added. What
    the kernel's edge cuts off coma's tail still leaves the centroid up to an eighth of an Airy
    radius off (0.5 waves), so within half a pixel for radii up to 4.

    Args:
        coefficients: RMS errors in waves of green light, by the names of `ABERRATIONS`; wavefronts
            add up. None at all is a perfect lens, whose kernel is the Airy pattern.
        angle: By how many degrees the pupil is turned counter-clockwise; None is 0, where the tail
            of positive coma points right, one of the three arms of positive trefoil left, and
            positive astigmatism with positive defocus tends to a horizontal line.
        airy_radius: Radius of the first dark ring of green in pixels, above 0: 1.22 times
            wavelength times f-number. Time and memory grow with the square of the ratio of the
            largest to the smallest.
        half_width: Half the kernel's side, (k - 1) / 2; None takes what holds 99 % of the light. A
            smaller one may cut coma's tail and so move the centroid, and rays that miss the middle
            by more than three times as much wrap around.

    Returns:
        Kernels of sum 1 in each channel, all channels about one middle; differentiable in all
        tensors.

    Raises:
        InputError: A name is unknown, or a radius is not above 0.
    """
    for name, waves in coefficients.items():
        if not isinstance(waves, Tensor) or waves.ndim != 1 or not bool(waves.isfinite().all()):
            raise InputError(f"{name}: {waves} is no tensor (n) of finite waves")
    given = [*coefficients.values(), *(t for t in (angle, airy_radius) if isinstance(t, Tensor))]
    like = given[0] if given else torch.zeros(1)
    if len({len(t) for t in given if t.ndim}) > 1:
        raise InputError(f"coefficients: lengths {[len(t) for t in given if t.ndim]} differ")
    radius = torch.as_tensor(airy_radius, dtype=like.dtype, device=like.device).expand_as(like)
    smallest, largest = (bound.item() for bound in radius.aminmax())
    _check(coefficients, smallest, largest)
    if half_width is None:
        strongest = {name: waves.abs().max().item() for name, waves in coefficients.items()}
        half_width = aberration_half_width(strongest, largest)
    if angle is None:
        angle = torch.zeros_like(like)
    light = _light(coefficients, angle, radius, half_width)
    return light / light.sum(dim=(-2, -1), keepdim=True)


def _check(names: Iterable[str], *airy_radii: float) -> None:
    for name in names:
        if name not in ABERRATIONS:
            raise InputError(f"aberration '{name}': unknown; name one of {', '.join(ABERRATIONS)}")
    for radius in airy_radii:
        if not 0 < radius < math.inf:
            raise InputError(f"airy_radius: {radius} is not above 0 and finite")


def _light(
    coefficients: Mapping[str, Float[Tensor, " n"]],
    angle: Float[Tensor, " n"],
    airy_radius: Float[Tensor, " n"],
    half_width: int,
) -> Float[Tensor, "n 3 k k"]:
    """Share of each channel's light that falls on each pixel.

    A matrix Fourier transform (Soummer et al. 2007, Opt. Express 15, 15935) in place of an FFT:
    any point can be asked for, so all radii and colours share one grid in the pupil, only the
    kernel's part of the image is computed, and pixels are integrated by Gauss-Legendre quadrature.
    """
    relative = angle.new_tensor(WAVELENGTHS)[:, None, None] / WAVELENGTHS[1]
    unit = airy_radius[:, None, None, None] / _DARK_RING * relative  # wavelength times f-number
    finest = unit.min().item()
    # The image repeats every `samples * finest` pixels: four half widths leave the nearest copy
    # three away from what is kept. With 64 the staircase of the rim costs some 1e-3 of the peak.
    samples = max(64, 2 * math.ceil((2 * half_width + 1) / finest))
    axis = (torch.arange(samples, dtype=unit.dtype, device=unit.device) + 0.5) * 2 / samples - 1
    x, y = axis[None, :], -axis[:, None]  # rows count downwards
    aperture = ((1 - torch.hypot(x, y)) * samples / 2 + 0.5).clamp(0, 1)
    waves = torch.zeros_like(aperture).expand(len(angle), 1, samples, samples)
    for name, coefficient in coefficients.items():
        n, m = ABERRATIONS[name]
        shape = _centred_zernike(n, m, x, y)
        turn = m * torch.deg2rad(angle)[:, None, None, None]
        turned = turn.cos() * shape.real + turn.sin() * shape.imag
        waves = waves + coefficient[:, None, None, None] * turned
    pupil = torch.polar(aperture, 2 * torch.pi * waves / relative)

    # No fringe is finer than `finest`, so pi nodes to each integrate a pixel to 1e-4 of the peak.
    nodes, weights = np.polynomial.legendre.leggauss(max(2, math.ceil(math.pi / finest)))
    pixels = torch.arange(-half_width, half_width + 1, dtype=unit.dtype, device=unit.device)
    points = (pixels[:, None] + unit.new_tensor(nodes / 2)).flatten()
    amplitude = unit.new_tensor(np.sqrt(weights / 2)).repeat(len(pixels))[:, None]
    # The sign sends light to where the wavefront's error grows.
    transform = torch.polar(amplitude, -torch.pi * points[:, None] * axis / unit)
    field = transform @ pupil @ transform.mT
    light = torch.view_as_real(field).square().sum(dim=-1)
    light = light.unflatten(-1, (len(pixels), -1)).sum(dim=-1)
    light = light.unflatten(-2, (len(pixels), -1)).sum(dim=-2)
    return light * (2 / samples) ** 4 / (4 * torch.pi * unit**2)


def _norm(n: int, m: int) -> float:
    return math.sqrt(n + 1 if m == 0 else 2 * (n + 1))


def _rim_slope(n: int, m: int) -> float:
    """Largest |grad W| of `_centred_zernike`: R'(1) = (n (n + 2) - m^2) / 2, less coma's tilt."""
    return _norm(n, m) * ((n * (n + 2) - m**2) / 2 - (m == 1))


def _zernike(
    n: int, m: int, x: Float[Tensor, "1 s"], y: Float[Tensor, "s 1"]
) -> Complex[Tensor, "s s"]:
    """Noll's polynomial of angle 0 and, as imaginary part, that turned by a quarter period."""
    square = x**2 + y**2
    steps = (n - m) // 2
    radial = torch.zeros_like(square)
    for k in range(steps + 1):
        factor = (-1) ** k * math.comb(n - k, k) * math.comb(n - 2 * k, steps - k)
        radial = radial + factor * square ** (steps - k)
    return _norm(n, m) * radial * torch.complex(x, y) ** m


def _centred_zernike(
    n: int, m: int, x: Float[Tensor, "1 s"], y: Float[Tensor, "s 1"]
) -> Complex[Tensor, "s s"]:
    """`_zernike` plus the tilt that makes the mean slope over the pupil zero.

    By the divergence theorem the mean slope is that of the tilt with the same values on the rim,
    where R = 1; only m = 1 has any.
    """
    shape = _zernike(n, m, x, y)
    return shape - _norm(n, m) * torch.complex(x, y) if m == 1 else shape

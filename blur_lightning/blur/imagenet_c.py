"""The five blurs of ImageNet-C, each in five steps of severity, batched on the device.

Constants and algorithms are those of hendrycks/robustness (`make_imagenet_c.py` for 224 pixels;
Hendrycks and Dietterich 2019, arXiv 1903.12261) in the form of the package imagecorruptions, which
needs no ImageMagick. Each blur comes twice:

* `defocus_blur`, `motion_blur` and so on are what was meant: kernels of sum 1 about their middle,
  pixels that change places, the border that one asks for, rounding to the nearest of 8 bits.
* `defocus_blur_legacy` and so on are what the reference computes, faults included, so that numbers
  compare with published ones: a motion kernel on one side of its pixel moves the image by 2 to 12
  pixels; glass copies where it should swap; the widest disks brighten by some 1 %; zooms are cut
  at whole pixels; each blur has a border of its own; 8 bits come from cutting decimals off.
"""

from collections.abc import Sequence
from math import ceil

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int, Shaped
from numpy.typing import NDArray
from torch import Tensor

from blur_lightning.blur.border import Border
from blur_lightning.blur.convolution import KernelGroup, Kernels, check_reflection, convolve
from blur_lightning.blur.kernels import disk_kernel, gaussian_half_width, gaussian_taps

SEVERITIES = (1, 2, 3, 4, 5)
# By severity: radius of the disk and sigma of the Gaussian that softens its rim, in pixels.
DEFOCUS = ((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5))
# Sigma in pixels.
GAUSSIAN = (1.0, 2.0, 3.0, 4.0, 6.0)
# Radius (2 radius + 1 taps) and sigma in pixels; the angle is uniform in `MOTION_ANGLES`.
MOTION = ((10, 3), (15, 5), (15, 8), (15, 12), (20, 15))
MOTION_ANGLES = (-45.0, 45.0)
# Sigma and reach of a shuffle in pixels, number of shuffles.
GLASS = ((0.7, 1, 2), (0.9, 2, 1), (1.0, 2, 3), (1.1, 3, 2), (1.5, 4, 2))
# First factor, end and step of the zooms.
ZOOM = ((1, 1.11, 0.01), (1, 1.16, 0.01), (1, 1.21, 0.02), (1, 1.26, 0.02), (1, 1.31, 0.03))


def kernels(
    family: str, severities: Float[Tensor, " n"], angles: Float[Tensor, " n"], reach: int
) -> tuple[Float[Tensor, "n _ _"], ...]:
    """Kernels of the three blurs that are convolutions, as `KernelGroup.factors`."""
    steps = [int(severity) for severity in severities]
    match family:
        case "gaussian_blur":
            sigma = severities.new_tensor([GAUSSIAN[step - 1] for step in steps])
            taps = gaussian_taps(sigma, half_width=reach)
            return (taps[:, :, None], taps[:, None, :])
        case "motion_blur":
            pairs = zip(steps, angles.tolist(), strict=True)
            return (torch.stack([motion_kernel(step, angle) for step, angle in pairs]),)
        case _:
            return (torch.stack([defocus_kernel(step) for step in steps]),)


def defocus_kernel(severity: int, *, legacy: bool = False) -> Float[Tensor, "k k"]:
    """A hard disk, softened; the reference's leaves no room for that and so gains up to 1.3 %."""
    radius, sigma = DEFOCUS[severity - 1]
    reach = 1 if radius <= 8 else 2
    space = max(8, radius) if legacy else radius + reach
    disk = disk_kernel(torch.tensor([float(radius)], dtype=torch.float32), half_width=space)
    taps = gaussian_taps(torch.tensor([sigma], dtype=torch.float32), half_width=reach)
    factors = (taps[:, :, None], taps[:, None, :])
    return _convolved(disk[None], factors, "reflect" if legacy else "constant")[0, 0]


def half_width(family: str, severity: int | float) -> int:
    """Pixels that a blur reaches to each side."""
    severity = int(severity)
    match family.removesuffix("_legacy"):
        case "defocus_blur":
            radius, _ = DEFOCUS[severity - 1]
            return radius + (1 if radius <= 8 else 2)
        case "gaussian_blur":
            return gaussian_half_width(GAUSSIAN[severity - 1])
        case "motion_blur":
            radius, _ = MOTION[severity - 1]
            weights = _half_gaussian(severity)
            centroid = int(weights @ np.arange(len(weights)))
            return 2 * radius - (0 if family.endswith("_legacy") else centroid)
        case "glass_blur":  # few pixels are carried further than one step a shuffle
            sigma, delta, iterations = GLASS[severity - 1]
            return 2 * gaussian_half_width(sigma) + delta * iterations
        case _:  # a zoom draws on nothing beyond the edge
            return 0


def motion_kernel(severity: int, angle: float, *, legacy: bool = False) -> Float[Tensor, "k k"]:
    """One half of a Gaussian along a line, about its centroid; at the pixel's one side in legacy.

    Args:
        severity: 1..5.
        angle: Direction of the line in degrees, counter-clockwise from horizontal as seen; the
            reference turns the other way, and points left where this points right.
        legacy: Whether to leave the kernel where the reference has it.
    """
    weights = _half_gaussian(severity)
    steps, turn = np.arange(len(weights)), np.deg2rad(angle)
    rows, columns = (-np.ceil(steps * along - 0.5) for along in (np.sin(turn), np.cos(turn)))
    if not legacy:
        columns = -columns
        rows, columns = (places - np.round(weights @ places) for places in (rows, columns))
    middle = half_width("motion_blur_legacy" if legacy else "motion_blur", severity)
    kernel = torch.zeros(2 * middle + 1, 2 * middle + 1, dtype=torch.float64)
    places = tuple(torch.from_numpy(place.astype(int) + middle) for place in (rows, columns))
    kernel.index_put_(places, torch.from_numpy(weights), accumulate=True)
    return kernel.float()


def _half_gaussian(severity: int) -> NDArray:
    radius, sigma = MOTION[severity - 1]
    weights = np.exp(-(np.arange(2 * radius + 1) ** 2) / (2 * sigma**2))
    return weights / weights.sum()


def corrupt(
    images: Shaped[Tensor, "b c h w"],
    family: str,
    severity: int,
    *,
    angles: Sequence[float],
    keys: Sequence[int],
    border: Border,
) -> Shaped[Tensor, "b c h w"]:
    """Blur images with what is no convolution: zoom, glass, and all that is legacy.

    Args:
        images: uint8, or float in [0, 1].
        family: "zoom_blur", "glass_blur", or one of the five with "_legacy" behind it.
        severity: 1..5.
        angles: One for each image, for motion.
        keys: One for each image, from which glass draws its shuffle. The draw is one for the size
            of the image: another size is another shuffle.
        border: What lies beyond the edge; the legacy ones have their own.

    Raises:
        ValueError: An image is too small to be mirrored, as "reflect" asks for and as legacy
            defocus does whatever the border.
    """
    values = images.double() if images.is_floating_point() else images.double() / 255
    legacy = family.endswith("_legacy")
    match family.removesuffix("_legacy"):
        case "zoom_blur":
            values = zoom(values.float(), severity, whole_pixels=legacy).double()
        case "glass_blur" if legacy:
            values = _glass_legacy(values, severity, keys)
        case "glass_blur":
            if border == "reflect":
                reach = gaussian_half_width(GLASS[severity - 1][0])
                check_reflection(images, (reach, reach), "blurs", f"{family}-{severity}")
            values = _glass(values, severity, keys, border)
        case "gaussian_blur":
            values = _gaussian(values, GAUSSIAN[severity - 1], "replicate")
        case "defocus_blur":
            kernel = defocus_kernel(severity, legacy=True)
            (rows, columns), least = images.shape[-2:], kernel.shape[-1] // 2 + 1
            if min(rows, columns) < least:
                raise ValueError(
                    f"blurs: {family}-{severity} always has a reflected border, which a "
                    f"{rows}x{columns} image cannot fill; it takes {least}x{least} px or more"
                )
            values = _convolved(values, (kernel[None],), "reflect")
        case "motion_blur":
            kernels = [motion_kernel(severity, angle, legacy=True) for angle in angles]
            values = _convolved(values, (torch.stack(kernels),), "replicate")
        case _:
            raise ValueError(f"family: '{family}' is none of ImageNet-C's that need this")
    if images.is_floating_point():
        return values.to(images.dtype)
    values = values.clamp(0, 1) * 255
    return (values.floor() if legacy else values.round()).to(images.dtype)


def zoom(
    images: Float[Tensor, "b c h w"], severity: int, *, whole_pixels: bool = False
) -> Float[Tensor, "b c h w"]:
    """Mean of an image and its bilinear zooms about the middle.

    Args:
        images: Float, of any range.
        severity: 1..5.
        whole_pixels: Cut out what is enlarged at whole pixels, as the reference does.
    """
    h, w = images.shape[-2:]
    factors = np.arange(*ZOOM[severity - 1])
    down, across = (torch.linspace(-1, 1, side, dtype=torch.float64).to(images) for side in (h, w))
    total = images.clone()
    for factor in factors.tolist():
        if whole_pixels:
            rows, columns = ceil(h / factor), ceil(w / factor)
            top, left = (h - rows) // 2, (w - columns) // 2
            inner = images[..., top : top + rows, left : left + columns]
            size = (round(rows * factor), round(columns * factor))
            zoomed = F.interpolate(inner, size=size, mode="bilinear", align_corners=True)
            total += zoomed[..., :h, :w]
        else:
            grid = torch.stack(torch.meshgrid(across / factor, down / factor, indexing="xy"), -1)
            grid = grid.expand(len(images), h, w, 2)
            total += F.grid_sample(images, grid, padding_mode="border", align_corners=True)
    return total / (len(factors) + 1)


def _glass(images: Tensor, severity: int, keys: Sequence[int], border: Border) -> Tensor:
    """Blurred, shuffled among near pixels on all sides, blurred."""
    sigma, delta, iterations = GLASS[severity - 1]
    rows, columns = (side - 2 * delta for side in images.shape[-2:])
    offsets = _offsets(keys, (iterations, rows, columns), delta, endpoint=True)
    last = (delta + rows - 1, delta + columns - 1)
    blurred = shuffle(_gaussian(images, sigma, border), offsets.to(images.device), last=last)
    return _gaussian(blurred, sigma, border)


def _glass_legacy(images: Tensor, severity: int, keys: Sequence[int]) -> Tensor:
    """Copied instead of swapped, from near pixels rather above and to the left; 8 bits between."""
    sigma, delta, iterations = GLASS[severity - 1]
    rows, columns = (side - 2 * delta for side in images.shape[-2:])
    offsets = _offsets(keys, (iterations, rows, columns), delta, endpoint=False)
    levels = (_gaussian(images, sigma, "replicate") * 255).floor()
    last = (images.shape[-2] - delta, images.shape[-1] - delta)
    moved = shuffle(levels, offsets.to(images.device), last=last, swap=False)
    return _gaussian(moved / 255, sigma, "replicate")


def _offsets(
    keys: Sequence[int], shape: tuple[int, int, int], delta: int, *, endpoint: bool
) -> Int[Tensor, "b i r k 2"]:
    sides = tuple(max(0, side) for side in shape)
    draws = np.zeros((len(keys), *sides, 2), dtype=np.int8)
    for draw, key in zip(draws, keys, strict=True):
        generator = np.random.default_rng(key)
        draw[:] = generator.integers(-delta, delta, draw.shape, np.int8, endpoint)
    return torch.from_numpy(draws)


def _gaussian(images: Tensor, sigma: float, border: Border) -> Tensor:
    taps = gaussian_taps(torch.tensor([sigma], dtype=torch.float64))
    return _convolved(images, (taps[:, :, None], taps[:, None, :]), border)


def _convolved(images: Tensor, factors: tuple[Tensor, ...], border: Border) -> Tensor:
    """Convolve with one kernel for all images, or one each, whatever its sum."""
    index = torch.arange(len(images), device=images.device)
    each = tuple(taps.to(images).expand(len(images), *taps.shape[1:]) for taps in factors)
    return convolve(images, Kernels(len(images), (KernelGroup(index, each),)), border)


def shuffle(
    images: Shaped[Tensor, "b c h w"],
    offsets: Int[Tensor, "b i r k 2"],
    *,
    last: tuple[int, int],
    swap: bool = True,
) -> Shaped[Tensor, "b c h w"]:
    """Let each pixel change places with a near one, one after another from the last to the first.

    The reference goes pixel by pixel. Steps whose pixels cannot meet are taken at once here, in the
    order of the reference where they can: row r may take column k as soon as row r - 1 is
    2 reach + 1 columns ahead. So the result is that of the loop, for all images together.

    Args:
        images: Of any type.
        offsets: (columns, rows) to the near pixel, for each image, shuffle, row and column, the
            last pixel first.
        last: (row, column) of the pixel that begins.
        swap: Whether both change places; else the near pixel is copied.
    """
    b, c, h, w = images.shape
    _, iterations, rows, columns, _ = offsets.shape
    if offsets.numel() == 0:
        return images
    reach = int(offsets.abs().max())
    row, column = (torch.arange(count, device=images.device) for count in (rows, columns))
    moment = (row[:, None] * (2 * reach + 1) + column).flatten()
    order = moment.argsort(stable=True)
    sizes = moment.bincount().tolist()
    here = ((last[0] - row)[:, None] * w + last[1] - column).flatten()[order]
    there = here + (offsets[..., 1].long() * w + offsets[..., 0]).flatten(2)[..., order]
    source = torch.arange(h * w, device=images.device).repeat(b, 1)
    for iteration in range(iterations):
        pairs = zip(here.split(sizes), there[:, iteration].split(sizes, dim=1), strict=True)
        for one, other in pairs:
            ones = one.expand(b, -1)
            first, second = source.gather(1, ones), source.gather(1, other)
            source.scatter_(1, ones, second)
            if swap:
                source.scatter_(1, other, first)
    return images.flatten(2).gather(2, source[:, None].expand(b, c, -1)).view_as(images)

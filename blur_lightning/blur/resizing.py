"""8-bit images and windows to what a network sees: antialiased, and nothing but the crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from blur_lightning.blur.convolution import exact_float32

Interpolation = Literal["bilinear", "bicubic"]

# Where each filter ends, in pixels of the coarser scale.
REACH = {"bilinear": 1, "bicubic": 2}
# Lines of the crop that one product makes: of 8, 12, 16, 24, 32 and 64 the fastest.
_BAND = 16


@dataclass(frozen=True, eq=False)
class Band:
    """Which lines of a window make some neighbouring lines of the crop, and their weights."""

    lines: slice
    inputs: slice
    weights: Float[Tensor, "lines inputs"]


@lru_cache
def resizing_bands(
    side: int, crop: int, *, first: int, ratio: float, interpolation: Interpolation
) -> tuple[Band, ...]:
    """Cut the matrix that resizes one axis of a window to that of the crop into bands.

    Args:
        side: Pixels of the window, or of a whole image.
        crop: Pixels of the crop.
        first: Where the crop begins in the resized window, in pixels of its own.
        ratio: Side of a pixel of the crop, in pixels of the window.
        interpolation: The filter; antialiased.
    """
    centres = (torch.arange(crop, dtype=torch.float64) + first + 0.5) * ratio
    pixels = torch.arange(side, dtype=torch.float64) + 0.5
    distances = (pixels - centres[:, None]).abs() / max(1.0, ratio)
    if interpolation == "bicubic":  # Keys 1981, a = -1/2, as Pillow's
        near = (1.5 * distances - 2.5) * distances**2 + 1
        far = ((-0.5 * distances + 2.5) * distances - 4) * distances + 2
        weights = torch.where(distances < 1, near, far)
    else:
        weights = 1 - distances
    weights = weights.where(distances < REACH[interpolation], 0)
    weights = (weights / weights.sum(dim=1, keepdim=True)).float()
    bands = []
    for start in range(0, crop, _BAND):
        lines = slice(start, min(start + _BAND, crop))
        used = weights[lines].any(dim=0).nonzero()
        inputs = slice(int(used[0]), int(used[-1]) + 1)
        bands.append(Band(lines, inputs, weights[lines, inputs].contiguous()))
    return tuple(bands)


def resize_images(
    images: Tensor, size: tuple[int, int], interpolation: Interpolation
) -> Float[Tensor, "b c h w"]:
    """Resize 8-bit images (b, c, _, _), antialiased; 0..255.

    Args:
        images: Of any size.
        size: New rows and columns.
        interpolation: The filter.
    """
    sides = (images.shape[-2], images.shape[-1])
    if size == sides:
        return images.float()
    if images.device.type == "cpu":
        rows, columns = (
            resizing_bands(side, new, first=0, ratio=side / new, interpolation=interpolation)
            for side, new in zip(sides, size, strict=True)
        )
        return _resize_by_bands(images, rows, columns)
    return _interpolate(images, interpolation, size=size)


def resize_crops(
    windows: Tensor,
    crop: int,
    *,
    first: int,
    scales: tuple[int, int],
    interpolation: Interpolation,
) -> Float[Tensor, "b c crop crop"]:
    """Resize 8-bit square windows (b, c, side, side), antialiased, and cut out a crop; 0..255.

    Args:
        windows: Of at least the side that the crop and its filter need.
        crop: Pixels of the crop.
        first: Where it begins in the resized window, in pixels of its own.
        scales: That of the window and that of the crop: their ratio counts, not that of the sides,
            which are rounded.
        interpolation: The filter.
    """
    if windows.device.type == "cpu":
        side, ratio = windows.shape[-1], scales[0] / scales[1]
        bands = resizing_bands(side, crop, first=first, ratio=ratio, interpolation=interpolation)
        return _resize_by_bands(windows, bands, bands)
    resized = _interpolate(windows, interpolation, scale_factor=scales[1] / scales[0])
    return resized[..., first : first + crop, first : first + crop].contiguous()


def _interpolate(images: Tensor, interpolation: Interpolation, **size: Any) -> Tensor:
    with exact_float32(images.device):
        return F.interpolate(
            images.float(),
            mode=interpolation,
            # Also when it enlarges: without it torch's bicubic is another filter (a = -0.75).
            antialias=True,
            align_corners=False,
            **size,
        ).clamp_(0, 255)


def _resize_by_bands(images: Tensor, rows: Sequence[Band], columns: Sequence[Band]) -> Tensor:
    """Resize images to the crop along either axis, and make nothing but the crop.

    One image at a time stays in the cache: two to four times as fast as `F.interpolate`, which
    gives the same values up to rounding.
    """
    b, c, h, w = images.shape
    height, width = rows[-1].lines.stop, columns[-1].lines.stop
    # A row of every channel side by side: so both products are wide, and none copies pixels.
    values = torch.empty(h, c, w, dtype=torch.float32)
    fewer_rows = torch.empty(height, c * w, dtype=torch.float32)
    resized = torch.empty(height * c, width, dtype=torch.float32)
    crops = torch.empty(b, c, height, width, dtype=torch.float32)
    with exact_float32(images.device):
        for image, place in zip(images, crops, strict=True):
            values.copy_(image.transpose(0, 1))
            lines = values.view(h, c * w)
            for band in rows:
                torch.mm(band.weights, lines[band.inputs], out=fewer_rows[band.lines])
            lines = fewer_rows.view(height * c, w).T
            for band in columns:
                torch.mm(band.weights, lines[band.inputs], out=resized.T[band.lines])
            torch.clamp(resized.view(height, c, width).transpose(0, 1), 0, 255, out=place)
    return crops

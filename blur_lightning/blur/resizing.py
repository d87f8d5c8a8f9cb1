"""8-bit images and windows to what a network sees: antialiased, and nothing but the crop."""

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from blur_lightning.blur.convolution import exact_float32
from blur_lightning.blur.separable import along_columns, along_rows, cut_in_blocks

Interpolation = Literal["bilinear", "bicubic"]

# Where each filter ends, in pixels of the coarser scale.
REACH = {"bilinear": 1, "bicubic": 2}
# Lines of the crop that one product makes: of 8, 12, 16, 24, 32 and 64 the fastest.
_BAND = 16
# Each phase is a call of its own: more of them than this gain nothing.
_PHASES = 8
# Windows that share a call: of 1, 2, 3, 4 and 6 the fastest.
_WINDOWS = 4


@dataclass(frozen=True, eq=False)
class Band:
    """Which lines of a window make some neighbouring lines of the crop, and their weights."""

    lines: slice
    inputs: slice
    weights: Float[Tensor, "lines inputs"]


@dataclass(frozen=True, eq=False)
class Phases:
    """The weights of q lines of the crop, which the next q repeat p lines further on.

    So each of them, its phase in the terms of polyphase filters, is a convolution.

    Attributes:
        start: First line of the window that has any weight.
        step: p; the crop has q lines for p of the window.
        taps: Weights of the first q lines, all for the same lines of the window.
        blocks: Weights of the first n q lines, about 16, as `along_rows` takes them: with blocks of
            n pixels, of which the step is p too. They bring 8-bit values to [0, 1].
    """

    start: int
    step: int
    taps: Float[Tensor, "q k"]
    blocks: Float[Tensor, "outputs inputs 1 reach"]


def _weights(
    side: int, crop: int, first: int, ratio: float, interpolation: Interpolation
) -> Float[Tensor, "crop side"]:
    """Weights of each line of a window in each line of the crop; see `resizing_bands`."""
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
    return (weights / weights.sum(dim=1, keepdim=True)).float()


def _used(weights: Tensor) -> slice:
    """Find the lines of a window that have any weight."""
    used = weights.any(dim=0).nonzero()
    return slice(int(used[0]), int(used[-1]) + 1)


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
    weights = _weights(side, crop, first, ratio, interpolation)
    bands = []
    for start in range(0, crop, _BAND):
        lines = slice(start, min(start + _BAND, crop))
        inputs = _used(weights[lines])
        bands.append(Band(lines, inputs, weights[lines, inputs].contiguous()))
    return tuple(bands)


@lru_cache
def resizing_phases(
    side: int, crop: int, *, first: int, ratio: float, interpolation: Interpolation
) -> Phases | None:
    """Find the phases of the matrix that `resizing_bands` cuts, whose arguments it has.

    Returns:
        None where the weights are not repeated, because the ratio is no small fraction or a filter
        ends at the edge of the window; and where torch comes without oneDNN.
    """
    fraction = Fraction(ratio).limit_denominator(_PHASES)
    p, q = fraction.numerator, fraction.denominator
    if crop <= q or not torch.backends.mkldnn.is_available():
        return None
    weights = _weights(side, crop, first, ratio, interpolation)
    repeated = F.pad(weights[:-q], (p, 0))[:, :side]
    if weights[:-q, -p:].any() or not torch.allclose(weights[q:], repeated, rtol=0, atol=1e-6):
        return None
    lines = max(1, min(_BAND, crop) // q)
    taps, block = weights[:q], weights[: lines * q]
    taps, block = taps[:, _used(taps)].contiguous(), block[:, _used(block)] / 255
    return Phases(_used(weights[:q]).start, p, taps, cut_in_blocks(block, lines))


def resize_images(
    images: Tensor, size: tuple[int, int], interpolation: Interpolation
) -> Float[Tensor, "b c h w"]:
    """Resize 8-bit images (b, c, _, _), antialiased; in [0, 1].

    Args:
        images: Of any size.
        size: New rows and columns.
        interpolation: The filter.
    """
    sides = (images.shape[-2], images.shape[-1])
    if size == sides:
        return images.float().div_(255)
    if images.device.type == "cpu" and not images.requires_grad:
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
    """Resize 8-bit square windows (b, c, side, side), antialiased, and cut out a crop; in [0, 1].

    Args:
        windows: Of at least the side that the crop and its filter need.
        crop: Pixels of the crop.
        first: Where it begins in the resized window, in pixels of its own.
        scales: That of the window and that of the crop: their ratio counts, not that of the sides,
            which are rounded.
        interpolation: The filter.
    """
    if windows.device.type == "cpu" and not windows.requires_grad:
        side = windows.shape[-1]
        axis: Any = {"first": first, "ratio": scales[0] / scales[1]}
        axis |= {"interpolation": interpolation}
        phases = resizing_phases(side, crop, **axis)
        if phases is not None:
            return _resize_by_phases(windows, crop, phases)
        bands = resizing_bands(side, crop, **axis)
        return _resize_by_bands(windows, bands, bands)
    resized = _interpolate(windows, interpolation, scale_factor=scales[1] / scales[0])
    return resized[..., first : first + crop, first : first + crop].contiguous()


def _interpolate(images: Tensor, interpolation: Interpolation, **size: Any) -> Tensor:
    with exact_float32(images.device):
        return (
            F.interpolate(
                images.float(),
                mode=interpolation,
                # Also when it enlarges: without it torch's bicubic is another filter (a = -0.75).
                antialias=True,
                align_corners=False,
                **size,
            )
            .clamp_(0, 255)
            .div_(255)
        )


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
            place.div_(255)
    return crops


def _resize_by_phases(windows: Tensor, crop: int, phases: Phases) -> Tensor:
    """Resize square windows to the crop: a convolution of columns for each phase, then of rows."""
    b, c = windows.shape[:2]
    q, reach = phases.taps.shape
    outputs, inputs, _, block_reach = phases.blocks.shape
    h = (-(-crop // q) - 1) * phases.step + reach
    w = (-(-crop // outputs) - 1 - (-block_reach // phases.step)) * phases.step * inputs
    used = windows[:, :, phases.start : phases.start + h, phases.start : phases.start + w]
    # What of them lies beyond the window is 0: it has no weight in the crop.
    memory = torch.zeros(_WINDOWS, c, h, w, dtype=torch.float32)
    crops = torch.empty(b, c, crop, crop, dtype=torch.float32)
    with exact_float32(windows.device):
        for few, places in zip(used.split(_WINDOWS), crops.split(_WINDOWS), strict=True):
            values = memory[: len(few)]
            values[:, :, : few.shape[2], : few.shape[3]] = few
            for phase, taps in enumerate(phases.taps):
                place = places[:, :, phase::q]
                rows = along_columns(values.flatten(0, 1), taps, step=phases.step)
                resized = along_rows(rows, phases.blocks, step=phases.step).unflatten(
                    0, (len(few), c)
                )
                torch.clamp(resized[:, :, : place.shape[2], :crop], 0, 1, out=place)
    return crops

"""Blur that varies over an image: a mask or a depth map chooses the kernel.

Every layer is the whole image under one blur; layers are averaged with weights that sum to 1 at
each pixel, in floating point and with a single rounding. So a constant image stays constant, no
seam is brighter or darker, and an image with one layer is bitwise what `blur_images` gives.

The kernel is chosen by the pixel that is written, not by those it draws on: a gather. Nothing is
occluded: a blurred foreground does not spread over a sharp background, and a sharp foreground
leaks into a blurred background.

The circle of confusion is that of Potmesil and Chakravarty 1982 (ACM Trans. Graphics 1, 85).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from blur_lightning.blur.blurring import blur_images
from blur_lightning.blur.border import Border
from blur_lightning.blur.convolution import convolve
from blur_lightning.blur.families import Blur, is_convolution, make_kernels
from blur_lightning.blur.kernels import Rim, disk_half_width
from blur_lightning.blur.light import Light, to_linear, to_srgb
from blur_lightning.errors import InputError

# In pixels; a disk of either rim that is no larger reaches no neighbour.
_SHARP_RADIUS = 0.5
# Steps of a softened mask: too fine to be seen, but coarser than the rounding of a Gaussian, which
# far from any edge would leave 1 - 1e-7 and so a second layer where there is none.
_MASK_STEPS = 2**16


def blur_regions(
    images: Shaped[Tensor, "b 3 h w"],
    inside: Sequence[Blur],
    outside: Sequence[Blur],
    mask: Float[Tensor, "b h w"] | Bool[Tensor, "b h w"],
    *,
    feather: float = 0.0,
    border: Border = "reflect",
    rim: Rim = "hard",
    light: Light = "srgb",
) -> Shaped[Tensor, "b 3 h w"]:
    """Blur each image in one way inside a mask and in another way outside.

    Args:
        images: uint8 (0..255) or float images; in [0, 1] if `light` is "linear".
        inside: The blur of each image where the mask is 1.
        outside: The blur of each image where the mask is 0, e.g. `Blur("sharp")`.
        mask: Share of `inside` in each pixel, in [0, 1], or where it holds.
        feather: Sigma of the Gaussian that softens the mask's edge, in pixels; 0 leaves it.
        border: What lies beyond the edge of an image; of the mask, its last row repeated.
        rim: How shapes become pixels; see `kernels`.
        light: What is averaged, by kernels and by the mask; see `blur_images`.

    Returns:
        The blurred images, same size, type and device. The same holds for the functions below.
    """
    _check_map("mask", mask, images)
    if not bool(((mask >= 0) & (mask <= 1)).all()):
        raise ValueError(f"mask: of shape {tuple(mask.shape)}, one value is outside [0, 1] or NaN")
    for name, blurs in (("inside", inside), ("outside", outside)):
        if len(blurs) != len(images):
            raise ValueError(f"{name}: {len(blurs)} blurs for {len(images)} images")
    if not 0 <= feather < math.inf:
        raise ValueError(f"feather: {feather} px is not 0 or more and finite")
    share = mask.to(torch.promote_types(mask.dtype, torch.float32))
    if feather > 0:
        gaussian = make_kernels([Blur("gaussian", feather)] * len(mask), device=mask.device)
        share = convolve(share[:, None], gaussian, "replicate")[:, 0]
        share = (share * _MASK_STEPS).round().clamp(0, _MASK_STEPS) / _MASK_STEPS
    weights = (share, 1 - share)
    return _blend(images, [inside, outside], weights.__getitem__, border, rim, light)


@dataclass(frozen=True)
class ThinLens:
    """A lens and its sensor: how large a point at a distance appears.

    Attributes:
        focal_length: In millimetres.
        f_number: Focal length over the diameter of the aperture.
        focus_distance: From the lens to what is sharp, in metres; beyond the focal length.
        pixel_pitch: Side of a pixel of the images, on the sensor, in micrometres; 62.5 is a sensor
            of 36 x 24 mm with 384 pixels on its smaller side.
    """

    focal_length: float
    f_number: float
    focus_distance: float
    pixel_pitch: float = 62.5

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 < (value := getattr(self, field.name)) < math.inf:
                raise InputError(f"lens.{field.name}: {value} is not above 0 and finite")
        if self.focus_distance * 1000 <= self.focal_length:
            raise InputError(
                f"lens.focus_distance: {self.focus_distance} m is not beyond the focal length, "
                f"{self.focal_length} mm"
            )

    def radius(self, depth: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Radius of the circle of confusion in pixels, half of f^2 / N * |d - s| / (d (s - f)).

        That is for focal length f, f-number N, depth d and focus distance s.

        Args:
            depth: Distance from the lens in metres, above 0; infinity is allowed.
        """
        if not bool((depth > 0).all()):
            shape = tuple(depth.shape)
            raise ValueError(f"depth: of shape {shape}, one value is not above 0 m or is NaN")
        depth = depth.to(torch.promote_types(depth.dtype, torch.float32))
        behind = 1000 * self.focus_distance - self.focal_length
        at_infinity = self.focal_length**2 / (self.f_number * behind)  # diameter in millimetres
        return (1 - self.focus_distance / depth).abs() * (at_infinity / 2 * 1000 / self.pixel_pitch)


def blur_by_radius(
    images: Shaped[Tensor, "b 3 h w"],
    radius: Float[Tensor, "b h w"],
    *,
    spacing: float = 0.5,
    border: Border = "reflect",
    rim: Rim = "area",
    light: Light = "srgb",
) -> Shaped[Tensor, "b 3 h w"]:
    """Give each pixel the mean over a disk of its own radius.

    Disks are computed for the smallest and the largest radius of each image's map and for the
    multiples of `spacing` between; a pixel takes the two next to it, with weights linear in
    1 / radius (up to 1.5 px half the error of weights linear in the radius). Beside a disk for
    every pixel, white noise and stripes of full contrast were off by at most 18 of 255 levels up
    to 1 px, by 11 up to 2 px and by 7 beyond.

    Args:
        images: As in `blur_regions`.
        radius: In pixels, at least 0; up to 0.5 a pixel stays sharp.
        spacing: Pixels between the disks that are computed: time and memory grow as it shrinks.
        border: As in `blur_regions`.
        rim: As there, but by area: a hard disk changes by jumps, the same for a range of radii.
        light: As in `blur_regions`.
    """
    _check_map("radius", radius, images)
    if not bool(((radius >= 0) & (radius < math.inf)).all()):
        shape = tuple(radius.shape)
        raise ValueError(f"radius: of shape {shape}, one value is negative, infinite or NaN")
    if not 0 < spacing < math.inf:
        raise ValueError(f"spacing: {spacing} px is not above 0 and finite")
    largest = radius.max().item() if radius.numel() else 0.0
    if border == "reflect" and disk_half_width(largest) >= min(images.shape[-2:]):
        raise ValueError(
            f"radius: up to {largest:g} px, which a reflected border of images of shape "
            f"{tuple(images.shape)} cannot fill; use border='replicate' or smaller radii"
        )
    radius = radius.to(torch.promote_types(radius.dtype, torch.float32)).clamp_min(_SHARP_RADIUS)
    levels = _levels(radius, spacing)
    layers = [
        [Blur("disk", r) if r > _SHARP_RADIUS else Blur("sharp") for r in layer]
        for layer in levels.T.tolist()
    ]
    return _blend(images, layers, _Between(levels, radius), border, rim, light)


def blur_by_depth(
    images: Shaped[Tensor, "b 3 h w"],
    depth: Float[Tensor, "b h w"],
    lens: ThinLens,
    *,
    spacing: float = 0.5,
    border: Border = "reflect",
    rim: Rim = "area",
    light: Light = "srgb",
) -> Shaped[Tensor, "b 3 h w"]:
    """Blur each pixel as a lens does what lies at its depth; see `blur_by_radius`.

    Args:
        images: As in `blur_regions`.
        depth: Distance from the lens in metres, above 0; infinity is allowed.
        lens: The lens, its focus and the pitch of the pixels.
        spacing: As in `blur_by_radius`.
        border: As in `blur_regions`.
        rim: As in `blur_by_radius`.
        light: As in `blur_regions`; "linear" is what a lens does.
    """
    _check_map("depth", depth, images)
    radius = lens.radius(depth)
    return blur_by_radius(images, radius, spacing=spacing, border=border, rim=rim, light=light)


def _blend(
    images: Shaped[Tensor, "b 3 h w"],
    layers: Sequence[Sequence[Blur]],
    weight: Callable[[int], Tensor],
    border: Border,
    rim: Rim,
    light: Light,
) -> Shaped[Tensor, "b 3 h w"]:
    """Average layers, each with one blur an image, by weights of sum 1 in each pixel.

    The weights (b, h, w) of a layer are asked for twice, as all of them may not fit into memory. A
    layer is not computed for the images in which its weight is 0 throughout.
    """
    if not len(images):
        return images.clone()
    dtype = torch.promote_types(images.dtype, torch.float32)
    active = torch.stack([weight(n).flatten(1).any(dim=1) for n in range(len(layers))], dim=1)
    mixed = active.sum(dim=1) > 1
    single = (~mixed).nonzero()[:, 0]
    chosen = zip(single.tolist(), active[single].int().argmax(dim=1).tolist(), strict=True)
    alone = [layers[layer][image] for image, layer in chosen]
    result = torch.empty_like(images)
    result[single] = blur_images(images[single], alone, border=border, rim=rim, light=light)
    if not mixed.any():
        return result
    values = (to_linear(images) if light == "linear" else images).to(dtype)
    peak = 1 if light == "linear" or images.is_floating_point() else 255
    total = torch.zeros_like(values)
    for layer, blurs in enumerate(layers):
        index = (active[:, layer] & mixed).nonzero()[:, 0]
        chosen_blurs = [blurs[i] for i in index.tolist()]
        blurred = _layer(values[index], chosen_blurs, peak, border, rim)
        total[index] += weight(layer)[index, None].to(dtype) * blurred
    total = total[mixed]
    if light == "linear":
        result[mixed] = to_srgb(total, images.dtype)
    else:
        result[mixed] = (total if images.is_floating_point() else total.round()).to(images.dtype)
    return result


def _layer(values: Tensor, blurs: Sequence[Blur], peak: int, border: Border, rim: Rim) -> Tensor:
    """Blur float values that run to a peak; a convolution does without scaling them."""
    if all(is_convolution(blur.family) and blur.share == 100 for blur in blurs):
        return convolve(values, make_kernels(blurs, rim=rim, device=values.device), border)
    return blur_images(values / peak, blurs, border=border, rim=rim) * peak


def _levels(radius: Float[Tensor, "b h w"], spacing: float) -> Float[Tensor, "b n"]:
    """Least radius of each map, multiples of the spacing, and its largest, which may repeat."""
    low, high = radius.flatten(1).aminmax(dim=1)
    first = (low / spacing).floor()
    steps = max(((high / spacing).ceil() - first).int().tolist(), default=0)
    inner = (first[:, None] + torch.arange(1, steps + 1, device=radius.device)) * spacing
    return torch.cat([low[:, None], inner.clamp(low[:, None], high[:, None])], dim=1)


class _Between:
    """Weights of the levels in each pixel: of the two next to its radius, linear in 1 / radius."""

    def __init__(self, levels: Float[Tensor, "b n"], radius: Float[Tensor, "b h w"]) -> None:
        self._inverse, self._place = 1 / levels[:, :, None, None], 1 / radius

    def __call__(self, layer: int) -> Float[Tensor, "b h w"]:
        return self._reached(layer) - self._reached(layer + 1)

    def _reached(self, layer: int) -> Tensor:
        """How far a pixel has come from the level before to this one; beyond the last: not."""
        if layer == 0:
            return torch.ones_like(self._place)
        if layer == self._inverse.shape[1]:
            return torch.zeros_like(self._place)
        before, here = self._inverse[:, layer - 1], self._inverse[:, layer]
        # No way at all where a level repeats the last.
        gap = (before - here).clamp_min(torch.finfo(here.dtype).tiny)
        return ((before - self._place) / gap).clamp(0, 1)


def _check_map(name: str, values: Tensor, images: Tensor) -> None:
    shape = tuple(images.shape)
    if images.ndim != 4 or 0 in shape[1:]:
        raise ValueError(f"images: shape {shape} is not (b, c, h, w) of 1 pixel and more")
    if tuple(values.shape) != (shape[0], *shape[2:]):
        raise ValueError(
            f"{name}: shape {tuple(values.shape)} is not (b, h, w) of images of shape {shape}"
        )
    if values.device != images.device:
        raise ValueError(
            f"{name}: shape {tuple(values.shape)} on {values.device}, images on {images.device}"
        )

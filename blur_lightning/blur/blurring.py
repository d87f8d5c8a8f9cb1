"""Images x drawn blurs -> blurred images: what data modules and the command line call."""

from collections.abc import Sequence
from typing import get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from blur_lightning.blur.border import Border
from blur_lightning.blur.convolution import (
    check_images,
    check_reflection,
    convolve,
    without_margin,
)
from blur_lightning.blur.families import Blur, check_blurs, half_width, is_convolution, make_kernels
from blur_lightning.blur.imagenet_c import corrupt
from blur_lightning.blur.kernels import Rim
from blur_lightning.blur.light import Light, to_linear, to_srgb
from blur_lightning.blur.regions import random_regions
from blur_lightning.errors import InputError


def blur_images(
    images: Shaped[Tensor, "b 3 h w"],
    blurs: Sequence[Blur] | Float[Tensor, "b *c k l"],
    *,
    border: Border = "reflect",
    rim: Rim = "hard",
    light: Light = "srgb",
    margin: int = 0,
) -> Shaped[Tensor, "b 3 _ _"]:
    """Blur each image with its own blur.

    Args:
        images: uint8 (0..255) or float images; in [0, 1] if `light` is "linear".
        blurs: One for each image, as `BlurDistribution.draw` gives them; or a kernel for each, as
            `convolve` takes them.
        border: What lies beyond the edge of an image; see `convolve`.
        rim: How shapes become pixels; see `kernels`.
        light: Whether values are averaged as the file has them, which is what the papers do, or
            the light that they stand for, which is what a camera does.
        margin: Pixels at each edge that are there to be drawn on: they are cut off the result.

    Returns:
        The blurred images, same type and device, same size but for the margin.

    Raises:
        ValueError: As `convolve`; a blur is none that can be drawn; or a float value outside
            [0, 1] is to be light.
    """
    check_images(images)
    if isinstance(blurs, Tensor):
        values = images if light == "srgb" else to_linear(images)
        blurred = convolve(values, blurs, border, margin=margin)
        return blurred if light == "srgb" else to_srgb(blurred, images.dtype)
    check_blurs(blurs)
    if len(blurs) != len(images):
        raise ValueError(f"blurs: {len(blurs)} for images of shape {tuple(images.shape)}; one each")
    if light not in get_args(Light):
        raise InputError(f"light: '{light}' is none of {', '.join(get_args(Light))}")
    if border == "reflect":  # before kernels are made
        for blur in blurs:
            check_reflection(images, _reach(blur), "blurs", blur)
    values = images if light == "srgb" else to_linear(images)
    others: dict[tuple[str, float], list[int]] = {}
    for index, blur in enumerate(blurs):
        if not is_convolution(blur.family):
            others.setdefault((blur.family, blur.parameter), []).append(index)
    alone = {index for indices in others.values() for index in indices}
    kernels = [Blur("sharp") if index in alone else blur for index, blur in enumerate(blurs)]
    made = make_kernels(kernels, rim=rim, device=images.device)
    blurred = convolve(values, made, border, margin=margin)
    for (family, severity), indices in others.items():
        corrupted = corrupt(
            values[indices],
            family,
            int(severity),
            angles=[blurs[index].angle for index in indices],
            keys=[blurs[index].key for index in indices],
            border=border,
        )
        blurred[indices] = without_margin(corrupted, margin)
    if light == "linear":
        blurred = to_srgb(blurred, images.dtype)
    parts = [index for index, blur in enumerate(blurs) if blur.share < 100]
    if parts:
        keys, shares = ([getattr(blurs[i], name) for i in parts] for name in ("key", "share"))
        size = (images.shape[-2], images.shape[-1])
        mask = random_regions(keys, share=[s / 100 for s in shares], size=size)
        mask = without_margin(mask, margin)[:, None].to(images.device)
        blurred[parts] = torch.where(mask, blurred[parts], without_margin(images[parts], margin))
    return blurred


def _reach(blur: Blur) -> tuple[int, int]:
    """Rows and columns that a blur's kernel reaches to each side; 0 for what has none."""
    reach = half_width(blur.family, blur.parameter) if is_convolution(blur.family) else 0
    return 0 if blur.family == "horizontal" else reach, 0 if blur.family == "vertical" else reach

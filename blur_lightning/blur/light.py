"""sRGB values and the light they stand for (IEC 61966-2-1).

Lenses and motion mix light, while a file holds values that are roughly its square root: blurred in
light, a lamp at night spreads a bright disk; blurred in values, as the papers do, a dim one.
"""

from functools import cache
from typing import Literal

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

# What is averaged: the values of the file, or the light they stand for.
Light = Literal["srgb", "linear"]


def to_linear(images: Shaped[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Turn sRGB values into light in [0, 1].

    Args:
        images: uint8 in 0..255, or float in [0, 1].

    Raises:
        ValueError: A float value lies outside [0, 1], where sRGB has no meaning.
    """
    if images.dtype == torch.uint8:
        return _linear_levels().to(images.device)[images.int()]
    if not images.is_floating_point():
        raise ValueError(f"images: {images.dtype} of shape {tuple(images.shape)} is no light")
    if images.numel() and not bool(((images >= 0) & (images <= 1)).all()):
        low, high = images.aminmax()
        raise ValueError(
            f"images: values of shape {tuple(images.shape)} run from {low:g} to {high:g}; linear "
            "light needs [0, 1]: divide by 255, and normalise after the blur"
        )
    return torch.where(images <= 0.04045, images / 12.92, ((images + 0.055) / 1.055) ** 2.4)


def to_srgb(light: Float[Tensor, "*shape"], dtype: torch.dtype) -> Shaped[Tensor, "*shape"]:
    """Turn light in [0, 1] into sRGB values: uint8 by rounding half to even, or float."""
    # A power has no finite slope at 0, so gradients need a floor under the branch not taken.
    curved = 1.055 * light.clamp_min(0.0031308) ** (1 / 2.4) - 0.055
    values = torch.where(light <= 0.0031308, 12.92 * light, curved)
    if dtype.is_floating_point:
        return values.to(dtype)
    return (values * 255).round().clamp(0, 255).to(dtype)


@cache
def _linear_levels() -> Float[Tensor, "256"]:
    return to_linear(torch.arange(256, dtype=torch.float64) / 255).float()

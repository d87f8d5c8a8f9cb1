"""What the network sees of a scene: canonical scale -> blur -> 8 bits -> network scale -> crop.

The order is that of Vasiljevic et al. 2016 (arXiv 1611.05760), section 3: an image is resized so
that its smaller side has the canonical scale, which gives a blur of so many pixels the same
meaning for all images; the blurred image is stored with 8 bits; only then it is resized to the
scale of the network.

The data set does the first step and cuts out the window that the crop needs, with a margin for
the kernel (`window_side`, `cut_window`); all that follows runs on the device, for a whole batch.
Cutting first does not change the result: what lies beyond an image is filled by the border rule
when the window is cut, and the resize keeps the exact ratio of the two scales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from blur_lightning.blur.convolution import Border, convolve
from blur_lightning.blur.families import Blur, make_kernels
from blur_lightning.blur.kernels import Rim
from blur_lightning.errors import InputError

_PADDING = {"reflect": "reflect", "replicate": "edge", "constant": "constant"}


@dataclass(frozen=True)
class Capture:
    """From images at the canonical scale to the network's input.

    Attributes:
        canonical: Smaller side of an image when it is blurred, in pixels.
        scale: Smaller side of the whole image at the network's scale, in pixels.
        crop: Side of the square that the network sees, in pixels of its scale.
        border: What lies beyond the edge of an image; the paper does not say.
        rim: Whether pixels at a shape's rim count whole ("hard") or by area.
        interpolation: Filter of both resizes, antialiased; the paper does not say.
    """

    canonical: int = 384
    scale: int = 256
    crop: int = 224
    border: Border = "reflect"
    rim: Rim = "hard"
    interpolation: Literal["bilinear", "bicubic"] = "bicubic"

    def __post_init__(self) -> None:
        for name in ("canonical", "scale", "crop"):
            if getattr(self, name) < 1:
                raise InputError(f"capture.{name}: {getattr(self, name)} is not 1 pixel or more")
        if self.crop > self.scale:
            raise InputError(
                f"capture.crop: {self.crop} pixels do not fit an image of scale {self.scale}; "
                "enlarge capture.scale too"
            )

    @property
    def window_side(self) -> int:
        """Side of the square that the crop is made from, in pixels at the canonical scale."""
        return ceil((self.crop + 2 * self._apron) * self.canonical / self.scale)

    @property
    def _apron(self) -> int:
        """Pixels of the network's scale around the crop that its resampling filter reaches."""
        if self.scale == self.canonical:
            return 0
        taps = 2 if self.interpolation == "bicubic" else 1
        return ceil(taps * max(1.0, self.scale / self.canonical)) + 1

    def __call__(
        self, windows: UInt8[Tensor, "b 3 s s"], blurs: Sequence[Blur]
    ) -> Float[Tensor, "b 3 crop crop"]:
        """Blur each window, store it with 8 bits, resize it and cut out the crop.

        Args:
            windows: Squares from `cut_window`: `window_side` and a margin around it.
            blurs: One for each window; none may reach further than the margin.

        Returns:
            Values of 8-bit images as the paper has them, divided by 255, before normalising.
        """
        margin = (windows.shape[-1] - self.window_side) // 2
        blurred = convolve(
            windows,
            make_kernels(blurs, rim=self.rim, device=windows.device),
            # The window brings its border along; what this one fills in is cut off again. Of all
            # borders it is the cheapest on a GPU, and never too wide.
            border="replicate",
        )
        side = self.window_side
        inner = blurred[..., margin : margin + side, margin : margin + side].float()
        if self.scale != self.canonical:
            inner = self._resize(inner)
        start = self._apron
        return inner[..., start : start + self.crop, start : start + self.crop] / 255

    def _resize(self, images: Tensor) -> Tensor:
        with torch.autocast(images.device.type, enabled=False):
            resized = F.interpolate(
                images,
                scale_factor=self.scale / self.canonical,
                mode=self.interpolation,
                # Also when it enlarges: without it torch's bicubic is another filter (a = -0.75).
                antialias=True,
                align_corners=False,
            )
        return resized.clamp(0, 255)


def normalize(
    images: Float[Tensor, "b 3 h w"], *, mean: Sequence[float], std: Sequence[float]
) -> Float[Tensor, "b 3 h w"]:
    """Shift and scale each channel of images in [0, 1] as the network was trained with."""
    shape = (3, 1, 1)
    return (images - images.new_tensor(mean).view(shape)) / images.new_tensor(std).view(shape)


def cut_window(
    image: NDArray[np.uint8],
    *,
    side: int,
    margin: int,
    place: tuple[float, float] = (0.5, 0.5),
    border: Border = "reflect",
) -> NDArray[np.uint8]:
    """Cut a square out of an image, filling what lies beyond the image by the border rule.

    Args:
        image: (h, w, 3).
        side: Side of the square that is wanted, in pixels.
        margin: Pixels more on each side of it.
        place: Where it lies between top and bottom, left and right, each in [0, 1]; 0.5 is centred.
        border: What fills the outside.

    Returns:
        (side + 2 margin, side + 2 margin, 3).
    """
    pads, cuts = [], []
    for length, fraction in zip(image.shape[:2], place, strict=True):
        start = round((length - side) * fraction) - margin
        stop = start + side + 2 * margin
        pads.append((max(0, -start), max(0, stop - length)))
        cuts.append(slice(max(0, start), min(length, stop)))
    inside = image[cuts[0], cuts[1]]
    return np.pad(inside, (*pads, (0, 0)), mode=_PADDING[border])  # type: ignore[call-overload]

"""What the network sees of a scene: canonical scale -> blur -> 8 bits -> network scale -> crop.

The order is that of Vasiljevic et al. 2016 (arXiv 1611.05760), section 3: an image is resized so
that its smaller side has the canonical scale, which gives a blur of so many pixels the same
meaning for all images; the blurred image is stored with 8 bits; only then it is resized to the
scale of the network.

The data set does the first step and cuts out the window that the crop needs, with a margin for
the kernel (`window_side`, `cut_window`); all that follows runs on the device, for a whole batch.
Cutting first does not change the result: what lies beyond an image is filled by the border rule
when the window is cut, and the resize keeps the exact ratio of the two scales.

ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) has the opposite order, "crop_first":
the network's crop is blurred, with a border at the crop's own edge, and stored as JPEG.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from math import ceil
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from blur_lightning.blur.blurring import blur_images
from blur_lightning.blur.border import Border
from blur_lightning.blur.convolution import exact_float32
from blur_lightning.blur.families import Blur, half_width, is_convolution
from blur_lightning.blur.kernels import Rim
from blur_lightning.blur.light import Light
from blur_lightning.blur.resizing import REACH, Band, Interpolation, resize_by_bands, resizing_bands
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
        light: Whether a blur averages the values of the file ("srgb"), as the papers do, or the
            light that they stand for ("linear"), as a camera does.
        order: Blur, then resize and crop, as Vasiljevic et al. do; or crop, then blur, as
            ImageNet-C does, which needs scale and canonical to be the same.
        jpeg_quality: Store the blurred crop as JPEG of this quality, 1 to 100; ImageNet-C: 85.
            Only with crop_first. None stores 8 bits without loss.
    """

    canonical: int = 384
    scale: int = 256
    crop: int = 224
    border: Border = "reflect"
    rim: Rim = "hard"
    interpolation: Interpolation = "bicubic"
    light: Light = "srgb"
    order: Literal["blur_first", "crop_first"] = "blur_first"
    jpeg_quality: int | None = None

    def __post_init__(self) -> None:
        for name in ("canonical", "scale", "crop"):
            if getattr(self, name) < 1:
                raise InputError(f"capture.{name}: {getattr(self, name)} is not 1 pixel or more")
        if self.crop > self.scale:
            raise InputError(
                f"capture.crop: {self.crop} pixels do not fit an image of scale {self.scale}; "
                "enlarge capture.scale too"
            )
        if self.order == "crop_first" and self.scale != self.canonical:
            raise InputError(
                f"capture.order: crop_first blurs at the network's scale, {self.scale} pixels; "
                f"set capture.canonical {self.scale} too"
            )
        if self.jpeg_quality is not None:
            if not 1 <= self.jpeg_quality <= 100:
                raise InputError(f"capture.jpeg_quality: {self.jpeg_quality} is not 1 to 100")
            if self.order != "crop_first":
                raise InputError("capture.jpeg_quality: set capture.order crop_first too")

    @property
    def variant(self) -> str:
        """What differs from the defaults, scales apart: "light linear, rim area"; "" is nothing."""
        names = ("border", "rim", "interpolation", "light", "order", "jpeg_quality")
        changed = [name for name in names if getattr(self, name) != getattr(Capture, name)]
        return ", ".join(f"{name} {getattr(self, name)}" for name in changed)

    @property
    def window_side(self) -> int:
        """Side of the square that the crop is made from, in pixels at the canonical scale."""
        return ceil((self.crop + 2 * self._apron) * self.canonical / self.scale)

    def margin(self, reach: int) -> int:
        """Pixels around a window that blurs which reach so far draw on."""
        return 0 if self.order == "crop_first" else reach

    @property
    def _apron(self) -> int:
        """Pixels of the network's scale around the crop that its resampling filter reaches."""
        if self.scale == self.canonical:
            return 0
        return ceil(REACH[self.interpolation] * max(1.0, self.scale / self.canonical)) + 1

    @property
    def _bands(self) -> tuple[Band, ...]:
        return resizing_bands(
            self.window_side,
            self.crop,
            first=self._apron,
            ratio=self.canonical / self.scale,
            interpolation=self.interpolation,
        )

    def __call__(
        self, windows: UInt8[Tensor, "b 3 s s"], blurs: Sequence[Blur]
    ) -> Float[Tensor, "b 3 crop crop"]:
        """Blur each window, store it with 8 bits, resize it and cut out the crop.

        Args:
            windows: Squares from `cut_window`: `window_side` and a margin around it.
            blurs: One for each window; none may reach further than the margin, unless the crop
                comes first: then none may reach further than a reflected border can be filled.

        Returns:
            Values of 8-bit images as the paper has them, divided by 255, before normalising.
        """
        parts = self._alike(blurs)
        if len(parts) == 1:
            blurred = self._blur(windows, blurs, *parts)
        else:
            blurred = windows.new_empty(len(windows), 3, self.window_side, self.window_side)
            for reach, indices in parts.items():
                chosen = [blurs[index] for index in indices]
                blurred[indices] = self._blur(windows[indices], chosen, reach)
        if self.jpeg_quality is not None:
            blurred = _through_jpeg(blurred, self.jpeg_quality)
        return self._resize(blurred).div_(255)

    def _blur(self, windows: Tensor, blurs: Sequence[Blur], reach: int) -> Tensor:
        """Blur windows with the margin that blurs of such a reach need, and cut it off."""
        windows = _centre(windows, self.window_side + 2 * self.margin(reach))
        return blur_images(
            windows,
            blurs,
            # With the blur first a window brings its border along. This one is never too wide.
            border=self.border if self.order == "crop_first" else "replicate",
            rim=self.rim,
            light=self.light,
            margin=(windows.shape[-1] - self.window_side) // 2,
        )

    def _alike(self, blurs: Sequence[Blur]) -> dict[int, list[int]]:
        """Which blurs of a batch can be made on windows with the same margin, by that margin.

        The margin of a window may be there for wider blurs. For convolutions it makes no
        difference, so the widest of the batch decides; but what glass draws belongs to the size.
        """
        reaches = [half_width(blur.family, blur.parameter) for blur in blurs]
        spread = [is_convolution(blur.family) for blur in blurs]
        widest = max((reach for reach, s in zip(reaches, spread, strict=True) if s), default=0)
        parts: dict[int, list[int]] = {}
        for index, (reach, s) in enumerate(zip(reaches, spread, strict=True)):
            parts.setdefault(widest if s else reach, []).append(index)
        return parts

    def _resize(self, windows: Tensor) -> Tensor:
        """Resize 8-bit windows and cut out the crop: float, 0..255, in memory of its own."""
        if self.scale == self.canonical:
            return windows.float()
        with exact_float32(windows.device):
            if windows.device.type == "cpu":
                return resize_by_bands(windows, self._bands)
            resized = F.interpolate(
                windows.float(),
                scale_factor=self.scale / self.canonical,
                mode=self.interpolation,
                # Also when it enlarges: without it torch's bicubic is another filter (a = -0.75).
                antialias=True,
                align_corners=False,
            )
        crop = slice(self._apron, self._apron + self.crop)
        return resized[..., crop, crop].clamp(0, 255)


def _centre(images: Tensor, side: int) -> Tensor:
    """Cut the central squares out of square images, or return those that are smaller."""
    start = max(0, (images.shape[-1] - side) // 2)
    return images[..., start : start + side, start : start + side]


def _through_jpeg(images: Tensor, quality: int) -> Tensor:
    stored = np.empty((len(images), *images.shape[2:], 3), np.uint8)
    for image, place in zip(images.permute(0, 2, 3, 1).cpu().numpy(), stored, strict=True):
        file = BytesIO()
        Image.fromarray(image).save(file, "jpeg", quality=quality)
        place[:] = Image.open(file)
    return torch.from_numpy(stored).permute(0, 3, 1, 2).to(images.device)


def normalize(
    images: Float[Tensor, "b 3 h w"],
    *,
    mean: Sequence[float],
    std: Sequence[float],
    inplace: bool = False,
) -> Float[Tensor, "b 3 h w"]:
    """Shift and scale each channel of images in [0, 1] as the network was trained with.

    Args:
        images: Float images.
        mean: Of each channel, in [0, 1].
        std: Of each channel, more than 0.
        inplace: Overwrite the images, which is cheaper than fresh memory.
    """
    shape = (3, 1, 1)
    images = images if inplace else images.clone()
    return images.sub_(images.new_tensor(mean).view(shape)).div_(images.new_tensor(std).view(shape))


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

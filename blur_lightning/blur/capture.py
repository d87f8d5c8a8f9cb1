"""What the network sees of a scene: canonical scale -> blur -> 8 bits -> network scale -> crop.

The order is that of Vasiljevic et al. 2016 (arXiv 1611.05760), section 3: an image is resized so
that its smaller side has the canonical scale, which gives a blur of so many pixels the same
meaning for all images; the blurred image is stored with 8 bits; only then it is resized to the
scale of the network. For segmentation (section 5) the geometric mean of both sides has it instead.

The data set does the first step and cuts out the window that the crop needs, with a margin for
the kernel (`window_side`, `cut_window`); all that follows runs on the device, for a whole batch.
Cutting first does not change the result: what lies beyond an image is filled by the border rule
when the window is cut, and the resize keeps the exact ratio of the two scales.

ImageNet-C (Hendrycks and Dietterich 2019, arXiv 1903.12261) has the opposite order, "crop_first":
the network's crop is blurred, with a border at the crop's own edge, and stored as JPEG.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from io import BytesIO
from math import ceil
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, Shaped
from PIL import Image
from torch import Tensor

from blur_lightning.blur.blurring import blur_images
from blur_lightning.blur.border import Border
from blur_lightning.blur.families import Blur, half_width, is_convolution
from blur_lightning.blur.kernels import Rim
from blur_lightning.blur.light import Light
from blur_lightning.blur.resizing import REACH, Interpolation, resize_crops, resize_images
from blur_lightning.errors import InputError
from blur_lightning.images import Measure


@dataclass(frozen=True)
class Capture:
    """From images at the canonical scale to the network's input.

    Attributes:
        canonical: Smaller side of an image when it is blurred, in pixels, or another `measure`.
        scale: The same of the whole image at the network's scale, in pixels. Of several a
            training image gets one at random, and in a test the network sees all.
        crop: Side of the square that the network sees, in pixels of its scale; or the whole image,
            for networks that take any size (see `models.dense`). Training needs a square.
        border: What lies beyond the edge of an image; the paper does not say.
        rim: Whether pixels at a shape's rim count whole ("hard") or by area.
        interpolation: Filter of both resizes, antialiased; the paper does not say.
        light: Whether a blur averages the values of the file ("srgb"), as the papers do, or the
            light that they stand for ("linear"), as a camera does.
        order: Blur, then resize and crop, as Vasiljevic et al. do; or crop, then blur, as
            ImageNet-C does, which needs scale and canonical to be the same.
        jpeg_quality: Store the blurred crop as JPEG of this quality, 1 to 100; ImageNet-C: 85.
            Only with crop_first. None stores 8 bits without loss.
        measure: What of an image has the canonical scale: "smaller_side"; "geometric_mean", the
            square root of width times height; both sides in pixels, to which images are
            stretched, lying or upright: [256, 336] is Zoomout's; or "native", which keeps the
            pixels of the file: then scale and canonical are the same number, of no meaning.
    """

    canonical: int = 384
    scale: int | tuple[int, ...] = 256
    crop: int | Literal["whole"] = 224
    border: Border = "reflect"
    rim: Rim = "hard"
    interpolation: Interpolation = "bicubic"
    light: Light = "srgb"
    order: Literal["blur_first", "crop_first"] = "blur_first"
    jpeg_quality: int | None = None
    measure: Measure = "smaller_side"

    def __post_init__(self) -> None:
        if not self.scales or len(set(self.scales)) < len(self.scales):
            raise InputError("capture.scale: name at least one, each once")
        sides = {"canonical": self.canonical, "scale": min(self.scales), "crop": self.crop}
        for name, side in sides.items():
            if isinstance(side, int) and side < 1:
                raise InputError(f"capture.{name}: {side} is not 1 pixel or more")
        if isinstance(self.measure, tuple) and self.canonical != min(self.measure):
            raise InputError(
                f"capture.measure: {min(self.measure)} is the smaller side when an image is "
                f"blurred; set capture.canonical {min(self.measure)} too"
            )
        if self.measure == "native" and self.scales != (self.canonical,):
            raise InputError(
                f"capture.measure: native images keep their size; set capture.scale "
                f"{self.canonical} and capture.canonical {self.canonical}"
            )
        # Other measures leave images with sides of any length: beyond them the border goes on.
        fits = isinstance(self.crop, str) or self.crop <= min(self.scales)
        if self.measure == "smaller_side" and not fits:
            raise InputError(
                f"capture.crop: {self.crop} pixels do not fit an image of scale "
                f"{min(self.scales)}; enlarge capture.scale too"
            )
        if self.order == "crop_first" and (self.scales != (self.canonical,) or self.whole):
            raise InputError(
                f"capture.order: crop_first blurs a crop at the network's scale, {self.scale_name} "
                f"pixels; set a capture.crop, and capture.canonical {self.scale_name} too"
            )
        if self.jpeg_quality is not None:
            if not 1 <= self.jpeg_quality <= 100:
                raise InputError(f"capture.jpeg_quality: {self.jpeg_quality} is not 1 to 100")
            if self.order != "crop_first":
                raise InputError("capture.jpeg_quality: set capture.order crop_first too")

    @property
    def variant(self) -> str:
        """What differs from the defaults, scales apart: "light linear, rim area"; "" is nothing."""
        names = ("measure", "border", "rim", "interpolation", "light", "order", "jpeg_quality")
        changed = [name for name in names if getattr(self, name) != getattr(Capture, name)]
        values = {name: getattr(self, name) for name in (["crop"] if self.whole else []) + changed}
        if isinstance(self.measure, tuple):
            values["measure"] = "x".join(map(str, sorted(self.measure)))
        return ", ".join(f"{name} {value}" for name, value in values.items())

    @property
    def scales(self) -> tuple[int, ...]:
        """Each scale of the network, in pixels."""
        return (self.scale,) if isinstance(self.scale, int) else tuple(self.scale)

    @property
    def whole(self) -> bool:
        """Whether the network sees whole images."""
        return self.crop == "whole"

    @property
    def scale_name(self) -> str:
        """As records name it: 256, 256+512, or native."""
        return "native" if self.measure == "native" else "+".join(map(str, self.scales))

    @property
    def window_side(self) -> int:
        """Side of the square that the crop is made from, in canonical pixels."""
        return self.window_side_at(min(self.scales))

    def window_side_at(self, scale: int) -> int:
        """The same for one of several scales: the smallest has the largest square."""
        assert isinstance(self.crop, int)  # whole images have none
        return ceil((self.crop + 2 * self._apron(scale)) * self.canonical / scale)

    def margin(self, reach: int) -> int:
        """Pixels around a window that blurs which reach so far draw on."""
        return 0 if self.order == "crop_first" or self.whole else reach

    def _apron(self, scale: int) -> int:
        """Pixels of the network's scale around the crop that its resampling filter reaches."""
        if scale == self.canonical:
            return 0
        return ceil(REACH[self.interpolation] * max(1.0, scale / self.canonical)) + 1

    def __call__(
        self, windows: Shaped[Tensor, "b 3 h w"], blurs: Sequence[Blur] | Tensor
    ) -> Float[Tensor, "b 3 _ _"] | list[Float[Tensor, "b 3 _ _"]]:
        """Blur each image, store it with 8 bits, resize it and cut out the crop.

        Args:
            windows: Squares from `cut_window`: `window_side` and a margin around it; or, where
                the crop is whole, images of one size at the canonical scale. Of 0 to 255: 8 bits,
                or float where gradients are to be followed, which rounds nothing.
            blurs: One for each; none may reach further than the margin, unless there is none
                (the crop comes first, or is whole): then none may reach further than a
                reflected border can be filled. Or a kernel for each, (b, k, k).

        Returns:
            Values of 8-bit images, divided by 255, before normalising; of several scales a list.
        """
        blurred = self._blurred(windows, blurs)
        inputs = [self._resize(blurred, scale) for scale in self.scales]
        return inputs[0] if len(inputs) == 1 else inputs

    def at_scales(
        self, windows: Tensor, blurs: Sequence[Blur] | Tensor, scales: Sequence[int]
    ) -> Tensor:
        """Do the same with each window at a scale of its own.

        Args:
            windows: (b, 3, s, s); what a scale does not need around its own may hold anything.
            blurs: One for each.
            scales: One of the capture's for each.
        """
        assert isinstance(self.crop, int)
        margin = windows.shape[-1] - self.window_side
        crops = windows.new_empty(len(windows), 3, self.crop, self.crop, dtype=torch.float32)
        for scale in set(scales):
            capture = replace(self, scale=scale)
            indices = [index for index, chosen in enumerate(scales) if chosen == scale]
            parts = _centre(windows[indices], capture.window_side + margin)
            own = blurs[indices] if isinstance(blurs, Tensor) else [blurs[i] for i in indices]
            blurred = capture._blurred(parts, own)
            crops[indices] = capture._resize(blurred, scale)
        return crops

    def _blurred(self, windows: Tensor, blurs: Sequence[Blur] | Tensor) -> Tensor:
        """Blur windows or whole images; 8 bits."""
        if self.whole:
            return blur_images(windows, blurs, border=self.border, rim=self.rim, light=self.light)
        if isinstance(blurs, Tensor):
            blurred = self._blur(windows, blurs, blurs.shape[-1] // 2)
        elif len(parts := self._alike(blurs)) == 1:
            blurred = self._blur(windows, blurs, *parts)
        else:
            blurred = windows.new_empty(len(windows), 3, self.window_side, self.window_side)
            for reach, indices in parts.items():
                chosen = [blurs[index] for index in indices]
                blurred[indices] = self._blur(windows[indices], chosen, reach)
        return blurred if self.jpeg_quality is None else _through_jpeg(blurred, self.jpeg_quality)

    def _blur(self, windows: Tensor, blurs: Sequence[Blur] | Tensor, reach: int) -> Tensor:
        """Blur windows with the margin that blurs of such a reach need, and cut it off."""
        windows = _centre(windows, self.window_side + 2 * self.margin(reach))
        return blur_images(
            windows,
            blurs,
            # With the blur first a window brings its own border; this one is never too wide.
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

    def _resize(self, blurred: Tensor, scale: int) -> Tensor:
        """Resize images and cut out the crop: float, in [0, 1], in memory of its own."""
        if isinstance(self.crop, str):
            sides = (blurred.shape[-2], blurred.shape[-1])
            rows, columns = (max(1, round(side * scale / self.canonical)) for side in sides)
            return resize_images(blurred, (rows, columns), self.interpolation)
        blurred = _centre(blurred, self.window_side_at(scale))
        if scale == self.canonical:
            return blurred.float().div_(255)
        return resize_crops(
            blurred,
            self.crop,
            first=self._apron(scale),
            scales=(self.canonical, scale),
            interpolation=self.interpolation,
        )


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
        mean: Of each channel.
        std: Of each channel, more than 0.
        inplace: Overwrite the images, which is cheaper than fresh memory.
    """
    shape = (3, 1, 1)
    images = images if inplace else images.clone()
    return images.sub_(images.new_tensor(mean).view(shape)).div_(images.new_tensor(std).view(shape))

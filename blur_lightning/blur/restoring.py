"""Restoring blurred images before a network sees them, as Vasiljevic et al. 2016, section 4.4.

A restorer is any module from images (b, 3, h, w) in [0, 1] to images of that size, such as a
network of `models`. A `Restorer` is also told what is known of them. Images are restored whole, at
the canonical scale, after they were blurred and stored with 8 bits; what is restored is stored with
8 bits again.
"""

from collections.abc import Sequence
from math import hypot
from pathlib import Path, PurePath
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.blur.border import to_8_bits
from blur_lightning.blur.capture import Capture
from blur_lightning.blur.cutting import middle_window
from blur_lightning.blur.deconvolve import ROUNDING, Method, check_method, deconvolve
from blur_lightning.blur.families import Blur, make_kernels
from blur_lightning.blur.light import to_linear, to_srgb
from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError, image_files, read_image


class Known(NamedTuple):
    """What is known of a batch of blurred images.

    Attributes:
        condition: What they are tested under.
        blurs: What each was blurred with.
        names: Their names in the data set.
        capture: How they were blurred: border, rim and light.
    """

    condition: str
    blurs: Sequence[Blur]
    names: Sequence[str]
    capture: Capture


class Restorer(nn.Module):
    """Restores images of which more is known than their pixels."""

    name = "restored"  # what records add to the network's name

    def forward(self, images: Float[Tensor, "b 3 h w"], known: Known) -> Float[Tensor, "b 3 h w"]:
        """Restore images in [0, 1]; values may leave it."""
        raise NotImplementedError


class Deconvolver(Restorer):
    """Undoes each image's blur by its true kernel; what is not blurred stays as it is.

    Args:
        method: wiener, richardson_lucy or sparse, see `blur.deconvolve`.
        noise: Standard deviation of the noise in the blurred images besides their rounding to 8
            bits, in [0, 1], 0 or more. More than there is gives smoother images.
    """

    def __init__(self, method: Method = "sparse", *, noise: float = 0.0) -> None:
        super().__init__()
        check_method(method, noise)
        self.method, self.noise = method, noise
        self.name = f"deconvolved, {method.replace('_', '-')}"

    @override
    def forward(self, images: Float[Tensor, "b 3 h w"], known: Known) -> Float[Tensor, "b 3 h w"]:
        for blur in known.blurs:
            if blur.share < 100:
                raise InputError(f"{blur}: is blurred in parts, which no single kernel undoes")
        kernels = make_kernels(known.blurs, rim=known.capture.rim, device=images.device)
        linear = known.capture.light == "linear"
        values = to_linear(images) if linear else images
        noise = hypot(self.noise, ROUNDING)
        restored = deconvolve(values, kernels, method=self.method, noise=noise)
        return to_srgb(restored.clamp(0, 1), images.dtype) if linear else restored


class RestoredFolder(Restorer):
    """Takes images that another program has restored, by their names.

    Below the folder lies one for each condition, such as D8/, with a restored copy of each image:
    the path is that of the original below its data set, with any ending, the size that of the
    blurred image (those of the command `blur` have it). Sharp images need no copy.

    Args:
        root: The folder.
    """

    def __init__(self, root: str) -> None:
        super().__init__()
        self.root = Path(root)
        if not self.root.is_dir():
            raise InputError(f"model.restore.root: there is no folder {root}")
        self.name = f"restored in {self.root.resolve().name}"
        self._files: dict[str, dict[PurePath, Path]] = {}

    @override
    def forward(self, images: Float[Tensor, "b 3 h w"], known: Known) -> Float[Tensor, "b 3 h w"]:
        folder = self.root / known.condition
        if known.condition == "sharp" and not folder.is_dir():
            return images
        if known.condition not in self._files:
            self._files[known.condition] = {
                file.relative_to(folder).with_suffix(""): file for file in image_files(folder)
            }
        copies = []
        for name in known.names:
            file = self._files[known.condition].get(PurePath(name).with_suffix(""))
            if file is None:
                raise InputError(f"{folder / name}: there is no restored image of that name")
            copies.append(_read(file, images).to(images.device) / 255)
        return torch.stack(copies)


def _read(file: Path, images: Tensor) -> Tensor:
    try:
        pixels = torch.tensor(read_image(file)).permute(2, 0, 1)
    except UnreadableImageError as error:
        raise InputError(f"{error}; mend it") from error
    if pixels.shape != images.shape[1:]:
        sizes = (f"{p.shape[-1]}x{p.shape[-2]}" for p in (pixels, images))
        raise InputError("{}: {} pixels, but the blurred image has {}".format(file, *sizes))
    return pixels


def restored_windows(
    blurred: UInt8[Tensor, "b 3 h w"], restorer: nn.Module, known: Known
) -> UInt8[Tensor, "b 3 _ _"]:
    """Restore blurred images, and cut out what the capture needs.

    Args:
        blurred: Whole images, at the canonical scale.
        restorer: See the module.
        known: Of these images.

    Returns:
        The windows that `known.capture` takes under the blur `sharp`, or whole images where its
        crop is that.

    Raises:
        InputError: The restorer gives images of another size.
    """
    images, capture = blurred / 255, known.capture
    restored = restorer(images, known) if isinstance(restorer, Restorer) else restorer(images)
    if isinstance(restored, tuple | list):  # at several scales, coarse to fine
        restored = restored[-1]
    shape = tuple(getattr(restored, "shape", ()))
    if shape != tuple(images.shape):
        raise InputError(
            f"model.restore: gives {shape} for images {tuple(images.shape)}; name one that keeps "
            "their size"
        )
    stored = to_8_bits(restored.float().clamp(0, 1) * 255)
    if capture.whole:
        return stored
    return middle_window(stored, side=capture.window_side, border=capture.border)

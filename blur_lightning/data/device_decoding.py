"""JPEGs that the device decodes, resizes and cuts; workers only read them and draw the windows.

On CUDA nvJPEG decodes, all images of a batch in one call. Its pixels, and those of the resize, may
differ by some levels from what the processor makes of the same file, so this is for training alone;
other kinds of files, and JPEGs that lie on their side, stay with the workers.
"""

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from io import BytesIO
from typing import Any, NamedTuple
from warnings import catch_warnings

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import UInt8
from PIL import ExifTags, Image
from torch import Tensor
from typing_extensions import override

from blur_lightning.blur import Capture
from blur_lightning.blur.cutting import PADDING, inside
from blur_lightning.data.windows import WindowDataset
from blur_lightning.errors import InputError
from blur_lightning.images import DECODER_ERRORS, resized_shape


class Encoded(NamedTuple):
    """A JPEG, and the window of it that is wanted.

    Attributes:
        content: Its bytes, (n,).
        shape: Rows and columns that it is resized to.
        side: Side of the window in pixels, without its margin.
        margin: Pixels around it.
        place: Where it lies between top and bottom, left and right, each in [0, 1].
        flip: Whether it is mirrored.
    """

    content: Tensor
    shape: tuple[int, int]
    side: int
    margin: int
    place: tuple[float, float]
    flip: bool


class EncodedDataset(WindowDataset):
    """Windows of training images, of which those that are plain JPEGs are still to be decoded."""

    @override
    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        if self.jitter is None:
            return super().__getitem__(key)
        epoch, index = key if isinstance(key, tuple) else (0, key)
        source: Any = self.source
        content = source.content(index)
        shape = plain_jpeg(content)
        if shape is None or self._reason_against(index, shape):
            return super().__getitem__(key)
        length, scale, place, flip = self._draw(epoch, index, self.jitter)
        item: dict[str, Any] = {"epoch": epoch, "index": index, "scale": scale}
        item["image"] = Encoded(
            torch.frombuffer(bytearray(content), dtype=torch.uint8),
            resized_shape(shape, length, self.capture.measure),
            self.capture.window_side_at(scale),
            self.margin,
            place,
            flip,
        )
        if self.source.labels is not None:
            item["label"] = self.source.labels[index]
        return item


def plain_jpeg(content: bytes) -> tuple[int, int] | None:
    """Rows and columns of a JPEG that is upright, in colour or grey; None of all else."""
    try:
        with Image.open(BytesIO(content), formats=("JPEG",)) as image:
            upright = image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            return image.size[::-1] if upright and image.mode in ("RGB", "L") else None
    except DECODER_ERRORS:
        return None


def decoded(
    images: Sequence[Encoded | Tensor], device: torch.device, capture: Capture
) -> tuple[UInt8[Tensor, "b 3 _ _"] | None, Mapping[int, str]]:
    """Make the windows of a batch.

    Args:
        images: JPEGs, or windows that are there already.
        device: Where windows are wanted, and JPEGs decoded.
        capture: How images are resized, continued at their edges, and cut.

    Returns:
        Windows of all images that could be decoded, None if none could, and by the place of each of
        the others why.
    """
    jpegs = {place: image for place, image in enumerate(images) if isinstance(image, Encoded)}
    pixels, reasons = _decode(jpegs, device)
    windows = []
    for place, image in enumerate(images):
        if isinstance(image, Tensor):
            windows.append(image.to(device))
        elif place in pixels:
            window = _cut(pixels[place].to(device), image, capture)
            lacking = capture.window_side - image.side
            windows.append(F.pad(window, (lacking // 2, lacking - lacking // 2) * 2))
    return (torch.stack(windows) if windows else None), reasons


def _decode(
    jpegs: Mapping[int, Encoded], device: torch.device
) -> tuple[dict[int, Tensor], dict[int, str]]:
    """Decode all at once, or if the device refuses any of them, each with the processor."""
    try:
        from torchvision.io import ImageReadMode, decode_jpeg  # which a later torchvision drops
    except ImportError as error:
        raise InputError(
            f"data.decode_on_device: torchvision {version('torchvision')} decodes no images; set "
            "false"
        ) from error

    pixels: dict[int, Tensor] = {}
    reasons: dict[int, str] = {}
    contents = [jpeg.content for jpeg in jpegs.values()]
    try:
        with catch_warnings(category=DeprecationWarning, action="ignore"):
            found = decode_jpeg(contents, ImageReadMode.RGB, device=device) if contents else []
        return dict(zip(jpegs, found, strict=True)), reasons
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:
        for place, jpeg in jpegs.items():
            try:
                with Image.open(
                    BytesIO(jpeg.content.numpy().tobytes()), formats=("JPEG",)
                ) as image:
                    colours = np.array(image.convert("RGB"))
            except DECODER_ERRORS as error:
                reasons[place] = str(error)
            else:
                pixels[place] = torch.from_numpy(colours).permute(2, 0, 1)
        return pixels, reasons


def _cut(pixels: Tensor, image: Encoded, capture: Capture) -> Tensor:
    resized = F.interpolate(
        pixels[None].float(), image.shape, mode=capture.interpolation, antialias=True
    )
    part, pads = inside(image.shape, side=image.side, margin=image.margin, place=image.place)
    window = resized[0, :, *part]
    if capture.border == "constant":
        window = F.pad(window, (*pads[1], *pads[0]))
    else:  # an image may be smaller than what is lacking of its window, which F.pad refuses
        for axis, pad in enumerate(pads, start=1):
            places = np.pad(np.arange(window.shape[axis]), pad, mode=PADDING[capture.border])
            window = window.index_select(axis, torch.from_numpy(places).to(window.device))
    window = window.round().clamp(0, 255).to(torch.uint8)
    return window.flip(-1) if image.flip else window

"""Reading photographs of every kind, and resizing them."""

import os
import warnings
from io import BytesIO
from math import prod, sqrt
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

VOID = 255  # the label of pixels that count nowhere, as in PASCAL VOC

# What a folder may hold besides images is told apart by ending, as people do.
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})

# What Pillow may take a file for, whatever its ending: among its other formats are programs in
# PostScript, which it would run.
FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF", "PPM", "AVIF", "JPEG2000", "TGA")
# A strip of a few pixels would become gigabytes.
MOST_PIXELS = 100_000_000
# Of what it cannot read there is an error too, and the rest is nothing to mend.
warnings.filterwarnings("ignore", module=r"PIL\.")

# What of an image has the length that it is resized to: its smaller side; the square root of its
# area (Vasiljevic et al. 2016, section 5); both sides, whatever its aspect; or none: it stays.
Measure = Literal["smaller_side", "geometric_mean", "native"] | tuple[int, int]

_FILTERS = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
# What Pillow's decoders raise on damaged files.
DECODER_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class UnreadableImageError(Exception):
    """A file is not an image, or a damaged one; the message names it."""


@runtime_checkable
class ImageFile(Protocol):
    """What holds an image: a `Path`, or a file within a shard; its text names it in errors."""

    @property
    def suffix(self) -> str:
        """Ending of its name."""
        ...

    def is_file(self) -> bool:
        """Whether it is there."""
        ...

    def stat(self) -> os.stat_result:
        """Its size; OSError where there is none."""
        ...

    def read_bytes(self) -> bytes:
        """Read it whole; OSError where that fails."""
        ...


def open_image(path: ImageFile) -> Image.Image:
    """Open a photograph without decoding it; one of `DECODER_ERRORS` where it is none."""
    if not isinstance(path, Path):
        return Image.open(BytesIO(path.read_bytes()), formats=FORMATS)
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise OSError("not a file")
    return Image.open(path, formats=FORMATS)


def read_image(path: ImageFile) -> np.ndarray:
    """Decode a photograph to uint8 (h, w, 3), upright.

    Grey, palette, CMYK and transparent images become RGB (transparency is dropped), 16-bit ones
    keep their upper 8 bits, of an animation the first frame counts, EXIF orientation is applied.
    """
    try:
        with open_image(path) as image:
            image.load()
            ImageOps.exif_transpose(image, in_place=True)
            if image.mode == "RGB":
                return np.asarray(image)
            if image.mode.startswith("I"):  # 16 bits, which convert() would clip to white
                grey = np.asarray(image).astype(np.uint32) >> 8
                return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
            # A palette may hold transparency of its own.
            opaque = image.convert("RGBA") if image.mode in ("P", "PA") else image
            return np.asarray(opaque.convert("RGB"))
    except DECODER_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImageError(f"{path}: cannot be read ({reason})") from error


def image_shape(path: ImageFile) -> tuple[int, int]:
    """Rows and columns that `read_image` will give, from the head of the file; zeros if broken."""
    try:
        with open_image(path) as image:
            # Orientations 5 to 8 lie on their side.
            sideways = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
            columns, rows = image.size[::-1] if sideways else image.size
            return rows, columns
    except DECODER_ERRORS:
        return 0, 0


def resized_shape(
    shape: tuple[int, int], length: int, measure: Measure = "smaller_side"
) -> tuple[int, int]:
    """Rows and columns of an image after a resize; at least 1.

    Args:
        shape: Rows and columns before.
        length: What the measure becomes, in pixels; of two sides the smaller one.
        measure: What is measured. Two sides lie for a square image, as for one that is wider than
            high. A native image keeps its shape.
    """
    if measure == "native":
        return shape
    if isinstance(measure, tuple):
        small, large = (max(1, round(side * length / min(measure))) for side in sorted(measure))
        return (large, small) if shape[0] > shape[1] else (small, large)
    factor = length / (min(shape) if measure == "smaller_side" else sqrt(prod(shape)))
    rows, columns = (max(1, round(side * factor)) for side in shape)
    return rows, columns


def resize_image(
    image: np.ndarray, shape: tuple[int, int], *, interpolation: str = "bicubic"
) -> np.ndarray:
    """Resize uint8 pixels, (h, w, 3) or (h, w), antialiased unless to the nearest pixel.

    Args:
        image: An image or a mask.
        shape: Rows and columns afterwards.
        interpolation: nearest, which keeps the labels of a mask; bilinear or bicubic.
    """
    if image.shape[:2] == shape:
        return image
    return np.asarray(Image.fromarray(image).resize(shape[::-1], _FILTERS[interpolation]))


def resize_fast(
    image: np.ndarray, shape: tuple[int, int], *, interpolation: str = "bicubic"
) -> np.ndarray:
    """Resize uint8 (h, w, 3) pixels by torch's filters: faster, but less exactly.

    They have the same taps with fewer bits: a value in some hundreds differs, by one level.

    Args:
        image: An image.
        shape: Rows and columns afterwards.
        interpolation: bilinear or bicubic; antialiased.
    """
    import torch
    from torch.nn.functional import interpolate

    if image.shape[:2] == shape:
        return image
    pixels = torch.from_numpy(image if image.flags.writeable else image.copy())
    resized = interpolate(
        pixels.permute(2, 0, 1)[None], size=shape, mode=interpolation, antialias=True
    )
    return resized[0].permute(1, 2, 0).numpy()


def resize_smaller_side(
    image: np.ndarray, side: int, *, interpolation: str = "bicubic"
) -> np.ndarray:
    """Resize a uint8 (h, w, 3) image so that its smaller side is `side`, antialiased."""
    shape = resized_shape((image.shape[0], image.shape[1]), side)
    return resize_image(image, shape, interpolation=interpolation)


def file_size(path: ImageFile) -> int:
    """Bytes of a file; 0 where it is gone or a link leads nowhere."""
    try:
        return path.stat().st_size
    except OSError:  # also a link in a circle
        return 0


def image_files(folder: Path) -> list[Path]:
    """List the images below a folder by their endings, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)

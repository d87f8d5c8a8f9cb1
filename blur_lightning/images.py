"""Reading photographs of every kind, and resizing them."""

from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

# What a folder may hold besides images is told apart by ending, as people do.
ENDINGS = frozenset({".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".ppm"})

_FILTERS = {"bilinear": Image.Resampling.BILINEAR, "bicubic": Image.Resampling.BICUBIC}
# What Pillow's decoders raise on damaged files.
_DECODER_ERRORS = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)


class UnreadableImageError(Exception):
    """A file is not an image, or a damaged one; the message names it."""


def read_image(path: Path) -> np.ndarray:
    """Decode a photograph to uint8 (h, w, 3), upright.

    Grey, palette, CMYK and transparent images become RGB (transparency is dropped), 16-bit ones
    keep their upper 8 bits, of an animation the first frame counts, EXIF orientation is applied.
    """
    try:
        with Image.open(path) as image:
            image.load()
            upright = ImageOps.exif_transpose(image)
            if upright.mode.startswith("I"):  # 16 bits, which convert() would clip to white
                grey = np.asarray(upright).astype(np.uint32) >> 8
                return np.repeat(grey.clip(0, 255).astype(np.uint8)[:, :, None], 3, axis=2)
            if upright.mode in ("P", "PA"):  # a palette may hold transparency of its own
                upright = upright.convert("RGBA")
            return np.asarray(upright.convert("RGB"))
    except _DECODER_ERRORS as error:
        reason = "not an image" if isinstance(error, UnidentifiedImageError) else error
        raise UnreadableImageError(f"{path}: cannot be read ({reason})") from error


def image_shape(path: Path) -> tuple[int, int]:
    """Rows and columns that `read_image` will give, from the head of the file; zeros if broken."""
    try:
        with Image.open(path) as image:
            # Orientations 5 to 8 lie on their side.
            sideways = image.getexif().get(ExifTags.Base.Orientation, 1) > 4
            columns, rows = image.size[::-1] if sideways else image.size
            return rows, columns
    except _DECODER_ERRORS:
        return 0, 0


def resized_shape(shape: tuple[int, int], side: int) -> tuple[int, int]:
    """Rows and columns after `resize_smaller_side`."""
    factor = side / min(shape)
    rows, columns = (max(side, round(length * factor)) for length in shape)
    return rows, columns


def resize_smaller_side(
    image: np.ndarray, side: int, *, interpolation: str = "bicubic"
) -> np.ndarray:
    """Resize a uint8 (h, w, 3) image so that its smaller side is `side`, antialiased."""
    shape = (image.shape[0], image.shape[1])
    if min(shape) == side:
        return image
    size = resized_shape(shape, side)[::-1]
    return np.asarray(Image.fromarray(image).resize(size, _FILTERS[interpolation]))


def image_files(folder: Path) -> list[Path]:
    """List the images below a folder by their endings, sorted by path."""
    return sorted(path for path in folder.rglob("*") if path.suffix.lower() in ENDINGS)

"""Photographs with all their bits: 16 bits a colour are read from PNG and written to it.

Source: the PNG specification (W3C, third edition), chapters 9 to 11. Pillow reads and writes 8 bits
of colour images alone.
"""

import struct
import warnings
import zlib
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, Image

from blur_lightning.errors import InputError
from blur_lightning.images import DECODER_ERRORS, open_image, read_image

_SIGNATURE, _DEPTH_AT = b"\x89PNG\r\n\x1a\n", 24  # IHDR comes first, so its place is known
_TRUECOLOUR, _UP = 2, 2  # colour type; filter of a row: less the row above
# Tags that say how pixels lie in a TIFF file, not what a photograph shows (TIFF 6.0, appendix A).
_LAYOUT = (
    *range(254, 260),  # size, bits, compression
    *(262, 266, 273, 277, 278, 279, 284),  # colours and strips
    *(317, 320, 322, 323, 324, 325, 338, 339, 347),  # predictor, palette, tiles, samples
    34675,  # the colour profile, which is kept beside
)


class Photograph(NamedTuple):
    """Pixels, upright, and what a copy should keep."""

    pixels: np.ndarray  # uint8 or uint16 (h, w, 3)
    exif: bytes  # without an orientation; empty if there is none
    profile: bytes  # of colours; empty if there is none


def read_photograph(path: Path) -> Photograph:
    """Decode a photograph with all its bits; UnreadableImageError names one that is broken.

    16-bit PNG gives uint16, all else uint8 as `images.read_image`.
    """
    pixels = read_image(path)
    with path.open("rb") as file:
        head = file.read(_DEPTH_AT + 1)
    if head.startswith(_SIGNATURE) and head[_DEPTH_AT] == 16:
        pixels = _read_16_bits(path)
    with open_image(path) as image:
        try:
            exif = image.getexif()
            for tag in (ExifTags.Base.Orientation, *_LAYOUT):
                exif.pop(tag, None)
            data = exif.tobytes() if len(exif) else b""
        except (*DECODER_ERRORS, struct.error):  # damaged notes do not damage pixels
            data = b""
        profile = image.info.get("icc_profile") or b""
    # A profile of grey or CMYK does not fit a copy in RGB.
    return Photograph(pixels, data, profile if profile[16:20] == b"RGB " else b"")


def _read_16_bits(path: Path) -> np.ndarray:
    import torch
    from torchvision.io import ImageReadMode, decode_png

    data = torch.from_numpy(np.fromfile(path, dtype=np.uint8))
    with warnings.catch_warnings():
        # From torchvision 0.29 on; what is to come after it needs FFmpeg.
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        decoded = decode_png(data, ImageReadMode.RGB, apply_exif_orientation=True)
    return decoded.permute(1, 2, 0).numpy()


def encode_png(photograph: Photograph) -> bytes:
    """Encode a photograph as PNG with as many bits as its pixels have: the content of a file."""
    pixels, exif, profile = photograph
    if pixels.dtype == np.uint8:
        stream = BytesIO()
        Image.fromarray(pixels).save(stream, "PNG", exif=exif, icc_profile=profile)
        return stream.getvalue()
    if pixels.dtype != np.uint16 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise InputError(f"pixels: {pixels.dtype} {pixels.shape} are no 8 or 16 bits (h, w, 3)")
    rows, columns = pixels.shape[:2]
    values = np.ascontiguousarray(pixels, ">u2").view(np.uint8).reshape(rows, columns * 6)
    filtered = np.empty((rows, columns * 6 + 1), np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:], filtered[1:, 1:] = values[0], values[1:] - values[:-1]
    header = struct.pack(">IIBBBBB", columns, rows, 16, _TRUECOLOUR, 0, 0, 0)
    chunks = [(b"IHDR", header)]
    if profile:
        chunks.append((b"iCCP", b"profile\0\0" + zlib.compress(profile)))
    if exif:
        chunks.append((b"eXIf", exif.removeprefix(b"Exif\0\0")))
    chunks += [(b"IDAT", zlib.compress(filtered.tobytes(), 6)), (b"IEND", b"")]
    return _SIGNATURE + b"".join(_chunk(name, data) for name, data in chunks)


def _chunk(name: bytes, data: bytes) -> bytes:
    checksum = zlib.crc32(name + data)
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", checksum)

"""Files that are broken, or made to do harm, for tests."""

import io
import struct
import zlib

import numpy as np
from PIL import Image

HUGE = 2_000_000_000  # pixels of a side, or values, that a header tells of


def picture(kind="PNG", shape=(24, 32), mode="RGB", **options):
    """Bytes of a small picture."""
    noise = np.random.default_rng(0).integers(0, 256, size=(*shape, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(noise).convert(mode).save(stream, kind, **options)
    return stream.getvalue()


def _chunk(name, data=b""):
    checksum = struct.pack(">I", zlib.crc32(name + data))
    return struct.pack(">I", len(data)) + name + data + checksum


def png(columns, rows, *, chunks=(), data=b"", depth=8, kind=2):
    """A PNG whose header says what it likes; data is what is compressed."""
    header = struct.pack(">IIBBBBB", columns, rows, depth, kind, 0, 0, 0)
    body = [_chunk(b"IHDR", header), *(_chunk(*chunk) for chunk in chunks)]
    body += [_chunk(b"IDAT", zlib.compress(data)), _chunk(b"IEND")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(body)


def _strip(columns):
    """One row of pixels: resized to a smaller side of some pixels it would fill any memory."""
    return png(columns, 1, data=bytes(3 * columns + 1))


def _text_bomb():
    bomb = zlib.compress(bytes(100_000_000), 9)
    return png(8, 8, chunks=[(b"zTXt", b"Comment\0\0" + bomb)], data=bytes(8 * 25))


def _tiff(columns, rows, *, offset=8):
    """A TIFF of one strip that is not there."""
    tags = [(256, 4, 1, columns), (257, 4, 1, rows), (258, 3, 1, 8), (259, 3, 1, 1)]
    tags += [(262, 3, 1, 1), (273, 4, 1, 8), (278, 4, 1, rows), (279, 4, 1, 4)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0" + struct.pack("<IH", offset, len(tags)) + entries + bytes(4)


def _bmp(columns, rows):
    head = struct.pack("<2sIHHI", b"BM", 54, 0, 0, 54)
    return head + struct.pack("<IiiHHIIiiII", 40, columns, rows, 1, 24, 0, 0, 0, 0, 0, 0)


def _gif(columns, rows):
    head = b"GIF89a" + struct.pack("<HHBBB", columns, rows, 0x80, 0, 0) + bytes(6)
    return head + b"," + struct.pack("<HHHHB", 0, 0, columns, rows, 0) + b"\2\2\x4c\1\0;"


JPEG, PNG, WEBP = picture("JPEG"), picture("PNG"), picture("WEBP")
# Runs a program where it is handed to Ghostscript, as Pillow would do with it.
EPS = (
    b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n(%pipe%id) (r) file\n%%EOF\n"
)

# Name -> content of files that are no photograph.
IMAGES = {
    "empty.jpg": b"",
    "one_byte.png": b"\x89",
    "zeros.jpg": bytes(4096),
    "text.jpg": b"this is no image\n" * 9,
    "html.png": b"<!DOCTYPE html><html><body>404 Not Found</body></html>",
    "postscript.jpg": EPS,
    "archive.png": b"PK\3\4" + bytes(200),
    "head_alone.jpg": JPEG[:20],
    "half.jpg": JPEG[: len(JPEG) // 2],
    "half.png": PNG[: len(PNG) // 2],
    "half.webp": WEBP[: len(WEBP) // 2],
    "half.gif": picture("GIF")[:500],
    "half.tif": picture("TIFF", compression="tiff_lzw")[:600],
    "half.bmp": picture("BMP")[:600],
    "half.ppm": picture("PPM")[:600],
    "damaged.png": PNG[:60] + bytes(40) + PNG[100:],
    "huge.png": png(HUGE, HUGE),
    "huge.tif": _tiff(HUGE, HUGE),
    "huge.bmp": _bmp(HUGE, HUGE),
    "huge.gif": _gif(65535, 65535),
    "huge.ppm": b"P6 2000000000 2000000000 255\n" + bytes(9),
    "huge.webp": b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + bytes(10),
    "no_pixels.png": png(0, 0),
    "no_pixels.bmp": _bmp(0, 0),
    "strip.png": _strip(3_000_000),
    "text_bomb.png": _text_bomb(),
    "profile_bomb.png": png(
        8, 8, chunks=[(b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000), 9))], data=bytes(200)
    ),
    "endless.tif": _tiff(9, 9, offset=0),
    "words.ppm": b"P6 many some 255\n",
    "video.gif": b"\0\0\0\x18ftypmp42" + bytes(300),
}

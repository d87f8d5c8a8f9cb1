"""Files that are broken, or made to do harm, for tests."""

import gzip
import io
import os
import pickle
import struct
import zipfile
import zlib

import numpy as np
import torch
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
    "half_jpg.jpg": JPEG[: len(JPEG) // 2],
    "half_png.png": PNG[: len(PNG) // 2],
    "half_webp.webp": WEBP[: len(WEBP) // 2],
    "half_gif.gif": picture("GIF")[:500],
    "half_tif.tif": picture("TIFF", compression="tiff_lzw")[:600],
    "half_bmp.bmp": picture("BMP")[:600],
    "half_ppm.ppm": picture("PPM")[:600],
    "damaged.png": PNG[:60] + bytes(40) + PNG[100:],
    "huge_png.png": png(HUGE, HUGE),
    "huge_tif.tif": _tiff(HUGE, HUGE),
    "huge_bmp.bmp": _bmp(HUGE, HUGE),
    "huge_gif.gif": _gif(65535, 65535),
    "huge_ppm.ppm": b"P6 2000000000 2000000000 255\n" + bytes(9),
    "huge_webp.webp": b"RIFF\x20\0\0\0WEBPVP8X\x0a\0\0\0\0\0\0\0" + b"\xff" * 6 + bytes(10),
    "no_pixels_png.png": png(0, 0),
    "no_pixels_bmp.bmp": _bmp(0, 0),
    "strip.png": _strip(3_000_000),
    "text_bomb.png": _text_bomb(),
    "profile_bomb.png": png(
        8, 8, chunks=[(b"iCCP", b"x\0\0" + zlib.compress(bytes(100_000_000), 9))], data=bytes(200)
    ),
    "endless_tif.tif": _tiff(9, 9, offset=0),
    "words.ppm": b"P6 many some 255\n",
    "video.gif": b"\0\0\0\x18ftypmp42" + bytes(300),
}


class Harm:
    """Makes a folder where it is unpickled."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def _saved(content, **options):
    stream = io.BytesIO()
    torch.save(content, stream, **options)
    return stream.getvalue()


def _checkpoint(value=0.0, **more):
    """A checkpoint of nets.MeanColour with ten classes."""
    weights = {"net.linear.weight": torch.full((10, 3), value), "net.linear.bias": torch.zeros(10)}
    return _saved({"state_dict": weights, "trained_on": "sharp", **more})


def _repacked(content):
    """The same archive, compressed: a few bytes may stand for gigabytes."""
    stream = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(content)) as source,
        zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as target,
    ):
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    return stream.getvalue()


def checkpoints(harm):
    """Contents of files that are no checkpoint to be used, by name; harm is a folder to make."""
    whole = _checkpoint()
    endless = torch.zeros(1).expand(HUGE, HUGE)  # one value in memory
    return {
        "empty": b"",
        "zeros": bytes(1000),
        "text": b"weights\n",
        "half": whole[: len(whole) // 2],
        "damaged": whole[:100] + bytes(100) + whole[200:],
        "archive": _zip("a.txt"),
        "list": _saved([1, 2]),
        "without_weights": _saved({"trained_on": "sharp"}),
        "weights_of_numbers": _saved({"state_dict": {"net.x": 3}, "trained_on": "sharp"}),
        "weights_of_words": _saved({"state_dict": "none", "trained_on": "sharp"}),
        "of_others": _saved({"state_dict": {"x": torch.zeros(1)}, "trained_on": "sharp"}),
        "untold": _saved({"state_dict": {"net.x": torch.zeros(1)}}),
        "pickle": pickle.dumps(Harm(harm)),
        "harm": _saved({"state_dict": Harm(harm), "trained_on": "sharp"}),
        "harm_beside": _checkpoint(callbacks=Harm(harm)),
        "harm_of_old": _saved({"state_dict": Harm(harm)}, _use_new_zipfile_serialization=False),
        "module": _checkpoint(net=torch.nn.Linear(3, 3)),
        "endless": _saved({"state_dict": {"net.x": endless}, "trained_on": "sharp"}),
        "packed": _repacked(_saved({"state_dict": {"net.x": torch.zeros(10**7)}})),
        "nan": _checkpoint(float("nan")),
        "infinite": _checkpoint(float("inf")),
    }


def _zip(name):
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, "text")
    return stream.getvalue()


def _tensors(header, data=b""):
    return struct.pack("<Q", len(header)) + header + data


SAFETENSORS = {
    "empty": b"",
    "text": b"weights, weights, weights",
    "head_alone": struct.pack("<Q", 100),
    "huge_head": struct.pack("<Q", 2**60) + b"{}",
    "no_json": _tensors(b"{x"),
    "no_bytes": _tensors(b'{"x":{"dtype":"F32","shape":[9],"data_offsets":[0,36]}}'),
    "huge": _tensors(b'{"x":{"dtype":"F32","shape":[4000000000,4000000000],"data_offsets":[0,4]}}'),
    "backwards": _tensors(b'{"x":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}}', bytes(4)),
    "pickle": pickle.dumps([1]),
}

_BOMB = "a: &a [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 10)}]\n"
    for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
_AXES = "".join(f"  p{i}: {{values: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}}\n" for i in range(9))
# Name -> content of files that are no sweep; "method: grid" is the least of one.
YAMLS = {
    "empty": b"",
    "nul": b"method: \0",
    "utf_16": "method: grid".encode("utf-16"),
    "bytes": bytes(range(128, 256)),
    "tab": b"method:\n\t- grid",
    "list": b"- method: grid",
    "number": b"3",
    "two_documents": b"method: grid\n---\nmethod: grid\n",
    "unclosed": b'method: "grid',
    "unknown_alias": b"method: *nothing",
    "strange_key": b"? [a]\n: 3\n",
    "strange_merge": b"<<: 3\nmethod: grid",
    "no_day": b"method: grid\nday: 2020-99-99\n",
    "digits": b"method: " + b"9" * 5000,
    "deep": b"method: " + b"[" * 2000 + b"]" * 2000,
    "large": b"method: grid\n" + b"# \n" * 400_000,
    "itself": b"method: &a [*a]\n",
    "bomb": _BOMB.encode() + b"method: grid\n",
    "huge_grid": f"method: grid\ncommand: [x]\nparameters:\n{_AXES}".encode(),
    "runs_code": b'!!python/object/apply:os.mkdir ["harm"]',
    "runs_code_inside": b'method: !!python/object/apply:os.mkdir ["harm"]',
    "makes_names": b"method: !!python/name:os.system\n",
    "no_parameters": b"method: grid\nparameters: words\ncommand: [x]",
    "no_values": b"method: grid\nparameters: {a: {values: []}}\ncommand: [x]",
    "no_command": b"method: grid\nparameters: {a: {value: 1}}\n",
    "nan": b"method: bayes\nrun_cap: 3\nparameters: {a: {min: .nan, max: 1}}\ncommand: [x]",
}

_HEAD = (
    "run,model,trained_on,dataset,n,condition,family,parameter,scale,metric,value,low,high,schema\n"
)
_ROW = "r,m,sharp,d,9,D2,disk,2.0,224,top1,0.5,0.4,0.6,1\n"
# Values that a report shows as they are.
ODD_RECORDS = _HEAD + "".join(
    _ROW.replace(*pair) for pair in (("0.5", "nan"), ("0.5,0.4", "inf,-inf"), ("sharp", "\0"))
)
# Name -> content of files that are no records of a test.
RECORDS = {
    "empty": b"",
    "head_alone": _HEAD.encode(),
    "bytes": bytes(range(256)),
    "utf_16": (_HEAD + _ROW).encode("utf-16"),
    "html": b"<html>404</html>",
    "cut": (_HEAD + _ROW + _ROW[:20]).encode(),
    "too_many": (_HEAD + _ROW.replace("\n", ",9,9\n")).encode(),
    "words": (_HEAD + _ROW.replace("0.5", "half")).encode(),
    "no_number": (_HEAD + _ROW.replace("9", "9e99")).encode(),
    "digits": (_HEAD + _ROW.replace("9", "9" * 5000)).encode(),
    "open_quote": (_HEAD + '"' + _ROW * 3).encode(),
    "long_cell": (_HEAD + _ROW.replace("sharp", "x" * 200_000)).encode(),
    "other_schema": (_HEAD + _ROW.replace(",1\n", ",2\n")).encode(),
    "other_columns": _HEAD.replace("metric", "measure").encode() + _ROW.encode(),
    "parquet": b"PAR1" + bytes(100) + b"PAR1",
}

JSONS = {
    "empty": b"",
    "list": b"[]",
    "half": b'{"model": "m", ',
    "deep": b"[" * 100_000 + b"]" * 100_000,
    "bytes": bytes(range(128, 256)),
    "digits": b'{"seed": ' + b"9" * 5000 + b"}",
}

# An HLS playlist, which FFmpeg would follow to other files, whatever the ending.
PLAYLIST = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{}'\n"


def npy(shape, data=bytes(64), kind="<f4"):
    """An array file whose header says what it likes."""
    head = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + struct.pack("<H", len(head)) + head.encode() + data


def idx(count, data=b"", kind=3):
    """The start of one of MNIST's files, compressed, with a count of its own choice."""
    sides = (28, 28)[: kind - 1]
    head = bytes([0, 0, 8, kind]) + struct.pack(f">{kind}i", count, *sides)
    return gzip.compress(head + data, 9)

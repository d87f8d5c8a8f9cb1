import io
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageCms
from torchvision.io import ImageReadMode, decode_png

from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError
from blur_lightning.png import Photograph, encode_png, read_photograph

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def noise(dtype, shape=(5, 7, 3)):
    largest = np.iinfo(dtype).max
    return np.random.default_rng(0).integers(0, largest, size=shape, dtype=dtype, endpoint=True)


def exif(orientation=1):
    notes = Image.Exif()
    notes[ExifTags.Base.Make] = "a maker"
    notes[ExifTags.Base.Orientation] = orientation
    return notes


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels_come_back_with_all_their_bits_and_notes(tmp_path, dtype):
    path = tmp_path / "photo.png"
    photograph = Photograph(noise(dtype), exif().tobytes(), SRGB)
    path.write_bytes(encode_png(photograph))
    found = read_photograph(path)
    assert found.pixels.dtype == dtype
    assert np.array_equal(found.pixels, photograph.pixels)
    assert found.profile == SRGB
    with Image.open(path) as image:
        assert dict(image.getexif())[ExifTags.Base.Make] == "a maker"


@pytest.mark.filterwarnings("ignore:The image decoding:DeprecationWarning")
def test_others_read_16_bits_as_they_are():
    """By libpng, as torchvision has it, and by hand: each row less the one above."""
    pixels = noise(np.uint16)
    data = encode_png(Photograph(pixels, b"", b""))
    decoded = decode_png(torch.frombuffer(bytearray(data), dtype=torch.uint8), ImageReadMode.RGB)
    assert np.array_equal(decoded.permute(1, 2, 0).numpy(), pixels)
    start = data.index(b"IDAT")
    (length,) = struct.unpack(">I", data[start - 4 : start])
    rows = np.frombuffer(zlib.decompress(data[start + 4 : start + 4 + length]), np.uint8)
    rows = rows.reshape(5, 43)
    assert (rows[:, 0] == 2).all()
    summed = rows[:, 1:].cumsum(axis=0, dtype=np.uint8)
    assert np.array_equal(summed.reshape(5, 7, 3, 2).copy().view(">u2")[..., 0], pixels)


def test_a_photograph_is_upright_and_says_so(tmp_path):
    path = tmp_path / "photo.jpg"
    Image.fromarray(noise(np.uint8)).save(path, exif=exif(orientation=6))
    found = read_photograph(path)
    assert found.pixels.shape == (7, 5, 3)
    with Image.open(io.BytesIO(encode_png(found))) as copy:
        assert copy.size == (5, 7)
        assert ExifTags.Base.Orientation not in copy.getexif()
        assert copy.getexif()[ExifTags.Base.Make] == "a maker"


def test_notes_on_the_layout_of_a_tiff_file_are_left_out(tmp_path):
    path = tmp_path / "a.tif"
    Image.fromarray(noise(np.uint8)).save(path, exif=exif(), compression="tiff_lzw")
    (tmp_path / "copy.png").write_bytes(encode_png(read_photograph(path)))
    with Image.open(tmp_path / "copy.png") as copy:
        assert dict(copy.getexif()) == {ExifTags.Base.Make: "a maker"}


def test_16_bits_of_grey_become_three_colours(tmp_path):
    grey = noise(np.uint16, (4, 6))
    Image.fromarray(grey).save(tmp_path / "grey.png")
    found = read_photograph(tmp_path / "grey.png").pixels
    assert found.dtype == np.uint16
    assert np.array_equal(found, np.repeat(grey[:, :, None], 3, axis=2))


def test_profiles_of_other_colours_are_left_out(tmp_path):
    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    Image.fromarray(noise(np.uint8)).save(tmp_path / "photo.png", icc_profile=lab)
    assert read_photograph(tmp_path / "photo.png").profile == b""


def test_what_is_no_image_is_named(tmp_path):
    (tmp_path / "photo.png").write_bytes(b"nothing")
    with pytest.raises(UnreadableImageError, match=r"photo.png: cannot be read"):
        read_photograph(tmp_path / "photo.png")


def test_other_pixels_are_refused():
    with pytest.raises(InputError, match=r"float64 .* are no 8 or 16 bits"):
        encode_png(Photograph(np.zeros((2, 2, 3)), b"", b""))

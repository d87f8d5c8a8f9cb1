"""Masks and depth maps: which belongs to a photograph, and what their files mean."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError
from blur_lightning.photograph import (
    _check_resizable,
    find_maps,
    find_photographs,
    read_depth,
    read_mask,
)


def touch(*paths):
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.fixture
def photos(tmp_path):
    touch(*(tmp_path / "photos" / x for x in ("a.JPG", "deep/a.png", "deep/IMG.0.jpeg")))
    return find_photographs([tmp_path / "photos"], "png")


def test_a_map_has_the_path_of_its_photograph_whatever_the_ending(photos, tmp_path):
    masks = tmp_path / "masks"
    touch(masks / "a.TIF", masks / "deep/IMG.0.png", masks / "deep/a.txt", masks / "b.png")
    assert find_maps(masks, photos, "mask") == {
        "a.png": masks / "a.TIF",
        "deep/IMG.0.png": masks / "deep/IMG.0.png",
    }
    touch(masks / "a.npy")
    assert find_maps(masks, photos, "depth map") == {
        "a.png": masks / "a.npy",
        "deep/IMG.0.png": masks / "deep/IMG.0.png",
    }


def test_one_map_is_that_of_one_photograph(photos, tmp_path):
    touch(tmp_path / "mask.png")
    one = {"a.png": tmp_path / "photos/a.JPG"}
    assert find_maps(tmp_path / "mask.png", one, "mask") == {"a.png": tmp_path / "mask.png"}
    with pytest.raises(InputError, match=r"mask\.png: is one mask for 3 photographs"):
        find_maps(tmp_path / "mask.png", photos, "mask")


def test_what_cannot_be_told_apart_is_refused_by_name(photos, tmp_path):
    with pytest.raises(InputError, match="nowhere: not found; name a folder of masks"):
        find_maps(tmp_path / "nowhere", photos, "mask")
    with pytest.raises(InputError, match="is also a photograph to copy"):
        find_maps(tmp_path / "photos", photos, "mask")
    touch(tmp_path / "masks/a.png", tmp_path / "masks/a.bmp")
    with pytest.raises(InputError, match=r"a.bmp and .*a.png: masks of .*a.JPG; remove one"):
        find_maps(tmp_path / "masks", photos, "mask")


def test_a_mask_is_the_brightness_of_a_picture_of_any_kind(tmp_path):
    grey = np.array([[0, 90, 255], [7, 8, 200]], np.uint8)
    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    for name, image in {
        "grey.png": Image.fromarray(grey),
        "rgb.bmp": Image.fromarray(np.stack([grey] * 3, axis=2)),
        "deep.png": Image.fromarray(grey.astype(np.uint16) * 257),
    }.items():
        image.save(tmp_path / name)
        assert (read_mask(tmp_path / name) == grey).all()
    Image.fromarray(np.rot90(grey).copy()).save(tmp_path / "side.png", exif=exif)
    assert (read_mask(tmp_path / "side.png") == grey).all()
    Image.fromarray(grey > 100).save(tmp_path / "bits.png")
    assert (read_mask(tmp_path / "bits.png") == np.where(grey > 100, 255, 0)).all()


def test_labels_0_and_1_are_no_mask(tmp_path):
    Image.fromarray(np.array([[0, 1]], np.uint8)).save(tmp_path / "m.png")
    with pytest.raises(UnreadableImageError, match=r"m\.png: holds 0 and 1"):
        read_mask(tmp_path / "m.png")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f8"])
def test_depth_in_metres_with_the_unknown_at_the_far_end(tmp_path, dtype):
    np.save(tmp_path / "d.npy", np.array([[0, 1.5], [4, 0.25]], dtype))
    depth = read_depth(tmp_path / "d.npy")
    assert depth.dtype == np.float32
    assert depth.tolist() == [[4, 1.5], [4, 0.25]]
    np.save(tmp_path / "d.npy", np.array([[0, np.inf, 3]], dtype))
    assert read_depth(tmp_path / "d.npy").tolist() == [[np.inf, np.inf, 3]]


def test_depth_in_millimetres(tmp_path):
    pixels = np.array([[0, 1500, 65535], [250, 1, 2]], np.uint16)
    Image.fromarray(pixels).save(tmp_path / "d.png")
    known = np.where(pixels == 0, 65535, pixels) / 1000
    assert (read_depth(tmp_path / "d.png") == known.astype(np.float32)).all()


@pytest.mark.parametrize(
    ("name", "values", "message"),
    [
        ("d.npy", np.array([[1.0, -1]]), "negative or NaN"),
        ("d.npy", np.array([[1.0, np.nan]]), "negative or NaN"),
        ("d.npy", np.zeros((2, 2)), "every depth is 0"),
        ("d.npy", np.array([[1, 2]]), "is no depth map, which is floats, metres"),
        ("d.npy", np.ones(4), "is no depth map"),
        ("d.npy", np.ones((0, 4)), "is no depth map"),
        ("d.npy", np.array([[None]]), "cannot be read"),
        ("d.png", np.ones((2, 2), np.uint8), "is no depth map, which is a 16-bit grey PNG"),
        ("d.png", None, "cannot be read"),
        ("d.npy", None, "cannot be read"),
    ],
)
def test_what_is_no_depth_map_is_named(tmp_path, name, values, message):
    path: Path = tmp_path / name
    if values is None:
        path.write_bytes(b"no map")
    elif name.endswith("npy"):
        np.save(path, values, allow_pickle=True)
    else:
        Image.fromarray(values).save(path)
    with pytest.raises(UnreadableImageError, match=f"{name}: .*{message}"):
        read_depth(path)


@pytest.mark.parametrize("name", ["x.gif", "x.GIF", "x.txt"])
def test_a_format_that_cannot_be_kept_is_refused_with_what_to_choose(tmp_path, name):
    touch(tmp_path / "a.png", tmp_path / name)
    paths = [tmp_path / "a.png", tmp_path / name]
    with pytest.raises(
        InputError, match=f"{name}: this format cannot be kept; choose --format png"
    ):
        find_photographs(paths, "keep")
    assert set(find_photographs(paths, "png")) == {"a.png", "x.png"}


@pytest.mark.parametrize(
    ("size", "canonical", "fits"),
    [
        ((100, 5), 5, True),
        ((101, 5), 5, False),
        ((5, 101), 5, False),
        ((50, 50), 10_000, True),
        ((51, 50), 10_000, False),
    ],
)
def test_what_is_resized_has_sides_and_pixels_within_bounds(size, canonical, fits):
    photograph = np.zeros((size[1], size[0], 3), np.uint8)
    if fits:
        _check_resizable(Path("p.png"), photograph, canonical)
    else:
        with pytest.raises(UnreadableImageError, match=r"p\.png: .*--canonical null keeps"):
            _check_resizable(Path("p.png"), photograph, canonical)

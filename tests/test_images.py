import numpy as np
import pytest
from PIL import Image

from blur_lightning.images import (
    UnreadableImageError,
    image_files,
    read_image,
    resize_fast,
    resize_image,
    resize_smaller_side,
    resized_shape,
)

# Left half dark, right half light, so that rotations and channels can be told apart.
PIXELS = np.zeros((20, 30, 3), dtype=np.uint8)
PIXELS[:, :15] = 40, 80, 120
PIXELS[:, 15:] = 200, 160, 240


def saved(path, image, **options):
    image.save(path, **options)
    return read_image(path)


def assert_close(left, right, tolerance=0):
    assert left.shape == right.shape
    assert left.dtype == np.uint8
    assert np.abs(left.astype(int) - right.astype(int)).max() <= tolerance


def test_colour_comes_back_as_it_was(tmp_path):
    assert_close(saved(tmp_path / "a.png", Image.fromarray(PIXELS)), PIXELS)
    assert_close(saved(tmp_path / "a.jpg", Image.fromarray(PIXELS), quality=100), PIXELS, 30)


@pytest.mark.parametrize("mode", ["L", "LA", "1"])
def test_grey_has_three_equal_channels(tmp_path, mode):
    read = saved(tmp_path / "a.png", Image.fromarray(PIXELS).convert(mode))
    assert_close(read, np.asarray(Image.fromarray(PIXELS).convert(mode).convert("RGB")))
    assert (read[..., 0] == read[..., 2]).all()


def test_cmyk_is_converted(tmp_path):
    cmyk = Image.fromarray(PIXELS).convert("CMYK")
    assert_close(saved(tmp_path / "a.jpg", cmyk, quality=100), PIXELS, 30)


def test_sixteen_bits_keep_the_upper_eight(tmp_path):
    grey = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    for ending in ("png", "tif"):
        read = saved(tmp_path / f"a.{ending}", Image.fromarray(grey))
        assert_close(read, np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2))


def test_a_palette_with_transparency_keeps_its_colours(tmp_path):
    palette = Image.fromarray(PIXELS).quantize(4)
    assert_close(saved(tmp_path / "a.png", palette, transparency=b"\x00\x80"), PIXELS, 8)


def test_of_an_animation_the_first_frame_counts(tmp_path):
    frames = [Image.fromarray(PIXELS), Image.fromarray(255 - PIXELS)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    assert_close(read_image(tmp_path / "a.gif"), PIXELS, 40)


def test_exif_orientation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter clockwise
    read = saved(tmp_path / "a.png", Image.fromarray(PIXELS), exif=exif)
    assert_close(read, np.rot90(PIXELS, -1))


@pytest.mark.parametrize("keep", [0, 2, 60, 0.5])
def test_broken_files_are_named(tmp_path, keep):
    path = tmp_path / "broken.jpg"
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(UnreadableImageError, match=r"broken\.jpg: cannot be read"):
        read_image(path)


def test_text_and_folders_are_no_images(tmp_path):
    (tmp_path / "a.jpg").write_text("not a picture")
    with pytest.raises(UnreadableImageError, match="not an image"):
        read_image(tmp_path / "a.jpg")
    with pytest.raises(UnreadableImageError, match="nothing"):
        read_image(tmp_path / "nothing.jpg")


@pytest.mark.parametrize(("shape", "size"), [((40, 80), (20, 40)), ((90, 30), (60, 20))])
def test_the_smaller_side_gets_the_size(shape, size):
    image = np.full((*shape, 3), 99, dtype=np.uint8)
    assert_close(resize_smaller_side(image, 20), np.full((*size, 3), 99, dtype=np.uint8))


@pytest.mark.parametrize(
    ("shape", "length", "measure", "resized"),
    [
        ((375, 500), 384, "smaller_side", (384, 512)),
        # 384 sqrt(3/4) = 332.55 and 384 sqrt(4/3) = 443.41
        ((375, 500), 384, "geometric_mean", (333, 443)),
        ((500, 375), 384, "geometric_mean", (443, 333)),
        ((1, 10000), 10, "geometric_mean", (1, 1000)),
        ((375, 500), 256, (256, 336), (256, 336)),
        ((500, 375), 256, (336, 256), (336, 256)),
        ((300, 300), 256, (256, 336), (256, 336)),
        ((375, 500), 128, (256, 336), (128, 168)),
    ],
)
def test_a_measure_of_the_image_gets_the_length(shape, length, measure, resized):
    assert resized_shape(shape, length, measure) == resized
    image = np.full((*shape, 3), 99, dtype=np.uint8)
    assert_close(resize_image(image, resized), np.full((*resized, 3), 99, dtype=np.uint8))


def test_a_mask_keeps_its_labels_and_stays_on_its_image():
    """A step at two thirds of the width lies there in both, to half a pixel."""
    mask = np.zeros((40, 60), dtype=np.uint8)
    mask[:, 40:] = 17
    for width in (31, 60, 90):
        small = resize_image(mask, (20, width), interpolation="nearest")
        assert set(np.unique(small)) == {0, 17}
        edge = np.flatnonzero(small[0] == 17)[0]
        assert abs(edge - width * 2 / 3) <= 0.5
        image = resize_image(np.repeat(mask[..., None], 3, axis=2), (20, width))
        assert abs((17 - image[0, :, 0].astype(float)).sum() / 17 - width * 2 / 3) <= 0.5


def test_resizing_does_not_alias():
    stripes = np.zeros((64, 64, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    small = resize_smaller_side(stripes, 16)
    assert np.abs(small[:, 2:-2].astype(int) - 127).max() <= 2


def test_files_are_found_by_their_endings(tmp_path):
    for name in ("b.JPEG", "a.png", "notes.txt", "sub/c.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    names = [str(path.relative_to(tmp_path)) for path in image_files(tmp_path)]
    assert names == ["a.png", "b.JPEG", "sub/c.jpg"]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_a_fast_resize_differs_by_a_level_in_few_pixels(interpolation):
    # Smooth, as photographs are: noise would reach beyond 0 and 255.
    noise = np.random.default_rng(0).integers(0, 256, size=(20, 30, 3), dtype=np.uint8)
    image = resize_image(noise, (90, 131))
    exact = resize_image(image, (61, 89), interpolation=interpolation).astype(int)
    fast = resize_fast(image, (61, 89), interpolation=interpolation)
    assert fast.dtype == np.uint8
    difference = abs(fast - exact)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02
    assert resize_fast(image, (90, 131)) is image

import numpy as np
import pytest
import torch

from blur_lightning.blur.cutting import cut_mask, cut_window, middle_window
from blur_lightning.images import VOID


def picture(height, width):
    return np.random.default_rng(0).integers(0, 200, size=(height, width, 3), dtype=np.uint8)


def test_a_small_image_is_continued_by_the_border_rule():
    image = picture(8, 12)
    window = cut_window(image, side=20, margin=3)
    assert window.shape == (26, 26, 3)
    np.testing.assert_array_equal(window[9:17, 7:19], image)
    np.testing.assert_array_equal(window[8, 7:19], image[1])
    assert not cut_window(image, side=20, margin=3, border="constant")[:9].any()


@pytest.mark.parametrize("shape", [(30, 41), (13, 50), (9, 7)])
@pytest.mark.parametrize("place", [(0.0, 1.0), (0.5, 0.5), (0.31, 0.87)])
@pytest.mark.parametrize("margin", [0, 5])
def test_a_mask_is_cut_where_its_image_is(shape, place, margin):
    """The channel of an image as its mask: the same pixels inside, void beyond."""
    image = picture(*shape)
    window = cut_window(image, side=16, margin=margin, place=place, border="constant")
    inside = cut_window(image // 255 + 1, side=16, margin=margin, place=place, border="constant")
    mask = cut_mask(image[..., 0], side=16, place=place)
    assert mask.shape == (16, 16)
    middle = slice(margin, margin + 16)
    expected = np.where(inside[..., 0] == 1, window[..., 0], VOID)[middle, middle]
    np.testing.assert_array_equal(mask, expected)
    assert (mask == VOID).any() == (min(shape) < 16)


@pytest.mark.parametrize("shape", [(30, 41), (13, 50), (15, 17), (16, 16)])
@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
def test_the_middle_of_a_batch_is_the_central_window_of_each_image(shape, border):
    images = [picture(*shape), picture(*shape)[::-1].copy()]
    batch = torch.stack([torch.from_numpy(image).permute(2, 0, 1) for image in images])
    windows = middle_window(batch, side=16, border=border)
    for window, image in zip(windows, images, strict=True):
        expected = cut_window(image, side=16, margin=0, border=border)
        np.testing.assert_array_equal(window.permute(1, 2, 0).numpy(), expected)

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from blur_lightning.blur import BlurDistribution, Capture, convolve, make_kernels
from blur_lightning.blur.capture import cut_window, normalize
from blur_lightning.blur.families import Blur


def picture(height=60, width=80, seed=0):
    """Smooth enough to be resized without aliasing, rough enough to be changed by a blur."""
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height // 4, width // 4, 3))
    small = Image.fromarray(pixels.astype(np.uint8))
    return np.asarray(small.resize((width, height), Image.Resampling.BICUBIC))


def tensor(image):
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]


def windows(capture, image, margin, **where):
    return tensor(cut_window(image, side=capture.window_side, margin=margin, **where))


def test_at_the_canonical_scale_it_is_blur_then_eight_bits_then_crop():
    capture, image = Capture(canonical=60, scale=60, crop=40), picture()
    blurs = [Blur("disk", 4.0)]
    whole = convolve(tensor(image), make_kernels(blurs))
    expected = whole[..., 10:50, 20:60].float() / 255
    assert torch.equal(capture(windows(capture, image, 4), blurs), expected)


@pytest.mark.parametrize("text", ["sharp", "D4", "V4", "G2", "shake"])
@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
@pytest.mark.parametrize("place", [(0.0, 0.0), (1.0, 1.0), (0.3, 0.9)])
def test_cutting_the_window_first_equals_blurring_the_whole_image(text, border, place):
    """At the image's edge too, where the border rule fills the margin."""
    capture, image = Capture(canonical=60, scale=60, crop=48, border=border), picture()
    blur = BlurDistribution.parse(text)
    blurs = [blur.draw(seed=0, index=0)]
    whole = convolve(tensor(image), make_kernels(blurs), border=border).float() / 255
    top, left = round(12 * place[0]), round(32 * place[1])
    window = windows(capture, image, blur.half_width, border=border, place=place)
    assert torch.equal(capture(window, blurs), whole[..., top : top + 48, left : left + 48])


@pytest.mark.parametrize(
    ("scale", "interpolation", "apron"),
    [(40, "bilinear", 2), (40, "bicubic", 3), (120, "bilinear", 3), (120, "bicubic", 5)],
)
def test_the_resize_is_that_of_the_whole_image(scale, interpolation, apron):
    """The crop comes out as if the whole blurred image had been resized, and then cropped."""
    crop = scale - 2 * apron
    capture = Capture(canonical=60, scale=scale, crop=crop, interpolation=interpolation)
    assert capture.window_side == 60
    image, blurs = picture(120, 120), [Blur("disk", 2.0)]
    whole = convolve(tensor(image), make_kernels(blurs)).float()
    resized = F.interpolate(
        whole, size=(2 * scale, 2 * scale), mode=interpolation, antialias=True, align_corners=False
    ).clamp(0, 255)
    start = scale // 2 + apron  # the window begins at 30 of 120 pixels
    expected = resized[..., start : start + crop, start : start + crop] / 255
    ours = capture(windows(capture, image, 2), blurs)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)


def test_the_margin_is_not_seen():
    capture, image = Capture(canonical=60, scale=60, crop=32), picture()
    blurs = [Blur("disk", 3.0)]
    tight = capture(windows(capture, image, 3), blurs)
    assert torch.equal(tight, capture(windows(capture, image, 9), blurs))
    assert not torch.equal(tight, capture(windows(capture, image, 2), blurs))


def test_blurred_values_have_eight_bits():
    capture = Capture(canonical=60, scale=60, crop=40)
    values = capture(windows(capture, picture(), 8), [Blur("gaussian", 2.0)]) * 255
    torch.testing.assert_close(values, values.round(), atol=1e-4, rtol=0)


def test_a_small_image_is_continued_by_the_border_rule():
    image = picture(8, 12)
    window = cut_window(image, side=20, margin=3)
    assert window.shape == (26, 26, 3)
    np.testing.assert_array_equal(window[9:17, 7:19], image)
    np.testing.assert_array_equal(window[8, 7:19], image[1])
    assert not cut_window(image, side=20, margin=3, border="constant")[:9].any()


def test_normalize_undoes_mean_and_standard_deviation():
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    white = torch.randn(2, 3, 5, 5, generator=generator)
    images = white * std.view(3, 1, 1) + mean.view(3, 1, 1)
    torch.testing.assert_close(normalize(images, mean=mean.tolist(), std=std.tolist()), white)

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from blur_lightning.blur import BlurDistribution, Capture, blur_images, convolve, make_kernels
from blur_lightning.blur.capture import normalize
from blur_lightning.blur.conditions import check_reach
from blur_lightning.blur.cutting import cut_window
from blur_lightning.blur.families import Blur
from blur_lightning.data.photos import PhotosDataModule
from blur_lightning.errors import InputError


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


@pytest.mark.parametrize(
    ("canonical", "scale", "crop"), [(384, 256, 224), (384, 512, 224), (384, 300, 3), (50, 47, 41)]
)
@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
def test_the_resize_is_that_of_torch(canonical, scale, crop, interpolation):
    """Noise shows every weight, and overshoots 0..255."""
    capture = Capture(canonical=canonical, scale=scale, crop=crop, interpolation=interpolation)
    side = capture.window_side
    noise = torch.randint(0, 2, (2, 3, side, side), generator=torch.Generator().manual_seed(0))
    window = (255 * noise).to(torch.uint8)
    resized = F.interpolate(
        window.float(), scale_factor=scale / canonical, mode=interpolation, antialias=True
    )
    start = capture._apron(scale)
    expected = resized[..., start : start + crop, start : start + crop].clamp(0, 255) / 255
    ours = capture(window, [Blur("sharp")] * 2)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=0)
    assert ours.is_contiguous()


def test_the_resize_is_exact_under_mixed_precision_and_after_inference_mode():
    capture = Capture(canonical=60, scale=41, crop=30)
    window, blurs = windows(capture, picture(), 2), [Blur("disk", 2.0)]
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        mixed = capture(window, blurs)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, capture(window, blurs))


def test_the_margin_is_not_seen():
    capture, image = Capture(canonical=60, scale=60, crop=32), picture()
    blurs = [Blur("disk", 3.0)]
    tight = capture(windows(capture, image, 3), blurs)
    assert torch.equal(tight, capture(windows(capture, image, 9), blurs))
    assert not torch.equal(tight, capture(windows(capture, image, 2), blurs))


@pytest.mark.parametrize("text", ["sharp", "D4", "V4", "G2", "M8@30", "shake"])
@pytest.mark.parametrize("light", ["srgb", "linear"])
def test_a_wider_blur_beside_it_changes_no_image(text, light):
    capture = Capture(canonical=60, scale=40, crop=24, light=light)
    window = windows(capture, picture(), 16)
    blur = BlurDistribution.parse(text).draw(seed=0, index=0)
    both = capture(window.expand(2, -1, -1, -1), [blur, Blur("gaussian", 4.0)])
    assert torch.equal(both[:1], capture(window, [blur]))


def test_light_is_averaged_where_asked():
    capture, blurs = Capture(canonical=60, scale=60, crop=40, light="linear"), [Blur("disk", 4.0)]
    image = picture()
    whole = blur_images(tensor(image), blurs, light="linear")[..., 10:50, 20:60].float() / 255
    values = capture(windows(capture, image, 4), blurs)
    assert torch.equal(values, whole)
    # The mean of squares is more than the square of the mean.
    assert values.mean() > Capture(60, 60, 40)(windows(capture, image, 4), blurs).mean()


@pytest.mark.parametrize("margin", [0, 9])
@pytest.mark.parametrize("text", ["sharp", "D4", "G2", "shake"])
@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
def test_crop_first_blurs_the_crop_with_a_border_of_its_own(margin, text, border):
    capture = Capture(60, 60, 40, border=border, order="crop_first", light="linear")
    assert capture.margin(16) == 0
    image = picture()
    blurs = [BlurDistribution.parse(text).draw(seed=0, index=0)]
    crop = tensor(image[10:50, 20:60])
    expected = blur_images(crop, blurs, border=border, light="linear").float() / 255
    assert torch.equal(capture(windows(capture, image, margin), blurs), expected)


@pytest.mark.parametrize(
    ("order", "text", "message"),
    [("crop_first", "G8", "data.capture.crop 32"), ("blur_first", "G15", "data.capture.canonical")],
)
def test_a_blur_wider_than_what_it_blurs_is_refused(order, text, message):
    capture = Capture(60, 60, 32, order=order)
    check_reach(BlurDistribution.parse("G4"), capture)
    with pytest.raises(InputError, match=message):
        check_reach(BlurDistribution.parse(text), capture)


def test_each_blurred_crop_is_stored_as_jpeg():
    capture = Capture(60, 60, 40, order="crop_first", jpeg_quality=85)
    images, blurs = [picture(), picture(seed=1)], [Blur("disk", 2.0), Blur("sharp")]
    values = capture(torch.cat([windows(capture, image, 0) for image in images]), blurs)
    for image, blur, value in zip(images, blurs, values, strict=True):
        blurred = blur_images(tensor(image[10:50, 20:60]), [blur])[0].permute(1, 2, 0).numpy()
        file = io.BytesIO()
        Image.fromarray(blurred).save(file, "jpeg", quality=85)
        stored = tensor(np.asarray(Image.open(file)))[0]
        assert torch.equal(value, stored.float() / 255)
        assert 0 < (value - tensor(blurred)[0] / 255).abs().mean() < 0.05


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"order": "crop_first"},
            "capture.order: crop_first blurs a crop at the network's scale, 256",
        ),
        ({"jpeg_quality": 85}, "capture.jpeg_quality: set capture.order crop_first too"),
        ({"jpeg_quality": 0}, "capture.jpeg_quality: 0 is not 1 to 100"),
        ({"crop": 300}, "capture.crop: 300 pixels do not fit"),
        ({"scale": 0}, "capture.scale: 0 is not 1 pixel"),
        ({"scale": (256, 256)}, "capture.scale: name at least one, each once"),
        ({"scale": ()}, "capture.scale: name at least one"),
        ({"scale": (512, 128)}, "capture.crop: 224 pixels do not fit an image of scale 128"),
        ({"order": "crop_first", "canonical": 256, "crop": "whole"}, "set a capture.crop"),
        ({"measure": (336, 256)}, "capture.measure: 256 is .*; set capture.canonical 256 too"),
    ],
)
def test_settings_that_do_not_fit_are_named(settings, message):
    with pytest.raises(InputError, match=message):
        Capture(**settings)


def test_blurred_values_have_eight_bits():
    capture = Capture(canonical=60, scale=60, crop=40)
    values = capture(windows(capture, picture(), 8), [Blur("gaussian", 2.0)]) * 255
    torch.testing.assert_close(values, values.round(), atol=1e-4, rtol=0)


def test_normalize_undoes_mean_and_standard_deviation():
    generator = torch.Generator().manual_seed(0)
    mean, std = torch.tensor([0.1, 0.5, 0.9]), torch.tensor([0.2, 0.3, 0.4])
    white = torch.randn(2, 3, 5, 5, generator=generator)
    images = white * std.view(3, 1, 1) + mean.view(3, 1, 1)
    torch.testing.assert_close(normalize(images, mean=mean.tolist(), std=std.tolist()), white)
    before = images.clone()
    new = normalize(images, mean=mean.tolist(), std=std.tolist())
    assert torch.equal(images, before)
    assert normalize(images, mean=mean.tolist(), std=std.tolist(), inplace=True) is images
    assert torch.equal(images, new)


@pytest.mark.parametrize("text", ["glass_blur-2", "zoom_blur-2", "glass_blur_legacy-1", "D4%50"])
def test_what_is_no_convolution_depends_on_neither_margin_nor_batch(text):
    capture, image = Capture(canonical=60, scale=60, crop=48), picture()
    mix = BlurDistribution.parse(text)
    blur, wide = mix.draw(seed=0, index=0), Blur("gaussian", 3.0)
    narrow = windows(capture, image, mix.half_width)
    wider = windows(capture, image, 25)
    alone = capture(narrow, [blur])
    assert torch.equal(capture(wider, [blur]), alone)
    beside = capture(wider.repeat(3, 1, 1, 1), [wide, blur, Blur("zoom_blur", 1.0)])
    assert torch.equal(beside[1], alone[0])
    assert torch.equal(beside[0], capture(windows(capture, image, 12), [wide])[0])


def test_the_rim_is_that_of_the_capture():
    image, blurs = picture(), [Blur("disk", 2.5)]
    results = []
    for rim in ("hard", "area"):
        capture = Capture(canonical=60, scale=60, crop=40, rim=rim)
        window = windows(capture, image, 3)
        results.append(capture(window, blurs))
        wanted = convolve(window, make_kernels(blurs, rim=rim), "replicate")
        assert torch.equal(results[-1], wanted[..., 3:-3, 3:-3].float() / 255)
    assert not torch.equal(*results)


def test_what_differs_from_the_defaults_is_named():
    assert Capture(canonical=60, scale=60, crop=40).variant == ""
    changed = Capture(canonical=256, light="linear", order="crop_first", jpeg_quality=85)
    assert changed.variant == "light linear, order crop_first, jpeg_quality 85"
    assert Capture(measure="geometric_mean").variant == "measure geometric_mean"
    zoomout = Capture(256, 256, "whole", measure=(336, 256), rim="area")
    assert zoomout.variant == "crop whole, measure 256x336, rim area"
    data = PhotosDataModule(capture=changed)
    assert data.dataset == f"photos ({changed.variant})"
    assert PhotosDataModule().dataset == "photos"


@pytest.mark.parametrize("scale", [40, 60, 96])
def test_whole_images_are_resized_whole(scale):
    capture = Capture(canonical=60, scale=scale, crop="whole")
    image, blurs = tensor(picture(60, 83)), [Blur("disk", 4.0)]
    blurred = convolve(image, make_kernels(blurs)).float()
    size = (scale, round(83 * scale / 60))
    expected = blurred
    if scale != 60:
        expected = F.interpolate(blurred, size=size, mode="bicubic", antialias=True).clamp(0, 255)
    ours = capture(image, blurs)
    assert ours.shape == (1, 3, *size)
    torch.testing.assert_close(ours, expected / 255, atol=1e-5, rtol=0)


@pytest.mark.parametrize("crop", [30, "whole"])
def test_several_scales_are_each_as_alone(crop):
    both = Capture(canonical=60, scale=(40, 80), crop=crop)
    assert both.scale_name == "40+80"
    blurs = [Blur("disk", 2.0)]
    image = tensor(picture(60, 90)) if crop == "whole" else windows(both, picture(80, 90), 2)
    inputs = both(image, blurs)
    for scale, ours in zip((40, 80), inputs, strict=True):
        alone = Capture(canonical=60, scale=scale, crop=crop)
        if crop != "whole":
            cut = (image.shape[-1] - alone.window_side - 4) // 2
            side = alone.window_side + 4
            image_alone = image[..., cut : cut + side, cut : cut + side]
        else:
            image_alone = image
        assert torch.equal(ours, alone(image_alone, blurs))


def test_each_window_of_a_batch_may_have_a_scale_of_its_own():
    capture = Capture(canonical=60, scale=(40, 80), crop=30)
    blurs = [Blur("disk", 2.0), Blur("gaussian", 1.0), Blur("sharp")]
    batch = torch.cat([windows(capture, picture(80, 90, seed), 4) for seed in range(3)])
    scales = [80, 40, 80]
    mixed = capture.at_scales(batch, blurs, scales)
    for index, scale in enumerate(scales):
        every = capture(batch[index : index + 1], blurs[index : index + 1])
        assert torch.equal(mixed[index], every[capture.scales.index(scale)][0])


def test_only_the_smaller_side_must_have_room_for_the_crop():
    assert Capture(256, 256, 336, measure=(256, 336)).window_side == 336
    assert Capture(384, 384, 448, measure="geometric_mean").window_side == 448


def test_whole_images_narrower_than_the_scale_keep_their_aspect():
    """As the geometric mean leaves them: a side may be below the scale."""
    capture = Capture(canonical=60, scale=30, crop="whole", measure="geometric_mean")
    assert capture(tensor(picture(40, 88)), [Blur("sharp")]).shape == (1, 3, 20, 44)


@pytest.mark.parametrize("capture", [Capture(60, 60, 40), Capture(60, 40, 24), Capture(60, 30, 24)])
@pytest.mark.parametrize("light", ["srgb", "linear"])
def test_a_kernel_of_ones_own_is_captured_as_the_blur_that_it_is(capture, light):
    capture, blur = replace(capture, light=light), Blur("disk", 3.0)
    window = windows(capture, picture(), 3)
    kernel = make_kernels([blur]).groups[0].factors[0]
    expected = capture(window, [blur])
    torch.testing.assert_close(capture(window, kernel), expected, rtol=0, atol=1e-6)
    scales = [capture.scale]
    assert capture.at_scales(window, kernel, scales).equal(capture(window, kernel))


@pytest.mark.parametrize("scale", [60, 40, 80])
def test_gradients_reach_the_kernel_through_the_resize(scale):
    """A mean over the crop is linear in the taps: differences are the gradient."""
    capture = Capture(canonical=60, scale=scale, crop=24)
    window = windows(capture, picture(), 2).float()
    kernel = torch.full((1, 5, 5), 0.04, requires_grad=True)
    view = capture(window, kernel)
    rounded = capture(window.byte(), kernel.detach())
    torch.testing.assert_close(view, rounded, rtol=0, atol=1 / 255)
    (slope,) = torch.autograd.grad(view.mean(), kernel)
    for row, column in ((0, 0), (4, 1)):
        tap = torch.zeros(1, 5, 5)
        tap[0, row, column] = 1
        expected = capture(window, tap).mean()
        torch.testing.assert_close(slope[0, row, column], expected, rtol=1e-4, atol=1e-4)

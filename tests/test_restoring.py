"""What restores blurred images, and what of a restored image a network gets."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from blur_lightning.blur import (
    Blur,
    Capture,
    Deconvolver,
    RestoredFolder,
    Restorer,
    blur_images,
    make_kernels,
)
from blur_lightning.blur.cutting import cut_window
from blur_lightning.blur.deconvolve import ROUNDING, deconvolve
from blur_lightning.blur.restoring import Known, restored_windows
from blur_lightning.errors import InputError


@pytest.fixture
def images():
    """Two photographs of smooth random colours, 8 bits."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(2, 3, 8, 9, generator=generator)
    smooth = nn.functional.interpolate(coarse, size=(48, 57), mode="bicubic")
    return (smooth.clamp(0, 1) * 255).round().to(torch.uint8)


def known(condition="D2", blurs=None, **capture):
    settings = {"canonical": 48, "scale": 32, "crop": 24} | capture
    blurs = blurs or [Blur("disk", 2.0)] * 2
    return Known(condition, blurs, ["a/1.jpg", "2.png"], Capture(**settings))


def save(path, image):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(path)


def test_the_true_kernel_has_the_rim_of_the_capture_and_the_noise_of_8_bits(images):
    blurs = [Blur("disk", 2.5), Blur("sharp")]
    blurred = blur_images(images, blurs, rim="area") / 255
    restored = Deconvolver("wiener", noise=0.02)(blurred, known(blurs=blurs, rim="area"))
    noise = (0.02**2 + ROUNDING**2) ** 0.5
    kernels = make_kernels(blurs, rim="area")
    torch.testing.assert_close(restored, deconvolve(blurred, kernels, method="wiener", noise=noise))
    assert torch.equal(restored[1], blurred[1])
    assert not torch.equal(restored, Deconvolver("wiener", noise=0.02)(blurred, known(blurs=blurs)))


def test_a_blur_of_light_is_undone_in_light(images):
    """A lamp at night, whose blur in light is not that of the values of the file."""
    sharp = images // 8
    sharp[..., 20:23, 20:23] = 255
    blurs = [Blur("disk", 3.0)] * 2
    blurred = blur_images(sharp, blurs, light="linear") / 255
    errors = []
    for light in ("linear", "srgb"):
        restored = Deconvolver("sparse")(blurred, known(blurs=blurs, light=light))
        errors.append((restored.clamp(0, 1) - sharp / 255).square().mean().item())
    assert errors[0] < errors[1] / 3


@pytest.mark.parametrize(
    ("blur", "message"),
    [
        (Blur("disk", 2.0, share=50.0), r"D2%50: is blurred in parts"),
        (Blur("glass_blur", 3.0), r"glass_blur-3: is no convolution"),
    ],
)
def test_what_has_no_single_kernel_is_refused(images, blur, message):
    with pytest.raises(InputError, match=message):
        Deconvolver("wiener")(images / 255, known(blurs=[blur] * 2))


def test_a_negative_noise_is_refused():
    with pytest.raises(InputError, match=r"noise: -1.0 is no standard deviation"):
        Deconvolver(noise=-1.0)


def test_restored_files_are_taken_by_condition_and_name(images, tmp_path):
    save(tmp_path / "restored/D2/a/1.png", images[0])
    save(tmp_path / "restored/D2/2.png", images[1])
    folder = RestoredFolder(str(tmp_path / "restored"))
    assert folder.name == "restored in restored"
    grey = torch.full(images.shape, 0.5)
    assert torch.equal(folder(grey, known()), images / 255)
    assert torch.equal(folder(grey, known("sharp")), grey)  # there is no folder of that name
    save(tmp_path / "restored/sharp/a/1.png", images[1])
    save(tmp_path / "restored/sharp/2.png", images[0])
    assert torch.equal(folder(grey, known("sharp")), images.flip(0) / 255)


def test_restored_files_that_do_not_fit_are_named(images, tmp_path):
    with pytest.raises(InputError, match=r"model.restore.root: there is no folder .*nowhere"):
        RestoredFolder(str(tmp_path / "nowhere"))
    save(tmp_path / "D2/a/1.png", images[0])
    folder = RestoredFolder(str(tmp_path))
    with pytest.raises(InputError, match=r"D2/2.png: there is no restored image of that name"):
        folder(images / 255, known())
    with pytest.raises(InputError, match=r"D4/a/1.jpg: there is no restored image of that name"):
        folder(images / 255, known("D4"))
    save(tmp_path / "D2/2.png", images[1, :, :40])
    with pytest.raises(InputError, match=r"2.png: 57x40 pixels, but the blurred image has 57x48"):
        RestoredFolder(str(tmp_path))(images / 255, known())
    (tmp_path / "D2/2.png").write_text("nothing")
    with pytest.raises(InputError, match=r"2.png: cannot be read .*; mend it"):
        RestoredFolder(str(tmp_path))(images / 255, known())


@pytest.mark.parametrize("crop", [24, 32, "whole"])
def test_windows_of_whole_images_are_those_that_the_data_set_cuts(images, crop):
    """A crop of 32 needs more than the image has, so that the border goes on."""
    asked = known(crop=crop)
    windows = restored_windows(images, nn.Identity(), asked)
    if crop == "whole":
        assert torch.equal(windows, images)
        return
    side = asked.capture.window_side
    for window, image in zip(windows, images, strict=True):
        expected = cut_window(image.permute(1, 2, 0).numpy(), side=side, margin=0)
        np.testing.assert_array_equal(window.permute(1, 2, 0).numpy(), expected)


class Told(Restorer):
    """Gives what it is told of the images as their values."""

    def forward(self, images, known):
        assert known.names == ["a/1.jpg", "2.png"]
        return [images[..., ::2, ::2], images + known.blurs[0].parameter / 255 + 1e-3]


def test_what_is_restored_is_told_what_is_known_and_stored_with_8_bits(images):
    windows = restored_windows(images, Told(), known(crop="whole"))
    assert torch.equal(windows, (images.int() + 2).clamp(max=255).to(torch.uint8))


def test_a_restorer_that_changes_the_size_is_refused(images):
    with pytest.raises(InputError, match=r"gives \(2, 3, 24, 28\) for images \(2, 3, 48, 57\)"):
        restored_windows(images, nn.AvgPool2d(2), known())

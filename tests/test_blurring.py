from dataclasses import replace

import pytest
import torch

from blur_lightning.blur import Blur, BlurDistribution, blur_images, convolve, make_kernels
from blur_lightning.blur.families import check_blurs
from blur_lightning.blur.imagenet_c import corrupt


def test_a_batch_may_mix_all_kinds_of_blurs():
    generator = torch.Generator().manual_seed(0)
    names = ["D2", "zoom_blur-3", "sharp", "glass_blur-2", "coma0.05@30", "motion_blur_legacy-1"]
    blurs = [BlurDistribution.parse(name).draw(seed=0, index=i) for i, name in enumerate(names)]
    images = torch.randint(0, 256, (6, 3, 61, 53), dtype=torch.uint8, generator=generator)
    together = blur_images(images, blurs)
    for image, blur, result in zip(images, blurs, together, strict=True):
        assert torch.equal(blur_images(image[None], [blur])[0], result)
    assert torch.equal(together[0], convolve(images[:1], make_kernels(blurs[:1]))[0])
    zoomed = corrupt(images[1:2], "zoom_blur", 3, angles=[0.0], keys=[0], border="reflect")
    assert torch.equal(together[1], zoomed[0])
    assert torch.equal(together[2], images[2])


@pytest.mark.parametrize("light", ["srgb", "linear"])
@pytest.mark.parametrize("name", ["D3", "zoom_blur-2", "glass_blur-1", "gaussian_blur_legacy-2"])
def test_even_images_stay_as_they_are(name, light):
    images = torch.full((2, 3, 40, 37), 143, dtype=torch.uint8)
    blurs = [BlurDistribution.parse(name).draw(seed=0, index=i) for i in range(2)]
    result = blur_images(images, blurs, light=light).int()
    # The reference cuts decimals off.
    assert (result - 143).abs().max() <= ("legacy" in name)


def test_nothing_to_blur_is_no_error():
    nothing = torch.zeros(0, 3, 5, 5, dtype=torch.uint8)
    assert blur_images(nothing, [], light="linear").shape == (0, 3, 5, 5)


@pytest.mark.parametrize("name", ["D4%50", "glass_blur-3%50", "shake%50"])
def test_a_share_of_an_image_is_blurred_in_squares(name):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (4, 3, 256, 192), dtype=torch.uint8, generator=generator)
    blurs = [BlurDistribution.parse(name).draw(seed=0, index=i) for i in range(4)]
    whole = blur_images(images, [replace(blur, share=100.0) for blur in blurs])
    result = blur_images(images, blurs)
    blurred = (result == whole).all(dim=1)
    assert (blurred | (result == images).all(dim=1)).all()
    squares = blurred.unfold(1, 32, 32).unfold(2, 32, 32).flatten(3).float().mean(dim=3)
    assert ((squares == 1) | (squares < 0.2)).all()
    assert 0.35 < (squares == 1).float().mean() < 0.65
    assert not torch.equal(squares[0], squares[1])


def test_each_image_of_a_batch_has_glass_of_its_own():
    images = torch.rand(1, 3, 40, 40, generator=torch.Generator().manual_seed(0)).repeat(2, 1, 1, 1)
    drawn = [BlurDistribution.parse("glass_blur-3").draw(seed=0, index=i) for i in range(2)]
    apart = blur_images(images, drawn)
    assert not torch.equal(apart[0], apart[1])
    assert torch.equal(apart[1], blur_images(images[:1], drawn[1:])[0])


def test_blurs_that_do_not_fit_are_named():
    images = torch.zeros(2, 3, 9, 9)
    with pytest.raises(ValueError, match=r"blurs: 1 for images of shape \(2, 3, 9, 9\)"):
        blur_images(images, [Blur("disk", 1.0)])
    with pytest.raises(ValueError, match=r"blurs: .D4. is no Blur; BlurDistribution\.parse"):
        check_blurs.__wrapped__(["D4", "D4"])
    with pytest.raises(ValueError, match=r"they reach 1000 px.*use border='replicate'"):
        blur_images(images, [Blur("disk", 1000.0)] * 2)


def test_a_margin_is_cut_off_blurs_of_every_kind():
    blurs = [
        Blur("disk", 3.0),
        Blur("zoom_blur", 2.0),
        Blur("glass_blur", 1.0, key=3),
        Blur("disk", 3.0, key=5, share=50.0),
        Blur("sharp"),
    ]
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (5, 3, 70, 60), dtype=torch.uint8, generator=generator)
    for light in ("srgb", "linear"):
        whole = blur_images(images, blurs, light=light)
        cut = blur_images(images, blurs, light=light, margin=6)
        assert torch.equal(cut, whole[..., 6:-6, 6:-6])


def test_reflection_needs_only_the_axis_along_which_a_blur_reaches():
    wide = torch.arange(3 * 2 * 9, dtype=torch.uint8).view(1, 3, 2, 9)
    assert blur_images(wide, [Blur("horizontal", 8.0)]).shape == wide.shape
    with pytest.raises(ValueError, match="reflected border"):
        blur_images(wide, [Blur("vertical", 8.0)])

from dataclasses import replace

import pytest
import torch

from blur_lightning.blur import (
    Blur,
    BlurDistribution,
    blur_images,
    blurring,
    convolve,
    make_kernels,
)
from blur_lightning.blur.blurring import _reach
from blur_lightning.blur.families import check_blurs
from blur_lightning.blur.imagenet_c import corrupt
from blur_lightning.errors import InputError

# One of each shape of kernel, and what has none.
GRAMMAR = ["D3", "H8", "V5", "M8@30", "G2", "airy2", "coma0.2@30", "shake", "sharp"]
GRAMMAR += ["defocus_blur-3", "gaussian_blur-2", "motion_blur-3"]


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
    wide = [Blur("sharp"), Blur("disk", 1000.0)]
    with pytest.raises(ValueError, match=r"blurs: D1000 reaches 1000 px.*use border='replicate'"):
        blur_images(images, wide)
    with pytest.raises(ValueError, match=r"glass_blur-5 reaches 6 px.*border of a 5x40 image"):
        blur_images(torch.zeros(1, 3, 5, 40), [Blur("glass_blur", 5.0)])


@pytest.mark.parametrize(
    ("blurs", "found"),
    [
        (Blur("disk", 4.0), "Blur"),
        (BlurDistribution.parse("D4"), "BlurDistribution"),
        (None, "NoneType"),
        ((Blur("disk", 4.0) for _ in range(2)), "generator"),
    ],
)
def test_blurs_that_are_no_list_are_named(blurs, found, monkeypatch):
    # Without the runtime type checks of the tests, as users call it.
    monkeypatch.setattr(blurring, "check_blurs", check_blurs.__wrapped__)
    with pytest.raises(InputError, match=f"blurs: {found} is no list; give one Blur for each"):
        blur_images.__wrapped__(torch.zeros(2, 3, 9, 9), blurs)


@pytest.mark.parametrize(
    ("images", "what"),
    [
        ([[0.0]], "images: list is no tensor"),
        (torch.zeros(3, 9, 9), r"images: shape \(3, 9, 9\) is not"),
        (torch.zeros(1, 3, 9, 9).long(), "neither uint8 nor float"),
    ],
)
def test_images_that_are_none_are_named(images, what):
    for light in ("srgb", "linear"):
        with pytest.raises(ValueError, match=what):
            blur_images.__wrapped__(images, [Blur("sharp")], light=light)


def test_a_margin_is_a_whole_number(monkeypatch):
    monkeypatch.setattr(blurring, "convolve", convolve.__wrapped__)
    for blur in (Blur("disk", 2.0), Blur("zoom_blur", 2.0)):
        with pytest.raises(ValueError, match=r"margin: 1\.5 pixels at each edge.*whole ones"):
            blur_images.__wrapped__(torch.zeros(1, 3, 9, 9), [blur], margin=1.5)


@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
@pytest.mark.parametrize(("severity", "least"), [(1.0, 9), (4.0, 9), (5.0, 11)])
def test_legacy_defocus_says_that_it_reflects_whatever_the_border(border, severity, least):
    blurs, small = [Blur("defocus_blur_legacy", severity)], least - 1
    shape = f"it takes {least}x{least} px or more"
    for rows, columns in ((small, small), (1, 1), (small, 40), (40, small)):
        line = rf"defocus_blur_legacy-{severity:g} always has a reflected .* {rows}x{columns} image"
        with pytest.raises(ValueError, match=f"blurs: {line} cannot fill; {shape}"):
            blur_images(torch.zeros(1, 3, rows, columns), blurs, border=border)
    assert blur_images(torch.zeros(1, 3, least, least), blurs, border=border).shape[2:] == (
        least,
        least,
    )


@pytest.mark.parametrize("name", ["gaussian", "motion", "glass", "zoom"])
def test_legacy_blurs_that_do_not_reflect_take_images_of_any_size(name):
    image = torch.rand(1, 3, 5, 4, generator=torch.Generator().manual_seed(0))
    blurs = [Blur(f"{name}_blur_legacy", 5.0)]
    wanted = blur_images(image, blurs, border="replicate")
    assert torch.equal(blur_images(image, blurs, border="reflect"), wanted)


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
    with pytest.raises(
        ValueError, match="blurs: V8 reaches 4 px, which a reflected border of a 2x9"
    ):
        blur_images(wide, [Blur("vertical", 8.0)])
    with pytest.raises(
        ValueError, match="blurs: H8 reaches 4 px, which a reflected border of a 9x2"
    ):
        blur_images(wide.mT, [Blur("horizontal", 8.0)])


@pytest.mark.parametrize("text", GRAMMAR)
def test_what_is_refused_before_kernels_are_made_is_what_does_not_fit(text):
    blur = BlurDistribution.parse(text).draw(seed=0, index=0)
    groups = make_kernels([blur]).groups
    assert _reach(blur) == (groups[0].half_width if groups else (0, 0))

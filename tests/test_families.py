import hashlib
import math

import pytest
import torch

from blur_lightning.blur import BlurDistribution, blur_images, make_kernels
from blur_lightning.blur.convolution import convolve
from blur_lightning.blur.families import (
    FAMILIES,
    Blur,
    family_of,
    half_width,
    is_convolution,
    kernel_hash,
)
from blur_lightning.errors import InputError

# A blur of every family that has kernels, at a parameter that is no round number where it may be.
PARAMETERS = {"severity": (1.0, 2.0, 3.0, 4.0, 5.0), "waves": (0.07, 0.31)}
BLURS = [
    Blur(family.name, parameter, angle)
    for family in FAMILIES.values()
    for parameter in PARAMETERS.get(family.parameter, (1.0, 2.5, 6.3, 8.0))
    for angle in ((0.0,) if family.angles is None else (0.0, 33.0))
    if is_convolution(family.name)
]
BLURS += [Blur("shake", float(index), bank="test") for index in range(0, 100, 9)]


@pytest.mark.parametrize("rim", ["hard", "area"])
@pytest.mark.parametrize("blur", BLURS, ids=str)
def test_every_kernel_has_sum_one_and_is_centred(blur, rim):
    """Seen in what it makes of a point of light, in each channel."""
    reach = half_width(blur.family, blur.parameter)
    side = 2 * reach + 3
    delta = torch.zeros(1, 3, side, side, dtype=torch.float64)
    delta[..., reach + 1, reach + 1] = 1
    spread = convolve(delta, make_kernels([blur], rim=rim))[0]
    assert spread.min() >= -1e-9
    torch.testing.assert_close(spread.sum((1, 2)), torch.ones(3).double(), atol=1e-5, rtol=0)
    places = torch.arange(side) - reach - 1
    for axis in (1, 2):
        centroid = (spread.sum(axis) * places).sum(1)
        assert centroid.abs().max() <= 0.5 + 1e-5


def test_a_drawn_blur_is_told_with_all_its_digits():
    mix = BlurDistribution.parse(
        "D0..0.0001+M3..9@0..180+H2..3+coma0..1@0..9+zoom_blur-1..5+motion_blur-1..5"
    )
    for index in range(60):
        drawn = mix.draw(seed=0, index=index)
        assert BlurDistribution.parse(str(drawn)).draw(seed=9, index=9) == drawn
    assert str(Blur("sharp")) == "sharp"
    assert str(Blur("shake", 7.0, bank="test")) == "shake"


def test_the_colours_of_a_lens_have_kernels_of_their_own():
    (group,) = make_kernels([Blur("coma", 0.2, 30.0)] * 2).groups
    assert group.factors[0].shape[:2] == (2, 3)
    assert not torch.allclose(group.factors[0][0, 0], group.factors[0][0, 2], atol=1e-3)


def test_a_hash_names_a_kernel():
    disk = make_kernels([Blur("disk", 3.0)]).groups[0].factors[0]
    wanted = hashlib.sha256(disk[0].numpy().astype("<f4").tobytes()).hexdigest()
    assert kernel_hash(Blur("disk", 3.0)) == wanted
    assert kernel_hash(Blur("disk", 3.0), rim="area") != wanted
    one = torch.ones(1).numpy().astype("<f4").tobytes()
    assert kernel_hash(Blur("sharp")) == hashlib.sha256(one).hexdigest()
    assert kernel_hash(Blur("zoom_blur", 3.0)) == ""
    assert len({kernel_hash(blur) for blur in (Blur("coma", 0.1), Blur("coma", 0.1, 90.0))}) == 2


def test_what_is_no_convolution_has_no_kernel():
    with pytest.raises(InputError, match=r"zoom_blur-2: is no convolution.*use blur_images"):
        make_kernels([Blur("disk", 1.0), Blur("zoom_blur", 2.0)])


def test_families_are_found_by_name():
    found = family_of("defocus_blur")
    assert found is not None and found.symbol == "defocus_blur-"
    assert family_of("sharp") is None


@pytest.mark.parametrize(
    ("blur", "what"),
    [
        (Blur("diskk", 3.0), r"family='diskk'.*no such family; known: sharp, shake, disk"),
        (Blur("disk", -3.0), "needs a radius of 0 or more"),
        (Blur("gaussian", math.nan), "needs a sigma of 0 or more"),
        (Blur("motion", 3.0, math.inf), "needs a length"),
        (Blur("defocus_blur", 6.0), "needs a severity of 1 to 5 as a whole number"),
        (Blur("zoom_blur", 1.5), "as a whole number"),
        (Blur("shake", 1.0), r"no kernel of that number in a bank; banks: test \(100\)"),
        (Blur("shake", 100.0, bank="test"), "no kernel of that number"),
        (Blur("shake", 300.0, bank="training-300"), "no kernel of that number"),
        (Blur("shake", 0.0, bank="training-x"), "no kernel of that number"),
        (Blur("disk", 3.0, share=150.0), "share of 0 to 100"),
    ],
)
def test_a_blur_that_no_draw_could_give_is_refused(blur, what):
    with pytest.raises(InputError, match=what):
        blur_images(torch.zeros(1, 3, 50, 50), [blur])
    with pytest.raises(InputError, match=what):
        make_kernels([blur])


def test_no_kernel_depends_on_those_beside_it():
    blurs = [Blur("airy", 2.01), Blur("airy", 2.04), Blur("coma", 0.1), Blur("coma", 0.102, 20.0)]
    for group in make_kernels(blurs).groups:
        for place, index in enumerate(group.index.tolist()):
            (alone,) = make_kernels([blurs[index]]).groups
            assert torch.equal(alone.factors[0][0], group.factors[0][place])


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_kernels_do_not_depend_on_the_default_type(dtype):
    blurs = [blur for blur in BLURS if blur.parameter in (2.0, 2.5, 0.31)]
    wanted = [kernel_hash(blur) for blur in blurs]
    kernel_hash.cache_clear()
    torch.set_default_dtype(dtype)
    try:
        assert [kernel_hash(blur) for blur in blurs] == wanted
    finally:
        torch.set_default_dtype(torch.float32)


def test_an_option_that_is_none_is_named():
    # Without the runtime type checks of the tests, as users call it.
    image, blurs = torch.zeros(1, 3, 9, 9), [Blur("disk", 2.0)]
    with pytest.raises(ValueError, match="rim: 'soft' is none of hard, area"):
        make_kernels.__wrapped__(blurs, rim="soft")
    with pytest.raises(ValueError, match="light: 'sRGB' is none of srgb, linear"):
        blur_images.__wrapped__(image, blurs, light="sRGB")
    with pytest.raises(ValueError, match="border: 'mirror' is none of reflect, replicate"):
        convolve.__wrapped__(image, make_kernels(blurs), "mirror")

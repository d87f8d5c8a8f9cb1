import re
from collections import Counter

import pytest
import torch

from blur_lightning.blur import BlurDistribution, blur_images, make_kernels
from blur_lightning.blur.families import FAMILIES, Blur
from blur_lightning.blur.shake import bank_hash, shake_bank
from blur_lightning.errors import InputError

KINDS = ("defocus", "motion", "zoom", "glass", "gaussian")
GRAMMAR = [
    "sharp",
    "D4",
    "D2.5",
    "H8",
    "V8",
    "M8@30",
    "G4",
    "shake",
    "shake200",
    "D2..8",
    "G0..3",
    "M4..8@0..180",
    "airy2",
    "coma0.2",
    "coma0..0.5@0..360",
    "astigmatism0.3@45",
    "trefoil0.1@10",
    "defocus0.5",
    "spherical0.2",
    "defocus_blur-3",
    "motion_blur-5",
    "motion_blur-2@30",
    "motion_blur-2@-30..10",
    "M8@-30",
    "D0.12345678",
    "0.00001*sharp+M8@0.00001",
    "zoom_blur-1..5",
    "glass_blur_legacy-4",
    "0.5*motion_blur_legacy-1+0.5*coma0.1",
    "D8%50",
    "M4..8@0..180%10..90",
    "0.5*shake%30+0.5*glass_blur-2%50",
    "sharp+D2+D4",
    "0.2*sharp+0.8*shake",
]


@pytest.mark.parametrize("text", GRAMMAR)
def test_the_grammar_prints_what_it_parsed(text):
    assert str(BlurDistribution.parse(text)) == text
    assert BlurDistribution.parse(str(BlurDistribution.parse(text))) == BlurDistribution.parse(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("D4.0", "D4"),
        ("D1000000.0", "D1000000"),
        (" sharp + D2 ", "sharp+D2"),
        ("shake00200", "shake200"),
        ("0.50*D2", "0.5*D2"),
    ],
)
def test_spellings_of_one_blur_have_one_name(text, canonical):
    assert BlurDistribution.parse(text) == BlurDistribution.parse(canonical)
    assert str(BlurDistribution.parse(text)) == canonical


@pytest.mark.parametrize(
    ("text", "part", "advice"),
    [
        ("D", "'D'", "radius"),
        ("X4", "'X4'", "is no blur"),
        ("D-2", "'D-2'", "radius of 0 or more"),
        ("M8", "'M8'", "degrees"),
        ("H8@30", "'H8@30'", "length"),
        ("D1e9", "'D1e9'", "0 or more pixels, in plain digits without exponent, e.g. D4"),
        ("D4..1e2", "'D4..1e2'", "without exponent"),
        ("D" + "9" * 400, "", "radius of 0 or more pixels, in plain digits"),
        ("D4%", "'D4%'", "share of 0 to 100 percent after the %, e.g. D8%50"),
        ("D4%5e1", "'D4%5e1'", "share of 0 to 100"),
        ("M8@1e2", "'M8@1e2'", "degrees in plain digits after an @, e.g. M4@30"),
        ("coma0.2@x", "'coma0.2@x'", "degrees in plain digits after an @, e.g. coma0.2@30"),
        ("2e-1*D4", "'2e-1\\*D4'", "weight in plain digits before the \\*"),
        ("shake4", "'shake4'", "no size of a bank, 100 to 1000000 kernels; write shake alone"),
        ("shake1000001", "'shake1000001'", "no size of a bank"),
        ("shake" + "9" * 5000, "", "no size of a bank"),
        ("shake200..300", "'shake200..300'", "no size of a bank"),
        ("shake1e3", "'shake1e3'", "no size of a bank"),
        ("shake200@30", "'shake200@30'", "write shake alone"),
        ("sharp@30", "'sharp@30'", "write sharp alone"),
        ("zoom_blur2", "'zoom_blur2'", "severity of 1 to 5 as a whole number.*zoom_blur-3"),
        ("defocus_blur", "'defocus_blur'", "severity of 1 to 5 .*e.g. defocus_blur-3"),
        ("defocus_blur-0", "'defocus_blur-0'", "severity of 1 to 5"),
        ("glass_blur_legacy-6", "", "severity of 1 to 5 .*glass_blur_legacy-3"),
        ("zoom_blur-2.5", "'zoom_blur-2.5'", "severity of 1 to 5"),
        ("zoom_blur-2@30", "'zoom_blur-2@30'", "no direction"),
        ("D8%50%", "'D8%50%'", "share"),
        ("shake%90..10", "'shake%90..10'", "from high to low"),
        (f"{'9' * 400}*sharp+D4", "", "weights sum to inf"),
        ("D8%101", "'D8%101'", "share of 0 to 100"),
        ("D8%50..20", "'D8%50..20'", "from high to low"),
        ("sharp%50", "'sharp%50'", "write sharp alone"),
        ("coma", "'coma'", "number of waves of 0 to 2.*e.g. coma0.2"),
        ("coma50", "'coma50'", "waves of 0 to 2"),
        ("airy0", "'airy0'", "radius of 0.1 to 10 pixels"),
        ("spherical0.1@3", "'spherical0.1@3'", "no direction; leave out the @, e.g. spherical0.2"),
        ("", "''", "is no blur"),
        ("sharp+", "''", "is no blur"),
        ("-0.2*sharp+D4", "'-0.2\\*sharp'", "negative"),
        ("0*sharp+0*D4", "", "weights sum to 0"),
        ("D8..2", "'D8..2'", "from high to low"),
        ("D4 D8", "'D4 D8'", "radius"),
    ],
)
def test_what_is_no_blur_is_named_with_what_to_do(text, part, advice):
    with pytest.raises(InputError, match=f"{part}.*{advice}"):
        BlurDistribution.parse(text)


def test_what_is_no_text_is_no_blur():
    # Without the runtime type checks of the tests, as users call it.
    for value in (None, 4, ["D4"]):
        with pytest.raises(InputError, match=f"blur: {re.escape(repr(value))} is no text.*'D4'"):
            BlurDistribution.parse.__func__.__wrapped__(BlurDistribution, value)


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("d4", "D4"),
        ("sharp+g2.50", "G2.5"),
        ("0.2*Shake", "0.2*shake"),
        ("disk4%50", "D4%50"),
        ("gauss2", "G2"),
        ("m8@30", "M8@30"),
        ("Coma0.2@10..20", "coma0.2@10..20"),
        ("motion-3", "motion_blur-3"),
        ("glass-3", "glass_blur-3"),
        ("defocus_blur_3", "defocus_blur-3"),
        ("defocus_blurr_legacy-3", "defocus_blur_legacy-3"),
    ],
)
def test_a_near_miss_is_told_what_it_may_have_meant(text, meant):
    with pytest.raises(InputError) as raised:
        BlurDistribution.parse(text)
    assert str(raised.value).endswith(f" is no blur; did you mean {meant}?")


@pytest.mark.parametrize("text", ["X4", "blur", "4", "m8", "d1e9", "sharpD4"])
def test_what_resembles_no_blur_is_told_of_every_family_with_what_can_be_written(text):
    with pytest.raises(InputError) as raised:
        BlurDistribution.parse(text)
    before, line = str(raised.value).split(" is no blur; use ")
    assert before == f"blur '{text}': '{text}'"
    assert len(line) < 280 and "\n" not in line
    written = re.findall(r"[\w.*+@%-]*\d", line)
    assert len(written) > 10
    for example in written:
        assert BlurDistribution.parse(example).name == example
    names = {BlurDistribution.parse(example).components[0].family for example in written}
    names |= {f"{kind}_blur{end}" for kind in KINDS if kind in line for end in ("", "_legacy")}
    assert names == {family.name for family in FAMILIES.values()} | {"sharp"}
    assert line.startswith("sharp, shake, ")


def draws(text, count=4000, **key):
    blur = BlurDistribution.parse(text)
    return [blur.draw(seed=0, index=index, **key) for index in range(count)]


def test_severities_are_drawn_as_whole_numbers_and_motion_at_its_angles():
    drawn = draws("motion_blur-2..4", 600)
    assert Counter(blur.parameter for blur in drawn).keys() == {2.0, 3.0, 4.0}
    angles = torch.tensor([blur.angle for blur in drawn])
    assert -45 <= angles.min() < -40 and 40 < angles.max() <= 45
    assert {blur.angle for blur in draws("motion_blur-2@30", 5)} == {30.0}


def test_a_share_is_drawn_with_squares_of_its_own():
    drawn = draws("D4%20..60", 200)
    assert 20 <= min(blur.share for blur in drawn) < 25 and 55 < max(b.share for b in drawn) <= 60
    assert len({blur.key for blur in drawn}) == 200
    assert BlurDistribution.parse("D4%50").family == "disk%50"


def test_glass_has_a_key_of_its_own_for_each_image():
    assert len({blur.key for blur in draws("glass_blur-2", 50)}) == 50
    assert {blur.key for blur in draws("zoom_blur-2", 50)} == {0}


def test_mixes_are_drawn_by_their_weights():
    equal = Counter(blur.parameter for blur in draws("sharp+D2+D4"))
    assert all(abs(count / 4000 - 1 / 3) < 0.03 for count in equal.values())
    weighted = Counter(blur.family for blur in draws("0.2*sharp+0.8*shake"))
    assert abs(weighted["sharp"] / 4000 - 0.2) < 0.03


def test_ranges_are_drawn_uniformly():
    radii = torch.tensor([blur.parameter for blur in draws("D2..8")])
    assert 2 <= radii.min() < 2.05 < 7.95 < radii.max() <= 8
    assert abs(radii.mean() - 5) < 0.1
    angles = torch.tensor([blur.angle for blur in draws("M8@0..180")])
    assert abs(angles.mean() - 90) < 3


def test_a_draw_depends_on_its_whole_key_and_on_nothing_else():
    blur = BlurDistribution.parse("D0..8")
    key = {"seed": 1, "index": 5, "epoch": 2}
    first = blur.draw(**key)
    blur.draw(seed=9, index=9)
    assert blur.draw(**key) == first
    for other in ({"seed": 2}, {"index": 6}, {"epoch": 3}, {"epoch": None}):
        assert blur.draw(**(key | other)) != first
    assert BlurDistribution.parse("G0..8").draw(seed=1, index=5).parameter != (
        blur.draw(seed=1, index=5).parameter
    )


def test_an_image_may_be_drawn_for_several_times():
    mix = BlurDistribution.parse("D0..8")
    for epoch in (None, 3):
        key = {"seed": 0, "index": 5, "epoch": epoch}
        draws = [mix.draw(**key, number=number) for number in range(4)]
        assert len({blur.parameter for blur in draws}) == 4
        assert draws[0] == mix.draw(**key)
        assert draws[2] == mix.draw(**key, number=2)


def test_tests_and_training_draw_shake_from_different_banks():
    tests, training = draws("shake", 300), draws("shake", 300, epoch=0)
    assert {blur.bank for blur in tests} == {"test"}
    assert {blur.bank for blur in training} == {"training"}
    assert max(blur.parameter for blur in tests) < 100 < max(blur.parameter for blur in training)
    hashes = BlurDistribution.parse("sharp+shake").bank_hashes("test")
    assert list(hashes) == ["shake-test"]
    assert BlurDistribution.parse("D4").bank_hashes("test") == {}


def test_a_bank_of_another_size_has_the_seed_of_the_usual_one():
    """Drawn from without being made: nobody waits for 100,000 kernels to read a file."""
    training = draws("0.5*sharp+0.5*shake100000", 400, epoch=0)
    assert {blur.bank for blur in training if blur.family == "shake"} == {"training-100000"}
    assert 90_000 < max(blur.parameter for blur in training) < 100_000
    blur = Blur("shake", 120.0, bank="test-200")
    (group,) = make_kernels([blur]).groups
    assert torch.equal(group.factors[0][0], shake_bank(200, seed=0)[120])
    hashes = BlurDistribution.parse("shake+shake200").bank_hashes("test")
    assert list(hashes) == ["shake-test", "shake-test-200"]
    assert hashes["shake-test"] == bank_hash(shake_bank(200, seed=0)[:100])


@pytest.mark.parametrize("text", GRAMMAR)
def test_no_kernel_reaches_further_than_announced(text):
    blur = BlurDistribution.parse(text)
    reach = blur.half_width
    delta = torch.zeros(20, 3, 121, 121)
    delta[..., 60, 60] = 1
    blurred = blur_images(delta, [blur.draw(seed=0, index=i) for i in range(20)])
    inside = blurred[..., 60 - reach : 61 + reach, 60 - reach : 61 + reach].sum((-2, -1))
    if "zoom" in text:  # enlarges the point, and draws on nothing beyond it
        assert reach == 0
    elif "%" in text:  # leaves light where it was, or takes it from others
        torch.testing.assert_close(inside, blurred.sum((-2, -1)))
    elif "legacy" in text:  # loses light, and glass carries some further
        torch.testing.assert_close(inside, blurred.sum((-2, -1)), atol=0, rtol=0.01)
    else:
        torch.testing.assert_close(inside, torch.ones(20, 3))


def test_conditions_know_their_family_and_parameter():
    described = {
        text: (BlurDistribution.parse(text).family, BlurDistribution.parse(text).parameter)
        for text in ("sharp", "D4", "shake", "D2..8", "sharp+D4")
    }
    assert described == {
        "sharp": ("sharp", 0.0),
        "D4": ("disk", 4.0),
        "shake": ("shake", None),
        "D2..8": ("disk", None),
        "sharp+D4": ("mix", None),
    }


def test_kernels_are_grouped_by_shape_and_sharp_needs_none():
    blurs = [Blur("disk", 4.0), Blur("sharp"), Blur("disk", 3.5), Blur("gaussian", 1.0)]
    kernels = make_kernels(blurs)
    assert len(kernels) == 4
    assert sorted(group.index.tolist() for group in kernels.groups) == [[0, 2], [3]]

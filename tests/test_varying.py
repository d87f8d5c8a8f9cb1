import math

import numpy as np
import pytest
import torch

from blur_lightning.blur import Blur, blur_images, convolve, disk_kernel
from blur_lightning.blur.varying import (
    ThinLens,
    blur_by_depth,
    blur_by_radius,
    blur_regions,
)
from blur_lightning.errors import InputError

INSIDE = [Blur("disk", 3.0), Blur("gaussian", 1.3)]
SHARP = [Blur("sharp")] * 2
LENS = ThinLens(50.0, 2.0, 2.0)


@pytest.fixture
def levels(photo):
    return (photo * 255).round().to(torch.uint8)


def versions(photo):
    return [photo.float(), photo, (photo * 255).round().to(torch.uint8)]


def half(value=1.0):
    """A map that is `value` in the left half of the photos and 0 in the right."""
    left = torch.zeros(2, 37, 31)
    left[:, :, :15] = value
    return left


def slope(low, high, size=(37, 31)):
    """A map that rises along the diagonal."""
    rows, columns = (torch.linspace(0, 0.5, side) for side in size)
    return (low + (high - low) * (rows[:, None] + columns)).expand(2, *size)


def gathered(images, radius):
    """Each pixel the mean over its own disk, one after another in float64."""
    reach = math.ceil(float(radius.max()))
    padded = torch.nn.functional.pad(images, [reach] * 4, mode="reflect")
    result = torch.empty_like(images)
    for b, y, x in np.ndindex(*radius.shape):
        taps = disk_kernel(radius[b, y, x].double()[None], half_width=reach, rim="area")[0]
        window = padded[b, :, y : y + 2 * reach + 1, x : x + 2 * reach + 1]
        result[b, :, y, x] = (window * taps).sum((-2, -1))
    return result


@pytest.mark.parametrize("light", ["srgb", "linear"])
def test_constant_maps_are_the_plain_blur_bit_for_bit(photo, light):
    one, zero = torch.ones(2, 37, 31), torch.zeros(2, 37, 31)
    for images in versions(photo):
        blurred = blur_images(images, INSIDE, light=light)
        unchanged = blur_images(images, SHARP, light=light)
        for feather in (0.0, 2.5):
            options = {"feather": feather, "light": light}
            assert torch.equal(blur_regions(images, INSIDE, SHARP, one, **options), blurred)
            assert torch.equal(blur_regions(images, INSIDE, SHARP, one == 1, **options), blurred)
            assert torch.equal(blur_regions(images, INSIDE, SHARP, zero, **options), unchanged)
        for radius in (0.0, 0.3, 1.0, 2.7, 4.1):
            plain = blur_images(images, [Blur("disk", radius)] * 2, rim="area", light=light)
            constant = torch.full((2, 37, 31), radius)
            assert torch.equal(blur_by_radius(images, constant, light=light), plain)


def test_each_image_gets_its_own_map(levels):
    radius = torch.stack([torch.full((37, 31), 2.0), slope(0.0, 4.0)[0]])
    both = blur_by_radius(levels, radius)
    for i in range(2):
        assert torch.equal(both[i : i + 1], blur_by_radius(levels[i : i + 1], radius[i : i + 1]))


def test_a_mask_without_feather_takes_every_pixel_from_one_blur(photo):
    for images in versions(photo):
        result = blur_regions(images, INSIDE, SHARP, half())
        assert torch.equal(result[..., :15], blur_images(images, INSIDE)[..., :15])
        assert torch.equal(result[..., 15:], images[..., 15:])


def test_a_soft_mask_averages_and_rounds_once(photo, levels):
    mask = slope(0.0, 1.0)
    blurred = convolve(levels.double(), disk_kernel(torch.full((2,), 3.0).double()))
    exact = mask[:, None] * blurred + (1 - mask[:, None]) * levels
    ours = blur_regions(levels, [INSIDE[0]] * 2, SHARP, mask).double()
    assert (ours - exact).abs().max() <= 0.5 + 1e-4


def test_a_feather_is_a_gaussian_step():
    # A lone bright column keeps 1/35 of its light under the blur: what it loses tells the mask.
    picture = torch.zeros(2, 3, 9, 41)
    picture[..., 20] = 1
    for edge in (15, 18, 20, 21, 25):
        mask = torch.zeros(2, 9, 41)
        mask[..., :edge] = 1
        result = blur_regions(picture, [Blur("horizontal", 35.0)] * 2, SHARP, mask, feather=3.0)
        share = (1 - result[0, 0, 4, 20].item()) / (1 - 1 / 35)
        step = 0.5 * (1 + math.erf((edge - 0.5 - 20) / 3.0 / math.sqrt(2)))
        assert share == pytest.approx(step, abs=2e-3)


def test_constant_images_stay_constant_through_any_mix():
    for value in (0, 1, 137, 255):
        grey = torch.full((2, 3, 37, 31), value, dtype=torch.uint8)
        for light in ("srgb", "linear"):
            mixed = blur_regions(grey, INSIDE, SHARP, half(), feather=2.0, light=light)
            assert torch.equal(mixed, grey)
            assert torch.equal(blur_by_radius(grey, slope(0.0, 6.0), light=light), grey)


@pytest.mark.parametrize(("low", "high", "tolerance"), [(0, 1, 18), (1, 2, 11), (2, 6, 7)])
def test_varying_disks_agree_with_a_gather_of_every_pixel(photo, low, high, tolerance):
    # Of 255 levels, for white noise; what the docstring says.
    radius = slope(float(low), float(high))
    difference = (blur_by_radius(photo, radius) - gathered(photo, radius)).abs() * 255
    assert difference.max() < tolerance
    finer = (blur_by_radius(photo, radius, spacing=0.05) - gathered(photo, radius)).abs() * 255
    assert finer.max() < 0.3 * difference.max()
    assert finer.mean() < 0.3 * difference.mean()


def test_levels_are_exact(photo):
    part = photo[..., :17, :13].contiguous()
    radius = torch.randint(0, 7, (2, 17, 13), generator=torch.Generator().manual_seed(0)) / 2
    torch.testing.assert_close(
        blur_by_radius(part, radius), gathered(part, radius), atol=1e-6, rtol=0
    )


def test_a_thin_lens_by_hand():
    # 50 mm at f/2 focused at 2 m: 1250 / 1950 mm at infinity, half of it at 4 m and at 4/3 m.
    depth = torch.tensor([2.0, 4.0, 4 / 3, math.inf, 1.0], dtype=torch.float64)
    at_infinity = 1250 / 1950 / 2 / 0.0625  # 5.128 px
    expected = torch.tensor([0, 0.5, 0.5, 1, 1], dtype=torch.float64) * at_infinity
    torch.testing.assert_close(LENS.radius(depth), expected, atol=1e-6, rtol=0)
    doubled = ThinLens(50.0, 4.0, 2.0, 31.25).radius(depth)  # half the aperture, half the pixel
    torch.testing.assert_close(doubled, expected, atol=1e-6, rtol=0)


def test_focus_at_the_hyperfocal_distance_is_as_sharp_at_its_half_as_at_infinity():
    f, number, circle = 35.0, 8.0, 0.03  # mm, -, mm
    hyperfocal = (f**2 / (number * circle) + f) / 1000
    lens = ThinLens(f, number, hyperfocal)
    ends = lens.radius(torch.tensor([hyperfocal / 2, math.inf], dtype=torch.float64))
    expected = torch.full((2,), circle / 2 / 0.0625, dtype=torch.float64)
    torch.testing.assert_close(ends, expected)


def test_blur_by_depth_is_the_disk_of_that_depth(levels):
    depth = half(2.0) + 4.0 - half(4.0)  # in focus on the left, 4 m on the right
    radius = LENS.radius(torch.tensor(4.0)).item()
    blurred = blur_images(levels, [Blur("disk", radius)] * 2, rim="area")
    result = blur_by_depth(levels, depth, LENS)
    assert torch.equal(result[..., :15], levels[..., :15])
    assert torch.equal(result[..., 15:], blurred[..., 15:])


def test_gradients_reach_the_images():
    generator = torch.Generator().manual_seed(0)
    image = torch.rand(2, 3, 4, 3, dtype=torch.float64, generator=generator, requires_grad=True)
    radius = slope(0.0, 1.5, (4, 3)).clone()
    radius[1] = 1.0
    assert torch.autograd.gradcheck(lambda x: blur_by_radius(x, radius), (image,))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.float16, torch.float32, torch.float64])
def test_one_pixel_no_image_and_any_type_work(dtype, device):
    pixel = torch.ones(2, 3, 1, 1, dtype=dtype, device=device)
    nothing = pixel[:0].expand(0, 3, 37, 31)
    for images in (pixel, nothing):
        b, _, h, w = images.shape
        depth = torch.ones(b, h, w, device=device)
        results = [
            blur_by_depth(images, depth, LENS, border="replicate"),
            blur_regions(images, INSIDE[:b], SHARP[:b], depth / 2, feather=1.0, border="replicate"),
        ]
        for result in results:
            torch.testing.assert_close(result, images)


def replaced(value):
    changed = torch.ones(2, 37, 31)
    changed[1, 2, 3] = value
    return changed


@pytest.mark.parametrize(
    ("call", "what"),
    [
        (lambda i, m: blur_regions(i, INSIDE, SHARP, m[:1]), r"mask: shape \(1, 37, 31\) is not"),
        (lambda i, m: blur_regions(i, INSIDE, SHARP, m[..., 1:]), r"\(2, 37, 30\) is not"),
        (lambda i, m: blur_regions(i, INSIDE, SHARP, m.to("meta")), "on meta, images on cpu"),
        (lambda i, m: blur_regions(i, INSIDE, SHARP, replaced(1.1)), r"mask: .* outside \[0, 1\]"),
        (lambda i, m: blur_regions(i, INSIDE, SHARP, replaced(math.nan)), "mask: .* or NaN"),
        (lambda i, m: blur_regions(i, INSIDE, SHARP, m, feather=-1.0), "feather: -1.0 px"),
        (lambda i, m: blur_regions(i, INSIDE[:1], SHARP, m), "inside: 1 blurs for 2 images"),
        (lambda i, m: blur_regions(i, INSIDE, [], m), "outside: 0 blurs for 2 images"),
        (lambda i, m: blur_by_radius(i[0], m), r"images: shape \(3, 37, 31\) is not"),
        (lambda i, m: blur_by_radius(i, m[0]), r"radius: shape \(37, 31\) is not"),
        (lambda i, m: blur_by_radius(i, replaced(math.nan)), r"radius: of shape \(2, 37, 31\)"),
        (lambda i, m: blur_by_radius(i, replaced(math.inf)), "radius: .* infinite"),
        (lambda i, m: blur_by_radius(i, -m), "radius: .* negative"),
        (lambda i, m: blur_by_radius(i, m, spacing=0.0), "spacing: 0.0 px"),
        (lambda i, m: blur_by_radius(i, 40 * m), "radius: up to 40 px, which"),
        (lambda i, m: blur_by_depth(i, m[0], LENS), r"depth: shape \(37, 31\) is not"),
        (lambda i, m: blur_by_depth(i, 0 * m, LENS), r"depth: of shape .* not above 0 m or is NaN"),
        (lambda i, m: blur_by_depth(i, replaced(math.nan), LENS), "depth: .* is NaN"),
    ],
)
def test_what_does_not_fit_is_named(levels, call, what, monkeypatch):
    # Without the runtime type checks of the tests, as users call it.
    for function in (blur_regions, blur_by_radius, blur_by_depth):
        monkeypatch.setitem(call.__globals__, function.__name__, function.__wrapped__)
    with pytest.raises(ValueError, match=what):
        call(levels, torch.ones(2, 37, 31))


@pytest.mark.parametrize(
    ("values", "what"),
    [
        ((0.0, 2.0, 2.0), "lens.focal_length: 0.0 is not above 0 and finite"),
        ((50.0, math.nan, 2.0), "lens.f_number: nan is not"),
        ((50.0, 2.0, math.inf), "lens.focus_distance: inf is not"),
        ((50.0, 2.0, 2.0, -1.0), "lens.pixel_pitch: -1.0 is not"),
        ((50.0, 2.0, 0.05), "lens.focus_distance: 0.05 m is not beyond"),
    ],
)
def test_no_such_lens(values, what):
    with pytest.raises(InputError, match=what):
        ThinLens(*values)

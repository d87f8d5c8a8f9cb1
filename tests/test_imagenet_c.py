"""The legacy blurs against the package imagecorruptions, the others against what they promise."""

import numpy as np
import pytest
import torch
from peers import imagecorruptions

from blur_lightning.blur import imagenet_c
from blur_lightning.blur.convolution import convolve
from blur_lightning.blur.imagenet_c import (
    GLASS,
    MOTION,
    SEVERITIES,
    _glass_legacy,
    _offsets,
    corrupt,
    defocus_kernel,
    half_width,
    motion_kernel,
    shuffle,
    zoom,
)
from blur_lightning.data.procedural import scene


@pytest.fixture(scope="module")
def package():
    found = imagecorruptions()
    assert found is not None, "pip install -e '.[bench]'"
    return found


@pytest.fixture(scope="module")
def image():
    """A scene of odd sides, with a noisy corner."""
    pixels = np.kron(scene(seed=0, index=0).frames[0], np.ones((2, 2, 1), np.uint8))[:121, :113]
    pixels[:30, :30] = np.random.default_rng(0).integers(0, 256, (30, 30, 3))
    return np.ascontiguousarray(pixels)


def tensor(image):
    return torch.from_numpy(image).permute(2, 0, 1)[None]


def ours(image, family, severity, angle=0.0):
    result = corrupt(
        tensor(image), f"{family}_legacy", severity, angles=[angle], keys=[0], border="constant"
    )
    return result[0].permute(1, 2, 0).numpy()


@pytest.mark.parametrize("severity", SEVERITIES)
@pytest.mark.parametrize("family", ["defocus_blur", "gaussian_blur", "zoom_blur", "motion_blur"])
def test_legacy_is_what_the_package_computes(package, image, family, severity, monkeypatch):
    monkeypatch.setattr(np.random, "uniform", lambda low, high: 0.3 * low + 0.7 * high)
    theirs = getattr(package, family)(image, severity).astype(np.uint8)
    result = ours(image, family, severity, angle=0.3 * -45 + 0.7 * 45)
    # Both cut decimals off, so values a rounding error apart may fall to different levels.
    difference = np.abs(result.astype(int) - theirs)
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.02


@pytest.mark.parametrize("severity", SEVERITIES)
def test_legacy_glass_is_what_the_package_computes_from_the_same_draws(
    package, image, severity, monkeypatch
):
    _, delta, iterations = GLASS[severity - 1]
    small = image[:41, :37]
    draws = _offsets([5], (iterations, 41 - 2 * delta, 37 - 2 * delta), delta, endpoint=False)
    stream = iter(draws.view(-1, 2).numpy())
    monkeypatch.setattr(np.random, "randint", lambda low, high, size: next(stream))
    theirs = package.glass_blur(small, severity).astype(np.uint8)
    assert next(stream, None) is None
    result = _glass_legacy(tensor(small).double() / 255, severity, [5]) * 255
    difference = np.abs(result[0].permute(1, 2, 0).floor().numpy() - theirs)
    assert (difference > 1).mean() < 0.01
    assert (difference > 0).mean() < 0.03


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("delta", [1, 2, 4])
def test_a_shuffle_is_that_of_the_loop(delta, swap):
    generator = np.random.default_rng(delta)
    images = torch.from_numpy(generator.integers(0, 256, (2, 3, 23, 19), dtype=np.uint8))
    rows, columns = 23 - 2 * delta, 19 - 2 * delta
    offsets = generator.integers(-delta, delta + 1, (2, 3, rows, columns, 2), dtype=np.int8)
    last = (22 - delta, 18 - delta)
    wanted = images.clone()
    for one, moves in zip(wanted, offsets, strict=True):
        for iteration in range(3):
            for row in range(rows):
                for column in range(columns):
                    y, x = last[0] - row, last[1] - column
                    dx, dy = moves[iteration, row, column]
                    here, there = one[:, y, x].clone(), one[:, y + dy, x + dx].clone()
                    one[:, y, x] = there
                    if swap:
                        one[:, y + dy, x + dx] = here
    assert torch.equal(shuffle(images, torch.from_numpy(offsets), last=last, swap=swap), wanted)


def test_a_swap_loses_no_pixel_and_a_copy_does():
    images = torch.arange(40 * 40).view(1, 1, 40, 40)
    offsets = _offsets([1], (2, 36, 36), 2, endpoint=True)
    kept = shuffle(images, offsets, last=(37, 37))
    lost = shuffle(images, offsets, last=(37, 37), swap=False)
    assert kept.unique().numel() == 1600
    assert lost.unique().numel() < 1300


def centroid(kernel):
    middle = kernel.shape[-1] // 2
    places = torch.arange(kernel.shape[-1]) - middle
    rows = (kernel.sum(dim=1) * places).sum() / kernel.sum()
    return rows.item(), ((kernel.sum(dim=0) * places).sum() / kernel.sum()).item()


@pytest.mark.parametrize("severity", SEVERITIES)
def test_kernels_have_sum_one_and_are_centred(severity):
    for kernel in (
        defocus_kernel(severity),
        *(motion_kernel(severity, angle) for angle in (-45.0, -17.0, 0.0, 30.0, 45.0)),
    ):
        assert kernel.sum().item() == pytest.approx(1, abs=1e-6)
        assert max(map(abs, centroid(kernel))) <= 0.5


def test_the_faults_of_the_reference_are_kept_in_legacy_alone():
    shifts = [
        np.hypot(*centroid(motion_kernel(severity, 10.0, legacy=True))) for severity in SEVERITIES
    ]
    assert min(shifts) >= 2 and max(shifts) < 12
    gains = [defocus_kernel(severity, legacy=True).sum().item() for severity in SEVERITIES]
    assert gains[:3] == pytest.approx([1, 1, 1], abs=1e-6)
    assert min(gains[3:]) > 1.005


def test_a_motion_kernel_runs_along_its_angle_counter_clockwise():
    rows, columns = motion_kernel(5, 45.0).nonzero(as_tuple=True)
    assert torch.equal(
        rows - half_width("motion_blur", 5), -(columns - half_width("motion_blur", 5))
    )
    assert len(motion_kernel(3, 0.0).nonzero()) == 2 * MOTION[2][0] + 1


def test_a_zoom_keeps_the_middle_and_what_is_even():
    even = torch.full((1, 3, 37, 31), 0.3)
    torch.testing.assert_close(zoom(even, 5), even)
    ramp = torch.linspace(-1, 1, 31).expand(1, 3, 37, 31)
    blurred = zoom(ramp, 3)
    torch.testing.assert_close(blurred, -blurred.flip(-1), atol=1e-5, rtol=0)
    factors = np.arange(1, 1.21, 0.02)
    slope = (1 + (1 / factors).sum()) / (len(factors) + 1)
    torch.testing.assert_close(blurred[0, 0, 0], ramp[0, 0, 0] * slope, atol=1e-5, rtol=0)


@pytest.mark.parametrize("family", ["glass_blur", "zoom_blur", "glass_blur_legacy"])
@pytest.mark.parametrize("size", [(1, 1), (5, 40), (37, 31)])
def test_images_of_any_size_and_each_with_its_own_draw(family, size):
    images = torch.from_numpy(np.random.default_rng(2).integers(0, 256, (2, 3, *size), np.uint8))
    images[1] = images[0]

    def blurred(keys):
        return corrupt(images, family, 4, angles=[0.0, 0.0], keys=keys, border="replicate")

    alike, apart = blurred([7, 7]), blurred([7, 8])
    assert torch.equal(alike[0], alike[1])
    assert torch.equal(alike[0], apart[0])
    assert torch.equal(apart[0], apart[1]) == (family == "zoom_blur" or min(size) <= 5)
    even = torch.full_like(images, 200)
    wanted = corrupt(even, family, 4, angles=[0.0] * 2, keys=[1, 2], border="replicate")
    assert (wanted.int() - 200).abs().max() <= (1 if "legacy" in family else 0)


def test_corrected_kernels_do_not_brighten():
    white = torch.full((1, 3, 40, 40), 0.5)
    for severity in SEVERITIES:
        kernel = defocus_kernel(severity)[None]
        torch.testing.assert_close(convolve(white, kernel), white)


def test_a_name_that_is_none_is_an_error():
    with pytest.raises(ValueError, match="'frost'"):
        corrupt(torch.zeros(1, 3, 9, 9), "frost", 1, angles=[0.0], keys=[0], border="reflect")


def test_legacy_defocus_names_the_least_image_that_it_can_reflect():
    for severity, least in zip(SEVERITIES, (9, 9, 9, 9, 11), strict=True):
        options = {"angles": [0.0], "keys": [0], "border": "constant"}
        with pytest.raises(ValueError, match=rf"{least - 1}x40 image.*takes {least}x{least} px"):
            corrupt(torch.zeros(1, 3, least - 1, 40), "defocus_blur_legacy", severity, **options)
        corrupt(torch.zeros(1, 3, least, least), "defocus_blur_legacy", severity, **options)


def test_glass_names_the_border_that_it_cannot_reflect():
    options = {"angles": [0.0], "keys": [0]}
    with pytest.raises(ValueError, match=r"blurs: glass_blur-5 reaches 6 px.*a 6x40 image"):
        corrupt(torch.zeros(1, 3, 6, 40), "glass_blur", 5, border="reflect", **options)
    corrupt(torch.zeros(1, 3, 7, 7), "glass_blur", 5, border="reflect", **options)
    corrupt(torch.zeros(1, 3, 1, 1), "glass_blur", 5, border="constant", **options)


def test_near_pixels_lie_on_all_sides_alike_save_in_legacy(monkeypatch):
    seen = []

    def noting(images, offsets, **options):
        seen.append((int(offsets.min()), int(offsets.max())))
        return images

    monkeypatch.setattr(imagenet_c, "shuffle", noting)
    for family in ("glass_blur", "glass_blur_legacy"):
        images = torch.zeros(1, 3, 64, 64)
        corrupt(images, family, 5, angles=[0.0], keys=[0], border="reflect")
    assert seen == [(-4, 4), (-4, 3)]

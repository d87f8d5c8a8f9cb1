import math

import numpy as np
import pytest
import torch
from scipy.special import j1

from blur_lightning.blur import aberrations
from blur_lightning.blur.aberrations import (
    ABERRATIONS,
    WAVELENGTHS,
    aberration_half_width,
    aberration_kernel,
)
from blur_lightning.blur.kernels import disk_kernel
from blur_lightning.errors import InputError

RELATIVE = torch.tensor(WAVELENGTHS, dtype=torch.float64) / WAVELENGTHS[1]
EACH = [{name: 0.5} for name in ABERRATIONS]


def exact(*values):
    return torch.tensor(values, dtype=torch.float64)


def light(coefficients, airy_radius, half_width):
    """Shares of all the light, before a kernel is cut off and its sum made 1."""
    given = {name: exact(waves) for name, waves in coefficients.items()}
    return aberrations._light(given, exact(0.0), exact(airy_radius), half_width)[0]


def plane(taps):
    """Coordinates of the pixels as seen: right and up."""
    offset = torch.arange(taps.shape[-1], dtype=torch.float64) - taps.shape[-1] // 2
    return offset[None, :], -offset[:, None]


def encircled(taps, radius):
    """Energy inside a circle about the middle; pixels on it count by the covered share."""
    return (taps * (radius + 0.5 - torch.hypot(*plane(taps))).clamp(0, 1)).sum((-2, -1))


def degrees(vector):
    return math.degrees(math.atan2(vector.imag, vector.real)) % 360


@pytest.mark.parametrize("airy_radius", [0.7, 3.0, 10.0])
def test_a_perfect_lens_gives_the_airy_pattern(airy_radius):
    half_width, oversampling = 12, 15
    taps = aberration_kernel({}, airy_radius=exact(airy_radius), half_width=half_width)[0]
    side = 2 * half_width + 1
    axis = (np.arange(side * oversampling) + 0.5) / oversampling - side / 2
    for channel, relative in zip(taps, RELATIVE, strict=True):
        distance = np.maximum(np.hypot(axis, axis[:, None]), 1e-9)
        x = 3.8317059702 * distance / (airy_radius * float(relative))
        pattern = ((2 * j1(x) / x) ** 2).reshape(side, oversampling, side, oversampling)
        expected = torch.from_numpy(pattern.sum((1, 3)) / pattern.sum())
        assert (channel - expected).abs().max() < 1.5e-3 * expected.max()


def test_the_first_dark_ring_lies_at_the_airy_radius_and_holds_838_permille():
    taps = light({}, 20.0, half_width=28)
    for channel, relative in zip(taps, RELATIVE, strict=True):
        ring = float(20 * relative)
        row = channel[28, 28:]
        darkest = int(row[: int(1.3 * ring)].argmin())
        assert abs(darkest - ring) <= 0.6
        assert row[darkest] < 1e-3 * row[0]
        assert abs(encircled(channel, ring) - 0.838) < 2e-3


@pytest.mark.parametrize("name", ABERRATIONS)
def test_a_small_aberration_dims_the_peak_as_marechal_says(name):
    perfect, aberrated = (light({name: waves}, 40.0, half_width=9) for waves in (0, 0.04))
    strehl = aberrated.amax((1, 2)) / perfect.amax((1, 2))
    expected = torch.exp(-((2 * torch.pi * 0.04 / RELATIVE) ** 2))
    torch.testing.assert_close(strehl, expected, rtol=0, atol=2e-3)


@pytest.mark.parametrize("waves", [0.1, 0.2, -0.25])
def test_defocus_dims_the_middle_as_sinc_squared(waves):
    peak, middle = (light({"defocus": w}, 40.0, half_width=0).flatten() for w in (0, waves))
    peak_to_valley = 2 * math.sqrt(3) * waves / RELATIVE
    torch.testing.assert_close(middle / peak, torch.sinc(peak_to_valley) ** 2, rtol=0, atol=1e-3)


def test_strong_defocus_is_the_disk_of_geometric_optics_in_every_channel():
    # W = W20 rho^2 bends the rays at the rim by 2 lambda F dW/drho = 4 lambda F W20.
    waves = 2.0
    radius = 4 * (1 / 1.21967) * 2 * math.sqrt(3) * waves
    taps = aberration_kernel({"defocus": torch.tensor([waves])}, half_width=30)[0]
    disk = disk_kernel(torch.tensor([radius]), half_width=30, rim="area")[0]
    for part in (0.25, 0.5, 0.75, 0.9, 1.1):
        error = encircled(taps, part * radius) - encircled(disk, part * radius)
        assert error.abs().max() < 0.07, part  # most at 0.9, inside the bright fringe at the rim


def test_the_polynomials_are_orthonormal_and_centred_ones_steepest_at_the_rim():
    axis = (torch.arange(400, dtype=torch.float64) + 0.5) / 200 - 1
    x, y = axis[None, :], axis[:, None]
    inside = torch.hypot(x, y) <= 1
    shapes = [aberrations._zernike(n, m, x, y) for n, m in ABERRATIONS.values()]
    parts = [part for shape in shapes for part in (shape.real, shape.imag) if part.any()]
    table = torch.stack([part[inside] for part in parts])
    gram = table @ table.T / inside.sum()
    torch.testing.assert_close(gram, torch.eye(8, dtype=torch.float64), rtol=0, atol=5e-3)
    for n, m in ABERRATIONS.values():
        shape = aberrations._centred_zernike(n, m, x, y).real
        slopes = torch.stack(torch.gradient(shape, spacing=1 / 200))[:, inside]
        assert slopes.mean(1).abs().max() < 0.02
        steepest = torch.hypot(*slopes).max()
        assert abs(steepest - aberrations._rim_slope(n, m)) < 0.02 * steepest


@pytest.mark.parametrize("name", ABERRATIONS)
def test_every_kernel_sums_to_one_is_not_negative_and_is_centred(name):
    waves = torch.tensor([0.1, 0.5, 0.5, 0.3, -0.5])
    angle = torch.tensor([0.0, 0.0, 30.0, 90.0, 30.0])
    taps = aberration_kernel({name: waves}, angle)
    assert taps.dtype == torch.float32
    assert taps.shape[-1] == 2 * aberration_half_width({name: 0.5}) + 1
    assert (taps >= 0).all()
    torch.testing.assert_close(taps.sum((-2, -1)), torch.ones(5, 3))
    limit = 0.15 if name == "coma" else 0.05
    for axis in plane(taps):
        assert (taps * axis).sum((-2, -1)).abs().max() < limit
    if name not in ("coma", "trefoil"):
        torch.testing.assert_close(taps, taps.flip(-2, -1), rtol=0, atol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0, 200.0])
def test_the_tail_of_coma_points_along_the_angle(angle):
    taps = aberration_kernel({"coma": exact(0.3)}, exact(angle), airy_radius=3.0, half_width=25)
    x, y = plane(taps)
    brightest = ((x + 1j * y) * taps**2).sum((-2, -1))[0]  # the tail is faint
    for core in brightest:
        assert abs((degrees(-core) - angle + 180) % 360 - 180) < 1


@pytest.mark.parametrize("angle", [0.0, 20.0, 100.0])
def test_trefoil_has_three_arms_one_opposite_to_the_angle(angle):
    taps = aberration_kernel({"trefoil": exact(0.2)}, exact(angle), airy_radius=6.0, half_width=12)
    x, y = plane(taps)
    around = torch.angle(x + 1j * y)
    weight = taps[0, 1] ** 2 * torch.hypot(x, y)  # the fringes between the arms are faint
    first, second, third = ((weight * torch.exp(1j * k * around)).sum() for k in (1, 2, 3))
    assert third.abs() > 10 * max(first.abs(), second.abs())
    assert abs((degrees(-third) - 3 * angle + 180) % 360 - 180) < 3


@pytest.mark.parametrize("angle", [0.0, 30.0, 90.0])
def test_astigmatism_and_defocus_focus_on_a_line_along_the_angle(angle):
    # Their curvatures across the angle, -2 sqrt(6) a + 4 sqrt(3) d, cancel for d = a / sqrt(2).
    coefficients = {"astigmatism": exact(0.8), "defocus": exact(0.8 / math.sqrt(2))}
    taps = aberration_kernel(coefficients, exact(angle), half_width=16)[0]
    x, y = plane(taps)
    axis = complex(math.cos(math.radians(angle)), math.sin(math.radians(angle)))
    turned = (x + 1j * y) / axis
    along, across = ((taps * part.abs()).sum((-2, -1)) for part in (turned.real, turned.imag))
    assert (along > 4 * across).all()


def test_without_aberrations_red_is_wider_than_green_than_blue():
    red, green, blue = encircled(aberration_kernel({}, airy_radius=2.0)[0], 2.0)
    assert red + 0.01 < green < blue - 0.01


@pytest.mark.parametrize(
    "coefficients", [{}, *EACH, {"spherical": 0.2}, {"coma": 0.2}, dict.fromkeys(ABERRATIONS, 0.5)]
)
@pytest.mark.parametrize("airy_radius", [0.4, 1.0])
def test_the_half_width_holds_99_percent_of_the_light(coefficients, airy_radius):
    half_width = aberration_half_width(coefficients, airy_radius)
    margin = half_width // 3  # a grid finer than the kernel's own, which loses 0.1 % at its edge
    taps = light(coefficients, airy_radius, half_width + margin)
    inside = taps[:, margin:-margin, margin:-margin].sum((1, 2))
    assert inside.min() >= 0.99
    assert inside.max() <= 1


def test_no_aberration_and_aberrations_of_zero_are_the_same():
    airy_radius = torch.tensor([1.0, 1.5])
    none = aberration_kernel({}, airy_radius=airy_radius)
    zero = dict.fromkeys(ABERRATIONS, torch.zeros(2))
    torch.testing.assert_close(aberration_kernel(zero, airy_radius=airy_radius), none)
    assert aberration_kernel({}).shape == (1, 3, 41, 41)


def test_a_kernel_of_a_batch_is_that_kernel_alone():
    waves, angle = torch.tensor([0.1, 0.3]), torch.tensor([10.0, 70.0])
    both = aberration_kernel({"coma": waves}, angle, half_width=10)
    alone = aberration_kernel({"coma": waves[1:]}, angle[1:], half_width=10)
    torch.testing.assert_close(both[1:], alone)


def test_gradients_follow_every_parameter():
    def kernel(coma, astigmatism, angle, airy_radius):
        coefficients = {"coma": coma, "astigmatism": astigmatism}
        return aberration_kernel(coefficients, angle, airy_radius=airy_radius, half_width=1)

    parameters = exact(0.1, 0.3), exact(0.2, 0.0), exact(20.0, 110.0), exact(2.0, 1.5)
    assert torch.autograd.gradcheck(kernel, [p.requires_grad_() for p in parameters])


def test_bad_arguments_are_named():
    with pytest.raises(InputError, match="aberration 'blur': unknown; name one of defocus, "):
        aberration_kernel({"blur": torch.ones(1)})
    with pytest.raises(InputError, match="aberration 'blur'"):
        aberration_half_width({"blur": 1.0})
    for radius in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(InputError, match=r"airy_radius: .* is not above 0 and finite"):
            aberration_kernel({}, airy_radius=torch.tensor([1.0, radius]), half_width=2)
        with pytest.raises(InputError, match="airy_radius"):
            aberration_half_width({}, radius)


@pytest.mark.parametrize(
    ("coefficients", "what"),
    [
        ({"coma": 0.2}, "coma: 0.2 is no tensor"),
        ({"coma": torch.tensor([math.nan])}, "coma: .* finite waves"),
        ({"coma": torch.zeros(1), "defocus": torch.zeros(3)}, r"lengths \[1, 3\] differ"),
    ],
)
def test_coefficients_that_do_not_fit_are_named(coefficients, what):
    with pytest.raises(InputError, match=what):
        aberration_kernel.__wrapped__(coefficients)

import math

import pytest
import torch

from blur_lightning.blur.kernels import box_kernel, disk_kernel, gaussian_taps
from blur_lightning.blur.shake import shake_bank
from blur_lightning.errors import InputError

RADII = torch.tensor([0.0, 0.4, 1.0, 2.0, 2.5, 4.0, 7.5, 10.0])


def centroid(taps):
    offset = torch.arange(taps.shape[-1], dtype=taps.dtype) - taps.shape[-1] // 2
    return (taps * offset).sum((-2, -1)), (taps * offset[:, None]).sum((-2, -1))


def family(name, rim):
    if name == "disk":
        return disk_kernel(RADII, rim=rim)
    if name == "shake":
        return shake_bank(100, seed=0)
    if name == "gaussian":
        taps = gaussian_taps(RADII)
        return taps[:, :, None] * taps[:, None, :]
    angle = torch.tensor([0.0, 90.0, 30.0, 45.0, 100.0, 179.0, 60.0, 12.3])
    return box_kernel(torch.tensor([1.0, 8, 4, 7, 3.3, 8, 0, 9.5]), angle, rim=rim)


@pytest.mark.parametrize("rim", ["hard", "area"])
@pytest.mark.parametrize("name", ["disk", "box", "gaussian", "shake"])
def test_every_kernel_sums_to_one_is_not_negative_and_is_centred(name, rim):
    taps = family(name, rim)
    assert taps.shape[-1] % 2 == 1
    assert (taps >= 0).all()
    torch.testing.assert_close(taps.sum((-2, -1)), torch.ones(len(taps)))
    x, y = centroid(taps)
    # 0.5 is what an even number of equal taps costs; the area rim costs nothing.
    limit = 0.5 if name == "shake" or (name, rim) == ("box", "hard") else 1e-6
    assert max(x.abs().max(), y.abs().max()) <= limit + 1e-5


@pytest.mark.parametrize(
    ("radius", "pixels"), [(2, 13), (3, 29), (4, 49), (6, 113), (8, 197), (10, 317)]
)
def test_a_hard_disk_has_the_known_number_of_equal_pixels(radius, pixels):
    taps = disk_kernel(torch.tensor([float(radius)]))
    assert (taps > 0).sum() == pixels
    torch.testing.assert_close(taps.max(), torch.tensor(1 / pixels))


def test_an_area_disk_has_the_variance_of_a_uniform_disk():
    radius = torch.tensor([7.5], dtype=torch.float64)
    taps = disk_kernel(radius, rim="area")
    offset = torch.arange(taps.shape[-1]) - taps.shape[-1] // 2
    torch.testing.assert_close((taps * offset**2).sum(), radius[0] ** 2 / 4, rtol=0.01, atol=0)


def test_a_hard_box_of_even_length_has_as_many_equal_taps():
    for angle in (0.0, 90.0, 180.0):
        taps = box_kernel(torch.tensor([8.0]), torch.tensor([angle]))[0]
        torch.testing.assert_close(taps[taps > 0], torch.full((8,), 1 / 8))
        line = taps[4] if angle % 180 == 0 else taps[:, 4]
        torch.testing.assert_close(line.sum(), torch.tensor(1.0))


def test_an_area_box_has_the_variance_of_a_uniform_line_along_its_angle():
    length, angle = torch.tensor([20.0]), torch.tensor([30.0])
    taps = box_kernel(length, angle, rim="area")[0]
    offset = torch.arange(taps.shape[-1]) - taps.shape[-1] // 2
    turn = math.radians(30)
    # Thirty degrees counter-clockwise goes right and up, and rows count downwards.
    along = offset * math.cos(turn) - offset[:, None] * math.sin(turn)
    across = offset * math.sin(turn) + offset[:, None] * math.cos(turn)
    torch.testing.assert_close((taps * along**2).sum(), length[0] ** 2 / 12, rtol=0.02, atol=0)
    assert (taps * across**2).sum() < 0.3


def test_gaussian_taps_have_their_variance():
    taps = gaussian_taps(torch.tensor([4.0], dtype=torch.float64))[0]
    offset = torch.arange(len(taps)) - len(taps) // 2
    torch.testing.assert_close((taps * offset**2).sum(), taps.new_tensor(16.0), rtol=2e-3, atol=0)


@pytest.mark.parametrize(
    "kernel",
    [
        lambda p: disk_kernel(p, half_width=5, rim="area"),
        lambda p: box_kernel(p, p.new_tensor([20.0, 75.0]), half_width=5, rim="area"),
        lambda p: box_kernel(p.new_tensor([6.0, 5.0]), 10 * p, half_width=5, rim="area"),
        lambda p: gaussian_taps(p, half_width=5),
    ],
)
def test_gradients_follow_the_parameters(kernel):
    parameter = torch.tensor([2.3, 3.1], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(kernel, (parameter,))


# Without the runtime type checks of the tests, as users call them.
MAKERS = [
    (disk_kernel.__wrapped__, "radius"),
    (box_kernel.__wrapped__, "length"),
    (gaussian_taps.__wrapped__, "sigma"),
]


@pytest.mark.parametrize(("make", "name"), MAKERS)
@pytest.mark.parametrize("half_width", [None, 3])
@pytest.mark.parametrize("value", [-1.0, -1e-3, math.nan, math.inf, -math.inf])
def test_a_size_that_is_none_is_named(make, name, half_width, value):
    sizes = torch.tensor([2.0, value, 1.0], requires_grad=True)
    with pytest.raises(ValueError, match=f"{name}: {value:g} pixels is not 0 or more and finite"):
        make(sizes, half_width=half_width)


@pytest.mark.parametrize(("make", "name"), MAKERS)
@pytest.mark.parametrize(
    ("value", "found"),
    [
        (4.0, "float"),
        ([4.0], "list"),
        (torch.tensor(4.0), r"torch.float32 \(\)"),
        (torch.ones(2, 2), r"torch.float32 \(2, 2\)"),
        (torch.tensor([4]), r"torch.int64 \(1,\)"),
    ],
)
def test_what_is_no_vector_is_named(make, name, value, found):
    with pytest.raises(ValueError, match=rf"{name}: {found} is no float tensor \(n,\), as torch"):
        make(value)


@pytest.mark.parametrize(("make", "name"), MAKERS)
def test_no_kernels_have_a_size_only_if_it_is_given(make, name):
    with pytest.raises(ValueError, match=f"{name}: is empty; give half_width"):
        make(torch.zeros(0))
    assert make(torch.zeros(0), half_width=2).shape[::2] in {(0, 5), (0,)}


@pytest.mark.parametrize(("make", "name"), MAKERS)
@pytest.mark.parametrize("half_width", [-1, 1.5, "2"])
def test_a_half_width_is_a_whole_number(make, name, half_width):
    with pytest.raises(ValueError, match=f"half_width: {half_width} is no whole number of 0"):
        make(torch.ones(1), half_width=half_width)


def test_a_rim_or_an_angle_that_is_none_is_named():
    for make, _ in MAKERS[:2]:
        with pytest.raises(InputError, match="rim: 'foo' is none of hard, area"):
            make(torch.ones(1), rim="foo")
    box = box_kernel.__wrapped__
    for angle in (math.nan, math.inf, -math.inf):
        with pytest.raises(ValueError, match=f"angle: {angle:g} degrees is not finite"):
            box(torch.ones(1), torch.tensor([angle]))
    with pytest.raises(ValueError, match="angle: float is no float tensor"):
        box(torch.ones(1), 30.0)
    seven = torch.tensor([7.0])
    assert torch.equal(box(seven, torch.tensor([-180.0])), box(seven))

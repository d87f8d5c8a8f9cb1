import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline

from blur_lightning.blur import shake
from blur_lightning.blur.shake import shake_bank


def test_the_spline_is_scipys_not_a_knot_cubic():
    points = np.random.default_rng(0).integers(1, 16, size=6)
    ours = points @ shake._spline_basis(6, 1001)
    theirs = CubicSpline(np.linspace(0, 1, 6), points)(np.linspace(0, 1, 1001))
    np.testing.assert_allclose(ours, theirs, atol=1e-12)


def test_the_pixels_visited_are_those_of_all_samples():
    """Samples in doubt alone are computed; here all are, by SciPy."""
    points = np.random.default_rng(1).integers(1, 16, size=(200, 2, 6))
    position = np.linspace(0, 1, 30_000)
    spline = CubicSpline(np.linspace(0, 1, 6), points, axis=2)
    expected = np.zeros((200, 15, 15), dtype=bool)
    for visited, (column, row) in zip(expected, spline(position), strict=True):
        visited[*((np.clip(x, 1, 15) + 0.5).astype(int) - 1 for x in (row, column))] = True
    assert (shake._visited(points) == expected).all()


def test_splines_stray_less_between_samples_than_is_allowed_for():
    """By the largest second derivative of a spline whose points are 7 or less from the middle."""
    basis, apart = shake._spline_basis(6, 5001), 5 / 5000
    bend = np.abs(np.diff(basis, n=2, axis=1)).sum(axis=0).max() * 7 / apart**2
    assert bend * (shake._STRIDE * 5 / 29_999) ** 2 / 8 < shake._STRAY


def test_shake_kernels_look_like_those_of_the_reference():
    # facts: over 2,000 kernels the support has 53.2 +- 12.1 pixels, between 15 and 91.
    support = (shake_bank(1000, seed=5) > 0).sum((1, 2)).float()
    assert abs(support.mean() - 53.2) < 1.5
    assert abs(support.std() - 12.1) < 1.0
    assert support.min() >= 10
    assert support.max() <= 100


def test_a_bank_is_a_function_of_its_seed_and_begins_like_a_shorter_one():
    torch.testing.assert_close(shake_bank(10, seed=3), shake_bank(30, seed=3)[:10])
    assert shake.bank_hash(shake_bank(10, seed=3)) != shake.bank_hash(shake_bank(10, seed=4))


def test_the_validation_bank_is_pinned():
    # A change of this hash changes every result under `shake`: say so in CHANGELOG, Numbers.
    assert shake.bank_hash(shake_bank(100, seed=0)).startswith("1e0dee9c")


def test_the_training_bank_is_pinned():
    # A change of this hash changes every training on `shake`: say so in CHANGELOG, Numbers.
    assert shake.bank_hash(shake.named_bank("training")).startswith("b482b18d")


def test_banks_of_two_seeds_have_no_kernel_in_common():
    hashes = [{taps.numpy().tobytes() for taps in shake_bank(500, seed=s)} for s in (0, 1)]
    assert len(hashes[0]) == len(hashes[1]) == 500
    assert not hashes[0] & hashes[1]


def test_a_bank_that_is_none_is_named():
    # Without the runtime type checks of the tests, as users call it.
    make = shake_bank.__wrapped__.__wrapped__
    for count in (0, -1, 1.5, "a"):
        with pytest.raises(ValueError, match=f"count: {count!r} is no whole number of 1 or more"):
            make(count, seed=0)
    for seed in (-1, 0.5, None):
        with pytest.raises(ValueError, match=f"seed: {seed!r} is no whole number of 0 or more"):
            make(1, seed=seed)
    assert make(np.int64(2), seed=np.int64(3)).shape == (2, 17, 17)

import math

import numpy as np
import pytest
import torch
from scipy import ndimage

from blur_lightning.errors import InputError
from blur_lightning.image_quality import (
    peak_signal_to_noise,
    shift_tolerant_psnr,
    structural_similarity,
)


def ssim(image, sharp):
    """Wang et al. 2004, equation 13, over windows that lie inside the image."""

    def mean(values):
        return ndimage.gaussian_filter(values, 1.5, radius=5)[5:-5, 5:-5]

    x, y = mean(image), mean(sharp)
    covariance = mean(image * sharp) - x * y
    variances = mean(image**2) - x**2 + mean(sharp**2) - y**2
    ratio = (2 * x * y + 1e-4) * (2 * covariance + 9e-4)
    return (ratio / ((x**2 + y**2 + 1e-4) * (variances + 9e-4))).mean()


def test_similarity_is_wangs(photo):
    sharp = photo.float()
    image = (sharp + 0.3 * torch.linspace(0, 1, 31)).clamp(0, 1)
    found = structural_similarity(image, sharp)
    for one, x, y in zip(found, image.double().numpy(), sharp.double().numpy(), strict=True):
        expected = np.mean([ssim(a, b) for a, b in zip(x, y, strict=True)])
        assert one.item() == pytest.approx(expected, abs=1e-5)
    assert structural_similarity(sharp, sharp).tolist() == pytest.approx([1, 1])
    assert structural_similarity(sharp[..., :9, :], sharp[..., :9, :]).isnan().all()


def test_a_network_in_bfloat16_costs_no_digit_of_similarity(photo):
    sharp = photo.float()
    image = (sharp + 0.3 * torch.linspace(0, 1, 31)).clamp(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        found = structural_similarity(image, sharp)
    assert torch.equal(found, structural_similarity(image, sharp))


def test_a_tenth_of_the_range_is_twenty_decibels():
    sharp = torch.full((2, 3, 8, 8), 0.5)
    image = sharp.clone()
    image[0] += 0.1
    assert peak_signal_to_noise(image, sharp).tolist() == pytest.approx([20, math.inf])


def test_both_are_those_of_scikit_image(photo):
    metrics = pytest.importorskip("skimage.metrics")  # comes with the extra "bench"
    sharp = photo.float()
    image = (0.8 * sharp + 0.1 * torch.linspace(0, 1, 31)).clamp(0, 1)
    psnr, ssim = peak_signal_to_noise(image, sharp), structural_similarity(image, sharp)
    for i, (x, y) in enumerate(zip(image.numpy(), sharp.numpy(), strict=True)):
        expected = metrics.peak_signal_noise_ratio(y, x, data_range=1)
        assert psnr[i].item() == pytest.approx(expected, abs=1e-4)
        expected = metrics.structural_similarity(
            y,
            x,
            data_range=1,
            channel_axis=0,
            gaussian_weights=True,
            sigma=1.5,
            use_sample_covariance=False,
        )
        assert ssim[i].item() == pytest.approx(expected, abs=1e-5)


def test_the_range_is_1_whatever_an_image_holds(photo):
    dark = photo.float() / 10
    psnr = peak_signal_to_noise(dark + 0.01, dark)
    torch.testing.assert_close(psnr, torch.full((2,), 40.0), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shift", [(0, 0), (2, -1), (-2, 2)])
def test_a_shift_within_reach_costs_nothing(photo, shift):
    sharp = photo.float()
    moved = sharp.roll(shift, dims=(2, 3))
    assert peak_signal_to_noise(moved, sharp).max() < 10 or shift == (0, 0)
    assert shift_tolerant_psnr(moved, sharp, reach=2, match_intensity=False).isinf().all()


def test_a_shift_beyond_reach_costs_as_ever(photo):
    sharp = photo.float()
    assert shift_tolerant_psnr(sharp.roll(3, dims=2), sharp, reach=2).max() < 15


def test_the_best_shift_is_that_of_an_exhaustive_search(photo):
    """On noise around a shifted image; in NumPy, one image, shift and number after another."""
    generator = np.random.default_rng(1)
    sharp = photo.numpy()
    image = (0.7 * np.roll(sharp, (1, 0), (2, 3)) + generator.normal(0, 0.05, sharp.shape)).clip(
        0, 1
    )
    for match in (True, False):
        found = shift_tolerant_psnr(
            torch.from_numpy(image), torch.from_numpy(sharp), reach=1, match_intensity=match
        )
        for one, x, y in zip(found, image, sharp, strict=True):
            middle, errors = y[:, 1:-1, 1:-1], []
            for top in range(3):
                for left in range(3):
                    z = x[:, top : top + 35, left : left + 29]
                    factor = (z * middle).sum() / (z**2).sum() if match else 1
                    errors.append(((factor * z - middle) ** 2).mean())
            assert one.item() == pytest.approx(-10 * math.log10(min(errors)))


def test_brightness_alone_costs_nothing_where_it_is_matched(photo):
    sharp = photo.float()
    assert shift_tolerant_psnr(0.5 * sharp, sharp, reach=0).min() > 100
    expected = peak_signal_to_noise(0.5 * sharp, sharp)
    plain = shift_tolerant_psnr(0.5 * sharp, sharp, reach=0, match_intensity=False)
    assert torch.equal(plain, expected)


def test_a_black_image_stays_black(photo):
    sharp = photo.float()
    black = torch.zeros_like(sharp)
    expected = peak_signal_to_noise(black, sharp)
    assert torch.equal(shift_tolerant_psnr(black, sharp, reach=0), expected)


@pytest.mark.parametrize("reach", [-1, 16])
def test_shifts_must_leave_something_of_the_image(photo, reach):
    with pytest.raises(InputError, match="leave nothing of an image of 31x37"):
        shift_tolerant_psnr(photo, photo, reach=reach)

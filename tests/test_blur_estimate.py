"""The estimate of blur against known blurs, symmetries and closed forms."""

import csv
from pathlib import Path

import numpy as np
import pytest
import torch
from natural import natural_picture
from scipy import ndimage

from blur_lightning.blur import Blur, BlurDistribution, blur_images
from blur_lightning.blur_estimate import (
    BANDS,
    PATCH,
    SIDE,
    estimate_blur,
    grey_picture,
    model,
    probabilities,
    spectral_profiles,
    variance_of_laplacian,
)
from blur_lightning.images import resize_smaller_side

ROOT = Path(__file__).parents[1]
TABLE = ("photographs", "none")


def blurred(pixels, blur):
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    return blur_images(image, [blur])[0].permute(1, 2, 0).numpy().copy()


def blurred_by(pixels, text):
    return blurred(pixels, BlurDistribution.parse(text).draw(seed=0, index=0))


@pytest.fixture(scope="module")
def picture():
    return natural_picture(0)


@pytest.fixture(scope="module")
def noise():
    grey = np.random.default_rng(0).integers(0, 256, (256, 256), dtype=np.uint8)
    return np.repeat(grey[:, :, None], 3, axis=2)


def test_sharpness_is_the_variance_of_scipys_laplacian(picture):
    grey = grey_picture(picture)
    reference = ndimage.laplace(grey.astype(np.float64))[1:-1, 1:-1].var()
    assert variance_of_laplacian(grey) == pytest.approx(reference, rel=1e-5)
    assert estimate_blur(picture).sharpness == pytest.approx(reference, rel=1e-3)


@pytest.mark.parametrize(("text", "radius"), [("D2", 2), ("D4", 4), ("D8", 8)])
def test_the_radius_of_a_disk_is_found(picture, text, radius):
    found = estimate_blur(blurred_by(picture, text))
    assert found.estimated_blur.startswith("D")
    assert found.estimated_size == pytest.approx(radius, rel=0.2)
    assert found.estimated_low <= found.estimated_size <= found.estimated_high


@pytest.mark.parametrize("angle", [0, 70, 135])
def test_the_length_and_the_direction_of_a_line_are_found(picture, angle):
    found = estimate_blur(blurred(picture, Blur("motion", 12.0, float(angle))))
    kind, _, direction = found.estimated_blur.partition("@")
    assert kind.startswith("M")
    assert found.estimated_size == pytest.approx(12, rel=0.2)
    assert abs((float(direction) - angle + 90) % 180 - 90) < 6


def test_a_sharp_picture_is_sharp(picture):
    found = estimate_blur(picture)
    assert found.estimated_blur == "sharp"
    assert found.estimated_size == found.estimated_native == 0
    assert found.estimated_high < 1.5


def test_what_is_found_is_written_in_the_grammar(picture):
    for text in ("sharp", "D1.5", "D11", "M3@170", "M23@1"):
        found = estimate_blur(blurred_by(picture, text)).estimated_blur
        assert BlurDistribution.parse(found).components


@pytest.mark.parametrize(("turned", "place"), [(np.rot90, 16), (np.fliplr, 20)])
def test_a_turned_or_mirrored_picture_has_a_turned_or_mirrored_blur(noise, turned, place):
    upright = blurred(noise, Blur("motion", 9.0, 30.0))  # place 4 of 24; turned 120, mirrored 150
    disks, lines = probabilities(spectral_profiles(grey_picture(upright)))
    others = probabilities(spectral_profiles(grey_picture(turned(upright).copy())))
    assert (lines.sum(1).argmax(), others[1].sum(1).argmax()) == (4, place)
    np.testing.assert_allclose(others[1].sum(0), lines.sum(0), atol=0.02)
    np.testing.assert_allclose(others[0], disks, atol=0.02)


def test_brightness_changes_nothing_and_contrast_only_the_level(picture):
    grey = grey_picture(picture)
    dim = (grey // 2).astype(np.uint8)
    whole, brighter = spectral_profiles(dim), spectral_profiles(dim + np.uint8(100))
    np.testing.assert_allclose(brighter, whole, atol=1e-4)
    doubled = spectral_profiles(dim * np.uint8(2))
    np.testing.assert_allclose(doubled[:, :BANDS], whole[:, :BANDS], atol=0.05)
    np.testing.assert_allclose(doubled[:, -1] - whole[:, -1], np.log(4) / 5, atol=0.01)


def test_a_box_puts_its_zeros_into_the_bands_across_its_direction(noise):
    grey = grey_picture(blurred(noise, Blur("horizontal", 8.0)))
    across = spectral_profiles(grey)[0, :BANDS]
    # A box of 8 pixels has zeros at 1/8, 1/4 and 3/8 of a cycle a pixel; a band is 1/48 wide.
    for band in (6, 12, 18):
        assert min(across[band - 1 : band + 1]) < min(across[band - 3], across[band + 2]) - 0.2
    along = spectral_profiles(grey)[0, BANDS : 2 * BANDS]
    assert np.ptp(along[1:16]) < np.ptp(across[1:16]) / 3


def test_small_pictures_are_not_enlarged_but_told_as_if_they_were(picture):
    half = resize_smaller_side(picture, SIDE // 2)
    found = estimate_blur(blurred(half, Blur("disk", 2.0)))
    assert found.estimated_size == pytest.approx(4, rel=0.3)
    assert found.estimated_native == pytest.approx(found.estimated_size / 2, abs=0.01)


def test_large_pictures_tell_the_size_in_their_own_pixels(picture):
    large = np.repeat(np.repeat(blurred(picture, Blur("disk", 4.0)), 2, axis=0), 2, axis=1)
    found = estimate_blur(large)
    assert found.estimated_size == pytest.approx(4, rel=0.2)
    assert found.estimated_native == pytest.approx(2 * found.estimated_size, abs=0.01)


@pytest.mark.parametrize("shape", [(PATCH - 1, 500), (1, 1), (2, 300)])
def test_too_small_a_picture_has_no_estimate(shape):
    grey = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    found = estimate_blur(np.repeat(grey[:, :, None], 3, axis=2))
    assert found.estimated_blur == ""
    assert all(np.isnan(found[2:]))
    assert found.sharpness >= 0


def test_a_flat_picture_has_no_estimate():
    generator = np.random.default_rng(0)
    wall = (128 + generator.normal(0, 1, (400, 500, 3))).astype(np.uint8)
    found = estimate_blur(wall)
    assert found.estimated_blur == "" and found.sharpness > 0


def test_probabilities_sum_to_1(picture):
    disks, lines = probabilities(spectral_profiles(grey_picture(picture)))
    assert disks.sum() + lines.sum() == pytest.approx(1, abs=1e-5)
    assert disks.shape == (len(model()["radii"]),)
    assert lines.shape == (24, len(model()["lengths"]))


def test_the_errors_beside_the_weights_are_those_of_the_table():
    with (ROOT / "experiments/results/blur_estimate.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if r["images"] == "photographs"]
    plain = {row["blur"]: row for row in rows if row["harm"] == "none"}
    errors = model()["errors"]
    for kind, name in (("D", "radius"), ("M", "length")):
        own = [float(row["error"]) for blur, row in plain.items() if blur.startswith(kind)]
        assert float(errors[name]) == pytest.approx(np.mean(own), abs=0.06)
    assert {int(row["n"]) for row in plain.values()} == {int(errors["photographs"])}


def test_the_table_of_the_readme_is_that_of_the_file():
    readme = (ROOT / "docs/photographs.md").read_text(encoding="utf-8")
    with (ROOT / "experiments/results/blur_estimate.csv").open() as stream:
        rows = [r for r in csv.DictReader(stream) if (r["images"], r["harm"]) == TABLE]
    assert len(rows) == 18
    for row in rows:
        name, size = row["blur"].removesuffix("@0..180"), float(row["median_size"])
        kind, error, angle = "", "", ""
        if name[0] in "sDM" and name != "shake":
            kind = f"{100 * float(row['kind_right']):.0f}"
        if name[0] in "DM":
            error, low, high = (f"{float(row[key]):.2f}" for key in ("error", "low", "high"))
            error = f"{error} ({low} to {high})"
        if name[0] == "M":
            angle = f"{float(row['median_angle_error']):.0f}"
        assert f"| {name} | {kind} | {size:.1f} | {error} | {angle} |" in readme

"""Boundaries against drawings, and against SciPy's distances and erosions a class at a time."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from blur_lightning.boundaries import inner_boundary, trimap
from blur_lightning.errors import InputError

VOID = 255
CROSS = ndimage.generate_binary_structure(2, 1)


def drawn(*rows):
    """A label map of one image: a digit is a class, a dot is void."""
    return torch.tensor([[[VOID if c == "." else int(c) for c in row] for row in rows]])


def random_maps(seed, *, size=(2, 29, 37), classes=4, void=0.2):
    """Blobs of classes, and void in blobs and in single pixels."""
    generator = np.random.default_rng(seed)
    noise = ndimage.gaussian_filter(generator.normal(size=(classes, *size)), (0, 0, 2, 2))
    labels = noise.argmax(0)
    blobs = ndimage.gaussian_filter(generator.normal(size=size), (0, 2, 2))
    labels[blobs > np.quantile(blobs, 1 - void)] = VOID
    labels[generator.random(size) < 0.05] = VOID
    return torch.from_numpy(labels)


def reference_distance(truth, rule):
    """Squared distance to the boundary of one image: SciPy's transform, over the whole image."""
    void = truth == VOID
    present = [c for c in np.unique(truth) if c != VOID]
    labels = truth
    if rule == "label_change" and present:
        squares = [np.rint(ndimage.distance_transform_edt(truth != c) ** 2) for c in present]
        labels = np.array(present)[np.argmin(squares, axis=0)]  # the first: the smallest label
    edges = np.zeros_like(void)
    for c in present:  # two classes meet where one dilated by the cross reaches the other
        others = np.isin(labels, [other for other in present if other != c])
        edges |= (labels == c) & ndimage.binary_dilation(others, CROSS)
    if rule == "void_band":
        edges |= void
    if not edges.any():
        return np.full(truth.shape, np.inf)
    distance = np.rint(ndimage.distance_transform_edt(~edges) ** 2)
    return np.where(void, np.inf, distance)


@pytest.mark.parametrize("rule", ["label_change", "void_band"])
@pytest.mark.parametrize("widths", [[1], [4], [1, 2, 4, 8, 16], [3, 70]])
def test_bands_are_those_of_scipys_distance_transform(rule, widths):
    truth = torch.cat([random_maps(seed) for seed in range(3)])
    bands = trimap(truth, widths=widths, boundary=rule)
    for labels, got in zip(truth.numpy(), bands.numpy(), strict=True):
        distance = reference_distance(labels, rule)
        expected = sum((distance > width**2).astype(int) for width in widths)
        np.testing.assert_array_equal(got, expected)


def test_large_void_is_filled_exactly():
    truth = random_maps(7, size=(4, 41, 53), void=0.7)
    bands = trimap(truth, widths=[2, 5])
    for labels, got in zip(truth.numpy(), bands.numpy(), strict=True):
        distance = reference_distance(labels, "label_change")
        np.testing.assert_array_equal(got, (distance > 4).astype(int) + (distance > 25))


def test_pixels_next_to_another_label_have_distance_0():
    truth = drawn("00000111111")
    bands = trimap(truth, widths=[1, 2])
    assert bands[0, 0].tolist() == [2, 2, 1, 0, 0, 0, 0, 1, 2, 2, 2]


def test_void_is_divided_in_its_middle_or_is_the_boundary_itself():
    truth = drawn("00000....11111")
    # Filled, 0 and 1 meet between the columns 6 and 7; the boundary pixels are these two.
    filled = trimap(truth, widths=[2, 3])
    assert filled[0, 0].tolist() == [2, 2, 2, 1, 0, 2, 2, 2, 2, 0, 1, 2, 2, 2]
    ring = trimap(truth, widths=[2, 3], boundary="void_band")
    assert ring[0, 0].tolist() == [2, 2, 1, 0, 0, 2, 2, 2, 2, 0, 0, 1, 2, 2]


def test_of_two_labels_as_near_void_takes_the_smaller():
    # Void becomes 0, and 2: the boundary pixels are the columns 3 and 4 both times.
    assert trimap(drawn("1111.0000"), widths=[1, 2])[0, 0].tolist() == [2, 1, 0, 0, 2, 0, 1, 2, 2]
    assert trimap(drawn("222.333"), widths=[1, 2])[0, 0].tolist() == [2, 1, 0, 2, 0, 0, 1]


def test_void_inside_one_class_has_a_boundary_only_as_a_band():
    truth = drawn("0000", "0..0", "0000")
    assert (trimap(truth, widths=[1]) == 1).all()
    assert (trimap(truth, widths=[1], boundary="void_band") == 0).sum() == 6


@pytest.mark.parametrize("rule", ["label_change", "void_band"])
def test_bands_are_empty_without_boundary(rule):
    for truth in (torch.zeros(1, 5, 6).long(), torch.full((1, 1, 1), 3)):
        assert (trimap(truth, widths=[1, 4], boundary=rule) == 2).all()
    assert (trimap(torch.full((2, 5, 6), VOID), widths=[4], boundary=rule) == 1).all()
    assert trimap(torch.zeros(0, 5, 6).long(), widths=[4], boundary=rule).shape == (0, 5, 6)


def test_bands_know_void_by_any_label():
    truth = random_maps(3)
    other = torch.where(truth == VOID, -1, truth)
    for rule in ("label_change", "void_band"):
        expected = trimap(truth, widths=[2, 4], boundary=rule)
        torch.testing.assert_close(
            trimap(other, widths=[2, 4], boundary=rule, ignore_index=-1), expected
        )


@pytest.mark.parametrize("width", [1, 2, 5, 40])
def test_inner_boundary_is_what_erosions_take_from_each_class(width):
    labels = random_maps(5)
    got = inner_boundary(labels, width=width)
    square = np.ones((3, 3))
    for image, found in zip(labels.numpy(), got.numpy(), strict=True):
        expected = np.zeros_like(found)
        for c in range(4):
            mask = image == c
            expected |= mask & ~ndimage.binary_erosion(mask, square, iterations=width)
        np.testing.assert_array_equal(found, expected)


def test_inner_boundary_of_a_drawing_has_corners_edges_and_void():
    labels = drawn("000000", "000000", "000000", "0000.0", "000000")
    expected = drawn("111111", "100001", "100111", "100101", "111111")
    torch.testing.assert_close(inner_boundary(labels, width=1), expected == 1)


def test_images_smaller_than_the_band_are_all_boundary():
    labels = torch.zeros(1, 3, 4).long()
    assert inner_boundary(labels, width=9).all()
    assert (trimap(drawn("01", "00"), widths=[30]) == 0).all()


@pytest.mark.parametrize("widths", [[], [0], [-1, 3], [4, 4], [4, 2]])
def test_widths_that_do_not_increase_from_1_are_named(widths):
    with pytest.raises(InputError, match=r"widths: .* are not whole pixels from 1 on"):
        trimap(torch.zeros(1, 4, 4).long(), widths=widths)

"""Intervals of sums against plain loops, and against those of means."""

import time

import numpy as np
import pytest

from blur_lightning.records.counts import class_iou, fraction, mean_iou, with_interval
from blur_lightning.records.robustness import bootstrap_interval


def counts(n, classes=21, seed=0):
    generator = np.random.default_rng(seed)
    truth = generator.integers(1, 1000, (n, classes)) * (generator.random((n, classes)) < 0.2)
    intersection = (truth * generator.random((n, classes))).astype(int)
    predicted = intersection + generator.integers(0, 50, (n, classes))
    return intersection, truth, predicted


def test_interval_is_that_of_images_drawn_one_by_one():
    columns = counts(17, classes=5)
    generator = np.random.default_rng(3)
    means = []
    for _ in range(200):
        draw = generator.integers(17, size=17)
        intersection, truth, predicted = (sum(column[i] for i in draw) for column in columns)
        union = truth + predicted - intersection
        means.append(np.mean([a / b for a, b in zip(intersection, union, strict=True) if b]))
    value, low, high = with_interval(mean_iou, *columns, level=0.9, resamples=200, seed=3)
    assert value == mean_iou(*(column.sum(0) for column in columns))
    assert (low, high) == pytest.approx(tuple(np.quantile(means, [0.05, 0.95])))


def test_resamples_are_those_of_means():
    right = np.random.default_rng(1).integers(0, 2, 40)
    value, *ends = with_interval(fraction, right, np.ones(40), seed=5)
    assert value == right.mean()
    assert ends == pytest.approx(bootstrap_interval(right, seed=5))


def test_many_images_are_resampled_in_parts_alike(monkeypatch):
    columns = counts(30)
    whole = with_interval(mean_iou, *columns, resamples=50)
    monkeypatch.setattr("blur_lightning.records.counts._CHUNK", 100)
    np.testing.assert_allclose(with_interval(mean_iou, *columns, resamples=50), whole)


def test_each_class_has_its_interval_and_an_absent_one_none():
    intersection, truth, predicted = (column.copy() for column in counts(12, classes=3))
    for column in (intersection, truth, predicted):
        column[:, 1] = 0
        column[1:, 2] = 0  # only the first image has class 2: many resamples do not
    truth[0, 2], predicted[0, 2], intersection[0, 2] = 10, 10, 5
    value, low, high = with_interval(class_iou, intersection, truth, predicted)
    assert np.isnan([value[1], low[1], high[1]]).all()
    assert value[2] == low[2] == high[2] == pytest.approx(1 / 3)
    assert low[0] < value[0] < high[0]


def test_one_image_has_an_interval_without_width():
    value, low, high = with_interval(mean_iou, *counts(1))
    assert value == pytest.approx(low) == pytest.approx(high)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="no images"):
        with_interval(fraction, np.empty(0), np.empty(0))


def test_a_thousand_resamples_of_voc_are_quick():
    columns = counts(1449)
    start = time.process_time()
    with_interval(mean_iou, *columns)
    assert time.process_time() - start < 1

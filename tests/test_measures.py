"""Measures against closed forms, published numbers and other packages."""

import re

import numpy as np
import pytest
import torch
from scipy.integrate import trapezoid
from torchmetrics.functional.classification import binary_calibration_error

from blur_lightning.blur.families import FAMILIES
from blur_lightning.errors import InputError
from blur_lightning.records.measures import (
    ALEXNET_ERRORS,
    BLURS_OF_IMAGENET_C,
    SHARP_AT_ZERO,
    abstention_table,
    area_under_curve,
    area_under_risk_coverage,
    corruption_error,
    coverage_at_risk,
    cross_blur_matrix,
    curve_records,
    expected_calibration_error,
    half_blur,
    mean_corruption_error,
    risk_coverage,
)
from blur_lightning.records.robustness import Record


def record(condition, value, *, family="disk", metric="top1", **other):
    number = re.search(r"\d+(\.\d+)?", condition)
    parameter = float(number[0]) if number else 0.0
    constants = {"run": "r", "model": "m", "trained_on": "original", "dataset": "d", "n": 10}
    blur = {"condition": condition, "family": family, "parameter": parameter, "scale": "224"}
    rest = {"metric": metric, "value": value, "low": None, "high": None}
    return Record(**constants | blur | rest | other)


SHARP = record("sharp", 0.8, family="sharp")
GENERATOR = np.random.default_rng(0)
CONFIDENCE = GENERATOR.uniform(size=500).astype(np.float32)
CORRECT = GENERATOR.uniform(size=500) < CONFIDENCE**2
TIED = np.round(CONFIDENCE, 1)


# Curves


def test_the_area_of_a_straight_line_is_its_middle_for_any_spacing():
    x = [0.0, 1.0, 1.5, 9.0, 10.0]
    assert area_under_curve(x, [1 - p / 10 for p in x]) == pytest.approx(0.5)
    assert area_under_curve([2.0, 3.0, 7.0], [0.3, 0.3, 0.3]) == pytest.approx(0.3)


def test_the_area_is_that_of_the_trapezoids_over_the_range():
    x = np.cumsum(GENERATOR.uniform(0.1, 2, 20)).tolist()
    y = GENERATOR.uniform(size=20).tolist()
    assert area_under_curve(x, y) == pytest.approx(trapezoid(y, x) / (x[-1] - x[0]))


@pytest.mark.parametrize(
    ("parameters", "values", "expected"),
    [
        ([0.0, 8.0], [0.8, 0.0], 4.0),
        ([0.0, 2.0, 4.0], [0.8, 0.4, 0.1], 2.0),  # on a point
        ([0.0, 2.0, 6.0], [0.8, 0.5, 0.3], 4.0),  # between two
        ([1.0, 2.0, 3.0], [0.8, 0.2, 0.7], 1 + 2 / 3),  # though it recovers
        ([0.0, 2.0, 4.0, 6.0], [0.8, 0.9, 0.9, 0.0], 4 + 2 * 5 / 9),  # though it rises first
        ([0.0, 2.0], [0.8, 0.41], None),
        ([0.0, 2.0], [0.0, 0.0], None),
    ],
)
def test_half_blur_is_where_half_is_lost_first(parameters, values, expected):
    assert half_blur(parameters, values) == pytest.approx(expected)


def test_a_falling_curve_has_half_its_value_at_half_blur():
    for _ in range(20):
        x = np.cumsum(GENERATOR.uniform(0.1, 2, 9)).tolist()
        y = np.sort(GENERATOR.uniform(size=9))[::-1].tolist()
        half = half_blur(x, y)
        if half is not None:
            assert np.interp(half, x, y) == pytest.approx(y[0] / 2)


@pytest.mark.parametrize(
    ("parameters", "values", "message"),
    [
        ([1.0], [1.0], "at least 2"),
        ([0.0, 2.0, 2.0], [1.0, 1.0, 1.0], "larger than the one before"),
        ([2.0, 0.0], [1.0, 1.0], "larger than the one before"),
        ([0.0, 2.0], [1.0], "2 for 1 values"),
    ],
)
def test_what_is_no_curve_is_refused(parameters, values, message):
    for function in (area_under_curve, half_blur):
        with pytest.raises(InputError, match=f"^parameters: .*{message}"):
            function(parameters, values)


def test_a_curve_sums_up_a_family_whatever_the_order_of_its_records():
    (curve,) = curve_records([record("D4", 0.2), record("D2", 0.6), SHARP])
    assert curve._asdict() == {
        **{"run": "r", "model": "m", "trained_on": "original", "dataset": "d", "scale": "224"},
        **{"family": "disk", "metric": "top1", "points": 3, "from_": 0.0, "to": 4.0},
        **{"area": pytest.approx((0.7 * 2 + 0.4 * 2) / 4), "half": pytest.approx(3.0)},
    }


def test_runs_networks_families_and_metrics_have_curves_of_their_own():
    pair = [record("D2", 0.6), record("D4", 0.2)]
    others = [{"run": "s"}, {"model": "n"}, {"trained_on": "D2"}, {"dataset": "e"}]
    others += [{"scale": "256"}, {"metric": "top5"}]
    records = pair + [r._replace(**other) for other in others for r in pair]
    boxes = [record("H2", 0.6, family="horizontal"), record("V4", 0.6, family="vertical")]
    curves = curve_records(records + boxes)
    assert [curve.points for curve in curves] == [2] * 7  # of the boxes one point each is none
    assert [curve.metric for curve in curves] == ["top1"] * 6 + ["top5"]


def test_only_conditions_with_one_number_and_one_direction_make_a_curve():
    left_out = ["D{}..8", "D{}%50", "sharp+D{}", "0.2*D{}", "M{}@0..180", "shake"]
    pairs = [record(name.format(p), 0.5, parameter=p) for name in left_out for p in (2.0, 4.0)]
    entropies = [record("D2", 0.5, metric="entropy"), record("D4", 0.5, metric="entropy")]
    none = [record("D2", 0.5, parameter=None), record("D4", 0.5, parameter=None)]
    assert curve_records([*pairs, *entropies, *none]) == []


def test_each_direction_is_a_curve():
    angles = ["M2@30", "M4@30", "M2@-60", "M4@-60", "M6@-60"]
    curves = curve_records([record(name, 0.5, family="motion") for name in angles])
    assert [(c.family, c.points) for c in curves] == [("motion@30", 2), ("motion@-60", 3)]
    (curve,) = curve_records([SHARP, record("M2@30", 0.5, family="motion")])
    assert (curve.family, curve.points, curve.from_) == ("motion@30", 2, 0.0)


def test_sharp_is_no_severity_and_no_aberration():
    severities = [record(f"zoom_blur-{s}", 0.5, family="zoom_blur") for s in (1, 2, 5)]
    waves = [record(f"coma{w}", 0.5, family="coma") for w in (0.1, 0.2)]
    curves = curve_records([SHARP, *severities, *waves])
    assert [(c.from_, c.to, c.points) for c in curves] == [(1.0, 5.0, 3), (0.1, 0.2, 2)]


def test_the_families_that_begin_at_sharp_are_those_whose_parameter_is_a_size():
    sizes = ("radius", "length", "sigma")
    assert {f.name for f in FAMILIES.values() if f.parameter in sizes} == SHARP_AT_ZERO


def test_what_is_measured_twice_becomes_its_mean():
    (curve,) = curve_records([record("D2", 0.6), record("D2", 0.4), record("D4", 0.5)])
    assert (curve.points, curve.area) == (2, pytest.approx(0.5))


# Blurs of the training and of the test


def test_a_cross_blur_matrix_averages_runs_and_leaves_gaps():
    cells = [("sharp", "D2", 0.9), ("D2", "D2", 0.8), ("sharp", "sharp", 1.0), ("sharp", "D2", 0.7)]
    records = [record(c, v, trained_on=t, run=str(i)) for i, (c, t, v) in enumerate(cells)]
    matrix = cross_blur_matrix([*records, record("D8", 2.0, metric="entropy")])
    assert (matrix.conditions, matrix.trained_on) == (["sharp", "D2"], ["D2", "sharp"])
    np.testing.assert_allclose(matrix.values, [[0.8, 1.0], [0.8, np.nan]])
    assert matrix.runs.tolist() == [[2, 1], [1, 0]]


def test_a_cross_blur_matrix_is_of_one_network_and_one_metric():
    for other in ({"model": "n"}, {"dataset": "e"}, {"scale": "256"}):
        with pytest.raises(InputError, match=f"^records: {next(iter(other))} is .* and .*; keep"):
            cross_blur_matrix([SHARP, SHARP._replace(**other)])
    with pytest.raises(InputError, match=r"^metric: no record has 'top5'; .*: top1$"):
        cross_blur_matrix([SHARP], "top5")


# ImageNet-C

# ResNet-50 of torchvision: accuracies under severities 1 to 5 that RobustBench measured
# (unaggregated_results_2d.csv), and the errors over AlexNet's in percent that Hendrycks et al.
# publish for it (2021, arXiv 2006.16241, the table on ImageNet-C).
RESNET50 = {
    "defocus_blur": ((0.5956, 0.5152, 0.3820, 0.2748, 0.1830), 75),
    "glass_blur": ((0.5400, 0.4012, 0.1688, 0.1310, 0.1024), 89),
    "motion_blur": ((0.6382, 0.5370, 0.3758, 0.2154, 0.1482), 78),
    "zoom_blur": ((0.5290, 0.4324, 0.3580, 0.2878, 0.2206), 80),
}


def severities(family, accuracies, **other):
    return [
        record(f"{family}-{severity}", accuracy, family=family, **other)
        for severity, accuracy in enumerate(accuracies, 1)
    ]


def test_resnet50_has_its_published_corruption_errors():
    records = [r for f, (a, _) in RESNET50.items() for r in severities(f"{f}_legacy", a)]
    options = {"denominator": "hendrycks2019", "legacy": True}
    for family, (_, published) in RESNET50.items():
        assert 100 * corruption_error(records, family, **options) == pytest.approx(published, abs=1)
    mean = np.mean([published for _, published in RESNET50.values()])
    assert 100 * mean_corruption_error(records, **options) == pytest.approx(mean, abs=1)


@pytest.mark.parametrize("denominator", ALEXNET_ERRORS)
def test_alexnet_has_a_corruption_error_of_one(denominator):
    pairs = list(zip(BLURS_OF_IMAGENET_C, ALEXNET_ERRORS[denominator], strict=True))
    spread = (-0.1, -0.05, 0.0, 0.05, 0.1)
    records = [r for f, e in pairs for r in severities(f, [1 - e + s for s in spread])]
    for family in BLURS_OF_IMAGENET_C:
        error = corruption_error(records, family, denominator=denominator, legacy=False)
        assert error == pytest.approx(1)


def test_the_two_measurements_of_alexnet_agree_and_differ():
    first, second = (np.array(errors) for errors in ALEXNET_ERRORS.values())
    assert 0 < np.abs(first - second).min() < np.abs(first - second).max() < 0.006


def test_legacy_conditions_and_their_own_are_kept_apart():
    records = severities("zoom_blur", [0.5] * 5) + severities("zoom_blur_legacy", [0.25] * 5)
    options = {"denominator": "hendrycks2019"}
    assert corruption_error(records, "zoom_blur", legacy=False, **options) == 0.5 / 0.798360
    assert corruption_error(records, "zoom_blur", legacy=True, **options) == 0.75 / 0.798360


def test_the_mean_is_over_the_blurs_that_were_tested():
    records = severities("zoom_blur", [0.5] * 5) + severities("glass_blur", [0.25] * 5)
    mean = mean_corruption_error(records, denominator="hendrycks2019", legacy=False)
    assert mean == pytest.approx((0.5 / 0.798360 + 0.75 / 0.826268) / 2)


def test_missing_severities_are_named():
    options = {"denominator": "hendrycks2019", "legacy": True}
    records = [r for r in severities("zoom_blur_legacy", [0.5] * 5) if r.parameter not in (2, 5)]
    records += severities("zoom_blur_legacy", [0.5] * 5, metric="top5")
    message = r"^records: no top1 under zoom_blur_legacy-2, zoom_blur_legacy-5; test"
    with pytest.raises(InputError, match=message):
        corruption_error(records, "zoom_blur", **options)
    with pytest.raises(InputError, match=message):
        mean_corruption_error(records, **options)
    with pytest.raises(InputError, match="no top1 under defocus_blur_legacy-1, "):
        mean_corruption_error([SHARP], **options)


def test_corruption_errors_refuse_what_has_no_denominator_and_several_runs():
    records = severities("zoom_blur", [0.5] * 5)
    options = {"denominator": "hendrycks2019", "legacy": False}
    with pytest.raises(InputError, match=r"^family: 'gaussian_blur'; use one of defocus_blur, "):
        corruption_error(records, "gaussian_blur", **options)
    with pytest.raises(
        InputError, match=r"^denominator: 'mine'; use one of hendrycks2019, robustb"
    ):
        corruption_error(records, "zoom_blur", denominator="mine", legacy=False)
    with pytest.raises(InputError, match=r"^records: run is r and s; keep"):
        corruption_error([*records, records[0]._replace(run="s")], "zoom_blur", **options)


# Calibration


def test_calibration_error_is_the_gap_of_accuracy_and_confidence():
    confidence = np.full(10, 0.8)
    assert expected_calibration_error(confidence, np.arange(10) < 8) == pytest.approx(0)
    assert expected_calibration_error(confidence, np.arange(10) < 5) == pytest.approx(0.3)
    assert expected_calibration_error(np.array([0.0, 1.0]), np.array([True, False])) == 1


@pytest.mark.parametrize("bins", [1, 10, 15])
def test_calibration_error_is_that_of_torchmetrics(bins):
    reference = binary_calibration_error(
        torch.from_numpy(CONFIDENCE), torch.from_numpy(CORRECT).int(), n_bins=bins
    )
    error = expected_calibration_error(CONFIDENCE, CORRECT, bins=bins)
    assert error == pytest.approx(float(reference), abs=1e-6)


def test_a_bin_holds_its_upper_end():
    ends = np.array([0.2, 0.25]), np.array([True, False])
    assert expected_calibration_error(*ends, bins=5) == pytest.approx((0.8 + 0.25) / 2)
    assert expected_calibration_error(*ends, bins=2) == pytest.approx((0.8 - 0.25) / 2)


def test_finer_bins_never_lower_the_calibration_error():
    errors = [expected_calibration_error(CONFIDENCE, CORRECT, bins=5 * 2**i) for i in range(5)]
    assert errors == sorted(errors)


@pytest.mark.parametrize("confidence", [[], [0.5, 1.5], [-0.1, 0.5], [0.5, np.nan]])
def test_what_is_no_confidence_is_refused(confidence):
    correct = np.ones(len(confidence), dtype=bool)
    for function in (expected_calibration_error, risk_coverage, area_under_risk_coverage):
        with pytest.raises(InputError, match=r"^confidence: empty or not in"):
            function(np.array(confidence, dtype=float), correct)


# Abstention


def test_risk_and_coverage_of_four_images():
    confidence, correct = np.array([0.3, 0.9, 0.5, 0.5]), np.array([False, True, True, False])
    coverage, risk = risk_coverage(confidence, correct)
    assert coverage.tolist() == [0.25, 0.75, 1.0]
    assert risk.tolist() == [0, 1 / 3, 1 / 2]
    assert area_under_risk_coverage(confidence, correct) == pytest.approx((2 / 3 + 1 / 2) / 4)


@pytest.mark.parametrize("confidence", [CONFIDENCE, TIED])
def test_each_threshold_has_its_risk_and_coverage(confidence):
    coverage, risk = risk_coverage(confidence, CORRECT)
    answered = [confidence >= threshold for threshold in sorted(set(confidence), reverse=True)]
    assert coverage.tolist() == [a.mean() for a in answered]
    np.testing.assert_allclose(risk, [1 - CORRECT[a].mean() for a in answered], atol=1e-15)


def test_the_order_of_the_images_does_not_matter():
    order = GENERATOR.permutation(500)
    for function in (risk_coverage, area_under_risk_coverage):
        before, after = function(TIED, CORRECT), function(TIED[order], CORRECT[order])
        np.testing.assert_array_equal(before, after)
    errors = [expected_calibration_error(TIED[o], CORRECT[o]) for o in (np.arange(500), order)]
    assert errors[0] == pytest.approx(errors[1], abs=1e-12)


def test_the_area_has_its_closed_forms():
    worst_last = np.arange(500) < 400
    falling = np.linspace(1, 0, 500)
    ideal = sum((i - 400) / i for i in range(401, 501)) / 500
    assert area_under_risk_coverage(falling, worst_last) == pytest.approx(ideal)
    reverse = (100 + sum(100 / i for i in range(101, 501))) / 500
    assert area_under_risk_coverage(falling[::-1], worst_last) == pytest.approx(reverse)
    assert area_under_risk_coverage(np.full(500, 0.7), worst_last) == pytest.approx(0.2)


@pytest.mark.parametrize("confidence", [CONFIDENCE, TIED])
@pytest.mark.parametrize("risk", [0.0, 0.05, 0.3, 1.0])
def test_coverage_at_risk_is_that_of_the_best_threshold(confidence, risk):
    shares = [0.0]
    for threshold in confidence:
        answered = confidence >= threshold
        if (answered & ~CORRECT).sum() / answered.sum() <= risk:
            shares.append(answered.mean())
    assert coverage_at_risk(confidence, CORRECT, risk) == max(shares)


def test_one_error_in_twenty_is_five_percent():
    falling, one_wrong = np.linspace(1, 0, 20), np.arange(20) != 3
    assert coverage_at_risk(falling, one_wrong, 0.05) == 1
    assert coverage_at_risk(falling, one_wrong, 0.0499) == 0.15
    assert coverage_at_risk(falling, np.arange(20) > 0, 0.0) == 0


def images():
    condition = np.array(["D4", "sharp"] * 250, dtype=object)
    return {"condition": condition, "confidence": CONFIDENCE, "top1": CORRECT}


def test_the_table_has_each_condition_by_itself():
    table = abstention_table(images(), ["sharp", "D4"])
    assert [(name, len(column)) for name, column in table.items()] == [
        *(("condition", 2), ("n", 2), ("ece", 2), ("ece_low", 2), ("ece_high", 2)),
        *(("aurc", 2), ("coverage_at_5_percent_risk", 2)),
    ]
    assert (table["condition"].tolist(), table["n"].tolist()) == (["sharp", "D4"], [250, 250])
    blurry = CONFIDENCE[::2], CORRECT[::2]
    assert table["ece"][1] == expected_calibration_error(*blurry)
    assert table["aurc"][1] == area_under_risk_coverage(*blurry)
    assert table["coverage_at_5_percent_risk"][1] == coverage_at_risk(*blurry, 0.05)


def test_the_interval_of_the_calibration_error_covers_as_often_as_it_says():
    # All in one bin, and too sure by 0.2: there the error is a plain mean.
    generator, hits, n = np.random.default_rng(1), 0, 100
    names = np.array(["D4"] * n, dtype=object)
    for _ in range(100):
        correct = generator.uniform(size=n) < 0.5
        columns = {"condition": names, "confidence": np.full(n, 0.7), "top1": correct}
        table = abstention_table(columns, ["D4"])
        hits += table["ece_low"][0] <= 0.2 <= table["ece_high"][0]
    assert 88 <= hits <= 99


def test_a_table_needs_its_columns_and_conditions():
    with pytest.raises(InputError, match=r"^conditions: 'D8' was not tested; name"):
        abstention_table(images(), ["D8"])
    unlabelled = {name: column for name, column in images().items() if name != "top1"}
    with pytest.raises(InputError, match=r"^images: no column 'top1'; test"):
        abstention_table(unlabelled, ["D4"])

"""Comparisons against enumeration, published p-values and the runs they are made from."""

import csv
import json
import re
from math import comb

import numpy as np
import pytest
from pyarrow import parquet

from blur_lightning.errors import InputError
from blur_lightning.records import comparison
from blur_lightning.records.comparison import compare, holm, mcnemar, paired_interval
from blur_lightning.records.robustness import bootstrap_interval, read_records, summarize, write_run

N = 200
FAMILIES = {"sharp": ("sharp", 0.0), "D4": ("disk", 4.0), "D8": ("disk", 8.0)}
PROVENANCE = {"data": {"fingerprint": {"test": "abc"}}}


def measured(seed, *, conditions=("sharp", "D4"), accuracy=0.8):
    """Columns of a network whose failures depend on the image and a little on the seed."""
    rows = len(conditions) * N
    hardness = np.tile(np.random.default_rng(0).uniform(size=N), len(conditions))
    noise = np.random.default_rng(seed).normal(0, 0.1, rows)
    top1 = hardness + noise < accuracy
    return {
        "index": np.tile(np.arange(N), len(conditions)),
        "condition": np.repeat(np.array(conditions, dtype=object), N),
        "top1": top1,
        "top5": top1 | (hardness < 0.95),
        "entropy": (hardness + noise).astype(np.float32),
    }


def written(folder, columns, provenance=PROVENANCE):
    metrics = [m for m in ("top1", "top5", "entropy", "cross_entropy") if m in columns]
    names = list(dict.fromkeys(columns["condition"]))
    constants = {"run": folder.name, "model": "m", "trained_on": "t", "dataset": "d"}
    conditions = [(name, *FAMILIES[name]) for name in names]
    records = summarize(columns, conditions=conditions, metrics=metrics, scale="224", **constants)
    write_run(folder, records=records, images=columns, provenance=provenance)
    return folder


@pytest.fixture
def runs(tmp_path):
    return written(tmp_path / "a", measured(1)), written(tmp_path / "b", measured(2, accuracy=0.7))


# Statistics


@pytest.mark.parametrize("mid_p", [False, True])
def test_mcnemar_adds_up_the_outcomes_that_are_at_least_as_far_from_even(mid_p):
    for n in range(1, 13):
        for b in range(n + 1):
            distances = [(abs(2 * x - n), comb(n, x) / 2**n) for x in range(n + 1)]
            farther = sum(p for distance, p in distances if distance > abs(2 * b - n))
            equal = sum(p for distance, p in distances if distance == abs(2 * b - n))
            expected = farther + equal / (2 if mid_p else 1)
            assert mcnemar(b, n - b, mid_p=mid_p) == pytest.approx(expected)


def test_mcnemar_has_its_published_values():
    # Airway hyper-responsiveness before and after transplantation: table 1 of Fagerland et al.
    assert mcnemar(1, 7) == pytest.approx(0.0703, abs=5e-5)
    assert mcnemar(1, 7, mid_p=True) == pytest.approx(0.0391, abs=5e-5)


def test_mcnemar_of_no_disagreement_shows_nothing():
    assert mcnemar(0, 0) == mcnemar(0, 0, mid_p=True) == mcnemar(5, 5) == 1


def test_holm_multiplies_by_the_hypotheses_that_are_left_and_never_turns_back():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.5]) == [1, 1]
    assert holm([0.2]) == [0.2]
    assert holm([]) == []


def test_holm_rejects_falsely_as_rarely_as_it_says():
    draws = np.random.default_rng(0).uniform(size=(2000, 5))
    false = np.mean([min(holm(p)) < 0.05 for p in draws.tolist()])
    assert false == pytest.approx(1 - (1 - 0.05 / 5) ** 5, abs=0.015)


# Two runs


def test_values_are_those_of_the_records_and_differences_other_less_run(runs, capsys):
    differences = compare(*runs)
    keys = [(d.metric, d.condition) for d in differences]
    assert keys == [(m, c) for m in ("top1", "top5", "entropy") for c in ("sharp", "D4")]
    for values, run in zip(("run_value", "other_value"), runs, strict=True):
        records = {(r.metric, r.condition): r.value for r in read_records(run)}
        found = {(d.metric, d.condition): getattr(d, values) for d in differences}
        assert found == pytest.approx(records)
    for d in differences:
        assert (d.run, d.other, d.n) == ("a", "b", N)
        assert d.difference == d.other_value - d.run_value


def test_counts_are_of_the_images_that_one_run_alone_got_right(runs):
    d = next(d for d in compare(*runs) if (d.metric, d.condition) == ("top1", "D4"))
    first, second = measured(1)["top1"][N:], measured(2, accuracy=0.7)["top1"][N:]
    assert d.only_run == sum(a and not b for a, b in zip(first, second, strict=True))
    assert d.only_other == sum(b and not a for a, b in zip(first, second, strict=True))
    assert d.only_run > d.only_other > 0
    assert d.difference == pytest.approx((d.only_other - d.only_run) / N)
    assert d.p == mcnemar(d.only_run, d.only_other)
    by_half = next(d for d in compare(*runs, mid_p=True) if d.condition == "D4")
    assert by_half.p == mcnemar(d.only_run, d.only_other, mid_p=True) < d.p


def test_intervals_resample_the_difference_of_each_image(runs):
    columns = [measured(1), measured(2, accuracy=0.7)]
    for d in compare(*runs):
        rows = columns[0]["condition"] == d.condition
        first, second = (c[d.metric][rows].astype(float) for c in columns)
        assert (d.low, d.high) == bootstrap_interval(second - first)
    # Of two intervals side by side the widths would add up in squares.
    apart = np.hypot(*(np.diff(bootstrap_interval(values)) for values in (first, second)))
    assert d.high - d.low < apart / 2


def test_noise_is_told_by_the_test_or_else_by_the_interval(runs, tmp_path):
    for d in compare(*runs):
        assert d.within_noise == (d.p >= 0.05 if d.metric != "entropy" else d.low <= 0 <= d.high)
    marks = {d.metric: d.within_noise for d in compare(*runs) if d.condition == "D4"}
    assert marks == {"top1": False, "top5": True, "entropy": True}
    shifted = measured(1) | {"entropy": measured(1)["entropy"] - 1}
    other = written(tmp_path / "shifted", shifted)
    assert not any(d.within_noise for d in compare(runs[0], other) if d.metric == "entropy")


def test_holm_corrects_over_the_conditions_of_one_metric(runs):
    differences = compare(*runs)
    for metric in ("top1", "top5"):
        family = [d for d in differences if d.metric == metric]
        assert [d.p_holm for d in family] == holm([d.p for d in family])
    assert all(d.p is d.p_holm is d.only_run is None for d in differences[-2:])


def test_a_run_differs_from_itself_by_nothing(runs):
    for d in compare(runs[0], runs[0]):
        assert (d.difference, d.low, d.high, d.within_noise) == (0, 0, 0, True)


def test_rows_are_paired_by_index_in_any_order(runs, tmp_path):
    order = np.random.default_rng(0).permutation(2 * N)
    columns = {name: c[order] for name, c in measured(2, accuracy=0.7).items()}
    shuffled = written(tmp_path / "b2", columns)
    expected = [d._replace(other="b2") for d in compare(*runs)]
    assert compare(runs[0], shuffled) == expected


def test_only_what_both_runs_have_is_compared(tmp_path):
    unlabelled = {n: c for n, c in measured(1, conditions=("D8", "D4")).items() if "top" not in n}
    runs = written(tmp_path / "a", measured(1)), written(tmp_path / "b", unlabelled)
    (difference,) = compare(*runs)
    assert (difference.condition, difference.metric) == ("D4", "entropy")


def test_a_network_that_diverged_is_compared_where_it_has_numbers(tmp_path):
    infinite = np.full(2 * N, np.inf, dtype=np.float32)
    with np.errstate(invalid="ignore"):
        diverged = written(tmp_path / "c", measured(2) | {"entropy": infinite})
        nowhere = written(tmp_path / "d", measured(2) | {"entropy": infinite * np.nan})
    for run in (diverged, nowhere):
        differences = compare(run, diverged)
        assert [d.within_noise for d in differences] == [True] * 6
        assert [np.isnan(d.low) for d in differences] == [False] * 4 + [True] * 2


def test_a_folder_above_the_run_or_its_csv_names_it_too(runs, tmp_path):
    (tmp_path / "above").mkdir()
    runs[1].rename(tmp_path / "above" / "b")
    differences = compare(runs[0] / "robustness.csv", tmp_path / "above")
    assert {d.other for d in differences} == {"b"}
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path))}: 2 test runs .*; name"):
        compare(runs[0], tmp_path)


def test_the_csv_has_the_fields_and_reads_back(runs, tmp_path, capsys):
    out = tmp_path / "new" / "differences.csv"
    differences = compare(*runs, out=out)
    with out.open(encoding="utf-8", newline="") as stream:
        header, *rows = csv.reader(stream)
    assert header == list(comparison.Difference._fields)
    assert rows == [["" if x is None else str(x) for x in d] for d in differences]
    assert capsys.readouterr().out.endswith(f"\n\nwritten: {out}\n")


def test_the_table_is_aligned_and_has_a_line_for_each_difference(runs, capsys):
    differences = compare(*runs)
    first, second, _, header, *lines = capsys.readouterr().out.splitlines()
    assert (first, second) == (f"run: {runs[0]}", f"other: {runs[1]}")
    assert header.split("  ")[0] == "metric"
    assert len(lines) == len(differences)
    assert {len(line) for line in lines} == {len(header)}
    for line, d in zip(lines, differences, strict=True):
        assert line.split()[:4] == [d.metric, d.condition, str(N), f"{d.run_value:.4f}"]
        assert line.endswith(" yes" if d.within_noise else " no")


# What is refused


def refused(*paths, message, **options):
    with pytest.raises(InputError, match=message) as caught:
        compare(*paths, **options)
    assert "\n" not in str(caught.value)


def test_no_zero_is_negative(tmp_path, capsys):
    columns = measured(1)
    less = columns | {"entropy": columns["entropy"] - np.float32(1e-5)}
    runs = written(tmp_path / "a", columns), written(tmp_path / "b", less)
    assert any(-5e-5 < d.difference < 0 for d in compare(*runs))
    assert "-0.0000" not in capsys.readouterr().out


def test_other_images_are_refused(runs, tmp_path):
    columns = measured(1)
    fingerprint = {"data": {"fingerprint": {"test": "def"}}}
    others = {"data": (columns, fingerprint)}
    moved = columns | {"index": columns["index"] + 1}
    others |= {"fewer": ({n: c[1:] for n, c in columns.items()}, PROVENANCE)}
    others |= {"moved": (moved, PROVENANCE)}
    for name, (images, provenance) in others.items():
        other = written(tmp_path / name, images, provenance)
        message = f"^{re.escape(str(runs[0]))} and .*{name} were tested on different images; test"
        refused(runs[0], other, message=message)


def test_runs_that_share_nothing_are_refused(runs, tmp_path):
    other = written(tmp_path / "c", measured(1, conditions=("D8",)))
    refused(runs[0], other, message="share no condition or no metric; test both under")


@pytest.mark.parametrize("name", ["differences.txt", "robustness.csv", "images.parquet"])
def test_a_slip_replaces_no_records(runs, name):
    before = {file: file.read_bytes() for file in runs[0].iterdir()}
    refused(*runs, out=runs[0] / name, message=f"{re.escape(name)}: CSV is written here; end")
    assert {file: file.read_bytes() for file in runs[0].iterdir()} == before


@pytest.mark.parametrize("content", [b"", b"PAR1 no parquet", None])
def test_a_broken_or_missing_parquet_is_named(runs, content):
    file = runs[1] / "images.parquet"
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    reason = "not found" if content is None else "cannot be read"
    refused(*runs, message=f"^{re.escape(str(file))}: {reason}.*; repeat the test")


def test_a_parquet_with_damaged_pages_is_named(runs):
    file = runs[1] / "images.parquet"
    content = bytearray(file.read_bytes())
    content[4:400] = bytes(396)
    file.write_bytes(content)
    refused(*runs, message=f"^{re.escape(str(file))}: cannot be read .*; repeat the test")


@pytest.mark.parametrize(
    ("metadata", "dropped", "message"),
    [
        ({"blur_lightning.schema": "7"}, [], "schema 7, but only 1 is read here"),
        ({}, [], "schema none, but only 1 is read here"),
        ({"blur_lightning.schema": "1"}, ["index"], "no column 'index'; repeat the test"),
    ],
)
def test_another_schema_is_named(runs, metadata, dropped, message):
    file = runs[1] / "images.parquet"
    table = parquet.read_table(file).drop_columns(dropped)
    parquet.write_table(table.replace_schema_metadata(metadata), file)
    refused(*runs, message=f"^{re.escape(str(file))}: {message}")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read as JSON .*; repeat the test"),
        (None, "cannot be read as JSON .*; repeat the test"),
        ("[]", "no data.fingerprint.test in it; repeat the test"),
        (json.dumps({"data": {}}), "no data.fingerprint.test in it; repeat the test"),
    ],
)
def test_a_provenance_without_a_fingerprint_is_named(runs, content, message):
    file = runs[1] / "provenance.json"
    file.unlink()
    if content is not None:
        file.write_text(content)
    refused(*runs, message=f"^{re.escape(str(file))}: {message}")


def test_the_interval_of_paired_shares_is_that_of_resampled_images():
    changes = np.repeat([1.0, -1.0, 0.0], [60, 20, 420])
    ours, theirs = paired_interval(20, 60, 500), bootstrap_interval(changes)
    assert ours == pytest.approx(theirs, abs=0.004)
    assert ours == paired_interval(20, 60, 500) != paired_interval(20, 60, 500, seed=1)
    assert paired_interval(0, 0, 10) == (0.0, 0.0)


def test_restored_images_are_compared_where_all_have_a_value(tmp_path):
    columns = measured(1) | {"psnr": np.linspace(20, 30, 2 * N, dtype=np.float32)}
    brighter = columns | {"psnr": columns["psnr"] + 1}
    searched = columns | {"psnr": np.where(columns["top1"], columns["psnr"], np.nan)}
    folders = {"a": columns, "b": brighter, "c": searched}
    one, other, third = (written(tmp_path / name, found) for name, found in folders.items())
    (sharp, _) = (d for d in compare(one, other) if d.metric == "psnr")
    assert sharp.difference == pytest.approx(1, abs=1e-5)
    assert not sharp.within_noise
    assert "psnr" not in {d.metric for d in compare(one, third)}

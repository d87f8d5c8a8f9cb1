"""Arms of a sweep beside one another, against means and t intervals by hand."""

import csv
import json

import numpy as np
import pyarrow
import pytest
from arms import main
from pyarrow import parquet
from scipy import stats

from blur_lightning.records.robustness import SCHEMA, Record, read_records, write_records

RECORD = Record("", "net", "", "cells", 4, "", "sharp", 0.0, "28", "top1", 0.0, 0.0, 1.0)
# Arm -> condition -> whether each image was right, a row a seed.
HITS = {
    "plain": {"sharp": [[1, 1, 1, 0], [1, 1, 0, 1]], "D2": [[0, 0, 1, 0], [0, 1, 0, 0]]},
    "worst": {"sharp": [[1, 1, 0, 1], [1, 1, 1, 0]], "D2": [[1, 1, 1, 1], [1, 1, 1, 0]]},
}


def write_run(folder, mix, seed, hits, *, images=(0, 1, 2, 3)):
    """A finished test of one seed, as far as it is read here."""
    folder.mkdir(parents=True)
    record = RECORD._replace(run=folder.name, trained_on=mix)
    records = [
        record._replace(condition=condition, value=float(np.mean(values[seed])))
        for condition, values in hits.items()
    ]
    write_records(folder / "robustness.csv", records)
    columns = {
        "index": [i for _ in hits for i in images],
        "condition": [condition for condition in hits for _ in images],
        "top1": [bool(hit) for values in hits.values() for hit in values[seed]],
    }
    marked = pyarrow.table(columns).replace_schema_metadata({"blur_lightning.schema": str(SCHEMA)})
    parquet.write_table(marked, folder / "images.parquet")
    content = {"seed": seed, "data": {"fingerprint": {"test": "same"}}, "config": {"much": 1}}
    (folder / "provenance.json").write_text(json.dumps(content))


@pytest.fixture
def runs(tmp_path):
    for mix, hits in HITS.items():
        for seed in (0, 1):
            write_run(tmp_path / "runs" / f"{mix}{seed}", mix, seed, hits)
    return tmp_path / "runs"


def test_differences_are_paired_over_seeds_and_images(runs, tmp_path, capsys):
    out, records = tmp_path / "out.csv", tmp_path / "records.csv"
    assert main([str(runs), "--out", str(out), "--records", str(records)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        "| trained on | sharp | D2 |",
        "| --- | --- | --- |",
        "| net, plain | 75.0 | 25.0 |",
        "| net, worst | 75.0 | 87.5 |",
    ]
    with out.open() as stream:
        (row,) = [r for r in csv.DictReader(stream) if (r["arm"], r["condition"]) == WORST_D2]
    gains = 100.0 * (np.array(HITS["worst"]["D2"]) - np.array(HITS["plain"]["D2"]))
    half = np.hypot(
        *(
            stats.t.ppf(0.975, means.size - 1) * stats.sem(means)
            for means in (gains.mean(axis=1), gains.mean(axis=0))
        )
    )
    assert float(row["difference"]) == pytest.approx(62.5)
    assert float(row["low"]) == pytest.approx(62.5 - half)
    assert float(row["high"]) == pytest.approx(62.5 + half)
    assert (row["seeds"], row["n"]) == ("2", "4")
    assert len(read_records(records)) == 2 * 2 * 2
    provenance = json.loads(records.with_suffix(".json").read_text())
    assert provenance["worst1"] == {"seed": 1, "data": {"fingerprint": {"test": "same"}}}


WORST_D2 = ("net, worst", "D2")


def test_what_is_beyond_noise_is_marked_on_its_side(tmp_path, capsys):
    right = {"sharp": [[1] * 40, [1] * 40], "D2": [[1] * 40, [1] * 40]}
    wrong = {"sharp": [[1] * 40, [1] * 40], "D2": [[0] * 40, [0] * 40]}
    for mix, hits in (("good", right), ("bad", wrong)):
        for seed in (0, 1):
            write_run(tmp_path / f"{mix}{seed}", mix, seed, hits, images=range(40))
    assert main([str(tmp_path), "--against", "net, good"]) == 0
    assert "| net, bad | 100.0 | 0.0- |" in capsys.readouterr().out
    assert main([str(tmp_path), "--against", "net, bad"]) == 0
    assert capsys.readouterr().out.splitlines()[2:] == [
        "| net, bad | 100.0 | 0.0 |",
        "| net, good | 100.0 | 100.0+ |",
    ]


def test_of_one_seed_the_interval_is_over_images(runs, tmp_path, capsys):
    out = tmp_path / "out.csv"
    assert main([str(runs / "plain0"), str(runs / "worst0"), "--out", str(out)]) == 0
    with out.open() as stream:
        (row,) = [r for r in csv.DictReader(stream) if (r["arm"], r["condition"]) == WORST_D2]
    gains = 100.0 * (np.array(HITS["worst"]["D2"][0]) - np.array(HITS["plain"]["D2"][0]))
    half = stats.t.ppf(0.975, 3) * stats.sem(gains)
    assert float(row["low"]) == pytest.approx(gains.mean() - half)


def test_each_seed_may_have_its_own_images(tmp_path, capsys):
    for seed, images in enumerate([(0, 1, 2, 3), (2, 3, 4, 5)]):
        for mix, hits in HITS.items():
            write_run(tmp_path / f"{mix}{seed}", mix, seed, hits, images=images)
    assert main([str(tmp_path)]) == 0
    assert "| net, worst | 75.0 | 87.5 |" in capsys.readouterr().out


def test_runs_of_one_seed_add_their_conditions(tmp_path, capsys):
    for condition in ("sharp", "D2"):
        for mix in HITS:
            hits = {condition: HITS[mix][condition]}
            write_run(tmp_path / f"{mix}-{condition}", mix, 0, hits)
    assert main([str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert "| trained on | D2 | sharp |" in printed
    assert "| net, worst | 100.0 | 75.0 |" in printed


def test_runs_that_do_not_belong_together_are_told_in_one_line(runs, tmp_path, capsys):
    assert main([str(runs), "--against", "net, none"]) == 2
    assert "--against: no arm 'net, none'; there are: net, plain; net" in capsys.readouterr().err
    assert main([str(runs / "plain0"), str(runs / "plain1"), str(runs / "worst0")]) == 2
    assert "RUNS: 'net, worst' has other seeds or conditions" in capsys.readouterr().err
    write_run(tmp_path / "other", "third", 1, HITS["plain"], images=(4, 5, 6, 7))
    assert main([str(runs), str(tmp_path / "other")]) == 2
    assert "other images than in" in capsys.readouterr().err
    write_run(tmp_path / "twice", "plain", 1, HITS["plain"])
    assert main([str(runs), str(tmp_path / "twice")]) == 2
    assert "'net, plain' with seed 1 is there twice" in capsys.readouterr().err

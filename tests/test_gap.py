"""Gaps against closed forms and simulated truth, and the figures of docs/segmentation.md."""

import csv
from pathlib import Path

import numpy as np
import pytest
from claims import Estimate
from gap import CLAIM, less, main, read_task, relative_loss

from blur_lightning.records.robustness import Record, read_records, wilson_interval, write_records

ROOT = Path(__file__).parents[1]
MIXES = {"miou": ("sharp", "sharp+D2", "sharp+D2+D4"), "top1": ("sharp", "sharp+D1+D3")}
RADII = {"sharp": 0.0, "D1": 1.0, "D3": 3.0, "D4": 4.0, "D12": 12.0}
RECORD = Record("", "net", "", "fields", 100, "", "disk", None, "64", "", 0.0, 0.0, 0.0)


def write_task(path, metric, losses, *, scatter=0.01, seeds=(0, 1, 2), half=0.001, **fields):
    """Records of networks whose value of 0.8 falls by a share of it under each disk.

    Args:
        path: File to write.
        metric: miou or top1.
        losses: By condition; half of it for networks that were trained on a mix.
        scatter: What the second seed loses more than the first, and the third less.
        seeds: Of the runs.
        half: Half width of the interval of each value.
        fields: Others than those of RECORD.
    """
    records = []
    for mix in MIXES[metric]:
        for seed in seeds:
            for condition, loss in ({"sharp": 0.0} | losses).items():
                share = loss * (1 if mix == "sharp" else 0.5)
                value = 0.8 * (1 - share - (0, scatter, -scatter)[seed] * (condition != "sharp"))
                record = RECORD._replace(run=f"{mix}{seed}", trained_on=mix, condition=condition)
                ends = {"value": value, "low": value - half, "high": value + half}
                family = "sharp" if condition == "sharp" else "disk"
                facts = {
                    "metric": metric,
                    "family": family,
                    "parameter": RADII[condition],
                    **ends,
                    **fields,
                }
                records.append(record._replace(**facts))
    write_records(path, records)
    return path


@pytest.fixture
def paths(tmp_path):
    """Segmentation loses 40 % under its strongest disks, classification 20 %; halves of it stay."""
    segmentation = write_task(tmp_path / "seg.csv", "miou", {"D4": 0.4, "D12": 0.4})
    classification = write_task(tmp_path / "cls.csv", "top1", {"D1": 0.1, "D3": 0.2, "D4": 0.2})
    return {"--segmentation": segmentation, "--classification": classification}


def run(paths, *words):
    return main([*(str(word) for pair in paths.items() for word in pair), *map(str, words)])


def problem(capsys, paths):
    assert run(paths) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def test_the_mix_of_most_disks_and_its_strongest_are_found(paths):
    task = read_task([paths["--segmentation"]], "miou")
    assert (task.mix, task.trained, task.tested) == ("sharp+D2+D4", "D4", "D12")


def test_a_larger_gap_is_told_with_its_size(paths, tmp_path, capsys):
    out = tmp_path / "gap.csv"
    assert run(paths, "--out", out) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("miou of net on fields, D4: trained on sharp 40.0 ±")
    assert "sharp+D2+D4 20.0 ±" in lines[0]
    assert lines[-1].startswith(f"{CLAIM}  holds")
    with out.open(newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["difference"] for row in rows] == [
        "D4 less D3, the strongest trained",
        "D12 less D4, the strongest tested",
    ]
    assert [float(row["mean"]) for row in rows] == pytest.approx([10, 10])


def test_equal_gaps_are_noise_and_a_smaller_one_refutes(paths, capsys):
    for loss, expected in ((0.4, "within noise"), (0.8, "does not hold")):
        write_task(paths["--classification"], "top1", {"D3": loss, "D4": loss})
        assert run(paths) == 0
        assert f"{CLAIM}  {expected}" in capsys.readouterr().out


def test_the_seeds_part_is_students_t_of_their_losses():
    sharp, blurry = (
        [RECORD._replace(value=v, low=v, high=v) for v in values]
        for values in ((0.5, 0.8, 0.4), (0.4, 0.6, 0.2))
    )
    found = relative_loss(sharp, blurry)
    losses = np.array([20.0, 25.0, 50.0])
    half = 4.302653 * losses.std(ddof=1) / 3**0.5  # 97.5 % of t with two degrees of freedom
    assert found == pytest.approx((losses.mean(), losses.mean() - half, losses.mean() + half))


def test_the_images_part_is_that_of_a_quotient_and_does_not_shrink_with_the_seeds():
    sharp = [RECORD._replace(value=0.8, low=0.76, high=0.84)] * 5
    blurry = [RECORD._replace(value=0.4, low=0.37, high=0.43)] * 5
    found = relative_loss(sharp, blurry)
    half = 100 * np.hypot(0.03, 0.5 * 0.04) / 0.8
    assert found == pytest.approx((50, 50 - half, 50 + half))


def test_intervals_cover_the_truth_where_images_and_seeds_scatter():
    generator, truth, inside = np.random.default_rng(0), 1 - 0.6 / 0.8, 0
    for _ in range(400):
        records = []
        for share in (0.8, 0.6):
            seeds = generator.normal(share, 0.01, 3)
            hits = round(float(generator.binomial(500, share)) - 500 * share)  # the same images
            counts = [int(np.clip(round(500 * seed) + hits, 1, 499)) for seed in seeds]
            ends = [(n / 500, *wilson_interval(n, 500)) for n in counts]
            names = ("value", "low", "high")
            records.append([RECORD._replace(**dict(zip(names, e, strict=True))) for e in ends])
        found = relative_loss(*records)
        inside += found.low <= 100 * truth <= found.high
    assert 0.93 <= inside / 400 <= 1


def test_differences_have_half_widths_that_add_in_squares():
    found = less(Estimate(10.0, 7.0, 13.0), Estimate(2.0, -2.0, 6.0))
    assert found == pytest.approx((8, 3, 13))


def test_what_is_missing_is_told_in_one_line(paths, capsys, tmp_path):
    swapped = {"--segmentation": paths["--classification"]}
    assert problem(capsys, swapped) == "RUNS: none with miou was trained on sharp images and disks"
    one = write_task(tmp_path / "one.csv", "miou", {"D4": 0.4}, seeds=(0,))
    assert "1 of miou" in problem(capsys, paths | {"--segmentation": one})
    other = write_task(tmp_path / "other.csv", "miou", {"D1": 0.4})
    assert "no disk of sharp+D2+D4 was tested" in problem(capsys, paths | {"--segmentation": other})
    records = read_records(paths["--segmentation"])
    write_records(one, [*records, *(r._replace(dataset="woods") for r in records)])
    assert "of several networks or data sets" in problem(capsys, paths | {"--segmentation": one})
    write_records(one, [r for r in records if (r.run[-1], r.condition) != ("1", "sharp")])
    assert "other runs trained on" in problem(capsys, paths | {"--segmentation": one})
    assert "nowhere: not found" in problem(capsys, paths | {"--segmentation": tmp_path / "nowhere"})


def test_the_committed_verdict_is_that_of_the_committed_tables(tmp_path, capsys):
    """After new runs: `make figures`, and the line of docs/segmentation.md."""
    assert main(["--out", str(tmp_path / "gap.csv")]) == 0
    tables = []
    for path in (tmp_path / "gap.csv", ROOT / "experiments/results/segmentation_gap.csv"):
        with path.open(newline="") as stream:
            tables.append(list(csv.DictReader(stream)))
    found, committed = ([[row["difference"], row["verdict"]] for row in rows] for rows in tables)
    assert found == committed
    means = [[float(row["mean"]) for row in rows] for rows in tables]
    assert means[0] == pytest.approx(means[1])
    assert f"| {CLAIM} | {found[0][1]} |" in (ROOT / "docs/segmentation.md").read_text(
        encoding="utf-8"
    )

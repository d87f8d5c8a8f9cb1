"""Intervals against simulated truth, verdicts on runs that are made so that each is right."""

import csv
import json
import re
from pathlib import Path

import numpy as np
import pytest
import yaml
from claims import (
    CLAIMS,
    MIXES,
    STUDIES,
    Difference,
    Estimate,
    crossed_interval,
    main,
    pseudo_values,
    verdict,
)

from blur_lightning.records.counts import COUNTED, with_interval
from blur_lightning.records.robustness import Record, read_records, write_run
from blur_lightning.records.tested import load_run

COUNT = 2000  # images
# Accuracy in percent under each blur of networks that do what the paper says.
BLURS = ("sharp", "D1", "D1.5", "D2", "D3", "D4", "H5", "V5", "shake")
PAPER = {
    "sharp": (92, 86, 80, 64, 43, 31, 60, 60, 40),
    "sharp+D2": (92, 91, 91, 90, 81, 65, 50, 50, 60),
    "sharp+D1+D2+D3": (92, 91, 91, 90, 88, 81, 45, 45, 70),
    "sharp+D3": (92, 88, 88, 88, 89, 81, 50, 50, 65),
    "D3": (11, 20, 40, 79, 90, 82, 15, 15, 60),
    "0.2*sharp+0.8*shake": (92, 90, 90, 85, 75, 60, 88, 88, 88),
}
RECORD = Record("", "net", "", "clothes", COUNT, "sharp", "sharp", 0.0, "28", "top1", 0.9, 0.8, 1.0)
ENTROPY = (0.2, 0.4, 0.5, 0.7, 0.9, 1.1, 0.6, 0.6, 0.8)


def write_runs(root, *, changes=(), seeds=(0, 1, 2), scatter=0.0, blurs=BLURS, **record):
    """Write one run a mix and seed.

    Args:
        root: Folder of all runs.
        changes: (mix, blur, percent) in place of those of PAPER.
        seeds: Of the runs.
        scatter: Percent by which the second seed is better and the third worse than the first.
        blurs: Conditions to test under.
        record: Fields of all records.
    """
    table = {mix: dict(zip(BLURS, row, strict=True)) for mix, row in PAPER.items()}
    for mix, blur, percent in changes:
        table[mix][blur] = percent
    difficulty = (np.random.default_rng(0).permutation(COUNT) + 0.5) / COUNT
    for mix in MIXES:
        for place, seed in enumerate(seeds):
            shift = scatter * (0, 1, -1)[place] * (mix != "sharp")
            shares = np.array([table[mix][blur] + shift for blur in blurs]) / 100
            noise = np.random.default_rng([place, 1]).normal(0, 0.05, (len(blurs), COUNT))
            entropy = np.array(ENTROPY[: len(blurs)])[:, None] + noise
            images = {
                "condition": np.repeat(np.array(blurs, dtype=object), COUNT),
                "index": np.tile(np.arange(COUNT), len(blurs)),
                "top1": (difficulty < shares[:, None]).ravel(),
                "entropy": entropy.astype(np.float32).ravel(),
            }
            name = f"{MIXES.index(mix)}_{seed}"
            write_run(
                root / name,
                records=[RECORD._replace(run=name, trained_on=mix)._replace(**record)],
                images=images,
                provenance={"seed": seed, "data": {"fingerprint": {"test": "0"}}},
            )
    return root


def verdicts(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == len(CLAIMS)
    found = {}
    for claim, line in zip(CLAIMS, lines, strict=True):
        assert line.startswith(claim)
        judged = line.removeprefix(claim).strip()
        found[claim] = next(
            word for word in ("holds", "does not hold", "within noise") if judged.startswith(word)
        )
    return found


def problem(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line.removeprefix("error: ")


def test_networks_that_do_what_the_paper_says_fulfil_all_claims(tmp_path, capsys):
    assert set(verdicts(capsys, write_runs(tmp_path)).values()) == {"holds"}


@pytest.mark.parametrize(
    ("claim", "change"),
    [
        ("blur harms", ("sharp", "D3", 70)),
        ("a mix regains", ("sharp+D1+D2+D3", "D3", 60)),
        ("a mix costs less", ("sharp+D2", "sharp", 89)),
        ("a mix helps against degrees", ("sharp+D2", "D4", 25)),
        ("disks help against shake", ("sharp+D1+D2+D3", "shake", 35)),
        ("disks harm against linear", ("sharp+D1+D2+D3", "V5", 65)),
        ("shake helps against linear", ("0.2*sharp+0.8*shake", "H5", 55)),
        ("one strong blur alone", ("D3", "sharp", 88)),
    ],
)
def test_one_contrary_number_refutes_its_claim_and_no_other(tmp_path, capsys, claim, change):
    found = verdicts(capsys, write_runs(tmp_path, changes=[change]))
    assert [text for text, judged in found.items() if judged != "holds"] == [
        text for text in CLAIMS if text.startswith(claim)
    ]
    assert "does not hold" in found.values()


def test_an_entropy_that_falls_refutes_its_claim(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("test_claims.ENTROPY", (0.2, 0.4, 0.5, 0.7, 0.9, 0.8, 0.6, 0.6, 0.8))
    found = verdicts(capsys, write_runs(tmp_path))
    assert [text for text, judged in found.items() if judged == "does not hold"] == [
        "entropy rises with the radius (Table 2)"
    ]


def test_what_the_seeds_scatter_across_is_noise(tmp_path, capsys):
    """0.5 points above the threshold, with seeds that scatter by 1."""
    changes = [("sharp+D2", "sharp", 91.5)]
    cost = "a mix costs less than 1 point on sharp images (Table 3)"
    quiet = verdicts(capsys, write_runs(tmp_path / "quiet", changes=changes))
    loud = verdicts(capsys, write_runs(tmp_path / "loud", changes=changes, scatter=1.0))
    assert (quiet[cost], loud[cost]) == ("holds", "within noise")
    assert loud["a mix regains more than half of the loss (Table 3)"] == "holds"


def test_the_written_numbers_are_the_differences_of_the_shares(tmp_path, capsys):
    """So many images that seeds agree and intervals are those of the images alone."""
    out = tmp_path / "claims.csv"
    verdicts(capsys, write_runs(tmp_path / "runs"), "--out", out)
    with out.open(newline="") as stream:
        rows = {(row["claim"], row["difference"]): row for row in csv.DictReader(stream)}
    assert len(rows) == sum(len(differences) for differences in CLAIMS.values())
    row = rows["blur harms, the more the larger its radius (Table 1)", "D2-D3"]
    assert float(row["mean"]) == pytest.approx(64 - 43)
    deviation = 100 * (0.21 * 0.79) ** 0.5  # of a difference that is 1 for 21 % of the images
    half = 1.96 * deviation / COUNT**0.5
    assert float(row["high"]) - float(row["mean"]) == pytest.approx(half, rel=0.01)
    assert (row["unit"], row["verdict"]) == ("points", "holds")
    halfway = rows["a mix regains more than half of the loss (Table 3)", "sharp+D1+D2+D3 on D3"]
    assert float(halfway["mean"]) == pytest.approx(88 - (92 + 43) / 2)
    assert float(rows["entropy rises with the radius (Table 2)", "D3-D2"]["mean"]) == pytest.approx(
        0.2, abs=0.01
    )


@pytest.mark.parametrize(("seeds", "scatter"), [(2, 0.05), (3, 0.0), (3, 0.05), (3, 0.2)])
def test_intervals_cover_the_truth_at_least_as_often_as_they_say(seeds, scatter):
    generator = np.random.default_rng(0)
    hits, trials, images = 0, 1000, 100
    for _ in range(trials):
        values = generator.normal(0, scatter, (seeds, 1)) + generator.normal(0, 0.3, images)
        values = 3 + values + generator.normal(0, 0.4, (seeds, images))
        _, low, high = crossed_interval(values)
        hits += low <= 3 <= high
    assert hits / trials > 0.935  # 0.95 less two standard errors of 1000 trials


def test_an_interval_has_students_width_where_only_seeds_differ():
    values = np.repeat([[1.0], [2.0], [3.0]], 5, axis=1)
    half = 4.302653 / 3**0.5  # t of 2 degrees of freedom, standard deviation 1
    assert crossed_interval(values) == pytest.approx((2.0, 2 - half, 2 + half), rel=1e-6)


def test_an_interval_has_students_width_where_only_images_differ():
    values = np.tile([1.0, 2.0, 3.0], (2, 1))
    half = 4.302653 / 3**0.5
    assert crossed_interval(values) == pytest.approx((2.0, 2 - half, 2 + half), rel=1e-6)


def test_every_part_of_a_claim_must_hold():
    differences = [Difference("a", {}), Difference("b", {}, threshold=-1.0)]
    above, across, below = Estimate(1, 0.5, 1.5), Estimate(0, -0.5, 0.5), Estimate(-3, -4, -2)
    assert verdict(differences, [above, across]) == "holds"
    assert verdict(differences, [across, above]) == "within noise"
    assert verdict(differences, [above, below]) == "does not hold"
    assert verdict(differences, [across, below]) == "does not hold"


def test_claims_compare_like_with_like():
    for differences in CLAIMS.values():
        assert len({difference.metric for difference in differences}) == 1  # one unit a line
        for difference in differences:
            assert sum(difference.weights.values()) == pytest.approx(0)
            assert {mix for mix, _ in difference.weights} <= set(MIXES)


def test_runs_trained_on_something_else_are_passed_over(tmp_path, capsys):
    write_runs(tmp_path / "original", trained_on="original")
    write_runs(tmp_path / "trained")
    assert set(verdicts(capsys, tmp_path).values()) == {"holds"}


def test_a_missing_run_is_named(tmp_path, capsys):
    write_runs(tmp_path)
    (tmp_path / "4_1/robustness.csv").unlink()
    assert problem(capsys, tmp_path).startswith("RUNS: none trained on D3 with seed 1")
    assert "not found" in problem(capsys, tmp_path / "nowhere")


def test_one_seed_is_too_few(tmp_path, capsys):
    assert "1 seeds leave no measure of noise" in problem(capsys, write_runs(tmp_path, seeds=[7]))


def test_a_missing_condition_is_named(tmp_path, capsys):
    write_runs(tmp_path, blurs=BLURS[:-1])
    expected = "RUNS: seed 0 of sharp+D1+D2+D3 was not tested under shake; repeat its test"
    assert problem(capsys, tmp_path).startswith(expected)


def test_a_run_given_twice_is_named(tmp_path, capsys):
    first, second = write_runs(tmp_path / "a"), write_runs(tmp_path / "b")
    line = problem(capsys, first, second)
    assert line.startswith(f"{second / '0_0'}: seed 0 and mix sharp, as in {first / '0_0'}")


def test_runs_of_another_network_are_refused(tmp_path, capsys):
    write_runs(tmp_path / "a", seeds=[0, 1])
    write_runs(tmp_path / "b", seeds=[2], model="another")
    assert "another network or data set" in problem(capsys, tmp_path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"seed": null}'])
def test_a_run_that_tells_no_seed_is_named(tmp_path, capsys, content):
    file = write_runs(tmp_path) / "0_0/provenance.json"
    file.write_text(content)
    assert problem(capsys, tmp_path).startswith(f"{file}: tells no seed")


def test_damaged_or_foreign_images_are_named(tmp_path, capsys):
    write_runs(tmp_path)
    file = tmp_path / "2_1/images.parquet"
    whole = file.read_bytes()
    file.write_bytes(whole[:1000])
    assert problem(capsys, tmp_path).startswith(f"{file}: cannot be read")
    file.unlink()
    assert problem(capsys, tmp_path).startswith(f"{file}: not found; repeat the test")


def test_other_images_are_refused(tmp_path, capsys, monkeypatch):
    write_runs(tmp_path / "a", seeds=[0, 1])
    monkeypatch.setattr("test_claims.COUNT", 1900)
    write_runs(tmp_path / "b", seeds=[2])
    assert "other images than in the first run" in problem(capsys, tmp_path)


def test_mixes_and_blurs_are_those_of_the_sweep():
    root = Path(__file__).parents[1]
    sweep = yaml.safe_load((root / "sweeps/vasiljevic2016_table3_fashion.yaml").read_text())
    assert tuple(sweep["parameters"]["data.blur"]["values"]) == MIXES
    experiment = yaml.safe_load((root / sweep["command"][-2]).read_text())
    tested = {blur for part in CLAIMS.values() for claim in part for _, blur in claim.weights}
    assert tested <= set(experiment["model"]["init_args"]["conditions"])


def test_records_and_provenance_of_all_runs_are_gathered(tmp_path, capsys):
    write_runs(tmp_path / "runs")
    out = tmp_path / "all.csv"
    assert main([str(tmp_path / "runs"), "--records", str(out)]) == 0
    assert {record.trained_on for record in read_records(out)} == set(MIXES)
    provenance = json.loads(out.with_suffix(".json").read_text())
    assert len(provenance) == 3 * len(MIXES)
    assert {content["seed"] for content in provenance.values()} == {0, 1, 2}


# Segmentation


def write_restorations(root, *, gains, images=200):
    """Runs of three seeds of both kinds of training, each with its mean gain in dB."""
    generator = np.random.default_rng(0)
    blurry = generator.normal(28, 3, images)
    for mix, gain in zip(STUDIES["psnr"].mixes, gains, strict=True):
        for seed in range(3):
            name = f"{STUDIES['psnr'].mixes.index(mix)}_{seed}"
            restored = blurry + gain + generator.normal(0, 0.3, images)
            write_run(
                root / name,
                records=[RECORD._replace(run=name, trained_on=mix, metric="psnr")],
                images={
                    "condition": np.array(["sharp"] * images, dtype=object),
                    "index": np.arange(images),
                    "psnr": restored,
                    "psnr_input": blurry,
                },
                provenance={"seed": seed, "data": {"fingerprint": {"test": "0"}}},
            )
    return root


@pytest.mark.parametrize(
    ("gains", "expected"),
    [
        ((2.0, 1.0, 1.0), ["holds", "holds"]),
        ((1.2, 1.0, 0.0), ["holds", "does not hold"]),
        ((1.8, 1.0, 2.0), ["does not hold", "holds"]),
        ((1.5, 1.5, 1.0), ["within noise", "within noise"]),
    ],
)
def test_claims_of_deblurring_are_about_gains_over_the_blurry_images(
    tmp_path, capsys, gains, expected
):
    root = write_restorations(tmp_path, gains=gains)
    assert main([str(root)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for line, claim, word in zip(lines, STUDIES["psnr"].claims, expected, strict=True):
        assert line.removeprefix(claim).strip().startswith(word)


def write_segmentations(root, *, regained=0.5, images=60):
    """Runs whose share of right pixels falls with the radius, and less so after the mix."""
    study, generator = STUDIES["miou"], np.random.default_rng(0)
    sizes = generator.integers(50, 150, size=(images, 3))
    for mix in study.mixes:
        for seed in (0, 1, 2):
            right = 1 - np.array([0.1, 0.2, 0.35, 0.5, 0.65])
            if mix != "sharp":
                right[1:] += regained * (right[0] - right[1:])
                right[0] -= 0.03
            noise = np.random.default_rng([seed, 1]).normal(0, 0.02, (5, images, 1))
            found = (sizes * (right[:, None, None] + noise).clip(0, 1)).astype(np.int64)
            counts = {
                f"{prefix}{name}": column.reshape(5 * images, 3)
                for prefix in ("", "boundary_", "contour_")
                for name, column in (
                    ("intersection", found),
                    ("truth", np.broadcast_to(sizes, found.shape)),
                    ("predicted", np.broadcast_to(sizes, found.shape)),
                )
            }
            names = np.array(["sharp", "D2", "D4", "D6", "D8"], dtype=object)
            columns = {"condition": np.repeat(names, images), "index": np.tile(range(images), 5)}
            record = RECORD._replace(run=f"{mix}{seed}", trained_on=mix, metric="miou")
            provenance = {"seed": seed, "data": {"fingerprint": {"test": "0"}}}
            write_run(
                root / f"{mix}{seed}",
                records=[record],
                images=columns | counts,
                provenance=provenance,
            )
    return root


def judged(capsys, *arguments):
    assert main([str(argument) for argument in arguments]) == 0
    lines = capsys.readouterr().out.splitlines()
    return [re.search(r"\)  +(holds|does not hold|within noise)", line)[1] for line in lines]


def test_segmentations_that_do_what_the_paper_says_fulfil_all_claims(tmp_path, capsys):
    found = judged(capsys, write_segmentations(tmp_path))
    assert found == ["holds"] * len(STUDIES["miou"].claims)


def test_a_mix_that_regains_nothing_refutes_its_claims_alone(tmp_path, capsys):
    found = judged(capsys, write_segmentations(tmp_path, regained=-0.2))
    assert found == ["holds", "holds", "does not hold", "does not hold", "holds", "holds"]


def test_pseudo_values_have_the_mean_and_the_spread_of_the_metric(tmp_path):
    run = load_run(write_segmentations(tmp_path) / "sharp0" / "robustness.csv")
    rows = run.rows["D4"]
    values = pseudo_values("miou", run, rows)
    statistic, names = COUNTED["miou"]
    counts = [run.columns[name][rows] for name in names]
    assert values.mean() == pytest.approx(float(statistic(*(c.sum(0) for c in counts))), abs=1e-3)
    _, low, high = with_interval(statistic, *counts)
    half = 1.96 * values.std(ddof=1) / len(values) ** 0.5
    assert half == pytest.approx(float(high - low) / 2, rel=0.15)


def test_runs_with_neither_metric_are_refused(tmp_path, capsys):
    write_runs(tmp_path, metric="entropy")
    assert problem(capsys, tmp_path).startswith("RUNS: none has top1 or miou or psnr")

"""The figures of README.md and docs/ are those of the files that they name."""

import csv
import json
import re
import statistics
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from arms import table

from blur_lightning.records.robustness import read_records
from blur_lightning.tasks.critical import median_interval

ROOT = Path(__file__).parents[1]
# With the pages that it leads to.
README = "\n".join(
    page.read_text(encoding="utf-8")
    for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
)


def top1(run):
    records = read_records(ROOT / "docs" / f"{run}.csv")
    return {r.condition: f"{100 * r.value:.1f}" for r in records if r.metric == "top1"}


def test_the_table_is_that_of_the_demo():
    rows = re.findall(r"^\| (\w+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    sharp, mix = top1("scenes_sharp"), top1("scenes_mix")
    assert len(rows) >= 5
    assert rows == [(name, sharp[name], mix[name]) for name, *_ in rows]


def test_the_layers_of_the_demo_answer_as_was_measured():
    with (ROOT / "docs/invariance_scenes.csv").open(encoding="utf-8") as stream:
        rows = [row for row in csv.DictReader(stream) if row["condition"] == "D4"]
    for mix in ("sharp", "sharp+D2+D4"):
        own = [row for row in rows if row["trained_on"] == mix]
        shares = (f"{100 * float(row['distance']):.1f}" for row in own)
        assert f"| trained on {mix} | {' | '.join(shares)} |" in README
        assert f"| | {' | '.join(row['layer'] for row in own)} |" in README


def test_the_fashion_table_and_claims_are_those_that_were_measured():
    results = ROOT / "experiments/results"
    values: dict[tuple[str, str], list[float]] = {}
    for record in read_records(results / "fashion_table3.csv"):
        if record.metric == "top1":
            key = (record.trained_on, record.condition)
            values.setdefault(key, []).append(100 * record.value)
    assert {len(seeds) for seeds in values.values()} == {3}
    (head,) = re.findall(r"^\| test blur \| (sharp \| sharp\+D2 .*) \|$", README, re.MULTILINE)
    rows = re.findall(r"^\| (\w+) \| (.*) \|$", README.split(head)[1].split("![")[0], re.MULTILINE)
    assert len(rows) >= 8
    for blur, cells in rows:
        for mix, cell in zip(head.split(" | "), cells.split(" | "), strict=True):
            assert cell == f"{statistics.mean(values[mix, blur]):.1f}", (mix, blur)
    with (results / "fashion_claims.csv").open(encoding="utf-8") as stream:
        claims = {row["claim"]: row["verdict"] for row in csv.DictReader(stream)}
    assert all(f"| {claim} | {verdict} |" in README for claim, verdict in claims.items())


@pytest.mark.parametrize(("name", "network"), [("", ""), ("_unet", "U-Net ")])
def test_the_segmentation_tables_are_those_that_were_measured(name, network):
    values: dict[tuple[str, str, str], list[float]] = {}
    for record in read_records(ROOT / f"experiments/results/segment_stamps{name}.csv"):
        key = (record.condition, record.trained_on, record.metric)
        values.setdefault(key, []).append(100 * record.value)
    assert {len(seeds) for seeds in values.values()} == {3}
    head = f"| {network}on sharp+D2+D4+D6: all pixels | near boundaries |"
    rows = re.findall(r"^\| (\w+) \| ([\d. |]+) \|$", README.split(head)[1], re.MULTILINE)
    assert [blur for blur, _ in rows[:5]] == ["sharp", "D2", "D4", "D6", "D8"]
    for blur, cells in rows[:5]:
        columns = product(("sharp", "sharp+D2+D4+D6"), ("miou", "boundary_miou"))
        for (mix, metric), cell in zip(columns, cells.split(" | "), strict=True):
            assert cell == f"{statistics.mean(values[blur, mix, metric]):.1f}", (blur, mix, metric)


def test_the_claims_of_segmentation_are_those_that_were_checked():
    def verdicts(name):
        file = ROOT / f"experiments/results/segment_stamps{name}_claims.csv"
        with file.open(encoding="utf-8") as stream:
            return {row["claim"]: row["verdict"] for row in csv.DictReader(stream)}

    assert all(f"| {claim} | {verdict} |" in README for claim, verdict in verdicts("").items())
    (held,) = [c for c, verdict in verdicts("_unet").items() if verdict == "holds"]
    assert held.startswith("a mix costs on sharp images")
    assert list(verdicts("_unet").values()).count("within noise") == 5


def test_the_table_of_averaged_frames_is_that_which_was_measured():
    results = ROOT / "experiments/results"
    with (results / "deblur_wild_small_parts.csv").open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    for part in ("moving scenes", "real clips"):
        own = [row for row in rows if row["part"] == part]
        (n,), (blurry,) = ({row[name] for row in own} for name in ("n", "psnr_input"))
        values = [
            [float(row["psnr"]) for row in own if row["trained_on"] == "wild_small" + mix]
            for mix in ("", " (sharp, and shake)", " (sharp, and M1..15@0..180)")
        ]
        assert [len(seeds) for seeds in values] == [3, 3, 3]
        cells = [f"{x:.1f}" for x in (float(blurry), *map(statistics.mean, values))]
        assert f"| {part} | {n} | {' | '.join(cells)} |" in README
    with (results / "deblur_wild_small_claims.csv").open(encoding="utf-8") as stream:
        claims = list(csv.DictReader(stream))
    assert all(f"| {row['claim']} | {row['verdict']} |" in README for row in claims)
    for row in claims[:2]:
        ends = [f"{float(row[name]):.1f}" for name in ("mean", "low", "high")]
        assert "{} dB (95 % interval {} to {}".format(*ends) in " ".join(README.split())
    facts = json.loads((results / "wild_residuals.json").read_text())
    r = [f"{facts[name]:.2f}" for name in ("correlation", "low", "high")]
    assert "r = {} ({} to {}) over {} pairs".format(*r, facts["n"]) in README


def test_the_critical_blur_is_that_which_was_measured():
    with (ROOT / "docs/critical_blur.csv").open(encoding="utf-8") as stream:
        values = np.array([float(row["critical_parameter"]) for row in csv.DictReader(stream)])
    figures = "{:.1f} px (95 % interval {:.1f} to {:.1f};".format(*median_interval(values))
    assert figures in README
    assert f"{np.isinf(values).sum()} keep it up to D16" in README


def test_the_deblurred_scenes_are_those_that_were_measured():
    records = read_records(ROOT / "docs/deblur_scenes.csv")
    values = {(record.condition, record.metric): record.value for record in records}
    for condition in dict.fromkeys(record.condition for record in records):
        cells = [
            f"{values[condition, f'psnr{suffix}']:.1f} dB, {values[condition, f'ssim{suffix}']:.3f}"
            for suffix in ("_input", "")
        ]
        assert f"| {condition} | {' | '.join(cells)} |" in README


def test_the_speeds_are_those_that_were_measured():
    rows = re.findall(r"^\| ([\w ]+) \| (\d+) \| ([\d.]+) \| ([\d.]+) \|$", README, re.MULTILINE)
    figures = json.loads((ROOT / "docs/speed_blur.json").read_text())["figures"]
    assert len(rows) >= 8
    for work, speed, *times in rows:
        measured = figures[work]
        assert speed == f"{measured['ours']['images_a_second']['median']:.0f}"
        peers = [measured[peer]["times_ours"]["median"] for peer in ("kornia", "OpenCV")]
        assert times == [f"{peer:.1f}" for peer in peers]


def test_the_tables_of_the_benchmarks_are_those_that_were_measured():
    page = (ROOT / "benchmarks/README.md").read_text(encoding="utf-8")
    blur, feed = (
        json.loads((ROOT / f"docs/speed_{name}.json").read_text()) for name in ("blur", "feed")
    )
    peers = ("kornia", "OpenCV", "torchvision", "SciPy", "albumentations", "imagecorruptions")

    def told(figures, digits=1):
        return "{median:.{d}f} ({least:.{d}f}-{most:.{d}f})".format(**figures, d=digits)

    for work, row in blur["figures"].items():
        cells = [told(row[peer]["times_ours"]) if peer in row else "" for peer in peers]
        ours, memory = told(row["ours"]["images_a_second"], 0), blur["peak_memory_mib"][work]
        assert f"| {' | '.join([work, ours, *cells, f'{memory:.0f}'])} |" in page
    for stage, figures in feed["milliseconds_an_image"].items():
        text = "| {} | {median:.2f} | {least:.2f}-{most:.2f} |".format(stage, **figures)
        assert text in page
    tokens = json.loads((ROOT / "docs/speed_tokens.json").read_text())["figures"]
    for network, row in tokens.items():
        speed, times = told(row["images_a_second"]), told(row["times_as_fast_as_timm"], 2)
        assert f"| {network} | {speed} | {times} |" in page
    times = feed["times_each_on_its_own"]
    assert "{median:.1f} times ({least:.1f}-{most:.1f})".format(**times) in page
    whole = feed["test_over_network_and_decode"]
    assert "{median:.2f} times ({least:.2f}-{most:.2f})".format(**whole) in page


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?:docs|experiments)/[\w/.]+\w", README))))
def test_every_file_that_is_named_is_there(path):
    assert (ROOT / path).exists()


def test_every_make_target_that_is_named_is_there():
    targets = set(re.findall(r"(?:^|`)make (\w[\w-]*)", README, re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    assert targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


def test_the_deconvolution_table_is_that_which_was_measured():
    with (ROOT / "experiments/results/deconvolution.csv").open(encoding="utf-8") as stream:
        measured = list(csv.DictReader(stream))
    values = {(r["images"], r["blur"], r["noise"], r["method"]): r["psnr"] for r in measured}
    rows = re.findall(r"^\| (D\d), noise ([\d.]+) \| (.*) \|$", README, re.MULTILINE)
    assert len(rows) == 4
    methods = ("none", "wiener", "richardson_lucy", "sparse")
    for blur, noise, cells in rows:
        assert cells.split(" | ") == [values["photographs", blur, noise, m] for m in methods]
    restored = [row for row in measured if row["method"] != "none"]
    assert all(float(row["least_gain"]) > 0 for row in restored)
    for row in restored:
        if row["method"] == "sparse":
            key = (row["images"], row["blur"], row["noise"], "wiener")
            assert float(row["psnr"]) > float(values[key])


def test_the_tables_of_restored_images_are_those_that_were_measured():
    section = README.split("## Deblur, then recognise")[1].split("\n## ")[0]
    tables = {"photos_restored": "D8", "fashion_table5": "D3", "scenes_restored": "D4"}
    for name, condition in tables.items():
        records = read_records(ROOT / f"experiments/results/{name}.csv")
        networks = {(record.model, record.trained_on) for record in records}
        top1 = {
            (r.model, r.trained_on, r.condition): f"{100 * r.value:.1f}"
            for r in records
            if r.metric == "top1"
        }
        for model, mix in networks:
            (row,) = re.findall(
                rf"^\| {re.escape(f'{model}, {mix}')} \| (.*) \|$", section, re.MULTILINE
            )
            cells = [cell.partition(" ")[0] for cell in row.split(" | ")]
            assert [cells[0], cells[-1]] == [top1[model, mix, "sharp"], top1[model, mix, condition]]


ATTACKS = ["sharp", "worst30@D0..4", "worst50@D0..4", "worst30@M1..9@0..180"]
ATTACKS += ["worst50@M1..9@0..180", "kernel10", "kernel20", "kernel30"]


@pytest.mark.parametrize(
    ("name", "conditions"),
    [("fashion_tokens", None), ("invariance_fashion", None), ("adversarial_fashion", ATTACKS)],
)
def test_the_tables_of_arms_are_those_that_were_measured(name, conditions):
    """The differences that arms.py wrote, and the records that they are of."""
    results = ROOT / "experiments/results"
    with (results / f"{name}_arms.csv").open(encoding="utf-8") as stream:
        found = list(csv.DictReader(stream))
    rows = [
        row | {key: float(row[key]) for key in ("top1", "low", "high")}
        for row in found
        if conditions is None or row["condition"] in conditions
    ]
    _, _, *lines = table(rows)
    assert len(lines) >= 4
    assert all(line in README for line in lines)
    seeds = {int(row["seeds"]) for row in found}
    values: dict[tuple[str, str], set[tuple[str, float]]] = {}
    for r in read_records(results / f"{name}.csv"):
        if r.metric == "top1":
            values.setdefault((f"{r.model}, {r.trained_on}", r.condition), set()).add(
                (r.run, 100 * r.value)
            )
    for row in rows:
        same = [value for _, value in values[row["arm"], row["condition"]]]
        assert statistics.mean(same) == pytest.approx(row["top1"])
        assert len(same) == max(seeds) or row["condition"] == "sharp"
    provenance = json.loads((results / f"{name}.json").read_text(encoding="utf-8"))
    assert not any(run["environment"]["dirty"] for run in provenance.values())

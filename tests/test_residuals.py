"""analyze residuals, on pairs whose residuals are known."""

import csv
import json

import numpy as np
import pytest
import torch
from PIL import Image

from blur_lightning.analysis.residuals import blur_sizes, correlation, scatter_svg
from blur_lightning.cli import main
from blur_lightning.errors import InputError

LEVELS = (20, 40, 60, 100)  # of blurry images that are grey all over; the sharp ones are black
SIZES = (1.0, 2.0, 3.0, 5.0)
BASE = ["analyze", "residuals", "--config", "experiments/base.yaml"]
BASE += ["--config", "experiments/deblur_wild_small.yaml", "--trainer.accelerator", "cpu"]
BASE += ["--trainer.enable_progress_bar", "false"]


@pytest.fixture
def pairs(tmp_path):
    """Two videos to test on, as build-wild leaves them."""
    lines = ["blur,sharp,blur_size"]
    for number, (level, size) in enumerate(zip(LEVELS, SIZES, strict=True)):
        files = [f"test/{number // 2}/{kind}/{number:06}.png" for kind in ("blur", "sharp")]
        for file, value in zip(files, (level, 0), strict=True):
            path = tmp_path / "wild" / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.full((16, 20 + min(number, 2), 3), value, np.uint8)).save(path)
        lines.append(f"{files[0]},{files[1]},{size}")
    (tmp_path / "wild/manifest.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "wild"


@pytest.fixture
def analyze(tmp_path, monkeypatch, request):
    monkeypatch.chdir(request.config.rootpath)

    def run(root, *words):
        out = ["--trainer.default_root_dir", str(tmp_path / "run"), "--data.root", str(root)]
        return main([*BASE, *out, "--model.net", "nets.Gain", *words])

    return run


def test_residuals_are_mean_absolute_changes_and_follow_the_blur(tmp_path, pairs, analyze):
    """A network that halves all values takes away half of the level, which grows with the size."""
    assert analyze(pairs, "--model.net.gain", "0.5") == 0
    with (tmp_path / "run/residuals.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    assert [float(row["blur_size"]) for row in rows] == list(SIZES)
    assert [float(row["residual"]) for row in rows] == pytest.approx([x / 510 for x in LEVELS])
    facts = json.loads((tmp_path / "run/residuals.json").read_text())
    assert facts["correlation"] == pytest.approx(1) and facts["n"] == 4
    assert (facts["smallest"], facts["largest"]) == (rows[0]["file"], rows[-1]["file"])
    with Image.open(tmp_path / "run/residuals.png") as picture:
        pixels = np.asarray(picture)
    assert pixels.shape == (32, 4 * 22, 3)  # the larger of both images, four times
    assert (pixels[0, ::22] == [[100] * 3, [0] * 3, [50] * 3, [0] * 3]).all()
    # Middle grey less four times 10 levels; then sharp, and white where the row is shorter.
    assert (pixels[16, [0, 20, 40, 60, 80], 0] == [20, 88, 10, 0, 255]).all()


def test_the_mix_of_a_checkpoint_is_told(tmp_path, pairs, analyze):
    content = {"state_dict": {"net.gain": torch.tensor(0.5)}, "trained_on": "wild (D1..4)"}
    torch.save(content, tmp_path / "net.ckpt")
    assert analyze(pairs, "--ckpt_path", str(tmp_path / "net.ckpt")) == 0
    facts = json.loads((tmp_path / "run/residuals.json").read_text())
    assert facts["trained_on"] == "wild (D1..4)"


def test_the_correlation_is_pearsons_with_an_interval_around_it():
    generator = np.random.default_rng(1)
    size = generator.normal(size=400)
    residual = 0.6 * size + 0.8 * generator.normal(size=400)
    r, low, high = correlation(size, residual)
    centred = [values - values.mean() for values in (size, residual)]
    expected = (centred[0] @ centred[1]) / np.sqrt(np.prod([x @ x for x in centred]))
    assert r == pytest.approx(expected)
    # Fisher's transform: its standard error is 1 / sqrt(n - 3).
    ends = np.tanh(np.arctanh(r) + np.array([-1.96, 1.96]) / np.sqrt(397))
    assert (low, high) == pytest.approx(ends, abs=0.02)
    assert correlation(size, -size)[0] == pytest.approx(-1)


def test_the_scatter_plot_is_the_same_for_other_units():
    size, residual = np.array([1.0, 2.0, 4.0]), np.array([0.1, 0.3, 0.2])
    drawn = scatter_svg(size, residual, "r")
    assert drawn == scatter_svg(8 * size, residual, "r")
    assert drawn != scatter_svg(size, residual[::-1], "r")


def test_images_that_are_all_alike_have_no_correlation():
    with pytest.raises(InputError, match="a correlation needs three images or more that differ"):
        correlation(np.ones(5), np.arange(5.0))


def test_what_is_missing_is_told_in_one_line(pairs, analyze, capsys):
    (pairs / "manifest.csv").write_text("blur,sharp,blur_size\n")
    assert analyze(pairs) == 2
    assert "test/0/blur/000000.png: not in manifest.csv" in capsys.readouterr().err
    (pairs / "manifest.csv").write_text("blur,sharp\na,b\n")
    with pytest.raises(InputError, match=r"manifest.csv: no manifest of build-wild"):
        blur_sizes(pairs)
    (pairs / "manifest.csv").unlink()
    assert analyze(pairs) == 2
    assert "manifest.csv: No such file or directory; build-wild" in capsys.readouterr().err

"""Videos of procedural scenes, and what runs on their pairs gain by part."""

import csv
import shutil
import sys

import numpy as np
import pytest
from moving import FPS, SIDE, main
from PIL import Image
from wild_parts import main as tell_parts

from blur_lightning.data.procedural import scene
from blur_lightning.records.robustness import Record, write_run
from blur_lightning.wild.video import read_frames


def test_a_video_shows_its_scene_at_an_even_rate(tmp_path, monkeypatch):
    monkeypatch.setattr("moving.FRAMES", 5)
    words = ["moving", "--out", str(tmp_path), "--train", "1", "--test", "2"]
    monkeypatch.setattr(sys, "argv", words)
    main()
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["test-000.mp4", "test-001.mp4", "train-000.mp4"]
    before = (tmp_path / names[1]).stat().st_mtime_ns
    main()
    assert (tmp_path / names[1]).stat().st_mtime_ns == before
    frames = list(read_frames(tmp_path / "test-001.mp4"))
    assert np.diff([frame.time for frame in frames]) == pytest.approx(1 / FPS)
    drawn = scene(1, 1, size=SIDE, frames=5).frames
    for frame, pixels in zip(frames, drawn, strict=True):
        error = np.abs(frame.pixels.astype(float) - pixels).mean()
        assert error < 2  # levels; the codec loses some
    assert np.abs(drawn[0].astype(float) - drawn[-1]).mean() > 2


def test_gains_are_told_apart_by_part(tmp_path, monkeypatch, capsys):
    """Scenes gain 2 dB here and clips 1 dB; the blurry images have 30 dB."""
    videos = ["cup", "test-000", "test-001"]
    for video in videos:
        for kind in ("blur", "sharp"):
            path = tmp_path / "pairs/test" / video / kind / "000000.png"
            path.parent.mkdir(parents=True)
            Image.new("RGB", (8, 8)).save(path)
    record = Record(
        "a", "net", "mix", "pairs", 3, "sharp", "sharp", None, "native", "psnr", 0, 0, 0
    )
    images = {"condition": np.array(["sharp"] * 3, dtype=object), "index": np.array([2, 0, 1])}
    images |= {"psnr": np.array([32.0, 31.0, 32.0]), "psnr_input": np.full(3, 30.0)}
    provenance = {"data": {"fingerprint": {"test": "0"}}}
    write_run(tmp_path / "run", records=[record], images=images, provenance=provenance)
    out = tmp_path / "parts.csv"
    words = ["wild_parts", str(tmp_path / "run"), "--out", str(out), "--pairs"]
    monkeypatch.setattr(sys, "argv", [*words, str(tmp_path / "pairs")])
    assert tell_parts() == 0
    with out.open() as stream:
        rows = {row["part"]: row for row in csv.DictReader(stream)}
    assert [rows[part]["n"] for part in ("moving scenes", "real clips")] == ["2", "1"]
    assert [float(rows[p]["psnr"]) for p in ("moving scenes", "real clips")] == [32, 31]
    assert {float(row["psnr_input"]) for row in rows.values()} == {30}
    shutil.rmtree(tmp_path / "pairs/test/cup")
    assert tell_parts() == 2
    assert "3 images, but 2 pairs" in capsys.readouterr().err

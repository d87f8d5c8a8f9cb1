"""The diary against closed forms, its files against interruptions, its chart against the rows."""

import csv
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from pyarrow import parquet

from blur_lightning.blur import Blur, BlurDistribution
from blur_lightning.errors import InputError
from blur_lightning.records.robustness import wilson_interval
from blur_lightning.report import diary_chart
from blur_lightning.report.diary_chart import diary_svg
from blur_lightning.tasks import diary
from blur_lightning.tasks.diary import BlurDiary, Level, most_problematic

MIX = BlurDistribution.parse("sharp+D2+D4+shake+G0..4")


def alone(table):
    return [table]


def drawn(index, epoch=0):
    return [MIX.draw(seed=0, index=i, epoch=epoch) for i in index]


def noted(blog, *, epoch=0, index=range(200), batch=7):
    """Note an epoch whose losses and hits are functions of the image alone."""
    index = np.asarray(index)
    for start in range(0, len(index), batch):
        part = torch.from_numpy(index[start : start + batch])
        loss = (part % 17).float().requires_grad_()
        blog.add(epoch, part, drawn(part.tolist(), epoch), loss, part % 3 == 0)
    return blog


def written(folder, epochs=1, **options):
    blog = BlurDiary(MIX)
    for epoch in range(epochs):
        levels = noted(blog, epoch=epoch, **options).end_epoch(folder, gather=alone)
    return levels


def rows(folder):
    with (folder / "diary.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_level_has_the_mean_loss_and_its_normal_interval(tmp_path):
    blog = BlurDiary(BlurDistribution.parse("D4"))
    loss = torch.tensor([1.0, 2.0, 3.0, 6.0])
    hit = torch.tensor([True, True, True, False])
    blog.add(3, torch.arange(4), [Blur("disk", 4.0)] * 4, loss, hit)
    (level,) = blog.end_epoch(tmp_path, gather=alone)
    assert level[:6] == (3, "disk", 4.0, 4.0, 4, 0.75)
    assert (level.low, level.high) == wilson_interval(3, 4)
    half = 1.959964 * math.sqrt((4 + 1 + 0 + 9) / 3) / 2
    assert (level.loss, level.loss_low) == pytest.approx((3, 3 - half), abs=1e-5)
    assert level.loss_high == pytest.approx(3 + half, abs=1e-5)
    assert str(level) == "disk 4 (loss 3.000, top-1 75.0 %, n = 4)"


def test_one_image_has_a_loss_without_an_interval(tmp_path):
    blog = BlurDiary(BlurDistribution.parse("sharp"))
    blog.add(0, torch.tensor([5]), [Blur("sharp")], torch.tensor([2.0]), torch.tensor([False]))
    (level,) = blog.end_epoch(tmp_path, gather=alone)
    assert (level.n, level.loss, level.loss_low, level.loss_high) == (1, 2.0, None, None)
    assert rows(tmp_path)[0]["loss_low"] == ""


def test_every_image_is_in_exactly_one_level(tmp_path):
    levels = written(tmp_path)
    names = [(level.family, level.level_low, level.level_high) for level in levels]
    bins = [("gaussian", k / 2, (k + 1) / 2) for k in range(8)]
    disks = [("disk", 2.0, 2.0), ("disk", 4.0, 4.0)]
    assert names == [("sharp", None, None), ("shake", None, None), *disks, *bins]
    blurs = drawn(range(200))
    for level in levels:
        chosen = [
            i
            for i, blur in enumerate(blurs)
            if blur.family == level.family
            and (level.level_low is None or level.level_low <= blur.parameter)
            and (level.level_high is None or blur.parameter <= level.level_high)
        ]
        assert level.n == len(chosen)
        assert level.loss == pytest.approx(np.mean([i % 17 for i in chosen]))
        assert level.top1 == pytest.approx(np.mean([i % 3 == 0 for i in chosen]))


@pytest.mark.parametrize(
    ("count", "sizes"),
    # Bins from 1 to 13 are 1.5 wide; radius 4 opens the third, and 13 is in the last.
    [(12, [8] * 12), (13, [16, 8, 16, 8, 16, 8, 16, 16])],
)
def test_up_to_twelve_parameters_are_told_apart(tmp_path, count, sizes):
    blog = BlurDiary(BlurDistribution.parse("+".join(f"D{k}" for k in range(1, count + 1))))
    blurs = [Blur("disk", float(1 + k % count)) for k in range(8 * count)]
    ones = torch.ones(8 * count)
    blog.add(0, torch.arange(8 * count), blurs, ones, ones > 0)
    found = blog.end_epoch(tmp_path, gather=alone)
    assert [level.n for level in found] == sizes
    assert (found[0].level_low, found[-1].level_high) == (1.0, float(count))


def test_the_table_has_one_row_an_image_and_one_row_group_an_epoch(tmp_path):
    written(tmp_path, epochs=2)
    file = parquet.ParquetFile(tmp_path / "diary.parquet")
    assert file.num_row_groups == 2
    kinds = ["int32", "int32", "string", "float", "float", "float", "float", "bool"]
    assert [str(field.type) for field in file.schema_arrow] == kinds
    for epoch in (0, 1):
        table = file.read_row_group(epoch).to_pydict()
        assert table["index"] == list(range(200))
        assert set(table["epoch"]) == {epoch}
        blurs = drawn(range(200), epoch)
        assert table["family"] == [blur.family for blur in blurs]
        np.testing.assert_array_equal(table["loss"], np.arange(200) % 17)
        np.testing.assert_array_equal(table["top1"], np.arange(200) % 3 == 0)
        np.testing.assert_allclose(table["parameter"], [b.parameter for b in blurs], rtol=1e-6)


def test_neither_batches_nor_moves_nor_processes_show_in_the_files(tmp_path, monkeypatch):
    written(tmp_path / "one")
    expected = {file.name: file.read_bytes() for file in (tmp_path / "one").iterdir()}
    monkeypatch.setattr(diary, "_BATCHES", 3)
    written(tmp_path / "two", batch=32)
    tables = []
    for process in (1, 2):
        blog = noted(BlurDiary(MIX), index=range(process % 2, 200, 2))
        gather = (lambda table: tables.append(table)) if process == 1 else lambda t: [*tables, t]
        levels = blog.end_epoch(tmp_path / "three", gather=gather)
        assert bool(levels) == (process == 2)
    for folder in ("two", "three"):
        files = {file.name: file.read_bytes() for file in (tmp_path / folder).iterdir()}
        assert files == expected


def test_batches_stay_on_the_device_until_there_are_many(monkeypatch):
    moves = []
    copy = torch.Tensor.cpu
    monkeypatch.setattr(torch.Tensor, "cpu", lambda t: (moves.append(len(t)), copy(t))[1])
    blog = noted(BlurDiary(MIX), index=range(63), batch=1)
    assert moves == []
    noted(blog, index=[63])
    assert moves == [64] * 3  # index, loss and hit


def test_a_training_that_goes_on_replaces_only_what_it_repeats(tmp_path):
    written(tmp_path, epochs=3)
    blog = noted(BlurDiary(MIX), epoch=1, index=range(40))
    blog.end_epoch(tmp_path, gather=alone)
    table = parquet.read_table(tmp_path / "diary.parquet").to_pydict()
    assert [table["epoch"].count(epoch) for epoch in (0, 1, 2)] == [200, 40, 0]
    counts = {}
    for row in rows(tmp_path):
        counts[row["epoch"]] = counts.get(row["epoch"], 0) + int(row["n"])
    assert counts == {"0": 200, "1": 40}


def test_an_epoch_without_images_writes_nothing(tmp_path):
    assert BlurDiary(MIX).end_epoch(tmp_path, gather=alone) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("diary.csv", b"some,other\n1,2\n"),
        ("diary.csv", b"\xff\xfe"),
        ("diary.csv", ",".join(Level._fields).encode() + b"\nfirst,disk\n"),
        ("diary.csv", ",".join(Level._fields).encode() + b"\n\n"),
        ("diary.parquet", b"no parquet"),
    ],
)
def test_a_damaged_diary_is_named_and_left_alone(tmp_path, name, content):
    written(tmp_path)
    (tmp_path / name).write_bytes(content)
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(InputError, match=f"^{re.escape(str(tmp_path / name))}: no diary"):
        noted(BlurDiary(MIX), epoch=1).end_epoch(tmp_path, gather=alone)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_a_parquet_file_of_something_else_is_no_diary(tmp_path):
    import pyarrow

    parquet.write_table(pyarrow.table({"epoch": [0]}), tmp_path / "diary.parquet")
    with pytest.raises(InputError, match=r"diary\.parquet: no diary"):
        written(tmp_path)


def level(epoch, family, n, loss):
    return Level(epoch, family, 4.0, 4.0, n, 0.5, 0.4, 0.6, loss, None, None)


def test_the_most_problematic_level_is_of_the_last_epoch_and_of_enough_images():
    levels = [level(0, "disk", 99, 9.0), level(1, "disk", 20, 2.0), level(1, "gaussian", 19, 3.0)]
    assert most_problematic(levels) == levels[1]
    assert most_problematic(levels, least=19) == levels[2]
    diverged = [*levels, level(1, "motion", 50, math.nan)]
    assert most_problematic(diverged) == diverged[3]
    assert most_problematic(levels, least=100) is None
    assert most_problematic([]) is None


def test_a_training_that_diverges_is_noted(tmp_path):
    blog = BlurDiary(BlurDistribution.parse("sharp"))
    loss = torch.tensor([1.0, math.inf])
    blog.add(0, torch.arange(2), [Blur("sharp")] * 2, loss, torch.tensor([True, False]))
    (level,) = blog.end_epoch(tmp_path, gather=alone)
    assert level.loss == math.inf
    diary_svg(tmp_path / "diary.csv")


def test_the_chart_names_its_axes_and_epochs_and_is_always_the_same(tmp_path):
    written(tmp_path, epochs=3)
    drawing = diary_svg(tmp_path / "diary.csv")
    words = re.findall(r">([^<>]+)</text>", drawing)
    for word in ("disk radius (px)", "Gaussian sigma (px)", "loss (nats)", "top-1 (%)"):
        assert words.count(word) == 1
    assert {"sharp", "shake", "epoch 3", "earlier", "2", "4"} <= set(words)
    assert drawing == diary_svg(tmp_path / "diary.csv")
    written(tmp_path / "short")
    assert "earlier" not in diary_svg(tmp_path / "short/diary.csv")


def test_the_chart_has_sharp_at_zero_and_bins_at_their_middle(tmp_path):
    written(tmp_path)
    panels = diary_chart._panels(diary_chart._read(tmp_path / "diary.csv"))
    assert [panel.names for panel in panels] == [(), (), ("sharp", "shake")]
    places = [[x for x, _ in panel.points] for panel in panels]
    assert places == [[0, 2, 4], [0, *np.arange(0.25, 4, 0.5)], [0, 1]]
    losses = [point.numbers["loss"] for _, point in panels[0].points]
    expected = {row["family"] + row["level_low"]: float(row["loss"]) for row in rows(tmp_path)}
    assert losses == [expected["sharp"], expected["disk2.0"], expected["disk4.0"]]


def test_the_last_epoch_is_strong_and_earlier_ones_are_pale(tmp_path, monkeypatch):
    drawn = []
    draw = diary_chart._draw
    monkeypatch.setattr(
        diary_chart,
        "_draw",
        lambda *args, strong: (drawn.append((args[2], strong)), draw(*args, strong=strong)),
    )
    written(tmp_path, epochs=2)
    diary_svg(tmp_path / "diary.csv")
    assert set(drawn) == {(0, False), (1, True)}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not found"),
        (b"", "no line below"),
        (b"epoch,family\n0,disk\n", "cannot be read"),
        (b"\xff\xfe", "cannot be read"),
    ],
)
def test_a_chart_of_no_diary_is_refused(tmp_path, content, message):
    path: Path = tmp_path / "diary.csv"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=f"^{re.escape(str(path))}: {message}"):
        diary_svg(path)

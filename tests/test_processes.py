"""Any number of processes gives the same numbers."""

import csv
import json

import numpy as np
import pytest
from forked import Command
from PIL import Image
from pyarrow import parquet
from small_runs import TASKS, TESTED, small_run


def run(verb, words, folder, *, processes=1):
    """Run a command in so many processes; its folder."""
    more = ["--trainer.default_root_dir", folder, "--trainer.devices", processes]
    more += ["--trainer.strategy", "ddp"] if processes > 1 else []
    command = Command([verb, *words, *more], folder.with_suffix(".log"), processes=processes)
    assert command.wait() == 0, folder.with_suffix(".log").read_text()
    return folder


def losses(folder):
    (path,) = (folder / "logs").glob("version_*/metrics.csv")
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
    assert [int(row["step"]) for row in rows] == [*range(len(rows))]
    return np.array([float(row["train/loss"]) for row in rows])


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_any_number_of_processes_measures_each_image_once_and_alike(task, tmp_path):
    words = [*small_run(task, tmp_path), "--trainer.logger", "false"]
    whole, *others = (run("test", words, tmp_path / f"{n}/run", processes=n) for n in (1, 2, 3))
    images = parquet.read_table(whole / "images.parquet")
    assert images["index"].to_pylist() == 2 * [*range(TESTED)]
    for other in others:
        table = parquet.read_table(other / "images.parquet")
        assert table["index"].to_pylist() == images["index"].to_pylist()
        assert (other / "robustness.csv").read_bytes() == (whole / "robustness.csv").read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("normalised", [False, True], ids=["plain", "batchnorm"])
@pytest.mark.parametrize("task", TASKS)
def test_two_processes_train_as_one_with_batches_twice_as_large(task, normalised, tmp_path):
    found = []
    for processes in (1, 2):
        words = small_run(task, tmp_path, normalised=normalised, batch=6 // processes)
        words += ["--test", "false", "--trainer.logger", "lightning.pytorch.loggers.CSVLogger"]
        words += ["--trainer.logger.save_dir", str(tmp_path / f"{processes}/run")]
        words += ["--trainer.logger.name", "logs"]
        words += ["--trainer.sync_batchnorm", str(normalised).lower()]
        found.append(losses(run("fit", words, tmp_path / f"{processes}/run", processes=processes)))
    alone, together = found
    assert len(alone) == 35
    np.testing.assert_allclose(together[:20], alone[:20], rtol=2e-5)


@pytest.mark.slow
def test_a_part_of_a_batch_with_nothing_to_learn_from_counts_nothing(tmp_path):
    found = []
    for processes in (1, 2):
        folder = tmp_path / str(processes)
        words = small_run("Segmentation", folder, batch=2 // processes)
        masks = sorted((folder / "voc/SegmentationClass").glob("train_*.png"))
        for mask in masks[::9]:  # all void
            image = Image.open(mask)
            image.paste(255, (0, 0, *image.size))
            image.save(mask)
        words += ["--trainer.max_epochs", "1", "--test", "false"]
        words += ["--trainer.logger", "lightning.pytorch.loggers.CSVLogger"]
        words += ["--trainer.logger.save_dir", str(folder / "run"), "--trainer.logger.name", "logs"]
        found.append(losses(run("fit", words, folder / "run", processes=processes)))
    np.testing.assert_allclose(found[1], found[0], rtol=2e-5)


@pytest.mark.slow
def test_what_any_process_cannot_read_is_listed(tmp_path):
    rng = np.random.default_rng(0)
    for number in range(9):
        path = tmp_path / f"photos/{number}_{number}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
        if number in (3, 4):  # one for each process
            path.write_bytes(path.read_bytes()[:90])
    words = small_run("Classification", tmp_path)
    words = [*words[: words.index("--data")], "--model.net.pooled", "true", "--trainer.logger"]
    words += ["false", "--data", "blur_lightning.data.PhotosDataModule", "--data.num_classes"]
    words += ["10", "--data.root", str(tmp_path / "photos"), "--data.batch_size", "2"]
    words += ["--data.skip_unreadable", "true", "--data.num_workers", "0"]
    for name in ("canonical", "scale", "crop"):
        words += [f"--data.capture.{name}", "32"]
    folder = run("test", words, tmp_path / "2/run", processes=2)
    data = json.loads((folder / "provenance.json").read_text())["data"]
    listed = [text.partition(":")[0].rpartition("/")[2] for text in data["unreadable"]]
    assert listed == ["3_3.png", "4_4.png"]
    assert "left out: 2 images" in (tmp_path / "2/run.log").read_text()
    assert parquet.read_table(folder / "images.parquet").num_rows == 2 * 7

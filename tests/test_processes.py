"""Any number of processes gives the same numbers."""

import csv

import numpy as np
import pytest
from forked import Command
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

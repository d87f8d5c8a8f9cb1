"""What a test measures is on disk at once: it is not lost, and not measured twice."""

from pathlib import Path

import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from nets import MeanColour
from pyarrow import parquet

from blur_lightning.data import ScenesDataModule
from blur_lightning.records.measurements import Measurements, write_parquet
from blur_lightning.records.robustness import read_records
from blur_lightning.tasks import ClassificationTask
from blur_lightning.trainer import Trainer

# Said by lightning 2.6 of torch 2.15.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec")


def rows(indices, condition="sharp"):
    indices = np.array(indices)
    return {
        "index": indices,
        "condition": np.array([condition] * len(indices), dtype=object),
        "top1": indices % 2 == 0,
        "entropy": (indices / 8).astype(np.float32),
        "top5_classes": np.stack([indices + k for k in range(5)], axis=1).astype(np.int32),
    }


def both(indices):
    parts = rows(indices), rows(indices, "D4")
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def measurements(folder, key="key"):
    result = Measurements(folder, key)
    result.prepare()
    return result


def test_rows_come_back_by_image_with_their_types(tmp_path):
    written = measurements(tmp_path)
    written.append(both([5, 1]))
    written.append(both([3]))
    Measurements(tmp_path, "key").append(both([0, 2]))  # another process
    for condition in ("sharp", "D4"):
        found = written.rows(condition)
        for name, expected in rows([0, 1, 2, 3, 5], condition).items():
            assert found[name].dtype == expected.dtype
            np.testing.assert_array_equal(found[name], expected)
    assert written.rows("D8") == {}
    assert written.indices() == {0, 1, 2, 3, 5}


def test_a_batch_is_there_as_a_whole_or_not_at_all(tmp_path, monkeypatch):
    written = measurements(tmp_path)
    written.append(both([0, 1]))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        written.append(both([2, 3]))
    again = measurements(tmp_path)
    assert again.indices() == {0, 1}
    again.append(both([2, 3]))
    assert again.rows("sharp")["index"].tolist() == [0, 1, 2, 3]


def test_rows_of_another_key_are_forgotten(tmp_path):
    written = measurements(tmp_path)
    written.append(both([1]))
    assert measurements(tmp_path).indices() == {1}
    assert measurements(tmp_path, "another").indices() == set()
    written.remove()
    assert list(tmp_path.iterdir()) == []


def test_tables_become_row_groups_of_one_file(tmp_path):
    write_parquet(tmp_path / "t.parquet", [rows([1, 2]), rows([3], "D4")], schema=1)
    file = parquet.ParquetFile(tmp_path / "t.parquet")
    assert file.num_row_groups == 2
    assert file.read()["top5_classes"].to_pylist()[2] == [3, 4, 5, 6, 7]
    with pytest.raises(ValueError, match="no table"):
        write_parquet(tmp_path / "t.parquet", [], schema=1)


class Counting(MeanColour):
    """Counts the images that it sees."""

    seen = 0

    def forward(self, image):
        Counting.seen += len(image)
        return super().forward(image)


class Interrupting(Callback):
    def on_test_batch_end(self, trainer, module, outputs, batch, batch_idx, dataloader_idx=0):
        if batch_idx == 2:
            raise KeyboardInterrupt


def run(folder, *callbacks, seed=0, verb="test", **options):
    torch.manual_seed(seed)
    task = ClassificationTask(Counting(10), conditions=["sharp", "D2..4"])
    data = ScenesDataModule(test_count=40, batch_size=8)
    trainer = Trainer(
        default_root_dir=str(folder),
        callbacks=list(callbacks),
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        accelerator="cpu",
        **options,
    )
    Counting.seen = 0
    getattr(trainer, verb)(task, datamodule=data)
    return Counting.seen


def test_an_interrupted_test_goes_on_where_it_stopped(tmp_path, capsys):
    assert run(tmp_path / "whole") == 2 * 40
    # Lightning passes an interrupt on as an exit.
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path / "parts", Interrupting())
    assert not (tmp_path / "parts" / "robustness.csv").exists()
    assert run(tmp_path / "parts") == 2 * (40 - 24)
    assert "going on: 24 images were measured before" in capsys.readouterr().out
    whole, parts = (read_records(tmp_path / name) for name in ("whole", "parts"))
    assert [r._replace(run="") for r in whole] == [r._replace(run="") for r in parts]
    tables = [parquet.read_table(tmp_path / name / "images.parquet") for name in ("whole", "parts")]
    assert tables[0].equals(tables[1])
    names = {"robustness.csv", "images.parquet", "provenance.json", "examples"}
    assert {path.name for path in (tmp_path / "parts").iterdir()} == names
    pictures = [(tmp_path / n / "examples" / "D2..4.jpg").read_bytes() for n in ("whole", "parts")]
    assert pictures[0] == pictures[1]


def test_a_test_of_other_weights_begins_anew(tmp_path):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path, Interrupting())
    assert run(tmp_path, seed=1) == 2 * 40


def test_a_limited_test_measures_as_many_batches_again(tmp_path):
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run(tmp_path, Interrupting(), limit_test_batches=4)
    assert run(tmp_path, limit_test_batches=4) == 2 * 32
    assert {record.n for record in read_records(tmp_path)} == {32}

"""Files of idx written by hand against what is read from them, and the real ones if at hand."""

import gzip
import struct
from pathlib import Path

import numpy as np
import pytest
import torch

from blur_lightning.cli import main
from blur_lightning.data import FashionMNISTDataModule, fashion
from blur_lightning.data.windows import Source
from blur_lightning.errors import InputError
from blur_lightning.models.small_resnet import small_resnet
from blur_lightning.records.robustness import read_records

ROOT = Path(__file__).parents[1]
REAL = ROOT / "data/fashion-mnist"
real = pytest.mark.skipif(not REAL.is_dir(), reason="needs `make data/fashion-mnist`")


def idx(array):
    sizes = struct.pack(f">{array.ndim}i", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.tobytes()


def arrays(count, seed):
    generator = np.random.default_rng(seed)
    images = generator.integers(256, size=(count, 28, 28), dtype=np.uint8)
    return images, (np.arange(count) * 7 % 10).astype(np.uint8)


def write(folder, *, suffix="", train=40, test=20):
    """Write the four files; return their arrays by the start of their names."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {"train": arrays(train, 0), "t10k": arrays(test, 1)}
    for part, (images, labels) in written.items():
        for name, array in [("images-idx3-ubyte", images), ("labels-idx1-ubyte", labels)]:
            content = gzip.compress(idx(array)) if suffix else idx(array)
            (folder / f"{part}-{name}{suffix}").write_bytes(content)
    return written


def sources(root, **options):
    data = FashionMNISTDataModule(str(root), val_count=5, **options)
    return {split: data.source(split) for split in ("train", "val", "test", "predict")}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_the_training_file_is_divided_and_the_test_file_is_whole(tmp_path, suffix):
    written = write(tmp_path, suffix=suffix)
    found = sources(tmp_path)
    images, labels = written["train"]
    expected = {
        "train": (images[:35], labels[:35]),
        "val": (images[35:], labels[35:]),
        "test": written["t10k"],
        "predict": written["t10k"],
    }
    for split, (images, labels) in expected.items():
        source = found[split]
        assert isinstance(source, Source)
        assert list(source.labels) == labels.tolist()
        assert len(source.names) == len(set(source.names)) == len(images)
        for index in (0, len(images) - 1):
            loaded = source.load(index)
            assert loaded.dtype == np.uint8
            assert source.shape(index) == loaded.shape[:2] == (28, 28)
            for channel in range(3):
                np.testing.assert_array_equal(loaded[:, :, channel], images[index])
    assert not set(found["train"].names) & set(found["val"].names)
    assert found["val"].names[0] == "train/35"


def test_rows_come_before_columns(tmp_path):
    written = write(tmp_path)
    written["t10k"][0][0, 2, 27] = 201
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(written["t10k"][0]))
    content = (tmp_path / "t10k-images-idx3-ubyte").read_bytes()
    assert content[16 + 2 * 28 + 27] == 201
    assert sources(tmp_path)["test"].load(0)[2, 27].tolist() == [201] * 3


def test_torchvisions_folders_are_known(tmp_path):
    write(tmp_path / "FashionMNIST/raw")
    assert len(sources(tmp_path)["test"].names) == 20


def test_torchvision_reads_the_same(tmp_path):
    datasets = pytest.importorskip("torchvision.datasets")
    write(tmp_path / "FashionMNIST/raw")
    theirs = datasets.FashionMNIST(str(tmp_path), train=False)
    ours = sources(tmp_path)["test"]
    assert theirs.targets.tolist() == list(ours.labels)
    np.testing.assert_array_equal(theirs.data[3].numpy(), ours.load(3)[:, :, 0])


def test_debians_folder_serves_only_where_there_is_no_other(tmp_path, monkeypatch):
    write(tmp_path / "debian", test=11)
    monkeypatch.setattr(fashion, "_DEBIAN", tmp_path / "debian")
    assert len(sources(tmp_path / "own")["test"].names) == 11
    write(tmp_path / "own")
    assert len(sources(tmp_path / "own")["test"].names) == 20


def test_a_missing_folder_tells_where_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr(fashion, "_DEBIAN", tmp_path / "debian")
    with pytest.raises(
        InputError, match=r"^data\.root: there is no folder .*own; `make data/"
    ) as e:
        sources(tmp_path / "own")
    assert f"FashionMNIST('{tmp_path / 'own'}', download=True)" in str(e.value)


def test_a_missing_file_is_named(tmp_path):
    write(tmp_path, suffix=".gz")
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(InputError, match=r"has no t10k-labels-idx1-ubyte and no t10k-labels-idx1"):
        sources(tmp_path)


IMAGES, LABELS = arrays(20, 1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("images-idx3-ubyte", idx(IMAGES)[:-1], "15695 bytes, but its header tells of 15696"),
        ("images-idx3-ubyte", idx(IMAGES) + b"\0", "15697 bytes, but its header tells of 15696"),
        ("images-idx3-ubyte", b"", "no idx file of 28x28 images"),
        ("images-idx3-ubyte", idx(IMAGES)[:10], "no idx file of 28x28 images"),
        ("images-idx3-ubyte", idx(LABELS), "no idx file of 28x28 images"),
        ("images-idx3-ubyte", idx(IMAGES[:, :27]), "no idx file of 28x28 images"),
        ("images-idx3-ubyte", idx(IMAGES[:0]), "no idx file of 28x28 images"),
        ("images-idx3-ubyte", b"\0\0\x0d" + idx(IMAGES)[3:], "no idx file of 28x28 images"),
        ("images-idx3-ubyte", gzip.compress(idx(IMAGES)), "no idx file of 28x28 images"),
        ("images-idx3-ubyte", idx(IMAGES[:-1]), "20 labels, but .* has 19 images"),
        ("labels-idx1-ubyte", idx(IMAGES), "no idx file of labels"),
        ("labels-idx1-ubyte", idx(LABELS + np.uint8(1)), "label 10, but 0 to 9"),
        ("images-idx3-ubyte.gz", gzip.compress(idx(IMAGES))[:-9], "cannot be read"),
        ("images-idx3-ubyte.gz", idx(IMAGES), "cannot be read .*gzip"),
    ],
)
def test_a_truncated_or_foreign_file_is_one_line(tmp_path, name, content, message):
    write(tmp_path)
    (tmp_path / f"t10k-{name}").write_bytes(content)
    if name.endswith(".gz"):
        (tmp_path / f"t10k-{name}").with_suffix("").unlink()
    with pytest.raises(InputError, match=message) as error:
        sources(tmp_path)
    assert "\n" not in str(error.value)
    assert str(tmp_path / f"t10k-{'labels' if 'label' in message else name.split('-')[0]}") in str(
        error.value
    )


@pytest.mark.parametrize("count", [0, 40, 5000])
def test_a_division_that_leaves_nothing_is_refused(tmp_path, count):
    write(tmp_path)
    data = FashionMNISTDataModule(str(tmp_path), val_count=count)
    with pytest.raises(InputError, match=rf"data\.val_count: {count} is not 1 to 39"):
        data.source("train")


def test_a_network_is_trained_and_tested_on_it(tmp_path):
    """The whole way, with the widest kernel, from the command line."""
    write(tmp_path / "data")
    words = ["fit", "--config", str(ROOT / "experiments/base.yaml")]
    words += ["--config", str(ROOT / "experiments/fashion_base.yaml")]
    words += ["--data.root", str(tmp_path / "data"), "--data.val_count", "5"]
    words += ["--data.batch_size", "16", "--data.blur", "shake"]
    words += ["--model.conditions", "[sharp, D4, shake]"]
    words += ["--trainer.default_root_dir", str(tmp_path / "run"), "--trainer.max_epochs", "1"]
    words += ["--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"]
    words += ["--trainer.log_every_n_steps", "1"]
    assert main(words) == 0
    records = read_records(tmp_path / "run")
    expected = ("small_resnet", "shake", "fashion-mnist", 20)
    assert {(r.model, r.trained_on, r.dataset, r.n) for r in records} == {expected}
    assert {r.condition for r in records} == {"sharp", "D4", "shake"}


@real
def test_the_real_images_have_the_statistics_that_the_network_is_given():
    data = FashionMNISTDataModule(str(REAL))
    found = {split: data.source(split) for split in ("train", "val", "test")}
    assert {split: len(s.names) for split, s in found.items()} == {
        "train": 55_000,
        "val": 5_000,
        "test": 10_000,
    }
    assert np.bincount(found["test"].labels).tolist() == [1000] * 10
    training = found["train"].labels + found["val"].labels
    assert np.bincount(training).tolist() == [6000] * 10
    assert training[:10] == [9, 0, 0, 3, 0, 2, 7, 2, 5, 5]  # as in its authors' own listing
    pixels = np.concatenate([found["train"].images, found["val"].images]) / np.float32(255)
    settings = small_resnet().pretrained_cfg
    assert pixels.mean(dtype=np.float64) == pytest.approx(settings["mean"][0], abs=5e-5)
    assert pixels.std(dtype=np.float64) == pytest.approx(settings["std"][0], abs=5e-5)


@real
def test_a_sharp_image_reaches_the_network_pixel_by_pixel():
    data = FashionMNISTDataModule(str(REAL))
    source = data.source("test")
    window = torch.from_numpy(source.load(0).transpose(2, 0, 1).copy())[None]
    blur = [data.blur.draw(seed=0, index=0)]
    expected = window.float() / 255
    torch.testing.assert_close(data.capture(window, blur), expected, rtol=0, atol=1e-6)

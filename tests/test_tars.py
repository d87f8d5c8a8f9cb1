"""WebDataset's tars, read in place and converted into shards."""

import io
import tarfile

import numpy as np
import pytest
from PIL import Image
from test_shards import assert_alike

from blur_lightning.cli import main
from blur_lightning.data import ImageNetDataModule
from blur_lightning.errors import InputError


def jpeg(number, size=(56, 40)):
    noise = np.random.default_rng(number).integers(0, 256, size=(*size[::-1], 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    return file.getvalue()


def write_tar(path, members, mode="w"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as tar:
        for name, content in members:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return path


def samples(numbers, label=None):
    for number in numbers:
        key = f"n01440764_{number:03}"
        yield f"{key}.jpg", jpeg(number, (56, 40 + number))
        yield f"{key}.json", b"{}"
        yield f"{key}.cls", str(number % 3 if label is None else label).encode()


@pytest.fixture
def flat(tmp_path):
    """As they are published: parts by name, in one folder."""
    root = tmp_path / "wds"
    write_tar(root / "imagenet1k-train-0000.tar", samples(range(7)))
    write_tar(root / "imagenet1k-train-0001.tar", samples(range(7, 12)))
    write_tar(root / "imagenet1k-validation-00.tar", samples(range(20, 24)))
    return root


def test_images_are_read_from_tars_where_they_lie(flat):
    train = ImageNetDataModule(str(flat)).source("train")
    assert train.labels == [number % 3 for number in range(12)]
    assert train.names[7] == "imagenet1k-train-0001/n01440764_007.jpg"
    for index in (0, 6, 7, 11):
        content = jpeg(index, (56, 40 + index))
        assert train.size(index) == len(content)
        assert train.shape(index) == (40 + index, 56)
        with Image.open(io.BytesIO(content)) as image:
            np.testing.assert_array_equal(train.load(index), np.asarray(image))
    for split in ("val", "test"):
        assert ImageNetDataModule(str(flat)).source(split).labels == [2, 0, 1, 2]


def test_parts_may_be_folders_and_keys_have_folders(tmp_path):
    renamed = [(f"a.b/{name}", content) for name, content in samples(range(2))]
    write_tar(tmp_path / "train/0.tar", renamed)
    write_tar(tmp_path / "val/0.tar", samples(range(2)))
    names = ImageNetDataModule(str(tmp_path)).source("train").names
    assert names == ["0/a.b/n01440764_000.jpg", "0/a.b/n01440764_001.jpg"]
    assert len(ImageNetDataModule(str(tmp_path)).source("val").names) == 2


def test_only_whole_words_tell_the_part(tmp_path):
    write_tar(tmp_path / "carnival-train-0.tar", samples(range(3)))
    write_tar(tmp_path / "carnival-val-0.tar", samples(range(2)))
    write_tar(tmp_path / "retrieval.tar", samples(range(1)))
    data = ImageNetDataModule(str(tmp_path))
    assert [len(data.source(part).names) for part in ("train", "val")] == [3, 2]


def test_a_tar_that_was_left_beside_what_was_in_it_counts_for_nothing(tmp_path):
    file = tmp_path / "val/n01440764/a.JPEG"
    file.parent.mkdir(parents=True)
    file.write_bytes(jpeg(0))
    write_tar(tmp_path / "val/ILSVRC2012_img_val.tar", [("ILSVRC2012_val_00000001.JPEG", b"")])
    assert ImageNetDataModule(str(tmp_path)).source("val").labels == [0]


@pytest.mark.parametrize(("classes", "count"), [("imagenet", 1000), ("folders", 3)])
def test_the_number_of_classes_is_known_in_tests_too(flat, classes, count):
    data = ImageNetDataModule(str(flat), classes=classes)
    data.source("test")
    assert data.num_classes == count


def test_the_command_shard_converts_tars(flat, tmp_path):
    data = ["--data", "ImageNetDataModule", "--data.classes", "folders"]
    words = ["--data.root", str(flat), "--out", str(tmp_path / "out"), "--workers", "2"]
    assert main(["shard", *data, *words]) == 0
    stored = ImageNetDataModule(str(tmp_path / "out"), classes="folders")
    for split in ("train", "val"):
        assert_alike(
            ImageNetDataModule(str(flat), classes="folders").source(split), stored.source(split)
        )
    assert stored.num_classes == 3


def test_a_run_on_tars_writes_records(flat, tmp_path):
    words = ["test", "--model", "ClassificationTask"]
    words += ["--model.net", "nets.Contrast", "--model.net.num_classes", "3"]
    words += ["--model.conditions", "[sharp]", "--data", "ImageNetDataModule"]
    words += ["--data.root", str(flat), "--data.classes", "folders", "--data.num_workers", "2"]
    words += ["--trainer.accelerator", "cpu", "--trainer.default_root_dir", str(tmp_path / "run")]
    assert main([*words, "--trainer.logger", "false"]) == 0
    assert (tmp_path / "run/robustness.csv").exists()


def cut(path, length):
    path.write_bytes(path.read_bytes()[:length])


def harmed(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


HARMS = [
    (lambda tar: cut(tar, 512 + 900), "cannot be read as a tar"),  # in an image
    (lambda tar: cut(tar, tar.read_bytes().index(b"n01440764_002")), "cannot be read as a tar"),
    (
        lambda tar: cut(tar, tar.read_bytes().index(b"n01440764_002") + 99),
        "cannot be read as a tar",
    ),
    (lambda tar: harmed(tar, tar.read_bytes().index(b"n01440764_002")), "damaged at byte"),
    (lambda tar: tar.write_bytes(2 * tar.read_bytes()), "damaged at byte"),  # two in one
    (lambda tar: tar.write_bytes(b"tar?" * 300), "cannot be read as a tar"),
    (lambda tar: write_tar(tar, samples(range(2)), "w:gz"), "cannot be read as a tar"),
    (lambda tar: write_tar(tar, [("a.jpg", jpeg(0))]), "a.jpg has no a.cls with its class"),
    (
        lambda tar: write_tar(tar, [("a.jpg", jpeg(0)), ("a.cls", b"cat")]),
        "a.cls is not the index of a class",
    ),
    (
        lambda tar: write_tar(tar, [("a.jpg", jpeg(0)), ("a.png", jpeg(0)), ("a.cls", b"1")]),
        "a has two images",
    ),
    (lambda tar: write_tar(tar, samples([1], label=1000)), "its tars have a class 1000"),
    (lambda tar: write_tar(tar, [("a.txt", b"")]), "its 1 tars hold no images"),
]


@pytest.mark.parametrize(("harm", "message"), HARMS, ids=[message for _, message in HARMS])
def test_what_is_wrong_with_a_tar_is_told(tmp_path, harm, message):
    tar = write_tar(tmp_path / "train/0.tar", samples(range(4)))
    harm(tar)
    with pytest.raises(InputError, match=message) as told:
        ImageNetDataModule(str(tmp_path)).source("train")
    assert str(told.value).startswith(str(tmp_path))


def test_links_and_devices_in_a_tar_are_no_images(tmp_path):
    path = write_tar(tmp_path / "train/0.tar", samples(range(2)))
    with tarfile.open(path, "a") as tar:
        for number, kind in enumerate((tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE)):
            member = tarfile.TarInfo(f"x{number}.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)
    assert len(ImageNetDataModule(str(tmp_path)).source("train").names) == 2

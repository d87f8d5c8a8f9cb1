import hashlib

import pytest
from small_pairs import write_folders, write_gopro
from small_voc import TRAIN, VAL, write_list, write_sbd, write_voc

from blur_lightning import pair_layouts, voc_layout
from blur_lightning.downloads import DATA


@pytest.fixture
def counts(monkeypatch):
    """VOC2012 as small as the tests' own."""
    counts = {"train": len(TRAIN), "val": len(VAL), "trainaug": len(TRAIN) + 1}
    monkeypatch.setattr(voc_layout, "COUNTS", counts)


def need(root, *, trains=True, **settings):
    settings = {f"data.{key}": value for key, value in settings.items()}
    return DATA["VOCDataModule"]({"data.root": str(root), **settings}, trains)


def test_the_true_counts_are_those_of_voc2012():
    assert voc_layout.COUNTS["train"] + voc_layout.COUNTS["val"] == 2913
    assert (voc_layout.COUNTS["trainaug"], voc_layout.COUNTS["train_noval"]) == (10582, 5623)


def test_a_whole_voc_is_ok(tmp_path, counts):
    write_voc(tmp_path / "VOCdevkit/VOC2012")
    found = need(tmp_path)
    assert found.mark == "ok"
    assert found.what.endswith("VOCdevkit/VOC2012: val 2, train 3")
    assert need(tmp_path, trains=False).what.endswith("VOC2012: val 2")


def test_a_list_of_another_length_is_missing_unless_the_classes_are_others(tmp_path, counts):
    write_voc(tmp_path)
    write_list(tmp_path / "ImageSets/Segmentation/train.txt", TRAIN[:2])
    found = need(tmp_path)
    assert (found.mark, found.what) == ("missing", f"data: train of {tmp_path} has 2 images, not 3")
    (tmp_path / "classes.txt").write_text("a\nb\n")
    assert need(tmp_path).mark == "ok"


@pytest.mark.parametrize(
    ("gone", "message"),
    [
        (f"JPEGImages/{TRAIN[0]}.jpg", f"lacks 1 of 3 images, such as {TRAIN[0]}"),
        (f"SegmentationClass/{TRAIN[0]}.png", "lacks 1 of 3 masks, such as"),
        ("ImageSets/Segmentation/val.txt", "val.txt: cannot be read"),
    ],
)
def test_what_is_not_there_is_told_with_its_remedy(tmp_path, counts, gone, message):
    write_voc(tmp_path)
    (tmp_path / gone).unlink()
    found = need(tmp_path)
    assert found.mark == "missing"
    assert message in found.what
    assert "fetch" in found.remedy


def test_masks_may_come_from_sbd_or_a_named_folder(tmp_path, counts):
    write_voc(tmp_path, masks="mine")
    assert need(tmp_path).mark == "missing"
    assert need(tmp_path, **{"masks.0": "mine"}).mark == "ok"
    write_voc(tmp_path / "voc")
    sbd = write_sbd(tmp_path / "sbd", [TRAIN[0], VAL[0]], ["a"])
    (tmp_path / f"voc/JPEGImages/{TRAIN[0]}.jpg").rename(tmp_path / "voc/JPEGImages/a.jpg")
    write_voc(tmp_path / "voc")
    found = need(tmp_path / "voc", train_split="trainaug", sbd_root=str(sbd))
    assert found.what.endswith("val 2, trainaug 4")


def test_damaged_downloads_are_found_by_their_md5(tmp_path, counts, monkeypatch):
    write_voc(tmp_path / "VOC2012")
    archive = tmp_path / "benchmark.tgz"
    archive.write_bytes(b"short")
    found = need(tmp_path)
    assert (found.mark, found.remedy) == ("missing", "fetch it again")
    assert found.what == f"data: {archive} is damaged: its MD5 differs"
    md5 = {"benchmark.tgz": hashlib.md5(b"short").hexdigest()}
    monkeypatch.setattr(voc_layout, "MD5", md5)
    assert need(tmp_path).mark == "ok"


def test_a_damaged_archive_comes_before_what_it_leaves_unpacked(tmp_path, counts, monkeypatch):
    archive = tmp_path / "VOCtrainval_11-May-2012.tar"
    archive.write_bytes(b"short")
    assert f"{archive} is damaged" in need(tmp_path).what
    write_voc(tmp_path / "VOCdevkit/VOC2012", splits=[("train", TRAIN), ("val", VAL[:1])])
    assert f"{archive} is damaged" in need(tmp_path).what
    monkeypatch.setattr(voc_layout, "MD5", {})
    assert need(tmp_path).what.endswith("has 1 images, not 2")


def test_an_archive_that_is_not_unpacked_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(voc_layout, "MD5", {})
    (tmp_path / "VOCtrainval_11-May-2012.tar").write_bytes(b"")
    assert need(tmp_path).remedy == f"unpack {tmp_path}/VOCtrainval_11-May-2012.tar there"


def test_no_folder_at_all_says_where_to_point_or_what_makes_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = need(tmp_path / "none")
    assert found.mark == "missing"
    assert found.remedy.startswith("point --data.root at")
    assert need("data/stamps").remedy == "make stamps"


def pairs(root, *, trains=True, **settings):
    settings = {f"data.{key}": value for key, value in settings.items()}
    return DATA["PairsDataModule"]({"data.root": str(root), **settings}, trains)


def test_pairs_are_counted_and_gopros_are_known(tmp_path, monkeypatch):
    write_gopro(tmp_path)
    found = pairs(tmp_path, layout="gopro")
    assert (found.mark, found.what) == (
        "missing",
        f"data: train of {tmp_path} has 6 pairs, not 2,103",
    )
    monkeypatch.setattr(pair_layouts, "GOPRO_COUNTS", {"train": 6, "test": 2})
    found = pairs(tmp_path, layout="gopro")
    assert (found.mark, found.what) == ("ok", f"data: gopro in {tmp_path}: train 6, test 2")
    write_folders(tmp_path / "mine/test")
    found = pairs(tmp_path / "mine", trains=False)
    assert found.what.endswith("mine: test 3")
    assert "gopro, wild, reds" in pairs(tmp_path, layout="x").remedy
    missing = pairs(tmp_path / "mine")
    assert missing.mark == "missing"
    assert "mine/train: there is no such folder" in missing.what


def test_shards_in_place_of_files_are_told(tmp_path):
    (tmp_path / "shards.json").write_text('{"parts": {"train": 1200, "val": 5}}')
    for module in ("ImageNetDataModule", "VOCDataModule", "PairsDataModule"):
        found = DATA[module]({"data.root": str(tmp_path)}, True)
        assert found == ("ok", f"data: shards in {tmp_path}: train 1,200, val 5", "")
    assert need("s3://bucket/voc").mark == "note"
    (tmp_path / "shards.json").write_text("[]")
    assert need(tmp_path).remedy == "write them again"

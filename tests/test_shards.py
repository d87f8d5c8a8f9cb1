import http.server
import json
import os
import pickle
import shutil
import subprocess
import threading
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from small_pairs import write_gopro
from small_voc import write_voc

from blur_lightning.cli import main
from blur_lightning.data import ImageNetDataModule, PairsDataModule, VOCDataModule
from blur_lightning.data.sharding import write_shards
from blur_lightning.data.windows import WindowDataset, fingerprint
from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError

WNIDS = ("n01440764", "n01770393", "n02123159")
ROOT = Path(__file__).parents[1]


def write_image(path, number, shape=(40, 56)):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(number).integers(0, 256, size=(*shape, 3), dtype=np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Class folders: 30 images to train on and 6 to test on."""
    root = tmp_path_factory.mktemp("imagenet")
    for split, each in (("train", 10), ("val", 2)):
        for label, wnid in enumerate(WNIDS):
            for number in range(each):
                write_image(root / split / wnid / f"{number}.JPEG", 100 * label + number)
    return root


def shard(data, out, **options):
    write_shards(data=data, out=out, workers=1, **options)
    return str(out)


@pytest.fixture(scope="module")
def shards(folder, tmp_path_factory):
    """The same in shards of about a third of an image file's size, so that there are many."""
    import blur_lightning.data.sharding as sharding

    out = tmp_path_factory.mktemp("shards")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "MEGABYTE", 10_000)
        return Path(shard(ImageNetDataModule(str(folder)), out, megabytes=1))


@pytest.fixture(scope="module")
def server(shards):
    """The shards behind a URL; the server answers ranges, and keeps what it was asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def do_GET(self):
            file, wanted = shards / self.path[1:], self.headers.get("Range")
            asked.append((self.path, wanted))
            content = file.read_bytes() if file.is_file() else b""
            if wanted:
                first, last = wanted.removeprefix("bytes=").split("-")
                content = content[int(first) : int(last) + 1]
            self.send_response(404 if not file.is_file() else 206 if wanted else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        thread = threading.Thread(target=running.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", asked
        running.shutdown()
        thread.join()


def assert_alike(source, other):
    assert other.names == source.names
    assert other.labels == source.labels
    assert fingerprint(other) == fingerprint(source)
    for index in range(len(source.names)):
        assert other.shape(index) == source.shape(index)
        np.testing.assert_array_equal(other.load(index), source.load(index))


@pytest.mark.parametrize("split", ["train", "val", "test", "predict"])
def test_shards_hold_what_the_folder_holds(folder, shards, split):
    assert len(list((shards / "train").glob("*.bin"))) > 5
    data = ImageNetDataModule(str(shards))
    assert_alike(ImageNetDataModule(str(folder)).source(split), data.source(split))
    assert (data.name, data.num_classes) == ("imagenet", 1000)


def test_litdata_itself_reads_the_shards(folder, shards):
    import litdata

    source = ImageNetDataModule(str(folder)).source("train")
    dataset = litdata.StreamingDataset(str(shards / "train"))
    assert len(dataset) == len(source.names)
    for index in (0, 7, 29):
        label, name, content = dataset[index]
        assert (label, name) == (source.labels[index], source.names[index])
        assert content == source.files[index].read_bytes()


def test_the_sums_are_those_of_sha256sum(shards):
    check = ["sha256sum", "--check", "--quiet", "SHA256SUMS"]
    assert subprocess.run(check, cwd=shards / "train").returncode == 0


def test_masks_and_classes_of_voc_come_along(tmp_path):
    root = write_voc(tmp_path / "stamps")
    (root / "classes.txt").write_text("".join(f"{n}\n" for n in range(21)))
    (root / "SegmentationClass/2007_000042.png").unlink()
    files = VOCDataModule(str(root))
    stored = VOCDataModule(shard(VOCDataModule(str(root)), tmp_path / "out"))
    for split in ("train", "val"):
        one, other = files.source(split), stored.source(split)
        assert_alike(one, other)
    np.testing.assert_array_equal(other.mask(0), one.mask(0))
    with pytest.raises(UnreadableImageError, match=r"2007_000042\.png in .*missing"):
        other.mask(1)
    for name in ("name", "num_classes", "class_names", "class_list"):
        assert getattr(stored, name) == getattr(files, name), name
    with pytest.raises(InputError, match=r"data\.train_split: trainval, but the shards"):
        VOCDataModule(str(tmp_path / "out"), train_split="trainval").source("train")


def test_sharp_partners_come_along(tmp_path):
    for split in ("train", "test"):
        for number in range(20):
            for kind in ("blur", "sharp"):
                write_image(tmp_path / "pairs" / split / kind / f"s{number}.png", len(kind))
    root, out = str(tmp_path / "pairs"), tmp_path / "out"
    shard(PairsDataModule(root), out)
    for split in ("train", "val", "test", "predict"):
        one, other = (PairsDataModule(r).source(split) for r in (root, str(out)))
        assert_alike(one, other)
        np.testing.assert_array_equal(other.sharp(1), one.sharp(1))
    options = {"synthetic_blur": "D4"}
    one, other = (PairsDataModule(r, **options).source("train") for r in (root, str(out)))
    assert_alike(one, other)


def test_a_test_of_pairs_in_shards_has_the_records_of_the_files(tmp_path):
    """By the command: Lightning's own name of the stage is an enum, in a text another word."""
    root = write_gopro(tmp_path / "pairs")
    out = shard(PairsDataModule(str(root), layout="gopro"), tmp_path / "out")
    for name, place in (("files", str(root)), ("shards", out)):
        words = ["test", "--model", "DeblurringTask", "--model.net", "nets.Gain"]
        words += ["--model.conditions", "[sharp]", "--data", "PairsDataModule"]
        words += ["--data.layout", "gopro", "--data.root", place, "--data.num_workers", "0"]
        words += ["--data.capture", '{"canonical": 32, "scale": 32, "crop": 32}']
        words += ["--trainer.accelerator", "cpu", "--trainer.logger", "false"]
        assert main([*words, "--trainer.default_root_dir", str(tmp_path / name)]) == 0
    one, other = ((tmp_path / n / "robustness.csv").read_text() for n in ("files", "shards"))
    assert other.replace("shards", "files") == one


def test_a_run_on_shards_has_the_losses_and_records_of_one_on_the_folder(folder, shards, tmp_path):
    runs = {"folder": folder, "shards": shards}
    for name, root in runs.items():
        words = ["fit", "--config", ROOT / "experiments/base.yaml"]
        words += ["--config", ROOT / "experiments/classify_imagenet.yaml", "--data.root", root]
        words += ["--data.blur", "sharp+D2", "--model.conditions", "[sharp, D2]"]
        words += ["--model.net", "nets.MeanColour", "--data.capture.crop", 64]
        words += ["--data.batch_size", 8, "--data.num_workers", 1 if name == "shards" else 0]
        words += ["--trainer.max_epochs", 2, "--trainer.enable_progress_bar", "false"]
        words += ["--trainer.default_root_dir", tmp_path / name, "--trainer.logger", "false"]
        assert main([str(word) for word in words]) == 0
    for file in ("diary.csv", "robustness.csv"):
        one, other = ((tmp_path / name / file).read_text() for name in runs)
        assert other.replace("shards", "folder") == one
    diaries = [pq.read_table(tmp_path / name / "diary.parquet") for name in runs]
    assert diaries[0].num_rows == 48  # 24 of 30 in whole batches, twice
    assert diaries[0].equals(diaries[1])


def test_shards_behind_a_url_are_read_in_ranges_a_batch_at_once(folder, server):
    url, asked = server
    source, far = ImageNetDataModule(str(folder)).source("train"), ImageNetDataModule(url)
    stored = far.source("train")
    assert_alike(source, stored)
    dataset, before = WindowDataset(stored, far.capture, margin=0), len(asked)
    batch = dataset.__getitems__([(0, 3), (0, 29), (0, 11)])
    assert [item["index"] for item in batch] == [3, 29, 11]
    ranges = [wanted for _, wanted in asked[before:]]
    assert len(ranges) == 3
    assert None not in ranges
    assert not stored.files.store._fetched  # nothing is kept


def test_workers_read_what_their_parent_has_read_before(server):
    from torch.utils.data import DataLoader

    from blur_lightning.data.batches import loader_options

    data = ImageNetDataModule(server[0])
    source = data.source("val")
    source.load(0)
    dataset = WindowDataset(source, data.capture, margin=0)
    loader = DataLoader(dataset, batch_size=3, **loader_options(2))
    assert [batch["index"].tolist() for batch in loader] == [[0, 1, 2], [3, 4, 5]]
    assert not any(batch["unreadable"] for batch in loader)


def test_a_source_of_shards_travels_to_other_processes_without_what_is_open(shards):
    source = ImageNetDataModule(str(shards)).source("val")
    source.load(0)
    copy = pickle.loads(pickle.dumps(source))
    np.testing.assert_array_equal(copy.load(5), source.load(5))


def test_the_same_command_again_writes_only_what_is_missing_or_cut_off(folder, tmp_path):
    data, out = ImageNetDataModule(str(folder)), tmp_path / "out"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blur_lightning.data.sharding.MEGABYTE", 10_000)
        shard(data, out, megabytes=1)
        before = {file: file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
        missing, cut, kept = (out / f"train/chunk-0-{n}.bin" for n in (0, 1, 2))
        missing.unlink()
        os.truncate(cut, 1000)
        (out / "shards.json").unlink()
        inode = kept.stat().st_ino
        shard(data, out, megabytes=1)
        assert kept.stat().st_ino == inode
    after = {file: file.read_bytes() for file in sorted(out.rglob("*")) if file.is_file()}
    assert after == before


@pytest.mark.slow
def test_workers_write_the_same_shards(folder, shards, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("blur_lightning.data.sharding.MEGABYTE", 10_000)
        data = ImageNetDataModule(str(folder))
        write_shards(data=data, out=tmp_path, megabytes=1, parts=["val"], workers=2)
        for file in sorted((shards / "val").glob("[!.]*")):
            assert (tmp_path / "val" / file.name).read_bytes() == file.read_bytes()
        with pytest.raises(InputError, match="no shards of train, only of val"):
            ImageNetDataModule(str(tmp_path)).source("train")
        shard(data, tmp_path, megabytes=1, parts=["train"])
    assert json.loads((tmp_path / "shards.json").read_text())["parts"] == {"val": 6, "train": 30}


def remove(root):
    (root / "val/chunk-0-0.bin").unlink()


def cut_off(root):
    os.truncate(root / "val/chunk-0-0.bin", 100)


def forget(root):
    (root / "val/images.parquet").unlink()


def spoil(root):
    (root / "shards.json").write_text("{}")


def renew(root):
    text = (root / "shards.json").read_text()
    (root / "shards.json").write_text(text.replace('"version": 1', '"version": 2'))


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (remove, r"val/chunk-0-0\.bin: missing; copy it again"),
        (cut_off, r"val/chunk-0-0\.bin: 100 bytes, but [\d,]+ were written"),
        (forget, r"val/images\.parquet: cannot be read"),
        (spoil, r"shards\.json: tells of no shards"),
        (renew, "shards of version 2, but only 1"),
    ],
)
def test_what_is_wrong_with_shards_is_one_line_that_names_it(shards, tmp_path, harm, message):
    copy = shutil.copytree(shards, tmp_path / "copy")
    harm(copy)
    with pytest.raises(InputError, match=message) as error:
        ImageNetDataModule(str(copy)).source("val")
    assert "\n" not in str(error.value)


def test_a_shard_whose_bytes_have_changed_is_named(shards, tmp_path):
    copy = shutil.copytree(shards, tmp_path / "copy")
    source = ImageNetDataModule(str(copy)).source("val")
    file = source.files[0]
    with (copy / "val" / file.shard).open("r+b") as stream:
        stream.seek(file.offset + file.length // 2)
        stream.write(b"changed")
    with pytest.raises(UnreadableImageError, match=r"val/chunk-0-0\.bin.*the shard is damaged"):
        source.load(0)
    source.load(len(source.names) - 1)


def test_a_url_without_shards_and_shards_of_other_classes_are_one_line(server, shards):
    with pytest.raises(InputError, match=r"nowhere/shards\.json: cannot be read"):
        ImageNetDataModule(f"{server[0]}/nowhere").source("val")
    with pytest.raises(InputError, match=r"s3://bucket.*s3fs"):
        ImageNetDataModule("s3://bucket/imagenet").source("val")
    with pytest.raises(InputError, match=r"data\.classes: folders, but the shards .* of imagenet"):
        ImageNetDataModule(str(shards), classes="folders").source("val")
    with pytest.raises(InputError, match=r"data: VOCDataModule, but the shards .* ImageNet"):
        VOCDataModule(str(shards)).source("val")


def test_the_command_names_what_it_cannot_shard(folder, shards, tmp_path, capsys):
    command = ["shard", "--out", str(tmp_path / "out"), "--workers", "1", "--data"]
    imagenet = ["blur_lightning.data.ImageNetDataModule", "--data.root"]
    assert main([*command, "blur_lightning.data.ScenesDataModule"]) == 2
    assert "reads no files" in capsys.readouterr().err
    assert main([*command, *imagenet, str(shards)]) == 2
    assert "holds shards" in capsys.readouterr().err
    assert main([*command, *imagenet, str(folder), "--parts", "[val]"]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'out'}: val 6 images\n"

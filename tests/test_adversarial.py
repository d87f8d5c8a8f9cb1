"""The adversarial task by the command line, against brute force with SciPy's Gaussian."""

import math
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow.parquet as parquet
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch import nn

from blur_lightning.blur import BlurDistribution
from blur_lightning.cli import main
from blur_lightning.errors import InputError
from blur_lightning.records.robustness import read_records
from blur_lightning.tasks import AdversarialBlurTask, FreeKernel, WorstDraw
from blur_lightning.tasks.adversarial import evaluating, margins

SIDE = 48
LIGHTS = (255, 200, 150, 100)
BUDGETS = (4.2, 5.3, 6.5)
ADVERSARIES = "blur_lightning.tasks."


def test_a_margin_is_above_0_where_the_decision_is_wrong():
    logits = torch.tensor([[3.0, 1.0, 2.5], [3.0, 1.0, 2.5], [-1.0, -2.0, -9.0]])
    label = torch.tensor([0, 2, 1])
    torch.testing.assert_close(margins(logits, label), torch.tensor([-0.5, 0.5, 1.0]))
    assert margins(logits.bfloat16(), label).dtype == torch.float32


def test_a_network_under_attack_keeps_its_statistics_and_its_modes():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Dropout(), nn.Conv2d(3, 2, 1)).train()
    net[1].eval()  # as a frozen block
    with evaluating(net):
        net(torch.randn(4, 3, 5, 5))
        assert not any(module.training for module in net.modules())
    assert [module.training for module in net.modules()] == [True, True, False, True]
    assert net[0].num_batches_tracked == 0


@pytest.fixture
def photos(tmp_path):
    """Points of light on black; a network that looks for the brightest pixel calls them 0."""
    (tmp_path / "photos").mkdir()
    for number, light in enumerate(LIGHTS):
        image = np.zeros((SIDE, SIDE, 3), np.uint8)
        image[SIDE // 2, SIDE // 2] = light
        Image.fromarray(image).save(tmp_path / "photos" / f"{number}_0.png")
    return tmp_path


def attack(folder, *words):
    """Attack with Gaussians up to 4 in a test; the status."""
    words = [
        *("test", "--model", "blur_lightning.tasks.AdversarialBlurTask"),
        *("--model.net", "test_critical.Peak", "--model.adversary", ADVERSARIES + "WorstDraw"),
        *("--model.adversary.draws", "6", "--model.budgets", str([*BUDGETS])),
        *("--data", "PhotosDataModule", "--data.root", str(folder / "photos")),
        *("--model.adversary.blur", "G0..4", "--data.num_classes", "2", "--data.num_workers", "0"),
        *("--data.capture.canonical", str(SIDE), "--data.capture.scale", str(SIDE)),
        *("--data.capture.crop", str(SIDE), "--trainer.default_root_dir", str(folder / "run")),
        *("--trainer.accelerator", "cpu", "--trainer.enable_progress_bar", "false"),
        *("--trainer.logger", "false", *words),
    ]
    return main(words)


def test_robust_accuracy_is_that_of_a_search_by_hand(photos, capsys):
    assert attack(photos) == 0
    found = {(r.condition, r.metric): r for r in read_records(photos / "run")}
    mix, right = BlurDistribution.parse("G0..4"), {budget: 0 for budget in BUDGETS}
    for index, light in enumerate(LIGHTS):
        sharp = np.zeros((SIDE, SIDE))
        sharp[SIDE // 2, SIDE // 2] = light
        survives = dict.fromkeys(BUDGETS, True)
        for number in range(6):
            sigma = mix.draw(seed=0, index=index, number=number).parameter
            blurry = ndimage.gaussian_filter(sharp, sigma, mode="mirror", truncate=4).round()
            error = math.sqrt(np.mean((blurry - sharp) ** 2))
            for budget in BUDGETS:
                survives[budget] &= error > budget or blurry.max() > 5.5
        for budget in BUDGETS:
            right[budget] += survives[budget]
    assert len(set(right.values())) > 1  # the budgets differ
    for budget in BUDGETS:
        record = found[f"worst{budget:g}@G0..4", "top1"]
        assert record.value == right[budget] / len(LIGHTS)
        assert (record.family, record.parameter, record.n) == ("worst", budget, len(LIGHTS))
        assert found[f"worst{budget:g}@G0..4", "error"].value <= budget
    assert found["sharp", "top1"].value == 1
    assert found["sharp", "error"].value == 0


def test_the_size_of_a_batch_changes_no_worst_blur(photos):
    assert attack(photos) == 0
    whole = parquet.read_table(photos / "run/images.parquet").to_pydict()
    assert attack(photos, "--data.batch_size", "3") == 0
    assert parquet.read_table(photos / "run/images.parquet").to_pydict() == whole
    assert {"gaussian", "sharp"} == set(whole["family"])


def test_kernels_are_followed_by_gradients_in_a_test(photos):
    kernel = ["--model.adversary", ADVERSARIES + "FreeKernel", "--model.adversary.size", "9"]
    assert attack(photos, *kernel, "--model.adversary.steps", "3", "--model.budgets", "[3, 7]") == 0
    found = {(r.condition, r.metric): r.value for r in read_records(photos / "run")}
    assert found["kernel3", "error"] <= 3
    assert 3 < found["kernel7", "error"] <= 7
    assert found["kernel7", "top1"] < found["sharp", "top1"] == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--model.budgets", "[0]"], "model.budget, model.budgets: an error of 0 levels is not"),
        (["--model.budgets", "[8, 8]"], "model.budgets: one comes twice"),
        (
            ["--model.adversary.blur", "G3..4", "--model.budgets", "[0.5]"],
            "model.budget, model.budgets: no blur changes an image within an error of 0.5 levels; "
            "allow more, or let 'G3..4' begin nearer to 0",
        ),
        (
            [
                "--model.net",
                "nets.MeanColours",
                "--model.net.num_classes",
                "2",
                "--data.capture.scale",
                "[48, 60]",
            ],
            "model: attacks one scale",
        ),
        (["--model.adversary.draws", "0"], "model.adversary.draws: 0 is not 1 or more"),
        (
            [
                *("--model.adversary", ADVERSARIES + "FreeKernel"),
                *("--data.capture.order", "crop_first", "--data.capture.jpeg_quality", "85"),
            ],
            "data.capture.jpeg_quality: JPEG has no gradient",
        ),
    ],
)
def test_what_cannot_be_attacked_is_told_in_one_line(photos, capsys, words, message):
    assert attack(photos, *words) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {message}")


def fitted(folder, *words, verb="fit"):
    """Words that train a small network on a few scenes against an adversary."""
    return [
        *(verb, "--model", "blur_lightning.tasks.AdversarialBlurTask"),
        *("--model.net", "nets.Contrast", "--model.net.num_classes", "10"),
        *("--model.optimizer", "torch.optim.SGD", "--model.optimizer.lr", "0.1"),
        *("--data", "ScenesDataModule", "--data.train_count", "24"),
        *("--data.test_count", "4", "--data.batch_size", "8", "--data.num_workers", "0"),
        *("--data.blur", "sharp+D2"),
        *("--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"),
        *("--trainer.enable_progress_bar", "false", "--trainer.logger", "false"),
        *("--trainer.log_every_n_steps", "1", "--trainer.default_root_dir", str(folder), *words),
    ]


WORST = ["--model.adversary", ADVERSARIES + "WorstDraw", "--model.budget", "255"]
PREDICTED = ["--model.adversary", ADVERSARIES + "PredictedKernel", "--model.adversary.size", "5"]
PREDICTED += ["--model.adversary.width", "2", "--model.budget", "20"]


def test_training_attacks_what_the_mix_blurs_and_leaves_the_rest_sharp(tmp_path):
    words = [*WORST, "--model.budgets", "[255]", "--data.blur", "sharp+D0..8"]
    assert main(fitted(tmp_path, *words)) == 0
    diary = parquet.read_table(tmp_path / "diary.parquet").to_pydict()
    mix = BlurDistribution.parse("sharp+D0..8")
    drawn = [mix.draw(seed=0, index=i, epoch=0) for i in diary["index"]]
    sharp = [blur.family == "sharp" for blur in drawn]
    assert 0 < sum(sharp) < len(sharp)
    found = np.array(diary["family"])
    assert set(found[sharp]) == {"sharp"}
    assert "disk" in found[~np.array(sharp)]
    conditions = {record.condition for record in read_records(tmp_path)}
    assert conditions == {"sharp", "worst255@D0..8"}
    assert {r.trained_on for r in read_records(tmp_path)} == {"sharp+D0..8, worst of 10 within 255"}


def test_half_precision_trains_a_predictor_that_a_test_finds_in_the_checkpoint(tmp_path):
    bf16 = ["--trainer.precision", "bf16-mixed", "--model.budgets", "[20]"]
    assert main(fitted(tmp_path, *PREDICTED, *bf16)) == 0
    error = {r.condition: r.value for r in read_records(tmp_path) if r.metric == "error"}
    assert 0 < error["predicted20"] <= 20
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    weights = torch.load(checkpoint, weights_only=True)["state_dict"]
    assert weights["adversary.net.6.bias"].abs().max() > 0
    again = [*PREDICTED, *bf16, "--ckpt_path", str(checkpoint)]
    assert main(fitted(tmp_path / "again", *again, verb="test")) == 0
    same = {r.condition: r.value for r in read_records(tmp_path / "again") if r.metric == "error"}
    assert same == error


def test_a_fit_that_goes_on_goes_on_with_the_predictors_own_optimiser(tmp_path):
    epochs = [[*PREDICTED, "--trainer.max_epochs", str(count)] for count in (1, 2)]
    assert main(fitted(tmp_path / "whole", *epochs[1])) == 0
    assert main(fitted(tmp_path / "parts", *epochs[0])) == 0
    assert main(fitted(tmp_path / "parts", *epochs[1], "--ckpt_path", "last")) == 0
    whole, parts = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)
        for name in ("whole", "parts")
    )
    assert whole["global_step"] == 6
    assert whole["state_dict"]["adversary.trained"] == 6
    for name, weight in whole["state_dict"].items():
        assert torch.equal(parts["state_dict"][name], weight), name


def test_a_predictor_that_no_fit_trained_is_refused(tmp_path, capsys):
    assert main(fitted(tmp_path, *PREDICTED, "--model.budgets", "[20]", verb="test")) == 2
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: model.adversary: its predicted kernel was trained on nothing")


def test_fit_needs_a_budget_and_a_blur(tmp_path, capsys):
    assert main(fitted(tmp_path, *WORST[:2])) == 2
    assert "error: model.budget: fit needs one" in capsys.readouterr().err
    assert main(fitted(tmp_path, *WORST, "--data.blur", "sharp")) == 2
    assert "error: data.blur: what it leaves sharp" in capsys.readouterr().err
    assert main(fitted(tmp_path, *WORST[:2], "--model.budget", "0.01")) == 2
    expected = "error: model.budget, model.budgets: no blur changes an image within an error of 0.0"
    assert expected in capsys.readouterr().err


def test_a_batch_without_any_blurred_image_trains_all_the_same(tmp_path):
    words = [*PREDICTED, "--data.blur", "0.999*sharp+0.001*D2", "--data.train_count", "8"]
    assert main(fitted(tmp_path, *words)) == 0


def test_windows_hold_the_margin_of_the_widest_kernel():
    task = AdversarialBlurTask(nn.Identity(), adversary=FreeKernel(17), budget=20.0)
    data = SimpleNamespace(blur=BlurDistribution.parse("sharp+D2"))
    data.capture = SimpleNamespace(jpeg_quality=None)
    task._trainer = SimpleNamespace(datamodule=data)
    task.setup("fit")
    assert [attack.half_width for attack in task.attacks] == [8]
    assert [str(condition) for condition in task.conditions] == ["sharp"]
    task = AdversarialBlurTask(nn.Identity(), adversary=WorstDraw(), budgets=[20.0, 8.5])
    task._trainer = SimpleNamespace(datamodule=data)
    task.setup("test")
    assert [str(condition) for condition in task.conditions] == [
        "sharp",
        "worst20@D2",
        "worst8.5@D2",
    ]
    assert [attack.half_width for attack in task.attacks] == [2, 2]
    task.setup("predict")
    assert [str(condition) for condition in task.conditions] == ["sharp"]
    data.blur = BlurDistribution.parse("sharp")
    with pytest.raises(InputError, match=r"^model\.adversary\.blur: name what to draw from"):
        task.setup("test")


def test_a_negative_budget_is_refused():
    with pytest.raises(InputError, match="an error of -1 levels"):
        AdversarialBlurTask(nn.Identity(), adversary=WorstDraw(), budget=-1.0)


# Half precision rounds the sums over half a batch otherwise than those over the whole one.
@pytest.mark.slow
@pytest.mark.parametrize(
    ("precision", "tolerance"), [("32-true", (1e-4, 1e-5)), ("bf16-mixed", (1e-2, 1e-3))]
)
def test_two_processes_train_what_one_does(tmp_path, precision, tolerance):
    """A network without batch statistics: gradients of two halves of a batch are those of it."""
    common = [*PREDICTED, "--trainer.precision", precision]
    assert main(fitted(tmp_path / "one", *common, "--data.batch_size", "8")) == 0
    words = fitted(tmp_path / "two", *common, "--data.batch_size", "4", "--trainer.devices", "2")
    root = Path(__file__).parents[1]
    paths = os.pathsep.join([str(root), str(root / "tests")])
    ended = subprocess.run(
        [sys.executable, "-m", "blur_lightning", *words],
        env=os.environ | {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert ended.returncode == 0, ended.stderr
    one, two = (
        torch.load(tmp_path / name / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
        for name in ("one", "two")
    )
    assert one["adversary.trained"] == 3
    relative, absolute = tolerance
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, rtol=relative, atol=absolute)

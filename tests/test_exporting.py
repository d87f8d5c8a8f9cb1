"""Networks as safetensors: what is written, and who can read it."""

import json
import re

import pytest
import timm
import torch
from nets import MeanColour
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_finetuned import checkpoint_of, network
from torch import nn

from blur_lightning.cli import main
from blur_lightning.errors import InputError
from blur_lightning.models import finetuned


def written(checkpoint, out):
    assert main(["export", str(checkpoint), "--out", str(out)]) == 0
    with safe_open(out, framework="pt") as file:
        return load_file(out), file.metadata()


@pytest.fixture
def trained(tmp_path):
    net = network(seed=0)
    net.bn1.running_mean.fill_(0.3)  # buffers are weights too
    return net, checkpoint_of(net, tmp_path / "last.ckpt")


def test_the_scores_are_the_same_to_the_bit_in_timm_in_torch_and_here(tmp_path, trained):
    net, checkpoint = trained
    file, images = tmp_path / "net.safetensors", torch.randn(2, 3, 64, 64)
    weights, told = written(checkpoint, file)
    assert told["trained_on"] == "sharp+D4"
    others = [
        timm.create_model("resnet10t", num_classes=10, checkpoint_path=str(file)).eval(),
        network(seed=1),
        finetuned(network(seed=2), str(file)),
    ]
    others[1].load_state_dict(weights)
    assert all(torch.equal(other(images), net(images)) for other in others)
    assert others[2].trained_on == "sharp+D4"


def test_weights_of_others_say_nothing_of_blurs(tmp_path):
    net, file = network(seed=0), tmp_path / "theirs.safetensors"
    save_file(net.state_dict(), file)
    mine = finetuned(network(seed=1), str(file))
    assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), net.parameters(), strict=True))
    assert not hasattr(mine, "trained_on")


def test_weights_of_another_network_are_told(tmp_path, trained):
    file = tmp_path / "net.safetensors"
    written(trained[1], file)
    with pytest.raises(InputError, match=rf"{re.escape(str(file))} is of another network"):
        finetuned(network(seed=0, num_classes=7), str(file))


def test_weights_that_are_tied_or_in_another_order_are_written(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = self.other = nn.Linear(3, 3)

    net = Tied()
    net.image = nn.Conv2d(3, 3, 3).to(memory_format=torch.channels_last)
    weights, _ = written(checkpoint_of(net, tmp_path / "a.ckpt"), tmp_path / "a.safetensors")
    assert weights.keys() == net.state_dict().keys()
    assert all(torch.equal(weights[name], tensor) for name, tensor in net.state_dict().items())


def test_a_fit_tells_its_network_classes_colours_and_average(tmp_path, monkeypatch):
    config = {
        "trainer": {
            "accelerator": "cpu",
            "logger": False,
            "enable_progress_bar": False,
            "max_epochs": 1,
            "ema": 0.5,
            "default_root_dir": str(tmp_path),
        },
        "model": {
            "class_path": "blur_lightning.tasks.ClassificationTask",
            "init_args": {
                "net": {"class_path": "nets.MeanColour", "init_args": {"num_classes": 10}},
                "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
            },
        },
        "data": {
            "class_path": "blur_lightning.data.ScenesDataModule",
            "init_args": {
                **{"train_count": 16, "test_count": 4, "batch_size": 4, "num_workers": 0},
                "blur": "sharp+D2",
            },
        },
    }
    file = tmp_path / "fit.json"
    file.write_text(json.dumps(config))
    assert main(["fit", "--config", str(file), "--test", "false"]) == 0
    checkpoint = tmp_path / "checkpoints/last.ckpt"
    weights, told = written(checkpoint, tmp_path / "net.safetensors")
    assert (told["class_path"], told["trained_on"]) == ("nets.MeanColour", "sharp+D2")
    assert json.loads(told["arguments"]) == {"num_classes": 10}
    assert json.loads(told["mean"]) == [0.485, 0.456, 0.406]
    assert json.loads(told["std"]) == [0.229, 0.224, 0.225]
    assert len(told["commit"]) == 40
    assert told["weights"] == "moving average"
    assert json.loads(told["classes"]) == 10
    content = torch.load(checkpoint, weights_only=True)
    name = "net.linear.weight"
    assert torch.equal(weights["linear.weight"], content["state_dict"][name])
    assert not torch.equal(weights["linear.weight"], content["current_model_state"][name])


@pytest.mark.parametrize(
    ("checkpoint", "out", "message"),
    [
        ("nowhere.ckpt", "net.safetensors", "nowhere.ckpt: not found; name a checkpoint"),
        ("last.ckpt", "net.pth", "--out: .*net.pth does not end in .safetensors"),
        ("last.ckpt", "file/net.safetensors", "file/net.safetensors: cannot be written"),
    ],
)
def test_what_cannot_be_exported_is_one_line(tmp_path, capsys, checkpoint, out, message):
    checkpoint_of(MeanColour(10), tmp_path / "last.ckpt")
    (tmp_path / "file").touch()
    before = sorted(tmp_path.rglob("*"))
    assert main(["export", str(tmp_path / checkpoint), "--out", str(tmp_path / out)]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert sorted(tmp_path.rglob("*")) == before

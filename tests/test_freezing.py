"""Blocks of networks against the order in which they run, and what a fit leaves of frozen ones."""

import re
from types import SimpleNamespace

import pytest
import timm
import torch
import torchvision
import yaml
from nets import MeanColour
from torch import nn

from blur_lightning.cli import main
from blur_lightning.errors import InputError
from blur_lightning.models import Dense, small_resnet
from blur_lightning.records.robustness import read_records
from blur_lightning.tasks import ClassificationTask
from blur_lightning.tasks.freezing import blocks, freeze

SMALL = ["stem", "stage1", "stage2", "stage3", "classifier"]
TINY = [name for name in timm.list_models("test_*") if "clip" not in name]


def firsts(net):
    return [block[0] for block in blocks(net)]


def test_the_blocks_of_the_small_network_are_its_stages():
    assert blocks(small_resnet()) == [[name] for name in SMALL]


@pytest.mark.parametrize("make", [timm.create_model, torchvision.models.get_model])
def test_the_blocks_of_a_residual_network_are_the_same_wherever_it_is_from(make):
    residual = [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    with torch.device("meta"):
        found = blocks(make("resnet18"))
    assert found == [["conv1", "bn1"], *([name] for name in residual), ["fc"]]


def test_the_blocks_of_vgg_are_its_16_layers():
    with torch.device("meta"):
        names = firsts(torchvision.models.vgg16_bn())
    assert (len(names), names[:2], names[-1]) == (16, ["features.0", "features.3"], "classifier.6")


def test_the_blocks_of_a_network_in_another_are_its_own():
    dense = Dense(timm.create_model("resnet10t"))
    assert firsts(dense) == [f"net.{name}" for name in firsts(timm.create_model("resnet10t"))]


@pytest.mark.parametrize("name", TINY)
def test_blocks_run_in_their_order_and_hold_each_weight_once(name):
    net = timm.create_model(name).eval()
    found, ran = blocks(net), []
    for number, block in enumerate(found):
        for module in map(net.get_submodule, block):
            module.register_forward_hook(lambda *_, number=number: ran.append(number))
    net(torch.zeros(1, *net.pretrained_cfg["input_size"]))
    assert len(found) > 2
    assert ran == sorted(ran)
    held = [id(w) for block in found for m in block for w in net.get_submodule(m).parameters()]
    own = [id(weight) for weight in net.parameters(recurse=False)]
    assert sorted(held + own) == sorted(map(id, net.parameters()))


def test_a_class_token_is_frozen_with_the_first_block():
    net = timm.create_model("test_vit")
    assert freeze(net, 1) == ["patch_embed"]
    kept = {name for name, weight in net.named_parameters() if not weight.requires_grad}
    patches = {"patch_embed.proj.weight", "patch_embed.proj.bias"}
    assert kept == {"cls_token", "pos_embed", *patches}


def test_nothing_is_frozen_unless_asked_for():
    net = small_resnet()
    assert freeze(net, 0) == freeze(nn.Identity(), 0) == []
    assert all(weight.requires_grad for weight in net.parameters())


@pytest.mark.parametrize("number", [5, 6, -1])
def test_too_many_blocks_are_answered_with_their_names(number):
    net = small_resnet()
    names = "5 blocks (stem, stage1, stage2, stage3, classifier)"
    message = rf"^model\.freeze: {number}, but the network has {re.escape(names)}; give [^\n]*$"
    with pytest.raises(InputError, match=message):
        freeze(net, number)
    assert all(weight.requires_grad for weight in net.parameters())
    with pytest.raises(InputError, match=r"has 1 blocks \(linear\)"):
        freeze(MeanColour(), 1)


def test_statistics_stay_when_normalisations_are_replaced_for_many_processes():
    """Lightning's sync_batchnorm puts other modules in the place of those that were frozen."""
    task = ClassificationTask(timm.create_model("resnet18"), freeze=1)
    task = nn.SyncBatchNorm.convert_sync_batchnorm(task.train())
    data = SimpleNamespace(training_mix="D2", seed=0)
    task._trainer = SimpleNamespace(datamodule=data, current_epoch=0, global_rank=0)
    task.on_train_batch_start({}, 0)
    assert isinstance(task.net.bn1, nn.SyncBatchNorm)
    assert not any(module.training for module in (task.net.conv1, task.net.bn1))
    assert task.net.layer1.training
    assert not any(weight.requires_grad for weight in task.net.bn1.parameters())


@pytest.fixture
def fit(tmp_path):
    """Train on a few scenes, with a decay that moves every weight it gets hold of."""
    base = {
        "trainer": {"accelerator": "cpu", "enable_progress_bar": False, "log_every_n_steps": 1},
        "model": {
            "class_path": "blur_lightning.tasks.ClassificationTask",
            "init_args": {
                "net": {"class_path": "blur_lightning.models.small_resnet"},
                "optimizer": {
                    "class_path": "torch.optim.SGD",
                    "init_args": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.5},
                },
            },
        },
        "data": {
            "class_path": "blur_lightning.data.ScenesDataModule",
            "init_args": {
                "train_count": 16,
                "test_count": 4,
                "capture": {"canonical": 32, "scale": 32, "crop": 32},
                "batch_size": 8,
                "num_workers": 0,
                "blur": "sharp+D2",
            },
        },
    }
    base["trainer"]["max_epochs"] = 2

    def run(name, *words, freeze_in_file=None, expect=0):
        if freeze_in_file is not None:
            base["model"]["init_args"]["freeze"] = freeze_in_file
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(base))
        words = ["--trainer.default_root_dir", str(tmp_path / name), *map(str, words)]
        assert main(["fit", "--config", str(config), *words]) == expect
        return tmp_path / name

    return run


def checkpoint(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def moved(before, after):
    """Blocks any of whose weights or statistics differ."""
    states = before["state_dict"], after["state_dict"]
    assert states[0].keys() == states[1].keys()
    names = [name for name in states[0] if not torch.equal(states[0][name], states[1][name])]
    return {name.split(".")[1] for name in names}


def from_checkpoint(folder):
    inner = ["--model.net", "blur_lightning.models.finetuned"]
    inner += ["--model.net.net", "blur_lightning.models.small_resnet"]
    return [*inner, "--model.net.checkpoint", folder / "checkpoints/last.ckpt"]


def test_a_fit_keeps_weights_and_statistics_of_the_first_blocks(fit):
    start = fit("start", "--trainer.max_epochs", 1)
    files, words = {"freeze_in_file": 2}, from_checkpoint(start)
    assert moved(checkpoint(start), checkpoint(fit("all", *words))) == set(SMALL)
    option = fit("option", *words, "--model.freeze", 2)
    assert moved(checkpoint(start), checkpoint(option)) == set(SMALL[2:])
    assert moved(checkpoint(option), checkpoint(fit("file", *words, **files))) == set()
    # Statistics, too: the gradients alone would not move them.
    net = small_resnet()
    running = {f"net.{name}" for name, _ in net.named_buffers() if "running" in name}
    states = checkpoint(start)["state_dict"], checkpoint(option)["state_dict"]
    kept = {name for name in running if torch.equal(states[0][name], states[1][name])}
    assert kept == {name for name in running if name.split(".")[1] in SMALL[:2]}
    assert kept
    # The optimiser holds what is trained, and no more.
    (optimizer,) = checkpoint(option)["optimizer_states"]
    later = [getattr(net, name) for name in SMALL[2:]]
    trained = [weight.shape for block in later for weight in block.parameters()]
    buffers = [optimizer["state"][i]["momentum_buffer"].shape for i in range(len(trained))]
    assert buffers == trained
    assert len(optimizer["param_groups"][0]["params"]) == len(trained)
    # Records tell such runs apart, also those of a later test of the checkpoint.
    assert {record.trained_on for record in read_records(option)} == {"sharp+D2, freeze 2"}
    assert checkpoint(option)["trained_on"] == "sharp+D2, freeze 2"


def test_a_fit_goes_on_with_what_it_froze_and_with_nothing_else(fit, capsys):
    whole = fit("whole", "--model.freeze", 2)
    part = fit("part", "--model.freeze", 2, "--trainer.max_epochs", 1)
    fit("part", "--ckpt_path", "last", expect=2)
    words = r"error: ckpt_path: \S+last.ckpt trained 20 weight tensors, this fit 29; give the "
    assert re.search(words + r"--model.freeze [^\n]*$", capsys.readouterr().err)
    fit("part", "--ckpt_path", "last", "--model.freeze", 2)
    assert moved(checkpoint(whole), checkpoint(part)) == set()
    records = read_records(part)
    assert [record._replace(run="whole") for record in records] == read_records(whole)


def test_the_command_line_refuses_to_freeze_everything_in_one_line(fit, capsys):
    fit("none", "--model.freeze", 5, expect=2)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert line.startswith("error: model.freeze: 5, but the network has 5 blocks (stem, stage1,")


def test_the_help_says_what_is_frozen(capsys):
    with pytest.raises(SystemExit):
        main(["fit", "--model.help", "blur_lightning.tasks.ClassificationTask"])
    words = " ".join(capsys.readouterr().out.split())
    assert "How many of the network's first blocks fit keeps as they are" in words


@pytest.mark.slow
def test_a_compiled_network_keeps_its_first_blocks_too(fit):
    words = ["--model.freeze", 2, "--trainer.max_epochs", 1]
    plain, compiled = fit("plain", *words), fit("compiled", *words, "--model.compile", "true")
    start = ClassificationTask(small_resnet()).state_dict()  # statistics before any training
    after = checkpoint(compiled)["state_dict"]
    running = [n for n in start if "running" in n and n.split(".")[1] in SMALL[:2]]
    assert all(torch.equal(start[name], after[name]) for name in running)
    early = [name for name in after if name.split(".")[1] in SMALL[:2]]
    assert all(torch.equal(after[name], checkpoint(plain)["state_dict"][name]) for name in early)
    assert moved(checkpoint(plain), {"state_dict": after}) <= set(SMALL[2:])

"""Weights of a checkpoint as Lightning writes it, and what is no such file."""

import re

import pytest
import timm
import torch
from lightning import Trainer
from nets import MeanColour
from torch import nn

from blur_lightning.errors import InputError
from blur_lightning.models import Dense, FiveCrops, finetuned
from blur_lightning.tasks import ClassificationTask


def checkpoint_of(net, path, trained_on="sharp+D4"):
    """Save a task with this network by Lightning, as fit does."""
    trainer = Trainer(
        accelerator="cpu", logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    trainer.strategy.connect(ClassificationTask(net, trained_on=trained_on))
    trainer.save_checkpoint(path)
    return str(path)


def network(seed, num_classes=10):
    torch.manual_seed(seed)
    return timm.create_model("resnet10t", num_classes=num_classes).eval()


def test_a_network_scores_as_the_one_that_was_trained(tmp_path):
    trained = network(seed=0)
    trained.bn1.running_mean.fill_(0.3)  # buffers are weights too
    other, images = network(seed=1), torch.randn(2, 3, 64, 64)
    assert not torch.equal(other(images), trained(images))
    net = finetuned(other, checkpoint_of(trained, tmp_path / "last.ckpt"))
    assert net is other
    assert torch.equal(net(images), trained(images))
    assert net.trained_on == "sharp+D4"


def test_each_scale_may_have_what_was_trained_at_it(tmp_path):
    nets = [network(seed=0), network(seed=1)]
    files = [checkpoint_of(net, tmp_path / f"{i}.ckpt", f"D{i}") for i, net in enumerate(nets)]
    dense = Dense([finetuned(network(seed=2), file) for file in files], window=2).eval()
    scales = [torch.randn(1, 3, 64, 96), torch.randn(1, 3, 96, 128)]
    assert torch.equal(dense(scales), Dense(nets, window=2).eval()(scales))
    assert dense.trained_on == "D0 and D1"


def test_an_average_that_was_trained_as_a_whole_has_its_weights(tmp_path):
    trained = FiveCrops(network(seed=0), crop=32)
    checkpoint = checkpoint_of(trained, tmp_path / "last.ckpt")
    net = finetuned(FiveCrops(network(seed=1), crop=32), checkpoint)
    assert all(
        torch.equal(a, b) for a, b in zip(net.parameters(), trained.parameters(), strict=True)
    )


def test_a_missing_file_is_named(tmp_path):
    message = f"^model.net.checkpoint: there is no file {re.escape(str(tmp_path))}; run its fit"
    with pytest.raises(InputError, match=message):
        finetuned(MeanColour(), str(tmp_path))  # a folder is no file


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"net: weights\n",
        {"net.linear.weight": torch.zeros(10, 3)},  # weights alone, without what they were
        {"state_dict": {"net.linear.weight": torch.zeros(10, 3)}},  # somebody else's
        {"state_dict": MeanColour(10).state_dict(), "trained_on": "", "code": nn.Linear(3, 10)},
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(tmp_path, content):
    file = tmp_path / "file.ckpt"
    if isinstance(content, bytes):
        file.write_bytes(content)
    else:
        torch.save(content, file)
    message = rf"^model.net.checkpoint: {re.escape(str(file))} is no checkpoint of fit [^\n]*$"
    with pytest.raises(InputError, match=message):
        finetuned(MeanColour(10), str(file))


@pytest.mark.parametrize(
    ("trained", "net", "message"),
    [
        (MeanColour(10), MeanColour(7), r"linear.weight is \(10, 3\) there, \(7, 3\) in"),
        (MeanColour(10), nn.Linear(3, 10), "the checkpoint has no weight;"),
        (MeanColour(10), nn.Module(), "model.net.net has no linear.weight;"),
    ],
)
def test_weights_of_another_network_are_told_by_the_first_that_does_not_fit(
    tmp_path, trained, net, message
):
    file = checkpoint_of(trained, tmp_path / "last.ckpt")
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    pattern = rf"^model.net.checkpoint: \S+ is of another network: {message}[^\n]*$"
    with pytest.raises(InputError, match=pattern):
        finetuned(net, file)
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())

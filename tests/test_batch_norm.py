"""Batch normalisation over processes; that of two is in test_processes.py."""

import pytest
import torch
from timm.layers import BatchNormAct2d
from torch import distributed, nn

from blur_lightning.batch_norm import SyncedBatchNorm


@pytest.fixture
def alone():
    """A group of processes that this one is all of."""
    store = distributed.HashStore()
    distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize(
    "make",
    [
        lambda: nn.BatchNorm2d(4),
        lambda: nn.BatchNorm2d(4, momentum=None),
        lambda: nn.BatchNorm2d(4, affine=False, track_running_stats=False),
        lambda: BatchNormAct2d(4),
    ],
    ids=["usual", "mean of all", "bare", "timm"],
)
def test_of_one_process_it_is_what_it_was(alone, make):
    images = torch.randn(3, 4, 5, 7, generator=torch.Generator().manual_seed(0)) * 3 + 20
    found = []
    for synced in (False, True):
        layer, seen = make(), images.clone().requires_grad_()
        if synced:
            assert SyncedBatchNorm().apply(layer) is layer
        outputs = [layer(seen), layer(seen * 2 - 1)]
        sum((output**3).sum() for output in outputs).backward()
        SyncedBatchNorm().revert(layer)
        outputs.append(layer.eval()(seen))
        gradients = [seen.grad, *(weight.grad for weight in layer.parameters())]
        found.append([*outputs, *gradients, *layer.state_dict().values()])
    for expected, value in zip(*found, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_it_is_there_in_training_alone(alone):
    layer = SyncedBatchNorm().apply(nn.BatchNorm1d(2))
    assert "forward" in vars(layer)
    images = torch.tensor([[1.0, 2.0], [3.0, 6.0]])
    expected = nn.BatchNorm1d(2).eval()(images)
    assert torch.equal(layer.eval()(images), expected)
    assert "forward" not in vars(SyncedBatchNorm().revert(layer))

"""Invariance losses against SciPy, closed forms and a step by hand."""

import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from nets import Contrast
from scipy.spatial.distance import jensenshannon
from torch import nn

from blur_lightning.data import ScenesDataModule
from blur_lightning.errors import InputError
from blur_lightning.tasks import ClassificationTask
from blur_lightning.tasks.consistency import cosine_distance, features_of, jensen_shannon


def test_the_divergence_is_scipys():
    logits, other = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)) * 3
    expected = [
        jensenshannon(p, q) ** 2
        for p, q in zip(logits.double().softmax(1), other.double().softmax(1), strict=True)
    ]
    torch.testing.assert_close(
        jensen_shannon(logits, other), torch.tensor(expected), check_dtype=False
    )


def test_the_divergence_has_its_ends():
    certain = torch.tensor([[900.0, 0.0, 0.0], [0.0, 900.0, 0.0]])
    assert jensen_shannon(certain, certain).tolist() == [0, 0]
    torch.testing.assert_close(
        jensen_shannon(certain, certain.flip(0)), torch.full((2,), math.log(2))
    )


def test_the_divergence_of_half_precision_has_a_finite_gradient():
    logits = torch.tensor([[200.0, 0.0], [0.0, 0.0]], dtype=torch.bfloat16, requires_grad=True)
    divergence = jensen_shannon(logits, torch.zeros(2, 2, dtype=torch.bfloat16))
    assert divergence.dtype == torch.float32
    divergence.sum().backward()
    assert logits.grad.isfinite().all()


def test_the_distance_forgets_the_scale_of_features():
    features = torch.tensor([[3.0, 4.0], [1.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[30.0, 40.0], [0.0, 5.0], [-2.0, 0.0]])
    torch.testing.assert_close(cosine_distance(features, other), torch.tensor([0.0, 1.0, 2.0]))


def test_features_are_what_the_last_linear_layer_is_given():
    net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    image = torch.randn(5, 3)
    with features_of(net) as seen:
        net(image)
    assert seen[0].equal(net[:2](image))
    net(image)
    assert len(seen) == 1
    message = r"^model\.feature_consistency: .* no linear layer"
    with pytest.raises(InputError, match=message), features_of(nn.Conv2d(3, 2, 1)):
        pass


def trained(**options):
    """A task, a batch of scenes under sharp, D2 and D4, and the loss of its first step."""
    data = ScenesDataModule(train_count=8, batch_size=8, blur="sharp+D2+D4", seed=0)
    data.setup("fit")
    task = ClassificationTask(Contrast(10), **options)
    data.trainer = SimpleNamespace(
        current_epoch=0,
        max_epochs=1,
        global_rank=0,
        world_size=1,
        training=True,
        validating=False,
        lightning_module=task,
    )
    task._trainer = SimpleNamespace(
        datamodule=data, current_epoch=0, global_step=0, global_rank=0, world_size=1
    )
    task.on_train_start()
    task.log = lambda *args, **kwargs: None
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    task.on_train_batch_start(batch, 0)
    return task, batch, task.training_step(batch, 0)


def test_a_step_adds_the_divergence_of_both_views():
    task, batch, loss = trained(consistency=12.0)
    blurred, sharp = task.net(batch["image"]), task.net(batch["sharp"])
    divergence = jensen_shannon(blurred, sharp)
    unblurred = [blur.family == "sharp" for blur in batch["blur"]]
    assert divergence[unblurred].abs().max() < 1e-6
    assert divergence.max() > 1e-4
    expected = F.cross_entropy(blurred, batch["label"]) + 12 * divergence.mean()
    torch.testing.assert_close(loss, expected)
    assert task.trained_on == "sharp+D2+D4, consistency 12"


def test_a_step_adds_the_distance_of_both_features():
    task, batch, loss = trained(consistency=1.0, feature_consistency=5.0)
    views = [batch["image"].std(dim=(2, 3)), batch["sharp"].std(dim=(2, 3))]
    blurred, sharp = map(task.net.linear, views)
    expected = F.cross_entropy(blurred, batch["label"]) + jensen_shannon(blurred, sharp).mean()
    expected = expected + 5 * cosine_distance(*views).mean()
    torch.testing.assert_close(loss, expected)
    assert task.trained_on == "sharp+D2+D4, consistency 1, feature consistency 5"


def test_without_weights_no_sharp_view_is_made():
    task, batch, loss = trained()
    assert "sharp" not in batch
    torch.testing.assert_close(loss, F.cross_entropy(task.net(batch["image"]), batch["label"]))


@pytest.mark.parametrize("name", ["consistency", "feature_consistency"])
def test_negative_weights_are_refused(name):
    with pytest.raises(InputError, match="consistency and feature_consistency must be 0 or more"):
        ClassificationTask(Contrast(10), **{name: -1.0})

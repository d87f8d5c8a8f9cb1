import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from nets import MeanColour
from PIL import Image

from blur_lightning.blur import Blur
from blur_lightning.data import ScenesDataModule
from blur_lightning.errors import InputError
from blur_lightning.tasks import ClassificationTask
from blur_lightning.tasks.examples import ExampleStrips


@pytest.fixture
def task():
    """A task as the trainer would have it, but for the training."""
    task = ClassificationTask(MeanColour(10), conditions=["sharp", "D4"])
    data = ScenesDataModule()
    data.trainer = SimpleNamespace(lightning_module=task, testing=True)
    task._trainer = SimpleNamespace(datamodule=data)
    return task


def test_measures_of_known_logits(task):
    probabilities = torch.full((2, 10), 0.05)
    probabilities[0, 3], probabilities[1, 3] = 0.55, 0.55
    measured = task.measure(probabilities.log(), {"label": torch.tensor([3, 9])})
    assert measured["top1"].tolist() == [True, False]
    assert measured["top5_classes"][0, 0] == 3
    assert measured["top5_classes"].shape == (2, 5)
    torch.testing.assert_close(measured["probability"], torch.tensor([0.55, 0.05]))
    torch.testing.assert_close(measured["confidence"], torch.tensor([0.55, 0.55]))
    entropy = -(0.55 * math.log(0.55) + 9 * 0.05 * math.log(0.05))
    torch.testing.assert_close(measured["entropy"], torch.full((2,), entropy))
    expected = torch.tensor([-math.log(0.55), -math.log(0.05)])
    torch.testing.assert_close(measured["cross_entropy"], expected)


def test_the_fifth_best_class_counts_and_the_sixth_does_not(task):
    logits = torch.arange(10.0).flip(0).repeat(2, 1)  # class 0 is best
    measured = task.measure(logits, {"label": torch.tensor([4, 5])})
    assert measured["top5"].tolist() == [True, False]


def test_certain_predictions_have_no_entropy_and_half_precision_is_lifted(task):
    logits = torch.zeros(1, 10, dtype=torch.bfloat16)
    logits[0, 2] = 200
    measured = task.measure(logits, {"label": torch.tensor([2])})
    assert measured["entropy"].item() == 0
    assert measured["cross_entropy"].dtype == torch.float32


def test_too_few_outputs_are_refused(task):
    with pytest.raises(InputError, match=r"model\.net: its output \(1, 3\)"):
        task.measure(torch.zeros(1, 3), {"label": torch.tensor([0])})


def test_statistics_come_from_the_network_or_are_imagenets(task):
    assert task.mean == (0.485, 0.456, 0.406)
    task.net.pretrained_cfg = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}
    assert (task.mean, task.std) == ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def test_each_condition_of_a_batch_is_blurred_from_the_same_windows(task):
    windows = torch.randint(0, 256, (3, 3, 72, 72), dtype=torch.uint8)
    batch = {"image": windows, "index": torch.arange(3)}
    (sharp, blurs, image), (_, _, blurry) = task._each_condition(batch)
    assert (str(sharp), blurs) == ("sharp", [Blur("sharp")] * 3)
    restored = image * torch.tensor(task.std).view(3, 1, 1) + torch.tensor(task.mean).view(3, 1, 1)
    torch.testing.assert_close(restored * 255, windows[..., 4:68, 4:68].float())
    assert blurry.std() < image.std() / 2


def test_one_step_of_training_is_known():
    """Loss and gradient of a fixed network on fixed images: a change of them changes all results.

    When the change is meant, put the new figures here and say so in CHANGELOG.md under Numbers.
    """
    data = ScenesDataModule(train_count=8, batch_size=8, blur="sharp+D2+D4", seed=0)
    data.setup("fit")
    data.trainer = SimpleNamespace(
        current_epoch=0,
        max_epochs=1,
        global_rank=0,
        world_size=1,
        training=True,
        validating=False,
        lightning_module=None,
    )
    task = ClassificationTask(MeanColour(10))
    data.trainer.lightning_module = task
    task._trainer = SimpleNamespace(datamodule=data, current_epoch=0, global_step=7, world_size=1)
    task.on_train_start()
    with torch.no_grad():
        task.net.linear.bias.zero_()
    task.log = lambda *args, **kwargs: None
    batch = data.on_after_batch_transfer(next(iter(data.train_dataloader())), 0)
    loss = task.training_step(batch, 0)
    loss.backward()
    names = [f"{blur.family} {blur.parameter:g}" for blur in batch["blur"]]
    expected = "disk 2, disk 2, disk 4, sharp 0, sharp 0, disk 2, sharp 0, sharp 0"
    assert ", ".join(names) == expected
    assert loss.item() == pytest.approx(3.17969, rel=1e-4)
    assert task.net.linear.weight.grad.norm().item() == pytest.approx(0.43871, rel=1e-3)


def test_strips_hold_the_middle_of_the_first_images_of_each_condition(tmp_path):
    strips, folder = ExampleStrips(tmp_path / "hidden", 1), tmp_path / "shown"
    for start in (0.0, 0.4):
        batch = torch.full((3, 3, 8, 12), start) + torch.arange(3).view(3, 1, 1, 1) / 10
        batch[..., :2] = batch[..., -2:] = 0.9  # beside the middle
        task = ClassificationTask(MeanColour(num_classes=10))
        task.net.pretrained_cfg = {"mean": [0.1] * 3, "std": [1.0] * 3}
        assert strips.wants("D4")
        strips.add("D4", task.pictures(batch, torch.empty(0), {}))
    assert not strips.wants("D4")
    folder.mkdir()
    for name in ("D8.jpg", "holiday.jpg"):
        (folder / name).touch()
    strips.publish(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["D4.jpg", "holiday.jpg"]
    strip = np.asarray(Image.open(folder / "D4.jpg"))
    assert strip.shape == (8, 40, 3)
    shades = strip[4, 4::8, 0] / 255
    np.testing.assert_allclose(shades, [0.1, 0.2, 0.3, 0.5, 0.6], atol=0.02)


def test_pictures_of_other_heights_stand_on_white(tmp_path):
    strips = ExampleStrips(tmp_path / "hidden", 1)
    strips.add("D4", [torch.zeros(3, side, side, dtype=torch.uint8) for side in (32, 16)])
    strips.publish(tmp_path / "shown")
    strip = np.asarray(Image.open(tmp_path / "shown" / "D4.jpg"))
    assert strip.shape == (32, 48, 3)
    assert strip[:, :24].max() < 9
    assert strip[:8, 40:].max() < 9
    assert strip[24:, 40:].min() > 246


def test_strips_survive_an_interrupted_test(tmp_path):
    ExampleStrips(tmp_path / "hidden", 1).add("D4", list(torch.zeros(5, 3, 8, 8).byte()))
    again = ExampleStrips(tmp_path / "hidden", 1)
    assert not again.wants("D4")
    again.publish(tmp_path / "shown")
    assert np.asarray(Image.open(tmp_path / "shown" / "D4.jpg")).max() == 0

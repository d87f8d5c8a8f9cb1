import json

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer
from PIL import Image
from small_voc import TRAIN, VAL, labels, write_image, write_list, write_mask, write_sbd, write_voc

from blur_lightning.blur import Capture
from blur_lightning.blur.conditions import parse_conditions
from blur_lightning.data import VOCDataModule
from blur_lightning.data.windows import fingerprint
from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError

# Lightning's own.
pytestmark = pytest.mark.filterwarnings("ignore:.*LeafSpec", "ignore:.*does not have many workers")


class Watcher(LightningModule):
    """A task that keeps the batches it gets."""

    mean, std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self):
        super().__init__()
        self.conditions = parse_conditions(["sharp", "D2"])
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.batches = {"train": [], "val": [], "test": []}

    def training_step(self, batch):
        self.batches["train"].append(batch)
        return 0 * self.weight

    def validation_step(self, batch):
        self.batches["val"].append(batch)

    def test_step(self, batch):
        self.batches["test"].append(batch)

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def run(data, verb):
    trainer = Trainer(
        **{"accelerator": "cpu", "max_epochs": 1, "logger": False, "num_sanity_val_steps": 0},
        **{"enable_progress_bar": False, "enable_checkpointing": False, "log_every_n_steps": 1},
        enable_model_summary=False,
    )
    watcher = Watcher()
    getattr(trainer, verb)(watcher, datamodule=data)
    return watcher.batches


def voc(folder, **options):
    small = Capture(30, 30, 24, measure="geometric_mean")
    return VOCDataModule(**{"root": str(folder), "num_workers": 0, "capture": small} | options)


def test_training_and_validation_give_crops_with_their_masks(tmp_path):
    write_voc(tmp_path)
    batches = run(voc(tmp_path, blur="D1", batch_size=3), "fit")
    (batch,) = batches["train"]
    assert batch["image"].shape == (3, 3, 24, 24)
    assert batch["image"].dtype == torch.float32
    assert batch["mask"].shape == (3, 24, 24)
    assert batch["mask"].dtype == torch.int64
    assert set(batch["mask"].unique().tolist()) <= {0, 1, 2, 3, 20, 255}
    (batch,) = batches["val"]
    assert batch["mask"].shape == (2, 24, 24)
    assert batch["image"].shape == (2, 3, 26, 26)  # sharp, with the margin of D1


def test_a_test_has_whole_masks_that_no_blur_touches(tmp_path):
    write_voc(tmp_path)
    write_image(tmp_path / f"JPEGImages/{VAL[1]}.jpg", 1, (44, 30))
    write_mask(tmp_path / f"SegmentationClass/{VAL[1]}.png", labels(1, (44, 30)))
    data = voc(tmp_path, capture=Capture(384, 384, 320, measure="geometric_mean"))
    batches = run(data, "test")["test"]
    # 384 sqrt(30/44) = 317.08 and 384 sqrt(44/30) = 465.05
    assert [tuple(batch["mask"].shape) for batch in batches] == [(1, 317, 465), (1, 465, 317)]
    for batch, number in zip(batches, (0, 1), strict=True):
        assert tuple(batch["image"].shape[2:]) == tuple(batch["mask"].shape[1:])
        assert set(batch["mask"].unique().tolist()) == {0, 1 + number, 20, 255}
    assert data.dataset == "voc (crop whole, measure geometric_mean)"
    assert data.num_classes == 21


def test_unreadable_masks_stop_or_are_left_out_and_listed(tmp_path):
    write_voc(tmp_path, [("train", TRAIN), ("val", [*VAL, "a", "b", "c"])])
    (tmp_path / "SegmentationClass/a.png").unlink()
    write_mask(tmp_path / "SegmentationClass/b.png", labels(0, (31, 44)))
    Image.new("RGB", (44, 30), (1, 2, 3)).save(tmp_path / "SegmentationClass/c.png")
    with pytest.raises(InputError, match=r"png: .*--data\.skip_unreadable true") as caught:
        run(voc(tmp_path), "test")
    assert "\n" not in str(caught.value)
    data = voc(tmp_path, skip_unreadable=True)
    batches = run(data, "test")["test"]
    assert sum(len(batch["mask"]) for batch in batches if "mask" in batch) == 2
    reasons = [
        reason.partition("SegmentationClass/")[2] for reason in data.provenance()["unreadable"]
    ]
    assert [reason[:40] for reason in reasons] == [
        "a.png: missing, the mask of a listed ima",
        "b.png: a mask of 44x31 pixels, but its i",
        "c.png: colour (1, 2, 3) is not in VOC's ",
    ]
    json.dumps(data.provenance())


def test_predictions_need_no_masks(tmp_path):
    write_voc(tmp_path)
    for file in (tmp_path / "SegmentationClass").iterdir():
        file.unlink()
    (tmp_path / "SegmentationClass").rmdir()
    data = voc(tmp_path)
    assert data.source("predict").names == [f"JPEGImages/{name}.jpg" for name in VAL]
    with pytest.raises(InputError, match="holds no SegmentationClass and no SegmentationClassAug"):
        data.source("test")


def test_masks_come_from_sbd_where_voc_has_none(tmp_path):
    write_voc(tmp_path)
    write_image(tmp_path / "JPEGImages/a.jpg", 7)
    sbd = write_sbd(tmp_path / "sbd", ["a", VAL[0]], [TRAIN[0]])
    source = voc(tmp_path, train_split="trainaug", sbd_root=str(sbd)).source("train")
    assert source.names == [f"JPEGImages/{name}.jpg" for name in (*TRAIN, "a")]
    np.testing.assert_array_equal(source.mask(3), labels(0) % 255)
    assert source.mask(0).max() == 255  # VOC's own, with void


def test_another_class_list_names_the_set_and_bounds_the_labels(tmp_path):
    root = write_voc(tmp_path / "fields")
    (root / "classes.txt").write_text("ground\nwheat\n")
    data = voc(root)
    source = data.source("val")
    assert (data.num_classes, data.class_names) == (2, ("ground", "wheat"))
    assert data.dataset.startswith("fields (")
    with pytest.raises(UnreadableImageError, match=r"label 20 is none of the 2 classes"):
        source.mask(0)
    (tmp_path / "all.txt").write_text("\n".join(f"c{label}" for label in range(21)))
    voc(root, classes=str(tmp_path / "all.txt")).source("val").mask(0)


def test_a_fingerprint_changes_with_the_masks(tmp_path):
    write_voc(tmp_path)
    prints = [fingerprint(voc(tmp_path).source("val"))]
    write_mask(tmp_path / f"SegmentationClass/{VAL[0]}.png", labels(0, (30, 44)) * 0)
    prints.append(fingerprint(voc(tmp_path).source("val")))
    (tmp_path / f"SegmentationClass/{VAL[0]}.png").unlink()
    prints.append(fingerprint(voc(tmp_path).source("val")))
    assert len(set(prints)) == 3


def test_an_image_narrower_than_a_blur_reaches_is_named(tmp_path):
    write_voc(tmp_path)
    write_image(tmp_path / f"JPEGImages/{VAL[1]}.jpg", 1, (2, 400))
    with pytest.raises(InputError, match=rf"{VAL[1]}\.jpg: 424x2 pixels .* a blur reaches 2"):
        run(voc(tmp_path), "test")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"capture": Capture()}, r"data\.capture\.scale: 256, but masks .*scale 384 too"),
        ({"train_split": "both"}, r"2 images of both are also in val, such as 2007_000033"),
        ({"train_split": "no"}, r"no\.txt: cannot be read"),
        ({"root": "nowhere"}, r"nowhere holds neither JPEGImages"),
        ({"classes": "nothing"}, r"nothing: no list of classes"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, options, message):
    write_voc(tmp_path)
    write_list(tmp_path / "ImageSets/Segmentation/both.txt", [*TRAIN, *VAL])
    with pytest.raises(InputError, match=message) as caught:
        voc(tmp_path, **options).source("train")
    assert "\n" not in str(caught.value)

"""What data promise to all tasks: windows by keys, each image once."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from blur_lightning.blur import Capture
from blur_lightning.data import ScenesDataModule
from blur_lightning.data.imagenet import FileSource
from blur_lightning.data.scenes import SceneSource
from blur_lightning.data.windows import Subset, WindowDataset, fingerprint, stratified
from blur_lightning.images import UnreadableImageError, resized_shape

CAPTURE = Capture(canonical=32, scale=24, crop=16)


def dataset(**options):
    return WindowDataset(SceneSource(0, 30, 40), CAPTURE, margin=5, **options)


def test_windows_depend_on_seed_epoch_and_index_alone():
    training = dataset(seed=1, jitter=(30, 32, 36))
    again = dataset(seed=1, jitter=(30, 32, 36))
    again[3, 3]
    assert torch.equal(training[2, 5]["image"], again[2, 5]["image"])
    epochs = [training[epoch, 5]["image"] for epoch in range(4)]
    assert not any(torch.equal(left, right) for left, right in pairwise(epochs))
    other = dataset(seed=2, jitter=(30, 32, 36))
    assert not torch.equal(training[2, 5]["image"], other[2, 5]["image"])


def test_test_windows_are_central_and_the_same_in_every_epoch():
    item = dataset()[0, 4]
    side = CAPTURE.window_side + 2 * 5
    assert item["image"].shape == (3, side, side)
    assert item["image"].dtype == torch.uint8
    assert (item["label"], item["index"]) == (4, 4)
    assert torch.equal(item["image"], dataset()[9, 4]["image"])


def test_half_of_the_training_images_are_mirrored_unless_told_not_to():
    plain = dataset(jitter=(32,), flip=False)
    mirrored = dataset(jitter=(32,), flip=True)
    same = [torch.equal(plain[0, i]["image"], mirrored[0, i]["image"]) for i in range(30)]
    assert 5 < sum(same) < 25
    flipped = same.index(False)
    image = plain[0, flipped]["image"].flip(-1)
    assert torch.equal(image, mirrored[0, flipped]["image"])


def test_a_fingerprint_changes_with_names_labels_and_sizes(tmp_path):
    files = [tmp_path / name for name in ("a.jpg", "b.jpg")]
    for file in files:
        file.write_bytes(b"12345")
    prints = [fingerprint(FileSource(tmp_path, files, [0, 1]))]
    prints.append(fingerprint(FileSource(tmp_path, files, [1, 0])))
    prints.append(fingerprint(FileSource(tmp_path, files[::-1], [0, 1])))
    prints.append(fingerprint(FileSource(tmp_path, files, None)))
    files[0].write_bytes(b"123456")
    prints.append(fingerprint(FileSource(tmp_path, files, [0, 1])))
    assert len(set(prints)) == 5


def test_scenes_of_training_and_test_differ_and_do_not_depend_on_the_runs_seed():
    data = ScenesDataModule(train_count=20, test_count=20, seed=1)
    other = ScenesDataModule(train_count=20, test_count=20, seed=2)
    sources = {split: data.source(split) for split in ("train", "val", "test")}
    for split, source in sources.items():
        np.testing.assert_array_equal(source.load(3), other.source(split).load(3))
    pictures = {source.load(3).tobytes() for source in sources.values()}
    assert len(pictures) == 3


def test_the_seed_is_that_of_the_run_unless_stated(monkeypatch):
    monkeypatch.setenv("PL_GLOBAL_SEED", "41")
    assert ScenesDataModule().seed == 41
    assert ScenesDataModule(seed=5).seed == 5


def test_a_part_of_every_class_is_drawn_from_the_seed():
    labels = [0] * 10 + [1] * 20 + [2]
    chosen = stratified(labels, seed=0, fraction=0.2)
    assert [labels[index] for index in chosen] == [0, 0, 1, 1, 1, 1, 2]
    assert chosen == sorted(chosen) == stratified(labels, seed=0, fraction=0.2)
    assert chosen != stratified(labels, seed=1, fraction=0.2)
    few = stratified(labels, seed=0, per_class=4)
    assert [labels[index] for index in few] == [0] * 4 + [1] * 4 + [2]
    # A larger part holds the smaller one, and other classes do not matter.
    assert set(chosen) <= set(stratified(labels, seed=0, fraction=0.5))
    assert [i for i in chosen if i < 10] == stratified([0] * 10, seed=0, fraction=0.2)
    assert stratified(labels, seed=0) == list(range(31))


def test_a_subset_keeps_names_labels_and_pixels():
    source = SceneSource(0, 12, 32)
    part = Subset(source, [3, 7])
    assert part.names == [source.names[3], source.names[7]]
    assert part.labels == [source.labels[3], source.labels[7]]
    assert np.array_equal(part.load(1), source.load(7))
    assert part.size(0) == source.size(3)
    assert part.shape(0) == source.shape(3) == part.load(0).shape[:2]


def test_training_images_are_seen_at_one_of_several_scales():
    capture = Capture(canonical=32, scale=(16, 64), crop=12)
    dataset = WindowDataset(SceneSource(0, 40, 32), capture, margin=3, jitter=[32])
    items = [dataset[0, index] for index in range(40)]
    assert {item["scale"] for item in items} == {16, 64}
    assert 10 <= sum(item["scale"] == 16 for item in items) <= 30
    frame = capture.window_side + 6
    assert {tuple(item["image"].shape) for item in items} == {(3, frame, frame)}
    large = next(item["image"] for item in items if item["scale"] == 64)
    side = capture.window_side_at(64) + 6
    before = (frame - side) // 2
    assert large[:, :before].max() == 0
    assert large[:, before : before + side, before : before + side].min() > 0


class Tiles:
    """Ramps to the right and down, and as masks the numbers of 3 x 4 tiles, by the ramps' height.

    The third of them has a broken mask.
    """

    labels = None

    def __init__(self, shape=(48, 90)):
        self.names = ["0", "1", "2"]
        down, right = (np.round(250 * (np.arange(side) + 0.5) / side) for side in shape)
        ramps = np.stack(np.broadcast_arrays(down[:, None], right, 0), axis=-1)
        self.image = ramps.astype(np.uint8)
        self.tiles = tiles(self.image)

    def size(self, index):
        return 1

    def shape(self, index):
        return self.tiles.shape

    def load(self, index):
        return self.image

    def mask(self, index):
        if index == 2:
            raise UnreadableImageError("2.png: cannot be read")
        return self.tiles


def tiles(image):
    down, right = image[..., 0].astype(int), image[..., 1].astype(int)
    return (4 * (down * 3 // 251) + right * 4 // 251).astype(np.uint8)


def masked(capture, **options):
    return WindowDataset(Tiles(), capture, margin=7, **options)


def agreement(item, margin):
    """Share of the pixels inside the image that show their label, and which are inside."""
    rows, columns = item["mask"].shape
    image = item["image"].permute(1, 2, 0).numpy()[margin : margin + rows]
    mask = item["mask"].numpy()
    inside = mask != 255
    return (tiles(image[:, margin : margin + columns]) == mask)[inside].mean(), inside


MEASURES = ("smaller_side", "geometric_mean", (60, 84))


@pytest.mark.parametrize("measure", MEASURES)
@pytest.mark.parametrize("border", ["reflect", "constant"])
def test_image_and_mask_travel_together(measure, border):
    """A mask that is two pixels away from its image shows 0.9 of it."""
    capture = Capture(60, 60, 56, measure=measure, border=border)
    training = masked(capture, jitter=(50, 60, 75), seed=3)
    beyond = 0
    for epoch in range(12):
        item = training[epoch, 1]
        assert item["image"].shape == (3, 70, 70)
        assert item["mask"].shape == (56, 56)
        assert item["mask"].dtype == torch.uint8
        share, inside = agreement(item, 7)
        assert share > 0.97
        beyond += int((~inside).sum())
    # An image of 50 pixels' height does not fill 56 rows.
    assert beyond > 0
    assert {int(training[e, 1]["mask"][-1, 20] == 255) for e in range(12)} == {0, 1}


def test_a_mask_is_mirrored_with_its_image():
    capture = Capture(60, 60, 56)
    plain, mirrored = (masked(capture, jitter=(60,), flip=flip) for flip in (False, True))
    flipped = 0
    for epoch in range(12):
        left, right = plain[epoch, 0], mirrored[epoch, 0]
        assert torch.equal(left["image"], right["image"]) == torch.equal(
            left["mask"], right["mask"]
        )
        if not torch.equal(left["mask"], right["mask"]):
            assert torch.equal(left["mask"].flip(-1), right["mask"])
            flipped += 1
    assert 2 <= flipped <= 10


@pytest.mark.parametrize("measure", MEASURES)
def test_a_test_sees_whole_images_with_whole_masks(measure):
    capture = Capture(60, 60, "whole", measure=measure)
    item = masked(capture)[0, 0]
    shape = resized_shape((48, 90), 60, measure)
    assert item["image"].shape[1:] == item["mask"].shape == shape
    share, inside = agreement(item, 0)
    assert share > 0.97
    assert inside.all()


def test_a_central_mask_lies_on_the_central_crop():
    share, inside = agreement(masked(Capture(60, 60, 40))[0, 0], 7)
    assert share > 0.97
    assert inside.all()


def test_a_mask_that_cannot_be_read_makes_its_image_unreadable():
    item = masked(Capture(60, 60, 40))[0, 2]
    assert item == {"index": 2, "unreadable": "2.png: cannot be read"}


def test_a_fast_resize_is_for_training_alone(monkeypatch):
    def black(image, shape, **_):
        return np.zeros((*shape, 3), dtype=np.uint8)

    monkeypatch.setattr("blur_lightning.data.windows.resize_fast", black)
    assert not dataset(jitter=(36,), fast=True)[0, 3]["image"].any()
    assert dataset(jitter=(36,))[0, 3]["image"].any()
    assert torch.equal(dataset(fast=True)[0, 3]["image"], dataset()[0, 3]["image"])

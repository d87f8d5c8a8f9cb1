"""What data promise to all tasks: windows by keys, each image once."""

from itertools import pairwise

import numpy as np
import torch

from blur_lightning.blur import Capture
from blur_lightning.data import ScenesDataModule
from blur_lightning.data.imagenet import FileSource
from blur_lightning.data.scenes import SceneSource
from blur_lightning.data.windows import (
    KeyedSampler,
    ShapeBatches,
    Subset,
    WindowDataset,
    collate_readable,
    fingerprint,
    stratified,
)

CAPTURE = Capture(canonical=32, scale=24, crop=16)


def test_a_sampler_yields_every_index_once_over_all_processes():
    for processes in (1, 2, 3):
        samplers = [
            KeyedSampler(range(13), rank=rank, processes=processes) for rank in range(processes)
        ]
        assert sorted(i for sampler in samplers for _, i in sampler) == list(range(13))
        assert sum(map(len, samplers)) == 13


def test_training_is_shuffled_anew_in_each_epoch_and_alike_on_all_processes():
    def orders(epoch, processes):
        samplers = [
            KeyedSampler(range(12), seed=7, rank=r, processes=processes) for r in range(processes)
        ]
        for sampler in samplers:
            sampler.set_epoch(epoch)
        return [list(sampler) for sampler in samplers]

    (first,), (second,) = orders(0, 1), orders(1, 1)
    assert sorted(i for _, i in first) == list(range(12))
    assert [i for _, i in first] != [i for _, i in second]
    assert {epoch for epoch, _ in second} == {1}
    assert [pair for turn in zip(*orders(0, 2), strict=True) for pair in turn] == first


def test_processes_take_as_many_training_steps():
    samplers = [KeyedSampler(range(13), seed=0, rank=rank, processes=3) for rank in range(3)]
    assert [len(list(sampler)) for sampler in samplers] == [len(s) for s in samplers] == [4, 4, 4]


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


def test_a_batch_keeps_what_can_be_read():
    broken = {"index": 7, "unreadable": "photo.jpg: cannot be read"}
    batch = collate_readable([dataset()[0, 1], broken, dataset()[0, 2]])
    assert batch["index"].tolist() == [1, 2]
    assert batch["unreadable"] == {7: "photo.jpg: cannot be read"}
    assert set(collate_readable([broken])) == {"unreadable"}


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


def test_batches_of_whole_images_have_one_shape_and_hold_every_image_once():
    generator = np.random.default_rng(0)
    shapes = [(32, int(side)) for side in generator.choice([32, 40, 48], size=31)]
    indices = list(range(100, 131))
    for processes in (1, 2, 3):
        samplers = [
            ShapeBatches(indices, shapes, batch_size=4, rank=rank, processes=processes)
            for rank in range(processes)
        ]
        batches = [[index for _, index in batch] for sampler in samplers for batch in sampler]
        assert sorted(index for batch in batches for index in batch) == indices
        assert all(len({shapes[index - 100] for index in batch}) == 1 for batch in batches)
        assert max(map(len, batches)) == 4
        # All but the last of a shape are full.
        assert len(batches) <= 31 / 4 + 3 * processes
        assert [len(list(sampler)) for sampler in samplers] == [
            len(sampler) for sampler in samplers
        ]


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

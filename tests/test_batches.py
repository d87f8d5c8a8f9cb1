import os
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning import LightningModule, Trainer

from blur_lightning.data.batches import KeyedLoader, KeyedSampler, ShapeBatches, collate_readable


class Indices:
    """A data set whose images are their own numbers."""

    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count

    def __getitem__(self, key):
        return key[1]


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


def test_any_number_of_processes_goes_on_inside_an_epoch_and_uses_each_other_image_once():
    count = 203

    def loaders(processes, batch_size):
        samplers = [
            KeyedSampler(range(count), seed=5, rank=rank, processes=processes)
            for rank in range(processes)
        ]
        return [
            KeyedLoader(Indices(count), batch_size=batch_size, sampler=s, drop_last=True)
            for s in samplers
        ]

    for before, batch, after, other in ((1, 8, 2, 8), (2, 8, 1, 8), (4, 4, 3, 5), (2, 8, 2, 8)):
        first = loaders(before, batch)
        iterators = [iter(loader) for loader in first]
        used = [next(i) for _ in range(4) for i in iterators]
        state = first[0].state_dict()
        assert state == {"images": 4 * before * batch}
        second = loaders(after, other)
        for loader in second:
            loader.load_state_dict(state)
        progress = SimpleNamespace(ready=4, started=4, processed=4, completed=3)
        second[0].correct(progress)
        rest = [list(loader) for loader in second]
        assert {len(batches) for batches in rest} == {len(second[0]) - progress.ready}
        assert progress.completed == progress.ready - 1
        keys = [index for batches in (used, *rest) for b in batches for index in b.tolist()]
        assert len(set(keys)) == len(keys)
        assert count - len(keys) < after * other + after  # less than a batch is left out
        assert second[0].state_dict() == {"images": 0}


class Noting(Indices):
    """Notes in a folder what a worker loads, and when there was what."""

    def __init__(self, count, folder):
        super().__init__(count)
        self.folder = folder

    def __getitem__(self, key):
        (self.folder / f"{key[0]}-{key[1]}").touch()
        (self.folder / f"worker-{os.getpid()}").touch()
        return key[1]


def streaming(folder, **options):
    sampler = KeyedSampler(range(11), seed=5, **options)
    data = Noting(11, folder)
    return KeyedLoader(data, batch_size=2, sampler=sampler, drop_last=True, num_workers=1)


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return [index for batch in loader for index in batch.tolist()]


def loaded(folder, epoch, wanted):
    """How many images of an epoch are loaded, once there are as many or ten seconds are over."""
    for _ in range(1000):
        if len(found := list(folder.glob(f"{epoch}-*"))) >= wanted:
            break
        time.sleep(0.01)
    return len(found)


def test_workers_go_on_with_the_next_epoch_before_anybody_asks_for_it(tmp_path):
    loader = streaming(tmp_path, epochs=3)
    orders = [list(KeyedSampler(range(11), seed=5).keys(epoch)) for epoch in range(3)]
    for epoch, order in enumerate(orders):
        assert epoch_of(loader, epoch) == [index for _, index in order][:10]
        assert loaded(tmp_path, epoch + 1, 4 * (epoch < 2)) == 4 * (epoch < 2)
    assert not list(tmp_path.glob("3-*"))


class Fitted(LightningModule):
    """Learns nothing from a list of numbers."""

    def __init__(self, loader):
        super().__init__()
        self.weight, self.loader = torch.nn.Parameter(torch.zeros(())), loader
        self.seen = []

    def train_dataloader(self):
        return self.loader

    def training_step(self, batch, batch_idx):
        self.seen += batch.tolist()
        return 0 * self.weight

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.parametrize("limit", [1.0, 3])
def test_a_fit_sees_each_epoch_in_its_order_and_one_worker_makes_them_all(tmp_path, limit):
    loader = streaming(tmp_path, epochs=3)
    module = Fitted(loader)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(
        max_epochs=3,
        accelerator="cpu",
        limit_train_batches=limit,
        enable_checkpointing=False,
        use_distributed_sampler=False,
        **quiet,
    )
    with warnings.catch_warnings(action="ignore"):  # what torch and Lightning say of each other
        trainer.fit(module)
    count = 10 if limit == 1.0 else 6
    orders = [list(KeyedSampler(range(11), seed=5).keys(epoch))[:count] for epoch in range(3)]
    assert module.seen == [index for order in orders for _, index in order]
    if limit == 1.0:
        assert len(list(tmp_path.glob("worker-*"))) == 1
    assert loader._iterator is None  # Lightning has ended the worker


def test_an_epoch_that_was_left_or_is_another_begins_anew(tmp_path):
    loader = streaming(tmp_path)
    expected = {epoch: epoch_of(streaming(tmp_path), epoch) for epoch in range(4)}
    batches = iter(loader)
    next(batches)
    batches.close()  # as where the number of steps ends a training
    assert epoch_of(loader, 0) == expected[0]
    assert epoch_of(loader, 3) == expected[3]
    assert loader.state_dict() == {"images": 0}


def test_a_batch_keeps_what_can_be_read():
    broken = {"index": 7, "unreadable": "photo.jpg: cannot be read"}
    batch = collate_readable([{"index": 1}, broken, {"index": 2}])
    assert batch["index"].tolist() == [1, 2]
    assert batch["unreadable"] == {7: "photo.jpg: cannot be read"}
    assert set(collate_readable([broken])) == {"unreadable"}


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

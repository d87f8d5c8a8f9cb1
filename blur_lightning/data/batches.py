"""Which images make a batch, by keys alone: workers and processes need no random state."""

import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count, cycle, islice
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler, default_collate
from typing_extensions import override

from blur_lightning.blur import Capture
from blur_lightning.data.windows import Source
from blur_lightning.errors import InputError
from blur_lightning.images import resized_shape


class KeyedSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that workers and processes need no random state of their own.

    Args:
        indices: Which images of the data set, ascending.
        seed: Seed of the shuffling; None keeps the order.
        rank: This process.
        processes: Number of processes, which take turns; in order, none is padded.
        epochs: How many there will be; None or -1: nobody knows.
    """

    def __init__(
        self,
        indices: Sequence[int],
        *,
        seed: int | None = None,
        rank: int = 0,
        processes: int = 1,
        epochs: int | None = None,
    ) -> None:
        self.indices, self.epochs = indices, epochs
        self.seed, self.rank, self.processes = seed, rank, processes
        self.epoch = 0
        # Images of the epoch that all processes together have seen before.
        self.seen = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return self.keys(self.epoch, self.seen)

    def keys(self, epoch: int, seen: int = 0) -> Iterator[tuple[int, int]]:
        """What an epoch yields, after so many images of all processes."""
        order = np.asarray(self.indices, dtype=np.int64)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, 3, epoch]).permutation(order)
            order = order[seen:]
            # Gradients are averaged over processes, so each must take as many steps.
            order = order[: len(order) // self.processes * self.processes]
        return ((epoch, int(index)) for index in order[self.rank :: self.processes])

    def __len__(self) -> int:
        if self.seed is not None:
            return len(self.indices) // self.processes
        return len(range(self.rank, len(self.indices), self.processes))


class _Stream(Sampler[list[tuple[int, int]]]):
    """Batches of an epoch and of those that follow."""

    def __init__(self, sampler: KeyedSampler, *, batch_size: int, drop_last: bool) -> None:
        self.sampler, self.batch_size, self.drop_last = sampler, batch_size, drop_last

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        first, seen, end = self.sampler.epoch, self.sampler.seen, self.sampler.epochs or -1
        for epoch in count(first) if end < 0 else range(first, max(end, first + 1)):
            keys = self.sampler.keys(epoch, seen if epoch == first else 0)
            while batch := list(islice(keys, self.batch_size)):
                if len(batch) == self.batch_size or not self.drop_last:
                    yield batch


class KeyedLoader(DataLoader):
    """Batches of a `KeyedSampler`; a checkpoint inside an epoch holds how far they were used.

    At the end of an epoch its workers go on with the next, so that nobody waits for them then.

    What it holds are images, of all processes: any number of them can go on, with batches of any
    size, and use each of the others once.
    """

    _batches = _first = _seen = _before = 0
    _coming: int | None = None  # the epoch that the next batch of the stream begins

    @property
    def _each(self) -> int:
        """Images of a batch, over all processes."""
        return (self.batch_size or 1) * getattr(self.sampler, "processes", 1)

    @override
    def __iter__(self) -> Any:
        self._first, self._seen = self.used, self._before
        self._batches = self._before = 0
        sampler = self.sampler
        if not isinstance(sampler, KeyedSampler):  # Lightning has its own to overfit batches
            stream = super().__iter__()
        else:
            if self._iterator is None or self._seen or self._coming != sampler.epoch:
                sampler.seen = self._seen
                # Where torch keeps its own, and Lightning looks for workers to end: also where a
                # fit fails. Ours heed no SIGTERM, and nobody else would end them.
                self._iterator = self._streaming(sampler)
            # What is not used up to the end of an epoch serves no other.
            stream, self._coming = self._iterator, None
        rest = len(self) - self._first
        for batch in islice(stream, rest):
            self._batches += 1
            if self._batches == rest and isinstance(sampler, KeyedSampler):
                # Not after the loop: Lightning, which counts batches, asks for no more.
                self._coming = sampler.epoch + 1
            yield batch
        self._batches = self._first = self._seen = 0

    def _streaming(self, sampler: KeyedSampler) -> Any:
        names = ("num_workers", "collate_fn", "pin_memory", "worker_init_fn")
        options: dict[str, Any] = {name: getattr(self, name) for name in names}
        batches = _Stream(sampler, batch_size=self.batch_size or 1, drop_last=self.drop_last)
        return iter(DataLoader(self.dataset, batch_sampler=batches, **options))

    @property
    def used(self) -> int:
        """Batches of the coming epoch that need not come again: all but what is left takes."""
        sampler, batch = self.sampler, self.batch_size or 1
        if not self._before or not isinstance(sampler, KeyedSampler):
            return 0
        rest = (len(sampler.indices) - self._before) // sampler.processes
        return len(self) - (rest // batch if self.drop_last else -(-rest // batch))

    def correct(self, progress: Any) -> None:
        """Count in batches of this number of processes what Lightning takes for done.

        Args:
            progress: Of the epoch that goes on, as another number of processes has left it.
        """
        more = self.used - progress.ready if self.used else 0
        for name in ("ready", "started", "processed", "completed"):
            setattr(progress, name, getattr(progress, name) + more)

    def state_dict(self) -> dict[str, int]:
        """How far this epoch was used, for a checkpoint."""
        finished = self._first + self._batches == len(self)
        return {"images": 0 if finished else self._seen + self._batches * self._each}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Begin the next epoch where a checkpoint was written."""
        self._before = state.get("images", 0)


def _leave_signals(worker: int) -> None:
    """Let the process that a worker belongs to decide what a signal to all of them means."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, signal.SIG_IGN)


class ShapeBatches(Sampler[list[tuple[int, int]]]):
    """Batches of images of one shape each, so that whole images need no padding.

    Args:
        indices: Which images of the data set.
        shapes: Rows and columns of each of them, at the canonical scale.
        batch_size: Most images of a batch.
        rank: This process.
        processes: Number of processes, which take turns.
    """

    def __init__(
        self,
        indices: Sequence[int],
        shapes: Sequence[tuple[int, int]],
        *,
        batch_size: int,
        rank: int = 0,
        processes: int = 1,
    ) -> None:
        alike: dict[tuple[int, int], list[tuple[int, int]]] = {}
        for index, shape in sorted(zip(indices, shapes, strict=True), key=lambda pair: pair[::-1])[
            rank::processes
        ]:
            alike.setdefault(shape, []).append((0, index))
        self.batches = [
            keys[start : start + batch_size]
            for keys in alike.values()
            for start in range(0, len(keys), batch_size)
        ]

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        return iter(self.batches)

    def __len__(self) -> int:
        return len(self.batches)


def canonical_shapes(
    source: Source, indices: Sequence[int], capture: Capture, *, reach: int, threads: int
) -> list[tuple[int, int]]:
    """Read what `ShapeBatches` sorts by from the heads of the files, which take turns to wait.

    Args:
        source: All images.
        indices: Which of them.
        capture: What makes whole images of them.
        reach: Pixels that the widest blur reaches to each side.
        threads: How many heads are read at once.

    Raises:
        InputError: An image is smaller than a blur reaches.
    """
    with ThreadPoolExecutor(max_workers=max(1, threads)) as pool:
        shapes = list(pool.map(source.shape, indices))
    for place, shape in enumerate(shapes):
        if min(shape) == 0:
            continue
        rows, columns = resized_shape(shape, capture.canonical, capture.measure)
        if min(rows, columns) <= reach:
            raise InputError(
                f"{source.names[indices[place]]}: {columns}x{rows} pixels at the canonical "
                f"scale, and a blur reaches {reach} to each side; remove it, or blur less"
            )
        shapes[place] = rows, columns
    return shapes


def collate_readable(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of the images that could be read; `unreadable` maps the others to their error.

    A batch of which nothing could be read has no `image`. Estimates stay a list, and so do images
    of which some are to be decoded on the device.
    """
    unreadable = {item["index"]: item["unreadable"] for item in items if "unreadable" in item}
    readable = [item for item in items if "unreadable" not in item]
    estimates = [item.pop("estimate") for item in readable if "estimate" in item]
    lists: dict[str, Any] = {"estimate": estimates} if estimates else {}
    if any(isinstance(item.get("image"), tuple) for item in readable):
        lists["image"] = [item.pop("image") for item in readable]
    batch = default_collate(readable) if readable else {}
    return batch | lists | {"unreadable": unreadable}


def unmeasured(trainer: Any, split: str, count: int) -> list[int]:
    """Images of a split that an interrupted test has not measured yet.

    Args:
        trainer: Whose test.
        split: Other splits than those of a test or a prediction are whole.
        count: Images in the split.
    """
    module: Any = trainer.lightning_module
    everything = list(range(count))
    if split not in ("test", "predict") or not hasattr(module, "measured_before"):
        return everything
    measured = module.measured_before()
    if (trainer.limit_test_batches, trainer.limit_predict_batches) != (1.0, 1.0):
        return everything  # so many batches from the first one on
    rest = [index for index in everything if index not in measured]
    # A process without any would never come to the end, where all meet.
    return list(islice(cycle(rest + everything), max(len(rest), trainer.world_size)))


def in_all_processes(found: set[str]) -> set[str]:
    """Union of what all processes have found; all must ask."""
    if not torch.distributed.is_initialized():
        return found
    parts = [found] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(parts, found)
    return set[str]().union(*parts)


def loader_options(workers: int) -> dict[str, Any]:
    """Arguments that all of torch's loaders get."""
    return {
        "num_workers": workers,
        "collate_fn": collate_readable,
        "pin_memory": torch.cuda.is_available(),
        "persistent_workers": workers > 0,
        "worker_init_fn": _leave_signals,
    }

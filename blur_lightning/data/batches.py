"""Which images make a batch, by keys alone: workers and processes need no random state."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from torch.utils.data import Sampler, default_collate


class KeyedSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that workers and processes need no random state of their own.

    Args:
        indices: Which images of the data set, ascending.
        seed: Seed of the shuffling; None keeps the order.
        rank: This process.
        processes: Number of processes, which take turns; in order, none is padded.
    """

    def __init__(
        self, indices: Sequence[int], *, seed: int | None = None, rank: int = 0, processes: int = 1
    ) -> None:
        self.indices = indices
        self.seed, self.rank, self.processes = seed, rank, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.asarray(self.indices, dtype=np.int64)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, 3, self.epoch]).permutation(order)
            # Gradients are averaged over processes, so each must take as many steps.
            order = order[: len(order) // self.processes * self.processes]
        return ((self.epoch, int(index)) for index in order[self.rank :: self.processes])

    def __len__(self) -> int:
        if self.seed is not None:
            return len(self.indices) // self.processes
        return len(range(self.rank, len(self.indices), self.processes))


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


def collate_readable(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of the images that could be read; `unreadable` maps the others to their error.

    A batch of which nothing could be read has no `image`.
    """
    unreadable = {item["index"]: item["unreadable"] for item in items if "unreadable" in item}
    readable = [item for item in items if "unreadable" not in item]
    return {**(default_collate(readable) if readable else {}), "unreadable": unreadable}

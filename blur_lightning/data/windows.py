"""From decoded images to batches of sharp windows, by keys alone.

Every item is a function of (seed, epoch, index), so workers and processes need no random state.
"""

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler, default_collate

from blur_lightning.blur import Capture
from blur_lightning.blur.capture import cut_window
from blur_lightning.images import UnreadableImageError, resize_smaller_side


@runtime_checkable
class Source(Protocol):
    """Images by index, decoded but not yet resized."""

    @property
    def names(self) -> Sequence[str]:
        """What tells each image from the others: paths below the root, or numbers."""
        ...

    @property
    def labels(self) -> Sequence[int] | None:
        """Class index of each image; None where there are no labels."""
        ...

    def size(self, index: int) -> int:
        """Bytes of one image's file, which hardly stay the same when the image changes."""
        ...

    def load(self, index: int) -> np.ndarray:
        """Decode one image to uint8 (h, w, 3); UnreadableImageError names a file that is broken."""
        ...


def fingerprint(source: Source) -> str:
    """SHA-256 over the names, labels and sizes of a data set's images, in order."""
    digest = hashlib.sha256()
    for index, name in enumerate(source.names):
        label = None if source.labels is None else source.labels[index]
        digest.update(f"{name}\0{label}\0{source.size(index)}\n".encode())
    return digest.hexdigest()


class WindowDataset(Dataset):
    """The windows of a source as `Capture` needs them; a function of (seed, epoch, index) alone.

    Args:
        source: The images.
        capture: Gives the canonical scale, the side of a window and the border.
        margin: Pixels around each window for the blur to draw on.
        seed: Seed of the random windows.
        jitter: Smaller sides in pixels that a training image is resized to, one of them at random;
            None takes the central window of an image at the canonical scale.
        flip: Mirror half of the images where there is a jitter.
    """

    def __init__(
        self,
        source: Source,
        capture: Capture,
        *,
        margin: int,
        seed: int = 0,
        jitter: Sequence[int] | None = None,
        flip: bool = True,
    ) -> None:
        self.source, self.capture, self.margin = source, capture, margin
        self.seed, self.jitter, self.flip = seed, jitter, flip

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        """Return a sharp window and its label for (epoch, index); an index alone is of epoch 0."""
        # Lightning's overfit_batches puts a sampler of its own in place of ours.
        epoch, index = key if isinstance(key, tuple) else (0, key)
        try:
            image = self.source.load(index)
        except UnreadableImageError as error:
            # Not raised here: a worker would wrap it in a traceback of its own.
            return {"index": index, "unreadable": str(error)}
        item = {"image": self._window(image, epoch, index), "epoch": epoch, "index": index}
        if self.source.labels is not None:
            item["label"] = self.source.labels[index]
        return item

    def _window(self, image: np.ndarray, epoch: int, index: int) -> Tensor:
        side, place, flip = self.capture.canonical, (0.5, 0.5), False
        if self.jitter is not None:
            generator = np.random.default_rng([self.seed, 2, epoch, index])
            side = int(generator.choice(self.jitter))
            place = (generator.random(), generator.random())
            flip = self.flip and generator.random() < 0.5
        window = cut_window(
            resize_smaller_side(image, side, interpolation=self.capture.interpolation),
            side=self.capture.window_side,
            margin=self.margin,
            place=place,
            border=self.capture.border,
        )
        window = window[:, ::-1] if flip else window
        return torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))


class KeyedSampler(Sampler[tuple[int, int]]):
    """Yields (epoch, index), so that workers and processes need no random state of their own.

    Args:
        length: Size of the data set.
        seed: Seed of the shuffling; None keeps the order.
        rank: This process.
        processes: Number of processes, which take turns; in order, none is padded.
    """

    def __init__(
        self, length: int, *, seed: int | None = None, rank: int = 0, processes: int = 1
    ) -> None:
        self.length, self.seed, self.rank, self.processes = length, seed, rank, processes
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Lightning calls this at the start of every epoch."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.arange(self.length)
        if self.seed is not None:
            order = np.random.default_rng([self.seed, 3, self.epoch]).permutation(self.length)
            # Gradients are averaged over processes, so each must take as many steps.
            order = order[: self.length // self.processes * self.processes]
        return ((self.epoch, int(index)) for index in order[self.rank :: self.processes])

    def __len__(self) -> int:
        if self.seed is not None:
            return self.length // self.processes
        return len(range(self.rank, self.length, self.processes))


def collate_readable(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of the images that could be read; `unreadable` maps the others to their error.

    A batch of which nothing could be read has no `image`.
    """
    unreadable = {item["index"]: item["unreadable"] for item in items if "unreadable" in item}
    readable = [item for item in items if "unreadable" not in item]
    return {**(default_collate(readable) if readable else {}), "unreadable": unreadable}

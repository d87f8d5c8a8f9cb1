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

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of one image, without decoding it; zeros where it cannot be read."""
        ...

    def load(self, index: int) -> np.ndarray:
        """Decode one image to uint8 (h, w, 3); UnreadableImageError names a file that is broken."""
        ...


class Subset:
    """Some images of a source, which keep their names and labels.

    Args:
        source: All images.
        chosen: Which of them, by index.
    """

    def __init__(self, source: Source, chosen: Sequence[int]) -> None:
        self.source, self.chosen = source, chosen
        self.names = [source.names[index] for index in chosen]
        self.labels = None if source.labels is None else [source.labels[i] for i in chosen]

    def size(self, index: int) -> int:
        """Bytes of one image's file."""
        return self.source.size(self.chosen[index])

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of one image."""
        return self.source.shape(self.chosen[index])

    def load(self, index: int) -> np.ndarray:
        """Decode one image."""
        return self.source.load(self.chosen[index])


def stratified(
    labels: Sequence[int], *, seed: int, fraction: float = 1.0, per_class: int | None = None
) -> list[int]:
    """Draw a part of every class.

    Args:
        labels: Class of each image.
        seed: The same seed draws the same images of a class, however many classes there are.
        fraction: Of each class, in (0, 1], rounded, at least one image.
        per_class: Images of each class, or all where there are fewer; None sets no limit.

    Returns:
        Indices, ascending.
    """
    classes: dict[int, list[int]] = {}
    for index, label in enumerate(labels):
        classes.setdefault(label, []).append(index)
    chosen: list[int] = []
    for label, indices in classes.items():
        order = np.random.default_rng([seed, 4, label]).permutation(len(indices))
        count = max(1, round(fraction * len(indices)))
        chosen += (indices[place] for place in order[: min(count, per_class or count)])
    return sorted(chosen)


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
        jitter: Smaller sides in pixels that a training image is resized to, one of them at random,
            to be seen at one of the capture's scales; None takes the central window of an image at
            the canonical scale, or the whole of it where the capture's crop is that.
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
        item: dict[str, Any] = {"epoch": epoch, "index": index}
        if self.jitter is None:
            item["image"] = _tensor(self._central(image))
        else:
            item["image"], item["scale"] = self._random(image, epoch, index, self.jitter)
        if self.source.labels is not None:
            item["label"] = self.source.labels[index]
        return item

    def _central(self, image: np.ndarray) -> np.ndarray:
        capture = self.capture
        resized = resize_smaller_side(image, capture.canonical, interpolation=capture.interpolation)
        if capture.whole:
            return resized
        side, border = capture.window_side, capture.border
        return cut_window(resized, side=side, margin=self.margin, border=border)

    def _random(
        self, image: np.ndarray, epoch: int, index: int, jitter: Sequence[int]
    ) -> tuple[Tensor, int]:
        """Cut the window of one scale; it lies in the middle of a frame for the smallest scale."""
        capture = self.capture
        generator = np.random.default_rng([self.seed, 2, epoch, index])
        resized = resize_smaller_side(
            image, int(generator.choice(jitter)), interpolation=capture.interpolation
        )
        place = (generator.random(), generator.random())
        flip = self.flip and generator.random() < 0.5
        scale = int(generator.choice(capture.scales)) if len(capture.scales) > 1 else 0
        scale = scale or capture.scales[0]
        window = cut_window(
            resized,
            side=capture.window_side_at(scale),
            margin=self.margin,
            place=place,
            border=capture.border,
        )
        window = window[:, ::-1] if flip else window
        frame = capture.window_side + 2 * self.margin
        if len(window) < frame:
            before = (frame - len(window)) // 2
            after = frame - len(window) - before
            window = np.pad(window, ((before, after), (before, after), (0, 0)))
        return _tensor(window), scale


def _tensor(image: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))


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

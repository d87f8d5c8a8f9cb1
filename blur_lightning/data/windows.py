"""From decoded images, their masks and sharp partners, to windows, by keys alone.

Every item is a function of (seed, epoch, index), so workers and processes need no random state.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from torch.utils.data import Dataset

from blur_lightning.blur import Capture
from blur_lightning.blur.cutting import cut_mask, cut_window
from blur_lightning.images import (
    MOST_PIXELS,
    UnreadableImageError,
    resize_fast,
    resize_image,
    resized_shape,
)


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


@runtime_checkable
class MaskedSource(Source, Protocol):
    """Images whose pixels are labelled; `size` counts the bytes of the masks too."""

    def mask(self, index: int) -> np.ndarray:
        """Labels of one image's pixels, uint8 (h, w) of its shape; 255 counts nowhere.

        UnreadableImageError names a mask that is missing, broken or of another shape.
        """
        ...


@runtime_checkable
class PairedSource(Source, Protocol):
    """Blurry images with a sharp partner each; `size` counts the bytes of both."""

    def sharp(self, index: int) -> np.ndarray:
        """Decode the sharp partner of one image, of its shape.

        UnreadableImageError names a partner that is missing, broken or of another shape.
        """
        ...


@runtime_checkable
class FetchingSource(Source, Protocol):
    """Images that may be far away: those of a batch are asked for together."""

    def fetch(self, indices: Sequence[int]) -> None:
        """Ask for images that are loaded soon."""
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

    def content(self, index: int) -> bytes:
        """What one image's file holds; see `FileSource`."""
        source: Any = self.source
        return source.content(self.chosen[index])

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of one image."""
        return self.source.shape(self.chosen[index])

    def load(self, index: int) -> np.ndarray:
        """Decode one image."""
        return self.source.load(self.chosen[index])

    def fetch(self, indices: Sequence[int]) -> None:
        """Ask for images that are loaded soon."""
        if isinstance(self.source, FetchingSource):
            self.source.fetch([self.chosen[index] for index in indices])


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

    A mask goes with its image, to the nearest pixel and without the margin: it lies on what the
    network sees where the capture's scale is the canonical one. A sharp partner goes with it as
    another image.

    Args:
        source: The images, with masks, sharp partners or neither.
        capture: Gives the canonical scale, the side of a window and the border.
        margin: Pixels around each window for the blur to draw on.
        seed: Seed of the random windows.
        jitter: Scales in pixels, measured as the capture does, that a training image is resized to,
            one of them at random, to be seen at one of the capture's scales; None takes the central
            window of an image at the canonical scale, or the whole of it where the capture's crop
            is that.
        flip: Mirror half of the images where there is a jitter.
        estimate: What is told of the whole of each image besides, from its pixels; None is nothing.
        fast: Resize images faster where there is a jitter, see `resize_fast`.
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
        estimate: Callable[[np.ndarray], Any] | None = None,
        fast: bool = False,
    ) -> None:
        self.source, self.capture, self.margin = source, capture, margin
        self.masked = source if isinstance(source, MaskedSource) else None
        self.paired = source if isinstance(source, PairedSource) else None
        self.seed, self.jitter, self.flip, self.estimate = seed, jitter, flip, estimate
        self.fast = fast and jitter is not None

    def __len__(self) -> int:
        return len(self.source.names)

    def __getitems__(self, keys: Sequence[tuple[int, int] | int]) -> list[dict[str, Any]]:
        """Return the windows of a batch, whose images are asked for together."""
        if isinstance(self.source, FetchingSource):
            self.source.fetch([key[1] if isinstance(key, tuple) else key for key in keys])
        return [self[key] for key in keys]

    def __getitem__(self, key: tuple[int, int] | int) -> dict[str, Any]:
        """Return a sharp window, its label or mask, for (epoch, index); an index is of epoch 0."""
        # Lightning's overfit_batches puts a sampler of its own in place of ours.
        epoch, index = key if isinstance(key, tuple) else (0, key)
        try:
            pixels = {"image": self.source.load(index)}
            if self.masked:
                pixels["mask"] = self.masked.mask(index)
            if self.paired:
                pixels["sharp"] = self.paired.sharp(index)
            if reason := self._reason_against(index, pixels["image"].shape[:2]):
                raise UnreadableImageError(reason)
        except UnreadableImageError as error:
            # Not raised here: a worker would wrap it in a traceback of its own.
            return {"index": index, "unreadable": str(error)}
        item: dict[str, Any] = {"epoch": epoch, "index": index}
        if self.estimate is not None:
            item["estimate"] = self.estimate(pixels["image"])
        if self.jitter is None:
            capture = self.capture
            item |= self._cut(pixels, capture.canonical, scale=min(capture.scales))
        else:
            item |= self._random(pixels, epoch, index, self.jitter)
        if self.source.labels is not None:
            item["label"] = self.source.labels[index]
        return item

    def _reason_against(self, index: int, shape: tuple[int, int]) -> str | None:
        """A strip of a few pixels would be a huge image once it is resized."""
        rows, columns = shape
        length = max((self.capture.canonical, *(self.jitter or ())))
        height, width = resized_shape((rows, columns), length, self.capture.measure)
        if height * width <= max(MOST_PIXELS, rows * columns):
            return None
        return (
            f"{self.source.names[index]}: {columns}x{rows} pixels would be {width}x{height} at "
            f"the scale of {length}, more than {MOST_PIXELS // 10**6} megapixels"
        )

    def _cut(
        self,
        pixels: Mapping[str, np.ndarray],
        length: int,
        *,
        scale: int,
        place: tuple[float, float] = (0.5, 0.5),
        flip: bool = False,
    ) -> dict[str, Any]:
        """Resize an image and what goes with it, and cut the window of a scale out of all."""
        capture = self.capture
        rows, columns = pixels["image"].shape[:2]
        shape = resized_shape((rows, columns), length, capture.measure)
        side = 0 if capture.whole else capture.window_side_at(scale)
        around: dict[str, Any] = {"margin": self.margin, "border": capture.border}
        item = {}
        for name, values in pixels.items():
            is_mask = name == "mask"
            filter = "nearest" if is_mask else capture.interpolation
            resize = resize_fast if self.fast and not is_mask else resize_image
            values = resize(values, shape, interpolation=filter)
            if not capture.whole and is_mask:
                values = cut_mask(values, side=side, place=place)
            elif not capture.whole:
                values = cut_window(values, side=side, place=place, **around)
            planes = values if is_mask else values.transpose(2, 0, 1)
            # A copy: what is cut out would keep the whole image in memory, or is read-only.
            tensor = torch.from_numpy(planes.copy(order="C"))
            item[name] = tensor.flip(-1) if flip else tensor
        return item

    def _random(
        self,
        pixels: Mapping[str, np.ndarray],
        epoch: int,
        index: int,
        jitter: Sequence[int],
    ) -> dict[str, Any]:
        """Cut the window of one scale; it lies in the middle of a frame for the smallest scale."""
        length, scale, place, flip = self._draw(epoch, index, jitter)
        item = self._cut(pixels, length, scale=scale, place=place, flip=flip)
        lacking = self.capture.window_side + 2 * self.margin - item["image"].shape[-1]
        if lacking:
            pads = (lacking // 2, lacking - lacking // 2) * 2
            for name in {"image", "sharp"} & item.keys():
                item[name] = torch.nn.functional.pad(item[name], pads)
        return item | {"scale": scale}

    def _draw(
        self, epoch: int, index: int, jitter: Sequence[int]
    ) -> tuple[int, int, tuple[float, float], bool]:
        """Draw the length that an image is resized to, a scale, a place, and if it is mirrored."""
        generator, scales = np.random.default_rng([self.seed, 2, epoch, index]), self.capture.scales
        length = int(generator.choice(jitter))
        place = (generator.random(), generator.random())
        flip = bool(self.flip and generator.random() < 0.5)
        scale = int(generator.choice(scales)) if len(scales) > 1 else scales[0]
        return length, scale, place, flip

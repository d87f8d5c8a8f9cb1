"""What all data modules share: from decoded images to batches that are blurred on the device.

A data module names its images through `Source`s; this module resizes them to the canonical scale,
cuts the window that `Capture` needs, and draws and applies the blur of training batches on the
device. Batches for validation and tests stay sharp: the task asks for its conditions.
"""

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate
from typing_extensions import override

from blur_lightning.blur import Blur, BlurDistribution, Capture
from blur_lightning.blur.capture import cut_window, normalize
from blur_lightning.data.images import UnreadableImageError, resize_smaller_side
from blur_lightning.errors import InputError

Split = Literal["train", "val", "test", "predict"]


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

    def load(self, index: int) -> np.ndarray:
        """Decode one image to uint8 (h, w, 3); UnreadableImageError names a file that is broken."""
        ...


def fingerprint(source: Source) -> str:
    """SHA-256 over the names and labels of a data set, in order: equal for equal image lists."""
    digest = hashlib.sha256()
    labels = source.labels if source.labels is not None else [-1] * len(source.names)
    for name, label in zip(source.names, labels, strict=True):
        digest.update(f"{name}\0{label}\n".encode())
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

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Any]:
        """Return a sharp window and its label for (epoch, index)."""
        epoch, index = key
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


class BlurDataModule(LightningDataModule, ABC):
    """Data whose images are blurred on the device.

    Args:
        blur: What training images are blurred with, one draw an image: sharp, D4, H8, V8, M8@30,
            G4, shake, a range D2..8, a mix sharp+D2+D4, or a weighted mix 0.2*sharp+0.8*shake.
        capture: Scales, crop and border of what the network sees.
        jitter: Smaller sides, in pixels, to which training images are resized before the blur, one
            at random; empty is the canonical scale alone.
        flip: Mirror half of the training images, left to right.
        batch_size: Images in a batch.
        num_workers: Processes that decode; None is one a core, at most 8.
        seed: Seed of all draws; None is the run's seed_everything.
        skip_unreadable: Leave out images that cannot be read and list them in provenance.json,
            instead of stopping.
    """

    num_classes: int

    def __init__(
        self,
        *,
        blur: str = "sharp",
        capture: Capture | None = None,
        jitter: Sequence[int] = (),
        flip: bool = True,
        batch_size: int = 128,
        num_workers: int | None = None,
        seed: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__()
        # The data set's name in records.
        self.name = type(self).__name__.removesuffix("DataModule").lower()
        self.blur = BlurDistribution.parse(blur)
        self.capture = capture or Capture()
        self.jitter = tuple(jitter) or (self.capture.canonical,)
        self.flip = flip
        self.batch_size, self.skip_unreadable = batch_size, skip_unreadable
        cores = len(os.sched_getaffinity(0))
        self.num_workers = min(8, cores) if num_workers is None else num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.unreadable: dict[int, str] = {}
        self.sources: dict[Split, Source] = {}

    @abstractmethod
    def source(self, split: Split) -> Source:
        """Return the images of a split; InputError if they are not there."""

    @override
    def setup(self, stage: str) -> None:
        needed: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in needed.get(stage, (stage,)):
            self.sources.setdefault(split, self.source(split))  # type: ignore[arg-type]

    @override
    def train_dataloader(self) -> DataLoader:
        return self._loader("train", self.blur.half_width)

    @override
    def val_dataloader(self) -> DataLoader:
        return self._loader("val", self._margin())

    @override
    def test_dataloader(self) -> DataLoader:
        return self._loader("test", self._margin())

    @override
    def predict_dataloader(self) -> DataLoader:
        return self._loader("predict", self._margin())

    @override
    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        unreadable = batch.pop("unreadable")
        if unreadable and not self.skip_unreadable:
            raise InputError(
                f"{next(iter(unreadable.values()))}; mend or remove it, "
                "or leave such images out with --data.skip_unreadable true"
            )
        self.unreadable.update(unreadable)
        assert self.trainer is not None
        if self.trainer.training and not self.trainer.validating and "image" in batch:
            keys = zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)
            batch["blur"] = [self.blur.draw(seed=self.seed, index=i, epoch=e) for e, i in keys]
            batch["image"] = self.blurred(batch, batch["blur"])
        return batch

    def blurred(self, batch: dict[str, Any], blurs: Sequence[Blur]) -> Tensor:
        """Turn the sharp windows of a batch into the network's input, each with its own blur."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        return normalize(self.capture(batch["image"], blurs), mean=module.mean, std=module.std)

    def draw(self, condition: BlurDistribution, batch: dict[str, Any]) -> list[Blur]:
        """Draw the blurs of a test condition: functions of (seed, condition, index) alone."""
        return [condition.draw(seed=self.seed, index=i) for i in batch["index"].tolist()]

    def provenance(self) -> dict[str, Any]:
        """Say which data was used: for provenance.json."""
        return {
            "dataset": self.name,
            "fingerprint": {split: fingerprint(source) for split, source in self.sources.items()},
            "images": {split: len(source.names) for split, source in self.sources.items()},
            "unreadable": sorted(self.unreadable.values()),
            "kernel_banks": self.blur.bank_hashes("training") if "train" in self.sources else {},
        }

    def _margin(self) -> int:
        """Pixels that the widest test condition draws on beyond a window."""
        conditions = getattr(self.trainer.lightning_module, "conditions", ())  # type: ignore[union-attr]
        return max(blur.half_width for blur in (self.blur, *conditions))

    def _loader(self, split: Split, margin: int) -> DataLoader:
        source, training = self.sources[split], split == "train"
        dataset = WindowDataset(
            source,
            self.capture,
            margin=margin,
            seed=self.seed,
            jitter=self.jitter if training else None,
            flip=self.flip,
        )
        assert self.trainer is not None
        sampler = KeyedSampler(
            len(dataset),
            seed=self.seed if training else None,
            rank=self.trainer.global_rank,
            processes=self.trainer.world_size,
        )
        return DataLoader(
            dataset,
            batch_size=self.batch_size,
            sampler=sampler,
            num_workers=self.num_workers,
            collate_fn=collate_readable,
            drop_last=training and len(sampler) >= self.batch_size,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=self.num_workers > 0,
        )


def collate_readable(items: list[dict[str, Any]]) -> dict[str, Any]:
    """Make a batch of the images that could be read; `unreadable` maps the others to their error.

    A batch of which nothing could be read has no `image`.
    """
    unreadable = {item["index"]: item["unreadable"] for item in items if "unreadable" in item}
    readable = [item for item in items if "unreadable" not in item]
    return {**(default_collate(readable) if readable else {}), "unreadable": unreadable}

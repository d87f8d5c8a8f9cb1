"""What all data modules share: batches that are blurred on the device.

A data module names its images through `Source`s. Training batches are blurred here, each image by
its own draw; batches for validation and tests stay sharp: the task asks for its conditions.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from blur_lightning.blur import Blur, BlurDistribution, Capture
from blur_lightning.blur.capture import normalize
from blur_lightning.data.windows import (
    KeyedSampler,
    Source,
    WindowDataset,
    collate_readable,
    fingerprint,
)
from blur_lightning.errors import InputError

Split = Literal["train", "val", "test", "predict"]


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
        if batch_size < 1 or min(self.jitter) < 1 or min(num_workers or 0, seed or 0) < 0:
            raise InputError("data: batch_size, jitter: 1 or more; num_workers, seed: 0 or more")
        self.check_reach(self.blur)
        self.batch_size, self.skip_unreadable = batch_size, skip_unreadable
        cores = len(os.sched_getaffinity(0))
        self.num_workers = min(8, cores) if num_workers is None else num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.unreadable: set[str] = set()
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
        self.unreadable.update(unreadable.values())
        assert self.trainer is not None
        if self.trainer.training and not self.trainer.validating and "image" in batch:
            keys = zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)
            batch["blur"] = [self.blur.draw(seed=self.seed, index=i, epoch=e) for e, i in keys]
            batch["image"] = self.blurred(batch, batch["blur"])
        return batch

    def blurred(self, batch: dict[str, Any], blurs: Sequence[Blur]) -> Tensor:
        """Turn the sharp windows of a batch into the network's input, each with its own blur."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        images = self.capture(batch["image"], blurs)
        images = normalize(images, mean=module.mean, std=module.std, inplace=True)
        return images.to(module.dtype)

    def draw(self, condition: BlurDistribution, batch: dict[str, Any]) -> list[Blur]:
        """Draw the blurs of a test condition: functions of (seed, condition, index) alone."""
        return [condition.draw(seed=self.seed, index=i) for i in batch["index"].tolist()]

    @property
    def dataset(self) -> str:
        """Name in records: results of captures that differ must not be taken for repeats."""
        variant = self.capture.variant
        return f"{self.name} ({variant})" if variant else str(self.name)

    def provenance(self) -> dict[str, Any]:
        """Say which data was used: for provenance.json."""
        return {
            "dataset": self.dataset,
            "fingerprint": {split: fingerprint(source) for split, source in self.sources.items()},
            "images": {split: len(source.names) for split, source in self.sources.items()},
            "unreadable": sorted(self.unreadable),
            "kernel_banks": self.blur.bank_hashes("training") if "train" in self.sources else {},
        }

    def check_reach(self, blur: BlurDistribution) -> None:
        """Refuse a blur that is wider than an image: InputError."""
        name = "crop" if self.capture.order == "crop_first" else "canonical"
        side = getattr(self.capture, name)
        if blur.half_width >= side:
            raise InputError(
                f"blur '{blur}': its kernel reaches {blur.half_width} pixels to each side, beyond "
                f"an image of data.capture.{name} {side}; use a smaller one"
            )

    def _margin(self) -> int:
        """Pixels that the widest test condition draws on beyond a window."""
        conditions = getattr(self.trainer.lightning_module, "conditions", ())  # type: ignore[union-attr]
        for blur in conditions:
            self.check_reach(blur)
        return max(blur.half_width for blur in (self.blur, *conditions))

    def _loader(self, split: Split, margin: int) -> DataLoader:
        source, training = self.sources[split], split == "train"
        dataset = WindowDataset(
            source,
            self.capture,
            margin=self.capture.margin(margin),
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
        # After a resume workers fetch ahead before Lightning calls set_epoch.
        sampler.set_epoch(self.trainer.current_epoch)
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

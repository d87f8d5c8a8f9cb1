"""What all data modules share: batches that are blurred on the device.

A data module names its images through `Source`s. Training batches are blurred here, each image by
its own draw; batches for validation and tests stay sharp: the task asks for its conditions.
"""

import os
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader
from typing_extensions import override

from blur_lightning.blur import Blur, BlurDistribution, Capture
from blur_lightning.blur.capture import normalize
from blur_lightning.blur.conditions import check_reach
from blur_lightning.blur_estimate import estimate_blur
from blur_lightning.data.batches import (
    KeyedLoader,
    KeyedSampler,
    ShapeBatches,
    canonical_shapes,
    in_all_processes,
    loader_options,
    unmeasured,
)
from blur_lightning.data.windows import Source, Subset, WindowDataset, fingerprint, stratified
from blur_lightning.errors import InputError

Split = Literal["train", "val", "test", "predict"]


class BlurDataModule(LightningDataModule, ABC):
    """Data whose images are blurred on the device.

    Args:
        blur: What training images are blurred with, one draw an image: sharp, D4, H8, V8, M8@30,
            G4, shake, a range D2..8, a mix sharp+D2+D4, or a weighted mix 0.2*sharp+0.8*shake.
        val_blur: What validation images are blurred with; None is blur, so that of runs which train
            on other mixes the figures do not compare.
        capture: Scales, crop and border of what the network sees.
        test_whole: Test and predict whole images instead of their central crops; the network must
            take any size (see `models.dense`).
        jitter: Scales, in pixels, to which training images are resized before the blur, one at
            random, measured as the canonical one; empty is that alone.
        flip: Mirror half of the training images, left to right.
        fraction: Train on this part of every class, in (0, 1], drawn from the seed.
        per_class: Test on so many images of every class, drawn from the seed; None is all.
        fast_resize: Resize training images faster, by torch; a value in some hundreds differs
            by one of 255 levels from what validation and tests would see. They stay exact.
        batch_size: Images in a batch of each process.
        num_workers: Processes that decode; None is one a core, at most 8.
        seed: Seed of all draws; None is the run's seed_everything.
        skip_unreadable: Leave out images that cannot be read and list them in provenance.json,
            instead of stopping.
    """

    num_classes: int
    training_dataset = WindowDataset

    def __init__(
        self,
        *,
        blur: str = "sharp",
        val_blur: str | None = None,
        capture: Capture | None = None,
        test_whole: bool = False,
        jitter: Sequence[int] = (),
        flip: bool = True,
        fraction: float = 1.0,
        per_class: int | None = None,
        fast_resize: bool = False,
        batch_size: int = 128,
        num_workers: int | None = None,
        seed: int | None = None,
        skip_unreadable: bool = False,
    ) -> None:
        super().__init__()
        self.name = type(self).__name__.removesuffix("DataModule").lower()  # in records
        self.blur = BlurDistribution.parse(blur)
        self.val_blur = BlurDistribution.parse(val_blur or blur)
        self.capture = capture or Capture()
        self.test_capture = replace(self.capture, crop="whole") if test_whole else self.capture
        self.jitter = tuple(jitter) or (self.capture.canonical,)
        self.flip, self.fast_resize = flip, fast_resize
        if batch_size < 1 or min(self.jitter) < 1 or min(num_workers or 0, seed or 0) < 0:
            raise InputError("data: batch_size, jitter: 1 or more; num_workers, seed: 0 or more")
        if not 0 < fraction <= 1:
            raise InputError(f"data.fraction: {fraction} is not above 0 and at most 1")
        if per_class is not None and per_class < 1:
            raise InputError(f"data.per_class: {per_class} is not 1 or more; null is all")
        self.fraction, self.per_class = fraction, per_class
        for each in (self.blur, self.val_blur):
            check_reach(each, self.capture)
        self.batch_size, self.skip_unreadable = batch_size, skip_unreadable
        cores = len(os.sched_getaffinity(0))
        self.num_workers = min(8, cores) if num_workers is None else num_workers
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", "0")) if seed is None else seed
        self.unreadable: set[str] = set()
        self.sources: dict[Split, Source] = {}
        self._position: dict[str, Any] = {}

    @abstractmethod
    def source(self, split: Split) -> Source:
        """Return the images of a split; InputError if they are not there."""

    @override
    def setup(self, stage: str) -> None:
        needed: dict[str, tuple[Split, ...]] = {"fit": ("train", "val"), "validate": ("val",)}
        for split in needed.get(stage, ("test" if stage == "test" else "predict",)):
            if split not in self.sources:
                self.sources[split] = self._part(split)

    def _part(self, split: Split) -> Source:
        """All images of a split, or those that `fraction` and `per_class` draw."""
        source = self.source(split)
        if split == "test" and len(source.names) < 2:
            raise InputError("data: a test needs two images or more; one has no interval")
        fraction = self.fraction if split == "train" else 1.0
        per_class = self.per_class if split == "test" else None
        if source.labels is None or (fraction == 1 and per_class is None):
            return source
        chosen = stratified(source.labels, seed=self.seed, fraction=fraction, per_class=per_class)
        return Subset(source, chosen)

    @override
    def train_dataloader(self) -> DataLoader:
        loader = self._training = self._loader("train")
        position, self._position = self._position, {}
        if position and self.trainer:
            loader.load_state_dict(position)
            loader.correct(self.trainer.fit_loop.epoch_loop.batch_progress.current)
        return loader

    @override
    def state_dict(self) -> dict[str, Any]:
        return {**self._training.state_dict(), "unreadable": sorted(self.all_unreadable())}

    @override
    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        # For Lightning the loader is made before it knows that it goes on inside an epoch.
        self._position = state_dict
        self.unreadable.update(state_dict.get("unreadable", ()))

    @override
    def val_dataloader(self) -> DataLoader:
        return self._loader("val")

    @override
    def test_dataloader(self) -> DataLoader:
        return self._loader("test")

    @override
    def predict_dataloader(self) -> DataLoader:
        return self._loader("predict")

    @override
    def on_after_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        unreadable = batch.pop("unreadable")
        if unreadable and not self.skip_unreadable:
            raise InputError(
                f"{next(iter(unreadable.values()))}; mend or remove it, "
                "or leave such images out with --data.skip_unreadable true"
            )
        self.unreadable.update(unreadable.values())
        if "mask" in batch:
            batch["mask"] = batch["mask"].long()  # bytes until here: an eighth to move
        assert self.trainer is not None
        if self.trainer.training and not self.trainer.validating and "image" in batch:
            keys = zip(batch["epoch"].tolist(), batch["index"].tolist(), strict=True)
            batch["blur"] = [self.blur.draw(seed=self.seed, index=i, epoch=e) for e, i in keys]
            if getattr(self.trainer.lightning_module, "needs_sharp", False):
                windows = batch.get("sharp", batch["image"])
                batch["sharp"] = self.in_training(windows, [Blur("sharp")] * len(windows), batch)
            batch["window"] = batch["image"]
            batch["image"] = self.in_training(batch["window"], batch["blur"], batch)
        return batch

    def all_unreadable(self) -> set[str]:
        """What any process could not read; all must ask."""
        self.unreadable = in_all_processes(self.unreadable)
        return self.unreadable

    def in_training(self, windows: Tensor, blurs: Any, batch: dict[str, Any]) -> Tensor:
        """Turn windows into what the network sees of them, each at the scale drawn for it."""
        return self._normalized(self.capture.at_scales(windows, blurs, batch["scale"].tolist()))

    def blurred(self, batch: dict[str, Any], blurs: Any) -> Tensor | list[Tensor]:
        """Turn the sharp images of a batch into the network's input, each with its own blur.

        Args:
            batch: Its `image` holds the sharp ones.
            blurs: A `Blur`, or a kernel, for each: see `Capture`.

        Returns:
            (b, 3, h, w), or a list of them where the capture has several scales.
        """
        seen = self.active_capture(batch["image"], blurs)
        if isinstance(seen, Tensor):
            return self._normalized(seen)
        return [self._normalized(images) for images in seen]

    def sharp(self, batch: dict[str, Any]) -> Tensor | list[Tensor]:
        """What the network would see of a batch without any blur: of pairs, the sharp images."""
        images = batch.get("sharp", batch["image"])
        return self.blurred({"image": images}, [Blur("sharp")] * len(images))

    def _normalized(self, images: Tensor) -> Tensor:
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        images = normalize(images, mean=module.mean, std=module.std, inplace=True)
        return images.to(module.dtype)

    @property
    def active_capture(self) -> Capture:
        """What the network sees in the stage that runs."""
        assert self.trainer is not None
        testing = self.trainer.testing or self.trainer.predicting
        return self.test_capture if testing else self.capture

    def draw(self, condition: BlurDistribution, batch: dict[str, Any]) -> list[Blur]:
        """Draw the blurs of a test condition: functions of (seed, condition, index) alone."""
        return [condition.draw(seed=self.seed, index=i) for i in batch["index"].tolist()]

    @property
    def dataset(self) -> str:
        """Name in records: results of captures that differ must not be taken for repeats."""
        variant = self.test_capture.variant
        return f"{self.name} ({variant})" if variant else str(self.name)

    @property
    def training_mix(self) -> str:
        """What a network trained on this data has seen, as records name it."""
        return str(self.blur)

    def provenance(self) -> dict[str, Any]:
        """Say which data was used: for provenance.json."""
        return {
            "dataset": self.dataset,
            "fingerprint": {split: fingerprint(source) for split, source in self.sources.items()},
            "images": {split: len(source.names) for split, source in self.sources.items()},
            "unreadable": sorted(self.unreadable),
            "subset": {"fraction": self.fraction, "per_class": self.per_class, "seed": self.seed},
            "kernel_banks": self.blur.bank_hashes("training") if "train" in self.sources else {},
        }

    def _margin(self, split: Split, capture: Capture) -> int:
        """Pixels that the widest blur of a split draws on beyond a window."""
        module: Any = self.trainer.lightning_module  # type: ignore[union-attr]
        own = {"train": [self.blur, *getattr(module, "attacks", ())], "val": [self.val_blur]}
        blurs = own.get(split, getattr(module, "conditions", ()))
        for blur in blurs:
            check_reach(blur, capture)
        return max((blur.half_width for blur in blurs), default=0)

    def _loader(self, split: Split) -> Any:
        assert self.trainer is not None
        source, training = self.sources[split], split == "train"
        capture = self.test_capture if split in ("test", "predict") else self.capture
        if getattr(self.trainer.lightning_module, "restoring", False):  # whole images
            capture = replace(capture, crop="whole")
        if split in ("train", "val") and capture.whole:
            raise InputError(
                "data.capture.crop: training needs a square, e.g. 224; for tests of whole images "
                "set data.test_whole true"
            )
        margin = self._margin(split, capture)
        dataset = (self.training_dataset if training else WindowDataset)(
            source,
            capture,
            margin=capture.margin(margin),
            seed=self.seed,
            jitter=self.jitter if training else None,
            flip=self.flip,
            fast=self.fast_resize,
            estimate=estimate_blur if split == "predict" else None,
        )
        indices = unmeasured(self.trainer, split, len(source.names))
        process = {"rank": self.trainer.global_rank, "processes": self.trainer.world_size}
        options = loader_options(self.num_workers)
        if capture.whole:
            shapes = canonical_shapes(
                source, indices, capture, reach=margin, threads=self.num_workers
            )
            batches = ShapeBatches(indices, shapes, batch_size=self.batch_size, **process)
            return DataLoader(dataset, batch_sampler=batches, **options)
        seed, epochs = self.seed if training else None, self.trainer.max_epochs
        sampler = KeyedSampler(indices, seed=seed, epochs=epochs, **process)
        if not len(sampler):
            raise InputError(f"data: {len(indices)} images for {split} are fewer than processes")
        # After a resume workers fetch ahead before Lightning calls set_epoch.
        sampler.set_epoch(self.trainer.current_epoch)
        drop_last = training and len(sampler) >= self.batch_size
        loader = KeyedLoader if training else DataLoader
        return loader(
            dataset, batch_size=self.batch_size, sampler=sampler, drop_last=drop_last, **options
        )

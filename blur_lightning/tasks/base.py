"""What all tasks share: conditions, records and what a checkpoint says of its training."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import torch
from jaxtyping import UInt8
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.blur import Blur, BlurDistribution
from blur_lightning.blur.conditions import parse_conditions
from blur_lightning.errors import InputError
from blur_lightning.records import robustness
from blur_lightning.records.measurements import Measurements
from blur_lightning.records.provenance import environment
from blur_lightning.tasks.examples import ExampleStrips, middle_square, to_bytes
from blur_lightning.tasks.freezing import freeze as freeze_blocks
from blur_lightning.tasks.networks import network_name, normalization, trained_mix, weights_hash
from blur_lightning.tasks.predictions import write_predictions
from blur_lightning.tasks.rows import Columns, columns_of
from blur_lightning.tasks.training import optimizers, seed_batch

Result = TypeVar("Result")
_PASSING = {"created", "milliseconds_an_image"}  # differ where the same is measured


class Task(LightningModule, ABC):
    """A network, how it is trained, and the blurs that it is tested under.

    A subclass measures each image under a blur; this class asks for every condition of a decoded
    batch, collects what was measured, and leaves `robustness.csv`, `images.parquet`,
    `provenance.json` and example pictures in the run's folder.
    """

    # Columns that become records; `measure` gives them, among others, for each image.
    metrics: tuple[str, ...]

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: OptimizerCallable | None,
        lr_scheduler: LRSchedulerCallable | None,
        lr_interval: Literal["epoch", "step"],
        freeze: int,
        channels_last: bool,
        compile: bool,
        conditions: Sequence[str],
        name: str | None,
        trained_on: str | None,
    ) -> None:
        super().__init__()
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.memory_format)
        self._freeze, self._frozen = freeze, freeze_blocks(net, freeze)
        if compile:
            self.net.compile()  # in place: the names of the weights stay
        self.conditions = parse_conditions(conditions)
        self.name = name or network_name(net)
        self.trained_on = trained_on or trained_mix(net) or "original"
        self.run_config: Mapping[str, Any] | None = None
        self._measurements: Measurements | None = None
        self._examples: ExampleStrips | None = None

    @abstractmethod
    def measure(self, output: Tensor, batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """Measure each image of a batch from the network's output for it, columns (b, ...)."""

    def measure_whole(self, rows: Columns) -> Mapping[str, robustness.Interval]:
        """Measure all images of a condition at once: value and ends of its interval by metric."""
        return {}

    def pictures(
        self, image: Tensor, output: Tensor, batch: Mapping[str, Any]
    ) -> list[UInt8[Tensor, "3 _ _"]]:
        """What to show of each image of a batch: here the middle square that the network saw."""
        return [middle_square(picture) for picture in to_bytes(image, self.mean, self.std)]

    @property
    def mean(self) -> Sequence[float]:
        """Of each channel of the network's input, as timm knows it; else ImageNet's."""
        return normalization(self.net)["mean"]

    @property
    def std(self) -> Sequence[float]:
        """Of each channel of the network's input, as timm knows it; else ImageNet's."""
        return normalization(self.net)["std"]

    @override
    def forward(self, image: Tensor | list[Tensor]) -> Any:
        """Images (b, 3, h, w), or a list of the same images at several scales."""
        try:
            if isinstance(image, Tensor):
                return self.net(image.contiguous(memory_format=self.memory_format))
            if getattr(self.net, "takes_scales", False):
                return self.net([i.contiguous(memory_format=self.memory_format) for i in image])
            raise InputError(
                "model.net: takes one scale, and data.capture.scale names several; wrap it in "
                "blur_lightning.models.Dense or FiveCrops"
            )
        except AssertionError as error:  # what timm says of an input of another size
            raise InputError(
                f"model.net: {error}; fit --data.capture.crop and --data.capture.scale to it"
            ) from error

    @override
    def configure_optimizers(self) -> Any:
        return optimizers(self, self.optimizer, self.lr_scheduler, interval=self.lr_interval)

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        data, key = self.datamodule, {"epoch": self.current_epoch, "process": self.global_rank}
        seed_batch(data.seed, batch=batch_idx, **key)
        self.trained_on = data.training_mix
        for name in self._frozen:  # by name: Lightning may have put other modules in their place
            self.net.get_submodule(name).eval()
        if self._freeze:
            self.trained_on += f", freeze {self._freeze}"

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trained_on"] = self.trained_on

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_on = checkpoint.get("trained_on", self.trained_on)

    def measured_before(self) -> set[int]:
        """Images that were measured before; the data module asks once the weights are in place."""
        measurements = self._measurements = Measurements(self.run_folder, self._key())
        if self.trainer.is_global_zero:
            measurements.prepare()
        self.trainer.strategy.barrier()
        self._examples = ExampleStrips(measurements.folder / "examples", len(self.conditions))
        if (indices := measurements.indices()) and self.trainer.is_global_zero:
            print(f"going on: {len(indices):,} images were measured before")
        return indices

    def _key(self) -> str:
        """Hash of all that a measurement depends on."""
        facts = {name: fact for name, fact in self.provenance().items() if name not in _PASSING}
        del facts["data"]["unreadable"]
        facts["stage"] = self.trainer.state.fn
        return hashlib.sha256(json.dumps(facts, default=str).encode()).hexdigest()

    @override
    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        if "image" not in batch:  # nothing in it could be read
            return
        rows = []
        for condition, blurs, image in self._each_condition(batch):
            measured = self.see(image, batch, str(condition))
            rows.append(columns_of(condition, blurs, batch, measured))
        merged = {name: np.concatenate([columns[name] for columns in rows]) for name in rows[0]}
        self.measurements.append(merged)

    predict_step = test_step

    def see(
        self, image: Tensor | list[Tensor], batch: Mapping[str, Any], condition: str
    ) -> Mapping[str, Tensor]:
        """Let the network see a batch under a condition, and measure; a test shows the first."""
        output, strips = self(image), self._examples if self.trainer.testing else None
        if strips and strips.wants(condition) and self.trainer.is_global_zero:
            seen = image if isinstance(image, Tensor) else image[0]
            strips.add(condition, self.pictures(seen, output, batch))
        return self.measure(output, batch)

    def _each_condition(
        self, batch: Mapping[str, Any]
    ) -> Iterable[tuple[BlurDistribution, list[Blur], Tensor | list[Tensor]]]:
        """Blur a decoded batch once for each condition, on the device."""
        for condition in self.conditions:
            blurs = self.datamodule.draw(condition, batch)
            yield condition, blurs, self._under(condition, blurs, batch)

    def _under(
        self, condition: BlurDistribution, blurs: list[Blur], batch: Mapping[str, Any]
    ) -> Tensor | list[Tensor]:
        """What the network sees of a batch under one condition."""
        return self.datamodule.blurred(batch, blurs)

    @override
    def on_test_epoch_end(self) -> None:
        records = self._collected(self._records)
        # The same on all processes.
        self.log_dict(
            {f"test/{r.condition}/{r.metric}": r.value for r in records}, rank_zero_only=True
        )
        if self.trainer.is_global_zero:
            if self._key() != self.measurements.key:
                raise InputError("data: images changed during the test; give the command again")
            robustness.write_run(
                self.run_folder,
                records=records,
                images=(self.measurements.rows(str(c)) for c in self.conditions),
                provenance=self.provenance(),
            )
            assert self._examples
            self._examples.publish(self.run_folder / "examples")
            self.forget_measurements()
            for logger in self.loggers:
                if hasattr(logger, "log_test"):
                    logger.log_test(self.run_folder, records)
            print(f"\n\n{robustness.table(records)}")
            print(f"\nwritten: {self.run_folder / robustness.RECORDS}")

    @override
    def on_predict_epoch_end(self) -> None:
        source = self.datamodule.sources["predict"]
        write = partial(write_predictions, self.run_folder, source, self.measurements)
        text = self._collected(lambda: write(map(str, self.conditions)))
        if self.trainer.is_global_zero:
            self.measurements.remove()
            print(text)

    def _records(self) -> list[robustness.Record]:
        """Summarise what was measured, a condition at a time."""
        records: list[robustness.Record] = []
        for condition in self.conditions:
            records += robustness.summarize(
                self.measurements.rows(str(condition)),
                metrics=self.metrics,
                whole=self.measure_whole,
                conditions=[(str(condition), condition.family, condition.parameter)],
                run=self.run_folder.resolve().name,
                model=self.name,
                trained_on=self.trained_on,
                dataset=self.datamodule.dataset,
                scale=self.datamodule.test_capture.scale_name,
            )
        return records

    def _collected(self, collect: Callable[[], Result]) -> Result:
        """Let the first process collect what all have measured, and tell all the result."""
        self.datamodule.all_unreadable()  # a barrier, too
        collected = None
        if self.trainer.is_global_zero:
            if not self.measurements.indices():
                raise InputError("data: none of the images could be read")
            collected = collect()
        return self.trainer.strategy.broadcast(collected)  # type: ignore[return-value]

    def forget_measurements(self) -> None:
        """Remove what a test has measured, once its records are written."""
        self.measurements.remove()

    @property
    def measurements(self) -> Measurements:
        """What this test or prediction has measured so far."""
        assert self._measurements is not None  # the loader was made before
        return self._measurements

    def provenance(self) -> dict[str, Any]:
        """Everything needed to know where the numbers are from, and to repeat them."""
        data = self.datamodule.provenance()
        banks = [condition.bank_hashes("test") for condition in self.conditions]
        on_gpu = self.device.type == "cuda"
        return {
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "model": self.name,
            "trained_on": self.trained_on,
            "seed": self.datamodule.seed,
            "device": torch.cuda.get_device_name(self.device) if on_gpu else str(self.device),
            "precision": str(self.trainer.precision),
            "weights": weights_hash(self.net),
            "normalization": {"mean": list(self.mean), "std": list(self.std)},
            "kernel_banks": data.pop("kernel_banks") | {k: v for b in banks for k, v in b.items()},
            "data": data,
            "environment": environment(),
            "config": self.run_config,
        }

    @property
    def datamodule(self) -> Any:
        """The `BlurDataModule` that feeds this task; tasks and data meet at run time only."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def run_folder(self) -> Path:
        """Where all files of the run are."""
        return Path(self.trainer.default_root_dir)

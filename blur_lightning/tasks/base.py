"""What all tasks share: conditions, records and what a checkpoint says of its training."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning import robustness
from blur_lightning.blur import Blur, BlurDistribution
from blur_lightning.errors import InputError
from blur_lightning.provenance import environment
from blur_lightning.tasks.examples import ExampleStrips

# Mean and standard deviation of ImageNet's pixels, with which torchvision's networks were trained.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Columns = dict[str, np.ndarray]


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
        channels_last: bool,
        conditions: Sequence[str],
        name: str | None,
        trained_on: str,
    ) -> None:
        super().__init__()
        self.optimizer, self.lr_scheduler, self.lr_interval = optimizer, lr_scheduler, lr_interval
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.net = net.to(memory_format=self.memory_format)
        self.conditions = [BlurDistribution.parse(condition) for condition in conditions]
        if not conditions or len({str(blur) for blur in self.conditions}) < len(conditions):
            raise InputError("model.conditions: name at least one blur, each once")
        self.name, self.trained_on = name or _network_name(net), trained_on
        self.run_config: Mapping[str, Any] | None = None
        self._columns: list[Columns] = []
        self._examples = ExampleStrips()

    @abstractmethod
    def measure(self, output: Tensor, batch: Mapping[str, Any]) -> Mapping[str, Tensor]:
        """Measure each image of a batch from the network's output for it, columns (b, ...)."""

    @property
    def mean(self) -> Sequence[float]:
        """Of each channel of the network's input, as timm knows it; else ImageNet's."""
        return _pretrained_setting(self.net, "mean", IMAGENET_MEAN)

    @property
    def std(self) -> Sequence[float]:
        """Of each channel of the network's input, as timm knows it; else ImageNet's."""
        return _pretrained_setting(self.net, "std", IMAGENET_STD)

    @override
    def forward(self, image: Tensor) -> Tensor:
        try:
            return self.net(image.contiguous(memory_format=self.memory_format))
        except AssertionError as error:  # what timm says of an input of another size
            raise InputError(
                f"model.net: {error}; fit --data.capture.crop and --data.capture.scale to it"
            ) from error

    @override
    def configure_optimizers(self) -> Any:
        if self.optimizer is None:
            raise InputError(
                "model.optimizer: fit needs one, "
                "e.g. --model.optimizer torch.optim.SGD --model.optimizer.lr 0.001"
            )
        optimizer = self.optimizer(p for p in self.parameters() if p.requires_grad)
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        needed = self.trainer.estimated_stepping_batches
        if self.lr_interval == "step" and getattr(scheduler, "total_steps", needed) < needed:
            raise InputError(
                f"model.lr_scheduler: it ends before the {needed} steps of this training; "
                f"set --model.lr_scheduler.total_steps {needed}"
            )
        schedule = {"scheduler": scheduler, "interval": self.lr_interval}
        if hasattr(scheduler, "monitor"):
            schedule["monitor"] = scheduler.monitor
        return {"optimizer": optimizer, "lr_scheduler": schedule}

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        self.trained_on = str(self.datamodule.blur)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["trained_on"] = self.trained_on

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.trained_on = checkpoint.get("trained_on", self.trained_on)

    @override
    def on_test_epoch_start(self) -> None:
        self._columns.clear()
        self._examples.clear()

    @override
    def on_predict_epoch_start(self) -> None:
        self._columns.clear()

    @override
    def test_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        for condition, blurs, image in self._each_condition(batch):
            measured = self.measure(self(image), batch)
            self._columns.append(_columns(condition, blurs, batch, measured))
            self._examples.add(str(condition), image, mean=self.mean, std=self.std)

    @override
    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        for condition, blurs, image in self._each_condition(batch):
            measured = self.measure(self(image), batch)
            self._columns.append(_columns(condition, blurs, batch, measured))

    def _each_condition(
        self, batch: Mapping[str, Any]
    ) -> Iterable[tuple[BlurDistribution, list[Blur], Tensor]]:
        """Blur a decoded batch once for each condition, on the device."""
        if "image" not in batch:  # nothing in it could be read
            return
        for condition in self.conditions:
            blurs = self.datamodule.draw(condition, batch)
            yield condition, blurs, self.datamodule.blurred(batch, blurs)

    @override
    def on_test_epoch_end(self) -> None:
        images = self._gathered_columns()
        records = robustness.summarize(
            images,
            metrics=self.metrics,
            conditions=[(str(c), c.family, c.parameter) for c in self.conditions],
            run=self.run_folder.resolve().name,
            model=self.name,
            trained_on=self.trained_on,
            dataset=self.datamodule.dataset,
            scale=self.datamodule.capture.scale,
        )
        # The same on all processes, which have all gathered all columns.
        self.log_dict(
            {f"test/{r.condition}/{r.metric}": r.value for r in records}, rank_zero_only=True
        )
        if self.trainer.is_global_zero and not self.trainer.sanity_checking:
            robustness.write_run(
                self.run_folder, records=records, images=images, provenance=self.provenance()
            )
            self._examples.write(self.run_folder / "examples")
            path = self.run_folder / robustness.RECORDS
            print(f"\n\n{robustness.table(records)}\n\nwritten: {path}")

    @override
    def on_predict_epoch_end(self) -> None:
        columns = self._gathered_columns()
        if self.trainer.is_global_zero:
            names = self.datamodule.sources["predict"].names
            files = np.array([names[i] for i in columns.pop("index")], dtype=object)
            path = self.run_folder / "predictions.csv"
            robustness.write_table(path, {"file": files, **columns})
            print(f"written: {path}")

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
            "normalization": {"mean": list(self.mean), "std": list(self.std)},
            "kernel_banks": {
                **data.pop("kernel_banks"),
                **{k: v for b in banks for k, v in b.items()},
            },
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

    def _gathered_columns(self) -> Columns:
        """All that was measured, on all processes, by condition and index."""
        parts = [self._columns]
        if self.trainer.world_size > 1:
            parts = [[] for _ in range(self.trainer.world_size)]
            torch.distributed.all_gather_object(parts, self._columns)
        rows = [columns for part in parts for columns in part]
        if not rows:
            raise InputError("data: none of the images could be read")
        merged = {name: np.concatenate([columns[name] for columns in rows]) for name in rows[0]}
        place = {str(condition): i for i, condition in enumerate(self.conditions)}
        places = np.array([place[name] for name in merged["condition"]])
        order = np.lexsort((merged["index"], places))
        return {name: column[order] for name, column in merged.items()}


def _columns(
    condition: BlurDistribution,
    blurs: Sequence[Blur],
    batch: Mapping[str, Any],
    measured: Mapping[str, Tensor],
) -> Columns:
    """One row for each image of a batch under one condition: what was drawn and measured."""
    columns: Columns = {
        "index": batch["index"].cpu().numpy(),
        "condition": np.array([str(condition)] * len(blurs), dtype=object),
        "family": np.array([blur.family for blur in blurs], dtype=object),
        "parameter": np.array([blur.parameter for blur in blurs]),
        "angle": np.array([blur.angle for blur in blurs]),
        "share": np.array([blur.share for blur in blurs]),
    }
    if "label" in batch:
        columns["label"] = batch["label"].cpu().numpy()
    return columns | {name: values.cpu().numpy() for name, values in measured.items()}


def _network_name(net: nn.Module) -> str:
    return str(_pretrained_setting(net, "architecture", "") or type(net).__name__)


def _pretrained_setting(net: nn.Module, key: str, default: Any) -> Any:
    """Look up what timm notes of the pre-training on each of its networks."""
    settings = getattr(net, "pretrained_cfg", None) or {}
    return settings.get(key) or default

"""Classification under blur."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.errors import InputError
from blur_lightning.records.measures import abstention_table
from blur_lightning.records.robustness import Interval
from blur_lightning.tasks.base import Task
from blur_lightning.tasks.consistency import cosine_distance, features_of, jensen_shannon
from blur_lightning.tasks.diary import BlurDiary, Level, Table, most_problematic
from blur_lightning.tasks.rows import Columns
from blur_lightning.tasks.training import learn_from


class ClassificationTask(Task):
    """Train a classifier on a mix of blurs and test it under each of a list of blurs.

    Predictions are rows of predictions.csv: the five best classes of each photograph, the
    confidence in the first, and how blurry it is (see `blur_estimate`); blurriness.html shows the
    photographs, the blurriest first, and suggests a mix to train on.

    Args:
        net: Any network from images to logits by its class path: timm.create_model with
            model_name, torchvision.models.vgg16, your own module.
        optimizer: The optimiser, whole; needed by fit only.
        lr_scheduler: Schedule of the learning rate; None keeps it.
        lr_interval: Whether the schedule counts epochs or optimiser steps.
        freeze: How many of the network's first blocks fit keeps as they are, weights and batch
            statistics; 0 trains all. A block is a layer, a residual or transformer block, or a
            stage; a number too large is answered with their names.
        consistency: Weight of the Jensen-Shannon divergence between the predictions for the sharp
            and the blurred view of each training image, in nats; 0 is none, AugMix's is 12.
        feature_consistency: Weight of the cosine distance, 0 to 2, between what the last linear
            layer is given for both views; 0 is none.
        channels_last: Keep images and weights with the channels last in memory, which is faster
            for convolutions on most CPUs and GPUs.
        compile: Compile the network (torch.compile), which pays for long runs on a GPU.
        conditions: Blurs to test under, in the order of the report: sharp, D4, H8, V8, M8@30, G4,
            shake, D2..8, sharp+D2+D4; D1..8:0.5 is a condition at every half pixel.
        name: The network's name in records; None takes timm's, or the class.
        trained_on: What the records say the network was trained on before this run; None is what
            a checkpoint of fit says, else original.
    """

    metrics = ("top1", "top5", "entropy", "cross_entropy")
    needs_labels = True  # for a test

    def __init__(
        self,
        net: nn.Module,
        *,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        freeze: int = 0,
        consistency: float = 0.0,
        feature_consistency: float = 0.0,
        channels_last: bool = False,
        compile: bool = False,
        conditions: Sequence[str] = ("sharp",),
        name: str | None = None,
        trained_on: str | None = None,
    ) -> None:
        super().__init__(
            net,
            optimizer=optimizer,
            lr_scheduler=lr_scheduler,
            lr_interval=lr_interval,
            freeze=freeze,
            channels_last=channels_last,
            compile=compile,
            conditions=conditions,
            name=name,
            trained_on=trained_on,
        )
        if min(consistency, feature_consistency) < 0:
            raise InputError("model: consistency and feature_consistency must be 0 or more")
        self.consistency, self.feature_consistency = consistency, feature_consistency
        self.needs_sharp = max(consistency, feature_consistency) > 0
        self._levels: list[Level] = []
        # What an epoch that a checkpoint cut short had in the diary.
        self._noted: tuple[Tensor, Tensor, Tensor] | None = None

    @override
    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        if "image" not in batch:  # nothing in it could be read
            return learn_from(self, batch)
        logits, inconsistency = self._views(batch)
        self._check_classes(logits)
        losses = F.cross_entropy(logits, batch["label"], reduction="none")
        loss = learn_from(self, batch, losses.mean() + inconsistency, len(losses))
        hits = logits.detach().argmax(dim=1) == batch["label"]
        self._diary.add(self.current_epoch, batch["index"], batch["blur"], losses, hits)
        return loss

    def _views(self, batch: Mapping[str, Any]) -> tuple[Tensor, Tensor | float]:
        """Logits of the blurred view, and what its difference from the sharp one costs."""
        if max(self.consistency, self.feature_consistency) == 0:
            return self(batch["image"]), 0.0
        # One pass, so that both have the same batch statistics.
        views = torch.cat([batch["image"], batch["sharp"]])
        if self.feature_consistency == 0:
            logits, sharp = self(views).chunk(2)
            return logits, self.consistency * jensen_shannon(logits, sharp).mean()
        with features_of(self.net) as seen:
            logits, sharp = self(views).chunk(2)
        distance = cosine_distance(*seen[-1].flatten(1).chunk(2)).mean()
        divergence = jensen_shannon(logits, sharp).mean()
        return logits, self.consistency * divergence + self.feature_consistency * distance

    @override
    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        super().on_train_batch_start(batch, batch_idx)
        for name in ("consistency", "feature_consistency"):
            if weight := getattr(self, name):
                self.trained_on += f", {name.replace('_', ' ')} {weight:g}"

    @override
    def on_train_start(self) -> None:
        self._diary = BlurDiary(self.datamodule.blur)
        if self._noted and self.trainer.is_global_zero:
            draw, seed, epoch = self.datamodule.blur.draw, self.datamodule.seed, self.current_epoch
            index, loss, hit = self._noted
            blurs = [draw(seed=seed, index=i, epoch=epoch) for i in index.tolist()]
            self._diary.add(epoch, index, blurs, loss, hit)

    @override
    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_save_checkpoint(checkpoint)
        if hasattr(self, "_diary"):
            checkpoint["diary"] = self._diary.noted(gather=self._gathered)

    @override
    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self._noted = checkpoint.get("diary")

    @override
    def on_train_epoch_end(self) -> None:
        """Write the blur diary, and log it as a table where a tracker takes tables."""
        self._levels = self._diary.end_epoch(self.run_folder, gather=self._gathered)
        for logger in self.loggers if self._levels else ():
            if hasattr(logger, "log_table"):
                columns, data = list(Level._fields), [list(level) for level in self._levels]
                logger.log_table("blur_diary", columns=columns, data=data)

    @override
    def on_fit_end(self) -> None:
        worst = most_problematic(self._levels)
        if worst is not None:
            print(f"most problematic blur in training: {worst}")

    def _gathered(self, table: Table) -> list[Table] | None:
        """What all processes have, on the first one."""
        if self.trainer.world_size == 1:
            return [table]
        tables: list[Any] | None = [None] * self.trainer.world_size
        torch.distributed.gather_object(table, tables if self.trainer.is_global_zero else None)
        return tables if self.trainer.is_global_zero else None

    @override
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Validate under one mix: every image gets one draw, always the same."""
        if "image" not in batch:
            return
        blurs = self.datamodule.draw(self.datamodule.val_blur, batch)
        measured = self.measure(self(self.datamodule.blurred(batch, blurs)), batch)
        means = {f"val/{metric}": measured[metric].float().mean() for metric in self.metrics}
        self.log_dict(means, prog_bar=True, sync_dist=True, batch_size=len(blurs))

    @override
    def on_test_start(self) -> None:
        if self.needs_labels and self.datamodule.sources["test"].labels is None:
            raise InputError(
                "data: a test needs labels; predict needs none, nor does the CriticalBlurTask"
            )

    @override
    def measure(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        self._check_classes(output)
        log_probabilities = output.float().log_softmax(dim=1)
        best = log_probabilities.topk(min(5, output.shape[1]), dim=1)
        measured = {
            "top5_classes": best.indices.int(),
            "confidence": best.values[:, 0].exp(),
            "entropy": -torch.special.xlogy(log_probabilities.exp(), log_probabilities.exp()).sum(
                1
            ),
        }
        if "label" in batch:
            label = batch["label"]
            hits = best.indices == label[:, None]
            cross_entropy = -log_probabilities.gather(1, label[:, None])[:, 0]
            measured |= {
                "top1": hits[:, 0],
                "top5": hits.any(dim=1),
                "cross_entropy": cross_entropy,
                "probability": (-cross_entropy).exp(),
            }
        return measured

    @override
    def measure_whole(self, rows: Columns) -> dict[str, Interval]:
        """Whether confidence can be trusted: calibration, and what abstaining gains."""
        if not {"confidence", "top1"} <= rows.keys():
            return {}
        (condition,) = set(rows["condition"])
        found = {
            name: column.item() for name, column in abstention_table(rows, [condition]).items()
        }
        return {
            "ece": (found["ece"], found["ece_low"], found["ece_high"]),
            "aurc": (found["aurc"], None, None),
            "coverage": (found["coverage_at_5_percent_risk"], None, None),
        }

    def _check_classes(self, logits: Tensor) -> None:
        needed = self.datamodule.num_classes
        if logits.ndim != 2 or logits.shape[1] != needed:
            raise InputError(
                f"model.net: its output {tuple(logits.shape)} is not (images, classes) with "
                f"the {needed} classes of the data; for timm add "
                f"--model.net.dict_kwargs.num_classes {needed}"
            )

"""Semantic segmentation under blur (Vasiljevic et al. 2016, section 5)."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int64, UInt8
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.boundaries import Boundary, trimap
from blur_lightning.errors import InputError
from blur_lightning.images import VOID
from blur_lightning.metrics import MeanIoU, class_counts
from blur_lightning.records.robustness import Interval, write_table
from blur_lightning.tasks.base import Task
from blur_lightning.tasks.examples import to_bytes
from blur_lightning.tasks.label_maps import error_pictures, png_names, write_label_map
from blur_lightning.tasks.pixels import best_classes, count_pixels, tables_of, values_of
from blur_lightning.tasks.rows import Columns
from blur_lightning.tasks.training import learn_from, optimizers
from blur_lightning.tiles import by_tiles, on_multiples


class SegmentationTask(Task):
    """Train a network that gives each pixel a class, and test it under each of a list of blurs.

    The truth stays sharp. A test writes these metrics for each condition, all from the pixels of
    all images and with intervals over images, to robustness.csv:

    * miou: mean over the classes of intersection over union;
    * boundary_miou: the same within `boundary_width` pixels of class boundaries;
    * boundary_iou: mean IoU of the classes' inner boundaries (Cheng et al. 2021);
    * pixel_accuracy, cross_entropy.

    `class_iou.csv` holds the IoU of each class and `trimap.csv` the accuracy within several widths
    of boundaries. The pictures in examples/ show from the top: the image, the truth, the
    prediction, and errors: orange near a boundary, blue elsewhere; grey is void.

    Args:
        net: Any network from images (b, 3, h, w) to logits (b, classes, h, w) by its class path:
            segmentation_models_pytorch.Unet, blur_lightning.models.Zoomout. Logits of a coarser
            grid are interpolated; of a dictionary the entry `out` counts.
        loss: From logits and labels with 255 for void to a number, by its class path:
            segmentation_models_pytorch.losses.DiceLoss; None is the cross-entropy of all pixels
            that are not void.
        boundary: How boundaries are found beside void: label_change gives void the nearest label
            first; void_band takes void for boundary.
        boundary_width: Pixels from a boundary within which boundary_miou counts.
        widths: Pixels of trimap.csv.
        tile: Largest side of what the network gets at once when it predicts, in pixels; larger
            images are seen in tiles.
        overlap: Pixels that a tile sees beyond its own part.
        multiple: Sides of the network's input are padded to multiples of it.
        optimizer: The optimiser, whole; needed by fit only.
        lr_scheduler: Schedule of the learning rate; None keeps it.
        lr_interval: Whether the schedule counts epochs or optimiser steps.
        encoder_lr: Learning rate of the network's `encoder`, which is trained already in most of
            segmentation_models_pytorch's; None is the optimiser's. OneCycleLR then takes two
            numbers as max_lr, that of the encoder first.
        freeze: How many of the network's first blocks fit keeps as they are, weights and batch
            statistics; 0 trains all.
        channels_last: Keep images and weights with the channels last in memory, which is faster
            for convolutions on most CPUs and GPUs.
        compile: Compile the network (torch.compile), which pays for long runs on a GPU.
        conditions: Blurs to test under, in the order of the report: sharp, D4, H8, V8, M8@30, G4,
            shake, D2..8, sharp+D2+D4; D1..8:0.5 is a condition at every half pixel.
        name: The network's name in records; None takes timm's, or the class.
        trained_on: What the records say the network was trained on before this run; None is what
            a checkpoint of fit says, else original.
    """

    metrics = ()

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: nn.Module | None = None,
        boundary: Boundary = "label_change",
        boundary_width: int = 4,
        widths: Sequence[int] = (1, 2, 4, 8, 16),
        tile: int = 1024,
        overlap: int = 128,
        multiple: int = 32,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "epoch",
        encoder_lr: float | None = None,
        freeze: int = 0,
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
        if overlap < 0 or multiple < 1 or tile < 2 * overlap + multiple:
            raise InputError(
                f"model.tile: {tile} pixels with an overlap of {overlap} on both sides and sides "
                f"of a multiple of {multiple}; raise --model.tile"
            )
        if min(boundary_width, *widths) < 1:
            raise InputError("model.boundary_width, model.widths: 1 pixel or more")
        self.encoder_lr = encoder_lr
        self.loss = loss or nn.CrossEntropyLoss(ignore_index=VOID)
        self.boundary: Boundary = boundary
        self.boundary_width, self.widths = boundary_width, sorted({*widths, boundary_width})
        # A part of a tile's sides is lost to the padding.
        self.tile, self.overlap, self.multiple = tile // multiple * multiple, overlap, multiple
        self._tables: dict[str, list[Columns]] = {}

    @override
    def forward(
        self, image: Float[Tensor, "b 3 h w"] | list[Tensor]
    ) -> Float[Tensor, "b classes h w"]:
        """Logits of each pixel."""
        if not isinstance(image, Tensor):
            raise InputError("model: segments one scale; give one number to data.capture.scale")
        return on_multiples(self._logits, image, self.multiple)

    def _logits(self, image: Tensor) -> Tensor:
        logits = super().forward(image)
        if isinstance(logits, Mapping):  # torchvision's
            logits = logits["out"]
        data = self.datamodule
        named = getattr(data, "class_names", ())
        # Photographs to predict on may have no classes of their own.
        known = named or not self.trainer.predicting
        needed, self._classes = data.num_classes if known else logits.shape[1], logits.shape[1]
        if logits.ndim != 4 or logits.shape[1] != needed:
            raise InputError(
                f"model.net: its output {tuple(logits.shape)} is not (images, classes, rows, "
                f"columns) with the {needed} classes of {getattr(data, 'class_list', 'the data')}; "
                f"for segmentation_models_pytorch add --model.net.classes {needed}"
            )
        if logits.shape[-2:] == image.shape[-2:]:
            return logits
        return F.interpolate(logits, size=image.shape[-2:], mode="bilinear", align_corners=False)

    @override
    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        known = (_truth(batch) != VOID).sum() if "image" in batch else torch.tensor(0)
        if not known:  # nothing could be read, or no pixel has a loss
            return learn_from(self, batch)
        # Some losses mix bfloat16 with their own numbers (smp 0.5: LovaszLoss).
        loss: Tensor = self.loss(self(batch["image"]).float(), _truth(batch))
        return learn_from(self, batch, loss, known)

    @override
    def configure_optimizers(self) -> Any:
        return optimizers(
            self,
            self.optimizer,
            self.lr_scheduler,
            interval=self.lr_interval,
            encoder_lr=self.encoder_lr,
        )

    @override
    def on_train_start(self) -> None:
        """Let a network that normalises its features estimate that, which a checkpoint keeps."""
        if not getattr(self.net, "normalized", True):
            self.net.estimate_normalization(self._training_images())  # type: ignore[operator]

    def _training_images(self) -> Iterator[Tensor]:
        data = self.datamodule
        for batch in data.train_dataloader():
            moved = data.transfer_batch_to_device(batch, self.device, 0)
            if "image" in data.on_after_batch_transfer(moved, 0):
                yield moved["image"]

    @override
    def on_validation_epoch_start(self) -> None:
        self._mean_iou = MeanIoU(self.datamodule.num_classes).to(self.device)

    @override
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Validate under one mix: every image gets one draw, always the same."""
        if "image" not in batch:
            return
        blurs = self.datamodule.draw(self.datamodule.val_blur, batch)
        logits = self(self.datamodule.blurred(batch, blurs))
        self._mean_iou.update(best_classes(logits), _truth(batch))

    @override
    def on_validation_epoch_end(self) -> None:
        self.log("val/miou", self._mean_iou.compute(), prog_bar=True)

    @override
    def measure(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        place, widths = self.widths.index(self.boundary_width), len(self.widths)
        bands = self._bands(batch)
        return count_pixels(output, _truth(batch), bands, num_widths=widths, place=place)

    def _bands(self, batch: Any) -> Int64[Tensor, "b h w"]:
        """Bands around the boundaries of the truth, made once for all conditions."""
        if "bands" not in batch:
            truth = _truth(batch)
            batch["bands"] = trimap(truth, widths=self.widths, boundary=self.boundary)
        return batch["bands"]

    @override
    def measure_whole(self, rows: Columns) -> dict[str, Interval]:
        tables = tables_of(rows, self.datamodule.class_names, self.widths)
        for name, lines in tables.items():
            self._tables.setdefault(name, []).append(lines)
        return values_of(rows)

    @override
    def on_test_epoch_end(self) -> None:
        self._tables = {}
        super().on_test_epoch_end()
        for name, tables in self._tables.items():  # on the first process
            write_table(self.run_folder / name, tables)

    @override
    def pictures(
        self, image: Tensor, output: Tensor, batch: Mapping[str, Any]
    ) -> list[UInt8[Tensor, "3 _ _"]]:
        """Of each image, one below another: itself, the truth, the prediction and the errors."""
        near = self._bands(batch) <= self.widths.index(self.boundary_width)
        labels = (tensor.cpu() for tensor in (best_classes(output), _truth(batch), near))
        return error_pictures(to_bytes(image, self.mean, self.std), *labels)

    @override
    def setup(self, stage: str) -> None:
        if stage == "predict" and not self.datamodule.test_capture.whole:
            raise InputError(
                "data.capture.crop: a label map is of a whole photograph; set it to whole, or take "
                "--data experiments/data/photos_native.yaml"
            )

    @override
    def on_predict_epoch_end(self) -> None:
        super().on_predict_epoch_end()
        if self.trainer.is_global_zero:
            print(f"written: {self._maps}")

    @property
    def _maps(self) -> Path:
        """Folder of the label maps of a prediction, with a folder for each condition."""
        return self.run_folder / "predictions"

    @override
    def see(
        self, image: Tensor | list[Tensor], batch: Mapping[str, Any], condition: str
    ) -> Mapping[str, Tensor]:
        """Measure a batch; to predict, write a map of the classes for each image."""
        if not self.trainer.predicting or not isinstance(image, Tensor):
            return super().see(image, batch, condition)
        sides = {"tile": self.tile, "overlap": self.overlap, "multiple": self.multiple}
        labels = by_tiles(lambda part: best_classes(self._logits(part)), image, **sides)
        source = self.datamodule.sources["predict"]
        names, folder = png_names(source.names), self._maps / condition
        for index, classes in zip(batch["index"].tolist(), labels.cpu(), strict=True):
            write_label_map(folder / names[index], classes, shape=source.shape(index))
        counts = class_counts(labels, labels, num_classes=self._classes)
        return {"class_share": counts.truth / labels[0].numel()}


def _truth(batch: Mapping[str, Any]) -> Int64[Tensor, "b h w"]:
    if "mask" not in batch:
        raise InputError(
            "data: has no masks, which this task needs; take blur_lightning.data.VOCDataModule, or "
            "predict"
        )
    return batch["mask"].long()

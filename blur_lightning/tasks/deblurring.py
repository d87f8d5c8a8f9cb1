"""Deblurring: from blurry images to sharp ones, for pairs or under each of a list of blurs."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.blur.conditions import parse_conditions
from blur_lightning.errors import InputError
from blur_lightning.image_quality import (
    peak_signal_to_noise,
    shift_tolerant_psnr,
    structural_similarity,
)
from blur_lightning.png import encode_png, read_photograph
from blur_lightning.records.robustness import replacing
from blur_lightning.report.before_after import write_before_after
from blur_lightning.tasks.base import Task
from blur_lightning.tasks.examples import middle_square, to_bytes
from blur_lightning.tasks.label_maps import png_names
from blur_lightning.tasks.rows import columns_of
from blur_lightning.tasks.training import learn_from
from blur_lightning.tiles import by_tiles

PAGE = "before_after.html"  # of a prediction
# dB: what images are given that are the same as the sharp ones, so that a mean has a value.
_SAME = 100.0


class DeblurringTask(Task):
    """Train a network that restores blurry images, and test it under each of a list of blurs.

    The network sees and gives values in [0, 1], without any normalisation. A test compares what it
    restores, clipped and rounded to 8 bits as it would be written, with the sharp image, and writes
    for each condition the means over images, with bootstrap intervals:

    * psnr: in dB, of all pixels and colours, range 1 (100 dB at most);
    * ssim: that of Wang et al. 2004, Gaussian window of 11 pixels, mean of the colours;
    * psnr_shift: PSNR at the best whole-pixel shift and intensity, see `image_quality`;
    * psnr_input, ssim_input, psnr_shift_input: the same of the blurry image.

    A data set of pairs is tested under the condition sharp, which adds no blur to theirs. The
    pictures in examples/ show from the top: the blurry image, the restored and the sharp one.

    Predictions are restored photographs in restored/: PNG of the size and with the bits of the
    file, whatever data.capture says, predictions.csv with the mean change of their values, and
    before_after.html, where a slider shows the first 24 before and after.

    Args:
        net: Any network from images (b, 3, h, w) to images of that size by its class path, or to
            several, coarse to fine, the last of that size: blur_lightning.models.DeblurNet,
            blur_lightning.models.NAFNet.
        loss: From restored and sharp images to a number, by its class path: torch.nn.L1Loss,
            blur_lightning.tasks.restoration_losses.CharbonnierLoss; None is the mean squared error.
            Of several scales it is summed, each weighted by its share of the pixels: so the squared
            errors of all pixels count alike, as in the paper's equation 1.
        reach: Largest shift that psnr_shift and psnr_shift_input forgive, in pixels; 0 or more.
        tile: Largest side of what the network gets at once when it predicts, in pixels; larger
            images are seen in tiles.
        overlap: Pixels that a tile sees beyond its own part, rounded up to that multiple.
        multiple: Tiles begin at multiples of it: the network's stride.
        optimizer: The optimiser, whole; needed by fit only.
        lr_scheduler: Schedule of the learning rate; None keeps it.
        lr_interval: Whether the schedule counts epochs or optimiser steps.
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

    metrics = ("psnr", "ssim", "psnr_shift", "psnr_input", "ssim_input", "psnr_shift_input")
    needs_sharp = True
    mean, std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def __init__(
        self,
        net: nn.Module,
        *,
        loss: nn.Module | None = None,
        reach: int = 4,
        tile: int = 768,
        overlap: int = 96,
        multiple: int = 4,
        optimizer: OptimizerCallable | None = None,
        lr_scheduler: LRSchedulerCallable | None = None,
        lr_interval: Literal["epoch", "step"] = "step",
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
        if min(reach, overlap) < 0 or multiple < 1 or tile < 2 * overlap + 3 * multiple:
            raise InputError(
                "model: reach and overlap must be 0 or more, multiple 1 or more, and tile more "
                "than twice the overlap"
            )
        self.loss = loss or nn.MSELoss()
        self.reach, self.tile, self.multiple = reach, tile, multiple
        self.overlap = -(-overlap // multiple) * multiple

    @override
    def forward(self, image: Float[Tensor, "b 3 h w"] | list[Tensor]) -> Float[Tensor, "b 3 h w"]:
        """Restore images; values may leave [0, 1]."""
        return self.restore(image)[-1]

    def restore(
        self, image: Float[Tensor, "b 3 h w"] | list[Tensor]
    ) -> tuple[Float[Tensor, "b 3 _ _"], ...]:
        """Restore images at all scales that the network gives, coarse to fine."""
        if not isinstance(image, Tensor):
            raise InputError("model: restores one scale; give one number to data.capture.scale")
        output = super().forward(image)
        scales = tuple(output) if isinstance(output, tuple | list) else (output,)
        shapes = [getattr(scale, "shape", ()) for scale in scales]
        if not shapes or shapes[-1] != image.shape:
            raise InputError(
                f"model.net: gives {tuple(shapes[-1:])} for images {tuple(image.shape)}; name a "
                "network that restores images, such as blur_lightning.models.DeblurNet"
            )
        return scales

    @override
    def training_step(self, batch: Mapping[str, Any], batch_idx: int) -> Tensor | None:
        if "image" not in batch:  # nothing in it could be read
            return learn_from(self, batch)
        sharp = batch["sharp"]
        loss = sharp.new_zeros(())
        for restored in self.restore(batch["image"]):
            target = F.interpolate(sharp, size=restored.shape[-2:], mode="area")
            loss = loss + self.loss(restored, target) * (target.numel() / sharp.numel())
        return learn_from(self, batch, loss, len(sharp))

    @override
    def validation_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Validate under one mix: every image gets one draw, always the same."""
        if "image" not in batch:
            return
        blurs = self.datamodule.draw(self.datamodule.val_blur, batch)
        image = self.datamodule.blurred(batch, blurs)
        restored, sharp = _stored(self(image)), self.datamodule.sharp(batch)
        values = {"psnr": _psnr(restored, sharp), "ssim": structural_similarity(restored, sharp)}
        means = {f"val/{name}": value.mean() for name, value in values.items()}
        self.log_dict(means, prog_bar=True, sync_dist=True, batch_size=len(blurs))

    @override
    def see(
        self, image: Tensor | list[Tensor], batch: Mapping[str, Any], condition: str
    ) -> Mapping[str, Tensor]:
        sharp = self.datamodule.sharp(batch)
        return super().see(image, {**batch, "blurry": image, "target": sharp}, condition)

    @override
    def measure(self, output: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        sharp, measured = batch["target"].float(), dict[str, Tensor]()
        for suffix, image in (("", output), ("_input", batch["blurry"])):
            stored = _stored(image)
            shifted = shift_tolerant_psnr(stored, sharp, reach=self.reach)
            measured |= {
                f"psnr{suffix}": _psnr(stored, sharp),
                f"ssim{suffix}": structural_similarity(stored, sharp),
                f"psnr_shift{suffix}": shifted.clamp(max=_SAME),
            }
        return measured

    @override
    def setup(self, stage: str) -> None:
        if stage == "predict":  # photographs have their blur
            self.conditions = parse_conditions(["sharp"])

    @override
    def predict_step(self, batch: Mapping[str, Any], batch_idx: int) -> None:
        """Write a restored copy of each photograph, of its size and with all its bits."""
        if "image" not in batch:  # nothing in it could be read
            return
        source = self.datamodule.sources["predict"]
        if not hasattr(source, "files"):
            raise InputError(
                "data: predict restores photographs; take blur_lightning.data.PhotosDataModule"
            )
        names, residuals = png_names(source.names), []
        for index in batch["index"].tolist():
            photograph = read_photograph(source.files[index])
            restored, residual = self._restored(photograph.pixels)
            with replacing(self.run_folder / "restored" / names[index]) as temporary:
                temporary.write_bytes(encode_png(photograph._replace(pixels=restored)))
            residuals.append(residual)
        (condition,) = self.conditions
        blurs = self.datamodule.draw(condition, batch)
        measured = {"residual": torch.tensor(residuals)}
        self.measurements.append(columns_of(condition, blurs, batch, measured))

    @override
    def on_predict_epoch_end(self) -> None:
        super().on_predict_epoch_end()
        if self.trainer.is_global_zero:
            source, page = self.datamodule.sources["predict"], self.run_folder / PAGE
            copies = [self.run_folder / "restored" / name for name in png_names(source.names)]
            files = zip(source.names, source.files, copies, strict=True)
            # Those that could not be read have no copy.
            write_before_after(page, [pair for pair in files if pair[2].exists()])
            print(f"written: {page}")

    def _restored(self, pixels: np.ndarray) -> tuple[np.ndarray, float]:
        """Restore (h, w, 3) of 8 or 16 bits in tiles; and how much that changed, mean in [0, 1]."""
        largest = np.iinfo(pixels.dtype).max
        blurry = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None]

        def restore(part: Tensor) -> Tensor:
            restored = self((part.to(self.device, torch.float32) / largest).to(self.dtype))
            values = (restored.float().clamp(0, 1) * largest).round()
            return values.cpu().to(blurry.dtype)

        sides = {"tile": self.tile, "overlap": self.overlap, "multiple": self.multiple}
        restored = by_tiles(restore, blurry, **sides)[0].permute(1, 2, 0).numpy()
        return restored, float(np.abs(restored - pixels.astype(np.float32)).mean() / largest)

    @override
    def pictures(
        self, image: Tensor, output: Tensor, batch: Mapping[str, Any]
    ) -> list[UInt8[Tensor, "3 _ _"]]:
        """Of each image, one below another: blurry, restored and sharp."""
        rows = (
            to_bytes(images, self.mean, self.std) for images in (image, output, batch["target"])
        )
        shown = zip(*(map(middle_square, images) for images in rows), strict=True)
        return [torch.cat(parts, dim=1) for parts in shown]


def _stored(images: Tensor) -> Float[Tensor, "b 3 h w"]:
    """Values in [0, 1] that 8 bits can hold."""
    return (images.float().clamp(0, 1) * 255).round() / 255


def _psnr(restored: Tensor, sharp: Tensor) -> Tensor:
    return peak_signal_to_noise(restored, sharp.float()).clamp(max=_SAME)

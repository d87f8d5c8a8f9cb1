"""What all trainings share: optimisers with their schedules, and losses that are numbers."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from lightning import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from torch import Tensor

from blur_lightning.errors import InputError


def optimizers(
    module: LightningModule,
    optimizer: OptimizerCallable | None,
    lr_scheduler: LRSchedulerCallable | None,
    *,
    interval: Literal["epoch", "step"],
    encoder_lr: float | None = None,
) -> Any:
    """Make what Lightning's `configure_optimizers` gives, of all weights that are trained.

    Args:
        module: Whose weights; its network is `net`.
        optimizer: Makes the optimiser.
        lr_scheduler: Makes the schedule of the learning rate; None keeps it.
        interval: Whether the schedule counts epochs or optimiser steps.
        encoder_lr: Learning rate of the network's `encoder`, the first of two groups of weights;
            None is the optimiser's for all of them.

    Raises:
        InputError: There is no optimiser or no encoder, or the schedule ends before the training.
    """
    if optimizer is None:
        raise InputError(
            "model.optimizer: fit needs one, "
            "e.g. --model.optimizer torch.optim.SGD --model.optimizer.lr 0.001"
        )
    made = optimizer(_weights(module, encoder_lr))
    if lr_scheduler is None:
        return made
    scheduler = lr_scheduler(made)
    needed = module.trainer.estimated_stepping_batches
    if interval == "step" and getattr(scheduler, "total_steps", needed) < needed:
        raise InputError(
            f"model.lr_scheduler: it ends before the {needed} steps of this training; "
            f"set --model.lr_scheduler.total_steps {needed}"
        )
    schedule = {"scheduler": scheduler, "interval": interval}
    if hasattr(scheduler, "monitor"):
        schedule["monitor"] = scheduler.monitor
    return {"optimizer": made, "lr_scheduler": schedule}


def _weights(module: LightningModule, encoder_lr: float | None) -> Iterable[Any]:
    """The weights to train, in two groups where the encoder has a learning rate of its own."""
    weights = [weight for weight in module.parameters() if weight.requires_grad]
    if encoder_lr is None:
        return weights
    encoder: Any = getattr(module.net, "encoder", None)
    if encoder is None:
        raise InputError(
            "model.encoder_lr: the network has no `encoder`, as those of "
            "segmentation_models_pytorch have; leave it out"
        )
    own = {id(weight) for weight in encoder.parameters()}
    first, rest = ([w for w in weights if (id(w) in own) is inside] for inside in (True, False))
    return [{"params": first, "lr": encoder_lr}, {"params": rest}]


def seed_batch(seed: int, *, epoch: int, batch: int, process: int) -> None:
    """Make what a network draws in a batch, as dropout does, a function of its key.

    So a fit that goes on from a checkpoint draws what it would have drawn.
    """
    key = [seed, 5, epoch, batch, process]
    torch.manual_seed(int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0]))


def divergence(module: LightningModule, loss: Tensor, images: list[int]) -> InputError:
    """What to tell of a loss of one batch that is no number.

    Args:
        module: What is trained.
        loss: Of the batch.
        images: Which the batch holds.
    """
    resumable = (Path(module.trainer.default_root_dir) / "checkpoints" / "last.ckpt").exists()
    advice = (
        "go on with --ckpt_path last: the newest checkpoint is kept"
        if resumable
        else "start again: there is no checkpoint yet"
    )
    return InputError(
        f"model: the loss is {loss.item()} at step {module.global_step}, images {images}; lower "
        f"--model.optimizer.lr or set --trainer.gradient_clip_val 1, and {advice}"
    )

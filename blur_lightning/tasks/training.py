"""What all trainings share: optimisers with their schedules, and losses of whole batches."""

from collections.abc import Iterable, Mapping
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


def learn_from(
    module: LightningModule,
    batch: Mapping[str, Any],
    loss: Tensor | None = None,
    count: int | Tensor = 0,
) -> Tensor | None:
    """Log the loss of the batch that all processes have a part of, and return what to follow.

    Its gradient, in the mean over processes, is that of one process with the whole batch: a part
    counts by its images or pixels, whose number need not be the same everywhere.

    Args:
        module: What is trained.
        batch: The part of this process.
        loss: Mean over that part; None where there is nothing to learn from in it.
        count: How many images, or pixels, that is the mean of.

    Returns:
        The loss of this process, weighted; None: no process of one has anything to learn from.

    Raises:
        InputError: The loss is no number.
    """
    if loss is not None and not torch.isfinite(loss):
        raise divergence(module, loss, batch["index"].tolist())
    if loss is None:
        if module.trainer.world_size == 1:
            return None
        # The other processes wait for the gradients of this one.
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        loss = 0.0 * torch.stack([weight.sum() for weight in weights]).sum()
    loss = loss * share_of_batch(module, count)
    module.log("train/loss", loss, prog_bar=True, sync_dist=True)
    return loss


def share_of_batch(module: LightningModule, count: int | Tensor) -> Tensor | float:
    """How many times the mean of all processes this one has of a batch; alone it is 1."""
    if module.trainer.world_size == 1:
        return 1.0
    own = torch.as_tensor(count, dtype=torch.float32, device=module.device)
    mean = torch.as_tensor(module.trainer.strategy.reduce(own.clone(), reduce_op="mean"))
    return own / mean.clamp(min=1 / module.trainer.world_size)


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

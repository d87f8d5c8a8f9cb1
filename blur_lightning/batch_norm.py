"""Batch normalisation by the statistics of the batch that all processes have a part of.

torch's SyncBatchNorm runs on GPUs alone, and in its place Lightning's flag puts it for every batch
normalisation: timm's with an activation of their own would lose that. Here modules stay what they
are, and their statistics are summed over the processes (Ioffe and Szegedy 2015, arXiv 1502.03167,
Algorithm 1, on the whole batch).
"""

from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch.plugins.layer_sync import LayerSync
from torch import Tensor, distributed, nn
from torch.nn.modules.batchnorm import _BatchNorm
from typing_extensions import override


class SyncedBatchNorm(LayerSync):
    """Lets all batch normalisations of a network see the whole batch while it is trained."""

    @override
    def apply(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                vars(module)["forward"] = partial(_normalized, module)
        return model

    @override
    def revert(self, model: nn.Module) -> nn.Module:
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                vars(module).pop("forward", None)
        return model


class _Sum(torch.autograd.Function):
    """The sum over all processes, also of gradients: what one computes all depend on."""

    @staticmethod
    @override
    def forward(ctx: Any, part: Tensor) -> Tensor:
        whole = part.clone()
        distributed.all_reduce(whole)
        return whole

    @staticmethod
    @override
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return _Sum.forward(ctx, gradient)


def _normalized(module: Any, image: Float[Tensor, "b c *_"]) -> Float[Tensor, "b c *_"]:
    if not (module.training and distributed.is_initialized()):
        return type(module).forward(module, image)
    values = image.float()
    others = [0, *range(2, image.ndim)]
    shape = [1, -1, *[1] * (image.ndim - 2)]
    count = _Sum.apply(values.new_tensor(values.numel() / values.shape[1]))
    mean = _Sum.apply(values.sum(others)) / count
    # From the mean, not from squares, whose difference would lose digits.
    centred = values - mean.view(shape)
    variance = _Sum.apply(centred.square().sum(others)) / count
    if module.track_running_stats:
        _remember(module, mean.detach(), (variance * count / (count - 1)).detach())
    normal = centred * torch.rsqrt(variance + module.eps).view(shape)
    if module.affine:
        normal = normal * module.weight.view(shape) + module.bias.view(shape)
    normal = normal.to(image.dtype)
    for name in ("drop", "act"):  # of timm's BatchNormAct2d
        normal = getattr(module, name, nn.Identity())(normal)
    return normal


@torch.no_grad()
def _remember(module: Any, mean: Tensor, variance: Tensor) -> None:
    """Keep the moving averages that the module normalises by when it is not trained."""
    module.num_batches_tracked += 1
    momentum = module.momentum
    if momentum is None:  # the mean of all batches
        momentum = 1 / module.num_batches_tracked.item()
    module.running_mean.lerp_(mean.to(module.running_mean.dtype), momentum)
    module.running_var.lerp_(variance.to(module.running_var.dtype), momentum)

"""Losses of restored images (b, c, h, w) against sharp ones that torch.nn does not have."""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from typing_extensions import override

from blur_lightning.errors import InputError


class _Softened(nn.Module):
    """A loss whose root or logarithm an epsilon keeps away from 0."""

    def __init__(self, epsilon: float) -> None:
        super().__init__()
        if epsilon <= 0:
            raise InputError(f"model.loss.epsilon: {epsilon} is not more than 0")
        self.epsilon = epsilon


class CharbonnierLoss(_Softened):
    """Mean of the square root of squared errors plus epsilon squared: an L1 loss, smooth at 0.

    Source: Charbonnier et al. 1994 (ICIP, 168-172).

    Args:
        epsilon: Error, on the scale of [0, 1], below which it is quadratic; more than 0.
    """

    def __init__(self, epsilon: float = 1e-3) -> None:
        super().__init__(epsilon)

    @override
    def forward(
        self, restored: Float[Tensor, "b c h w"], sharp: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        return ((restored - sharp).square() + self.epsilon**2).sqrt().mean()


class PSNRLoss(_Softened):
    """Minus the PSNR in dB, mean over images: what Chen et al. 2022 train NAFNet with.

    It suits mixes without sharp images: one that is left as it is counts 80 dB, so that a network
    learns to change nothing.

    Args:
        epsilon: Added to the mean squared error of an image, so that its logarithm stays finite;
            more than 0.
    """

    def __init__(self, epsilon: float = 1e-8) -> None:
        super().__init__(epsilon)

    @override
    def forward(
        self, restored: Float[Tensor, "b c h w"], sharp: Float[Tensor, "b c h w"]
    ) -> Float[Tensor, ""]:
        errors = (restored - sharp).square().mean(dim=(1, 2, 3))
        return 10 * torch.log10(errors + self.epsilon).mean()

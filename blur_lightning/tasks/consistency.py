"""Invariance losses: how much predictions and features of two views of the same images differ."""

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from blur_lightning.errors import InputError


def jensen_shannon(
    logits: Float[Tensor, "b c"], other: Float[Tensor, "b c"]
) -> Float[Tensor, " b"]:
    """Jensen-Shannon divergence of the predictions for each image, in nats from 0 to ln 2.

    Hendrycks et al. 2020, AugMix (arXiv 1912.02781, section 3, equation 2), for two views instead
    of their three: the mean Kullback-Leibler divergence of both from their mean.

    Args:
        logits: Of one view.
        other: Of the other.
    """
    predictions = torch.stack([logits, other]).float().log_softmax(dim=2)
    mean = predictions.logsumexp(dim=0) - math.log(2)
    return (predictions.exp() * (predictions - mean)).sum(dim=2).mean(dim=0)


def cosine_distance(
    features: Float[Tensor, "b d"], other: Float[Tensor, "b d"]
) -> Float[Tensor, " b"]:
    """One less the cosine between features: 0 to 2, whatever their scale."""
    return 1 - F.cosine_similarity(features.float(), other.float(), dim=1)


@contextmanager
def features_of(net: nn.Module) -> Iterator[list[Tensor]]:
    """Collect what the last linear layer of a network is given while the block runs.

    Raises:
        InputError: The network has no linear layer.
    """
    layers = [module for module in net.modules() if isinstance(module, nn.Linear)]
    if not layers:
        raise InputError(
            "model.feature_consistency: the network has no linear layer, whose input features are; "
            "leave it at 0"
        )
    seen: list[Tensor] = []
    with layers[-1].register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0])):
        yield seen

"""A network with the weights that an earlier `fit` of this project left."""

from pathlib import Path
from typing import Any

import torch
from torch import nn

from blur_lightning.errors import InputError

_PREFIX = "net."  # of the network within the task, whose weights a checkpoint holds


def finetuned(net: nn.Module, checkpoint: str) -> nn.Module:
    """A network with the weights of a checkpoint, to test, to train further or to put into others.

    Args:
        net: The network that was trained, by its class path; its own weights are replaced, so it
            needs none (pretrained: false).
        checkpoint: File that fit wrote, such as runs/<name>/checkpoints/last.ckpt.

    Returns:
        `net` itself. Its attribute `trained_on` is the blur mix that the checkpoint was trained on.

    Raises:
        InputError: There is no such file, it is no checkpoint of fit, or it is of another network.
    """
    if not Path(checkpoint).is_file():
        raise InputError(f"model.net.checkpoint: there is no file {checkpoint}; run its fit first")
    try:
        content = torch.load(checkpoint, map_location="cpu", weights_only=True)
        trained: dict[str, Any] = {
            name.removeprefix(_PREFIX): tensor
            for name, tensor in content["state_dict"].items()
            if name.startswith(_PREFIX)
        }
        trained_on = str(content["trained_on"])
    except Exception as error:  # whatever unpickling makes of a file that is something else
        raise InputError(
            f"model.net.checkpoint: {checkpoint} is no checkpoint of fit ({type(error).__name__}); "
            "name one, such as runs/<name>/checkpoints/last.ckpt"
        ) from error
    _check_same_network(net, trained, checkpoint)
    net.load_state_dict(trained)
    net.trained_on = trained_on  # type: ignore[assignment]
    return net


def _check_same_network(net: nn.Module, trained: dict[str, Any], checkpoint: str) -> None:
    own, what = net.state_dict(), f"model.net.checkpoint: {checkpoint} is of another network"
    for name in [*own, *trained]:
        if name not in trained or name not in own:
            where = "the checkpoint" if name not in trained else "model.net.net"
            raise InputError(f"{what}: {where} has no {name}; give the network that was trained")
        if own[name].shape != trained[name].shape:
            raise InputError(
                f"{what}: {name} is {tuple(trained[name].shape)} there, {tuple(own[name].shape)} "
                "in model.net.net; give the network that was trained"
            )

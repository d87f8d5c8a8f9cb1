"""A network with the weights that an earlier `fit` of this project left."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

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
        trained: dict[str, Tensor] = {
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
    what = f"model.net.checkpoint: {checkpoint}"
    check_same_network(net, trained, what=what, network="model.net.net")
    net.load_state_dict(trained)
    net.trained_on = trained_on  # type: ignore[assignment]
    return net


def check_same_network(
    net: nn.Module, trained: Mapping[str, Tensor], *, what: str, network: str
) -> None:
    """Compare names and shapes of weights: an InputError names the first that does not fit.

    Args:
        net: The network that is to take them.
        trained: The weights.
        what: The argument and the file that they are from.
        network: The argument that the network is from.
    """
    own = net.state_dict()
    for name in [*own, *trained]:
        if name not in trained or name not in own:
            problem = f"{'the checkpoint' if name not in trained else network} has no {name}"
        elif own[name].shape != trained[name].shape:
            shapes = tuple(trained[name].shape), tuple(own[name].shape)
            problem = f"{name} is {shapes[0]} there, {shapes[1]} in {network}"
        else:
            continue
        raise InputError(
            f"{what} is of another network: {problem}; give the {network} that was trained"
        )

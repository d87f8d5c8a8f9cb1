"""A network with the weights of a file: of an earlier `fit` of this project, or safetensors."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from blur_lightning.errors import InputError
from blur_lightning.weights import check_finite, network_weights


def finetuned(net: nn.Module, checkpoint: str) -> nn.Module:
    """A network with the weights of a checkpoint, to test, to train further or to put into others.

    Args:
        net: The network that was trained, by its class path; its own weights are replaced, so it
            needs none (pretrained: false).
        checkpoint: File that fit wrote, such as runs/<name>/checkpoints/last.ckpt, or one that ends
            in .safetensors: what the command export wrote, or weights from elsewhere.

    Returns:
        `net` itself. Its attribute `trained_on` is the blur mix that the weights were trained on,
        where the file tells.

    Raises:
        InputError: There is no such file, it is none of these, it is of another network, or its
            weights are no finite numbers.
    """
    if not Path(checkpoint).is_file():
        raise InputError(f"model.net.checkpoint: there is no file {checkpoint}; run its fit first")
    argument = "model.net.checkpoint"
    trained, facts = network_weights(Path(checkpoint), argument=argument)
    what = f"{argument}: {checkpoint}"
    check_same_network(net, trained, what=what, network="model.net.net")
    check_finite(trained, what=what)
    net.load_state_dict(trained)
    if "trained_on" in facts:
        net.trained_on = facts["trained_on"]
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

"""The blocks of a network, and how the first ones are kept as they are in training.

Vasiljevic et al. 2016 (section 4.3, Figure 4, one image) find that after fine-tuning on blur the
first layers of VGG-16 still answer a blurry image otherwise than a sharp one, while the fifth
pooling, and less so the fourth, hardly does. They do not freeze: section 4 names no layer.
"""

from collections.abc import Iterator

from torch import nn

from blur_lightning.errors import InputError


def freeze(net: nn.Module, number: int) -> list[str]:
    """Keep an optimiser from the weights of the first blocks of a network.

    What is the network's own, such as a class token, counts with the first block.

    Args:
        net: The network, which is changed.
        number: How many blocks, less than there are; 0 leaves the network alone.

    Returns:
        Names of the modules of these blocks. Their batch statistics still move in training, unless
        the modules are put in evaluation mode.
    """
    if number == 0:
        return []
    found = blocks(net)
    if not 0 < number < len(found):
        names = ", ".join(block[0] for block in found)
        raise InputError(
            f"model.freeze: {number}, but the network has {len(found)} blocks ({names}); give 0 or "
            "more, and fewer than there are, so that something is left to train"
        )
    trained = [net.get_submodule(name) for block in found[number:] for name in block]
    kept = {id(weight) for module in trained for weight in module.parameters()}
    for weight in net.parameters():
        if id(weight) not in kept:
            weight.requires_grad_(False)
    return [name for block in found[:number] for name in block]


def blocks(net: nn.Module) -> list[list[str]]:
    """Blocks of a network in its order, each by the names of its modules.

    A block is what sequences (nn.Sequential, nn.ModuleList) are made of, and else what the network
    itself is made of: a layer, a residual block, a stage. Scales and shifts alone, as those of a
    normalisation, belong to the block before. Of a network around another, it is the other's.
    """
    parts = list(_parts(net))
    if len(parts) == 1 and any(parts[0][1].children()):
        outer, inner = parts[0]
        return [[f"{outer}.{name}" for name in block] for block in blocks(inner)]
    found: list[list[str]] = []
    for name, part in parts:
        if found and all(weight.ndim < 2 for weight in part.parameters()):
            found[-1].append(name)
        else:
            found.append([name])
    return found


def _parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    for name, child in module.named_children():
        # Not isinstance: a class that is made of a sequence is a layer of its own kind.
        if type(child) in (nn.Sequential, nn.ModuleList):
            yield from ((f"{name}.{inner}", part) for inner, part in _parts(child))
        elif any(True for _ in child.parameters()):
            yield name, child

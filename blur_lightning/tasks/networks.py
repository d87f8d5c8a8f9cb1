"""What is known of a network: its weights, its name and how it was trained."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from blur_lightning.records.provenance import environment


def weights_hash(net: nn.Module) -> str:
    """SHA-256 of all weights and buffers, by name."""
    digest = hashlib.sha256()
    for name, tensor in sorted(net.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def network_name(net: nn.Module) -> str:
    """Architecture as timm notes it, or the class."""
    return str(pretrained_setting(net, "architecture", "") or type(net).__name__)


def pretrained_setting(net: nn.Module, key: str, default: Any) -> Any:
    """Look up what timm notes of the pre-training on each of its networks."""
    settings = getattr(net, "pretrained_cfg", None) or {}
    return settings.get(key) or default


def normalization(net: nn.Module) -> dict[str, Sequence[float]]:
    """Mean and standard deviation of each channel of a network's input, as timm knows them.

    Of other networks those of ImageNet's pixels, with which torchvision's were trained.
    """
    imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
    return {key: pretrained_setting(net, key, values) for key, values in imagenet.items()}


def trained_mix(net: nn.Module) -> str | None:
    """Look up the blurs that a part of a network was trained on, where a checkpoint said so."""
    mixes = (getattr(module, "trained_on", None) for module in net.modules())
    return next((mix for mix in mixes if isinstance(mix, str)), None)


def network_facts(task: Any) -> dict[str, Any]:
    """What a checkpoint tells of its network, in plain values.

    Args:
        task: A LightningModule, of whose network, configuration and data this is taken.

    Returns:
        class_path and arguments of the network, as configured; mean and std of its input; classes,
        by name where the data tell, else how many; commit and version of this program.
    """
    config = getattr(task, "run_config", None) or {}
    spec: Mapping[str, Any] = config.get("model", {}).get("init_args", {}).get("net") or {}
    while str(spec.get("class_path")).endswith("models.finetuned"):
        spec = spec["init_args"]["net"]
    trainer = getattr(task, "_trainer", None)  # the property raises where there is none
    data = getattr(trainer, "datamodule", None)
    classes = list(getattr(data, "class_names", ())) or getattr(data, "num_classes", None)
    versions = environment()
    return {
        "class_path": spec.get("class_path"),
        "arguments": {**spec.get("init_args", {}), **spec.get("dict_kwargs", {})},
        **{key: list(values) for key, values in normalization(task.net).items()},
        "classes": classes,
        **{key: versions[key] for key in ("commit", "blur_lightning")},
    }

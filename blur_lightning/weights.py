"""Weights of networks in files: checkpoints of `fit`, and safetensors.

A checkpoint is a pickle, which could run code. Only tensors and plain values are read from it, and
no more than its file holds. safetensors are https://huggingface.co/docs/safetensors.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from blur_lightning.errors import InputError
from blur_lightning.parsing import one_line

ENDING = ".safetensors"
_PREFIX = "net."  # of the network within the task, whose weights a checkpoint holds


def read_checkpoint(path: Path, *, argument: str) -> dict[str, Any]:
    """Read what `fit` saved; its tensors stay on disk until they are looked at.

    Args:
        path: A checkpoint.
        argument: That names it, for errors.

    Raises:
        InputError: It is no checkpoint of fit, or needs more memory than it has bytes.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > path.stat().st_size:
                raise ValueError("packed, as fit does not do it")
        # Into "cpu": a file of a machine with a GPU is read on one without.
        content = dict(torch.load(path, map_location="cpu", mmap=True, weights_only=True))
        for name, tensor in content["state_dict"].items():
            if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
                raise ValueError(f"{name} is larger than what the file holds of it")
    except Exception as error:  # whatever unpickling makes of a file that is something else
        reason = one_line(error).partition(". ")[0]
        raise InputError(
            f"{argument}: {path} is no checkpoint of fit ({reason}); name one, such as "
            "runs/<name>/checkpoints/last.ckpt"
        ) from error
    return content


def network_weights(path: Path, *, argument: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read the weights of a network, and what is known of it.

    Args:
        path: A checkpoint of fit, or a file that ends in .safetensors.
        argument: That names it, for errors.

    Returns:
        Weights and buffers by their names in the network. Facts of `network_facts`: of a checkpoint
        `trained_on` at least, of safetensors that others made none.
    """
    if path.suffix == ENDING:
        return _read_safetensors(path, argument)
    content = read_checkpoint(path, argument=argument)
    if "trained_on" not in content:
        raise InputError(
            f"{argument}: {path} is no checkpoint of fit (it has no trained_on); name one, such as "
            "runs/<name>/checkpoints/last.ckpt"
        )
    weights = {
        name.removeprefix(_PREFIX): tensor
        for name, tensor in content["state_dict"].items()
        if name.startswith(_PREFIX)
    }
    facts = content.get("network")
    facts = facts if isinstance(facts, dict) else {}
    averaged = {"weights": "moving average"} if "averaging_state" in content else {}
    return weights, {**facts, **averaged, "trained_on": str(content["trained_on"])}


def _read_safetensors(path: Path, argument: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return weights, dict(file.metadata() or {})
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(
            f"{argument}: {path} holds no safetensors ({one_line(error)}); fetch or export it again"
        ) from error


def check_finite(weights: Mapping[str, Tensor], *, what: str) -> None:
    """Refuse weights that are NaN or infinite: an InputError names the first."""
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise InputError(
                f"{what}: {name} is NaN or infinite, so its training has diverged; name another"
            )

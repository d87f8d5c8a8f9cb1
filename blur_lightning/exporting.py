"""Networks as files that any program reads: safetensors, without this project or Lightning."""

import json
from pathlib import Path

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import replacing


def export(checkpoint: Path, *, out: Path) -> None:
    """Write the network of a checkpoint as safetensors, for timm, torch and other programs.

    Its weights are the moving average where the fit kept one (--trainer.ema). The file's metadata
    tell class_path and arguments of the network, the blurs that it was trained on, mean and std of
    its input, its classes, and the commit of this program; what is no text is JSON.

    Args:
        checkpoint: File that fit wrote, such as runs/NAME/checkpoints/last.ckpt.
        out: File to write, which ends in .safetensors.
    """
    if not checkpoint.is_file():
        raise InputError(f"{checkpoint}: not found; name a checkpoint that fit wrote")
    if out.suffix != ".safetensors":
        raise InputError(f"--out: {out} does not end in .safetensors")
    from safetensors.torch import save_file

    from blur_lightning.weights import check_finite, network_weights

    weights, facts = network_weights(checkpoint, argument="checkpoint")
    if not weights:
        raise InputError(f"{checkpoint}: holds no weights of a network; name another")
    check_finite(weights, what=str(checkpoint))
    told = {"format": "pt"} | {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in facts.items()
        if value is not None
    }
    with replacing(out) as temporary:
        # Copies: weights that are tied or in other memory formats have no place in the file.
        save_file({k: v.clone().contiguous() for k, v in weights.items()}, temporary, told)
    print(f"written: {out}, {sum(tensor.numel() for tensor in weights.values()):,} values")

"""Which checkpoint a command starts from: the one it names, or that of a fit which did not end."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lightning import LightningModule
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_info

from blur_lightning.checkpoints import FOLDER, LAST, newest
from blur_lightning.errors import InputError
from blur_lightning.models.finetuned import check_same_network
from blur_lightning.records.measurements import FOLDER as MEASURED
from blur_lightning.records.robustness import RECORDS
from blur_lightning.weights import check_finite, read_checkpoint


def checkpoint_to_use(
    given: str | None,
    *,
    verb: str,
    trainer: Trainer,
    model: LightningModule,
    settings: Callable[[], str],
    tests: bool,
    required: bool,
) -> str | None:
    """Find the checkpoint of a command, and look at it before anything is read or trained.

    Args:
        given: The option ckpt_path: a file, `last` of the run's folder, or what Lightning knows.
        verb: fit, validate, test or predict.
        trainer: Of the run.
        model: Whose weights it must hold.
        settings: The configuration of a fit, as `fit.yaml` in the run's folder has it.
        tests: Whether a fit is followed by a test.
        required: Whether the command needs `last` to be there.

    Returns:
        Its path; None where a fit starts, or starts again.

    Raises:
        InputError: There is none, all are damaged, or it does not fit the network or the command.
    """
    folder = Path(trainer.default_root_dir)
    resumes = given is None and verb == "fit" and _is_unfinished(folder, settings, tests, trainer)
    path = given
    if goes_on := given == "last" or resumes:
        path = _newest(folder / FOLDER, verb)
        if path is None and required:
            raise InputError(f"ckpt_path: there is no checkpoint in {folder / FOLDER}")
    if path is None:
        return None
    if path == "best" and not any(getattr(c, "monitor", 0) for c in trainer.checkpoint_callbacks):
        raise InputError("ckpt_path: checkpoints are kept by epoch, not by merit; say last")
    if path in ("best", "hpc"):
        return path
    if not Path(path).is_file():
        raise InputError(f"ckpt_path: there is no checkpoint {path}; name a file")
    checkpoint = read_weights(Path(path), model)
    if verb != "fit":
        return path
    epochs, wanted = _epochs(checkpoint), trainer.max_epochs
    done = wanted is not None and 0 <= wanted <= epochs
    if done and not goes_on:  # a fit that was ended in its test goes on with that
        raise InputError(
            f"ckpt_path: {path} was trained for {epochs} epochs already, so nothing is left to do; "
            "raise --trainer.max_epochs"
        )
    _check_same_freeze(path, checkpoint, model)
    return path


def read_weights(path: Path, model: LightningModule) -> dict[str, Any]:
    """Read a checkpoint; one of another network, or of one that diverged, is told in one line."""
    checkpoint = read_checkpoint(path, argument="ckpt_path")
    weights, what = checkpoint["state_dict"], f"ckpt_path: {path}"
    check_same_network(model, weights, what=what, network="model.net")
    check_finite(weights, what=what)
    return checkpoint


def _is_unfinished(
    folder: Path, settings: Callable[[], str], tests: bool, trainer: Trainer
) -> bool:
    """Whether an earlier process in this folder had the same settings and did not end."""
    last, former, records = folder / FOLDER / LAST, folder / "fit.yaml", folder / RECORDS
    if not last.exists() or not former.exists():
        return False
    texts = settings(), former.read_text(encoding="utf-8")
    ours, theirs = ([x for x in t.splitlines() if not x.startswith("ckpt_path:")] for t in texts)
    if ours != theirs:
        return False
    if tests:
        if (folder / MEASURED).exists():  # the second of two tests did not end
            return True
        return not records.exists() or records.stat().st_mtime < last.stat().st_mtime
    path, _ = newest(folder / FOLDER)
    trained = 0 if path is None else _epochs(read_checkpoint(path, argument="ckpt_path"))
    return trained < (trainer.max_epochs or 0)


def _newest(folder: Path, verb: str) -> str | None:
    """Name the newest checkpoint of a run, and say what is wrong with those after it."""
    path, problems = newest(folder)
    if path is None and problems:
        raise InputError(f"ckpt_path: {problems[-1]}, and no other is left; remove it")
    for problem in problems:
        rank_zero_info(f"{problem}; taking the one before")
    if path is not None and verb == "fit":
        rank_zero_info(f"going on from {path}; remove the run's folder to start anew")
    return None if path is None else str(path)


def _epochs(checkpoint: Mapping[str, Any]) -> int:
    """Whole epochs that a checkpoint was trained for."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_progress", {})
    return int(progress.get("current", {}).get("processed", checkpoint.get("epoch", -1) + 1))


def _check_same_freeze(path: str, checkpoint: Mapping[str, Any], model: LightningModule) -> None:
    """Refuse to go on with other trained weights: the optimiser's state would not fit them."""
    states = checkpoint.get("optimizer_states", [])
    held = sum(len(group["params"]) for state in states for group in state["param_groups"])
    trained = sum(weight.requires_grad for weight in model.parameters())
    if states and held != trained:
        raise InputError(
            f"ckpt_path: {path} trained {held} weight tensors, this fit {trained}; give the "
            "--model.freeze it was trained with, or begin anew from it by models.finetuned"
        )

"""Checkpoints that outlive a run which is ended at any moment, and runs that leave when told to.

The newest checkpoint of a run is `checkpoints/last.ckpt`, the one before `last-1.ckpt`. Each is
written beside and renamed, so that there always is a whole one.
"""

import csv
import signal
import time
import zipfile
from pathlib import Path
from typing import Any, BinaryIO

import torch
from lightning import LightningModule
from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import Callback, EMAWeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.plugins.io import TorchCheckpointIO
from typing_extensions import override

from blur_lightning.errors import Terminated
from blur_lightning.records.robustness import replacing
from blur_lightning.tasks.networks import network_facts

FOLDER, LAST = "checkpoints", "last.ckpt"
# Near the end of an epoch, as a long validation may follow, a checkpoint is no older (s).
_OLD = 30.0


class SaveAndLeave(Callback):
    """Writes a checkpoint every few minutes, and one more on SIGTERM and SIGUSR1 before it leaves.

    A process that gets one of these signals finishes its batch; then all processes leave.

    Args:
        path: The checkpoint; None writes none.
        minutes: Between two checkpoints.
    """

    def __init__(self, path: Path | None, *, minutes: float = 5.0) -> None:
        self.path, self.seconds = path, 60 * minutes
        self._signal = self._agreed = 0
        self._written, self._step = time.monotonic(), 0
        self._pending: dict[str, Any] | None = None

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._written, self._step = time.monotonic(), trainer.global_step
        self._listen()
        for logger in trainer.loggers if trainer.is_global_zero else ():
            if isinstance(logger, CSVLogger):
                for file in Path(logger.root_dir).glob("version_*/metrics.csv"):
                    forget_rows(file, trainer.global_step)

    @override
    def on_validation_start(self, *_: Any) -> None:
        self._listen()

    @override
    def on_test_start(self, *_: Any) -> None:
        self._listen()

    @override
    def on_predict_start(self, *_: Any) -> None:
        self._listen()

    def _listen(self) -> None:
        # Lightning's handler of SIGTERM talks to other processes, and waits for ever where all get
        # the signal at once. Its handler of SIGUSR1 lets SLURM queue the job again.
        signal.signal(signal.SIGTERM, self._remember)
        if signal.getsignal(signal.SIGUSR1) is signal.SIG_DFL:
            signal.signal(signal.SIGUSR1, self._remember)

    def _remember(self, number: int, frame: Any) -> None:
        self._signal = number

    @override
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # gradients that are still summed are in no file
            return
        self._step = trainer.global_step
        rest = trainer.num_training_batches - batch_idx - 1
        patience = _OLD if rest <= trainer.accumulate_grad_batches else self.seconds
        due = time.monotonic() - self._written > patience
        # What one process knows all must: the signal, or that it is time.
        known = torch.tensor(self._signal or int(due), device=pl_module.device)
        self._agreed = int(trainer.strategy.reduce(known, reduce_op="max"))
        # After the last batch Lightning would go on with the next epoch, without a validation.
        if self._agreed and self.path is not None and rest:
            self._pending = trainer._checkpoint_connector.dump_checkpoint(weights_only=False)

    @override
    def on_save_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        checkpoint["network"] = network_facts(pl_module)

    @override
    def on_train_batch_start(self, trainer: Trainer, *_: Any) -> None:
        # When the batch before is logged: a step that a checkpoint holds is never logged again.
        if self._pending is not None and self.path is not None:
            for logger in trainer.loggers:  # rows that it holds back would be lost with the process
                logger.save()
            trainer.strategy.save_checkpoint(self._pending, self.path)
            trainer.strategy.barrier()
            self._written, self._pending = time.monotonic(), None
        _leave(self._agreed)

    @override
    def on_train_epoch_end(self, *_: Any) -> None:
        self._written = time.monotonic()  # by ModelCheckpoint

    # Processes may see different numbers of batches here, so each leaves on its own.
    @override
    def on_validation_batch_end(self, *_: Any) -> None:
        _leave(self._signal or self._agreed)

    @override
    def on_test_batch_end(self, *_: Any) -> None:
        _leave(self._signal or self._agreed)

    @override
    def on_predict_batch_end(self, *_: Any) -> None:
        _leave(self._signal)


def _leave(number: int) -> None:
    if number > 1:  # 1: no signal, but time for a checkpoint
        raise Terminated(number)


class MovingAverage(EMAWeightAveraging):
    """A moving average of the weights, which a fit ends with, also one that had ended before.

    Of a fit that was killed in its test nothing is left to train, and Lightning would go on with
    the weights that were not averaged.
    """

    @override
    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.on_train_end(trainer, pl_module)


def forget_rows(file: Path, step: int) -> None:
    """Remove what a log has of steps that will be logged again, and a line cut short by a kill.

    Args:
        file: As Lightning's CSVLogger writes it.
        step: The first of these steps.
    """
    with file.open(encoding="utf-8", newline="") as stream:
        header, *rows = [*csv.reader(stream)] or [[]]
    place = header.index("step") if "step" in header else 0
    whole = [row for row in rows if len(row) == len(header) and row[place].isdecimal()]
    kept = [row for row in whole if int(row[place]) < step]
    if not kept:
        file.unlink()
    elif kept != rows:
        with (
            replacing(file) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as stream,
        ):
            csv.writer(stream).writerows([header, *kept])


class CheckpointFiles(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it; NAME.ckpt becomes NAME-1.ckpt before.

    Args:
        keep: How many of a name are kept.
    """

    def __init__(self, keep: int = 2) -> None:
        self.keep = keep

    @override
    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any | None = None
    ) -> None:
        if "://" in str(path):
            super().save_checkpoint(checkpoint, path, storage_options)
            return
        path = Path(path)
        with replacing(path) as temporary:
            with temporary.open("wb") as file:
                _save(checkpoint, file)
            ages = [path, *(path.with_stem(f"{path.stem}-{age}") for age in range(1, self.keep))]
            for newer, older in zip(ages[-2::-1], ages[:0:-1], strict=True):
                if newer.exists():
                    newer.replace(older)

    @override
    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = True
    ) -> dict[str, Any]:
        # Whatever Lightning asks for: anything else than tensors and plain values may run code.
        return super().load_checkpoint(path, map_location, weights_only=True)


def _save(checkpoint: dict[str, Any], file: BinaryIO) -> None:
    try:
        torch.save(checkpoint, file)
    except RuntimeError as error:  # torch's complaint about a file that a full disk cut short
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def newest(folder: Path) -> tuple[Path | None, list[str]]:
    """Find the newest whole checkpoint of a run.

    Args:
        folder: Where the run keeps them.

    Returns:
        The checkpoint, or None; and what is wrong with those that are newer.
    """
    problems: list[str] = []
    kept = [folder / LAST, *sorted(folder.glob("last-?.ckpt"))]
    for path in (path for path in kept if path.exists()):
        problem = damage(path)
        if problem is None:
            return path, problems
        problems.append(f"{path} is damaged ({problem})")
    return None, problems


def damage(path: Path) -> str | None:
    """Say what is wrong with the bytes of a checkpoint, by the checksums that it holds."""
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
    except (zipfile.BadZipFile, OSError, RuntimeError) as error:
        return str(error)
    return None if broken is None else f"the checksum of {broken} is wrong"

"""A callback that ends the process it runs in, as a scheduler or the kernel would."""

import os
from pathlib import Path

from lightning.pytorch.callbacks import Callback


class Ending(Callback):
    """Sends a signal to this process, or to all of its group, at a step; once in a folder.

    Args:
        step: Of the optimiser; none of these steps is -1.
        number: Of the signal.
        group: Whether all processes of the group get it.
        during: Which hook sends it.
    """

    def __init__(
        self, step: int = -1, number: int = 9, group: bool = False, during: str = "train"
    ) -> None:
        self.step, self.number, self.group, self.during = step, number, group, during

    def _end(self, trainer) -> None:
        mark = Path(trainer.default_root_dir) / "ended"
        if trainer.is_global_zero and trainer.global_step >= self.step > -1 and not mark.exists():
            mark.touch()
            if self.group:
                os.killpg(os.getpgid(0), self.number)
            else:
                os.kill(os.getpid(), self.number)

    def on_train_batch_start(self, trainer, *_) -> None:
        """Before the step."""
        if self.during == "train":
            self._end(trainer)

    def on_validation_batch_start(self, trainer, *_) -> None:
        """In a validation that belongs to a fit."""
        if self.during == "validation" and not trainer.sanity_checking:
            self._end(trainer)

    def on_test_batch_start(self, trainer, *_) -> None:
        """In the test after a fit."""
        if self.during == "test":
            self._end(trainer)

"""Lightning's Trainer with the defaults and the folder layout of this project.

A run's folder is `default_root_dir`: everything it writes lies below.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from typing_extensions import override

from blur_lightning.tracking import Tracker


class Trainer(lightning.Trainer):
    """Lightning's Trainer; see its documentation for all arguments.

    Args:
        default_root_dir: Folder of the run: records, pictures, checkpoints, logs.
        logger: Trackers; None or true is W&B (a `Tracker`) and CSV below the run's folder, false
            is none.
        callbacks: Callbacks; checkpoints go to checkpoints/ in the run's folder unless one says
            otherwise.
        limit_train_batches: Number of batches an epoch (1 is one), or share of them (1.0 is all).
        limit_val_batches: The same for validation.
        limit_test_batches: The same for tests.
        limit_predict_batches: The same for predictions.
        overfit_batches: The same for training and validating on the same few batches.
        val_check_interval: Batches between validations, or share of an epoch.
        gradient_clip_val: Largest norm or value of a gradient.
    """

    # Annotated here because typing caches Union[int, float] with Union[float, int], so that
    # Lightning's own annotations turn 1 (one batch) into 1.0 (all batches).
    def __init__(
        self,
        *,
        default_root_dir: str = "runs/latest",
        logger: Logger | Sequence[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | None = None,
        gradient_clip_val: int | float | None = None,
        **kwargs: Any,
    ) -> None:
        callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        wants_checkpoints = kwargs.get("enable_checkpointing") is not False
        if wants_checkpoints and not any(isinstance(c, ModelCheckpoint) for c in callbacks):
            folder = Path(default_root_dir) / "checkpoints"
            # One file, replaced after each epoch: `fit --ckpt_path last` goes on from it.
            callbacks.append(
                ModelCheckpoint(
                    folder,
                    filename="last",
                    enable_version_counter=False,
                    # Also after epochs that are not validated.
                    save_on_train_epoch_end=True,
                )
            )
        if logger in (None, True):
            logger = [CSVLogger(default_root_dir, name="logs"), Tracker()]
        super().__init__(
            default_root_dir=default_root_dir,
            logger=logger,
            callbacks=callbacks,
            limit_train_batches=limit_train_batches,
            limit_val_batches=limit_val_batches,
            limit_test_batches=limit_test_batches,
            limit_predict_batches=limit_predict_batches,
            overfit_batches=overfit_batches,
            val_check_interval=val_check_interval,
            gradient_clip_val=gradient_clip_val,
            # Data modules make their own samplers, which yield every image exactly once.
            use_distributed_sampler=False,
            **kwargs,
        )
        for tracker in self.loggers:
            if isinstance(tracker, Tracker):
                tracker.folder = Path(default_root_dir)

    @override
    def fit(self, *args: Any, test: bool = True, **kwargs: Any) -> None:
        """Train a network on a mix of blurs, then test it under each condition.

        Args:
            args: As Lightning's fit.
            test: Test the conditions at the end, with the weights of the last step.
            kwargs: As Lightning's fit.
        """
        super().fit(*args, **kwargs)
        if test and not self.interrupted:
            self.test(self.lightning_module, datamodule=self.datamodule)  # type: ignore[attr-defined]

    @override
    def test(self, *args: Any, verbose: bool = False, **kwargs: Any) -> Any:
        """Test a network under each condition; and again on restored images where a task has them.

        Args:
            args: As Lightning's test.
            verbose: Also print Lightning's own list of all numbers.
            kwargs: As Lightning's test.
        """
        found = super().test(*args, verbose=verbose, **kwargs)  # type: ignore[misc]
        task: Any = self.lightning_module
        if hasattr(task, "on_restored_images") and not self.interrupted:
            with task.on_restored_images():
                super().test(task, datamodule=self.datamodule, verbose=verbose)  # type: ignore[attr-defined]
        return found

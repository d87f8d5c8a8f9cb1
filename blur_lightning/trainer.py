"""Lightning's Trainer with the defaults and the folder layout of this project.

A run's folder is `default_root_dir`: everything it writes lies below.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
from lightning import LightningDataModule
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger, Logger
from lightning.pytorch.plugins.io import CheckpointIO
from typing_extensions import override

from blur_lightning.analysis.invariance import InvarianceAnalysis
from blur_lightning.analysis.residuals import ResidualAnalysis, blur_sizes
from blur_lightning.batch_norm import SyncedBatchNorm
from blur_lightning.checkpoints import FOLDER, LAST, CheckpointFiles, MovingAverage, SaveAndLeave
from blur_lightning.data import PairsDataModule
from blur_lightning.errors import InputError
from blur_lightning.models import finetuned
from blur_lightning.tasks import DeblurringTask, Task
from blur_lightning.tracking import Tracker


class Trainer(lightning.Trainer):
    """Lightning's Trainer; see its documentation for all arguments.

    Args:
        default_root_dir: Folder of the run: records, pictures, checkpoints, logs.
        logger: Trackers; None or true is W&B (a `Tracker`) and CSV below the run's folder, false
            is none.
        callbacks: Callbacks besides those that write checkpoints/last.ckpt in the run's folder.
        plugins: Plugins of Lightning.
        checkpoint_minutes: Time between checkpoints inside an epoch; one follows each epoch.
        ema: Validate, test and keep a moving average of the weights: so much of it remains at each
            step, such as 0.999; None keeps the weights themselves.
        limit_train_batches: Number of batches an epoch (1 is one), or share of them (1.0 is all).
        limit_val_batches: The same for validation.
        limit_test_batches: The same for tests.
        limit_predict_batches: The same for predictions.
        overfit_batches: The same for training and validating on the same few batches.
        val_check_interval: Batches between validations, or share of an epoch.
        gradient_clip_val: Largest norm or value of a gradient.
        sync_batchnorm: Batch normalisation sees the images of all processes, as one process with
            the whole batch would.
    """

    # Annotated here because typing caches Union[int, float] with Union[float, int], so that
    # Lightning's own annotations turn 1 (one batch) into 1.0 (all batches).
    def __init__(
        self,
        *,
        default_root_dir: str = "runs/latest",
        logger: Logger | Sequence[Logger] | bool | None = None,
        callbacks: list[Callback] | Callback | None = None,
        plugins: Any = None,
        checkpoint_minutes: float = 5.0,
        ema: float | None = None,
        limit_train_batches: int | float | None = None,
        limit_val_batches: int | float | None = None,
        limit_test_batches: int | float | None = None,
        limit_predict_batches: int | float | None = None,
        overfit_batches: int | float = 0.0,
        val_check_interval: int | float | None = None,
        gradient_clip_val: int | float | None = None,
        sync_batchnorm: bool = False,
        **kwargs: Any,
    ) -> None:
        callbacks = [callbacks] if isinstance(callbacks, Callback) else list(callbacks or ())
        plugins = list(plugins) if isinstance(plugins, Sequence) else [plugins] if plugins else []
        last = None
        if kwargs.get("enable_checkpointing") is not False:
            last = Path(default_root_dir) / FOLDER / LAST
            epochs = ModelCheckpoint(
                last.parent,
                filename=last.stem,
                enable_version_counter=False,
                # Also after epochs that are not validated.
                save_on_train_epoch_end=True,
            )
            callbacks.append(epochs)
            if not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
                plugins.append(CheckpointFiles())
        if checkpoint_minutes <= 0:
            raise InputError(f"trainer.checkpoint_minutes: {checkpoint_minutes} is not above 0")
        if ema is not None:
            if not 0 < ema < 1:
                raise InputError(f"trainer.ema: {ema} is not between 0 and 1")
            callbacks.append(MovingAverage(decay=ema))
        # The last one, so that it keeps what the others did in a step.
        callbacks.append(SaveAndLeave(last, minutes=checkpoint_minutes))
        if sync_batchnorm:
            plugins.append(SyncedBatchNorm())
        if logger in (None, True):
            logger = [CSVLogger(default_root_dir, name="logs"), Tracker()]
        super().__init__(
            default_root_dir=default_root_dir,
            logger=logger,
            callbacks=callbacks,
            plugins=plugins,
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
        self._say_what_was_left_out()
        task: Any = self.lightning_module
        if hasattr(task, "on_restored_images") and not self.interrupted:
            with task.on_restored_images():
                super().test(task, datamodule=self.datamodule, verbose=verbose)  # type: ignore[attr-defined]
        return found

    @override
    def predict(self, *args: Any, **kwargs: Any) -> Any:
        """Let a network answer images without labels.

        Args:
            args: As Lightning's predict.
            kwargs: As Lightning's predict.
        """
        found = super().predict(*args, **kwargs)
        self._say_what_was_left_out()
        return found

    def _say_what_was_left_out(self) -> None:
        """Images that `data.skip_unreadable` left out."""
        data = getattr(self, "datamodule", None)
        problems = sorted(getattr(data, "unreadable", ()))
        if problems and self.is_global_zero:
            print(f"left out: {len(problems):,} images that cannot be read", *problems, sep="\n  ")

    def invariance(
        self,
        model: Task,
        datamodule: LightningDataModule,
        *,
        layers: list[str] | str | None = None,
        ckpt_path: list[str] | str | None = None,
        image: int = 0,
    ) -> None:
        """Tell layer by layer how far each blur moves what a network computes.

        Takes the configuration of a test, whose sharp images stand against the same images under
        each condition. Writes invariance.html, .csv, .png (heat maps) and .npz to the run's folder.

        Args:
            model: The task, of which the network and the conditions count.
            datamodule: The images; labels are not needed.
            layers: Names of modules, such as layer4 or '[blocks.0, blocks.11]'; null takes the
                pooling layers of a VGG, else the stages or blocks of the network. A channel counts
                as on where the module's output is above 0: positive or zero after a ReLU, the sign
                elsewhere, as of a transformer's blocks.
            ckpt_path: Checkpoint of a fit of the same network, or a list, to show beside the
                network as it is configured.
            image: Place of the image whose heat maps are drawn, 0 or more.
        """
        if self.world_size > 1:
            raise InputError("trainer.devices: an analysis runs in one process; leave it out")
        names = [layers] if isinstance(layers, str) else layers
        files = [ckpt_path] if isinstance(ckpt_path, str) else ckpt_path or []
        self.loggers = []  # what an analysis leaves is in its files
        analysis = InvarianceAnalysis(model, layers=names, checkpoints=files, image=image)
        self.test(analysis, datamodule=datamodule)

    def residuals(
        self, model: Task, datamodule: LightningDataModule, *, ckpt_path: str | None = None
    ) -> None:
        """Tell whether a deblurring network changes blurry images more than sharper ones.

        Takes the configuration of a test on pairs that build-wild made: the average blur size of
        each is in their manifest.csv. Writes residuals.csv, .svg (the scatter plot), .png (the
        images with the largest and the smallest residual: blurry, residual four times as strong,
        restored, sharp) and .json (the correlation) to the run's folder.

        Args:
            model: A DeblurringTask.
            datamodule: A PairsDataModule.
            ckpt_path: Checkpoint of a fit; null takes the network as it is configured.
        """
        if not isinstance(model, DeblurringTask) or not isinstance(datamodule, PairsDataModule):
            raise InputError("model, data: residuals are of a DeblurringTask on a PairsDataModule")
        if ckpt_path is not None:
            finetuned(model.net, ckpt_path)
        self.loggers = []  # what an analysis leaves is in its files
        analysis = ResidualAnalysis(model, blur_sizes(datamodule.root))
        self.test(analysis, datamodule=datamodule)

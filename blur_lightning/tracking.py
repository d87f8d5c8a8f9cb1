"""Runs on W&B: online where that works, else offline on this disk, and never in the way of a run.

A run's folder is a run on W&B: its files lie in `wandb/` and its id in `wandb_run.txt`, so that
what goes on in the folder goes on there. Training and tests do not depend on the tracker: whatever
fails in it is one line on the console.
"""

import atexit
import functools
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import wandb
from lightning.pytorch.loggers import WandbLogger
from lightning.pytorch.loggers.logger import rank_zero_experiment
from lightning.pytorch.utilities import rank_zero_only
from typing_extensions import override

from blur_lightning.blur.families import family_of
from blur_lightning.blur.shake import named_bank
from blur_lightning.online import RUN_ID, mode
from blur_lightning.parsing import one_line
from blur_lightning.records.curves import curve_of
from blur_lightning.records.robustness import IMAGES, PROVENANCE, RECORDS, Record, replacing
from blur_lightning.report.page import report

_LENGTHS = ("radius", "length", "sigma")  # parameters that are 0 where nothing is blurred
_PATIENCE = 60  # s that the upload of an artifact may hold up a run that needs it noted
_MOST_CLASSES = 100  # beyond, a confusion table says little and grows large


def _harmless(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let the first process alone do it, and turn whatever fails in it into one line."""

    @functools.wraps(method)
    def guarded(self: "Tracker", *args: Any, **kwargs: Any) -> Any:
        try:
            return method(self, *args, **kwargs)
        except Exception as error:
            _say(f"{method.__name__} failed, and the run goes on: {one_line(error)}")

    return rank_zero_only(guarded)


@functools.cache  # each line once: what fails at one step may fail at all
def _say(line: str) -> None:
    print(f"W&B: {line}", file=sys.stderr, flush=True)


class Tracker(WandbLogger):
    """Logs a run to W&B; where its server cannot be had, to files that `wandb sync` uploads later.

    WANDB_MODE (online, offline, disabled) and W&B's other variables are kept to.

    Args:
        project: Where the run belongs; None is WANDB_PROJECT, else blur_lightning.
        log_artifacts: Also keep the checkpoint, the kernel banks and the checkpoint that is tested
            as artifacts, so that W&B shows what came from what.
    """

    def __init__(self, project: str | None = None, *, log_artifacts: bool = False) -> None:
        project = project or os.environ.get("WANDB_PROJECT", "blur_lightning")
        super().__init__(project=project, log_model=log_artifacts)
        self.folder = Path()  # the run's; the Trainer sets it
        self._exit_code = 0

    # Starting and ending

    @property
    @override
    @rank_zero_experiment
    def experiment(self) -> Any:
        """W&B's run, which begins when it is first asked for."""
        if self._experiment is None:
            self._experiment = self._started()
        return self._experiment

    def _started(self) -> Any:
        # What artifacts of offline runs are made of; the sync needs it.
        os.environ.setdefault("WANDB_DATA_DIR", str(self.folder.absolute() / "wandb"))
        chosen, reason = mode()
        for attempt in dict.fromkeys((chosen, "offline")):
            try:
                run = self._init(attempt)
                break
            except Exception as error:
                reason = one_line(error)
        else:
            run = self._init("disabled")
        atexit.register(self.finish)
        if run.disabled:
            if chosen != "disabled":
                _say(f"no tracking: {reason}")
        elif run.offline:
            _say(f"offline ({reason}); to upload later: wandb sync {run.settings.sync_dir}")
        else:
            _say(run.settings.run_url)
        return run

    def _init(self, mode: str) -> Any:
        if mode != "disabled":
            self.folder.mkdir(parents=True, exist_ok=True)
        file = self.folder / RUN_ID
        # An agent, or whoever sets it, decides which run this is.
        known = None if "WANDB_RUN_ID" in os.environ or not file.is_file() else file.read_text()
        run = wandb.init(
            mode=mode,  # type: ignore[arg-type]
            project=self._project,
            dir=self.folder,
            id=known and known.strip(),
            name=self.folder.resolve().name,
            resume="allow",
            settings=wandb.Settings(finish_timeout_raises=True),
        )
        if mode != "disabled":
            with replacing(file) as path:
                path.write_text(f"{run.id}\n")
        run.define_metric("trainer/global_step")
        run.define_metric("*", step_metric="trainer/global_step", step_sync=True)
        return run

    def finish(self) -> None:
        """End the run on W&B; the end of the program does it otherwise."""
        atexit.unregister(self.finish)
        run, self._experiment = self._experiment, None
        if run is None:
            return
        try:
            run.finish(self._exit_code)
        except Exception as error:
            _say(f"not all was uploaded ({one_line(error)}): wandb sync {run.settings.sync_dir}")

    # What is logged while it runs

    log_metrics = _harmless(WandbLogger.log_metrics)
    log_hyperparams = _harmless(WandbLogger.log_hyperparams)
    log_table = _harmless(WandbLogger.log_table)
    after_save_checkpoint = _harmless(WandbLogger.after_save_checkpoint)

    @override
    @_harmless
    def finalize(self, status: str) -> None:
        self._exit_code = int(status != "success")  # of the last stage, as fit and then test
        super().finalize(status)

    @override
    @_harmless
    def log_graph(self, model: Any, input_array: Any = None) -> None:
        """Log the configuration and where the numbers will come from; Lightning calls it early."""
        facts = model.provenance()
        config = facts.pop("config") or {}
        self.experiment.config.update({**config, "provenance": facts}, allow_val_change=True)
        if self._log_model and not self.experiment.disabled:
            self._log_inputs(facts["kernel_banks"], model.trainer.ckpt_path)

    def _log_inputs(self, banks: Mapping[str, str], checkpoint: Any) -> None:
        inputs = []
        for name, digest in banks.items():
            path = self.folder / "wandb" / f"{name}.npy"
            np.save(path, named_bank(name.removeprefix("shake-")).numpy())
            bank = wandb.Artifact(f"kernel-bank-{name}", "kernel-bank", metadata={"sha256": digest})
            bank.add_file(str(path), name=path.name)
            inputs.append(bank)
        if checkpoint:
            # As the training's own: equal content is one version, so W&B joins the two runs.
            file = Path(checkpoint).parent.parent / RUN_ID
            origin = file.read_text().strip() if file.is_file() else "unknown"
            if origin != self.experiment.id:
                model = wandb.Artifact(f"model-{origin}", "model")
                model.add_file(str(checkpoint), name="model.ckpt")
                inputs.append(model)
        for artifact in inputs:
            logged = self.experiment.log_artifact(artifact)
            if not self.experiment.offline:  # then W&B cannot note a use
                self.experiment.use_artifact(logged.wait(_PATIENCE))

    # What is logged of a test

    @_harmless
    def log_test(self, folder: Path, records: Sequence[Record]) -> None:
        """Log a finished test: curves, pictures, the report, tables and the files.

        Args:
            folder: The run's folder, which holds the files of the test.
            records: Of this test, in the order of the report.
        """
        if not self.experiment.disabled:
            self._log_curves(records)
            self._log_pictures(folder / "examples", records)
            self._log_report(folder)
            self._log_tables(folder / IMAGES, records)

    @_harmless
    def _log_curves(self, records: Sequence[Record]) -> None:
        for curve, points in curves(records).items():
            step = f"curve/{curve}/parameter"
            self.experiment.define_metric(step, hidden=True)
            for metric in dict.fromkeys(metric for point in points.values() for metric in point):
                self.experiment.define_metric(f"curve/{curve}/{metric}", step_metric=step)
            for parameter, point in points.items():
                values = {f"curve/{curve}/{metric}": value for metric, value in point.items()}
                self.experiment.log({step: parameter, **values})

    @_harmless
    def _log_pictures(self, folder: Path, records: Sequence[Record]) -> None:
        names = dict.fromkeys(record.condition for record in records)
        files = {name: folder / f"{name}.jpg" for name in names}
        pictures = [wandb.Image(str(f), caption=name) for name, f in files.items() if f.is_file()]
        if pictures:
            self.experiment.log({"examples": pictures})

    @_harmless
    def _log_report(self, folder: Path) -> None:
        page = folder / "wandb" / "report.html"
        report([folder], out=page)
        self.experiment.log({"report": wandb.Html(str(page))})
        artifact = wandb.Artifact("report", "report")
        for path in (folder / RECORDS, folder / IMAGES, folder / PROVENANCE, page):
            artifact.add_file(str(path))
        self.experiment.log_artifact(artifact)

    @_harmless
    def _log_tables(self, images: Path, records: Sequence[Record]) -> None:
        self.log_table("conditions", [*Record._fields], [list(record) for record in records])
        if confusion := confusion_rows(images):
            self.log_table("confusion", ["condition", "label", "predicted", "n"], confusion)


def curves(records: Sequence[Record]) -> dict[str, dict[float, dict[str, float]]]:
    """Values by curve, parameter and metric, the parameters rising.

    A curve is named by `curve_of`. Sharp is its point at 0 where the parameter is a length.
    """
    found: dict[str, dict[float, dict[str, float]]] = {}
    families: dict[str, str] = {}
    for record in records:
        if record.parameter is not None and record.family != "sharp":
            curve = curve_of(record)
            families[curve] = record.family
            point = found.setdefault(curve, {}).setdefault(record.parameter, {})
            point[record.metric] = record.value
    sharp = {record.metric: record.value for record in records if record.condition == "sharp"}
    for curve, points in found.items():
        family = family_of(families[curve])
        if sharp and family is not None and family.parameter in _LENGTHS:
            points.setdefault(0.0, sharp)
    return {curve: dict(sorted(points.items())) for curve, points in found.items()}


def confusion_rows(file: Path) -> list[list[Any]]:
    """Rows of condition, label, predicted class and number of images, from `images.parquet`.

    Empty without labels or decisions, and where there are more than 100 classes.
    """
    from pyarrow import compute, parquet

    counts: Counter[tuple[str, int, int]] = Counter()
    with parquet.ParquetFile(file) as source:
        if not {"label", "top5_classes"} <= set(source.schema_arrow.names):
            return []
        for group in range(source.num_row_groups):
            table = source.read_row_group(group, ["condition", "label", "top5_classes"])
            best = compute.list_element(table["top5_classes"], 0)
            columns = (table["condition"], table["label"], best)
            counts.update(zip(*(column.to_pylist() for column in columns), strict=True))
    classes = {number for key in counts for number in key[1:]}
    return [[*key, counts[key]] for key in sorted(counts)] if len(classes) <= _MOST_CLASSES else []

"""What trials of sweeps leave behind: `trial.json`, their metric, and a table of them."""

import csv
import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import RECORDS, read_records, replacing
from blur_lightning.records.rounding import rounded

RUNS, OUTCOME, LOG = Path("runs"), "trial.json", "log.txt"
FOLDER = "trainer.default_root_dir"
DONE = ("finished", "pruned")  # what is not run again
Outcome = Mapping[str, Any]
_FEW = 5  # names that a line lists


class Trial(NamedTuple):
    """One point of a sweep: what it runs, and where it keeps the outcome."""

    folder: Path
    parameters: dict[str, Any]
    command: list[str]  # ${interpreter} stays, so that a trial is the same in another environment
    metric: str = ""  # as test/D4/top1 or val/top1; empty: none was named
    draw: dict[str, int | float] | None = None  # what a search drew it from; None: of a grid


def outcome(trial: Trial) -> dict[str, Any]:
    """What trial.json says; empty unless it is of the same parameters and command."""
    with suppress(OSError, ValueError):
        found = json.loads((trial.folder / OUTCOME).read_text(encoding="utf-8"))
        if all(found.get(key) == getattr(trial, key) for key in ("parameters", "command")):
            return dict(found)
    return {}


def record(trial: Trial, status: str, **facts: Any) -> None:
    """Write trial.json."""
    content = {key: getattr(trial, key) for key in ("parameters", "command", "draw")}
    content |= {"status": status, "error": None, "seconds": 0.0, **facts}
    with replacing(trial.folder / OUTCOME) as path:
        path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def table(trials: Sequence[Trial]) -> str:
    """Lay out a line for each trial; below them each error once, and which were pruned."""
    outcomes = [outcome(trial) for trial in trials]
    shown = [_value_text(*pair) for pair in zip(trials, outcomes, strict=True)]
    metrics = list(dict.fromkeys(t.metric for t, value in zip(trials, shown, strict=True) if value))
    rows = [["trial", "status", "seconds", *metrics, ""]]
    for trial, found, value in zip(trials, outcomes, shown, strict=True):
        name, status = str(trial.folder.relative_to(RUNS)), found.get("status", "not run")
        cells = [value if metric == trial.metric else "" for metric in metrics]
        drawn = ", ".join(f"{key}={trial.parameters[key]}" for key in trial.draw or ())
        rows.append([name, status, str(found.get("seconds") or ""), *cells, drawn])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    errors: dict[str, list[str]] = {}
    for trial, found in zip(trials, outcomes, strict=True):
        if found.get("error"):
            errors.setdefault(found["error"], []).append(str(trial.folder / LOG))
    for error, logs in errors.items():
        lines.append(f"{len(logs)} of {len(trials)} failed: {error} ({listed(logs)})")
    if names := [row[0] for row in rows if row[1] == "pruned"]:
        lines.append(f"{len(names)} of {len(trials)} pruned: {listed(names)}")
    return "\n".join(lines)


def listed(names: Sequence[str]) -> str:
    """The first few of some names, and how many more there are."""
    more = f" and {len(names) - _FEW} more" if len(names) > _FEW else ""
    return ", ".join(names[:_FEW]) + more


def _value_text(trial: Trial, found: Outcome) -> str:
    value = final_value(trial, found) if found.get("status") in DONE else None
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e-3 else rounded(value, 4)


def final_value(trial: Trial, found: Outcome) -> float | None:
    """The metric of a trial that has ended: of its test, else the last that it logged."""
    condition, _, name = trial.metric.removeprefix("test/").rpartition("/")
    if trial.metric.startswith("test/") and found.get("status") != "pruned":
        with suppress(InputError):
            for one in read_records(_run_folder(trial) / RECORDS):
                if (one.condition, one.metric) == (condition, name):
                    return one.value
    values = found.get("values") or logged(trial, found.get("began", 0.0))
    return values[-1] if values else None


def logged(trial: Trial, began: float) -> list[float]:
    """Values of the metric that Lightning's CSV logger has written since a time, by step."""
    return [value for value, _ in _rows(trial, began)]


def fit_is_over(trial: Trial, began: float) -> bool:
    """Whether the epochs of a fit hold no further validation, so that only its test is left."""
    trainer, rows = _settings(trial), _rows(trial, began)
    epochs, every = trainer.get("max_epochs"), trainer.get("check_val_every_n_epoch") or 1
    return bool(rows) and epochs is not None and rows[-1][1] + every >= epochs >= 0


def unvalidated(trainer: Mapping[str, Any]) -> str:
    """Which settings keep a fit from ever being validated; empty: none that can be told.

    Args:
        trainer: The part `trainer` of a run's configuration.
    """
    epochs, every = trainer.get("max_epochs"), trainer.get("check_val_every_n_epoch")
    if epochs is not None and every is not None and 0 <= epochs < every:
        return f"trainer.max_epochs is {epochs}, and trainer.check_val_every_n_epoch {every}"
    if trainer.get("limit_val_batches") == 0:
        return "trainer.limit_val_batches is 0"
    return ""


def missing_metric(trial: Trial) -> str:
    """Why a trial that has ended well has no value of its metric."""
    cause = unvalidated(_settings(trial)) if trial.metric.startswith("val/") else ""
    reason = f"; it was never validated: {cause}" if cause else ""
    return f"metric: the trial neither tested nor logged {trial.metric}{reason}"


def _settings(trial: Trial) -> dict[str, Any]:
    """What the configuration that a fit has saved says of its trainer."""
    with suppress(OSError, yaml.YAMLError, LookupError, TypeError):
        text = (_run_folder(trial) / "fit.yaml").read_text(encoding="utf-8")
        return dict(yaml.safe_load(text)["trainer"])
    return {}


def _rows(trial: Trial, began: float) -> list[tuple[float, int]]:
    """Values of the metric and their epochs, counted from 0, by step."""
    rows: dict[int, tuple[float, int]] = {}
    files = (_run_folder(trial) / "logs").glob("version_*/metrics.csv")
    with suppress(OSError):  # replaced at this moment
        found = sorted((file.stat().st_mtime, file) for file in files)
        for _, file in (pair for pair in found if pair[0] >= began):
            with file.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    with suppress(KeyError, TypeError, ValueError):  # a cell empty or half-written
                        value = float(row[trial.metric])
                        rows[int(row["step"])] = value, int(row.get("epoch") or 0)
    return [rows[step] for step in sorted(rows)]


def _run_folder(trial: Trial) -> Path:
    return Path(trial.parameters.get(FOLDER) or trial.folder)

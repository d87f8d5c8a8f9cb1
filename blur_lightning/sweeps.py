"""Grids of runs on one machine, from the sweep files of W&B and without its server.

The schema is that of https://docs.wandb.ai/models/sweeps: the file that `wandb sweep` and `wandb
agent` take. A trial's folder holds what its command writes, `trial.json` and `log.txt`.
"""

import hashlib
import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter, deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from blur_lightning.errors import InputError
from blur_lightning.robustness import RECORDS, read_records, replacing

RUNS, OUTCOME, LOG = Path("runs"), "trial.json", "log.txt"
_FOLDER = "trainer.default_root_dir"
_INTERPRETER = "${interpreter}"
_LONGEST = 120  # characters of a trial's name; file systems take 255 bytes
_GRACE = 30.0  # s between SIGTERM and SIGKILL, as W&B's agent gives


class Trial(NamedTuple):
    """One point of a grid: what it runs, and where it keeps the outcome."""

    folder: Path
    parameters: dict[str, Any]
    command: list[str]  # ${interpreter} stays, so that a trial is the same in another environment
    metric: str  # as test/D4/top1; empty: none was named


def sweep(files: list[Path], *, jobs: int = 1, count: int | None = None) -> int:
    """Run all points of the grids in W&B sweep files, without a server.

    Each point is a process of its own in runs/<name of the sweep>/<point>, started from the
    current directory. Repeat the command to go on where an earlier one stopped: finished trials
    stay, failed ones are tried again, and an interrupted fit goes on from its last checkpoint.

    Args:
        files: Sweep files: YAML with method grid, parameters and command.
        jobs: Trials at the same time; they share the cores.
        count: Largest number of trials to run now; all by default.

    Returns:
        0, or 1 if a trial failed.
    """
    for option, number in (("jobs", jobs), ("count", count)):
        if number is not None and number < 1:
            raise InputError(f"--{option}: {number} trials cannot be run; give 1 or more")
    trials = [trial for file in files for trial in read_trials(file)]
    for folder, number in Counter(trial.folder for trial in trials).items():
        if number > 1:
            raise InputError(f"{folder}: {number} trials write there; say each name and value once")
    _run(trials, jobs, count)
    print(_report(trials))
    return int(any(_outcome(trial).get("status") == "failed" for trial in trials))


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML file that holds keys; anything else is an InputError that names the file."""
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{file}: {error.strerror}; name a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        problem = " ".join(str(error).replace('in "<unicode string>", ', "").split())
        raise InputError(f"{file}: not YAML: {problem}") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: holds no keys; name an experiment or a sweep")
    return content


def read_trials(file: Path) -> list[Trial]:
    """Trials of a sweep file, in the order of `grid_points`; an InputError names the file."""
    # By way of JSON: dates and keys that are numbers become what trial.json gives back.
    content = json.loads(json.dumps(read_yaml(file), default=str))
    folder = RUNS / _safe(str(content.get("name") or file.stem))
    metric = content.get("metric")
    metric = str(metric.get("name", "")) if isinstance(metric, dict) else ""
    trials = []
    try:
        points = grid_points(content)
        for name, point in zip(_names(points), points, strict=True):
            command = _command(content, point)
            if _FOLDER not in point:
                command.append(f"--{_FOLDER}={folder / name}")
            trials.append(Trial(folder / name, point, command, metric))
    except InputError as error:
        raise InputError(f"{file}: {error}") from error
    return trials


def grid_points(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points of a sweep's grid: for each, all parameters by their dotted names.

    They are in the order of the file, the last parameter varying fastest.

    Args:
        sweep: Content of a sweep file; an InputError says which of its keys is wrong.
    """
    method = sweep.get("method", "none")
    if method != "grid":
        raise InputError(f"method: {method}, but only grid runs here; others: wandb sweep FILE")
    parameters = sweep.get("parameters")
    if not isinstance(parameters, Mapping) or not parameters:
        raise InputError("parameters: none; give each its values, as seed_everything: {value: 0}")
    axes = [_values(f"parameters.{key}", axis) for key, axis in parameters.items()]
    return [dict(zip(parameters, point, strict=True)) for point in itertools.product(*axes)]


def _values(key: str, axis: Any) -> list[Any]:
    axis = axis if isinstance(axis, Mapping) else {}
    if "value" in axis:
        return [axis["value"]]
    values = axis.get("values")
    if not isinstance(values, list) or not values:
        raise InputError(f"{key}: needs value: or values: [..]; nested keys take dots: data.blur")
    return values


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _command(content: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    """Fill the macros of a sweep's command with a point."""
    macros = {
        "${env}": [],
        _INTERPRETER: [_INTERPRETER],
        "${args}": [f"--{key}={_text(value)}" for key, value in point.items()],
        "${args_no_hyphens}": [f"{key}={_text(value)}" for key, value in point.items()],
    }
    if content.get("program"):
        macros["${program}"] = [str(content["program"])]
    command = content.get("command")
    if not isinstance(command, list) or not command:
        raise InputError("command: none; give its words, as [python, -m, blur_lightning, ...]")
    words = [_text(word) for word in command]
    for word in words:
        if word.startswith("${") and word not in macros:
            raise InputError(f"command: {word} has no value here; known are {' '.join(macros)}")
    return [filled for word in words for filled in macros.get(word, [word])]


def _names(points: Sequence[Mapping[str, Any]]) -> list[str]:
    """A name for each point, from the parameters that vary, by the last part of their keys."""
    keys = [key for key in points[0] if any(p[key] != points[0][key] for p in points)]
    leaves = [key.rpartition(".")[-1] for key in keys]
    shown = [a if leaves.count(a) == 1 else b for a, b in zip(leaves, keys, strict=True)]
    names = []
    for point in points:
        pairs = zip(shown, keys, strict=True)
        names.append(_safe(",".join(f"{a}={_text(point[b])}" for a, b in pairs)) or "trial")
    folded = Counter(name.casefold() for name in names)  # some file systems do not see capitals
    for i, (name, point) in enumerate(zip(names, points, strict=True)):
        if folded[name.casefold()] > 1 or len(name) > _LONGEST:
            digest = hashlib.sha256(json.dumps(point, sort_keys=True).encode()).hexdigest()
            names[i] = f"{name[:_LONGEST]}-{digest[:8]}"
    return names


def _safe(text: str) -> str:
    """Replace what shells or file systems take for something else."""
    return re.sub(r"[^\w.,=+@-]+", "-", text).strip("-.")


def _run(trials: Sequence[Trial], jobs: int, count: int | None) -> None:
    """Run what is not finished, some at once, with a line on stderr for each that ends."""
    unfinished = [trial for trial in trials if _outcome(trial).get("status") != "finished"]
    waiting = deque((trial, _can_continue(trial)) for trial in unfinished[:count])
    ended, times = len(trials) - len(unfinished), list[float]()
    running: dict[subprocess.Popen[bytes], tuple[Trial, bool, float]] = {}
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    try:
        while waiting or running:
            while waiting and len(running) < jobs:
                trial, continued = waiting.popleft()
                running[_start(trial, continued, threads)] = trial, continued, time.monotonic()
            time.sleep(0.1)
            for process in [process for process in running if process.poll() is not None]:
                trial, continued, began = running.pop(process)
                error = _error(trial, process.returncode)
                if continued and (error or "").startswith("ckpt_path:"):
                    waiting.appendleft((trial, False))  # nothing to go on from: start again
                    continue
                status, seconds = "failed" if error else "finished", time.monotonic() - began
                _record(trial, status, error, round(seconds, 1))
                ended, times = ended + 1, times if error else [*times, seconds]
                line = f"[{ended}/{len(trials)}] {status} {trial.folder.name} {seconds:.0f} s"
                rounds = math.ceil((len(waiting) + len(running)) / jobs)
                if rounds and times:
                    minutes = math.ceil(rounds * sum(times) / len(times) / 60)
                    line += f", about {minutes} min left"
                print(line, file=sys.stderr, flush=True)
    finally:
        _end(running)


def _start(trial: Trial, continued: bool, threads: int) -> subprocess.Popen[bytes]:
    _record(trial, "started")
    words = [sys.executable if word == _INTERPRETER else word for word in trial.command]
    words += ["--ckpt_path", "last"] if continued else []
    with (trial.folder / LOG).open("wb") as log:
        try:
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={"OMP_NUM_THREADS": str(threads), **os.environ},
                start_new_session=True,  # Ctrl-C reaches the sweep alone, which ends its trials
            )
        except OSError as error:
            raise InputError(f"command: cannot start {words[0]} ({error.strerror})") from error


def _end(processes: Mapping[subprocess.Popen[bytes], Any]) -> None:
    for process in processes:
        process.terminate()
    deadline = time.monotonic() + _GRACE
    try:
        for process in processes:
            with suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, deadline - time.monotonic()))
    finally:  # also where a second Ctrl-C cuts the wait short
        for process in processes:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def _can_continue(trial: Trial) -> bool:
    """Whether an earlier start of this very trial left a checkpoint."""
    checkpoint = trial.folder / "checkpoints" / "last.ckpt"
    return "fit" in trial.command and bool(_outcome(trial)) and checkpoint.is_file()


def _outcome(trial: Trial) -> dict[str, Any]:
    """What trial.json says; empty unless it is of the same parameters and command."""
    with suppress(OSError, ValueError):
        outcome = json.loads((trial.folder / OUTCOME).read_text(encoding="utf-8"))
        if all(outcome.get(key) == getattr(trial, key) for key in ("parameters", "command")):
            return dict(outcome)
    return {}


def _record(trial: Trial, status: str, error: str | None = None, seconds: float = 0.0) -> None:
    outcome = {**trial._asdict(), "status": status, "error": error, "seconds": seconds}
    del outcome["folder"], outcome["metric"]
    with replacing(trial.folder / OUTCOME) as path:
        path.write_text(json.dumps(outcome, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _error(trial: Trial, status: int) -> str | None:
    """Why a trial ended with a status: the last line of its log that says so, else the last."""
    if status <= 0:
        return f"ended by signal {-status} ({signal.strsignal(-status)})" if status else None
    text = (trial.folder / LOG).read_text(encoding="utf-8", errors="replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [f"ended with status {status}"])[-1]


def _report(trials: Sequence[Trial]) -> str:
    """Lay out a line for each trial; below them, each error once."""
    outcomes = [_outcome(trial) for trial in trials]
    metrics = list(dict.fromkeys(trial.metric for trial in trials if _value(trial)))
    rows = [["trial", "status", "seconds", *metrics]]
    for trial, outcome in zip(trials, outcomes, strict=True):
        name, status = str(trial.folder.relative_to(RUNS)), outcome.get("status", "not run")
        value = _value(trial) if status == "finished" else ""
        cells = [value if metric == trial.metric else "" for metric in metrics]
        rows.append([name, status, str(outcome.get("seconds") or ""), *cells])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows]
    errors = Counter(outcome["error"] for outcome in outcomes if outcome.get("error"))
    lines += [f"{n} of {len(trials)} failed: {error}" for error, n in errors.items()]
    return "\n".join(lines)


def _value(trial: Trial) -> str:
    """The value of a trial's metric, test/<condition>/<metric>; empty if no record has it."""
    condition, _, name = trial.metric.removeprefix("test/").rpartition("/")
    folder = Path(trial.parameters.get(_FOLDER) or trial.folder)
    with suppress(InputError):
        for record in read_records(folder / RECORDS):
            if (record.condition, record.metric) == (condition, name):
                return f"{record.value:.4f}"
    return ""

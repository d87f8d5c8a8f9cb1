"""Sweeps on one machine, from the sweep files of W&B and without its server.

The schema is that of https://docs.wandb.ai/models/sweeps: the file that `wandb sweep` and `wandb
agent` take. A trial's folder holds what its command writes, `trial.json` and `log.txt`.
"""

import hashlib
import itertools
import json
import math
import re
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from blur_lightning.errors import InputError
from blur_lightning.records.outcomes import DONE, FOLDER, RUNS, Trial, outcome, table, unvalidated
from blur_lightning.sweeps.search import Search, parameters_of, read_axes
from blur_lightning.sweeps.trials import INTERPRETER, check, run
from blur_lightning.yaml_files import read_yaml

METHODS = ("grid", "random", "bayes")
_LONGEST = 120  # characters of a trial's name; file systems take 255 bytes
_MOST = 100_000  # trials of a grid
_FEW = 3  # trials of a search that are looked at before it runs


def sweep(
    files: list[Path], *, jobs: int = 1, count: int | None = None, seed: int | None = None
) -> int:
    """Run the trials of W&B sweep files, without a server.

    Each trial is a process of its own in runs/<name of the sweep>/<trial>, started from the current
    directory. Repeat the command to go on where an earlier one stopped: finished trials stay,
    failed ones are tried again, and an interrupted fit goes on from its last checkpoint. Options
    that the command does not have, and blurs that are none, are told before the first trial.

    Args:
        files: Sweep files: YAML with method, parameters and command. Random and bayes need Optuna:
            pip install 'blur_lightning[sweeps]'.
        jobs: Trials at the same time; they share the cores.
        count: Largest number of grid points to run now; all by default. For random and bayes, how
            many trials there are in all; by default the file's run_cap.
        seed: Seed of random and bayes; by default it follows from the file's parameters.

    Returns:
        0, or 1 if a trial failed.
    """
    for option, number in (("jobs", jobs), ("count", count)):
        if number is not None and number < 1:
            raise InputError(f"--{option}: {number} trials cannot be run; give 1 or more")
    if seed is not None and seed < 0:
        raise InputError(f"--seed: {seed} is no seed; give 0 or more")
    contents = {file: _read(file) for file in files}
    grids = [file for file, content in contents.items() if content["method"] == "grid"]
    trials = [trial for file in grids for trial in read_trials(file)]
    searches = [_search(f, contents[f], count, seed) for f in contents if f not in grids]
    _check_folders(trials, searches)
    for file, content in contents.items():
        if not _folder(file, content).exists():  # nothing of it was run before
            print(f"checking the options of {file} ...", file=sys.stderr)
            _check_options(file, content)
    unfinished = [trial for trial in trials if outcome(trial).get("status") not in DONE]
    finished = len(trials) - len(unfinished)
    run(iter(unfinished), len(unfinished[:count]), jobs=jobs, finished=finished)
    for search in searches:
        trials += _run_search(search, jobs)
    print(table(trials))
    return int(any(outcome(trial).get("status") == "failed" for trial in trials))


def _check_folders(trials: Sequence[Trial], searches: Sequence[Search]) -> None:
    folders = Counter([t.folder for t in trials] + [search.folder for search in searches])
    for folder, number in folders.items():
        if number > 1:
            raise InputError(f"{folder}: {number} trials write there; say each name and value once")


def _check_options(file: Path, content: Mapping[str, Any]) -> None:
    """Refuse a sweep before its first trial if one would fail by its options."""
    try:
        trainers = check(sample_commands(content))
        metric = _metric(content)
        if content["method"] != "grid" and metric.startswith("val/"):
            for cause in filter(None, map(unvalidated, trainers)):
                raise InputError(f"metric: {metric} is never measured: {cause}; change one of them")
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def sample_commands(content: Mapping[str, Any]) -> list[list[str]]:
    """As few commands of a sweep as it takes to state every listed value of every parameter."""
    axes = read_axes(content.get("parameters"))
    stated = {
        key: axis["values"] if "values" in axis else [parameters_of({key: axis}, {key: 0.5})[key]]
        for key, axis in axes.items()
    }
    number = max(map(len, stated.values()))
    points = ({k: v[i % len(v)] for k, v in stated.items()} for i in range(number))
    return [_command(content, point) for point in points]


def _run_search(search: Search, jobs: int) -> list[Trial]:
    """Run what is left of a search; all its trials, by their number."""
    ended, interrupted = search.resume()
    drawn: list[Trial] = []

    def trials() -> Iterator[Trial]:
        for trial in itertools.chain(interrupted, search.draw([*ended, *interrupted])):
            drawn.append(trial)
            yield trial

    number = search.count - len(ended)
    run(trials(), number, jobs=jobs, finished=len(ended), follow=search.follow)
    return sorted([*ended, *drawn], key=lambda trial: trial.folder)


def read_trials(file: Path) -> list[Trial]:
    """Trials of a sweep file, in the order of `grid_points`; an InputError names the file.

    Of a search, which has no end of its own, they are the first few.
    """
    content = _read(file)
    if content["method"] != "grid":
        return list(_search(file, content, _FEW, None).draw([]))
    try:
        points = grid_points(content)
        names = _names(points)
        return [
            _trial(content, _folder(file, content) / name, point)
            for name, point in zip(names, points, strict=True)
        ]
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _read(file: Path) -> dict[str, Any]:
    # By way of JSON: dates and keys that are numbers become what trial.json gives back.
    content: dict[str, Any] = json.loads(json.dumps(read_yaml(file), default=str))
    if content.get("method") not in METHODS:
        method = content.get("method", "none")
        raise InputError(f"{file}: method: {method}, but it is {', '.join(METHODS)}")
    return content


def _search(file: Path, content: Mapping[str, Any], count: int | None, seed: int | None) -> Search:
    try:
        _command(content, {})  # whether it can be filled
        make = partial(_trial, content)
        return Search(content, _folder(file, content), make, count=count, seed=seed)
    except InputError as error:
        raise InputError(f"{file}: {error}") from error


def _folder(file: Path, content: Mapping[str, Any]) -> Path:
    return RUNS / _safe(str(content.get("name") or file.stem))


def _trial(
    content: Mapping[str, Any],
    folder: Path,
    point: dict[str, Any],
    draw: dict[str, int | float] | None = None,
) -> Trial:
    command = _command(content, point)
    if FOLDER not in point:
        command.append(f"--{FOLDER}={folder}")
    return Trial(folder, point, command, _metric(content), draw)


def _metric(content: Mapping[str, Any]) -> str:
    metric = content.get("metric")
    return str(metric.get("name", "")) if isinstance(metric, dict) else ""


def grid_points(sweep: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Points of a sweep's grid: for each, all parameters by their dotted names.

    They are in the order of the file, the last parameter varying fastest.

    Args:
        sweep: Content of a sweep file; an InputError says which of its keys is wrong.
    """
    if "early_terminate" in sweep:
        raise InputError("early_terminate: a grid is run whole here; use method: random or bayes")
    axes = read_axes(sweep.get("parameters"))
    for key, axis in axes.items():
        if axis["distribution"] not in ("constant", "categorical"):
            raise InputError(f"parameters.{key}: a grid needs value: or values: [..]")
    values = [
        [axis["value"]] if axis["distribution"] == "constant" else axis["values"]
        for axis in axes.values()
    ]
    if (number := math.prod(map(len, values))) > _MOST:
        raise InputError(f"parameters: {number:,} trials; a grid has at most {_MOST:,} here")
    return [dict(zip(axes, point, strict=True)) for point in itertools.product(*values)]


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _command(content: Mapping[str, Any], point: Mapping[str, Any]) -> list[str]:
    """Fill the macros of a sweep's command with a point."""
    macros = {
        "${env}": [],
        INTERPRETER: [INTERPRETER],
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

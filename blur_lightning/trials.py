"""Trials of sweeps: their processes, the records that let a sweep go on, and their metric.

A trial's folder holds what its command writes, `trial.json` and `log.txt`.
"""

import csv
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.robustness import RECORDS, read_records, replacing

RUNS, OUTCOME, LOG = Path("runs"), "trial.json", "log.txt"
FOLDER = "trainer.default_root_dir"
INTERPRETER = "${interpreter}"
DONE = ("finished", "pruned")  # what is not run again
_GRACE = 30.0  # s between SIGTERM and SIGKILL, as W&B's agent gives
_LOOK = 1.0  # s between looks at what the running trials have logged


class Trial(NamedTuple):
    """One point of a sweep: what it runs, and where it keeps the outcome."""

    folder: Path
    parameters: dict[str, Any]
    command: list[str]  # ${interpreter} stays, so that a trial is the same in another environment
    metric: str = ""  # as test/D4/top1 or val/top1; empty: none was named
    draw: dict[str, int | float] | None = None  # what a search drew it from; None: of a grid


class _Running(NamedTuple):
    trial: Trial
    process: subprocess.Popen[bytes]
    continued: bool
    start: float  # of this process, by the monotonic clock


Outcome = Mapping[str, Any]
# Is told what a trial of a search says, while it runs and at its end; true ends it early.
Follow = Callable[[Trial, Outcome], bool]


def run(
    trials: Iterator[Trial],
    number: int,
    *,
    jobs: int,
    finished: int = 0,
    follow: Follow | None = None,
) -> None:
    """Run trials, some at once, with a line on stderr for each that ends.

    Args:
        trials: What to run; each is taken when a process is free for it.
        number: How many to take.
        jobs: Processes at the same time; they share the cores.
        finished: Trials that ended earlier; they are counted in the lines.
        follow: Told of each trial once a second and at its end; true ends the trial early.
    """
    running, pruned = list[_Running](), dict[Path, float]()
    ended, times, look = 0, list[float](), time.monotonic()
    threads = max(1, len(os.sched_getaffinity(0)) // jobs)
    try:
        while ended < number:
            while len(running) < min(jobs, number - ended):
                running.append(_start(next(trials), threads))
            time.sleep(0.1)
            if follow and time.monotonic() > look + _LOOK:
                look = time.monotonic()
                _prune(running, pruned, follow)
            for one in [one for one in running if one.process.poll() is not None]:
                running.remove(one)
                error = _error(one.trial, one.process.returncode)
                if one.continued and (error or "").startswith("ckpt_path:"):
                    # Nothing to go on from: start again.
                    running.append(_start(one.trial, threads, afresh=True))
                    continue
                seconds = time.monotonic() - one.start
                status = _finish(one.trial, error, seconds, one.trial.folder in pruned)
                if follow:
                    follow(one.trial, outcome(one.trial))
                ended, times = ended + 1, [*times, seconds] if status == "finished" else times
                line = f"{status} {one.trial.folder.name} {seconds:.0f} s"
                rounds = math.ceil((number - ended) / jobs)
                if rounds and times:
                    minutes = math.ceil(rounds * sum(times) / len(times) / 60)
                    line += f", about {minutes} min left"
                print(f"[{finished + ended}/{finished + number}] {line}", file=sys.stderr)
    finally:
        _end([one.process for one in running])


def check(trial: Trial) -> None:
    """Let the command line read a trial's options, and run nothing.

    Raises:
        InputError: It takes them not; what it says of that. Other programs are not asked.
    """
    if trial.command[:3] != [INTERPRETER, "-m", "blur_lightning"]:
        return
    words = [sys.executable, *trial.command[1:], "--print_config"]
    ended = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True)
    if ended.returncode:
        text = ended.stderr.decode(errors="replace")
        raise InputError(_said(text) or f"command: ended with status {ended.returncode}")


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
    """Lay out a line for each trial; below them, each error once."""
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
    errors = Counter(found["error"] for found in outcomes if found.get("error"))
    lines += [f"{n} of {len(trials)} failed: {error}" for error, n in errors.items()]
    return "\n".join(lines)


def _value_text(trial: Trial, found: Outcome) -> str:
    value = final_value(trial, found) if found.get("status") in DONE else None
    return "" if value is None else f"{value:.4g}" if abs(value) < 1e-3 else f"{value:.4f}"


def final_value(trial: Trial, found: Outcome) -> float | None:
    """The metric of a trial that has ended: of its test, else the last that it logged."""
    condition, _, name = trial.metric.removeprefix("test/").rpartition("/")
    if trial.metric.startswith("test/") and found.get("status") != "pruned":
        with suppress(InputError):
            for one in read_records(_run_folder(trial) / RECORDS):
                if (one.condition, one.metric) == (condition, name):
                    return one.value
    values = found.get("values") or _logged(trial, found.get("began", 0.0))
    return values[-1] if values else None


def _logged(trial: Trial, began: float) -> list[float]:
    """Values of the metric that Lightning's CSV logger has written since then, by step."""
    values: dict[int, float] = {}
    files = (_run_folder(trial) / "logs").glob("version_*/metrics.csv")
    with suppress(OSError):  # replaced at this moment
        found = sorted((file.stat().st_mtime, file) for file in files)
        for _, file in (pair for pair in found if pair[0] >= began):
            with file.open(encoding="utf-8", newline="") as stream:
                for row in csv.DictReader(stream):
                    with suppress(KeyError, TypeError, ValueError):  # a cell empty or half-written
                        values[int(row["step"])] = float(row[trial.metric])
    return [values[step] for step in sorted(values)]


def _run_folder(trial: Trial) -> Path:
    return Path(trial.parameters.get(FOLDER) or trial.folder)


def _start(trial: Trial, threads: int, *, afresh: bool = False) -> _Running:
    earlier = outcome(trial)
    continued = not afresh and "fit" in trial.command and bool(earlier)
    continued = continued and (trial.folder / "checkpoints" / "last.ckpt").is_file()
    # What it logged before counts if it goes on; older logs of the folder do not.
    record(trial, "started", began=earlier.get("began", 0.0) if continued else time.time())
    words = [sys.executable if word == INTERPRETER else word for word in trial.command]
    words += ["--ckpt_path", "last"] if continued else []
    with (trial.folder / LOG).open("ab") as lock:
        _lock(lock, trial.folder)
        with (trial.folder / LOG).open("wb") as log:
            try:
                process = subprocess.Popen(
                    words,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env={"OMP_NUM_THREADS": str(threads), **os.environ},
                    start_new_session=True,  # Ctrl-C reaches the sweep alone, which ends its trials
                    # Locked while the trial runs; its output may be open for longer, with W&B.
                    pass_fds=[lock.fileno()],
                )
            except OSError as error:
                raise InputError(f"command: cannot start {words[0]} ({error.strerror})") from error
    return _Running(trial, process, continued, time.monotonic())


def _lock(file: IO[bytes], folder: Path) -> None:
    """Have the folder to ourselves: a sweep that is killed leaves its trials running."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise InputError(
            f"{folder}: a trial of an earlier sweep still runs there; wait for its end, or end the "
            f"process that `fuser {folder / LOG}` names"
        ) from error
    except OSError:  # a file system without locks
        return


def _prune(running: Sequence[_Running], pruned: dict[Path, float], follow: Follow) -> None:
    """End the trials that are not worth their time; `pruned` gets the time of their SIGTERM."""
    now = time.monotonic()
    for trial, process in ((r.trial, r.process) for r in running if r.process.poll() is None):
        found = outcome(trial)
        if trial.folder in pruned:
            if now > pruned[trial.folder] + _GRACE:
                os.killpg(process.pid, signal.SIGKILL)
        elif follow(trial, {**found, "values": _logged(trial, found.get("began", 0.0))}):
            process.terminate()
            pruned[trial.folder] = now


def _finish(trial: Trial, error: str | None, seconds: float, pruned: bool) -> str:
    """Record how a trial ended; its status."""
    began = outcome(trial).get("began", 0.0)
    facts: dict[str, Any] = {"began": began, "seconds": round(seconds, 1), "error": error}
    if trial.draw is not None and trial.metric:
        facts["values"] = _logged(trial, began)
        status = "pruned" if pruned else "finished"
        facts["value"] = final_value(trial, {**facts, "status": status})
        if not error and facts["value"] is None:
            facts["error"] = f"metric: the trial neither tested nor logged {trial.metric}"
    if pruned:
        facts["error"] = None
    status = "pruned" if pruned else "failed" if facts["error"] else "finished"
    record(trial, status, **facts)
    return status


def _end(processes: Sequence[subprocess.Popen[bytes]]) -> None:
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


def _error(trial: Trial, status: int) -> str | None:
    """Why a trial ended with a status: the last line of its log that says so, else the last."""
    if status <= 0:
        return f"ended by signal {-status} ({signal.strsignal(-status)})" if status else None
    text = (trial.folder / LOG).read_text(encoding="utf-8", errors="replace")
    return _said(text) or f"ended with status {status}"


def _said(text: str) -> str:
    """The last line that tells of an error, else the last."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    errors = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")]
    return (errors or lines or [""])[-1]

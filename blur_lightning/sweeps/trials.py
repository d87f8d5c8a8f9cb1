"""The processes of trials of sweeps.

A trial's folder holds what its command writes, `trial.json` and `log.txt`.
"""

import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Any, NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.records.outcomes import (
    LOG,
    Outcome,
    Trial,
    final_value,
    fit_is_over,
    logged,
    missing_metric,
    outcome,
    record,
)

INTERPRETER = "${interpreter}"
_GRACE = 30.0  # s between SIGTERM and SIGKILL, as W&B's agent gives
_LOOK = 1.0  # s between looks at what the running trials have logged


class _Running(NamedTuple):
    trial: Trial
    process: subprocess.Popen[bytes]
    continued: bool
    start: float  # of this process, by the monotonic clock


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
    if number:
        at_once = f", {min(jobs, number)} at once" if min(jobs, number) > 1 else ""
        print(f"running {number} of {finished + number} trials{at_once}", file=sys.stderr)
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
                    line += f", about {_duration(rounds * sum(times) / len(times))} left"
                print(f"[{finished + ended}/{finished + number}] {line}", file=sys.stderr)
    finally:
        _end([one.process for one in running])


def _duration(seconds: float) -> str:
    return f"{math.ceil(seconds)} s" if seconds < 60 else f"{math.ceil(seconds / 60)} min"


def check(commands: Iterable[Sequence[str]]) -> list[dict[str, Any]]:
    """Let the command line read the options of trials, and run nothing.

    Args:
        commands: Those of trials; other programs than blur_lightning are not asked.

    Returns:
        What `checking.read` returns.

    Raises:
        InputError: One is not accepted; what the command line says of it.
    """
    program = [INTERPRETER, "-m", "blur_lightning"]
    own = [[*command[3:]] for command in commands if [*command[:3]] == program]
    if not own:
        return []
    words = [sys.executable, "-m", "blur_lightning.checking"]  # in this process torch would stay
    ended = subprocess.run(words, input=json.dumps(own), capture_output=True, text=True)
    if ended.returncode:
        raise InputError(_said(ended.stderr) or f"command: ended with status {ended.returncode}")
    return list(json.loads(ended.stdout.splitlines()[-1]))


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
        elif _is_hopeless(trial, found, follow):
            process.terminate()
            pruned[trial.folder] = now


def _is_hopeless(trial: Trial, found: Outcome, follow: Follow) -> bool:
    began = found.get("began", 0.0)
    hopeless = follow(trial, {**found, "values": logged(trial, began)})
    return hopeless and not fit_is_over(trial, began)  # whose test is all that would be lost


def _finish(trial: Trial, error: str | None, seconds: float, pruned: bool) -> str:
    """Record how a trial ended; its status."""
    began = outcome(trial).get("began", 0.0)
    facts: dict[str, Any] = {"began": began, "seconds": round(seconds, 1), "error": error}
    if trial.draw is not None and trial.metric:
        facts["values"] = logged(trial, began)
        status = "pruned" if pruned else "finished"
        facts["value"] = final_value(trial, {**facts, "status": status})
        if not error and facts["value"] is None:
            facts["error"] = missing_metric(trial)
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

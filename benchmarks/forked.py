"""Commands of blur_lightning as processes that begin where the imports, some 8 s of CPU, are done.

A process is forked from a server that has imported what commands need and run nothing.
"""

import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from multiprocessing import connection, get_context, set_start_method
from pathlib import Path
from typing import Any

_CONTEXT = get_context("forkserver")
_PRELOAD = [
    "__main__",
    "blur_lightning.lightning_cli",
    "blur_lightning.copies",
    "blur_lightning.doctor",
]
_ENVIRONMENT = {"OMP_NUM_THREADS": "1", "WANDB_MODE": "disabled", "CUDA_VISIBLE_DEVICES": ""}


class Command:
    """One command that runs, in one process or in several that train or test together.

    Args:
        words: The command line without the program.
        log: File that gets what it prints.
        processes: How many; several find one another as those of torchrun do.
        environment: Variables to set besides.
        folder: Where it runs; None is the current folder.
    """

    def __init__(
        self,
        words: Sequence[object],
        log: Path,
        *,
        processes: int = 1,
        environment: Mapping[str, str] | None = None,
        folder: Path | None = None,
    ) -> None:
        _CONTEXT.set_forkserver_preload(_PRELOAD)
        common = {**_ENVIRONMENT, **(environment or {})}
        if processes > 1:
            common |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port())}
            common |= {"WORLD_SIZE": str(processes), "TORCHELASTIC_RUN_ID": "here"}
        self.processes: list[Any] = []
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        for rank in range(processes):
            own = {"RANK": str(rank), "LOCAL_RANK": str(rank)} if processes > 1 else {}
            arguments = ([str(word) for word in words], log, folder, {**common, **own})
            process = _CONTEXT.Process(target=_run, args=arguments)
            process.start()
            self.processes.append(process)

    def wait(self, seconds: float = 600) -> int | None:
        """Wait for the end of all; the first status that is not 0, or None: it still runs."""
        alive = [process.sentinel for process in self.processes]
        while alive:
            ended = connection.wait(alive, timeout=seconds)
            if not ended:
                return None
            alive = [sentinel for sentinel in alive if sentinel not in ended]
        for process in self.processes:
            process.join()
        return next((p.exitcode for p in self.processes if p.exitcode), 0)

    def kill(self, *, first: bool = False) -> None:
        """Kill all processes and whatever they started, or the first process alone."""
        own = [process.pid for process in self.processes[: 1 if first else None]]
        below = [child for pid in own for child in descendants(pid)]
        for pid in own if first else [*own, *below]:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def descendants(pid: int) -> list[int]:
    """Processes that a process has started, and those that these have."""
    found: list[int] = []
    with suppress(OSError):  # it has ended
        for thread in Path(f"/proc/{pid}/task").iterdir():
            found += map(int, (thread / "children").read_text().split())
    return [*found, *(below for child in found for below in descendants(child))]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def _run(words: list[str], log: Path, folder: Path | None, environment: Mapping[str, str]) -> None:
    if folder:
        os.chdir(folder)
    with log.open("ab") as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    os.environ.update(environment)
    set_start_method("fork", force=True)  # as in a process of one's own; else workers import again
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler if number == signal.SIGINT else 0)
    sys.argv = ["blur_lightning", *words]
    from blur_lightning.cli import main

    sys.exit(main())

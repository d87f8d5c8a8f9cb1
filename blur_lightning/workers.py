"""Jobs done by several processes, none of which outlives the command or leaves a file in part."""

import os
import signal
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from multiprocessing import connection, get_context, parent_process
from threading import Lock, Thread
from typing import TypeVar

from blur_lightning.errors import InputError

Job = TypeVar("Job")
Outcome = TypeVar("Outcome")
_ROUND = 100  # jobs that a worker is handed at a time
BUSY = Lock()  # a job holds it while it writes: a worker ends between two writes


def outcomes(
    work: Callable[[Job], Outcome],
    jobs: Sequence[Job],
    *,
    workers: int,
    start: Callable[[], object] | None = None,
    preload: Sequence[str] = (),
) -> Generator[Outcome, None, None]:
    """Do jobs in this process or in several, and give what they return, in any order.

    Args:
        work: Does one job; can be pickled, and returns what is wrong with it instead of raising.
        jobs: What it is called with.
        workers: Processes; 1 is this one.
        start: Called once in each further process, to prepare it.
        preload: Modules to import once for all processes.

    Raises:
        InputError: A worker was killed.
    """
    if workers == 1:
        yield from map(work, jobs)
        return
    context = get_context("forkserver")  # one process imports the modules, workers are its forks
    context.set_forkserver_preload(list(preload))
    initial = {"initializer": _start_worker, "initargs": (start,)}
    pool = ProcessPoolExecutor(workers, mp_context=context, **initial)
    no_interrupt = (signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for first in range(0, len(jobs), workers * _ROUND):
            part = jobs[first : first + workers * _ROUND]
            # Ctrl-C neither reaches this thread nor the processes that start in it.
            with ThreadPoolExecutor(1, "start", signal.pthread_sigmask, no_interrupt) as thread:
                futures = list(thread.map(lambda job: pool.submit(work, job), part))
            for future in as_completed(futures):
                yield future.result()
    except BrokenExecutor as error:
        raise InputError("a worker was killed (memory?); repeat with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(start: Callable[[], object] | None) -> None:
    if start:
        start()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Once the parent is killed, nobody else ends a worker."""
    connection.wait([parent_process().sentinel])  # type: ignore[union-attr]
    BUSY.acquire()
    os._exit(1)

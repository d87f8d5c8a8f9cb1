"""Jobs done by several processes, none of which outlives the command or leaves a file in part."""

import os
import signal
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from multiprocessing import connection, get_context, parent_process
from threading import Event, Lock, Thread
from typing import Any, TypeVar

from tqdm import tqdm  # type: ignore[import-untyped]

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
    alive, ours = context.Pipe(duplex=False)
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_start_worker, initargs=(start, alive)
    )
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
    except BaseException:  # an interrupt: nobody waits for jobs that are long
        ours.close()
        raise
    finally:
        pool.shutdown(cancel_futures=True)
        ours.close()


@contextmanager
def progress(total: int, unit: str) -> Iterator[Any]:
    """Show a bar on a terminal, fed by all processes.

    Args:
        total: Where it ends.
        unit: What is counted.

    Returns:
        The count: a `multiprocessing.Value` to share with workers.
    """
    count = get_context("forkserver").Value("q")
    ended = Event()
    with tqdm(total=total, unit=unit, disable=None) as bar:

        def follow() -> None:
            while not ended.wait(0.2):
                bar.update(count.value - bar.n)

        follower = Thread(target=follow, daemon=True)
        follower.start()
        try:
            yield count
        finally:
            ended.set()
            follower.join()
            bar.update(count.value - bar.n)


def _start_worker(start: Callable[[], object] | None, alive: connection.Connection) -> None:
    if start:
        start()
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the parent gets it too, and ends its workers
    Thread(target=_end_with_parent, args=(alive,), daemon=True).start()


def _end_with_parent(alive: connection.Connection) -> None:
    """Once the parent is killed, or closes its end of the pipe, nobody else ends a worker."""
    connection.wait([parent_process().sentinel, alive])  # type: ignore[union-attr]
    BUSY.acquire()
    os._exit(1)

"""Jobs in several processes, and the end of a run before they are done."""

import os
import signal
import time
from functools import partial
from pathlib import Path
from threading import Thread

import pytest

from blur_lightning.errors import InputError
from blur_lightning.workers import outcomes, progress


def double(number):
    return 2 * number


def sleep(file):
    Path(file).write_text(str(os.getpid()))
    time.sleep(120)


def die(number):
    os.kill(os.getpid(), signal.SIGKILL)


def say(file):
    file.write_text("started")


def interrupt_once_there(file):
    while not file.exists() or not file.read_text():
        time.sleep(0.05)
    os.kill(os.getpid(), signal.SIGINT)


def test_all_jobs_are_done(tmp_path):
    assert list(outcomes(double, range(5), workers=1)) == [0, 2, 4, 6, 8]
    started = tmp_path / "started"
    several = outcomes(double, range(450), workers=2, start=partial(say, started))
    assert sorted(several) == list(range(0, 900, 2))
    assert started.read_text() == "started"


def test_an_interrupt_waits_for_no_job_and_leaves_no_worker(tmp_path):
    file = tmp_path / "worker"
    Thread(target=interrupt_once_there, args=(file,), daemon=True).start()
    begin = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        list(outcomes(sleep, [str(file)], workers=2))
    assert time.monotonic() - begin < 60
    with pytest.raises(ProcessLookupError):
        for _ in range(200):
            os.kill(int(file.read_text()), 0)
            time.sleep(0.1)


def test_a_killed_worker_is_one_line():
    with pytest.raises(InputError, match="a worker was killed"):
        list(outcomes(die, [1], workers=2))


def test_what_all_processes_count_is_shown(capsys, monkeypatch):
    bars = []

    class Bar:
        n = 0

        def __init__(self, **options):
            bars.append((self, options))

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def update(self, more):
            self.n += more

    monkeypatch.setattr("blur_lightning.workers.tqdm", Bar)
    with progress(7, "frame") as count:
        count.value += 3
        time.sleep(0.5)
        assert bars[0][0].n == 3
        count.value += 4
    assert bars[0][0].n == 7
    assert bars[0][1]["total"] == 7

"""What a machine does to a command besides killing it, and whether it goes on from there.

`faults.py` asks for each of these: a full disk, one that takes nothing, a process that loads images
killed, and a photograph that is removed or replaced while it is tested on. The command must say so
in one line, end with a status of its own, leave no file in part, and end as ever once that is
mended and it is given again.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from forked import Command, descendants

_PATIENCE = 600.0  # s that a command may take on a busy machine
Left = Callable[[Path], dict[str, Any]]


class Setting(NamedTuple):
    """A command and how it runs.

    Attributes:
        words: The command line for a folder.
        left: What it leaves in that folder.
        environment: Variables of its process.
        differs: What is not the same of what two runs have left, or nothing.
    """

    words: Callable[[Path], Sequence[object]]
    left: Left
    environment: dict[str, str]
    differs: Callable[[dict[str, Any], dict[str, Any]], str]

    def start(self, out: Path) -> Command:
        """Begin it; what it prints goes beside the folder, which may be full."""
        log = out.with_suffix(".log")
        log.unlink(missing_ok=True)
        return Command(self.words(out), log, environment=self.environment)


def may_mount() -> bool:
    """Whether this process may mount file systems."""
    probe = ["unshare", "--mount", "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return subprocess.run(probe, capture_output=True, check=False).returncode == 0


def full_disk(setting: Setting, out: Path, expected: dict[str, Any], *, kilobytes: int) -> str:
    """Run on a disk with so much room, make more, and run again; what went wrong, or nothing."""
    with _disk(out, "size=64m"):
        filler = out / "filler"
        filler.write_bytes(bytes(64 * 2**20 - 1024 * kilobytes))
        problem = _refused(setting.start(out), "No space left on device")
        problem = problem or _parts(out)
        filler.unlink()
        return problem or _as_ever(setting, out, expected)


def read_only(setting: Setting, out: Path, expected: dict[str, Any]) -> str:
    """Run where nothing can be written, let it be, and run again."""
    with _disk(out, "size=64m"):
        subprocess.run(["mount", "-o", "remount,ro", out], check=True)
        problem = _refused(setting.start(out), "Read-only file system")
        subprocess.run(["mount", "-o", "remount,rw", out], check=True)
        return problem or _as_ever(setting, out, expected)


def killed_worker(setting: Setting, out: Path, expected: dict[str, Any]) -> str:
    """Kill a process that loads images, and run again."""
    command = setting.start(out)
    (main,) = command.processes
    while command.wait(0.05) is None:
        workers = descendants(main.pid)
        if workers and [*out.glob("run/checkpoints/last.ckpt")]:
            os.kill(workers[0], signal.SIGKILL)
            break
    return _refused(command, "DataLoader worker") or _as_ever(setting, out, expected)


def changed_photograph(
    setting: Setting, out: Path, expected: dict[str, Any], *, file: Path, content: bytes | None
) -> str:
    """Change a photograph while it is tested on, put it back, and run again.

    Args:
        setting: A test.
        out: Its folder.
        expected: What it leaves in the end.
        file: The last photograph.
        content: What it becomes; None removes it.
    """
    before, times = file.read_bytes(), file.stat()
    command = setting.start(out)
    while command.wait(0.02) is None and not [*out.glob("run/.measured/*.arrow")]:
        pass
    file.unlink() if content is None else file.write_bytes(content)
    told = f"{file}: cannot be read" if content is None else "images changed during the test"
    problem = _refused(command, told)
    file.write_bytes(before)
    os.utime(file, (times.st_atime, times.st_mtime))
    return problem or _as_ever(setting, out, expected)


@contextmanager
def _disk(out: Path, options: str) -> Iterator[None]:
    out.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", out], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", out], check=True)


def _refused(command: Command, told: str) -> str:
    """How a command that cannot do its work ended otherwise than with one line that tells why."""
    status = command.wait(_PATIENCE)
    text = command.log.read_text()
    lines = [line for line in text.splitlines() if line.startswith("error: ")]
    if status != 2 or len(lines) != 1 or told not in lines[0] or "Traceback" in text:
        command.kill()
        return f"status {status}, not one line of '{told}': {' | '.join(text.splitlines()[-3:])}"
    return ""


def _parts(out: Path) -> str:
    return ", ".join(f"{path} is left in part" for path in out.rglob("*.tmp"))


def _as_ever(setting: Setting, out: Path, expected: dict[str, Any]) -> str:
    command = setting.start(out)
    if (status := command.wait(_PATIENCE)) != 0:
        command.kill()
        return f"again, status {status}: {' | '.join(command.log.read_text().splitlines()[-3:])}"
    found = setting.left(out)
    return setting.differs(found, expected)

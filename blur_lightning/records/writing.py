"""Files that are whole or not there, also where a disk is full or a process killed."""

import errno
import glob
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from blur_lightning.errors import InputError


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A path to write to that takes the place of `path` once the block has succeeded.

    Readers see the old file or the new one, never a part; a failure leaves the old one alone.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_abandoned(path)
        yield temporary
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        with suppress(OSError):  # missing, or its folder could not be made
            _remove(temporary)


def unwritable(path: Path, error: OSError) -> InputError:
    """What to tell of a file that could not be written."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    advice = "make room and give the same command again, or " if full else ""
    return InputError(
        f"{path}: cannot be written ({error.strerror or error}); {advice}choose another place"
    )


def _remove_abandoned(path: Path) -> None:
    """Remove what processes that were killed have left of a file."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.tmp"):
        pid = part.name.split(".")[-2]
        if pid.isdecimal() and not Path("/proc", pid).exists():
            with suppress(FileNotFoundError):  # another process was faster
                _remove(part)


def _remove(part: Path) -> None:
    if part.is_dir():  # pictures are written as a folder
        shutil.rmtree(part)
    else:
        part.unlink()

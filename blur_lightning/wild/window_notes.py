"""What was found in the windows of one video, on disk, so that a run that was stopped goes on.

JSON lines: the video's file, each window as soon as it is done, and once the video was read to its
end, what is wrong with it.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import replacing
from blur_lightning.wild.frame_windows import Window


class Source(NamedTuple):
    """A video's file, and what tells whether it is still the same."""

    path: str
    size: int  # bytes
    changed: int  # ns


class Notes(NamedTuple):
    """All that is known of a video."""

    source: Source
    windows: dict[int, Window]  # by the number of the first frame
    problem: str | None  # what is wrong with it, or empty; None: it was not read to its end


def source_of(path: Path) -> Source:
    """Look at a file without reading it."""
    status = path.stat()
    return Source(path.resolve().as_posix(), status.st_size, status.st_mtime_ns)


def read_notes(file: Path) -> Notes | None:
    """Read the notes of a video; None where there are none."""
    if not file.exists():
        return None
    try:
        # What follows the last end of a line was cut off by a kill.
        lines = [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n")[:-1]]
        source = Source(*lines[0]["source"])
        windows = [Window(*line["window"]) for line in lines if "window" in line]
        problem = lines[-1].get("problem")
    except (ValueError, LookupError, TypeError, AttributeError, OSError) as error:
        raise InputError(f"{file}: tells nothing of windows ({error}); remove it") from error
    return Notes(source, {window.first: window for window in windows}, problem)


@contextmanager
def writing_notes(file: Path, notes: Notes) -> Iterator[Callable[[Window | str], None]]:
    """Give a function that adds a window, or what is wrong with the video, to what is known.

    Args:
        file: The notes; replaced by what is known.
        notes: What is known; without an end.
    """
    with replacing(file) as temporary, temporary.open("w", encoding="utf-8") as stream:
        for line in ({"source": notes.source}, *({"window": w} for w in notes.windows.values())):
            stream.write(json.dumps(line) + "\n")
    with file.open("a", encoding="utf-8") as stream:

        def add(found: Window | str) -> None:
            kind = "problem" if isinstance(found, str) else "window"
            try:
                stream.write(json.dumps({kind: found}) + "\n")
                stream.flush()
            except OSError as error:
                raise InputError(f"{file}: cannot be written ({error.strerror})") from error

        yield add

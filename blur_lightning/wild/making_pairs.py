"""The pairs of one video: made once, also where the run that makes them is stopped."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from PIL import Image

from blur_lightning.records.robustness import replacing
from blur_lightning.wild.frame_windows import (
    UNEVEN,
    Judge,
    Rule,
    Window,
    average,
    cut_windows,
    drawn_frames,
)
from blur_lightning.wild.video import Frame, UnreadableVideoError, read_frames
from blur_lightning.wild.window_notes import Notes, Source, read_notes, source_of, writing_notes
from blur_lightning.workers import BUSY


def pair_files(folder: Path, window: Window) -> tuple[Path, Path]:
    """Files of a blurry image and of the sharp one; named by the window's first frame."""
    name = f"{window.first:06}.png"
    return folder / "blur" / name, folder / "sharp" / name


def make_pairs(
    path: Path,
    rule: Rule,
    video: str,
    *,
    notes: Path,
    out: Path,
    advance: Callable[[int], None] = lambda frames: None,
) -> str:
    """Make those pairs of a video that are missing.

    Args:
        path: The video. If it has changed since its pairs were made, these are removed.
        rule: How pairs are made.
        video: Its name, which keys the draws.
        notes: File of what is known of its windows.
        out: Folder of its pairs.
        advance: Called with a number of frames when as many were decoded.

    Returns:
        What is wrong with the video, in one line, or nothing.
    """
    source = source_of(path)
    known = read_notes(notes) or Notes(source, {}, None)
    if known.source.path != source.path and known.source[1:] != source[1:]:
        return f"{path}: its pairs would be those of {known.source.path}; rename one of the two"
    known = _still_true(known, source, out)
    if known.problem is not None:
        return known.problem
    judge, windows, problem = Judge(rule), dict(known.windows), ""
    with writing_notes(notes, known) as note:
        frames = _counted(read_frames(path, reduce=rule.reduce), advance)
        try:
            for first, cut in cut_windows(frames, rule, video):
                if first in known.windows:
                    continue
                windows[first] = window = judge(first, cut)
                with BUSY:
                    if not window.discarded:
                        _write_pair(pair_files(out, window), cut, rule)
                    note(window)
        except UnreadableVideoError as error:
            stand = f"; the {len(windows)} windows before that stand" if windows else ""
            problem = f"{error}{stand}"
        problem = problem or _shortcoming(path, windows, drawn_frames(rule, video, 0))
        note(problem)
    return problem


def _still_true(known: Notes, source: Source, out: Path) -> Notes:
    """What of the notes holds: all, less windows whose pairs are gone, or none of a new video."""
    if known.source[1:] != source[1:]:
        for window in known.windows.values():
            for file in pair_files(out, window):
                file.unlink(missing_ok=True)
        return Notes(source, {}, None)
    whole = {
        first: window
        for first, window in known.windows.items()
        if window.discarded or all(file.exists() for file in pair_files(out, window))
    }
    return Notes(source, whole, known.problem if len(whole) == len(known.windows) else None)


def _counted(frames: Iterable[Frame], advance: Callable[[int], None]) -> Iterator[Frame]:
    for frame in frames:
        yield frame
        advance(1)


def _write_pair(files: tuple[Path, Path], frames: Sequence[Frame], rule: Rule) -> None:
    pixels = [frame.pixels for frame in frames]
    images = average(pixels, light=rule.light), pixels[len(pixels) // 2]
    for file, image in zip(files, images, strict=True):
        with replacing(file) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")


def _shortcoming(path: Path, windows: dict[int, Window], needed: int) -> str:
    """What is wrong with a video that could be read."""
    if not windows:
        return f"{path}: has fewer frames than its first window, which has {needed}; see --frames"
    if all(window.discarded == UNEVEN for window in windows.values()):
        return f"{path}: variable frame rate: frames are {UNEVEN} in all windows; see --jitter"
    return ""

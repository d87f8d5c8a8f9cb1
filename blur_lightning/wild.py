"""Pairs of a blurry and a sharp image from videos, as WILD was made.

Noroozi, Chandramouli and Favaro 2017 (arXiv 1701.01486), section 2. The folder that is written has
GoPro's layout, {train,test}/VIDEO/{blur,sharp}, for `data.PairsDataModule`; `manifest.csv` has a
line for each pair, `discarded.csv` one for each window that became none.

What is found in a video is noted in `.windows/VIDEO.jsonl`, window by window, so that a run that
was stopped goes on. The same videos and settings give the same bytes, whatever the number of workers.
"""

import csv
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from blur_lightning.errors import InputError
from blur_lightning.frame_windows import (
    UNEVEN,
    Judge,
    Rule,
    Window,
    average,
    cut_windows,
    drawn_frames,
    parse_frames,
)
from blur_lightning.motion import Estimator
from blur_lightning.provenance import environment
from blur_lightning.resuming import agree
from blur_lightning.robustness import PROVENANCE, replacing
from blur_lightning.video import (
    Frame,
    UnreadableVideoError,
    find_videos,
    import_extra,
    read_frames,
)
from blur_lightning.window_notes import Notes, read_notes, source_of, writing_notes
from blur_lightning.workers import BUSY, outcomes

MANIFEST, DISCARDED, NOTES = "manifest.csv", "discarded.csv", ".windows"
Light = Literal["srgb", "linear"]
Job = tuple[str, Path]  # name of a video, its file
_COLUMNS = ["video", "source", "split", "first_frame", *Window._fields[1:-1]]


def build_wild(
    videos: list[Path],
    *,
    out: Path,
    frames: str = "7..23",
    reduce: int = 3,
    step: int | None = None,
    flow: Estimator = "dis",
    max_flow: float = 1.0,
    outliers: float = 0.0,
    max_error: float = 5.0,
    min_blur: float = 0.0,
    jitter: float | None = 0.1,
    light: Light = "srgb",
    test: list[str] | None = None,
    test_share: float = 0.1,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Make pairs of a blurry and a sharp image from videos of a high frame rate.

    A video is cut into windows of a few frames; their mean is the blurry image, the frame in the
    middle the sharp one. Windows with too much motion between two frames are discarded. The same
    command again makes only what is missing; further videos may be added. All pairs of a video go
    to training or to test.

    Args:
        videos: Videos, or folders of them, searched at any depth.
        out: Folder of the pairs: --data.layout gopro --data.root OUT reads it. manifest.csv lists
            them, discarded.csv the other windows, and why.
        frames: How many frames a window has: a number drawn for each from the odd ones of a range,
            or one odd number.
        reduce: The mean of so many pixels in each direction, of stored values, becomes one. WILD
            was reduced by 3.
        step: From the start of a window to that of the next, in frames; null is its length, so that
            no frame is in two windows.
        flow: What estimates the motion between neighbouring frames: dis (OpenCV, fast), or raft
            (torchvision, its weights are fetched).
        max_flow: The largest motion from a frame to the next, in pixels of the reduced frame.
        outliers: Share of the pixels of a frame that may move faster, in [0, 1]: a flow is wrong
            somewhere, and in videos of 25 Hz few windows are slow all over.
        max_error: The largest mean absolute difference between a frame and the next one moved back
            by the flow, in levels of 0 to 255.
        min_blur: The smallest blur size that is kept, in pixels; it is the motion summed over the
            window, in the mean of the pixels.
        jitter: How much the distance in time between two frames of a window may differ from their
            median, as its share; null does not look. More is a variable frame rate.
        light: What is averaged: the values in the file, as the paper does, or the light that they
            stand for, as a camera does.
        test: Videos of the test, by name: the path below its folder without ending, / written as -.
            null draws them.
        test_share: Share of the videos that is drawn for the test, in [0, 1). Whether a video is
            depends on its name and the seed alone.
        seed: Seed of the draws, 0 or more. Further videos change no other draw.
        workers: Processes that work at once, each at a video, 1 or more; null is one a core.
    """
    least = {"reduce": (reduce, 1), "step": (step, 1), "workers": (workers, 1), "seed": (seed, 0)}
    sizes = {"outliers": outliers, "max_error": max_error, "min_blur": min_blur, "jitter": jitter}
    for name, (value, bound) in (least | {name: (x, 0) for name, x in sizes.items()}).items():
        if value is not None and not value >= bound:
            raise InputError(f"--{name}: {value} is not {bound} or more")
    if not max_flow > 0:
        raise InputError(f"--max_flow: {max_flow} is not above 0")
    if not 0 <= test_share < 1:
        raise InputError(f"--test_share: {test_share} is not in [0, 1)")
    bounds = (max_flow, outliers, max_error, min_blur, jitter)
    rule = Rule(seed, parse_frames(frames), step, flow, *bounds)
    for name in ("av", "cv2"):
        import_extra(name)
    found = find_videos(videos)
    known = {*found, *(file.stem for file in (out / NOTES).glob("*.jsonl"))}
    if unknown := sorted(set(test or ()) - known):
        raise InputError(
            f"--test: no video is '{unknown[0]}'; there are {', '.join(sorted(known))}"
        )
    settings = rule._asdict() | {"frames": frames, "reduce": reduce, "light": light}
    settings |= {"test": sorted(test) if test else None, "test_share": test_share}
    agree(settings, out, [MANIFEST, DISCARDED, "train", "test"], kind="pairs")
    build = partial(_build, rule=rule, settings=settings, out=out)
    number = min(workers or len(os.sched_getaffinity(0)), len(found))
    # Largest first, so that no worker is left with one at the end.
    jobs = sorted(found.items(), key=lambda job: -job[1].stat().st_size)
    built = outcomes(build, jobs, workers=number, preload=["cv2", "av"])
    with closing(built):
        problems = list(filter(None, tqdm(built, total=len(jobs), unit="video", disable=None)))
    _conclude(out, settings)
    if problems[1:]:
        print("", *sorted(problems), sep="\n", end="", file=sys.stderr)
    if problems:
        raise InputError(f"{min(problems)}; {len(problems)} of {len(jobs)} not whole: mend them")


def _build(job: Job, *, rule: Rule, settings: dict[str, Any], out: Path) -> str:
    """Make the pairs of one video; what is wrong with it, or nothing."""
    video, path = job
    folder = out / _split(video, settings) / video
    file, source = out / NOTES / f"{video}.jsonl", source_of(path)
    notes = read_notes(file) or Notes(source, {}, None)
    if notes.source.path != source.path:
        return f"{path}: its name is that of {notes.source.path}; rename it"
    if notes.source != source:  # it has changed, so its pairs are of no use
        for window in notes.windows.values():
            for picture in _pair(folder, window):
                picture.unlink(missing_ok=True)
        notes = Notes(source, {}, None)
    whole = {
        first: window
        for first, window in notes.windows.items()
        if window.discarded or all(picture.exists() for picture in _pair(folder, window))
    }
    if notes.problem is not None and len(whole) == len(notes.windows):
        return notes.problem
    with writing_notes(file, Notes(source, whole, None)) as note:
        problem = _read(path, video, whole, folder, rule, settings, note)
        note(problem)
    return problem


def _read(
    path: Path,
    video: str,
    known: dict[int, Window],
    folder: Path,
    rule: Rule,
    settings: dict[str, Any],
    note: Callable[[Window | str], None],
) -> str:
    """Read a video to its end, and make what is not known."""
    judge, count, uneven = Judge(rule), 0, 0
    problem = ""
    try:
        read = read_frames(path, reduce=settings["reduce"])
        for first, frames in cut_windows(read, rule, video):
            window = known.get(first)
            if window is None:
                window = judge(first, frames)
                with BUSY:
                    if not window.discarded:
                        _write_pair(_pair(folder, window), frames, settings["light"])
                    note(window)
            count, uneven = count + 1, uneven + (window.discarded == UNEVEN)
    except UnreadableVideoError as error:
        problem = f"{error}; {count} windows before are made use of" if count else str(error)
    if not problem and not count:
        problem = f"{path}: has fewer frames than its first window, {drawn_frames(rule, video, 0)}"
    if not problem and uneven == count:
        problem = f"{path}: all {count} windows are {UNEVEN}, a variable frame rate; see --jitter"
    return problem


def _write_pair(paths: tuple[Path, Path], frames: Sequence[Frame], light: str) -> None:
    pixels = [frame.pixels for frame in frames]
    for path, image in zip(
        paths, (average(pixels, light=light), pixels[len(pixels) // 2]), strict=True
    ):
        with replacing(path) as temporary:
            Image.fromarray(image).save(temporary, format="PNG")


def _pair(folder: Path, window: Window) -> tuple[Path, Path]:
    """Files of the blurry image and of the sharp one."""
    name = f"{window.first:06}.png"
    return folder / "blur" / name, folder / "sharp" / name


def _split(video: str, settings: dict[str, Any]) -> str:
    """Tell the part of a video, whatever other videos there are."""
    if settings["test"] is not None:
        return "test" if video in settings["test"] else "train"
    digest = hashlib.sha256(f"{settings['seed']} {video}".encode()).digest()
    drawn = int.from_bytes(digest[:8]) / 2**64
    return "test" if drawn < settings["test_share"] else "train"


def _conclude(out: Path, settings: dict[str, Any]) -> None:
    """Write the tables of all videos in the folder, and print what became of them."""
    kept, discarded, lines = [], [], []
    totals = Counter[str]()
    for file in sorted((out / NOTES).glob("*.jsonl")):
        video, notes = file.stem, read_notes(file)
        if notes is None:
            continue
        split = _split(video, settings)
        windows = sorted(notes.windows.values())
        pairs = [window for window in windows if not window.discarded]
        for window in windows:
            row = [video, notes.source.path, split, *window]
            if window.discarded:
                discarded.append(row)
            else:
                pictures = _pair(Path(split) / video, window)
                kept.append([*(p.as_posix() for p in pictures), *row[:-1], settings["light"]])
        reasons = Counter(w.discarded for w in windows if w.discarded)
        told = "".join(f"; {n} {reason}" for reason, n in reasons.most_common())
        blur = f", blur {np.mean([w.blur_size for w in pairs]):.2f} px" if pairs else ""
        lines.append(f"  {split:5} {video}: {len(pairs)} of {len(windows)} windows{blur}{told}")
        totals[split] += len(pairs)
        totals[f"{split} videos"] += bool(pairs)
    _write_table(out / MANIFEST, ["blur", "sharp", *_COLUMNS, "light"], kept)
    _write_table(out / DISCARDED, [*_COLUMNS, "reason"], discarded)
    facts = environment(("av", "opencv-python-headless")) | {"settings": settings}
    with replacing(out / PROVENANCE) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    parts = [
        f"{totals[s]} pairs of {totals[f'{s} videos']} videos to {s}" for s in ("train", "test")
    ]
    print(f"{out}: {', '.join(parts)}", *lines, sep="\n")


def _write_table(file: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with replacing(file) as temporary, temporary.open("w", **text) as stream:
        csv.writer(stream, lineterminator="\n").writerows([columns, *rows])

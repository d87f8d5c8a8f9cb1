"""Pairs of a blurry and a sharp image from videos, as WILD was made.

Noroozi, Chandramouli and Favaro 2017 (arXiv 1701.01486), section 2. The folder that is written has
GoPro's layout, {train,test}/VIDEO/{blur,sharp}, for `data.PairsDataModule`; `manifest.csv` has a
line for each pair, `discarded.csv` one for each window that became none.

What is found in a video is noted in `.windows/VIDEO.jsonl`, window by window, so that a run
that was stopped goes on. The same videos and settings give the same bytes, whatever the number of
workers.
"""

import csv
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.records.provenance import environment
from blur_lightning.records.robustness import PROVENANCE, replacing
from blur_lightning.resuming import SETTINGS, agree
from blur_lightning.wild.frame_windows import Light, Rule, Window, parse_frames
from blur_lightning.wild.making_pairs import make_pairs, pair_files
from blur_lightning.wild.motion import Estimator
from blur_lightning.wild.video import count_frames, find_videos, import_extra
from blur_lightning.wild.window_notes import Notes, read_notes
from blur_lightning.workers import outcomes, progress

MANIFEST, DISCARDED, NOTES = "manifest.csv", "discarded.csv", ".windows"
Job = tuple[str, Path, str]  # name of a video, its file, and its split
_decoded: Any = None  # how many frames all processes have decoded; set in each
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
    jitter: float | None = 0.3,
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
        out: Folder of the pairs: --data.layout wild --data.root OUT reads it. manifest.csv lists
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
            mean, as its share; more is a variable frame rate. null does not look.
        light: What is averaged: the values in the file, as the paper does, or the light that they
            stand for, as a camera does.
        test: Videos of the test, as a list of names: '[one, other]'. A name is the path below its
            folder without ending, / written as -. null draws them.
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
    if outliers > 1:
        raise InputError(f"--outliers: {outliers} is not in [0, 1]")
    if not 0 <= test_share < 1:
        raise InputError(f"--test_share: {test_share} is not in [0, 1)")
    bounds = (max_flow, outliers, max_error, min_blur, jitter)
    rule = Rule(seed, parse_frames(frames), reduce, step, flow, *bounds, light)
    for name in ("av", "cv2"):
        import_extra(name)
    found = find_videos(videos)
    known = {*found, *(file.stem for file in (out / NOTES).glob("*.jsonl"))}
    if unknown := sorted(set(test or ()) - known):
        names = ", ".join(sorted(known))
        raise InputError(f"--test: no video has the name '{unknown[0]}'; there are {names}")
    settings = rule._asdict() | {"test": sorted(test) if test else None, "test_share": test_share}
    agree(settings, out, [MANIFEST, "train", "test"], kind="pairs")
    # Largest first, so that no worker is left with one at the end.
    order = sorted(found, key=lambda video: -found[video].stat().st_size)
    jobs = [(video, found[video], _split(video, settings)) for video in order]
    number = min(workers or len(os.sched_getaffinity(0)), len(jobs))
    with progress(sum(map(count_frames, found.values())), "frame") as counter:
        _share(counter)
        build, start = partial(_build, rule=rule, out=out), partial(_share, counter)
        built = outcomes(build, jobs, workers=number, start=start, preload=["av", "cv2"])
        with closing(built):
            problems = sorted(filter(None, built))
    nothing = _conclude(out, settings)
    if problems[1:]:
        print("", *problems, sep="\n", end="", file=sys.stderr)
    if problems:
        others = f"; {len(problems)} of {len(jobs)} videos need mending" if jobs[1:] else ""
        raise InputError(problems[0] + others)
    if nothing:
        raise InputError(nothing)


def _share(counter: Any) -> None:
    global _decoded
    _decoded = counter


def _build(job: Job, *, rule: Rule, out: Path) -> str:
    """Make the pairs of one video; what is wrong with it, or nothing."""
    video, path, split = job
    left = count_frames(path)

    def advance(frames: int) -> None:
        nonlocal left
        left -= frames
        with _decoded.get_lock():
            _decoded.value += frames

    notes = out / NOTES / f"{video}.jsonl"
    problem = make_pairs(path, rule, video, notes=notes, out=out / split / video, advance=advance)
    advance(left)  # what was known, or is missing
    return problem


def _split(video: str, settings: Mapping[str, Any]) -> str:
    """Tell the part of a video, whatever other videos there are."""
    if settings["test"] is not None:
        return "test" if video in settings["test"] else "train"
    digest = hashlib.sha256(f"{settings['seed']} {video}".encode()).digest()
    drawn = int.from_bytes(digest[:8]) / 2**64
    return "test" if drawn < settings["test_share"] else "train"


def _conclude(out: Path, settings: Mapping[str, Any]) -> str:
    """Write the tables of all videos in the folder, and print what became of them.

    Returns:
        What to say where no window was kept, or nothing.
    """
    kept: list[list[Any]] = []
    discarded: list[list[Any]] = []
    lines, pairs, reasons = [], Counter[str](), Counter[str]()
    for file in sorted((out / NOTES).glob("*.jsonl")):
        notes, split = read_notes(file), _split(file.stem, settings)
        assert notes
        for window in sorted(notes.windows.values()):
            row = [file.stem, notes.source.path, split, *window]
            if window.discarded:
                discarded.append(row)
            else:
                files = pair_files(Path(split) / file.stem, window)
                kept.append([*(x.as_posix() for x in files), *row[:-1], settings["light"]])
        line, own = _summary(notes)
        lines.append(f"  {split:5} {file.stem}: {line}")
        pairs[split] += own.pop("", 0)
        reasons += own
    _write_table(out / DISCARDED, [*_COLUMNS, "reason"], discarded)
    if not kept:  # a folder without pairs is free for other settings
        shutil.rmtree(out / NOTES, ignore_errors=True)
        (out / SETTINGS).unlink()
        names = {row[1] for row in discarded}
        what = names.pop() if len(names) == 1 else f"{len(names)} videos"
        told = ", ".join(f"{count} {reason}" for reason, count in reasons.most_common())
        return f"{what}: all windows were discarded, {told}; see {out / DISCARDED}"
    _write_table(out / MANIFEST, ["blur", "sharp", *_COLUMNS, "light"], kept)
    facts = environment(("av", "opencv-python-headless")) | {"settings": settings}
    with replacing(out / PROVENANCE) as temporary:
        temporary.write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    print(f"{out}: {pairs['train']} pairs to train, {pairs['test']} to test", *lines, sep="\n")
    return ""


def _summary(notes: Notes) -> tuple[str, Counter[str]]:
    """Say in one line what became of a video's windows, and count them by reason; "" is kept."""
    windows = notes.windows.values()
    reasons = Counter(window.discarded for window in windows)
    line = f"{reasons['']} of {len(windows)} windows kept"
    if sizes := [x.blur_size for x in windows if x.blur_size is not None and not x.discarded]:
        line += f", blur of {np.mean(sizes):.1f} px"
    others = "".join(f"; {count} {reason}" for reason, count in reasons.most_common() if reason)
    return line + others, reasons


def _write_table(file: Path, columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    with replacing(file) as temporary, temporary.open("w", **text) as stream:
        csv.writer(stream, lineterminator="\n").writerows([columns, *rows])

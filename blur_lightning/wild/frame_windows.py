"""Windows of neighbouring frames: which are fit to be averaged, and the pair that each becomes.

Noroozi, Chandramouli and Favaro 2017 (arXiv 1701.01486), section 2: the mean of an odd number of
frames is the blurry image, the frame in their middle is the sharp one. Motion must be small from
each frame to the next, or the mean shows several edges instead of a blurred one.
"""

import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice, pairwise
from typing import Literal, NamedTuple

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.wild.motion import Estimator, Motion, estimator, measure_motion
from blur_lightning.wild.video import Frame, unevenness

Light = Literal["srgb", "linear"]
UNEVEN = "unevenly spaced in time"


class Rule(NamedTuple):
    """How pairs are made, in words of the options of `wild.build_wild`."""

    seed: int
    frames: tuple[int, int]
    reduce: int
    step: int | None
    flow: Estimator
    max_flow: float
    outliers: float
    max_error: float
    min_blur: float
    jitter: float | None
    light: Light


class Window(NamedTuple):
    """One window and what was found in it, up to where it was discarded."""

    first: int  # number of its first frame in the video, from 0
    frames: int
    fps: float | None  # Hz
    flow_mean: float | None  # px, over the pixels and the pairs of neighbours
    flow_max: float | None  # px
    matching_error: float | None  # levels of 0 to 255; the mean over the pairs
    blur_size: float | None  # px: the flow's magnitude, summed over the pairs; mean over the pixels
    discarded: str  # why, or empty: it is kept


def parse_frames(text: str) -> tuple[int, int]:
    """Read 7..23, or 11 for always 11; InputError where a number is even or below 3."""
    least, _, most = text.partition("..")
    try:
        first, last = int(least), int(most or least)
    except ValueError:
        raise InputError(f"--frames: '{text}' is no range such as 7..23") from None
    if not 3 <= first <= last or not first % 2 == last % 2 == 1:
        raise InputError(f"--frames: {text} needs odd numbers of 3 or more, the smaller one first")
    return first, last


def drawn_frames(rule: Rule, video: str, number: int) -> int:
    """How many frames the window of this number has; odd, drawn evenly from the rule's range."""
    least, most = rule.frames
    generator = np.random.default_rng([rule.seed, zlib.crc32(video.encode()), number])
    return least + 2 * int(generator.integers((most - least) // 2 + 1))


def cut_windows(
    frames: Iterable[Frame], rule: Rule, video: str
) -> Iterator[tuple[int, Sequence[Frame]]]:
    """Cut a video into windows: the number of the first frame of each, and its frames.

    Args:
        frames: All frames of the video, in their order; few are held at a time.
        rule: Its `step` is how many frames a window starts after the one before it; None is where
            that one ends.
        video: Name of the video, which keys the draws.
    """
    held: deque[Frame] = deque()
    first, number, length = 0, 0, drawn_frames(rule, video, 0)
    for index, frame in enumerate(frames):
        if index >= first:
            held.append(frame)
        while len(held) >= length:
            yield first, list(islice(held, length))
            step = rule.step or length
            for _ in range(min(step, len(held))):
                held.popleft()
            first, number = first + step, number + 1
            length = drawn_frames(rule, video, number)


class Judge:
    """Measures windows of one video in their order, each pair of neighbours once."""

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self._motions: dict[int, Motion] = {}  # by the number of the first frame

    def __call__(self, first: int, frames: Sequence[Frame]) -> Window:
        """Measure a window until a reason is found to discard it."""
        rule = self.rule
        times = [frame.time for frame in frames]
        tick = frames[0].tick
        uneven = rule.jitter is not None and unevenness(times, tick=tick) > rule.jitter
        known = [time for time in times if time is not None]
        seconds = known[-1] - known[0] if known else 0
        fps = (len(known) - 1) / seconds if seconds > 0 else None
        head = (first, len(frames), fps)
        if uneven:
            return Window(*head, None, None, None, None, UNEVEN)
        motions: list[Motion] = []
        reason = ""
        for motion in self._measured(first, frames):
            motions.append(motion)
            if motion.fast > rule.outliers:
                reason = "too much motion"
            elif motion.error > rule.max_error:
                reason = "frames do not match"
            if reason:
                break
        means = [motion.mean for motion in motions]
        size = float(sum(means))
        if not reason and size < rule.min_blur:
            reason = "too little motion"
        error = float(np.mean([motion.error for motion in motions]))
        largest = max(motion.largest for motion in motions)
        return Window(*head, float(np.mean(means)), largest, error, size, reason)

    def _measured(self, first: int, frames: Sequence[Frame]) -> Iterator[Motion]:
        self._motions = {number: m for number, m in self._motions.items() if number >= first}
        for number, (one, other) in enumerate(pairwise(frames), start=first):
            if number not in self._motions:
                flow = estimator(self.rule.flow)
                self._motions[number] = measure_motion(
                    one.pixels, other.pixels, flow, limit=self.rule.max_flow
                )
            yield self._motions[number]


def average(frames: Sequence[np.ndarray], *, light: Light) -> np.ndarray:
    """Mean of frames, rounded half to even.

    Args:
        frames: uint8, of one shape.
        light: srgb averages the stored values, linear the light that they stand for.
    """
    if light == "srgb":
        total = np.zeros(frames[0].shape, np.uint32)
        for frame in frames:
            total += frame
        return np.rint(total / len(frames)).astype(np.uint8)
    import torch

    from blur_lightning.blur.light import to_linear, to_srgb

    mean = torch.zeros(frames[0].shape)
    for frame in frames:
        mean += to_linear(torch.from_numpy(frame)) / len(frames)
    return to_srgb(mean.clamp(0, 1), torch.uint8).numpy()

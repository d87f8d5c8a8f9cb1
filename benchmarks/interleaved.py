"""Timing of several ways to do the same, in turns, so that a busy machine slows all of them."""

import os
import statistics
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

# Before torch is imported: spinning threads slow it down 5-30 times where cores are shared.
os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="0")


class Contender(NamedTuple):
    """One way to do the work.

    Attributes:
        call: Does it once.
        images: How many images one call works on; a slow peer gets fewer.
    """

    call: Callable[[], object]
    images: int


def seconds_an_image(contenders: Mapping[str, Contender], rounds: int) -> dict[str, list[float]]:
    """Time every contender once a round, after one round that does not count.

    Returns:
        Seconds an image by name, one number a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for counts in [False] + [True] * rounds:
        for name, (call, images) in contenders.items():
            start = time.perf_counter()
            call()
            if counts:
                seconds[name].append((time.perf_counter() - start) / images)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most of a figure over the rounds."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def ratios(theirs: list[float], ours: list[float]) -> list[float]:
    """How many times as long a peer took, round by round."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]

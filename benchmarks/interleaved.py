"""Timing of several ways to do the same, in turns, so that a busy machine slows all of them."""

import argparse
import datetime
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from blur_lightning.records.provenance import environment

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


def seconds_an_image(
    contenders: Mapping[str, Contender],
    rounds: int,
    *,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, list[float]]:
    """Time every contender once a round, after one round that does not count.

    Args:
        contenders: By name.
        rounds: How often each is timed.
        clock: Of seconds; time.process_time on one thread leaves out what others do meanwhile.

    Returns:
        Seconds an image by name, one number a round.
    """
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for counts in [False] + [True] * rounds:
        for name, (call, images) in contenders.items():
            start = clock()
            call()
            if counts:
                seconds[name].append((clock() - start) / images)
    return seconds


def spread(values: list[float]) -> dict[str, float]:
    """Median, least and most of a figure over the rounds."""
    return {"median": statistics.median(values), "least": min(values), "most": max(values)}


def ratios(theirs: list[float], ours: list[float]) -> list[float]:
    """How many times as long a peer took, round by round."""
    return [a / b for a, b in zip(theirs, ours, strict=True)]


def parse(
    arguments: Sequence[str] | None, documentation: str | None, *, out: str, batch: int
) -> argparse.Namespace:
    """Read what all benchmarks can be told: out, batch and rounds."""
    parser = argparse.ArgumentParser(description=(documentation or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results") / out)
    parser.add_argument("--batch", type=int, default=batch, help="images a batch")
    parser.add_argument("--rounds", type=int, default=5, help="measurements of each contender")
    return parser.parse_args(arguments)


def write_report(options: argparse.Namespace, **figures: Any) -> None:
    """Write figures as JSON, with the date, the machine and the versions."""
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "processor": processor(),
        "environment": environment(),
        "batch": options.batch,
        "rounds": options.rounds,
        **figures,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")


def processor() -> str:
    """The processor's name, as the system tells it."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if sys.platform == "linux" else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()

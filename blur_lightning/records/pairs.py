"""Runs on the same images, compared two by two for a report."""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.records.comparison import Difference, differences_of
from blur_lightning.records.measures import SUMMED_UP
from blur_lightning.records.robustness import RECORDS
from blur_lightning.records.tested import Measured, load_run, on_same_images

ALL_PAIRS = 6  # of so many runs on the same images every two are compared; others with the first


class Pair(NamedTuple):
    """Two runs, by their places in the report, and how their accuracies differ."""

    run: int
    other: int
    differences: list[Difference]


def paired_runs(folders: Sequence[Path]) -> list[Pair]:
    """Compare the accuracies of runs on the same images, each with the first, the first six all.

    Args:
        folders: Those of the runs. A run whose images cannot be read is in no pair: a report needs
            the records alone.

    Returns:
        Pairs in the order of the later run.
    """
    pairs: list[Pair] = []
    groups: list[list[tuple[int, Measured]]] = []
    for i, folder in enumerate(folders):
        with suppress(InputError):
            run = load_run(folder / RECORDS)
            group = next((g for g in groups if on_same_images(g[0][1], run)), None)
            if group is None:
                groups.append([(i, run)])
                continue
            several = len(group) < ALL_PAIRS
            for j, first in group if several else group[:1]:
                pairs.append(Pair(j, i, differences_of(first, run, metrics=SUMMED_UP)))
            if several:
                group.append((i, run))
    return pairs


def noise_marks(pairs: Iterable[Pair], names: Sequence[str]) -> dict[tuple[str, str, str], bool]:
    """Which accuracies differ from the first run on the same images by noise alone.

    Args:
        pairs: Of `paired_runs`.
        names: Those of the runs, by their places.

    Returns:
        (name of the run, condition, metric) -> whether the difference is within noise.
    """
    marks: dict[tuple[str, str, str], bool] = {}
    compared: set[int] = set()
    for pair in pairs:
        if pair.other not in compared:  # its first pair is that with the first run
            compared.add(pair.other)
            for d in pair.differences:
                marks[names[pair.other], d.condition, d.metric] = d.within_noise
    return marks

"""What a prediction leaves: a table of the photographs, and a page of how blurry they are."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from blur_lightning.records.measurements import Measurements
from blur_lightning.records.photographs import PREDICTIONS, read_photographs, suggest_mix
from blur_lightning.records.robustness import write_table
from blur_lightning.report.photographs import PAGE, write_blurriness
from blur_lightning.tasks.rows import Columns


def write_predictions(
    folder: Path, source: Any, measurements: Measurements, conditions: Iterable[str]
) -> str:
    """Write predictions.csv and blurriness.html.

    Args:
        folder: Of the run.
        source: The photographs: see `data.windows.Source`.
        measurements: What was found.
        conditions: Names of those whose rows are written, one below another.

    Returns:
        What to say of it.
    """
    table, page = folder / PREDICTIONS, folder / PAGE
    write_table(table, _tables(source.names, measurements, conditions))
    photographs = read_photographs(table)
    places = {name: index for index, name in enumerate(source.names)}
    write_blurriness(page, photographs, lambda name: source.load(places[name]))
    mix, reasons = suggest_mix(photographs)
    advice = f"\na mix to train on: {mix}" if mix else ""
    return f"{reasons}{advice}\nwritten: {table}\nwritten: {page}"


def _tables(
    names: list[str], measurements: Measurements, conditions: Iterable[str]
) -> Iterator[Columns]:
    for condition in conditions:
        columns = measurements.rows(condition)
        if not columns:  # tried, but not told: a critical blur
            continue
        files = np.array([names[index] for index in columns.pop("index")], dtype=object)
        yield {"file": files, **{name: _cells(column) for name, column in columns.items()}}


def _cells(column: np.ndarray) -> np.ndarray:
    """What is unknown becomes an empty cell."""
    if not np.issubdtype(column.dtype, np.floating) or not np.isnan(column).any():
        return column
    cells = column.astype(object)
    cells[np.isnan(column)] = ""
    return cells

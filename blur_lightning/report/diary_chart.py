"""The blur diary as a chart: loss and top-1 over the level of blur, epoch by epoch.

The same diary gives the same bytes.
"""

import csv
import io
import math
from pathlib import Path
from typing import Any, NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.records.curves import AXES, COLOURS, RC

# Families of the axes that curves.py names by their symbols.
_SYMBOLS = {"disk": "D", "horizontal": "H", "vertical": "V", "motion": "M", "gaussian": "G"}
# Quantity, columns of the value and of its interval, factor that leads to the unit.
_ROWS = (
    ("loss (nats)", ("loss", "loss_low", "loss_high"), 1.0),
    ("top-1 (%)", ("top1", "low", "high"), 100.0),
)


_TICKS = 9  # levels that an axis has room to name


class _Point(NamedTuple):
    """One line of the diary; NaN is an empty cell."""

    epoch: int
    family: str
    numbers: dict[str, float]

    @property
    def place(self) -> float:
        """Middle of the level."""
        return (self.numbers["level_low"] + self.numbers["level_high"]) / 2


class _Panel(NamedTuple):
    """What one column of the chart shows: points over numbers, or over names."""

    title: str
    points: list[tuple[float, _Point]]
    names: tuple[str, ...] = ()


def diary_svg(path: Path) -> str:
    """Draw a diary, a column for each family: the last epoch strong, the earlier ones pale.

    Sharp images stand at 0 of every family with a number; families without one share a column.

    Args:
        path: A `diary.csv` that a training wrote.

    Returns:
        SVG with live text.

    Raises:
        InputError: The file is missing or no diary.
    """
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    panels = _panels(_read(path))
    epochs = sorted({point.epoch for panel in panels for _, point in panel.points})
    salt = "/".join(["diary", *(panel.title for panel in panels)])
    with style.context(["default", RC | {"svg.hashsalt": salt}]):
        figure = Figure((max(6.6, 3.3 * len(panels)), 5.2), layout="constrained")
        grid = figure.subplots(len(_ROWS), len(panels), squeeze=False, sharex="col", sharey="row")
        for row, (label, columns, factor) in zip(grid, _ROWS, strict=True):
            row[0].set_ylabel(label)
            for axes, panel in zip(row, panels, strict=True):
                for epoch in epochs:
                    _draw(axes, panel, epoch, columns, factor, strong=epoch == epochs[-1])
        grid[0, 0].set_ylim(bottom=0)
        grid[1, 0].set_ylim(0, 100)
        for axes, panel in zip(grid[-1], panels, strict=True):
            axes.set(xlabel=panel.title)
            if panel.names:
                axes.set_xticks(range(len(panel.names)), panel.names)
                axes.set_xlim(-0.5, len(panel.names) - 0.5)
            elif len(places := sorted({x for x, _ in panel.points})) <= _TICKS:
                axes.set_xticks(places)
        last = f"epoch {epochs[-1] + 1}"  # the file counts from 0
        keys = {last: Line2D([], [], color=COLOURS[0], marker="o", markersize=4)}
        if len(epochs) > 1:
            keys["earlier"] = Line2D([], [], color=COLOURS[0], alpha=0.25)
        figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=2)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, facecolor="none")
    return buffer.getvalue()


def _panels(points: list[_Point]) -> list[_Panel]:
    words = [point for point in points if math.isnan(point.place)]
    families = dict.fromkeys(point.family for point in points if point not in words)
    sharp = [(0.0, point) for point in words if point.family == "sharp"]
    panels = []
    for family in families:
        own = [(point.place, point) for point in points if point.family == family]
        panels.append(_Panel(_axis(family), sharp + own))
    names = tuple(dict.fromkeys(point.family for point in words))
    if names and (names != ("sharp",) or not families):
        named = [(float(names.index(point.family)), point) for point in words]
        panels.append(_Panel("", named, names))
    return panels


def _axis(family: str) -> str:
    default = (family, "severity" if "_blur" in family else "waves")
    name, unit = AXES.get(_SYMBOLS.get(family, family), default)
    return f"{name} ({unit})"


def _draw(
    axes: Any, panel: _Panel, epoch: int, columns: tuple[str, ...], factor: float, *, strong: bool
) -> None:
    drawn = [(x, point) for x, point in panel.points if point.epoch == epoch]
    places = [x for x, _ in drawn]
    value, low, high = ([factor * p.numbers[name] for _, p in drawn] for name in columns)
    # Between names there is nothing that a line could stand for.
    look = {"linestyle": "none" if panel.names else "-", "color": COLOURS[0], "clip_on": False}
    if not strong:
        axes.plot(places, value, alpha=0.25, marker="o" if panel.names else "", **look)
        return
    axes.plot(places, value, marker="o", markersize=4, **look)
    if panel.names:
        axes.vlines(places, low, high, color=COLOURS[0], alpha=0.5)
    else:
        axes.fill_between(places, low, high, color=COLOURS[0], alpha=0.15, linewidth=0)


def _read(path: Path) -> list[_Point]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        points = [_point(row) for row in rows]
    except FileNotFoundError:
        raise InputError(f"{path}: not found; name the diary.csv of a training") from None
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a diary; repeat the training") from error
    if not points:
        raise InputError(f"{path}: no line below the header; repeat the training")
    return points


def _point(row: dict[str, str]) -> _Point:
    columns = ("level_low", "level_high", *(name for _, names, _ in _ROWS for name in names))
    numbers = {name: float(row[name]) if row[name] else math.nan for name in columns}
    return _Point(int(row["epoch"]), row["family"], numbers)

"""Curves of test runs, for the report and as a picture of their own.

The same records give the same bytes.
"""

import io
import math
import re
from collections.abc import Callable, Iterable, Mapping
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.robustness import Record


class Measure(NamedTuple):
    """How a metric is written and drawn; `factor` leads from a record's value to the unit."""

    title: str
    factor: float = 1
    digits: int = 2
    unit: str = ""
    best: Callable[..., Any] | None = None
    top: float | None = None  # end of the axis, in the unit


MEASURES = {
    "top1": Measure("top-1", 100, 1, "%", max, 100.0),
    "top5": Measure("top-5", 100, 1, "%", max, 100.0),
    "entropy": Measure("entropy", unit="nats"),
    "cross_entropy": Measure("cross-entropy", unit="nats", best=min),
    "ece": Measure("calibration error", 100, 1, "%", min),
    "aurc": Measure("area under risk-coverage", 100, 1, "%", min),
    "coverage": Measure("answered at 5 % risk", 100, 1, "%", max, 100.0),
    "survival": Measure("decisions unchanged", 100, 1, "%", max, 100.0),
}
# Name and unit of the number behind a symbol; all others count waves.
AXES = {
    "D": ("disk radius", "px"),
    "H": ("horizontal box length", "px"),
    "V": ("vertical box length", "px"),
    "M": ("box length", "px"),
    "G": ("Gaussian sigma", "px"),
    "airy": ("Airy radius", "px"),
}
# Okabe and Ito's colours, told apart with any colour vision; the marks differ as well.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
MARKS = (("o", "●"), ("s", "■"), ("^", "▲"), ("D", "◆"), ("v", "▼"))
INK, RULE = "#1f2328", "#d8dee4"  # on the page replaced by its own, light or dark
RC = {
    **dict.fromkeys(("text.color", "axes.labelcolor", "xtick.color", "ytick.color"), INK),
    **{"axes.edgecolor": INK, "axes.facecolor": "none", "axes.grid": True, "axes.linewidth": 0.6},
    **{"axes.spines.top": False, "axes.spines.right": False, "axes.axisbelow": True},
    **{"grid.color": RULE, "grid.linewidth": 0.6, "font.size": 9, "legend.frameon": False},
    **{"svg.fonttype": "none", "text.parse_math": False},
}


class Line(NamedTuple):
    """What one curve, or one column of a table, stands for."""

    dataset: str
    model: str
    scale: str
    trained_on: str


class Cell(NamedTuple):
    """A measurement over all runs that repeat it."""

    value: float
    low: float | None
    high: float | None
    runs: int
    n: str
    names: tuple[str, ...] = ()  # of the runs
    noise: bool = False  # no different from the first run on the same images


Cells = dict[tuple[str, str], Cell]  # by (condition, metric)


class Section(NamedTuple):
    """All that was measured on one data set, in the order of the records."""

    dataset: str
    conditions: dict[str, Record]  # one record of each, for its parameter
    lines: dict[Line, Cells]

    def marked(self, marks: Mapping[tuple[str, str, str], bool]) -> "Section":
        """Note which cells are within noise, by (run, condition, metric)."""
        lines = {
            line: {
                key: cell._replace(noise=all(marks.get((name, *key), False) for name in cell.names))
                for key, cell in cells.items()
            }
            for line, cells in self.lines.items()
        }
        return self._replace(lines=lines)


class Style(NamedTuple):
    """How a network is named and drawn, the same all over the page."""

    label: str
    colour: str
    mark: str
    glyph: str


class Panel(NamedTuple):
    """One pair of axes."""

    section: Section
    metric: str
    axis: str
    points: dict[float, str]  # parameter -> condition


def sections_of(records: Iterable[Record]) -> list[Section]:
    """Sort records by data set and network; runs that repeat a measurement become their mean."""
    conditions: dict[str, dict[str, Record]] = {}
    repeats: dict[Line, dict[tuple[str, str], list[Record]]] = {}
    for record in records:
        conditions.setdefault(record.dataset, {}).setdefault(record.condition, record)
        line = Line(record.dataset, record.model, record.scale, record.trained_on)
        key = (record.condition, record.metric)
        repeats.setdefault(line, {}).setdefault(key, []).append(record)
    # The network as published comes first, as in the paper's table.
    order = sorted(repeats, key=lambda line: line.trained_on != "original")
    lines = {line: {key: _mean(same) for key, same in repeats[line].items()} for line in order}
    return [
        Section(name, found, {line: c for line, c in lines.items() if line.dataset == name})
        for name, found in conditions.items()
    ]


def _mean(records: list[Record]) -> Cell:
    value = sum(record.value for record in records) / len(records)
    low = min((record.low for record in records if record.low is not None), default=None)
    high = max((record.high for record in records if record.high is not None), default=None)
    sizes = sorted({record.n for record in records})
    n = " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))
    return Cell(value, low, high, len(records), n, tuple(record.run for record in records))


def metrics_of(sections: Iterable[Section]) -> list[str]:
    """Metrics of sections, in the order of the records."""
    cells = [cells for section in sections for cells in section.lines.values()]
    return list(dict.fromkeys(metric for c in cells for _, metric in c))


def measure_of(metric: str) -> Measure:
    """How a metric is written; one that is not known here as a plain number."""
    return MEASURES.get(metric, Measure(metric, digits=3))


def title(measure: Measure) -> str:
    """Name and unit."""
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title


def value_text(value: float, measure: Measure) -> str:
    """A record's value in its unit."""
    return f"{value * measure.factor:.{measure.digits}f}"


def styles_of(sections: list[Section]) -> dict[Line, Style]:
    """Give each network one look."""
    lines = [line for section in sections for line in section.lines]
    networks = list(dict.fromkeys(line[1:] for line in lines))
    several = len({line.scale for line in lines}) > 1
    styles = {}
    for line in lines:
        i = networks.index(line[1:])
        detail = f"{line.trained_on}, {line.scale} px" if several else line.trained_on
        label = f"{line.model} ({detail})"
        styles[line] = Style(label, COLOURS[i % len(COLOURS)], *MARKS[i % len(MARKS)])
    return styles


# Curves


def _axis(condition: str) -> str:
    """The axis that a condition lies on: its name without the parameter."""
    stem = re.sub(r"\d+(\.\d+)?", "", condition, count=1)
    match = re.fullmatch(r"(\w+-?)(?:@([^%]+))?(?:%(.+))?", stem)
    symbol, angle, share = match.groups() if match else (stem, None, None)
    direction = f" at {angle}°" if angle else ""
    part = f" on {share} %" if share else ""
    if symbol.endswith("-"):
        return f"{symbol[:-1]} severity{direction}{part}"
    name, unit = AXES.get(symbol, (symbol, "waves"))
    return f"{name}{direction}{part} ({unit})"


def _panels(section: Section, metric: str) -> list[Panel]:
    axes: dict[str, dict[float, str]] = {}
    for name, record in section.conditions.items():
        if record.parameter is not None and name != "sharp":
            axes.setdefault(_axis(name), {})[record.parameter] = name
    start = {0.0: "sharp"} if "sharp" in section.conditions else {}
    return [
        Panel(section, metric, axis, start | dict(sorted(points.items())))
        for axis, points in axes.items()
        if len(points) > 1
    ]


def _draw(axes: Any, panel: Panel, styles: dict[Line, Style]) -> None:
    measure = measure_of(panel.metric)
    for line, cells in panel.section.lines.items():
        known = {x: cells.get((name, panel.metric)) for x, name in panel.points.items()}
        drawn = {x: cell for x, cell in known.items() if cell is not None}
        columns = ([c.value, c.low, c.high] for c in drawn.values())
        scaled = [[math.nan if y is None else y * measure.factor for y in c] for c in columns]
        value, low, high = zip(*scaled, strict=True) if scaled else ((), (), ())
        style = styles[line]
        curve = axes.plot([*drawn], value, color=style.colour, marker=style.mark, markersize=4)
        curve[0].set_clip_on(False)  # whole marks at 0 and 100 %
        axes.fill_between([*drawn], low, high, color=style.colour, alpha=0.15, linewidth=0)
    axes.set(xlabel=panel.axis, ylabel=title(measure), xticks=[*panel.points])
    axes.set_ylim(_limits(panel, measure))


def _limits(panel: Panel, measure: Measure) -> tuple[float, float]:
    """Ends of the vertical axis, the same for all families so that they can be compared."""
    ends = [
        end * measure.factor
        for cells in panel.section.lines.values()
        for (_, metric), cell in cells.items()
        for end in (cell.value, cell.low, cell.high)
        if metric == panel.metric and end is not None and math.isfinite(end)
    ]
    return min([*ends, 0.0]), measure.top or 1.05 * max(ends, default=0.0) or 1.0


def _svg(rows: list[list[Panel]], styles: dict[Line, Style], *, alone: bool) -> str:
    """Panels as SVG with live text: alone on white with a legend, or to be set into the page."""
    from matplotlib import style
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

    first, columns = rows[0][0], max(map(len, rows))
    salt = "/".join((first.section.dataset, first.axis, first.metric))  # ids differ on one page
    with style.context(["default", RC | {"svg.hashsalt": salt}]):
        figure = Figure((3.3 * columns, 2.6 * len(rows) + 0.3 * alone), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes, panel in zip(grid.flat, _padded(rows, columns), strict=True):
            if panel is None:
                axes.set_axis_off()
            else:
                _draw(axes, panel, styles)
        if alone:
            for row, panels in zip(grid, rows, strict=True):
                row[0].set_title(panels[0].section.dataset, loc="left")
            keys = {s.label: Line2D([], [], color=s.colour, marker=s.mark) for s in styles.values()}
            figure.legend(keys.values(), keys.keys(), loc="outside lower center", ncols=columns)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        paper = "white" if alone else "none"
        figure.savefig(buffer, format="svg", metadata=nothing, facecolor=paper)
    return buffer.getvalue()


def _padded(rows: list[list[Panel]], columns: int) -> list[Panel | None]:
    return [panel for row in rows for panel in [*row, *[None] * (columns - len(row))]]


def figure_svg(sections: list[Section], figure: Path) -> str:
    """The top-1 curves as a picture of their own."""
    shown = [section for section in sections if "top1" in metrics_of([section])]
    rows = [panels for section in shown if (panels := _panels(section, "top1"))]
    if not rows:
        raise InputError(f"{figure}: no curve to draw; test top-1 under two strengths of a blur")
    return _svg(rows, styles_of(shown), alone=True)


def curves_html(section: Section, styles: dict[Line, Style]) -> str:
    """The panels of a section for the page, under a legend."""
    metrics = metrics_of([section])
    rows = ""
    for metric in [m for m in ("top1", "entropy") if m in metrics] or metrics[:1]:
        drawings = (_svg([[panel]], styles, alone=False) for panel in _panels(section, metric))
        figures = "".join(f"<figure>{_inline(drawing)}</figure>" for drawing in drawings)
        rows += f'<div class="panels">{figures}</div>' if figures else ""
    if not rows:
        return ""
    own = [styles[line] for line in section.lines]
    keys = (f'<li><b style="color:{s.colour}">{s.glyph}</b> {escape(s.label)}</li>' for s in own)
    return f'<h3>{escape(section.dataset)}</h3><ul class="keys">{"".join(keys)}</ul>{rows}'


def _inline(svg: str) -> str:
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])  # figure_1 in every drawing
    return svg.replace(INK, "currentColor").replace(RULE, "var(--rule)")

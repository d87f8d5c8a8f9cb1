"""Records of test runs sorted into lines and panels, and how each is named and drawn."""

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from blur_lightning.records.robustness import Record
from blur_lightning.records.rounding import rounded


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
    "miou": Measure("mean IoU", 100, 1, "%", max, 100.0),
    "boundary_miou": Measure("mean IoU near boundaries", 100, 1, "%", max, 100.0),
    "boundary_iou": Measure("Boundary IoU", 100, 1, "%", max, 100.0),
    "pixel_accuracy": Measure("pixels right", 100, 1, "%", max, 100.0),
    "entropy": Measure("entropy", unit="nats"),
    "cross_entropy": Measure("cross-entropy", unit="nats", best=min),
    "ece": Measure("calibration error", 100, 1, "%", min),
    "aurc": Measure("area under risk-coverage", 100, 1, "%", min),
    "coverage": Measure("answered at 5 % risk", 100, 1, "%", max, 100.0),
    "error": Measure("error against the sharp image", digits=1, unit="levels of 255"),
    "survival": Measure("decisions unchanged", 100, 1, "%", max, 100.0),
    "psnr": Measure("PSNR", unit="dB", best=max),
    "ssim": Measure("SSIM", digits=4, best=max, top=1.0),
    "psnr_shift": Measure("PSNR at the best shift", unit="dB", best=max),
    "psnr_input": Measure("PSNR of the blurry image", unit="dB"),
    "ssim_input": Measure("SSIM of the blurry image", digits=4, top=1.0),
    "psnr_shift_input": Measure("PSNR of the blurry image at its best shift", unit="dB"),
}
MAIN = ("top1", "miou")  # what a network is known by: the first of these that it has
# Name and unit of the number behind a symbol; all others count waves.
AXES = {
    "D": ("disk radius", "px"),
    "H": ("horizontal box length", "px"),
    "V": ("vertical box length", "px"),
    "M": ("box length", "px"),
    "G": ("Gaussian sigma", "px"),
    "airy": ("Airy radius", "px"),
    # Of adversaries: what of a blur they are allowed.
    "worst": ("error of the worst draw", "levels of 255"),
    "kernel": ("error of the worst kernel", "levels of 255"),
    "predicted": ("error of a predicted kernel", "levels of 255"),
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
    setting: str = ""  # what else sets it apart: lr 0.001

    @property
    def training(self) -> str:
        """What it was trained on, and how where that differs."""
        return training_text(self.trained_on, self.setting)


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


def training_text(trained_on: str, setting: str) -> str:
    """A mix with what else sets a training apart."""
    return f"{trained_on}, {setting}" if setting else trained_on


def sections_of(
    records: Iterable[Record], settings: Mapping[str, str] | None = None
) -> list[Section]:
    """Sort records by data set and network; runs that repeat a measurement become their mean.

    Args:
        records: Those of all runs.
        settings: What sets runs of one network and mix apart, by their names; None is nothing.
    """
    conditions: dict[str, dict[str, Record]] = {}
    repeats: dict[Line, dict[tuple[str, str], list[Record]]] = {}
    for record in records:
        conditions.setdefault(record.dataset, {}).setdefault(record.condition, record)
        setting = (settings or {}).get(record.run, "")
        line = Line(record.dataset, record.model, record.scale, record.trained_on, setting)
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


def curve_of(record: Record) -> str:
    """Name of the curve that a record lies on: its family, with direction and share (motion@30)."""
    return record.family + "".join(re.findall(r"[@%].*", record.condition))


def metrics_of(sections: Iterable[Section]) -> list[str]:
    """Metrics of sections, in the order of the records."""
    cells = [cells for section in sections for cells in section.lines.values()]
    return list(dict.fromkeys(metric for c in cells for _, metric in c))


def main_metric(metrics: Sequence[str]) -> str:
    """The metric that a network is known by; the first one where it has none of `MAIN`."""
    return next((metric for metric in MAIN if metric in metrics), metrics[0])


def measure_of(metric: str) -> Measure:
    """How a metric is written; one that is not known here as a plain number."""
    return MEASURES.get(metric, Measure(metric, digits=3))


def title(measure: Measure) -> str:
    """Name and unit."""
    return f"{measure.title} ({measure.unit})" if measure.unit else measure.title


def value_text(value: float, measure: Measure) -> str:
    """A record's value in its unit."""
    return rounded(value * measure.factor, measure.digits)


def styles_of(sections: list[Section]) -> dict[Line, Style]:
    """Give each network one look."""
    lines = [line for section in sections for line in section.lines]
    networks = list(dict.fromkeys(line[1:] for line in lines))
    several = len({line.scale for line in lines}) > 1
    styles = {}
    for line in lines:
        i = networks.index(line[1:])
        detail = f"{line.training}, {line.scale} px" if several else line.training
        label = f"{line.model} ({detail})"
        styles[line] = Style(label, COLOURS[i % len(COLOURS)], *MARKS[i % len(MARKS)])
    return styles


def _axis(condition: str) -> str:
    """The axis that a condition lies on: its name without the parameter."""
    stem = re.sub(r"\d+(\.\d+)?", "", condition, count=1)
    match = re.fullmatch(r"(\w+-?)(?:@([^%]+))?(?:%(.+))?", stem)
    symbol, angle, share = match.groups() if match else (stem, None, None)
    direction = f" at {angle}°" if angle else ""
    if angle and angle[0].isalpha():  # of a mix, from which an adversary draws
        direction = f" from {angle}"
    part = f" on {share} %" if share else ""
    if symbol.endswith("-"):
        return f"{symbol[:-1]} severity{direction}{part}"
    name, unit = AXES.get(symbol, (symbol, "waves"))
    return f"{name}{direction}{part} ({unit})"


def panels_of(section: Section, metric: str) -> list[Panel]:
    """Axes of a section: a family each that was measured at two strengths or more."""
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


def limits_of(panel: Panel, measure: Measure) -> tuple[float, float]:
    """Ends of the vertical axis, the same for all families so that they can be compared."""
    ends = [
        end * measure.factor
        for cells in panel.section.lines.values()
        for (_, metric), cell in cells.items()
        for end in (cell.value, cell.low, cell.high)
        if metric == panel.metric and end is not None and math.isfinite(end)
    ]
    return min([*ends, 0.0]), measure.top or 1.05 * max(ends, default=0.0) or 1.0

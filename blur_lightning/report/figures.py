"""Curves as drawings that need no script: for the page, for papers, and on their own.

The same records give the same bytes.
"""

import io
import math
import re
from html import escape
from pathlib import Path
from typing import Any

from blur_lightning.errors import InputError
from blur_lightning.records.curves import (
    INK,
    RC,
    RULE,
    Line,
    Panel,
    Section,
    Style,
    limits_of,
    main_metric,
    measure_of,
    metrics_of,
    panels_of,
    styles_of,
    title,
)
from blur_lightning.records.robustness import replacing

COLUMN = 3.3  # in, the width of a column of a journal
DRAWN = 12  # networks of a drawing on the page: more cannot be told apart


def draw(axes: Any, panel: Panel, styles: dict[Line, Style]) -> None:
    """Draw those lines of a panel that have a style, each with its band."""
    measure = measure_of(panel.metric)
    for line, cells in panel.section.lines.items():
        if line not in styles:
            continue
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
    axes.set_ylim(limits_of(panel, measure))


def figure_svg(sections: list[Section], figure: Path) -> str:
    """The curves of top-1, or of mean IoU, as a picture of their own."""
    drawn = [(s, panels_of(s, main_metric(metrics_of([s])))) for s in sections]
    drawn = [(section, panels) for section, panels in drawn if panels]
    if not drawn:
        raise InputError(f"{figure}: no curve to draw; test under two strengths of a blur")
    return _svg([row for _, row in drawn], styles_of([s for s, _ in drawn]), alone=True)


def write_figures(sections: list[Section], folder: Path) -> list[Path]:
    """Write every panel as PNG (600 dpi) and PDF (fonts embedded), as wide as a journal's column.

    Args:
        sections: What was measured.
        folder: Where to; made if missing. Files are named data-axis-metric.

    Returns:
        The files, in the order of the sections.

    Raises:
        InputError: No blur was tested at two strengths, or a file cannot be written.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    styles = styles_of(sections)
    panels = [p for s in sections for metric in metrics_of([s]) for p in panels_of(s, metric)]
    if not panels:
        raise InputError(f"{folder}: no curve to draw; test two strengths of a blur")
    written: list[Path] = []
    for panel in panels:
        own = {line: styles[line] for line in panel.section.lines}
        # 42: TrueType, which editors and publishers take; the default, Type 3, many refuse.
        look = RC | {"pdf.fonttype": 42, "font.size": 8, "lines.linewidth": 1.2}
        with style.context(["default", look]):
            figure = Figure((COLUMN, 2.3 + 0.17 * len(own)), layout="constrained")
            draw(figure.subplots(), panel, own)
            figure.legend(*_keys(own), loc="outside lower center", fontsize=7)
            name = re.sub(r"\W+", "_", f"{panel.section.dataset}-{panel.axis}-{panel.metric}")
            for suffix, nothing in ((".png", "Software"), (".pdf", "CreationDate")):
                path = folder / f"{name.strip('_')}{suffix}"
                with replacing(path) as temporary:
                    metadata = {nothing: None}  # the same bytes at any time
                    figure.savefig(
                        temporary, format=suffix[1:], dpi=600, metadata=metadata, facecolor="white"
                    )
                written.append(path)
    return written


def _keys(styles: dict[Line, Style]) -> tuple[list[Any], list[str]]:
    """Marks and texts of a legend."""
    from matplotlib.lines import Line2D

    keys = {s.label: Line2D([], [], color=s.colour, marker=s.mark) for s in styles.values()}
    return [*keys.values()], [*keys]


def _svg(rows: list[list[Panel]], styles: dict[Line, Style], *, alone: bool) -> str:
    """Panels as SVG with live text: alone on white with a legend, or to be set into the page."""
    from matplotlib import style
    from matplotlib.figure import Figure

    first, columns = rows[0][0], max(map(len, rows))
    salt = "/".join((first.section.dataset, first.axis, first.metric))  # ids differ on one page
    with style.context(["default", RC | {"svg.hashsalt": salt}]):
        figure = Figure((3.3 * columns, 2.6 * len(rows) + 0.3 * alone), layout="constrained")
        grid = figure.subplots(len(rows), columns, squeeze=False)
        for axes, panel in zip(grid.flat, _padded(rows, columns), strict=True):
            if panel is None:
                axes.set_axis_off()
            else:
                draw(axes, panel, styles)
        if alone:
            for row, panels in zip(grid, rows, strict=True):
                row[0].set_title(panels[0].section.dataset, loc="left")
            figure.legend(*_keys(styles), loc="outside lower center", ncols=columns)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        paper = "white" if alone else "none"
        figure.savefig(buffer, format="svg", metadata=nothing, facecolor=paper)
    return buffer.getvalue()


def _padded(rows: list[list[Panel]], columns: int) -> list[Panel | None]:
    return [panel for row in rows for panel in [*row, *[None] * (columns - len(row))]]


def curves_html(section: Section, styles: dict[Line, Style]) -> str:
    """The panels of a section for the page, under a legend."""
    metrics = metrics_of([section])
    own = {line: styles[line] for line in [*section.lines][:DRAWN]}
    rows = ""
    for metric in dict.fromkeys((main_metric(metrics), *{"entropy"}.intersection(metrics))):
        drawings = (_svg([[panel]], own, alone=False) for panel in panels_of(section, metric))
        figures = "".join(f"<figure>{inline_svg(drawing)}</figure>" for drawing in drawings)
        rows += f'<div class="panels">{figures}</div>' if figures else ""
    if not rows:
        return ""
    count = len(section.lines)
    more = f'<p class="note">The first {DRAWN} of {count} networks.</p>' if count > DRAWN else ""
    keys = "".join(
        f'<li><b style="color:{s.colour}">{s.glyph}</b> {escape(s.label)}</li>'
        for s in own.values()
    )
    return f'<h3>{escape(section.dataset)}</h3><ul class="keys">{keys}</ul>{more}{rows}'


def inline_svg(svg: str) -> str:
    """Make a drawing part of a page: in the page's colours, light or dark, without ids."""
    svg = re.sub(r'<g id="[^"]*"', "<g", svg[svg.index("<svg") :])  # figure_1 in every drawing
    return svg.replace(INK, "currentColor").replace(RULE, "var(--rule)")

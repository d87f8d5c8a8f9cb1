"""What a report says of segmentations alone: the IoU of each class, the accuracy near boundaries.

Both are read from the tables that a test leaves beside its records: `class_iou.csv`, a line for
each condition and class, and `trimap.csv`, a line for each condition and width of the band around
boundaries (Kohli, Ladický and Torr 2009, Int. J. Comput. Vis. 82, 302-324). Runs that differ in
their seed become their mean, as in the page's other tables.
"""

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from blur_lightning.errors import InputError
from blur_lightning.images import VOID
from blur_lightning.records.counts import CLASSES_TABLE, TRIMAP_TABLE
from blur_lightning.records.curves import (
    COLOURS,
    MARKS,
    RC,
    Cell,
    Cells,
    Line,
    Measure,
    Section,
    Style,
    metrics_of,
    sections_of,
    value_text,
)
from blur_lightning.records.robustness import Record
from blur_lightning.report.figures import DRAWN, inline_svg
from blur_lightning.voc_layout import VERDICTS, palette

_COLUMNS = 3  # panels side by side
_SHARE = Measure("share of the pixels", 100, 1, "%")


def read_shares(path: Path, key: str, records: Sequence[Record]) -> list[Record]:
    """Read a table of a segmentation as records, whose metrics are the classes or the widths.

    Args:
        path: A `class_iou.csv` or `trimap.csv`.
        key: Its column of what each share is of: class or width.
        records: Of the same run; they give the network and the conditions.

    Returns:
        A record for each line; its value is NaN for a class that is nowhere.

    Raises:
        InputError: The file is no such table.
    """
    conditions = {record.condition: record for record in records}
    try:
        with path.open(encoding="utf-8-sig", newline="") as stream:
            rows = list(csv.DictReader(stream, strict=True))
        return [
            conditions[row["condition"]]._replace(
                metric=row[key],
                value=float(row["value"]),
                low=float(row["low"]),
                high=float(row["high"]),
            )
            for row in rows
        ]
    except (OSError, ValueError, KeyError, TypeError, csv.Error) as error:
        raise InputError(f"{path}: cannot be read as a table of shares; repeat the test") from error


def segmentations_html(
    runs: Mapping[Path, Sequence[Record]],
    styles: Mapping[Line, Style],
    settings: Mapping[str, str] | None = None,
) -> str:
    """Tables of the classes and the widths of each network, and curves over the widths.

    Args:
        runs: Records by the folder of their run; runs without such tables are passed over.
        styles: Names of the networks.
        settings: What sets runs of one network and mix apart, by their names.

    Returns:
        Part of the page under headings of its own; empty without any segmentation.
    """
    html = ""
    for section in _sections(runs, settings, CLASSES_TABLE, "class"):
        html += _tables(f"IoU of each class (%) on {section.dataset}", "class", section, styles)
    for section in _sections(runs, settings, TRIMAP_TABLE, "width"):
        title = f"Pixels right up to so many pixels from a boundary (%) on {section.dataset}"
        tables = _tables(title, "width", section, styles)
        width = f"max-width:{22 * min(_COLUMNS, len(section.lines))}rem"
        drawing = inline_svg(trimap_svg(section, styles))
        html += f'{tables}<figure style="{width}">{drawing}</figure>'
    return html


def _sections(
    runs: Mapping[Path, Sequence[Record]],
    settings: Mapping[str, str] | None,
    table: str,
    key: str,
) -> list[Section]:
    found = {folder / table: records for folder, records in runs.items()}
    files = [(path, records) for path, records in found.items() if path.is_file()]
    shares = [share for path, records in files for share in read_shares(path, key, records)]
    known = [share for share in shares if math.isfinite(share.value)]
    return sections_of(known, settings or {})


def _tables(title: str, key: str, section: Section, styles: Mapping[Line, Style]) -> str:
    tables = (_table(styles[ln].label, key, section, cells) for ln, cells in section.lines.items())
    return f"<h3>{escape(title)}</h3>{''.join(tables)}"


def _table(name: str, key: str, section: Section, cells: Cells) -> str:
    """One network: a row for each class or width, a column for each condition."""
    head = "".join(f'<th scope="col">{escape(blur)}</th>' for blur in section.conditions)
    rows = "".join(
        f'<tr><th scope="row">{escape(share)}</th>'
        f"{''.join(_cell(cells.get((blur, share))) for blur in section.conditions)}</tr>"
        for share in metrics_of([section])
    )
    runs = max(cell.runs for cell in cells.values())
    mean = f", mean of {runs} runs" if runs > 1 else ""
    return (
        f'<details open><summary>{escape(name)}{mean}</summary><div class="wide" tabindex="0">'
        f'<table class="heat"><thead><tr><th scope="col">{key}</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div></details>"
    )


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "<td>-</td>"
    value, low, high = (value_text(x or 0.0, _SHARE) for x in (cell.value, cell.low, cell.high))
    return (
        f'<td style="--v:{100 * cell.value:.0f}%">{value} '
        f"<small>{low}\N{EN DASH}{high}</small></td>"
    )


def trimap_svg(section: Section, styles: Mapping[Line, Style]) -> str:
    """Draw the accuracy over the width of the band, a panel for each network, a line for each blur.

    Args:
        section: Its metrics are widths in pixels.
        styles: Names of the networks.

    Returns:
        SVG with live text; of more than `DRAWN` networks or blurs the first ones.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    widths = sorted(map(int, metrics_of([section])))
    lines = dict([*section.lines.items()][:DRAWN])
    columns = min(_COLUMNS, len(lines))
    rows = math.ceil(len(lines) / columns)
    with style.context(["default", RC | {"svg.hashsalt": f"trimap/{section.dataset}"}]):
        figure = Figure((3.3 * columns, 2.6 * rows + 0.3), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        for axes in grid.flat[len(lines) :]:
            axes.set_axis_off()
        for axes, (line, cells) in zip(grid.flat, lines.items(), strict=False):
            _draw(axes, {blur: _curve(cells, blur, widths) for blur in section.conditions})
            axes.set_title(styles[line].label, loc="left", fontsize=8)
            axes.set(xlabel="width of the band (px)", ylabel="pixels right (%)")
            axes.set_xscale("log", base=2)  # by default each width is twice the one before
            axes.set_xticks(widths, [str(width) for width in widths])
            axes.minorticks_off()
            axes.label_outer()
        keys = grid[0, 0].get_legend_handles_labels()
        figure.legend(*keys, loc="outside lower center", ncols=2 + 3 * columns)
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, facecolor="none")
    return buffer.getvalue()


def _curve(cells: Cells, blur: str, widths: Sequence[int]) -> list[list[float]]:
    """Widths, and the values there with both ends of their intervals, in percent."""
    known = [(width, cells[blur, str(width)]) for width in widths if (blur, str(width)) in cells]
    ends = [[float(width), *(100 * (y or 0.0) for y in cell[:3])] for width, cell in known]
    return [[*column] for column in zip(*ends, strict=True)]


def _draw(axes: Any, curves: Mapping[str, list[list[float]]]) -> None:
    for place, (blur, curve) in enumerate([*curves.items()][:DRAWN]):
        if curve:
            widths, value, low, high = curve
            colour, mark = COLOURS[place % len(COLOURS)], MARKS[place % len(MARKS)][0]
            axes.plot(widths, value, label=blur, color=colour, marker=mark, markersize=4)
            axes.fill_between(widths, low, high, color=colour, alpha=0.15, linewidth=0)


def legend_html(folder: Path, records: Sequence[Record], *, width: object) -> str:
    """What is what in the pictures of a segmentation; empty where the run is none.

    Args:
        folder: Of the run.
        records: Of the run.
        width: Pixels from a boundary up to which an error is near it.
    """
    path = folder / CLASSES_TABLE
    if not path.is_file():
        return ""
    names = dict.fromkeys(share.metric for share in read_shares(path, "class", records))
    errors = _swatches((escape(text.format(width=width)), rgb) for text, rgb in VERDICTS.items())
    labels = {name: label for label, name in enumerate(names)} | {"void": VOID}
    classes = _swatches((escape(name), palette()[i].tolist()) for name, i in labels.items())
    return (
        '<p class="note">From the top: the image, the truth, the prediction, the errors.</p>'
        f'<ul class="keys note" aria-label="errors">{errors}</ul>'
        f'<ul class="keys note" aria-label="classes">{classes}</ul>'
    )


def _swatches(keys: Iterable[tuple[str, Sequence[int]]]) -> str:
    return "".join(
        f'<li><i class="swatch" style="background:rgb{tuple(rgb)}"></i> {text}</li>'
        for text, rgb in keys
    )

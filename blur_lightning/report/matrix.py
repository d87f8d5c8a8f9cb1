"""Tables of a report: what networks were trained on against what they were tested under.

They have the form of Table 3 of Vasiljevic, Chakrabarti and Shakhnarovich 2016 (arXiv:1611.05760),
shaded by value, with the papers' figures where they measured the same.
"""

import functools
import math
from collections.abc import Iterable, Mapping
from html import escape

from blur_lightning.records.curves import (
    Cell,
    Line,
    Measure,
    Section,
    measure_of,
    metrics_of,
    title,
    value_text,
)
from blur_lightning.records.published import EXPERIMENTS, tables


def tables_html(sections: list[Section], places: Mapping[str, int]) -> str:
    """The tables of all metrics, of which the radio buttons show one; it takes no script.

    Args:
        sections: What was measured.
        places: Number of a run's part of the page, #run-0 and so on, by its name.
    """
    buttons = blocks = rules = ""
    for i, metric in enumerate(metrics_of(sections)):
        measure = measure_of(metric)
        buttons += f'<input type="radio" name="metric" id="m{i}"{"" if i else " checked"}>'
        buttons += f'<label for="m{i}">{escape(title(measure))}</label>'
        content = "".join(_tables(section, metric, places) for section in sections)
        blocks += f'<div class="metric m{i}">{content}</div>'
        rules += f"#m{i}:checked~.m{i}{{display:block}}"
    return f'<style>{rules}</style><div class="switch">{buttons}{blocks}</div>'


def _tables(section: Section, metric: str, places: Mapping[str, int]) -> str:
    html = ""
    for model, scale in dict.fromkeys((line.model, line.scale) for line in section.lines):
        columns = {
            line: [cells.get((name, metric)) for name in section.conditions]
            for line, cells in section.lines.items()
            if (line.model, line.scale) == (model, scale)
        }
        measured = [cell for column in columns.values() for cell in column if cell]
        if measured:
            sizes = " / ".join(dict.fromkeys(cell.n for cell in measured))
            caption = f"{model} on {section.dataset}, network scale {scale} px, n = {sizes}"
            html += _table(caption, columns, section.conditions, metric, places)
    return html


def _table(
    caption: str,
    columns: dict[Line, list[Cell | None]],
    names: Iterable[str],
    metric: str,
    places: Mapping[str, int],
) -> str:
    heads = ""
    for line, cells in columns.items():
        runs = max(cell.runs if cell else 0 for cell in cells)
        note = f"<br><small>mean of {runs} runs</small>" if runs > 1 else ""
        run = next(name for cell in cells if cell for name in cell.names) if runs else ""
        text = escape(line.training)
        link = f'<a href="#run-{places[run]}">{text}</a>' if run in places else text
        heads += f'<th scope="col">{link}{note}</th>'
    measure = measure_of(metric)
    values = [cell.value for cells in columns.values() for cell in cells if cell]
    ends = _ends(values, measure)
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f"{_row(dict(zip(columns, row, strict=True)), name, metric, ends)}</tr>"
        for name, row in zip(names, zip(*columns.values(), strict=True), strict=True)
        if any(row)
    )
    return (
        f'<h3>{escape(caption)}</h3><div class="wide" tabindex="0"><table class="heat"><thead>'
        f'<tr><th rowspan="2">test blur</th><th colspan="{len(columns)}">trained on</th></tr>'
        f"<tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _ends(values: Iterable[float], measure: Measure) -> tuple[float, float]:
    """Values without and with full shade: those of a share are 0 and 1."""
    if measure.top is not None:
        return 0.0, measure.top / measure.factor
    finite = [value for value in values if math.isfinite(value)]
    return min(finite, default=0.0), max(finite, default=0.0)


def _row(
    row: dict[Line, Cell | None], condition: str, metric: str, ends: tuple[float, float]
) -> str:
    measure = measure_of(metric)
    texts = [value_text(cell.value, measure) if cell else "-" for cell in row.values()]
    values = [cell.value for cell in row.values() if cell and math.isfinite(cell.value)]
    # Compared as shown: what looks alike is equally good.
    best = (
        value_text(measure.best(values), measure)
        if measure.best and len(row) > 1 and values
        else ""
    )
    html = ""
    for (line, cell), text in zip(row.items(), texts, strict=True):
        html += f"<td{_shade(cell, ends)}>{f'<b>{text}</b>' if text == best else text}"
        html += " ≈" if cell and cell.noise else ""
        if cell and cell.low is not None and cell.high is not None:
            low, high = value_text(cell.low, measure), value_text(cell.high, measure)
            html += f" <small>{low}\N{EN DASH}{high}</small>"
        html += f"{_paper(line, condition, metric)}</td>"
    return html


def _shade(cell: Cell | None, ends: tuple[float, float]) -> str:
    low, high = ends
    if cell is None or not math.isfinite(cell.value) or high <= low:
        return ""
    return f' style="--v:{100 * min(max((cell.value - low) / (high - low), 0), 1):.0f}%"'


def _paper(line: Line, condition: str, metric: str) -> str:
    # timm's tag names the weights, of which papers say nothing.
    network = line.model.partition(".")[0]
    key = (network, line.trained_on, line.dataset, line.scale, condition, metric)
    found = _published().get(key)
    if found is None:
        return ""
    table, value = found
    text = value_text(value, measure_of(metric))
    return f'<br><small title="{escape(EXPERIMENTS[table])}">paper {text}</small>'


@functools.cache
def _published() -> dict[tuple[str, ...], tuple[str, float]]:
    """Table and value of the papers' cells that are plain tests of a network."""
    return {
        (c.model, c.trained_on, c.dataset, c.scale, c.condition, c.metric): (c.table, c.value)
        for cells in reversed(tables().values())  # where two tables agree, the first is named
        for c in cells
        if not c.note
    }

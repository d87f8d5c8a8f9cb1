"""Records of test runs to one self-contained HTML page.

The tables have the form of Table 3 of Vasiljevic, Chakrabarti and Shakhnarovich 2016
(arXiv:1611.05760). The same records give the same bytes.
"""

import base64
import json
import math
from collections.abc import Iterable
from html import escape
from pathlib import Path
from string import Template
from typing import Any, NamedTuple

from blur_lightning.comparison import noise_marks
from blur_lightning.curves import (
    Cell,
    Cells,
    Line,
    Measure,
    Section,
    curves_html,
    figure_svg,
    measure_of,
    metrics_of,
    sections_of,
    styles_of,
    title,
    value_text,
)
from blur_lightning.errors import InputError
from blur_lightning.findings import (
    TRIAL,
    diaries_html,
    failures,
    paper_html,
    paper_text,
    summaries_html,
)
from blur_lightning.robustness import (
    PROVENANCE,
    RECORDS,
    Record,
    read_records,
    record_files,
    replacing,
)

PICTURES = {".jpg": "image/jpeg", ".png": "image/png"}


class Run(NamedTuple):
    """What was read from a run's folder."""

    folder: Path
    records: list[Record]
    provenance: dict[str, Any]


def report(
    runs: list[Path], *, out: Path, figure: Path | None = None, paper: list[str] | None = None
) -> None:
    """Write one HTML page with the curves, tables and pictures of finished tests.

    The page needs no other file and no network. Runs of one network on the same data are shown as
    their mean.

    Args:
        runs: Folders of test runs, searched for robustness.csv at any depth, or such files.
        out: The page to write; ends in .html.
        figure: Also write the top-1 curves as a picture of their own; ends in .svg.
        paper: Tables of papers to show beside what was measured, e.g. [vasiljevic2016_table3];
            a cell that no run measured says why.
    """
    for path, suffix in ((out, ".html"), (figure, ".svg")):
        if path is not None and path.suffix != suffix:  # a slip must not replace a run's records
            raise InputError(f"{path}: {suffix[1:].upper()} is written here; end it in {suffix}")
    reasons = failures(runs) if paper else {}
    loaded = _load([path for path in runs if not (reasons and _only_failed(path))])
    if not loaded and not reasons:
        raise InputError("nothing to report; name the folder of a test run")
    records = [record for run in loaded for record in run.records]
    sections = sections_of(records)
    papers = ""
    for table in paper or ():
        print(paper_text(table, records, reasons))
        papers += paper_html(table, records, reasons)
    written = {out: _page(loaded, sections, papers)}
    if figure is not None:
        written[figure] = figure_svg(sections, figure)
    for path, text in written.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _only_failed(path: Path) -> bool:
    """Whether a folder holds trials of a sweep and no record."""
    return path.is_dir() and not any(path.rglob(RECORDS)) and any(path.rglob(TRIAL))


def _load(paths: Iterable[Path]) -> list[Run]:
    # By resolved path: a folder named beside its parent is one run, not two.
    files = {file.resolve(): file for path in paths for file in record_files(path)}
    return [Run(f.parent, read_records(f), _provenance(f.parent)) for f in files.values()]


def _provenance(folder: Path) -> dict[str, Any]:
    file = folder / PROVENANCE
    try:
        content = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{file}: cannot be read as JSON ({error}); mend or remove it") from error
    if not isinstance(content, dict):
        raise InputError(f"{file}: not a JSON object; mend or remove it")
    return content


def _sentence(line: Line, cells: Cells, label: str) -> str:
    """One network in a sentence: how good it is on sharp images, and where it is worst."""
    metrics = [metric for _, metric in cells]
    metric = "top1" if "top1" in metrics else metrics[0]
    measure = measure_of(metric)
    found = {condition: cell for (condition, m), cell in cells.items() if m == metric}
    first = "sharp" if "sharp" in found else next(iter(found))
    worst = (max if measure.best is min else min)(found, key=lambda name: found[name].value)

    def value(name: str) -> str:
        return f"{value_text(found[name].value, measure)}\N{NO-BREAK SPACE}{measure.unit}".strip()

    change = "rises" if found[worst].value > found[first].value else "falls"
    end = f"{change} to {value(worst)} at {worst}" if worst != first else "no worse elsewhere"
    runs = f", mean of {found[first].runs} runs" if found[first].runs > 1 else ""
    text = f"on {line.dataset}, n = {found[first].n}{runs}: {measure.title} {value(first)} {first}"
    return f"<p><b>{escape(label)}</b> {escape(f'{text}, {end}')}.</p>"


def _tables(section: Section, metric: str) -> str:
    tables = ""
    for model, scale in dict.fromkeys((line.model, line.scale) for line in section.lines):
        columns = {
            line.trained_on: [cells.get((name, metric)) for name in section.conditions]
            for line, cells in section.lines.items()
            if (line.model, line.scale) == (model, scale)
        }
        measured = [cell for column in columns.values() for cell in column if cell]
        if measured:
            sizes = " / ".join(dict.fromkeys(cell.n for cell in measured))
            caption = f"{model} on {section.dataset}, network scale {scale} px, n = {sizes}"
            tables += _table(caption, columns, section.conditions, measure_of(metric))
    return tables


def _table(
    caption: str, columns: dict[str, list[Cell | None]], names: Iterable[str], measure: Measure
) -> str:
    heads = ""
    for trained_on, cells in columns.items():
        runs = max(cell.runs if cell else 0 for cell in cells)
        note = f"<br><small>mean of {runs} runs</small>" if runs > 1 else ""
        heads += f'<th scope="col">{escape(trained_on)}{note}</th>'
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th>{_row(row, measure)}</tr>'
        for name, row in zip(names, zip(*columns.values(), strict=True), strict=True)
        if any(row)
    )
    return (
        f'<h3>{escape(caption)}</h3><div class="wide"><table><thead>'
        f'<tr><th rowspan="2">test blur</th><th colspan="{len(columns)}">trained on</th></tr>'
        f"<tr>{heads}</tr></thead><tbody>{rows}</tbody></table></div>"
    )


def _row(row: tuple[Cell | None, ...], measure: Measure) -> str:
    texts = [value_text(cell.value, measure) if cell else "-" for cell in row]
    values = [cell.value for cell in row if cell and math.isfinite(cell.value)]
    # Compared as shown: what looks alike is equally good.
    best = (
        value_text(measure.best(values), measure)
        if measure.best and len(row) > 1 and values
        else ""
    )
    html = ""
    for cell, text in zip(row, texts, strict=True):
        interval = ""
        if cell and cell.low is not None and cell.high is not None:
            ends = f"{value_text(cell.low, measure)}\N{EN DASH}{value_text(cell.high, measure)}"
            interval = f" <small>{ends}</small>"
        mark = " ≈" if cell and cell.noise else ""
        html += f"<td>{f'<b>{text}</b>' if text == best else text}{mark}{interval}</td>"
    return html


def _switch(sections: list[Section]) -> str:
    """The tables of all metrics, of which the radio buttons show one; it takes no script."""
    buttons = blocks = rules = ""
    for i, metric in enumerate(metrics_of(sections)):
        measure = measure_of(metric)
        buttons += f'<input type="radio" name="metric" id="m{i}"{"" if i else " checked"}>'
        buttons += f'<label for="m{i}">{escape(title(measure))}</label>'
        tables = "".join(_tables(section, metric) for section in sections)
        blocks += f'<div class="metric m{i}">{tables}</div>'
        rules += f"#m{i}:checked~.m{i}{{display:block}}"
    return f'<style>{rules}</style><div class="switch">{buttons}{blocks}</div>'


def _examples(runs: list[Run], section: Section) -> str:
    """The strips of the first run on the data set that has any."""
    for run in runs:
        files = sorted((run.folder / "examples").glob("*"))
        pictures = {file.stem: file for file in files if file.suffix in PICTURES}
        shown = [name for name in section.conditions if name in pictures]
        if shown and any(record.dataset == section.dataset for record in run.records):
            strips = "".join(_strip(name, pictures[name]) for name in shown)
            return f"<h3>{escape(section.dataset)}</h3>{strips}"
    return ""


def _strip(condition: str, file: Path) -> str:
    source = f"data:{PICTURES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
    name = escape(condition)
    image = f'<img alt="the first test images under {name}" src="{source}">'
    return f'<figure class="strip"><figcaption>{name}</figcaption>{image}</figure>'


def _origin(run: Run) -> str:
    """Where a run's numbers are from: whatever its provenance says, the configuration folded."""
    names = " / ".join(dict.fromkeys(record.run for record in run.records))
    sizes = " / ".join(dict.fromkeys(f"{record.n:,}" for record in run.records))
    facts = {"n": sizes} | {key: v for key, v in run.provenance.items() if key != "config"}
    html = f"<h3>{escape(names)}</h3>{_facts(facts)}"
    if run.provenance.get("config"):
        config = escape(json.dumps(run.provenance["config"], indent=2, ensure_ascii=False))
        html += f"<details><summary>configuration</summary><pre>{config}</pre></details>"
    return html


def _facts(value: Any) -> str:
    if isinstance(value, dict) and value:
        rows = (f"<dt>{escape(str(key))}</dt><dd>{_facts(v)}</dd>" for key, v in value.items())
        return f"<dl>{''.join(rows)}</dl>"
    if isinstance(value, list) and value:
        count = f"{len(value)}: " if isinstance(value[0], str) else ""  # files, not numbers
        return escape(count + ", ".join(map(str, value)))
    if value is None:
        return "unknown"
    return "none" if value in ([], {}) else escape(str(value))


def _page(runs: list[Run], sections: list[Section], papers: str) -> str:
    styles = styles_of(sections)
    marks = noise_marks([run.folder for run in runs]) if len(runs) > 1 else {}
    sections = [section.marked(marks) for section in sections]
    records = [record for run in runs for record in run.records]
    every = [item for section in sections for item in section.lines.items()]
    page = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    return Template(page).substitute(
        summary="".join(_sentence(line, cells, styles[line].label) for line, cells in every),
        curves="".join(curves_html(section, styles) for section in sections) or NONE,
        tables=_switch(sections),
        summaries=summaries_html(records) or NONE,
        papers=f"<h2>Beside the papers</h2>{papers}" if papers else "",
        diaries=diaries_html(run.folder for run in runs) or NONE,
        examples="".join(_examples(runs, section) for section in sections) or NONE,
        origins="".join(_origin(run) for run in runs),
    )


NONE = "<p>none</p>"

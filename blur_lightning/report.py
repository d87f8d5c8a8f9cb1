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
from blur_lightning.robustness import PROVENANCE, Record, read_records, record_files, replacing

PICTURES = {".jpg": "image/jpeg", ".png": "image/png"}


class Run(NamedTuple):
    """What was read from a run's folder."""

    folder: Path
    records: list[Record]
    provenance: dict[str, Any]


def report(runs: list[Path], *, out: Path, figure: Path | None = None) -> None:
    """Write one HTML page with the curves, tables and pictures of finished tests.

    The page needs no other file and no network. Runs of one network on the same data are shown as
    their mean.

    Args:
        runs: Folders of test runs, searched for robustness.csv at any depth, or such files.
        out: The page to write; ends in .html.
        figure: Also write the top-1 curves as a picture of their own; ends in .svg.
    """
    for path, suffix in ((out, ".html"), (figure, ".svg")):
        if path is not None and path.suffix != suffix:  # a slip must not replace a run's records
            raise InputError(f"{path}: {suffix[1:].upper()} is written here; end it in {suffix}")
    loaded = _load(runs)
    sections = sections_of(record for run in loaded for record in run.records)
    written = {out: _page(loaded, sections)}
    if figure is not None:
        written[figure] = figure_svg(sections, figure)
    for path, text in written.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _load(paths: Iterable[Path]) -> list[Run]:
    # By resolved path: a folder named beside its parent is one run, not two.
    files = {file.resolve(): file for path in paths for file in record_files(path)}
    if not files:
        raise InputError("nothing to report; name the folder of a test run")
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
        html += f"<td>{f'<b>{text}</b>' if text == best else text}{interval}</td>"
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


def _page(runs: list[Run], sections: list[Section]) -> str:
    styles = styles_of(sections)
    every = [item for section in sections for item in section.lines.items()]
    return PAGE.substitute(
        summary="".join(_sentence(line, cells, styles[line].label) for line, cells in every),
        curves="".join(curves_html(section, styles) for section in sections) or NONE,
        tables=_switch(sections),
        examples="".join(_examples(runs, section) for section in sections) or NONE,
        origins="".join(_origin(run) for run in runs),
    )


NONE = "<p>none</p>"
PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Recognition under blur</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root{color-scheme:light dark;--ink:#1f2328;--paper:#fff;--rule:#d8dee4;--soft:#59636e}
@media(prefers-color-scheme:dark){
:root{--ink:#e6edf3;--paper:#0d1117;--rule:#30363d;--soft:#9198a1}}
body{margin:2rem auto;max-width:70rem;padding:0 1rem;color:var(--ink);background:var(--paper);
font:1rem/1.5 system-ui,sans-serif}
h1,h2,h3{line-height:1.2}h2{margin-top:2.5rem;border-bottom:1px solid var(--rule)}
small,figcaption,.note,dl,pre{color:var(--soft);font-size:.8rem}
figure{margin:0}figure svg{width:100%;height:auto}
.panels{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,16rem),1fr));gap:1rem}
.keys{list-style:none;padding:0;display:flex;flex-wrap:wrap;gap:.2rem 1.5rem}
.metric{display:none}.switch label{margin:0 1rem 0 .3rem}.wide,pre{overflow-x:auto}
table{border-collapse:collapse}h3{font-size:1rem;margin:1.5rem 0 .3rem}
th,td{padding:.3rem .8rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
tr>[rowspan],[scope=row]{text-align:left;padding-left:0}[colspan]{text-align:center}
td{font-variant-numeric:tabular-nums}td small{display:inline-block;min-width:6em}
.strip{margin:.5rem 0}.strip img{max-width:100%;display:block}
dl{display:grid;grid-template-columns:max-content 1fr;gap:0 1rem;margin:0}dl dl{font-size:1em}
dd{margin:0;overflow-wrap:anywhere}
</style></head><body><main>
<h1>Recognition under blur</h1>
$summary
<h2>Curves</h2>
<p class="note">Lengths are pixels at the canonical scale; 0 is sharp. Bands: 95 % intervals.</p>
$curves
<h2>Tables</h2>
<p class="note">In small type the 95 % interval: Wilson's for shares of the images, a bootstrap for
means. Where a column is the mean of several runs, the interval spans from the lowest to the
highest end of theirs, as does the band of a curve. Bold: the best of a row.</p>
$tables
<h2>Pictures</h2>
<p class="note">The first test images as the network sees them.</p>
$examples
<h2>Runs</h2>
$origins
</main></body></html>
""")

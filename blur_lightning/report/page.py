"""Records of test runs to one self-contained HTML page.

The same records give the same bytes.
"""

import base64
import json
import sys
from collections.abc import Iterable, Mapping
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from blur_lightning.errors import InputError
from blur_lightning.records.curves import (
    MEASURES,
    Cell,
    Cells,
    Line,
    Section,
    main_metric,
    measure_of,
    metrics_of,
    sections_of,
    styles_of,
    training_text,
    value_text,
)
from blur_lightning.records.outcomes import OUTCOME
from blur_lightning.records.pairs import noise_marks, paired_runs
from blur_lightning.records.repeats import Run, named_apart, read_runs, settings_of
from blur_lightning.records.robustness import RECORDS, record_files, replacing
from blur_lightning.report.explorer import library, page_data, scripts_html
from blur_lightning.report.figures import DRAWN, curves_html, figure_svg, write_figures
from blur_lightning.report.findings import (
    diaries_html,
    failures,
    paper_texts,
    summaries_html,
    unfinished,
)
from blur_lightning.report.matrix import tables_html
from blur_lightning.report.photographs import only_predicted, photographs_html, prediction_files
from blur_lightning.report.segmentations import legend_html, segmentations_html
from blur_lightning.report.serving import serve as serve_page
from blur_lightning.report.wandb_report import read_place, save_report

PICTURES = {".jpg": "image/jpeg", ".png": "image/png"}


def report(
    runs: list[Path],
    *,
    out: Path | None = None,
    figure: Path | None = None,
    figures: Path | None = None,
    paper: list[str] | str | None = None,
    serve: bool = False,
    port: int = 0,
    wandb: str | None = None,
) -> None:
    """Write one HTML page with the curves, tables and pictures of finished tests.

    The page needs no other file and no network. Runs of one network on the same data are shown as
    their mean. With --wandb, the curves of runs that are on W&B also become a report there.

    Args:
        runs: Folders of test runs, searched for robustness.csv at any depth, or such files.
        out: The page to write; ends in .html. --figure, --figures, --paper, --serve and --wandb do
            without one.
        figure: Also write the top-1 curves as a picture of their own; ends in .svg.
        figures: Folder for every curve as PNG and PDF, as wide as a journal's column.
        paper: A table of a paper, or a list of them, to show beside what was measured, e.g.
            vasiljevic2016_table3; a cell that no run measured says why.
        serve: Show the page on 127.0.0.1 until Ctrl-C, and renew it when runs have new records.
        port: Port of --serve; 0 takes a free one.
        wandb: ENTITY/PROJECT of the runs on Weights & Biases, which gets a report with their
            curves, one line for each training mix, their conditions and pictures. Needs a key
            (wandb login) and pip install 'blur_lightning[wandb-reports]'; prints the address.
    """
    place = read_place(wandb) if wandb is not None else None
    if not (out or figure or figures or paper or serve or place):
        raise InputError("--out: none; name the page to write, e.g. --out page.html")
    for path, suffix in ((out, ".html"), (figure, ".svg")):
        if path is not None and path.suffix != suffix:  # a slip must not replace a run's records
            raise InputError(f"{path}: {suffix[1:].upper()} is written here; end it in {suffix}")

    tables = [paper] if isinstance(paper, str) else paper or []
    if place is not None:
        print(save_report({run.folder: run.records for run in _load(runs, tables)}, place))
    said: list[str] = []

    def write() -> str:
        page, remarks = _write(runs, out, figure, figures, tables, serve=serve)
        for remark in remarks:
            if remark not in said:  # of a page that is served, once
                print(remark, file=sys.stderr)
        said.extend(remarks)
        return page

    if serve:
        serve_page(runs, write, port=port)
    elif out or figure or figures or tables:
        write()


def _write(
    paths: list[Path],
    out: Path | None,
    figure: Path | None,
    figures: Path | None,
    tables: list[str],
    *,
    serve: bool,
) -> tuple[str, list[str]]:
    """Write the page and the figures that were asked for; the page, and what it leaves out."""
    loaded = named_apart(_load(paths, tables))
    if not loaded and not tables and not prediction_files(paths):
        raise InputError("nothing to report; name the folder of a test run")
    records = [record for run in loaded for record in run.records]
    settings = settings_of(loaded)
    sections = sections_of(records, settings)
    papers, page = "", ""
    for table in tables:
        text, html = paper_texts(table, records, failures(paths, table), settings)
        print(text)
        papers += html
    remarks = [*unfinished(paths), *_unknown(sections)]
    written: dict[Path, str] = {}
    if out is not None or serve:
        page = _page(loaded, settings, sections, papers, remarks, photographs_html(paths))
    if out is not None:
        written[out] = page
    if figure is not None:
        written[figure] = figure_svg(sections, figure)
    if figures is not None:
        write_figures(sections, figures)
    for path, text in written.items():
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return page, remarks


def _unknown(sections: list[Section]) -> list[str]:
    """A line for the metrics that have neither a unit nor a title here."""
    unknown = [metric for metric in metrics_of(sections) if metric not in MEASURES]
    return [f"unknown metrics are shown as plain numbers: {', '.join(unknown)}"] if unknown else []


def _only_failed(path: Path) -> bool:
    """Whether a folder holds trials of a sweep and no record."""
    return path.is_dir() and not any(path.rglob(RECORDS)) and any(path.rglob(OUTCOME))


def _load(paths: Iterable[Path], tables: list[str]) -> list[Run]:
    # A table of a paper says of trials that failed that they did.
    measured = [p for p in paths if not (tables and _only_failed(p)) and not only_predicted(p)]
    # By resolved path: a folder named beside its parent is one run, not two.
    files = {file.resolve(): file for path in measured for file in record_files(path)}
    return read_runs(files.values())


def _overlap(one: Cell, other: Cell) -> bool:
    """Whether two intervals have values in common; unknown ones have not."""
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    return one.low <= other.high and other.low <= one.high


def _sentence(line: Line, cells: Cells, label: str) -> str:
    """One network in a sentence: how good it is on sharp images, and where it is worst."""
    metrics = [metric for _, metric in cells]
    metric = main_metric(metrics)
    measure = measure_of(metric)
    found = {condition: cell for (condition, m), cell in cells.items() if m == metric}
    first = "sharp" if "sharp" in found else next(iter(found))
    worst = (max if measure.best is min else min)(found, key=lambda name: found[name].value)

    def value(name: str) -> str:
        return f"{value_text(found[name].value, measure)}\N{NO-BREAK SPACE}{measure.unit}".strip()

    change = "rises" if found[worst].value > found[first].value else "falls"
    end = f"{change} to {value(worst)} at {worst}" if worst != first else "no worse elsewhere"
    if worst != first and _overlap(found[first], found[worst]):
        end = f"{value(worst)} at {worst}, the worst, which the intervals do not tell apart"
    runs = f", mean of {found[first].runs} runs" if found[first].runs > 1 else ""
    text = f"on {line.dataset}, n = {found[first].n}{runs}: {measure.title} {value(first)} {first}"
    return f"<p><b>{escape(label)}</b> {escape(f'{text}, {end}')}.</p>"


def _summary(sentences: list[str]) -> str:
    """The sentences, folded where they would fill the first screen."""
    html = "".join(sentences)
    if len(sentences) <= DRAWN:
        return html
    return f"<details><summary>{len(sentences)} networks, a sentence each</summary>{html}</details>"


def _examples(runs: list[Run], section: Section) -> str:
    """The strips of the first run on the data set that has any."""
    for run in runs:
        files = sorted((run.folder / "examples").glob("*"))
        pictures = {file.stem: file for file in files if file.suffix in PICTURES}
        shown = [name for name in section.conditions if name in pictures]
        if shown and any(record.dataset == section.dataset for record in run.records):
            strips = "".join(_strip(name, pictures[name]) for name in shown)
            legend = legend_html(run.folder, run.records, width=_boundary_width(run))
            return f'<h3>{escape(section.dataset)}</h3>{legend}<div class="strips">{strips}</div>'
    return ""


def _boundary_width(run: Run) -> object:
    try:
        return run.provenance["config"]["model"]["init_args"]["boundary_width"]
    except (KeyError, TypeError):  # a run of another program, or of another version
        return "some"


def _strip(condition: str, file: Path) -> str:
    source = f"data:{PICTURES[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"
    name = escape(condition)
    image = f'<img alt="the first test images under {name}" src="{source}">'
    return f'<figure class="strip"><figcaption>{name}</figcaption>{image}</figure>'


def _origin(place: int, run: Run) -> str:
    """Where a run's numbers are from: whatever its provenance says, the configuration folded."""
    names = " / ".join(dict.fromkeys(record.run for record in run.records))
    sizes = " / ".join(dict.fromkeys(f"{record.n:,}" for record in run.records))
    facts = {"n": sizes} | {key: v for key, v in run.provenance.items() if key != "config"}
    html = f'<h3 id="run-{place}">{escape(names)}</h3>{_facts(facts)}'
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


def _page(
    runs: list[Run],
    settings: Mapping[str, str],
    sections: list[Section],
    papers: str,
    remarks: list[str],
    photographs: str,
) -> str:
    styles = styles_of(sections)
    pairs = paired_runs([run.folder for run in runs]) if len(runs) > 1 else []
    marks = noise_marks(pairs, [run.name for run in runs])
    sections = [section.marked(marks) for section in sections]
    records = [record for run in runs for record in run.records]
    every = [item for section in sections for item in section.lines.items()]
    trained = [training_text(run.records[0].trained_on, settings.get(run.name, "")) for run in runs]
    names = [(run.name, text) for run, text in zip(runs, trained, strict=True)]
    places = {name: i for i, (name, _) in reversed([*enumerate(names)])}
    folders = {
        f"{name} ({text})": run.folder for run, (name, text) in zip(runs, names, strict=True)
    }
    shown = {run.folder: run.records for run in runs}
    scripts, policy = scripts_html(page_data(sections, styles, names, pairs))
    template = Path(__file__).with_name("page.html").read_text(encoding="utf-8")
    parts = {
        "policy": policy,
        "summary": _summary([_sentence(line, c, styles[line].label) for line, c in every]),
        "curves": "".join(curves_html(section, styles) for section in sections) or NONE,
        "tables": tables_html(sections, places),
        "photographs": photographs,
        "segmentations": segmentations_html(shown, styles, settings),
        "summaries": summaries_html(records, settings) or NONE,
        "papers": f"<h2>Beside the papers</h2>{papers}" if papers else "",
        "diaries": diaries_html(folders) or NONE,
        "examples": "".join(_examples(runs, section) for section in sections) or NONE,
        "remarks": "".join(f'<p class="note">{escape(remark)}.</p>' for remark in remarks),
        "origins": "".join(_origin(i, run) for i, run in enumerate(runs)),
        "scripts": scripts,
    }
    size = sum(len(text.encode()) for text in (template, *parts.values()))
    sizes = {"size": f"{size / 1e6:.2f}", "library": f"{len(library().encode()) / 1e6:.2f}"}
    return Template(template).substitute(parts | sizes)


NONE = "<p>none</p>"

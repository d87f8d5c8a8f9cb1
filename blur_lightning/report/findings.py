"""What a report says beyond curves and tables of the records: the papers, summaries, the diary."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from blur_lightning.errors import InputError
from blur_lightning.records.curves import measure_of, training_text
from blur_lightning.records.measures import (
    ALEXNET_ERRORS,
    BLURS_OF_IMAGENET_C,
    Curve,
    corruption_error,
    curve_records,
    mean_corruption_error,
)
from blur_lightning.records.outcomes import LOG, OUTCOME, listed
from blur_lightning.records.published import (
    compare_with_paper,
    experiment_text,
    table_html,
    table_text,
)
from blur_lightning.records.robustness import Record
from blur_lightning.records.rounding import rounded
from blur_lightning.report.diary_chart import diary_svg
from blur_lightning.report.figures import inline_svg

DIARY = "diary.csv"
_FACTS = ("status", "error", "command", "parameters")  # of a trial
_NETWORK = ("data", "network", "trained on", "scale")


def failures(paths: Iterable[Path], table: str) -> dict[str, str]:
    """Errors of failed trials of a paper's sweeps, by the blur to train on; "" is any."""
    paper = f"experiments/{table.split('_')[0]}"  # of vasiljevic2016_table3: tables share runs
    reasons: dict[str, str] = {}
    for trial in _trials(paths).values():
        if trial["status"] == "failed" and any(paper in w for w in trial["command"]):
            reasons.setdefault(str(trial["parameters"].get("data.blur", "")), trial["error"])
    return reasons


def _trials(paths: Iterable[Path]) -> dict[Path, dict[str, Any]]:
    """What the trials of sweeps say below some folders, by their folders."""
    trials: dict[Path, dict[str, Any]] = {}
    for file in (file for path in paths if path.is_dir() for file in sorted(path.rglob(OUTCOME))):
        try:
            trial = json.loads(file.read_text(encoding="utf-8"))
            trials[file.parent] = {key: trial[key] for key in _FACTS}
        except (ValueError, LookupError, OSError, TypeError) as error:
            raise InputError(f"{file}: no record of a trial ({error}); remove it") from error
    return trials


def unfinished(paths: Iterable[Path]) -> list[str]:
    """A line for the trials below some folders that were pruned, for each error, and for others."""
    folders: dict[str, list[Path]] = {}
    trials = _trials(paths)
    for folder, trial in trials.items():
        if trial["status"] == "failed":
            folders.setdefault(f"failed: {trial['error']}", []).append(folder / LOG)
        elif trial["status"] != "finished":
            word = "pruned" if trial["status"] == "pruned" else "not finished"
            folders.setdefault(word, []).append(folder)
    return [
        f"{len(found)} of {len(trials)} trials {word} ({listed([*map(str, found)])})"
        for word, found in folders.items()
    ]


def paper_texts(
    table: str,
    records: Sequence[Record],
    reasons: dict[str, str],
    settings: Mapping[str, str] | None = None,
) -> tuple[str, str]:
    """A table of a paper beside what was measured: for the terminal, and for the page."""
    rows, title = compare_with_paper(table, records, reasons, settings), experiment_text(table)
    text = f"{table}: {title}\n\n{table_text(rows)}\n"
    return text, f"<h3>{escape(title)}</h3>{table_html(rows)}"


def summaries_html(records: Sequence[Record], settings: Mapping[str, str] | None = None) -> str:
    """Curves in two numbers each, and ImageNet-C's errors where all severities were tested."""
    return _curves(records, settings or {}) + _corruptions(records, settings or {})


def _curves(records: Sequence[Record], settings: Mapping[str, str]) -> str:
    """Area and half of curves, the means of the runs that repeat a curve."""
    repeats: dict[tuple[str, ...], list[Curve]] = {}
    for c in curve_records(records):
        if c.metric != "top5":
            span, name = f"{c.from_:g} to {c.to:g}", measure_of(c.metric).title
            trained = training_text(c.trained_on, settings.get(c.run, ""))
            key = (c.dataset, c.model, trained, c.scale, name, c.family, span)
            repeats.setdefault(key, []).append(c)
    rows = []
    for names, curves in repeats.items():
        halves = [curve.half for curve in curves if curve.half is not None]
        half = rounded(fmean(halves), 2) if len(halves) == len(curves) else "beyond"
        area = fmean(curve.area for curve in curves)
        rows.append((*names, str(len(curves)), rounded(100 * area, 1), half))
    heads = [*_NETWORK, "metric", "blur", "range", "runs", "area (%)", "half at"]
    return _table("Accuracy over a family of blurs", heads, rows, names=7)


def _corruptions(records: Sequence[Record], settings: Mapping[str, str]) -> str:
    runs: dict[tuple[str, ...], list[Record]] = {}
    for record in records:
        trained = training_text(record.trained_on, settings.get(record.run, ""))
        key = (record.dataset, record.model, trained, record.scale, record.run)
        runs.setdefault(key, []).append(record)
    rows: list[tuple[str, ...]] = []
    for run, own in runs.items():
        for legacy in (False, True):
            for denominator in ALEXNET_ERRORS:
                figures = [
                    _error(own, family, denominator=denominator, legacy=legacy)
                    for family in BLURS_OF_IMAGENET_C
                ]
                if any(not math.isnan(figure) for figure in figures):
                    mean = mean_corruption_error(own, denominator=denominator, legacy=legacy)
                    variant = "as the reference" if legacy else "mended"
                    texts = ("" if math.isnan(f) else rounded(100 * f, 1) for f in (*figures, mean))
                    rows.append((*run, variant, denominator, *texts))
    families = [name.removesuffix("_blur") for name in BLURS_OF_IMAGENET_C]
    title = "Corruption errors of ImageNet-C's blurs (%, AlexNet is 100)"
    return _table(
        title, [*_NETWORK, "run", "blurs", "AlexNet by", *families, "mean"], rows, names=7
    )


def _error(records: Sequence[Record], family: str, *, denominator: str, legacy: bool) -> float:
    """NaN where a severity was not tested."""
    try:
        return corruption_error(records, family, denominator=denominator, legacy=legacy)
    except InputError:
        return math.nan


def diaries_html(folders: Mapping[str, Path]) -> str:
    """What each training saw, by level of blur; the folders of the runs by their names."""
    files = {name: folder / DIARY for name, folder in folders.items()}
    return "".join(
        f'<h3>{escape(name)}</h3><figure class="own">{inline_svg(diary_svg(file))}</figure>'
        for name, file in files.items()
        if file.is_file()
    )


def _table(title: str, heads: Sequence[str], rows: Sequence[Sequence[str]], *, names: int) -> str:
    if not rows:
        return ""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = ""
    for row in rows:
        cells = "".join(f'<th scope="row">{escape(text)}</th>' for text in row[:names])
        body += f"<tr>{cells}{''.join(f'<td>{escape(text)}</td>' for text in row[names:])}</tr>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'<h3>{escape(title)}</h3><div class="wide">{table}</div>'

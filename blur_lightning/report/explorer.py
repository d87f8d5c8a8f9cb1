"""The interactive part of a report: its data, its script and the plotting library, in the page.

Curves are drawn by Vega-Lite: inline it takes 0.9 MB, plotly 4.7 MB. It runs without `eval`, so
that the page can forbid all scripts but its own, and all requests.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from blur_lightning.errors import InputError
from blur_lightning.records.curves import (
    Line,
    Section,
    Style,
    measure_of,
    metrics_of,
    panels_of,
    title,
)
from blur_lightning.records.pairs import Pair
from blur_lightning.records.robustness import replacing

CACHE = Path.home() / ".cache" / "blur_lightning"
# Vega's names of the marks of curves.MARKS.
SHAPES = {"o": "circle", "s": "square", "^": "triangle-up", "D": "diamond", "v": "triangle-down"}


def scripts_html(data: Mapping[str, Any]) -> tuple[str, str]:
    """The data, the plotting library and the page's script as elements.

    Returns:
        The elements, and the policy that allows these scripts alone and no request but to the
        server of the page.
    """
    scripts = [library(), Path(__file__).with_name("page.js").read_text(encoding="utf-8")]
    digests = (hashlib.sha256(script.encode()).digest() for script in scripts)
    sources = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    policy = (
        f"default-src 'none'; script-src {sources}; style-src 'unsafe-inline'; "
        "img-src data: blob:; connect-src 'self'"
    )
    elements = f'<script type="application/json" id="data">{script_json(data)}</script>'
    return elements + "".join(
        f'<script type="module">{script}</script>' for script in scripts
    ), policy


def library() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script.

    Making it takes 2 s, so that it is kept in the user's cache where that can be written.
    """
    file = CACHE / f"vega-{version('vl-convert-python')}.js"
    with suppress(OSError, UnicodeDecodeError):
        return file.read_text(encoding="utf-8")
    import vl_convert

    # Its stub forgets that the snippet has a default.
    script: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]
    with suppress(InputError), replacing(file) as temporary:
        temporary.write_text(script, encoding="utf-8")
    return script


def script_json(data: Mapping[str, Any]) -> str:
    """JSON that no text in it can end early: `<` is escaped, as in </script> and <!--."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c")


def page_data(
    sections: Sequence[Section],
    styles: Mapping[Line, Style],
    runs: Sequence[tuple[str, str]],
    pairs: Sequence[Pair],
) -> dict[str, Any]:
    """What the page's script shows.

    Args:
        sections: What was measured.
        styles: The look of each network.
        runs: Name and mix of each run, in the order of the page.
        pairs: Comparisons of these runs, by their places.
    """
    metrics = metrics_of(sections)
    places = {name: i for i, (name, _) in reversed([*enumerate(runs)])}
    measures = []
    for metric in metrics:
        m = measure_of(metric)
        of = {"metric": metric, "title": title(m), "factor": m.factor, "digits": m.digits}
        measures.append({**of, "unit": m.unit, "top": m.top})
    return {
        "measures": measures,
        "runs": [{"name": name, "trained_on": trained_on} for name, trained_on in runs],
        "sections": [_section(section, styles, metrics, places) for section in sections],
        "pairs": [
            {
                "run": pair.run,
                "other": pair.other,
                "rows": [
                    [
                        *(d.metric, d.condition, d.n, d.run_value, d.other_value, d.difference),
                        *(d.low, d.high, d.p, d.p_holm, d.within_noise),
                    ]
                    for d in pair.differences
                ],
            }
            for pair in pairs
        ],
    }


def _section(
    section: Section, styles: Mapping[Line, Style], metrics: list[str], places: Mapping[str, int]
) -> dict[str, Any]:
    conditions = [*section.conditions]
    lines = []
    for line, cells in section.lines.items():
        style = styles[line]
        names = dict.fromkeys(name for cell in cells.values() for name in cell.names)
        rows = [
            [
                *(conditions.index(condition), metrics.index(metric)),
                *map(_number, (cell.value, cell.low, cell.high)),
                cell.n,
            ]
            for (condition, metric), cell in cells.items()
        ]
        look = {"colour": style.colour, "shape": SHAPES[style.mark], "glyph": style.glyph}
        facts = {"model": line.model, "scale": line.scale, "trained_on": line.trained_on}
        own = {"label": style.label, "runs": [places[name] for name in names], "cells": rows}
        lines.append({**own, **look, **facts})
    return {
        "dataset": section.dataset,
        "conditions": [
            {"name": name, "family": record.family, "parameter": record.parameter}
            for name, record in section.conditions.items()
        ],
        "axes": [
            {
                "title": panel.axis,
                "points": [[x, conditions.index(name)] for x, name in panel.points.items()],
            }
            for panel in panels_of(section, "")
        ],
        "lines": lines,
    }


def _number(value: float | None) -> float | str | None:
    """JSON has no NaN and no infinities: they become text."""
    return value if value is None or math.isfinite(value) else str(value)

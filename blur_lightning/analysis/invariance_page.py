"""The results of an analysis of invariance as tables, curves over layers, heat maps, and a page.

The same rows give the same bytes.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any, NamedTuple

import numpy as np

from blur_lightning.records.curves import COLOURS, MARKS, RC
from blur_lightning.report.figures import inline_svg

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy"
 content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<title>Invariance to blur, layer by layer</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<style>
:root{color-scheme:light dark;--rule:#d8dee4}
@media(prefers-color-scheme:dark){:root{--rule:#30363d}}
body{margin:2rem auto;max-width:70rem;padding:0 1rem;font:1rem/1.5 system-ui,sans-serif}
figure{margin:0;overflow-x:auto}img{max-width:none;background:#fff}
table{border-collapse:collapse}
th,td{padding:.2rem .8rem;text-align:right;border-bottom:1px solid var(--rule);white-space:nowrap}
td{font-variant-numeric:tabular-nums}[scope=row]{text-align:left;padding-left:0}
small{opacity:.7}.wide{overflow-x:auto}
</style></head><body><main>
<h1>Invariance to blur, layer by layer</h1>
<p>$facts</p>
<p>Distance: the share of channels of which a sharp and a blurred image make one alone positive,
averaged over places and images, with its 95&nbsp;% interval over images (Vasiljevic et al. 2016,
Figure&nbsp;4). After a ReLU that is on or off, elsewhere, as after a transformer's block, the sign.
0 is invariance; unrelated answers of half positive channels have 0.5. CKA: linear
CKA of the features averaged over places (Kornblith et al. 2019); 1 is the same up to a rotation and
a scale.</p>
<figure>$curves</figure>
$tables
<h2>Heat maps of one image</h2>
<figure><img alt="distance at each place, by layer and condition" src="$maps"></figure>
</main></body></html>
""")


class Row(NamedTuple):
    """One layer of a network under one blur; the fields are the columns of invariance.csv."""

    model: str
    trained_on: str
    checkpoint: str  # a file; "" for the network as configured
    dataset: str
    scale: str  # px of the network's input
    layer: str
    condition: str
    n: int
    distance: float  # in [0, 1]
    low: float
    high: float
    cka: float  # in [0, 1]; NaN where the features of all images are the same


class Maps(NamedTuple):
    """What is drawn of one image."""

    pictures: list[np.ndarray]  # (h, w, 3), sharp and under each condition
    layers: dict[tuple[int, int, int], np.ndarray]  # (h, w) by network, condition and layer


def networks(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Rows of each network, under its name, in their order."""
    mixes = {(row.trained_on, row.checkpoint) for row in rows}
    unique = len({trained_on for trained_on, _ in mixes}) == len(mixes)
    found: dict[str, list[Row]] = {}
    for row in rows:
        name = f"{row.model}, {row.trained_on}"
        name += "" if unique or not row.checkpoint else f" ({row.checkpoint})"
        found.setdefault(name, []).append(row)
    return found


def _grid(rows: Sequence[Row]) -> tuple[list[str], list[str], Mapping[tuple[str, str], Row]]:
    """Conditions, layers and the row of each of their pairs."""
    conditions = list(dict.fromkeys(row.condition for row in rows))
    layers = list(dict.fromkeys(row.layer for row in rows))
    return conditions, layers, {(row.condition, row.layer): row for row in rows}


def table_text(rows: Sequence[Row]) -> str:
    """Distances for a terminal: a line for each condition, a column for each layer."""
    texts = []
    for name, own in networks(rows).items():
        conditions, layers, cells = _grid(own)
        lines = [["distance", *layers]]
        lines += [[c, *(f"{cells[c, x].distance:.4f}" for x in layers)] for c in conditions]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        aligned = (
            "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])])
            for line in lines
        )
        texts.append("\n".join([name, *aligned]))
    return "\n\n".join(texts)


def page_html(rows: Sequence[Row], picture: bytes) -> str:
    """One self-contained page.

    Args:
        rows: What was measured.
        picture: The heat maps as PNG.
    """
    row = rows[0]
    facts = f"{row.model} on {row.n:,} images of {row.dataset}, at scale {row.scale}"
    tables = "".join(_table(name, own) for name, own in networks(rows).items())
    maps = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    curves = inline_svg(_curves_svg(rows))
    return _PAGE.substitute(facts=escape(facts), curves=curves, tables=tables, maps=maps)


def _table(name: str, rows: Sequence[Row]) -> str:
    conditions, layers, cells = _grid(rows)
    head = "".join(f'<th scope="col">{escape(layer)}</th>' for layer in layers)
    body = ""
    for condition in conditions:
        own = (cells[condition, layer] for layer in layers)
        texts = (
            f"<td>{r.distance:.3f} <small>{r.low:.3f}\N{EN DASH}{r.high:.3f}<br>"
            f"CKA {r.cka:.3f}</small></td>"
            for r in own
        )
        body += f'<tr><th scope="row">{escape(condition)}</th>{"".join(texts)}</tr>'
    head = f'<thead><tr><th scope="col">blur</th>{head}</tr></thead>'
    return (
        f'<h2>{escape(name)}</h2><div class="wide"><table>{head}<tbody>{body}</tbody></table></div>'
    )


def _curves_svg(rows: Sequence[Row]) -> str:
    """Distance and CKA over the layers, a column for each network, a line for each condition."""
    from matplotlib import style
    from matplotlib.figure import Figure

    found = networks(rows)
    with style.context(["default", RC | {"svg.hashsalt": "invariance"}]):
        figure = Figure((1.5 + 3.3 * len(found), 5.6), layout="constrained")
        grid = figure.subplots(2, len(found), squeeze=False, sharex="col", sharey="row")
        for column, (name, own) in zip(grid.T, found.items(), strict=True):
            conditions, layers, cells = _grid(own)
            for number, condition in enumerate(conditions):
                drawn = [cells[condition, layer] for layer in layers]
                colour = COLOURS[number % len(COLOURS)]
                look = {"color": colour, "marker": MARKS[number % len(MARKS)][0], "markersize": 4}
                places = range(len(layers))
                column[0].plot(places, [r.distance for r in drawn], label=condition, **look)
                low, high = [r.low for r in drawn], [r.high for r in drawn]
                column[0].fill_between(places, low, high, color=colour, alpha=0.15, linewidth=0)
                column[1].plot(places, [r.cka for r in drawn], **look)
            column[0].set_title(name, fontsize=8)
            column[1].set_xticks(range(len(layers)), layers, rotation=60, ha="right", fontsize=7)
        grid[0, 0].set_ylabel("Hamming distance")
        grid[1, 0].set_ylabel("linear CKA")
        grid[0, 0].set_ylim(bottom=0)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside right center")
        buffer = io.StringIO()
        nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(buffer, format="svg", metadata=nothing, facecolor="none")
    return buffer.getvalue()


def maps_png(maps: Maps, rows: Sequence[Row]) -> bytes:
    """Heat maps as in Figure 4 of Vasiljevic et al. 2016, all of one scale of colours.

    Args:
        maps: Those of each network, condition and layer.
        rows: What was measured, for the names.
    """
    from matplotlib import style
    from matplotlib.figure import Figure

    names = list(networks(rows))
    conditions, layers, _ = _grid(rows)
    top = float(np.nanmax([0.01, *(np.nanmax(m, initial=0) for m in maps.layers.values())]))
    count = len(conditions) * len(names)
    with style.context(["default", RC | {"axes.grid": False}]):
        figure = Figure((2.6 + 1.2 * (len(layers) + 1), 0.5 + 1.25 * count), layout="constrained")
        grid = figure.subplots(count, len(layers) + 1, squeeze=False)
        for axes in grid.flat:
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
        shown: Any = None
        for number, condition in enumerate(conditions):
            for place, name in enumerate(names):
                first, *others = grid[number * len(names) + place]
                first.imshow(maps.pictures[1 + number])
                own = name.removeprefix(f"{rows[0].model}, ") if len(names) > 1 else ""
                first.set_ylabel(f"{condition}\n{own}".strip(), fontsize=7)
                for column, axes in enumerate(others):
                    heat = maps.layers[place, number, column].astype(np.float32)
                    shown = axes.imshow(heat, vmin=0, vmax=top, cmap="magma")
        for axes, layer in zip(grid[0, 1:], layers, strict=True):
            axes.set_title(layer, fontsize=7)
        figure.colorbar(shown, ax=grid, label="Hamming distance", shrink=min(1.0, 3 / count))
        stream = io.BytesIO()
        figure.savefig(stream, format="png", dpi=100, metadata={"Software": None})
    return stream.getvalue()

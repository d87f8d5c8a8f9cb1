"""Tables of three papers as data, and what was measured beside them.

The figures are in `published.csv`, a line a cell, in this project's words for networks, mixes and
blurs. Sources, and what was read into them:

* Vasiljevic, Chakrabarti and Shakhnarovich 2016, arXiv:1611.05760, Tables 1 to 6 and A. Table A
  says ResNet-51; it is taken as ResNet-50. No unit is given for the entropies of Table 2; they are
  taken as nats. Table 5 has one method of deconvolution by the true kernel; any such method stands
  beside it. Table 6 does not list the blurs of its mix; they are taken as those of its rows.
* Kim, Kim and Han, "Image Classification of Blurred Images Without Deblurring", Tables 1 to 5. They
  give no scale. Their figures on sharp images are to the digit those of torchvision's weights,
  which are measured at scale 256, so that 256 stands for Tables 1 to 4. Their sigma is in pixels of
  an image whose size they leave open. For Table 5 they name neither the size of the ViT nor the
  regions that were blurred: taken as ViT-B/16 and half of all squares of 32 pixels. Its figure
  without blurry patches stands twice, once for each reading of which patches these are.
* Noroozi, Chandramouli and Favaro 2017, arXiv:1701.01486, Table 2. DeblurNet-SI was trained on
  Cityscapes too, beside the sharp frames of WILD. Images are tested whole, at their own size.

Accuracies are fractions, entropies nats, PSNR dB.
"""

import csv
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from itertools import zip_longest
from pathlib import Path
from typing import NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.records import curves
from blur_lightning.records.robustness import Record
from blur_lightning.records.rounding import rounded

_VASILJEVIC = "Vasiljevic, Chakrabarti and Shakhnarovich 2016, arXiv:1611.05760"
_KIM = "Kim, Kim and Han, Image Classification of Blurred Images Without Deblurring"
_NOROOZI = "Noroozi, Chandramouli and Favaro 2017, arXiv:1701.01486"
EXPERIMENTS = {
    "vasiljevic2016_table1": f"VGG-16 as published under twelve blurs ({_VASILJEVIC}, Table 1)",
    "vasiljevic2016_table2": f"Certainty of VGG-16 before and after fine-tuning on a mix of disks "
    f"({_VASILJEVIC}, Table 2)",
    "vasiljevic2016_table3": f"VGG-16 fine-tuned on six mixes of blurs ({_VASILJEVIC}, Table 3)",
    "vasiljevic2016_table4": f"VGG-16 fine-tuned on a mix of disks, each time at the scale of the "
    f"test ({_VASILJEVIC}, Table 4)",
    "vasiljevic2016_table5": f"VGG-16 fine-tuned or after deconvolution, on 10 validation images "
    f"of each class ({_VASILJEVIC}, Table 5)",
    "vasiljevic2016_table6": f"Segmentation of VOC2012 by Zoomout, as published and fine-tuned "
    f"on a mix of disks ({_VASILJEVIC}, Table 6)",
    "vasiljevic2016_tableA": f"ResNet-50 as published under disks, five crops a scale "
    f"({_VASILJEVIC}, Table A)",
    "kim_table1_2": f"Three networks as published, sharp and under Gaussian blur "
    f"({_KIM}, Tables 1 and 2)",
    "kim_table3_4": f"Three networks trained from random weights on blurred images, a fifth of "
    f"ImageNet ({_KIM}, Tables 3 and 4)",
    "kim_table5": f"A ViT on images with blurred regions ({_KIM}, Table 5)",
    "noroozi2017_table2": f"DeblurNet trained on averaged frames and on shift-invariant blur, and "
    f"three methods before it, on 15 images of WILD ({_NOROOZI}, Table 2)",
}


# What the names of data say of whole images, at the scale of the papers.
_WHOLE = r" \(crop whole(, measure (geometric_mean|native))?\)$"


class Cell(NamedTuple):
    """One figure of a paper; the fields are the columns of `published.csv`."""

    table: str
    model: str  # timm's name without its tag
    trained_on: str  # `original`: as published
    dataset: str
    condition: str
    scale: str  # px, scales joined by +; "" where the paper does not say
    metric: str
    value: float
    note: str  # what was done beyond a test run; else ""


class Row(NamedTuple):
    """A cell of a paper beside what a network measured, or the reason why none did."""

    cell: Cell
    network: str  # as its runs name it; the paper's where there are none
    measured: curves.Cell | None  # the mean of the runs, the hull of their intervals
    reason: str = ""  # "not run: ..."; "" where it was measured

    @property
    def difference(self) -> float | None:
        """Measured minus published, in the metric's unit; None where nothing was measured."""
        return None if self.measured is None else self.measured.value - self.cell.value


def tables() -> dict[str, list[Cell]]:
    """The cells of each table, in the papers' order."""
    found: dict[str, list[Cell]] = {}
    with Path(__file__).with_name("published.csv").open(encoding="utf-8", newline="") as stream:
        for line in csv.DictReader(stream):
            cell = Cell._make(float(text) if c == "value" else text for c, text in line.items())
            found.setdefault(cell.table, []).append(cell)
    return found


def experiment_text(table: str) -> str:
    """One line that says what a table is about and where it stands; InputError if unknown."""
    if table not in EXPERIMENTS:
        raise InputError(f"table {table!r}: unknown; use one of {', '.join(EXPERIMENTS)}")
    return EXPERIMENTS[table]


def compare_with_paper(
    table: str,
    records: Sequence[Record],
    reasons: Mapping[str, str],
    settings: Mapping[str, str] | None = None,
) -> list[Row]:
    """What was measured beside each cell of a table, in the paper's order.

    A record belongs to a cell if data, network (timm's tag aside), mix, scale, condition and metric
    are the same. Runs of one network become their mean. Networks that differ in their tag get a row
    each: their weights differ.

    Args:
        table: Name of the table, a key of `tables()`; another is an InputError.
        records: Those of all runs, of any network and data.
        reasons: One-line errors of trials that failed, by the mix that they train on; "" stands
            for all mixes. They explain the cells for which there is no run.
        settings: What sets runs of one network and mix apart, by their names; each gets a row.
    """
    experiment_text(table)  # refuses an unknown table
    return [row for cell in tables()[table] for row in _compared(cell, records, reasons, settings)]


def _compared(
    cell: Cell,
    records: Sequence[Record],
    reasons: Mapping[str, str],
    settings: Mapping[str, str] | None,
) -> Iterator[Row]:
    like = [record for record in records if _key(record) == _key(cell)]
    # The papers see whole images wherever the network can.
    same = [r for r in like if re.sub(_WHOLE, "", r.dataset) == cell.dataset]
    for section in curves.sections_of(same, settings):
        for line, cells in section.lines.items():
            network = curves.training_text(line.model, line.setting)
            yield Row(cell, network, cells[cell.condition, cell.metric])
    if not same:
        data = ", ".join(dict.fromkeys(record.dataset for record in like))
        if data:
            reason = f"tested on {data}, the paper on {cell.dataset}"
        else:
            failure = reasons.get(cell.trained_on, reasons.get(""))
            reason = failure or f"{_missing(cell, records)} among those given"
        yield Row(cell, cell.model, None, f"not run: {reason}")


def _key(figure: Cell | Record) -> tuple[str, ...]:
    network = figure.model if isinstance(figure, Record) else f"{figure.model}{_remark(figure)}"
    # Before a colon stands a wrapper, after a point timm's tag; what was done beyond a test stands
    # in parentheses. The paper's method of deconvolution stands for any.
    network = re.sub(r"^\w+:|\.\S+|(?<=\(deconvolved), [^)]*", "", network)
    return network, figure.trained_on, str(figure.scale), figure.condition, figure.metric


def _remark(cell: Cell) -> str:
    return f" ({cell.note})" if cell.note else ""


def _missing(cell: Cell, records: Sequence[Record]) -> str:
    """Say the first thing that no run has: the network, then its mix, and so on to the metric."""
    key, keys = _key(cell), [_key(record) for record in records]
    text = "no run"
    for i, word in enumerate(("of", "trained on", "at scale", "under", "with")):
        text += f" {word} {key[i]}"
        if all(other[: i + 1] != key[: i + 1] for other in keys):
            break
    return text


# Text

_PAPER = ("network", "trained on", "test blur", "scale", "metric", "paper")
_MEASURED = ("measured", "difference", "95 % interval", "n")
_NAMES = 3  # columns that name the row


def table_text(rows: Sequence[Row]) -> str:
    """Lay rows out for a terminal; accuracies in %, differences in percentage points."""
    shared, heads = _shared(rows)
    lines = [[*heads], *map(_texts, rows)]
    reasons = ["", *("" if shared else row.reason for row in rows)]
    widths = [max(map(len, column)) for column in zip_longest(*lines, fillvalue="")]
    text = f"{shared}\n" if shared else ""
    for line, reason in zip(lines, reasons, strict=True):
        names = map(str.ljust, line[:_NAMES], widths)
        figures = map(str.rjust, line[_NAMES:], widths[_NAMES:])
        text += "  ".join([*names, *figures, reason]).rstrip() + "\n"
    return text.removesuffix("\n")


def table_html(rows: Sequence[Row]) -> str:
    """The same as an HTML table, under the reason that all its cells share if there is one."""
    shared, heads = _shared(rows)
    above = f'<p class="note">{escape(shared)}</p>' if shared else ""
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in heads)
    body = ""
    for row in rows:
        texts = [escape(text) for text in _texts(row)]
        cells = "".join(f'<th scope="row">{text}</th>' for text in texts[:_NAMES])
        cells += "".join(f"<td>{text}</td>" for text in texts[_NAMES:])
        if row.reason and not shared:
            cells += f'<td colspan="{len(_MEASURED)}">{escape(row.reason)}</td>'
        body += f"<tr>{cells}</tr>"
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
    return f'{above}<div class="wide">{table}</div>'


def _shared(rows: Sequence[Row]) -> tuple[str, tuple[str, ...]]:
    """The reason of all rows, or ""; and the heads of the columns that have a text."""
    reasons = {row.reason for row in rows}
    shared = reasons.pop() if len(reasons) == 1 else ""
    return shared, _PAPER if shared else _PAPER + _MEASURED


def _texts(row: Row) -> list[str]:
    """Those of the paper, and where it was measured those of the runs."""
    cell, measured = row.cell, row.measured
    measure = curves.measure_of(cell.metric)
    factor, digits = (
        measure.factor,
        4 if measure.unit == "nats" else 2,
    )  # as many as the papers print

    def number(value: float, sign: str = "") -> str:
        return rounded(value * factor, digits, sign=sign)

    blur = f"{cell.condition} ({cell.note})" if cell.note else cell.condition
    metric = curves.title(measure)
    texts = [row.network, cell.trained_on, blur, cell.scale, metric, number(cell.value)]
    if measured is None:
        return texts
    interval = ""
    if measured.low is not None and measured.high is not None:
        interval = f"{number(measured.low)}\N{EN DASH}{number(measured.high)}"
    n = f"{measured.n}, {measured.runs} runs" if measured.runs > 1 else measured.n
    return [*texts, number(measured.value), number(measured.value - cell.value, "+"), interval, n]

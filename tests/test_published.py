"""The papers' figures against what the papers print twice; comparisons against hand-made runs."""

import math
import re
from collections import Counter
from html.parser import HTMLParser
from itertools import product

import pytest

from blur_lightning.blur import BlurDistribution
from blur_lightning.errors import InputError
from blur_lightning.records import published
from blur_lightning.records.published import (
    Cell,
    compare_with_paper,
    experiment_text,
    table_html,
    table_text,
    tables,
)
from blur_lightning.records.robustness import Record

MIX = "sharp+D2+D4+D6+D8"
FIELDS = ("model", "trained_on", "condition", "scale", "metric")


def figures(table, **wanted):
    """Values by condition of the cells that have the wanted fields, and no note."""
    wanted = {"note": "", **wanted}
    return {
        cell.condition: cell.value
        for cell in tables()[table]
        if all(getattr(cell, field) == text for field, text in wanted.items())
    }


def run_of(cell: Cell, **changes) -> Record:
    """A run that repeats a cell to the digit, but for the changes."""
    fields = {field: getattr(cell, field) for field in (*FIELDS, "dataset", "value")}
    ends = {"low": cell.value - 0.01, "high": cell.value + 0.01}
    rest = {"run": "a", "n": 50_000, "family": "disk", "parameter": None}
    return Record(**{**fields, **ends, **rest, **changes})


def runs_of(table, **changes):
    return [run_of(cell, **changes) for cell in tables()[table] if not cell.note]


def row_of(rows, **wanted):
    """The one row whose cell has the wanted fields, and no note."""
    wanted = {"note": "", **wanted}
    (row,) = [row for row in rows if all(getattr(row.cell, f) == v for f, v in wanted.items())]
    return row


# The figures


@pytest.mark.parametrize(
    ("table", "cells", "total"),
    [
        ("vasiljevic2016_table1", 12 * 4, 698.8727),
        ("vasiljevic2016_table2", 3 * 4, 176.0060),
        ("vasiljevic2016_table3", 5 * 6, 355.3971),
        ("vasiljevic2016_table4", 7 * 3, 189.1705),
        ("vasiljevic2016_table5", 5, 12.6484),
        ("vasiljevic2016_table6", 5 * 2 * 2, 92.7610),
        ("vasiljevic2016_tableA", 5 * 2, 40.9180),
        ("kim_table1_2", 3 * 2 * 2, 61.8014),
        ("kim_table3_4", 3 * 2 * 2, 54.1171),
        ("kim_table5", 3, 3.1679),
        ("noroozi2017_table2", 5, 25.48 + 2 * 23.61 + 3 * 22.5 + 4 * 25.8 + 5 * 28.1),
    ],
)
def test_every_cell_of_a_table_is_there_in_its_place(table, cells, total):
    # Totals from the papers' text, each figure times its place, so that a swap of two shows.
    found = tables()[table]
    assert len(found) == cells
    weighted = math.fsum(place * cell.value for place, cell in enumerate(found, start=1))
    assert weighted == pytest.approx(total, abs=1e-9)


@pytest.mark.parametrize(
    "table",
    [
        name
        for name in published.EXPERIMENTS
        if not name.endswith(("table4", "table5", "2017_table2"))
    ],
)
def test_a_table_has_every_combination_of_its_heads(table):
    found = tables()[table]
    choices = [sorted({getattr(cell, field) for cell in found}) for field in FIELDS]
    cells = sorted(tuple(getattr(cell, field) for field in FIELDS) for cell in found)
    assert cells == list(product(*choices))


def test_no_cell_is_there_twice():
    cells = [cell._replace(value=0.0) for found in tables().values() for cell in found]
    assert max(Counter(cells).values()) == 1


def test_the_tables_agree_where_the_paper_prints_a_figure_twice():
    original = {"trained_on": "original", "metric": "top5"}
    first = {
        scale: figures("vasiljevic2016_table1", scale=scale, **original)
        for scale in ("256", "512", "256+512")
    }
    repeated = figures("vasiljevic2016_table3", **original)
    assert len(repeated) == 5
    assert repeated.items() <= first["256"].items()
    for scale, values in first.items():
        repeated = figures("vasiljevic2016_table4", scale=scale, **original)
        assert [*repeated] == ["sharp", "D4", "D8"]
        assert repeated.items() <= values.items()
    repeated = figures("vasiljevic2016_table4", scale="256", trained_on=MIX)
    assert repeated.items() <= figures("vasiljevic2016_table3", trained_on=MIX).items()


def test_accuracy_falls_with_the_radius_as_the_paper_finds():
    for scale in ("128", "256", "512", "256+512"):
        values = figures("vasiljevic2016_table1", scale=scale)
        disks = [values[name] for name in ("sharp", "D2", "D4", "D6", "D8")]
        assert disks == sorted(disks, reverse=True)
        assert values["G8"] == min(values.values())


def test_cross_entropy_is_above_entropy_and_fine_tuning_lowers_both():
    table = "vasiljevic2016_table2"
    entropy, cross = (
        [figures(table, metric=metric, trained_on=mix) for mix in ("original", MIX)]
        for metric in ("entropy", "cross_entropy")
    )
    for condition in ("sharp", "D4", "D8"):
        for below, above in zip(entropy, cross, strict=True):
            assert 0 < above[condition] - below[condition] < 0.07
        assert entropy[1][condition] < entropy[0][condition]


def test_some_figures_are_where_the_papers_have_them():
    table3 = {(c.trained_on, c.condition): c.value for c in tables()["vasiljevic2016_table3"]}
    assert table3["D8", "sharp"] == 0.1610
    assert table3["0.2*sharp+0.8*shake", "H8"] == 0.8852
    assert table3["sharp+D4", "D8"] == 0.6690
    assert table3["sharp+D8", "D4"] == 0.8539
    table5 = {
        (c.trained_on, c.condition, c.note): c.value for c in tables()["vasiljevic2016_table5"]
    }
    assert table5["original", "D8", "deconvolved"] == 0.87
    assert table5["D8", "D8", ""] == 0.883
    assert figures("vasiljevic2016_table4", trained_on=MIX, scale="256+512")["sharp"] == 0.9084
    assert figures("vasiljevic2016_tableA", scale="256+512")["D8"] == 0.5594
    kim = {"model": "vgg19", "metric": "top5"}
    assert figures("kim_table1_2", **kim) == {"sharp": 0.9088, "G1..2": 0.7819}
    assert figures("kim_table3_4", trained_on="sharp+G1..2", **kim) == {"G1..2": 0.7355}


def test_sharp_figures_of_kim_are_those_of_torchvision_at_scale_256():
    from torchvision.models import GoogLeNet_Weights, ResNet50_Weights, VGG19_Weights

    networks = {
        "resnet50": ResNet50_Weights,
        "vgg19": VGG19_Weights,
        "googlenet": GoogLeNet_Weights,
    }
    for model, choices in networks.items():
        weights = choices.IMAGENET1K_V1
        assert weights.transforms().resize_size == [256]
        for metric, key in (("top1", "acc@1"), ("top5", "acc@5")):
            expected = weights.meta["_metrics"]["ImageNet-1K"][key]
            found = figures("kim_table1_2", model=model, metric=metric)["sharp"]
            assert 100 * found == pytest.approx(expected, abs=0.0051)


def test_mixes_and_blurs_are_spelled_as_runs_spell_them():
    for found in tables().values():
        for cell in found:
            mix = re.sub(r"^wild \(sharp, and (.*)\)$", r"\1", cell.trained_on)
            for text in {cell.condition, mix} - {"original", "wild"}:
                assert str(BlurDistribution.parse(text)) == text


def test_accuracies_are_fractions_and_words_are_from_the_known_few():
    cells = [cell for found in tables().values() for cell in found]
    metrics = {"top1", "top5", "entropy", "cross_entropy", "miou", "boundary_miou", "psnr"}
    assert {cell.metric for cell in cells} == metrics
    assert {cell.scale for cell in cells} == {"128", "256", "384", "512", "256+512", "native"}
    assert {cell.dataset for cell in cells} == {"imagenet", "voc", "wild"}
    models = {"vgg16", "vgg19", "resnet50", "googlenet", "vit_base_patch16_224", "Zoomout"}
    models |= {"DeblurNet", "Sun et al.", "Xu and Jia", "Xu et al."}
    assert {cell.model for cell in cells} == models
    shares = metrics - {"entropy", "cross_entropy", "psnr"}
    assert all(0 < cell.value < 1 for cell in cells if cell.metric in shares)
    assert all(20 < cell.value < 30 for cell in cells if cell.metric == "psnr")


def test_every_table_is_described_and_an_unknown_one_is_refused():
    assert [*tables()] == [*published.EXPERIMENTS]
    for table in tables():
        text = experiment_text(table)
        assert "\n" not in text and text.endswith(")")
    assert "Table 3" in experiment_text("vasiljevic2016_table3")
    message = r"^table 'table3': unknown; use one of vasiljevic2016_table1, .*, noroozi2017_table2$"
    for refused in (experiment_text, lambda table: compare_with_paper(table, [], {})):
        with pytest.raises(InputError, match=message):
            refused("table3")


# The comparison


@pytest.mark.parametrize("table", published.EXPERIMENTS)
def test_runs_that_repeat_the_paper_differ_by_nothing(table):
    runs = runs_of(table)
    rows = compare_with_paper(table, runs, {})
    assert [row.cell for row in rows] == tables()[table]
    for row in rows:
        assert row.difference == (None if row.cell.note else 0.0)
        assert bool(row.reason) == bool(row.cell.note)


def test_a_cell_gets_the_values_of_its_own_run():
    table = "vasiljevic2016_table3"
    runs = [
        run._replace(value=run.value - i / 1000, low=0.1, high=0.2, n=1000 + i)
        for i, run in enumerate(runs_of(table))
    ]
    for i, row in enumerate(compare_with_paper(table, runs[::-1], {})):
        assert row.measured[:3] == (row.cell.value - i / 1000, 0.1, 0.2)
        assert row.measured.n == f"{1000 + i:,}"
        assert row.difference == pytest.approx(-i / 1000)


@pytest.mark.parametrize("field", [*FIELDS, "dataset"])
def test_a_run_that_differs_in_one_field_is_not_compared(field):
    cell = tables()["vasiljevic2016_table1"][0]
    rows = compare_with_paper(cell.table, [run_of(cell)], {})
    assert [row.cell for row in rows if row.measured] == [cell]
    rows = compare_with_paper(cell.table, [run_of(cell, **{field: "other"})], {})
    assert not [row for row in rows if row.measured]


@pytest.mark.parametrize("name", ["vgg16", "vgg16.tv_in1k"])
def test_the_tag_of_timm_does_not_matter(name):
    cell = tables()["vasiljevic2016_table1"][0]
    row = compare_with_paper(cell.table, [run_of(cell, model=name)], {})[0]
    assert (row.network, row.difference) == (name, 0)


def test_other_networks_of_a_similar_name_are_not_taken():
    cell = tables()["vasiljevic2016_table1"][0]
    for name in ("vgg16_bn.tv_in1k", "vgg1", "vgg166"):
        assert compare_with_paper(cell.table, [run_of(cell, model=name)], {})[0].measured is None


def test_seeds_become_their_mean_with_the_hull_of_their_intervals():
    cell = tables()["vasiljevic2016_table1"][0]
    values = {"a": (0.70, 0.68, 0.71), "b": (0.76, 0.75, 0.79), "c": (0.79, 0.74, 0.78)}
    runs = [
        run_of(cell, run=name, value=value, low=low, high=high)
        for name, (value, low, high) in values.items()
    ]
    measured = compare_with_paper(cell.table, runs, {})[0].measured
    assert measured.value == pytest.approx(0.75)
    assert measured[1:5] == (0.68, 0.79, 3, "50,000")


def test_weights_of_two_tags_are_no_seeds_of_one_another():
    cell = tables()["vasiljevic2016_tableA"][0]
    runs = [
        run_of(cell, model=name, value=value)
        for name, value in (("resnet50.tv_in1k", 0.92), ("resnet50.a1_in1k", 0.94))
    ]
    rows = compare_with_paper(cell.table, runs, {})
    found = [(row.network, row.measured.value) for row in rows if row.cell == cell]
    assert found == [("resnet50.tv_in1k", 0.92), ("resnet50.a1_in1k", 0.94)]
    assert len(rows) == len(tables()[cell.table]) + 1


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"model": "net"}, "no run of vgg16"),
        ({"trained_on": "D8"}, "no run of vgg16 trained on sharp+D4"),
        ({"scale": "512"}, "no run of vgg16 trained on sharp+D4 at scale 256"),
        ({"condition": "D2"}, "no run of vgg16 trained on sharp+D4 at scale 256 under D4"),
        ({"metric": "top1"}, "no run of vgg16 trained on sharp+D4 at scale 256 under D4 with top5"),
    ],
)
def test_what_is_missing_is_named_and_no_more(changes, reason):
    table, wanted = "vasiljevic2016_table3", {"trained_on": "sharp+D4", "condition": "D4"}
    cell = row_of(compare_with_paper(table, [], {}), **wanted).cell
    row = row_of(compare_with_paper(table, [run_of(cell, **changes)], {}), **wanted)
    assert row.reason == f"not run: {reason} among those given"
    assert row.measured is row.difference is None


def test_what_is_missing_of_several_runs_is_what_none_of_them_has():
    # One has the mix and one the scale: none has both.
    table, wanted = "vasiljevic2016_table4", {"trained_on": MIX, "scale": "512", "condition": "D4"}
    cell = row_of(compare_with_paper(table, [], {}), **wanted).cell
    runs = [run_of(cell, scale="256"), run_of(cell, trained_on="original")]
    reason = row_of(compare_with_paper(table, runs, {}), **wanted).reason
    assert reason == f"not run: no run of vgg16 trained on {MIX} at scale 512 among those given"


def test_runs_on_other_data_are_named_and_not_compared():
    table = "vasiljevic2016_table1"
    runs = runs_of(table, dataset="photos")[1:] + runs_of(table, dataset="imagenet (area rim)")[1:2]
    rows = compare_with_paper(table, runs, {"": "there is no folder data/imagenet/val"})
    assert rows[0].reason == "not run: there is no folder data/imagenet/val"
    both = "not run: tested on photos, imagenet (area rim), the paper on imagenet"
    assert rows[1].reason == both
    assert {row.reason for row in rows[2:]} == {"not run: tested on photos, the paper on imagenet"}


def test_failed_trials_explain_their_own_mix_and_the_empty_one_all_others():
    table = "vasiljevic2016_table3"
    cell = tables()[table][0]
    reasons = {"sharp+D4": "out of memory", "": "no folder val"}
    for row in compare_with_paper(table, [run_of(cell)], reasons):
        if row.cell == cell:
            assert row.reason == "" and row.measured
        else:
            failed = row.cell.trained_on == "sharp+D4"
            assert row.reason == f"not run: {'out of memory' if failed else 'no folder val'}"
    rows = compare_with_paper(table, [], {"sharp+D4": "out of memory"})
    others = {row.reason for row in rows if row.cell.trained_on != "sharp+D4"}
    assert others == {"not run: no run of vgg16 among those given"}


def test_what_was_done_beyond_a_test_stands_in_the_networks_name():
    table = "vasiljevic2016_table5"
    rows = compare_with_paper(table, runs_of(table), {})
    assert [row.reason for row in rows if row.cell.note] == [
        "not run: no run of vgg16 (deconvolved) among those given"
    ]
    assert row_of(rows, trained_on="original", condition="D8").measured.value == 0.6157
    cell = next(row.cell for row in rows if row.cell.note)
    models = [f"Dense:vgg16.tv_in1k (deconvolved, {how})" for how in ("sparse", "wiener")]
    models += ["vgg16 (restored by NAFNet)"]
    runs = [run_of(cell)._replace(model=model) for model in models]
    rows = [row for row in compare_with_paper(table, runs, {}) if row.cell == cell]
    assert [row.network for row in rows] == models[:2]
    two = [run for run in runs_of("vasiljevic2016_table4") if run.scale == "256+512"]
    named = [run._replace(model="vgg16.tv_in1k (one network a scale)", value=0.5) for run in two]
    measured = {
        row.cell.note: row.measured.value
        for row in compare_with_paper("vasiljevic2016_table4", [*two, *named], {})
        if row.measured
    }
    assert measured["one network a scale"] == 0.5 != measured[""]


# The text


def mixed_rows():
    """One measured row of each kind, and two that were not run for different reasons."""
    table = "vasiljevic2016_table4"
    runs = [run for run in runs_of(table) if run.trained_on == MIX and run.scale == "256"]
    runs[0] = runs[0]._replace(value=0.8957, low=0.893, high=0.8984)
    runs[1] = runs[1]._replace(low=None, high=None)
    runs += [runs[2]._replace(run="b", n=1000)]
    rows = compare_with_paper(table, runs, {})
    return [rows[i] for i in (3, 4, 5, 14, 18)]


PAPER = ["network", "trained on", "test blur", "scale", "metric", "paper"]
MEASURED = ["measured", "difference", "95 % interval", "n"]
DASH = "\N{EN DASH}"
MIXED_TEXTS = [
    [*PAPER, *MEASURED],
    *(
        text.split("|")
        for text in (
            f"vgg16|{MIX}|sharp|256|top-5 (%)|90.59|89.57|-1.02|89.30{DASH}89.84|50,000",
            f"vgg16|{MIX}|D4|256|top-5 (%)|89.44|89.44|+0.00||50,000",
            f"vgg16|{MIX}|D8|256|top-5 (%)|87.01|87.01|+0.00|86.01{DASH}88.01|"
            "1,000 to 50,000, 2 runs",
            "vgg16|original|D8|256+512|top-5 (%)|51.40|"
            "not run: no run of vgg16 trained on original among those given",
            f"vgg16|{MIX}|sharp (one network a scale)|256+512|top-5 (%)|91.10|"
            "not run: no run of vgg16 (one network a scale) among those given",
        )
    ),
]


class Table(HTMLParser):
    """The texts of an HTML table with their spans, and what stands before it."""

    def __init__(self, html):
        super().__init__()
        self.above, self.rows, self.spans = "", [], []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag, attributes):
        if tag == "tr":
            self.rows.append([])
            self.spans.append(0)
        elif tag in ("td", "th"):
            self.rows[-1].append("")
            self.spans[-1] += int(dict(attributes).get("colspan", 1))

    def handle_data(self, data):
        if self.rows:
            self.rows[-1][-1] += data
        else:
            self.above += data


def test_a_table_for_the_terminal_is_aligned():
    lines = table_text(mixed_rows()).splitlines()
    starts = [lines[0].index(head) for head in PAPER[:3]]
    ends = [lines[0].rindex(head) + len(head) for head in [*PAPER[3:], *MEASURED]]
    for line, texts in zip(lines, MIXED_TEXTS, strict=True):
        assert re.split(" {2,}", line) == [text for text in texts if text]
        if texts[-1].startswith("not run"):
            *texts, reason = texts
            assert line[ends[2] :] == f"  {reason}"
        for start, text in zip(starts, texts, strict=False):
            assert line[start:].startswith(text)
        for end, text in zip(ends, texts[3:], strict=False):
            assert line[:end].endswith(text)


def test_an_html_table_has_the_same_texts_and_spans_for_what_was_not_run():
    table = Table(table_html(mixed_rows()))
    assert table.rows == MIXED_TEXTS
    assert table.spans == [len(PAPER) + len(MEASURED)] * len(MIXED_TEXTS)
    assert table.above == ""


def test_a_reason_that_all_cells_share_is_said_once_above():
    rows = compare_with_paper("vasiljevic2016_table2", [], {"": "no folder data/imagenet/val"})
    reason = "not run: no folder data/imagenet/val"
    first, head, *lines = table_text(rows).splitlines()
    assert (first, re.split(" {2,}", head)) == (reason, PAPER)
    assert len(lines) == len(rows) == 12
    assert re.split(" {2,}", lines[2]) == (
        ["vgg16", "original", "sharp", "256", "cross-entropy (nats)", "1.2060"]
    )
    table = Table(table_html(rows))
    assert table.above == reason
    assert table.rows[0] == PAPER
    assert table.rows[3] == re.split(" {2,}", lines[2])
    assert table.spans == [len(PAPER)] * 13


def test_entropies_have_the_digits_of_the_paper():
    cell = tables()["vasiljevic2016_table2"][0]
    run = run_of(cell, value=1.2, low=1.15, high=1.25)
    line = table_text(compare_with_paper(cell.table, [run], {})[:1]).splitlines()[1]
    expected = ["1.1837", "1.2000", "+0.0163", f"1.1500{DASH}1.2500", "50,000"]
    assert re.split(" {2,}", line)[5:] == expected


def test_text_from_files_is_escaped_in_html():
    cell = tables()["vasiljevic2016_table1"][0]
    runs = [run_of(cell, model="vgg16.<b>&"), run_of(cell, dataset="<script>", scale="256")]
    html = table_html(compare_with_paper(cell.table, runs, {"": "a < b & c"}))
    assert "vgg16.&lt;b&gt;&amp;" in html
    assert "tested on &lt;script&gt;" in html
    assert "a &lt; b &amp; c" in html
    assert not re.search("<(script|b)>", html)
    assert "a &lt; b" in table_html(compare_with_paper(cell.table, [], {"": "a < b"}))


def test_a_dense_network_on_whole_images_is_the_papers():
    runs = [
        run._replace(model=f"Dense:{run.model}.tv_in1k", dataset="imagenet (crop whole)")
        for run in runs_of("vasiljevic2016_table1")
    ]
    rows = compare_with_paper("vasiljevic2016_table1", runs, {})
    assert all(row.measured and row.difference == 0 for row in rows)
    assert {row.network for row in rows} == {"Dense:vgg16.tv_in1k"}

"""The page against the records that it was made of, and against a browser's rules."""

import json
import re
from html.parser import HTMLParser
from pathlib import Path
from xml.etree import ElementTree

import pytest

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import Record, write_run
from blur_lightning.report.page import report

VOID = {"br", "img", "input", "meta"}  # elements without an end
CONDITIONS = {
    "sharp": ("sharp", 0.0, 0.85),
    "D4": ("disk", 4.0, 0.70),
    "D8": ("disk", 8.0, 0.50),
    "shake": ("shake", None, 0.55),
    "G4": ("gaussian", 4.0, 0.45),
}


def make_run(
    folder: Path, *, trained_on="original", gain=0.0, provenance=None, pictures=(), **constants
) -> Path:
    """A run whose top-1 is `gain` above that of CONDITIONS, plus or minus 0.1."""
    fields = {"run": folder.name, "model": "net", "dataset": "photos", "n": 20, "scale": "224"}
    fields |= {"trained_on": trained_on, **constants}
    records = []
    for name, (family, parameter, value) in CONDITIONS.items():
        blur = {"condition": name, "family": family, "parameter": parameter}
        for metric, mean in (("top1", value + gain), ("entropy", 2 - value)):
            ends = {"value": mean, "low": mean - 0.1, "high": mean + 0.1}
            records.append(Record(**fields, **blur, **ends, metric=metric))
    write_run(folder, records=records, images={"index": [0]}, provenance=provenance or {})
    (folder / "examples").mkdir()
    for picture in pictures:
        (folder / "examples" / picture).write_bytes(picture.encode())
    return folder


def page_of(*runs: Path) -> str:
    """The page as it is seen where no script runs."""
    out = runs[0].parent / "page.html"
    report(list(runs), out=out)
    return without_scripts(out.read_text(encoding="utf-8"))


def without_scripts(html: str) -> str:
    html, number = re.subn(r"<script.*?</script>", "", html, flags=re.DOTALL)
    assert number == 3  # the data, the library, the page's own
    return html


class Page(HTMLParser):
    """Tags checked for balance; the cells of each table by the heading above it."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.requests: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[str] = []
        self.text: dict[str, list[str]] = {}
        self.tables: list[list[list[str]]] = []
        self.feed(html)
        self.close()
        self.tables = [table for table in self.tables if table]  # scripts fill the others
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        self.requests += [values[k] for k in ("src", "href", "xlink:href", "srcset") if k in values]
        self.ids += [values["id"]] if "id" in values else []
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        self.handle_endtag(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open:
            self.text.setdefault(self.open[-1], []).append(data)
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.replace("\N{EN DASH}", "-")


def test_the_page_is_balanced_and_asks_for_nothing(tmp_path):
    run = make_run(tmp_path / "run", pictures=["D4.jpg"])
    html = page_of(run)
    page = Page(html)
    assert page.requests
    assert all(request.startswith(("data:", "#")) for request in page.requests)
    assert len(page.ids) == len(set(page.ids))
    assert not re.search(r"url\((?!#)|@import|<script|<link", html)


def test_the_table_holds_the_values_in_the_order_of_the_records(tmp_path):
    table, _, summary = Page(page_of(make_run(tmp_path / "run"))).tables
    assert summary[1][4:] == ["top-1", "disk", "0 to 8", "1", "68.8", "beyond"]
    assert table == [
        ["test blur", "trained on"],
        ["original"],
        ["sharp", "85.0 75.0-95.0"],
        ["D4", "70.0 60.0-80.0"],
        ["D8", "50.0 40.0-60.0"],
        ["shake", "55.0 45.0-65.0"],
        ["G4", "45.0 35.0-55.0"],
    ]


def test_every_metric_has_its_table_and_one_is_shown(tmp_path):
    html = page_of(make_run(tmp_path / "run"))
    assert re.findall(r'type="radio" name="metric" id="(\w+)"( checked)?', html) == [
        ("m0", " checked"),
        ("m1", ""),
    ]
    assert "#m1:checked~.m1{display:block}" in html
    assert Page(html).tables[1][2] == ["sharp", "1.15 1.05-1.25"]


def test_a_sentence_says_how_far_a_network_falls(tmp_path):
    text = " ".join(Page(page_of(make_run(tmp_path / "run"))).text["p"])
    text = text.replace("\N{NO-BREAK SPACE}", " ")
    assert "on photos, n = 20: top-1 85.0 % sharp, falls to 45.0 % at G4." in text


def test_runs_that_differ_in_their_seed_become_their_mean_and_envelope(tmp_path):
    runs = [make_run(tmp_path / f"seed-{i}", gain=gain) for i, gain in enumerate((0, 0.02, 0.04))]
    table = Page(page_of(*runs)).tables[0]
    assert table[1:3] == [["originalmean of 3 runs"], ["sharp", "87.0 75.0-99.0"]]


def test_networks_data_and_scales_are_not_averaged(tmp_path):
    runs = [
        make_run(tmp_path / "a"),
        make_run(tmp_path / "b", model="other"),
        make_run(tmp_path / "c", dataset="scenes"),
        make_run(tmp_path / "d", scale=512),
    ]
    html = page_of(*runs)
    assert "<small>mean of" not in html
    assert len(Page(html).tables) == 2 * 4 + 1  # and the summaries
    assert "net (original, 512 px)" in html


def test_a_run_named_twice_counts_once(tmp_path):
    run = make_run(tmp_path / "run")
    assert page_of(run, tmp_path, run / "robustness.csv") == page_of(run)


def test_the_best_of_a_row_is_bold_and_the_original_comes_first(tmp_path):
    mixed = make_run(tmp_path / "mixed", trained_on="sharp+D8", gain=0.2)
    original = make_run(tmp_path / "original")
    best = re.compile(r"<td[^>]*><b>([^<]*)")
    assert not best.findall(page_of(original))
    html = page_of(mixed, original)
    assert Page(html).tables[0][1] == ["original", "sharp+D8"]
    # Those of the second column, and of top-1 alone: no entropy is best.
    assert best.findall(html) == ["105.0", "90.0", "70.0", "75.0", "65.0"]


def test_a_missing_or_undefined_measurement_is_no_failure(tmp_path):
    first = make_run(tmp_path / "a")
    second = make_run(tmp_path / "b", trained_on="sharp+D8", gain=float("nan"))
    lines = (second / "robustness.csv").read_text().splitlines(keepends=True)
    (second / "robustness.csv").write_text("".join(x for x in lines if ",D8," not in x))
    table = Page(page_of(first, second)).tables[0]
    assert table[3] == ["D4", "70.0 60.0-80.0", "nan nan-nan"]
    assert table[4] == ["D8", "50.0 40.0-60.0", "-"]


def test_a_family_has_a_curve_from_two_strengths_on(tmp_path):
    html = page_of(make_run(tmp_path / "run"))
    labels = Page(html).text["text"]
    assert html.count("<svg") == 2  # top-1 and entropy against the disk's radius
    assert labels.count("disk radius (px)") == 2
    assert {"top-1 (%)", "entropy (nats)", "4", "8"} <= set(labels)
    assert labels.count("0") == 3  # sharp in both; the end of the axis of top-1
    assert not {"Gaussian sigma (px)", "shake"} & set(labels)


def test_curves_are_drawn_in_the_ink_of_the_page(tmp_path):
    html = page_of(make_run(tmp_path / "run"))
    drawings = "".join(re.findall(r"<svg.*?</svg>", html, flags=re.DOTALL))
    assert {"currentColor", "var(--rule)"} <= set(
        re.findall(r"(?:fill|stroke): ([^;\"]*)", drawings)
    )
    assert not {"#1f2328", "#000000", "#ffffff", "#d8dee4"} & set(re.findall(r"#\w{6}", drawings))


def test_axes_take_their_names_from_conditions(tmp_path):
    names = ["H4", "H8", "M4@30", "M8@30", "M8@60", "blur-1", "blur-3", "G0.5", "G2"]
    line = {"run": "r", "model": "m", "trained_on": "t", "dataset": "d", "n": 1, "scale": 8}
    rest = {"family": "x", "metric": "top1", "value": 0.5, "low": None, "high": None}
    records = [Record(**line, **rest, condition=c, parameter=i) for i, c in enumerate(names)]
    write_run(tmp_path / "run", records=records, images={}, provenance={})
    labels = [text for text in Page(page_of(tmp_path / "run")).text["text"] if text[0].isalpha()]
    assert [label for label in labels if label != "top-1 (%)"] == [
        "horizontal box length (px)",
        "box length at 30° (px)",
        "blur severity",
        "Gaussian sigma (px)",
    ]


def test_pictures_come_once_a_data_set_in_the_order_of_the_conditions(tmp_path):
    bare = make_run(tmp_path / "a")
    pictured = make_run(tmp_path / "b", pictures=["D8.png", "D4.jpg", "elsewhere.jpg", "sharp.txt"])
    again = make_run(tmp_path / "c", pictures=["sharp.jpg"])
    page = Page(page_of(bare, pictured, again))
    assert page.text["figcaption"] == ["D4", "D8"]
    assert [request for request in page.requests if request.startswith("data:")] == [
        "data:image/jpeg;base64,RDQuanBn",
        "data:image/png;base64,RDgucG5n",
    ]


def test_where_the_numbers_are_from_is_told(tmp_path):
    provenance = {
        "seed": 17,
        "environment": {"torch": "2.9.0", "commit": None},
        "kernel_banks": {"test": "abc123"},
        "skipped": [],
        "data": {"unreadable": ["broken.jpg", "odd.jpg"], "mean": [0.5, 0.25]},
        "config": {"model": {"class_path": "Net"}},
    }
    page = Page(page_of(make_run(tmp_path / "run", provenance=provenance)))
    facts = page.text["dd"]
    assert facts == [
        "20",
        "17",
        "2.9.0",
        "unknown",
        "abc123",
        "none",
        "2: broken.jpg, odd.jpg",
        "0.5, 0.25",
    ]
    assert json.loads("".join(page.text["pre"])) == provenance["config"]


def test_a_run_without_provenance_is_shown(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "provenance.json").unlink()
    assert Page(page_of(run)).text["dd"] == ["20"]


def test_everything_from_files_is_escaped(tmp_path):
    evil = "<script>$x_1$&'\""
    facts = {evil: evil, "list": [evil], "config": {evil: evil}}
    constants = {"model": evil, "dataset": evil, "trained_on": evil, "run": evil}
    run = make_run(tmp_path / "run", provenance=facts, **constants)
    csv = run / "robustness.csv"
    text = csv.read_text().replace(",entropy,", ",<script>,")
    csv.write_text(re.sub(r",D(\d),", r",<script>\1,", text))
    (run / "examples" / "<script>8.jpg").write_bytes(b"x")
    report([run], out=tmp_path / "page.html", figure=tmp_path / "curve.svg")
    html = without_scripts((tmp_path / "page.html").read_text(encoding="utf-8"))
    assert "<script" not in html
    page = Page(html)
    assert page.tables[0][1] == [evil]
    assert page.text["figcaption"] == ["<script>8"]
    assert "<script>" in "".join(page.text["text"])  # the axis of <script>4 and <script>8
    labels = ElementTree.parse(tmp_path / "curve.svg").iter("{http://www.w3.org/2000/svg}text")
    assert f"{evil} ({evil})" in [label.text for label in labels]


def test_the_same_records_give_the_same_bytes(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", trained_on="D8")]
    bytes_of = []
    for name in ("first", "second"):
        out, figure = tmp_path / f"{name}.html", tmp_path / f"{name}.svg"
        report(runs, out=out, figure=figure)
        bytes_of.append((out.read_bytes(), figure.read_bytes()))
    assert bytes_of[0] == bytes_of[1]


def test_the_figure_is_white_svg_with_top1_only(tmp_path):
    runs = [make_run(tmp_path / "a"), make_run(tmp_path / "b", trained_on="D8", dataset="scenes")]
    report(runs, out=tmp_path / "p.html", figure=tmp_path / "deep" / "curve.svg")
    svg = (tmp_path / "deep" / "curve.svg").read_text(encoding="utf-8")
    text = [element.text for element in ElementTree.fromstring(svg).iter() if element.text]
    assert {"photos", "scenes", "net (original)", "net (D8)", "top-1 (%)"} <= set(text)
    assert "entropy (nats)" not in text
    background = svg[: svg.index("axes_1")]
    assert "fill: #ffffff" in background
    assert not re.search(r'(src|href)="(?!#)', svg)


def test_a_figure_without_curves_is_refused_and_nothing_is_written(tmp_path):
    run = make_run(tmp_path / "run")
    csv = run / "robustness.csv"
    csv.write_text("".join(x for x in csv.read_text().splitlines(True) if ",D8," not in x))
    with pytest.raises(InputError, match=r"curve\.svg: no curve to draw"):
        report([run], out=tmp_path / "page.html", figure=tmp_path / "curve.svg")
    assert not (tmp_path / "page.html").exists()
    assert "<svg" not in page_of(run)


def test_a_report_that_is_asked_for_nothing_is_refused(tmp_path):
    with pytest.raises(InputError, match="--out: none; name the page to write"):
        report([make_run(tmp_path / "run")])


def test_a_metric_that_is_unknown_is_shown_by_its_name_and_said(tmp_path, capsys):
    run = make_run(tmp_path / "run")
    csv = run / "robustness.csv"
    csv.write_text(csv.read_text().replace(",entropy,", ",robust_score,"))
    page = Page(page_of(run))
    line = "unknown metrics are shown as plain numbers: robust_score"
    assert capsys.readouterr().err.splitlines() == [line]
    assert page.text["label"][-2:] == ["top-1 (%)", "robust_score"]
    assert page.tables[1][2] == ["sharp", "1.150 1.050-1.250"]


def test_halves_are_rounded_up_in_every_table(tmp_path):
    fields = {"run": "r", "model": "net", "trained_on": "original", "dataset": "d", "n": 16}
    records = [
        Record(*fields.values(), c, "disk", p, "28", "top1", 0.5625, 0.2875, -0.0001)
        for c, p in (("sharp", 0.0), ("D4", 4.0))
    ]
    write_run(tmp_path / "r", records=records, images={"index": [0]}, provenance={})
    page = Page(page_of(tmp_path / "r"))
    assert page.tables[0][2] == ["sharp", "56.3 28.8-0.0"]
    assert page.tables[1][1][-2:] == ["56.3", "beyond"]
    assert "56.3" in " ".join(page.text["p"])


def test_a_slip_does_not_replace_the_records(tmp_path):
    run = make_run(tmp_path / "run")
    with pytest.raises(
        InputError, match=r"robustness\.csv: HTML is written here; end it in \.html"
    ):
        report([run], out=run / "robustness.csv")
    with pytest.raises(InputError, match=r"curve\.png: SVG is written here"):
        report([run], out=tmp_path / "page.html", figure=tmp_path / "curve.png")


@pytest.mark.parametrize(("content", "reason"), [("{", "cannot be read as JSON"), ("[]", "not a")])
def test_a_damaged_provenance_is_named(tmp_path, content, reason):
    run = make_run(tmp_path / "run")
    (run / "provenance.json").write_text(content)
    with pytest.raises(InputError, match=rf"provenance\.json: {reason}"):
        page_of(run)


def test_what_cannot_be_read_is_named_and_the_old_page_stays(tmp_path):
    out = tmp_path / "page.html"
    out.write_text("old")
    with pytest.raises(InputError, match="nowhere: not found"):
        report([make_run(tmp_path / "run"), tmp_path / "nowhere"], out=out)
    with pytest.raises(InputError, match="nothing to report"):
        report([], out=out)
    assert out.read_text() == "old"


def test_a_sentence_says_where_the_intervals_tell_nothing_apart(tmp_path):
    fields = {"run": "r", "model": "net", "trained_on": "original", "dataset": "d", "n": 20}
    records = [
        Record(*fields.values(), c, "disk", p, "28", "top1", v, v - 0.1, v + 0.1)
        for c, p, v in (("sharp", 0.0, 0.5), ("D4", 4.0, 0.45))
    ]
    write_run(tmp_path / "r", records=records, images={"index": [0]}, provenance={})
    text = " ".join(Page(page_of(tmp_path / "r")).text["p"])
    assert "which the intervals do not tell apart" in text

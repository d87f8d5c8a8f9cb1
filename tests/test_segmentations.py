"""Tables and legends of segmentations against the files that they are read from."""

import csv
import math
import re

import numpy as np
import pytest

from blur_lightning.errors import InputError
from blur_lightning.records.curves import sections_of, styles_of
from blur_lightning.records.robustness import Record, write_run
from blur_lightning.report.page import report
from blur_lightning.report.segmentations import (
    legend_html,
    read_shares,
    segmentations_html,
    trimap_svg,
)

BLURS = {"sharp": 0.0, "D4": 4.0}
CLASSES = {"ground": 0.9, "unicorn": math.nan, "wheat": 0.4, "weed": 0.1}  # no image has a unicorn
WIDTHS = {"1": 0.5, "2": 0.6, "4": 0.8}


def write_segmentation(folder, *, gain=0.0, trained_on="sharp", provenance=None):
    """A run whose shares are `gain` above those above, and a tenth less under D4."""
    fields = {"run": folder.name, "model": "net", "dataset": "fields", "n": 9, "scale": "64"}
    ends = {"value": 0.5, "low": 0.4, "high": 0.6}
    records = [
        Record(
            **fields,
            **ends,
            trained_on=trained_on,
            condition=c,
            family="disk",
            parameter=p,
            metric="miou",
        )
        for c, p in BLURS.items()
    ]
    write_run(folder, records=records, images={"index": [0]}, provenance=provenance or {})
    for name, key, shares in (("class_iou", "class", CLASSES), ("trimap", "width", WIDTHS)):
        with (folder / f"{name}.csv").open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["condition", key, "value", "low", "high"])
            for blur in BLURS:
                for of, share in shares.items():
                    value = share + gain - 0.1 * (blur == "D4")
                    writer.writerow([blur, of, value, value - 0.02, value + 0.03])
    return folder, records


def html_of(*runs):
    records = [record for _, own in runs for record in own]
    return segmentations_html(dict(runs), styles_of(sections_of(records)))


def tables(html):
    """Texts of the cells of all tables, by row."""
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    texts = [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]
    return [
        [re.sub(r"<.*?>", "", text).replace("\N{EN DASH}", "-") for text in row] for row in texts
    ]


def test_the_tables_hold_the_shares_of_each_class_and_width(tmp_path):
    assert tables(html_of(write_segmentation(tmp_path / "run"))) == [
        ["class", "sharp", "D4"],
        ["ground", "90.0 88.0-93.0", "80.0 78.0-83.0"],
        ["wheat", "40.0 38.0-43.0", "30.0 28.0-33.0"],
        ["weed", "10.0 8.0-13.0", "0.0 -2.0-3.0"],
        ["width", "sharp", "D4"],
        ["1", "50.0 48.0-53.0", "40.0 38.0-43.0"],
        ["2", "60.0 58.0-63.0", "50.0 48.0-53.0"],
        ["4", "80.0 78.0-83.0", "70.0 68.0-73.0"],
    ]


def test_runs_of_one_mix_become_their_mean_and_envelope_and_mixes_stay_apart(tmp_path):
    html = html_of(
        write_segmentation(tmp_path / "a"),
        write_segmentation(tmp_path / "b", gain=0.04),
        write_segmentation(tmp_path / "c", gain=0.1, trained_on="sharp+D4"),
    )
    ground = [row[1] for row in tables(html) if row[0] == "ground"]
    assert ground == ["92.0 88.0-97.0", "100.0 98.0-103.0"]
    assert re.findall(r"<summary>(.*?)</summary>", html)[:2] == [
        "net (sharp), mean of 2 runs",
        "net (sharp+D4)",
    ]


def test_runs_without_such_tables_leave_no_trace(tmp_path):
    folder, records = write_segmentation(tmp_path / "run")
    for path in folder.glob("*.csv"):
        if path.name != "robustness.csv":
            path.unlink()
    assert html_of((folder, records)) == ""
    assert legend_html(folder, records, width=4) == ""


def test_curves_are_as_high_as_the_shares(tmp_path):
    folder, records = write_segmentation(tmp_path / "run")
    shares = read_shares(folder / "trimap.csv", "width", records)
    svg = trimap_svg(sections_of(shares)[0], styles_of(sections_of(records)))
    assert {"1", "2", "4", "sharp", "D4", "pixels right (%)"} <= set(re.findall(r">([^<>]+)<", svg))
    curves = re.findall(
        r'<path d="(M [^z"]*)" clip-path[^>]*style="fill: none; stroke: #0072b2', svg
    )
    points = np.array([[float(x) for x in curves[0].split() if x not in "ML"]]).reshape(-1, 2)
    assert points[1, 0] - points[0, 0] == pytest.approx(points[2, 0] - points[1, 0])  # doubled
    rise = points[0, 1] - points[:, 1]  # SVG counts downwards
    assert rise / rise[2] == pytest.approx([0, 1 / 3, 1])


def test_of_many_networks_each_has_its_panel(tmp_path):
    mixes = ["sharp", "D2", "D4", "D8"]
    runs = [write_segmentation(tmp_path / mix, trained_on=mix) for mix in mixes]
    assert all(html_of(*runs).count(f">net ({mix})</text>") == 1 for mix in mixes)


def test_the_legend_gives_every_class_its_colour_and_names_the_errors(tmp_path):
    legend = legend_html(*write_segmentation(tmp_path / "run"), width=7)
    colours = dict(
        (name, colour)
        for colour, name in re.findall(r'background:rgb(.*?)"></i> (.*?)</li>', legend)
    )
    assert colours["ground"] == "(0, 0, 0)"
    assert colours["wheat"] == "(0, 128, 0)"  # the third of VOC's colours: a unicorn has the second
    assert colours["void"] == "(224, 224, 192)"
    assert colours["wrong, up to 7 px from a boundary"] == "(213, 94, 0)"
    assert colours["wrong, farther away"] == "(0, 114, 178)"


@pytest.mark.parametrize(
    "text",
    [
        "condition,class,value\nsharp,a,0.5\n",
        "condition,class,value,low,high\nsharp,a,much,0,1\n",
        "condition,class,value,low,high\nD99,a,0.5,0,1\n",
        "condition,class,value,low,high\nsharp,a\n",
    ],
)
def test_a_damaged_table_is_named_in_one_line(tmp_path, text):
    folder, records = write_segmentation(tmp_path / "run")
    (folder / "class_iou.csv").write_text(text)
    with pytest.raises(InputError, match=r"class_iou\.csv: cannot be read as a table") as caught:
        html_of((folder, records))
    assert "\n" not in str(caught.value)


def test_a_page_shows_them_and_says_what_is_what_in_the_pictures(tmp_path):
    config = {"model": {"init_args": {"boundary_width": 5}}}
    folder, _ = write_segmentation(tmp_path / "run", provenance={"config": config})
    (folder / "examples").mkdir()
    (folder / "examples/D4.jpg").write_bytes(b"x")
    report([folder], out=tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "IoU of each class (%) on fields" in page
    assert page.index("wrong, up to 5 px from a boundary") < page.index('<div class="strips">')
    (folder / "provenance.json").write_text("{}")
    report([folder], out=tmp_path / "page.html")
    assert "up to some px" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_runs_that_their_settings_set_apart_are_not_averaged(tmp_path):
    runs = [write_segmentation(tmp_path / name, gain=g) for name, g in (("a", 0.0), ("b", 0.04))]
    settings = {"a": "lr 0.1", "b": "lr 0.2"}
    records = [record for _, own in runs for record in own]
    html = segmentations_html(dict(runs), styles_of(sections_of(records, settings)), settings)
    assert [row[1] for row in tables(html) if row[0] == "ground"] == [
        "90.0 88.0-93.0",
        "94.0 92.0-97.0",
    ]


def test_names_of_classes_are_escaped(tmp_path):
    folder, records = write_segmentation(tmp_path / "run")
    path = folder / "class_iou.csv"
    path.write_text(path.read_text().replace("wheat", "<b>wheat"))
    assert "<b>wheat" not in html_of((folder, records)) + legend_html(folder, records, width=4)

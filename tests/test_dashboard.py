"""The page in a real browser: what it shows, what it asks for, and what it refuses to run."""

import csv
import io
import json
import re
import threading

import numpy as np
import pytest
from chromium import PROGRAM, browser

from blur_lightning.records.robustness import Record, read_records, write_run
from blur_lightning.records.rounding import rounded
from blur_lightning.report import explorer
from blur_lightning.report.page import report
from blur_lightning.report.serving import ReportServer

pytestmark = pytest.mark.skipif(PROGRAM is None, reason="there is no chromium")
EVIL = "</script><script>window.evil=1</script><!--<img src=x onerror=evil=1>"
BLURS = [
    ("sharp", "sharp", 0.0),
    ("D2", "disk", 2.0),
    ("D4", "disk", 4.0),
    ("G1", "gaussian", 1.0),
    ("G2", "gaussian", 2.0),
    ("shake", "shake", None),
]


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as opened:
        yield opened


def make_run(folder, *, gain=0.0, trained_on="original", model="net", seed=0):
    """A run on 80 images; its top-1 is worse by .1 for every blur in the list."""
    count = 80  # in % many values end in 25 or 75
    draws = np.random.default_rng(7).random((len(BLURS), count))  # the same images are hard
    records, right = [], []
    for i, blur in enumerate(BLURS):
        right.append(draws[i] < 0.9 - 0.1 * i + gain)
        fields = (folder.name, model, trained_on, "photos", count, *blur, "224")
        value = float(right[i].mean())
        records.append(Record(*fields, "top1", value, value - 0.0625, value + 0.0625))
        records.append(Record(*fields, "entropy", i + 1 / 3, None, None))
    images = {
        "index": np.tile(np.arange(count), len(BLURS)),
        "condition": np.repeat([name for name, _, _ in BLURS], count),
        "top1": np.concatenate(right),
    }
    facts = {"data": {"fingerprint": {"test": "one"}}, "config": {"name": EVIL}}
    write_run(folder, records=records, images=images, provenance=facts)
    (folder / "examples").mkdir(exist_ok=True)
    for name in ("sharp", "D2"):
        (folder / "examples" / f"{name}.png").write_bytes(b"")
    return folder


@pytest.fixture(scope="module")
def report_of_two(tmp_path_factory):
    """A page of two runs, and their records."""
    folder = tmp_path_factory.mktemp("two")
    runs = [make_run(folder / "first"), make_run(folder / "second", gain=-0.4, trained_on="D2")]
    report(runs, out=folder / "page.html")
    return folder / "page.html", [record for run in runs for record in read_records(run)]


@pytest.fixture
def page(report_of_two, tab):
    """The same, opened as for the first time."""
    file, records = report_of_two
    tab.open(file.as_uri())
    yield tab, records
    tab.run("sessionStorage.clear()")


def numbers(tab):
    """Rows of the table below the chart: network, blur, value, interval, n, runs."""
    return tab.run(
        "[...document.querySelectorAll('#numbers tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent.trim()))"
    )


def choose(tab, group, text):
    """Click a tab, and wait for the chart that it leads to."""
    clicked = tab.run(
        f"[...document.querySelectorAll('#{group} label')]"
        f".filter(label => label.textContent === {json.dumps(text)}).map(label => label.click())"
    )
    assert len(clicked) == 1
    settle(tab)


def settle(tab):
    tab.run("document.getElementById('chart').drawn.then(() => 0)")


def test_a_page_opens_from_disk_without_errors_and_without_requests(page):
    tab, _ = page
    assert tab.errors == []
    asked = [address for address in tab.requests if not address.startswith("data:")]
    assert len(asked) == 1
    assert asked[0].startswith("file:")


def test_the_policy_of_the_page_forbids_requests_and_other_scripts(page):
    tab, _ = page
    assert tab.run("fetch('http://127.0.0.1:9/').then(() => 'sent', () => 'refused')") == "refused"
    assert "Content Security Policy" in " ".join(tab.errors)
    tab.run(
        "const added = document.createElement('script'); added.textContent = 'window.added = 1';"
        "document.body.append(added)"
    )
    assert tab.run("window.added ?? 0") == 0


def test_the_numbers_below_a_chart_are_those_of_the_records(page):
    tab, records = page
    shown = {(row[0], row[1]): row[2:] for row in numbers(tab)}
    expected = {
        (f"net ({r.trained_on})", r.condition): [
            f"{100 * r.value:.3f} %",
            f"{100 * r.low:.3f}-{100 * r.high:.3f}".replace("-", "\N{EN DASH}"),
            "80",
            r.run,
        ]
        for r in records
        if r.metric == "top1" and r.condition in ("sharp", "D2", "D4")
    }
    assert shown == expected


def test_tabs_choose_the_metric_and_the_family(page):
    tab, _ = page
    choose(tab, "metric", "entropy (nats)")
    choose(tab, "blur", "Gaussian sigma (px)")
    assert [row[1:3] for row in numbers(tab)][:3] == [
        ["sharp", "0.3333 nats"],
        ["G1", "3.3333 nats"],
        ["G2", "4.3333 nats"],
    ]
    titles = tab.run("[...document.querySelectorAll('#chart text')].map(text => text.textContent)")
    assert {"entropy (nats)", "Gaussian sigma (px)"} <= set(titles)


def test_arrow_keys_move_between_tabs(page):
    tab, _ = page
    tab.run("document.querySelector('#metric input').focus()")
    for kind in ("rawKeyDown", "keyUp"):
        tab.call(
            "Input.dispatchKeyEvent",
            type=kind,
            key="ArrowRight",
            code="ArrowRight",
            windowsVirtualKeyCode=39,
        )
    settle(tab)
    assert numbers(tab)[0][2] == "0.3333 nats"


def test_the_legend_hides_and_shows_networks(page):
    tab, _ = page
    marks = "document.querySelectorAll('#chart .mark-symbol path').length"
    assert tab.run(marks) == 6
    tab.run("document.querySelectorAll('#keys input')[0].click()")
    settle(tab)
    assert tab.run(marks) == 3
    assert {row[0] for row in numbers(tab)} == {"net (D2)"}
    for button, count in (("none", 0), ("all", 6)):
        tab.run(f"document.getElementById('{button}').click()")
        settle(tab)
        assert tab.run(marks) == count
        ticked = "document.querySelectorAll('#keys :checked').length"
        assert tab.run(ticked) == count // 3


def test_hovering_a_point_tells_its_number(page):
    tab, records = page
    place = tab.run(
        "document.getElementById('chart').scrollIntoView();"
        "const box = document.querySelectorAll('#chart .mark-symbol path')[1]"
        ".getBoundingClientRect(); [box.x + box.width / 2, box.y + box.height / 2]"
    )
    for shift in (5, 0):
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0] + shift, y=place[1])
    text = tab.wait("document.querySelector('#vg-tooltip-element.visible')?.textContent")
    record = next(r for r in records if (r.condition, r.metric) == ("D2", "top1"))
    assert f"{100 * record.value:.3f} %" in text
    assert f"{100 * record.low:.3f}\N{EN DASH}{100 * record.high:.3f}" in text
    assert "first" in text


def test_curves_that_coincide_are_both_seen_and_named(tmp_path, tab):
    runs = [make_run(tmp_path / name, trained_on=name) for name in ("D1", "D2")]
    runs.append(make_run(tmp_path / "D3", trained_on="D3", gain=-0.2))
    report(runs, out=tmp_path / "page.html")
    tab.open((tmp_path / "page.html").as_uri())
    marks = "[...document.querySelectorAll('#chart .mark-symbol path')]"
    sizes = tab.run(f"{marks}.map(mark => Math.round(mark.getBBox().width))")
    assert [size > sizes[-1] for size in sizes] == [True] * 3 + [False] * 6
    dashes = (
        "[...document.querySelectorAll('#chart .mark-line path')]"
        ".map(line => line.getAttribute('stroke-dasharray'))"
    )
    assert sorted(tab.run(dashes)) == ["1,0", "1,0", "7,7"]
    place = tab.run(
        "document.getElementById('chart').scrollIntoView();"
        f"const box = {marks}[1].getBoundingClientRect();"
        "[box.x + box.width / 2, box.y + box.height / 2]"
    )
    for shift in (5, 0):
        tab.call("Input.dispatchMouseEvent", type="mouseMoved", x=place[0] + shift, y=place[1])
    text = tab.wait("document.querySelector('#vg-tooltip-element.visible')?.textContent")
    assert "net (D1); net (D2)" in text
    assert tab.errors == []
    tab.run("document.querySelectorAll('#keys input')[0].click()")
    settle(tab)
    assert tab.run(dashes) == ["1,0", "1,0"]


def test_a_data_set_offers_the_metrics_that_it_has(tmp_path, tab):
    runs = [make_run(tmp_path / name) for name in ("a", "b")]
    for run, metric, dataset in zip(runs, ("top5", "psnr"), ("photos", "scenes"), strict=True):
        file = run / "robustness.csv"
        text = file.read_text().replace(",entropy,", f",{metric},")
        file.write_text(text.replace(",photos,", f",{dataset},"))
    report(runs, out=tmp_path / "page.html")
    tab.open((tmp_path / "page.html").as_uri())
    offered = "[...document.querySelectorAll('#metric label')].map(label => label.textContent)"
    assert tab.run(offered) == ["top-1 (%)", "top-5 (%)"]
    choose(tab, "metric", "top-5 (%)")
    choose(tab, "dataset", "scenes")
    assert tab.run(offered) == ["top-1 (%)", "PSNR (dB)"]
    assert numbers(tab)[0][2].endswith(" %")  # top-5 is none of its own
    tab.run("sessionStorage.clear()")


def test_axes_become_logarithmic(page):
    tab, _ = page
    ticks = (
        "[...document.querySelectorAll('#chart .mark-symbol path')]"
        ".map(mark => mark.getBoundingClientRect().x)"
    )
    sharp, middle, last = tab.run(ticks)[:3]
    assert middle - sharp == pytest.approx(last - middle, abs=0.1)
    tab.run("document.getElementById('log-x').click()")
    settle(tab)
    sharp, middle, last = tab.run(ticks)[:3]
    # log(1 + 2) and log(1 + 4)
    assert (middle - sharp) / (last - sharp) == pytest.approx(np.log(3) / np.log(5), abs=0.01)
    tab.run("document.getElementById('log-y').click()")
    settle(tab)
    assert tab.errors == []
    assert tab.run("document.querySelectorAll('#chart .mark-symbol path').length") == 6


def test_the_download_holds_the_records_exactly(page):
    tab, records = page
    text = tab.run(
        "new Promise(done => { URL.createObjectURL = blob => { blob.text().then(done);"
        " return '#'; }; document.getElementById('csv').click(); })"
    )
    rows = list(csv.DictReader(io.StringIO(text)))
    assert len(rows) == len(records)
    by_place = {(r.run, r.condition, r.metric): r for r in records}
    for row in rows:
        record = by_place[row["run"], row["condition"], row["metric"]]
        for column, value in row.items():
            expected = getattr(record, column)
            if isinstance(expected, float | int):
                assert float(value) == expected
            else:
                assert value == (expected or "")


def test_two_runs_are_compared_with_significance(page):
    tab, records = page
    rows = tab.run(
        "[...document.querySelectorAll('#differences tbody tr')]"
        ".map(row => [...row.cells].map(cell => cell.textContent))"
    )
    assert [row[1] for row in rows] == [name for name, _, _ in BLURS]
    assert {row[-1] for row in rows} == {"no ▼"}
    for name, column in (("first", 3), ("second", 4)):
        own = [r.value for r in records if (r.run, r.metric) == (name, "top1")]
        assert [row[column] for row in rows] == [rounded(100 * value, 1) for value in own]
        assert any(f"{100 * value:.1f}" != rounded(100 * value, 1) for value in own)
    first, other, difference = (float(text.replace("\N{MINUS SIGN}", "-")) for text in rows[0][3:6])
    assert difference == pytest.approx(other - first, abs=0.11)


def test_the_slider_shows_one_picture(page):
    tab, _ = page
    seen = (
        "[...document.querySelectorAll('.strip')].filter(strip => strip.offsetParent)"
        ".map(strip => strip.querySelector('figcaption').textContent)"
    )
    assert tab.run(seen) == ["sharp"]
    tab.run(
        "const slider = document.querySelector('.slider input'); slider.value = 1;"
        "slider.dispatchEvent(new Event('input'))"
    )
    assert tab.run(seen) == ["D2"]
    assert tab.run("document.querySelector('.slider input').ariaValueText") == "D2"


def test_print_shows_the_drawings_and_all_pictures(page):
    tab, _ = page
    shown = "['.static', '#explorer', '.unseen'].map(x => !!document.querySelector(x).offsetParent)"
    assert tab.run(shown) == [False, True, False]
    tab.call("Emulation.setEmulatedMedia", media="print")
    try:
        assert tab.run(shown) == [True, False, True]
    finally:
        tab.call("Emulation.setEmulatedMedia", media="")


def test_a_name_with_a_script_in_it_does_nothing(tmp_path, tab):
    run = make_run(tmp_path / "run", model=EVIL, trained_on=EVIL)
    report([run], out=tmp_path / "page.html")
    tab.open((tmp_path / "page.html").as_uri())
    assert tab.run("window.evil ?? 0") == 0
    assert tab.errors == []
    assert tab.run("document.querySelectorAll('script').length") == 3
    assert numbers(tab)[0][0] == f"{EVIL} ({EVIL})"


def test_a_diverged_network_leaves_a_page_that_works(tmp_path, tab):
    run = make_run(tmp_path / "run")
    file = run / "robustness.csv"
    file.write_text(re.sub(r"entropy,[^,]*", "entropy,inf", file.read_text()))
    report([run], out=tmp_path / "page.html")
    tab.open((tmp_path / "page.html").as_uri())
    choose(tab, "metric", "entropy (nats)")
    assert tab.errors == []
    assert numbers(tab)[0][2] == "inf nats"


def test_a_served_page_renews_itself_when_a_run_is_added(tmp_path, tab):
    make_run(tmp_path / "runs" / "first")
    out = tmp_path / "page.html"

    def build():
        report([tmp_path / "runs"], out=out)
        return out.read_text(encoding="utf-8")

    with ReportServer([tmp_path / "runs"], build) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            tab.open(server.address)
            assert tab.errors == []
            assert tab.run("document.querySelectorAll('#keys li').length") == 1
            make_run(tmp_path / "runs" / "second", trained_on="D2")
            tab.wait("document.querySelectorAll('#keys li').length === 2")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.slow
def test_the_library_is_made_where_nothing_can_be_kept(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(explorer, "CACHE", tmp_path / "file" / "cache")
    made = explorer.library()
    monkeypatch.setattr(explorer, "CACHE", tmp_path / "cache")
    assert explorer.library() == made
    (kept,) = (tmp_path / "cache").iterdir()
    assert kept.read_text(encoding="utf-8") == made
    assert "</script" not in made

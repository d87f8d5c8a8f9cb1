"""What a report says beyond the records: papers, summaries, ImageNet-C's errors, the diary."""

import json
from pathlib import Path

import pytest

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import Record, read_records, write_run
from blur_lightning.report.findings import (
    diaries_html,
    failures,
    paper_texts,
    summaries_html,
    unfinished,
)
from blur_lightning.report.page import report

RECORD = Record(
    *("run", "vgg16.tv_in1k", "original", "imagenet", 50_000, "sharp", "sharp", 0.0, "256"),
    *("top1", 0.7, 0.69, 0.71),
)


def of(condition, value, **changes):
    family = "disk" if condition.startswith("D") else condition.rpartition("-")[0] or condition
    parameter = float(condition.lstrip("D").rpartition("-")[2]) if condition != "sharp" else 0.0
    blur = {"condition": condition, "family": family, "parameter": parameter}
    return RECORD._replace(**blur, value=value, **changes)


def trial(folder, error, *, status="failed", **parameters):
    folder.mkdir(parents=True)
    command = ["-m", "blur_lightning", "fit", "--config", "experiments/vasiljevic2016_table3.yaml"]
    content = {"status": status, "error": error, "parameters": parameters, "command": command}
    (folder / "trial.json").write_text(json.dumps(content))


def test_a_curve_is_summarised_by_its_area_and_where_it_has_halved():
    html = summaries_html([of("sharp", 0.8), of("D2", 0.6), of("D4", 0.2)])
    # Trapezoids: (0.7 + 0.4) / 2; half of 0.8 lies in the middle between 0.6 and 0.2.
    assert "<td>1</td><td>55.0</td><td>3.00</td>" in html
    assert '<th scope="row">0 to 4</th>' in html


def test_curves_of_several_runs_are_summarised_by_their_mean():
    first = [of("sharp", 0.8), of("D4", 0.2)]
    second = [record._replace(run="b", value=record.value + 0.1) for record in first]
    html = summaries_html([*first, *second])
    assert html.count("<tr>") == 2
    # Halves lie at 2.667 and, of 0.9, at 3.
    assert "<td>2</td><td>55.0</td><td>2.83</td>" in html


def test_errors_of_imagenet_c_have_both_denominators():
    records = [of(f"defocus_blur_legacy-{s}", 1 - s / 10) for s in range(1, 6)]
    html = summaries_html(records)
    assert "Corruption errors" in html
    for denominator, alexnet in (("hendrycks2019", 0.819880), ("robustbench", 0.822)):
        assert denominator in html
        assert f"<td>{100 * 0.3 / alexnet:.1f}</td>" in html
    assert "Corruption errors" not in summaries_html(records[:4])


def test_failed_trials_say_why_a_cell_of_a_paper_is_missing(tmp_path):
    trial(tmp_path / "a", "there is no folder data/imagenet/val", **{"data.blur": "D8"})
    assert failures([tmp_path], "kim_table3_4") == {}
    reasons = failures([tmp_path], "vasiljevic2016_table3")
    assert reasons == {"D8": "there is no folder data/imagenet/val"}
    text, _ = paper_texts("vasiljevic2016_table3", [], reasons)
    lines = [line for line in text.splitlines() if " D8 " in line and "sharp+D8" not in line]
    assert any("not run: there is no folder data/imagenet/val" in line for line in lines)
    assert "not run: no run of vgg16 among those given" in text


def test_a_trial_that_cannot_be_read_is_named(tmp_path):
    (tmp_path / "trial.json").write_text("{")
    with pytest.raises(InputError, match=r"trial\.json: no record of a trial"):
        failures([tmp_path], "kim_table3_4")


def test_trials_without_a_result_are_counted_and_named(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for place, error in enumerate(("no <data>", "no <data>", "out of luck", None)):
        trial(Path(f"s/t{place}"), error, status="failed" if error else "finished")
    trial(Path("s/t4"), None, status="pruned")
    trial(Path("s/t5"), None, status="started")
    assert unfinished([Path("s"), Path("s/t5")]) == [
        "2 of 6 trials failed: no <data> (s/t0/log.txt, s/t1/log.txt)",
        "1 of 6 trials failed: out of luck (s/t2/log.txt)",
        "1 of 6 trials pruned (s/t4)",
        "1 of 6 trials not finished (s/t5)",
    ]
    assert unfinished([Path("s/t3")]) == []


def test_a_report_says_which_trials_it_leaves_out(tmp_path, capsys):
    write_run(tmp_path / "run", records=[RECORD], images={"index": [0]}, provenance={})
    trial(tmp_path / "bad", "no <data>")
    report([tmp_path], out=tmp_path / "page.html")
    line = f"1 of 1 trials failed: no <data> ({tmp_path / 'bad/log.txt'})"
    assert capsys.readouterr().err.splitlines() == [line]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert f'<p class="note">{line.replace("<data>", "&lt;data&gt;")}.</p>' in page


def test_a_report_shows_a_paper_where_every_trial_failed(tmp_path, capsys):
    trial(tmp_path / "sweep" / "a", "there is no folder <data>")
    page = tmp_path / "page.html"
    report([tmp_path / "sweep"], out=page, paper=["vasiljevic2016_tableA"])
    assert "not run: there is no folder <data>" in capsys.readouterr().out
    assert "not run: there is no folder &lt;data&gt;" in page.read_text(encoding="utf-8")


def test_a_report_shows_measured_beside_published(tmp_path, capsys):
    top5 = RECORD._replace(metric="top5", value=0.9, low=0.897, high=0.903)
    write_run(tmp_path / "run", records=[top5], images={"index": [0]}, provenance={})
    report([tmp_path / "run"], out=tmp_path / "p.html", paper=["vasiljevic2016_table1"])
    line = next(x for x in capsys.readouterr().out.splitlines() if x.startswith("vgg16.tv_in1k"))
    interval = "89.70\N{EN DASH}90.30"
    assert line.split()[-5:] == ["90.88", "90.00", "-0.88", interval, "50,000"]
    assert read_records(tmp_path / "run") == [top5]


def test_an_unknown_paper_is_refused_before_anything_is_written(tmp_path):
    write_run(tmp_path / "run", records=[RECORD], images={"index": [0]}, provenance={})
    with pytest.raises(InputError, match="table 'table9': unknown; use one of"):
        report([tmp_path / "run"], out=tmp_path / "p.html", paper=["table9"])
    assert not (tmp_path / "p.html").exists()


def test_runs_without_a_diary_have_no_chart(tmp_path):
    assert diaries_html({"run": tmp_path}) == ""


def test_a_diary_is_drawn_as_a_part_of_the_page(tmp_path):
    columns = "epoch,family,level_low,level_high,n,top1,low,high,loss,loss_low,loss_high"
    rows = [f"0,disk,{r},{r},50,0.5,0.4,0.6,1.0,0.9,1.1" for r in (2.0, 4.0)]
    (tmp_path / "diary.csv").write_text("\n".join([columns, *rows, ""]))
    html = diaries_html({"<run>": tmp_path})
    assert "<h3>&lt;run&gt;</h3>" in html
    assert "<svg" in html
    assert "<?xml" not in html
    assert "currentColor" in html

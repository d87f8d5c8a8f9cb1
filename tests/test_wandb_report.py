"""What a report on W&B holds, against the records, the local page and what runs log."""

import json
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image
from wandb_server import ENTITY, Run
from wandb_workspaces.reports.v2 import interface

from blur_lightning.cli import main
from blur_lightning.errors import InputError
from blur_lightning.online import RUN_ID
from blur_lightning.records.curves import sections_of, styles_of
from blur_lightning.records.robustness import Record, write_run
from blur_lightning.report.explorer import page_data
from blur_lightning.report.page import report
from blur_lightning.report.wandb_report import Place, make_report, read_place

BLURS = {
    "sharp": ("sharp", 0.0),
    "D2": ("disk", 2.0),
    "D4": ("disk", 4.0),
    "M5@30": ("motion", 5.0),
    "M9@30": ("motion", 9.0),
    "D4%50": ("disk", 4.0),
    "D8%50": ("disk", 8.0),
    "G4": ("gaussian", 4.0),  # one strength makes no curve
    "shake": ("shake", None),
}
PLACE = Place(ENTITY, "blurs")
LOST = pytest.param("lost", marks=pytest.mark.slow)  # answers the login and then nothing


def records_of(run, blurs=BLURS, *, metrics=("top1", "entropy", "novel"), **facts):
    fields = {"run": run, "model": "net", "trained_on": "sharp", "dataset": "photos", "n": 20}
    fields |= {"scale": "224", "low": None, "high": None, **facts}
    return [
        Record(condition=name, family=family, parameter=x, metric=metric, value=0.5, **fields)
        for name, (family, x) in blurs.items()
        for metric in metrics
    ]


@pytest.fixture
def spec(monkeypatch):
    """What would be sent, without a server."""
    answer = {"project": {"internalId": "7"}}
    monkeypatch.setattr(interface, "_get_api", lambda: None)
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: answer)

    def made(runs, place=PLACE):
        model = make_report(runs, place)._to_model()
        return json.loads(model.spec.model_dump_json(by_alias=True, exclude_none=True))

    return made


def text_of(block):
    return "".join(child.get("text", "") for child in block.get("children", []))


def grids_of(spec):
    """Of each grid: the headings above it, the ids that it is filtered to, and its panels."""
    headings, grids = {}, []
    for block in spec["blocks"]:
        if block["type"] == "heading":
            headings = {k: v for k, v in headings.items() if k < block["level"]}
            headings[block["level"]] = text_of(block)
        elif block["type"] == "panel-grid":
            (runset,) = block["metadata"]["runSets"]
            (only,) = runset["filters"]["filters"]
            assert (only["key"], only["op"]) == ({"section": "run", "name": "name"}, "IN")
            assert runset["project"] == {"name": PLACE.project, "entityName": ENTITY, "id": "7"}
            panels = block["metadata"]["panelBankSectionConfig"]["panels"]
            grids.append((tuple(headings.values()), only["value"], panels))
    return grids


def plots_of(spec):
    return [panel["config"] for _, _, panels in grids_of(spec)[:-1] for panel in panels]


def test_each_family_has_a_grid_with_a_plot_for_each_metric(spec):
    found = {}
    for headings, _, panels in grids_of(spec({"id1": records_of("a")}))[:-1]:
        assert {panel["viewType"] for panel in panels} == {"Run History Line Plot"}
        found[headings] = [(p["config"]["xAxis"], p["config"]["metrics"]) for p in panels]
    curves = {
        "disk radius (px)": "disk",
        "box length at 30° (px)": "motion@30",
        "disk radius on 50 % (px)": "disk%50",
    }
    assert found == {
        ("net on photos", axis): [
            (f"curve/{curve}/parameter", [f"curve/{curve}/{metric}"])
            for metric in ("top1", "entropy", "novel")
        ]
        for axis, curve in curves.items()
    }


def test_the_families_are_those_of_the_local_page(spec):
    records = records_of("a")
    sections = sections_of(records)
    (section,) = page_data(sections, styles_of(sections), [("a", "sharp")], [])["sections"]
    axes = [axis["title"] for axis in section["axes"]]
    assert [headings[1] for headings, *_ in grids_of(spec({"id1": records}))[:-1]] == axes


def test_lines_are_means_of_the_runs_of_a_mix_over_the_runs(spec):
    runs = {f"id{i}": records_of(f"r{i}", trained_on=f"D{i % 3}") for i in range(12)}
    for plot in plots_of(spec(runs)):
        assert plot["groupBy"] == "provenance.value.trained_on"
        assert (plot["aggregate"], plot["groupAgg"], plot["groupArea"]) == (True, "mean", "samples")
        assert plot["limit"] == 12


def test_axes_have_the_units_of_what_is_logged(spec):
    top1, entropy, novel = plots_of(spec({"id1": records_of("a")}))[:3]
    assert [p["chartTitle"] for p in (top1, entropy, novel)] == ["top-1", "entropy", "novel"]
    assert (top1["yAxisTitle"], top1["yAxisMin"], top1["yAxisMax"]) == ("fraction", 0, 1)
    assert entropy["yAxisTitle"] == "nats"
    assert {"yAxisMin", "yAxisMax"}.isdisjoint({*entropy, *novel})
    assert {p["xAxisTitle"] for p in (top1, entropy, novel)} == {"disk radius (px)"}


def test_networks_and_data_sets_are_never_averaged(spec):
    runs = {
        "one": records_of("a"),
        "two": records_of("b", trained_on="D2"),
        "other": records_of("c", model="deep"),
        "large": records_of("d", scale="448"),
        "scenes": records_of("e", dataset="scenes"),
    }
    *own, (_, every, _) = grids_of(spec(runs))
    assert {(headings[0], *ids) for headings, ids, _ in own} == {
        ("net on photos", "one", "two"),
        ("deep on photos", "other"),
        ("net on photos", "large"),
        ("net on scenes", "scenes"),
    }
    assert len(own) == 4 * 3
    assert every == [*runs]


def test_the_text_says_what_was_measured(spec):
    runs = {i: records_of(i, trained_on=mix) for i, mix in (("a", "D2"), ("b", "D2"), ("c", "G1"))}
    texts = [text_of(b) for b in spec(runs)["blocks"] if b["type"] == "paragraph"]
    assert any(text.startswith(f"3 runs of {ENTITY}/blurs. ") for text in texts)
    assert "Input: 224 px. Trained on D2 (2 runs, n = 20), G1 (1 run, n = 20)." in texts
    (alone,) = [
        t for t in map(text_of, spec({"a": records_of("a")})["blocks"]) if " of tester" in t
    ]
    assert alone.startswith("1 run of ")


def test_conditions_pictures_and_settings_of_all_runs_end_the_report(spec):
    headings, _, panels = grids_of(spec({"id1": records_of("a")}))[-1]
    assert headings == ("Conditions, pictures and settings",)
    kinds = [panel["viewType"] for panel in panels]
    assert kinds == ["Weave", "Media Browser", "Run Comparer"]
    assert '"val": "conditions"' in json.dumps(panels[0]["config"])
    assert panels[1]["config"]["mediaKeys"] == ["examples"]
    corners = [(panel["layout"]["x"], panel["layout"]["y"]) for panel in panels]
    assert corners == [(0, 0), (0, 12), (0, 24)]


def test_plots_of_a_grid_do_not_cover_one_another(spec):
    metrics = [f"metric{i}" for i in range(8)]
    _, _, panels = grids_of(spec({"id1": records_of("a", metrics=metrics)}))[0]
    boxes = [panel["layout"] for panel in panels]
    covered = [(x, y) for b in boxes for x in range(b["x"], b["x"] + b["w"]) for y in (b["y"],)]
    assert len({*covered}) == len(covered) == 8 * 8
    assert max(b["x"] + b["w"] for b in boxes) <= 24


def test_without_a_curve_the_report_says_so(spec):
    made = spec({"id1": records_of("a", {"sharp": BLURS["sharp"], "shake": BLURS["shake"]})})
    assert len(grids_of(made)) == 1
    assert "No blur was tested at two strengths." in [text_of(b) for b in made["blocks"]]


def test_odd_names_arrive_as_they_are(spec):
    odd = 'it\'s "a" <b>&amp;</b> [x](y) #1 \\n *net*\u2028'
    ids = ["it's", '"', "a, b]", "back\\slash", "é"]
    facts = {"model": odd, "dataset": odd, "trained_on": "0.2*sharp+0.8*shake"}
    blurs = {"M5@-30..30%50": ("motion", 5.0), "M9@-30..30%50": ("motion", 9.0)}
    made = spec({i: records_of(i, blurs, metrics=[odd], **facts) for i in ids})
    *own, (_, every, _) = grids_of(made)
    ((headings, some, panels),) = own
    assert every == some == ids
    assert headings[0] == f"{odd} on {odd}"
    (panel,) = panels
    assert panel["config"]["xAxis"] == "curve/motion@-30..30%50/parameter"
    assert panel["config"]["metrics"] == [f"curve/motion@-30..30%50/{odd}"]
    assert any("0.2*sharp+0.8*shake (5 runs" in text_of(block) for block in made["blocks"])


def make_run(folder: Path, run, **facts) -> Path:
    records = records_of(folder.name, **facts)
    write_run(folder, records=records, images={"index": [0]}, provenance={})
    (folder / RUN_ID).write_text(f"{run}\n")
    return folder


@pytest.fixture
def runs(tmp_path):
    mixes = {"a": "sharp", "b": "sharp+D2"}
    return [make_run(tmp_path / i, f"id-{i}", trained_on=mix) for i, mix in mixes.items()]


def known(server, *ids, project=PLACE.project):
    server.runs |= {i: Run(i, project=project, name=i) for i in ids}


def error_of(capsys):
    out, err = capsys.readouterr()
    (line,) = [line for line in err.splitlines() if line]
    assert out == ""
    return line.removeprefix("error: ")


def test_the_report_is_saved_and_its_address_printed(server, runs, capsys, tmp_path):
    known(server, "id-a", "id-b", "another")
    assert main(["report", *map(str, runs), "--wandb", str(PLACE)]) == 0
    address = f"{server.url}/{PLACE}/reports/Robustness-to-blur--report1"
    assert capsys.readouterr() == (f"{address}\n", "")
    assert not [*tmp_path.rglob("*.html")]
    (sent,) = server.reports
    assert (sent["entityName"], sent["projectName"]) == PLACE
    assert (sent["displayName"], sent["type"]) == ("Robustness to blur", "runs")
    assert [ids for b in sent["spec"]["blocks"] for ids in _ids(b)] == [["id-a", "id-b"]] * 4
    assert not server.unknown


def _ids(block):
    for runset in block.get("metadata", {}).get("runSets", []):
        yield runset["filters"]["filters"][0]["value"]


def test_the_local_page_is_made_as_well_where_it_has_a_name(server, runs, tmp_path, capsys):
    known(server, "id-a", "id-b", project="my blurs")
    report(runs, out=tmp_path / "page.html", wandb=f"{ENTITY}/my blurs")
    assert (tmp_path / "page.html").is_file()
    assert capsys.readouterr().out.startswith(f"{server.url}/{ENTITY}/my%20blurs/reports/")


def test_the_report_draws_what_the_tracker_logs(server, tmp_path, monkeypatch, spec):
    from blur_lightning.tracking import Tracker

    folder = make_run(tmp_path / "run", "tracked", trained_on="sharp+D2")
    (folder / "examples").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(folder / "examples" / "D4.jpg")
    tracker = Tracker(PLACE.project)
    tracker.folder = folder
    facts = {"config": None, "trained_on": "sharp+D2", "kernel_banks": {}}
    tracker.log_graph(SimpleNamespace(provenance=lambda: dict(facts)))
    records = records_of("run", trained_on="sharp+D2")
    tracker.log_test(folder, records)
    tracker.finish()
    run = server.runs["tracked"]
    plots = plots_of(spec({"tracked": records}))
    assert len(plots) == 9
    for plot in plots:
        (metric,) = plot["metrics"]
        assert run.axes[metric] == plot["xAxis"]
        points = [row for row in run.history if {metric, plot["xAxis"]} <= row.keys()]
        assert len(points) == 3  # sharp and two strengths
        key, value, *path = plot["groupBy"].split(".")
        assert (value, path) == ("value", ["trained_on"])
        assert run.config[key]["trained_on"] == "sharp+D2"
    assert {"conditions", "examples"} <= {*run.summary}


def test_a_run_that_the_project_lacks_is_named(server, runs, capsys):
    known(server, "id-a")
    assert main(["report", *map(str, runs), "--wandb", str(PLACE)]) == 2
    line = error_of(capsys)
    assert f"{PLACE} has no run id-b" in line
    assert f"wandb sync {runs[1]}/wandb/*run-*-id-b" in line
    assert not server.reports


def test_a_project_that_is_not_there_is_one_line(server, runs, capsys):
    assert main(["report", *map(str, runs), "--wandb", "tester/nowhere"]) == 2
    line = error_of(capsys)
    assert line.startswith("--wandb: no report in tester/nowhere: ")
    assert not server.reports


@pytest.mark.parametrize("problem", ["no key", "wrong key", "offline", "refused", LOST])
def test_without_the_server_it_is_one_line_within_seconds(
    server, runs, capsys, monkeypatch, problem
):
    def ask(*_, **__):
        raise AssertionError("asked for a key")

    monkeypatch.setattr("wandb.sdk.lib.wbauth.prompt.prompt_and_save_api_key", ask)
    monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")
    known(server, "id-a", "id-b")
    if problem == "no key":
        monkeypatch.delenv("WANDB_API_KEY")
    elif problem == "wrong key":
        monkeypatch.setenv("WANDB_API_KEY", "x" * 40)
    elif problem == "offline":
        monkeypatch.setenv("WANDB_MODE", "offline")
    elif problem == "refused":
        server.close()
    else:
        monkeypatch.setattr(server, "_Runs", lambda _: time.sleep(2.5))
    start = time.monotonic()
    assert main(["report", *map(str, runs), "--wandb", str(PLACE)]) == 2
    assert time.monotonic() - start < 15
    line = error_of(capsys)
    assert line.startswith("--wandb: ")
    assert str(PLACE) in line
    if problem != "lost":
        reason = {"no key": "see wandb login", "offline": "WANDB_MODE is offline"}
        assert reason.get(problem, "no login") in line
    assert not server.reports


def test_without_the_package_one_line_says_how_to_install_it(runs, capsys, monkeypatch):
    for name in [name for name in sys.modules if name.startswith("wandb_workspaces")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "wandb_workspaces", None)
    assert main(["report", *map(str, runs), "--wandb", str(PLACE)]) == 2
    assert error_of(capsys).endswith("pip install 'blur_lightning[wandb-reports]'")


def test_without_a_run_there_is_no_report(server):
    with pytest.raises(InputError, match="nothing to report"):
        report([], wandb=str(PLACE))
    assert not server.reports


def test_a_run_without_an_id_is_named(runs, capsys):
    (runs[1] / RUN_ID).unlink()
    assert main(["report", *map(str, runs), "--wandb", str(PLACE)]) == 2
    assert error_of(capsys).startswith(f"{runs[1] / RUN_ID}: missing, so W&B has no run")


@pytest.mark.parametrize("text", ["", "a", "/a", "a/", "a/b/c", "a b/c", "a/b?c", "a/b\\c", "a/b#"])
def test_what_is_no_project_is_refused_before_anything_is_written(runs, tmp_path, text):
    with pytest.raises(InputError, match="give ENTITY/PROJECT"):
        report(runs, out=tmp_path / "page.html", wandb=text)
    assert not (tmp_path / "page.html").exists()


def test_a_project_is_read():
    assert read_place("my-team/Blurs of 2016 (v1.0)") == ("my-team", "Blurs of 2016 (v1.0)")


def test_a_page_needs_a_name(runs, capsys):
    assert main(["report", str(runs[0])]) == 2
    assert error_of(capsys).startswith("--out: none; name the page")

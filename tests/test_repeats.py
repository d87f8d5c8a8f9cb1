"""Which runs repeat one another, and what sets the others apart."""

import json
from pathlib import Path

import pytest

from blur_lightning.errors import InputError
from blur_lightning.records.curves import sections_of, styles_of
from blur_lightning.records.published import compare_with_paper, tables
from blur_lightning.records.repeats import Run, named_apart, read_runs, settings_of
from blur_lightning.records.robustness import Record, write_records, write_run
from blur_lightning.report.findings import summaries_html
from blur_lightning.report.page import report

ROW = Record("run", "net", "sharp+D2", "photos", 20, "D2", "disk", 2.0, "64", "top1", 0.5, 0.4, 0.6)


def optimizer(kind="torch.optim.SGD", **arguments):
    return {"class_path": kind, "init_args": arguments}


def run(name="run", *, seed=0, model=None, data=None, trained_on="sharp+D2", value=0.5, **trainer):
    """A run as it is read, by the parts of its configuration."""
    model = {"optimizer": optimizer(lr=0.1)} | (model or {})
    config = {
        "seed_everything": seed,
        "trainer": {"max_epochs": 3, "default_root_dir": f"runs/{name}", **trainer},
        "model": {"class_path": "blur_lightning.tasks.ClassificationTask", "init_args": model},
        "data": {"class_path": "blur_lightning.data.ScenesDataModule", "init_args": data or {}},
    }
    record = ROW._replace(run=name, trained_on=trained_on, value=value)
    return Run(Path(name, "robustness.csv"), [record], {"config": config})


def texts(*runs):
    return [*settings_of(runs).values()]


def test_runs_that_differ_in_their_seed_are_repeats():
    runs = [run("a", seed=0), run("b", seed=1), run("c", data={"seed": 3})]
    assert texts(*runs) == ["", "", ""]


def test_what_a_training_depends_on_sets_runs_apart():
    first = run("a", model={"optimizer": optimizer(lr=0.1, momentum=0.9)})
    second = run("b", model={"optimizer": optimizer(lr=0.01, momentum=0.9)}, max_epochs=5)
    assert texts(first, second) == ["max_epochs 3, lr 0.1", "max_epochs 5, lr 0.01"]
    batches = run("a", data={"batch_size": 8}), run("b", data={"batch_size": 16})
    assert texts(*batches) == ["batch_size 8", "batch_size 16"]


def test_what_moves_no_result_does_not():
    other = run(
        "b",
        model={"conditions": ["sharp"], "compile": True, "name": "net", "freeze": 0},
        data={"root": "elsewhere", "num_workers": 4, "val_blur": "D2", "capture": {"scale": 64}},
        accelerator="gpu",
        check_val_every_n_epoch=9,
    )
    assert texts(run("a"), other) == ["", ""]


def test_a_class_is_told_by_its_name_and_alike_ends_by_whole_keys():
    rates = {"lr_scheduler": {"class_path": "StepLR", "init_args": {"lr": 3}}}
    other = optimizer("torch.optim.AdamW", lr=0.2, betas=[0.9, 0.99])
    first, second = texts(run("a"), run("b", model={"optimizer": other, **rates}))
    assert first == "optimizer SGD, model.optimizer.lr 0.1"
    assert second == (
        "optimizer AdamW, model.optimizer.lr 0.2, betas [0.9, 0.99], "
        "lr_scheduler StepLR, model.lr_scheduler.lr 3"
    )


def test_runs_of_different_mixes_need_no_setting():
    assert texts(run("a"), run("b", trained_on="D2", max_epochs=9)) == ["", ""]


def test_a_network_as_published_depends_on_its_own_arguments_alone():
    first, second = run("a", trained_on="original"), run("b", trained_on="original", max_epochs=9)
    assert texts(first, second) == ["", ""]
    weights = {"net": {"class_path": "vgg16", "init_args": {"weights": "V2"}}}
    assert texts(first, run("b", trained_on="original", model=weights)) == [
        "",
        "net vgg16, weights V2",
    ]


def test_a_run_without_a_configuration_is_told_apart_from_none():
    bare = Run(Path("c.csv"), [ROW._replace(run="c")], {})
    assert texts(run("a"), bare, run("b")) == ["", "", ""]
    assert texts(run("a", max_epochs=1), bare, run("b", max_epochs=2)) == [
        "max_epochs 1",
        "",
        "max_epochs 2",
    ]


def test_settings_get_a_line_each_in_curves_and_summaries():
    runs = [run("a", value=0.5), run("b", seed=1, value=0.7), run("c", max_epochs=9, value=0.1)]
    records = [record for each in runs for record in each.records]
    sharp = [
        record._replace(condition="sharp", family="sharp", parameter=0.0) for record in records
    ]
    settings = settings_of(runs)
    (section,) = sections_of([*sharp, *records], settings)
    found = {line.training: cells["D2", "top1"] for line, cells in section.lines.items()}
    values = {training: (cell.runs, cell.value) for training, cell in found.items()}
    assert values == {"sharp+D2, max_epochs 3": (2, 0.6), "sharp+D2, max_epochs 9": (1, 0.1)}
    labels = [style.label for style in styles_of([section]).values()]
    assert labels == ["net (sharp+D2, max_epochs 3)", "net (sharp+D2, max_epochs 9)"]
    html = summaries_html([*sharp, *records], settings)
    assert "sharp+D2, max_epochs 3</th>" in html
    assert "sharp+D2, max_epochs 9</th>" in html


def test_settings_get_a_row_each_beside_a_paper():
    cell = next(c for c in tables()["vasiljevic2016_table3"] if c.trained_on != "original")
    names = {name: getattr(cell, name) for name in ("model", "trained_on", "dataset", "scale")}
    names |= {"condition": cell.condition, "metric": cell.metric}
    records = [ROW._replace(run=name, **names) for name in "ab"]
    rows = compare_with_paper(cell.table, records, {}, {"a": "lr 1", "b": "lr 2"})
    measured = [row.network for row in rows if row.measured]
    assert measured == [f"{cell.model}, lr 1", f"{cell.model}, lr 2"]


def write(folder, *, name="trial-001", lr=0.1, value=0.5, diary=False):
    facts = run(model={"optimizer": optimizer(lr=lr)}).provenance
    records = [ROW._replace(run=name, value=value)]
    write_run(folder, records=records, images={"index": [0]}, provenance=facts)
    if diary:
        head = "epoch,family,level_low,level_high,n,top1,low,high,loss,loss_low,loss_high"
        (folder / "diary.csv").write_text(f"{head}\n0,disk,2.0,2.0,50,0.5,0.4,0.6,1.0,0.9,1.1\n")
    return folder


def names_of(*files):
    return [record.run for run in named_apart(read_runs(files)) for record in run.records]


def test_runs_of_one_name_are_named_by_their_paths(tmp_path):
    one, other = write(tmp_path / "one/trial-001"), write(tmp_path / "other/trial-001")
    second = write(tmp_path / "one/trial-002", name="trial-002")
    files = [folder / "robustness.csv" for folder in (one, other, second)]
    assert names_of(*files) == ["one/trial-001", "other/trial-001", "trial-002"]
    assert names_of(files[0], files[2]) == ["trial-001", "trial-002"]


def test_collected_records_of_one_name_stay_apart(tmp_path):
    first = write(tmp_path / "a") / "robustness.csv"
    write_records(tmp_path / "all.csv", [ROW._replace(run="trial-001"), ROW])
    assert names_of(first, tmp_path / "all.csv") == ["a", "all.csv/trial-001", "run"]


def test_a_page_tells_trials_of_one_name_and_mix_apart(tmp_path):
    write(tmp_path / "one/trial-001", diary=True)
    write(tmp_path / "other/trial-001", lr=0.02, diary=True)
    report([tmp_path], out=tmp_path / "page.html")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "mean of" not in html[: html.index("<h2 id=")]
    for place, (sweep, lr) in enumerate((("one", 0.1), ("other", 0.02))):
        assert f'<a href="#run-{place}">sharp+D2, lr {lr}</a>' in html
        assert f'<h3 id="run-{place}">{sweep}/trial-001</h3>' in html
        assert html.count(f"<h3>{sweep}/trial-001 (sharp+D2, lr {lr})</h3>") == 1


def test_a_provenance_that_is_none_is_named(tmp_path):
    folder = write(tmp_path / "run")
    (folder / "provenance.json").write_text(json.dumps([1]))
    with pytest.raises(InputError, match=r"provenance\.json: not a JSON object"):
        read_runs([folder / "robustness.csv"])

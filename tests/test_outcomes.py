"""What trials leave behind: values by epoch, trial.json, the table."""

import json
import os
import time
from pathlib import Path

import pytest
import yaml

from blur_lightning.records import outcomes
from blur_lightning.records.outcomes import (
    Trial,
    final_value,
    fit_is_over,
    missing_metric,
    outcome,
    record,
    table,
    unvalidated,
)
from blur_lightning.records.robustness import Record, write_run


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def trial_of(name="a", *, metric="val/top1", draw=None):
    return Trial(Path("runs/s", name), {"x": 1}, ["train"], metric, draw)


def log(version, *rows, trial, age=0.0):
    file = trial.folder / f"logs/version_{version}/metrics.csv"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("\n".join(["epoch,step,val/top1", *rows]))
    os.utime(file, (time.time() - age, time.time() - age))


def test_a_trial_that_went_on_has_the_values_of_both_parts():
    trial = trial_of()
    log(0, "0,9,0.1", "1,19,0.2", trial=trial, age=20)
    log(1, "1,19,0.3", "2,29,0.4", trial=trial, age=10)
    assert outcomes.logged(trial, time.time() - 30) == [0.1, 0.3, 0.4]
    assert outcomes.logged(trial, time.time() - 15) == [0.3, 0.4]


def test_half_a_line_is_left_for_later():
    trial = trial_of()
    log(0, "0,9,0.1", "1,19,", "2,2", trial=trial)
    assert outcomes.logged(trial, 0.0) == [0.1]


def test_the_value_of_a_test_is_that_of_its_records():
    trial = trial_of(metric="test/D4/top1")
    one = Record("r", "m", "t", "d", 3, "D4", "disk", 4.0, "9", "top1", 0.25, None, None)
    write_run(trial.folder, records=[one], images={"index": [0]}, provenance={})
    assert final_value(trial, {"status": "finished"}) == 0.25
    assert final_value(trial._replace(metric="test/D2/top1"), {"status": "finished"}) is None
    assert final_value(trial, {"status": "pruned"}) is None  # records are an earlier run's


def test_records_are_whole_files():
    trial = trial_of()
    record(trial, "started")
    assert json.loads((trial.folder / "trial.json").read_text())["parameters"] == {"x": 1}
    assert outcome(trial._replace(parameters={"x": 2})) == {}
    assert not list(Path("runs").rglob("*.tmp"))


def test_the_table_shows_small_and_drawn_numbers():
    trial = trial_of(draw={"x": 0.5})
    record(trial, "finished", value=1.25e-5, values=[1.25e-5])
    head, row = table([trial]).splitlines()
    assert head.split() == ["trial", "status", "seconds", "val/top1"]
    assert row.split()[-2:] == ["1.25e-05", "x=1"]


def saved(trial, **trainer):
    trial.folder.mkdir(parents=True, exist_ok=True)
    (trial.folder / "fit.yaml").write_text(yaml.safe_dump({"trainer": trainer}))


@pytest.mark.parametrize(
    ("epochs", "every", "last", "over"),
    [(3, 1, 1, False), (3, 1, 2, True), (7, 3, 2, False), (7, 3, 5, True), (-1, 1, 9, False)],
)
def test_a_fit_is_over_with_its_last_validation(epochs, every, last, over):
    trial = trial_of()
    saved(trial, max_epochs=epochs, check_val_every_n_epoch=every)
    assert not fit_is_over(trial, 0.0)  # nothing was validated yet
    log(0, f"{last},9,0.1", trial=trial)
    assert fit_is_over(trial, 0.0) is over


def test_a_fit_without_a_configuration_is_not_over():
    log(0, "2,9,0.1", trial=trial_of())
    assert not fit_is_over(trial_of(), 0.0)
    (trial_of().folder / "fit.yaml").write_text("- no keys")
    assert not fit_is_over(trial_of(), 0.0)


def test_settings_that_never_validate_are_told():
    assert unvalidated({"max_epochs": 3, "check_val_every_n_epoch": 3}) == ""
    assert unvalidated({"max_epochs": None, "check_val_every_n_epoch": None}) == ""
    assert unvalidated({"max_epochs": -1, "check_val_every_n_epoch": 5}) == ""
    cause = "trainer.max_epochs is 2, and trainer.check_val_every_n_epoch 3"
    assert unvalidated({"max_epochs": 2, "check_val_every_n_epoch": 3}) == cause
    assert unvalidated({"limit_val_batches": 0.0}) == "trainer.limit_val_batches is 0"


def test_a_metric_that_is_missing_has_its_cause():
    trial = trial_of()
    assert missing_metric(trial) == "metric: the trial neither tested nor logged val/top1"
    saved(trial, max_epochs=2, check_val_every_n_epoch=3)
    assert missing_metric(trial).endswith(
        "never validated: " + unvalidated({"max_epochs": 2, "check_val_every_n_epoch": 3})
    )
    assert "validated" not in missing_metric(trial._replace(metric="train/loss"))


def test_the_table_names_what_was_pruned_and_the_logs_of_what_failed():
    trials = [trial_of(f"t{i}") for i in range(9)]
    for i, trial in enumerate(trials):
        error = "out of luck" if i < 2 else None
        record(trial, "failed" if error else "pruned" if i < 8 else "finished", error=error)
    lines = table(trials).splitlines()[-2:]
    assert lines == [
        "2 of 9 failed: out of luck (runs/s/t0/log.txt, runs/s/t1/log.txt)",
        "6 of 9 pruned: s/t2, s/t3, s/t4, s/t5, s/t6 and 1 more",
    ]

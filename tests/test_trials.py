import os
import re
import time
from pathlib import Path

import pytest

from blur_lightning.errors import InputError
from blur_lightning.records.outcomes import Trial, outcome, record, table
from blur_lightning.sweeps import trials
from blur_lightning.sweeps.trials import run

# Logs an epoch's value each tenth of a second, as Lightning does, and tells how it was ended.
TRAINING = """
import pathlib, signal, sys, time
folder, values, what = pathlib.Path(sys.argv[1]), sys.argv[2].split(), sys.argv[3]
def farewell(*_):
    (folder / "farewell").touch()
    sys.exit(143)
signal.signal(signal.SIGTERM, signal.SIG_IGN if what == "deaf" else farewell)
logs = folder / "logs/version_0"
logs.mkdir(parents=True, exist_ok=True)
text = "epoch,step,train/loss,val/top1\\n"
for epoch, value in enumerate(values):
    text += f"{epoch},{10 * epoch + 3},0.5,\\n{epoch},{10 * epoch + 9},,{value}\\n"
    (logs / "metrics.csv").write_text(text)
    time.sleep(0.1)
time.sleep({"finish": 0, "test": 1}.get(what, 60))
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(trials, "_LOOK", 0.1)
    Path("training.py").write_text(TRAINING)


def training(values, *, what="finish", name="a", draw=None, metric="val/top1"):
    command = ["${interpreter}", "training.py", f"runs/s/{name}", values, what]
    return Trial(Path("runs/s", name), {"x": 1}, command, metric, draw or {"x": 0.5})


def watch(trial, hopeless=lambda values: False):
    """Run a trial of a search; what it was seen to say."""
    seen = []

    def follow(told, found):
        assert told == trial
        seen.append((found["status"], found["values"]))
        return found["status"] == "started" and hopeless(found["values"])

    run(iter([trial]), 1, jobs=1, follow=follow)
    return seen


def test_a_running_trial_is_followed_epoch_by_epoch():
    seen = watch(training("0.1 0.2 0.3 0.4"))
    assert seen[-1] == ("finished", [0.1, 0.2, 0.3, 0.4])
    lengths = [len(values) for _, values in seen]
    assert lengths == sorted(lengths)
    assert len(set(lengths)) > 2
    assert {status for status, _ in seen[:-1]} == {"started"}


def test_a_hopeless_trial_is_ended_and_recorded_with_its_last_value(capfd):
    trial = training("0.1 0.2", what="wait")
    seen = watch(trial, hopeless=lambda values: len(values) == 2)
    assert seen[-1] == ("pruned", [0.1, 0.2])
    found = outcome(trial)
    assert (found["status"], found["value"], found["error"]) == ("pruned", 0.2, None)
    assert (trial.folder / "farewell").exists()
    assert "[1/1] pruned a" in capfd.readouterr().err
    assert table([trial]).splitlines()[1].split()[1:4:2] == ["pruned", "0.2000"]


def test_a_hopeless_trial_that_does_not_end_is_killed(monkeypatch):
    monkeypatch.setattr(trials, "_GRACE", 0.3)
    trial = training("0.1", what="deaf")
    watch(trial, hopeless=bool)
    assert outcome(trial)["status"] == "pruned"
    assert not (trial.folder / "farewell").exists()


def test_a_trial_whose_fit_is_over_is_left_to_its_test():
    trial = training("0.1 0.2", what="test")
    trial.folder.mkdir(parents=True)
    (trial.folder / "fit.yaml").write_text("trainer: {max_epochs: 2, check_val_every_n_epoch: 1}")
    watch(trial, hopeless=lambda values: len(values) == 2)
    assert outcome(trial)["status"] == "finished"
    assert not (trial.folder / "farewell").exists()


def test_what_is_left_is_told_in_seconds_below_a_minute(monkeypatch, capfd):
    assert [trials._duration(s) for s in (0.2, 59.0, 60.0, 61.0)] == [
        "1 s",
        "59 s",
        "1 min",
        "2 min",
    ]
    source = (training("0.1", name=name)._replace(draw=None) for name in "ab")
    run(source, 2, jobs=1)
    lines = capfd.readouterr().err.splitlines()
    assert lines[0] == "running 2 of 2 trials"
    assert re.fullmatch(r"\[1/2\] finished a \d s, about \d s left", lines[1])


def test_a_search_without_its_metric_has_failed():
    trial = training("0.1", metric="val/top5")
    watch(trial)
    found = outcome(trial)
    assert found["status"] == "failed"
    assert found["error"] == "metric: the trial neither tested nor logged val/top5"


def test_a_grid_needs_no_metric():
    trial = training("0.1", metric="val/top5")._replace(draw=None)
    run(iter([trial]), 1, jobs=1)
    assert outcome(trial)["status"] == "finished"


def test_logs_of_an_earlier_trial_do_not_count():
    trial = training("0.7")
    file = trial.folder / "logs/version_3/metrics.csv"
    file.parent.mkdir(parents=True)
    file.write_text("epoch,step,val/top1\n0,100,0.9\n")
    os.utime(file, (time.time() - 60, time.time() - 60))
    watch(trial)
    assert outcome(trial)["values"] == [0.7]


def test_a_continued_trial_keeps_when_it_began():
    trial = training("0.7")
    trial = trial._replace(command=[*trial.command, "fit"])
    record(trial, "started", began=1.0)
    (trial.folder / "checkpoints").mkdir()
    (trial.folder / "checkpoints/last.ckpt").touch()
    watch(trial)
    assert outcome(trial)["began"] == 1.0
    (trial.folder / "checkpoints/last.ckpt").unlink()
    watch(trial)
    assert outcome(trial)["began"] == pytest.approx(time.time(), abs=30)


def test_trials_are_taken_only_when_a_process_is_free():
    taken = []

    def source():
        for name in "abc":
            ended = [t.folder.name for t in taken if outcome(t)["status"] == "finished"]
            assert len(taken) - len(ended) < 2
            taken.append(training("0.1", name=name)._replace(draw=None))
            yield taken[-1]

    run(source(), 3, jobs=2)
    assert all(outcome(trial)["status"] == "finished" for trial in taken)


def test_a_command_that_is_not_there_is_one_line():
    trial = Trial(Path("runs/s/a"), {}, ["./nothing"])
    with pytest.raises(InputError, match=r"^command: cannot start \./nothing"):
        run(iter([trial]), 1, jobs=1)

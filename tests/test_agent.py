"""The real `wandb agent` and the runner here do the same with one sweep file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from wandb_server import ENTITY, WandbServer

from blur_lightning.sweeps import read_trials

pytestmark = pytest.mark.slow  # 10 to 20 s: an agent looks for work every few seconds
SWEEP = {
    "program": "trial.py",
    "method": "grid",
    "metric": {"name": "test/D4/top1", "goal": "maximize"},
    "parameters": {
        "data.blur": {"values": ["sharp", "0.2*sharp+0.8*shake"]},
        "model.optimizer.lr": {"value": 0.003},
        "model.conditions": {"value": ["sharp", "D4"]},
        "trainer.deterministic": {"value": True},
    },
    "command": ["${env}", "${interpreter}", "${program}", "fit", "${args}"],
}
# Logs as a run does, and fails on one of the mixes.
TRIAL = """
import json, pathlib, sys
import wandb
words = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[2:])
run = wandb.init()
pathlib.Path(f"{run.id}.json").write_text(json.dumps(words))
run.log({"test/D4/top1": 0.25})
sys.exit(2 if "shake" in words["data.blur"] else 0)
"""


def test_the_agent_runs_what_the_runner_here_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trial.py").write_text(TRIAL)
    Path("s.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    trials = read_trials(Path("s.yaml"))
    with WandbServer() as server:
        sweep = server.add_sweep(SWEEP, *(trial.parameters for trial in trials))
        path = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        ended = subprocess.run(
            [Path(sys.executable).with_name("wandb"), "agent", f"{ENTITY}/blur/{sweep}"],
            env={**os.environ, **server.environment, **path, "WANDB_MODE": "online"},
            capture_output=True,
            text=True,
            timeout=120,
        )
    assert ended.returncode == 0, ended.stderr
    assert [run.exit_code for run in server.runs.values()] == [0, 2]
    assert [run.summary["test/D4/top1"] for run in server.runs.values()] == [0.25, 0.25]
    for run, trial in zip(server.runs.values(), trials, strict=True):
        assert run.sweep == sweep
        words = json.loads(Path(f"{run.id}.json").read_text())
        own = dict(w.removeprefix("--").split("=", 1) for w in trial.command[3:-1])
        # Not letter for letter: the agent writes Python's True, the runner JSON's true.
        assert {k: yaml.safe_load(w) for k, w in words.items()} == trial.parameters
        assert {k: yaml.safe_load(w) for k, w in own.items()} == trial.parameters

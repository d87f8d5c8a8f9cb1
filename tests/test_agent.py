"""The real `wandb agent` and the runner here do the same with one sweep file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from lightning.pytorch.callbacks import Callback
from typing_extensions import override
from wandb_server import ENTITY, WandbServer

from blur_lightning.records.robustness import read_records
from blur_lightning.sweeps.running import read_trials

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


def agent(server, sweep, **environment):
    """Run the real agent until the server has no more trials."""
    environment |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    return subprocess.run(
        [Path(sys.executable).with_name("wandb"), "agent", f"{ENTITY}/blur/{sweep}"],
        env={**os.environ, **server.environment, **environment, "WANDB_MODE": "online"},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_agent_runs_what_the_runner_here_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("trial.py").write_text(TRIAL)
    Path("s.yaml").write_text(yaml.safe_dump(SWEEP, sort_keys=False))
    trials = read_trials(Path("s.yaml"))
    with WandbServer() as server:
        sweep = server.add_sweep(SWEEP, *(trial.parameters for trial in trials))
        ended = agent(server, sweep)
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


def test_a_trial_on_two_processes_is_one_run(tmp_path, monkeypatch):
    """A real fit under DDP: all processes see the trial's parameters, and one of them logs."""
    monkeypatch.chdir(tmp_path)
    root = Path(__file__).parents[1]
    configs = [f"--config={root}/experiments/{name}.yaml" for name in ("base", "demo_scenes")]
    fixed = {
        "trainer.accelerator": "cpu",
        "trainer.devices": 2,
        "trainer.max_epochs": 1,
        "trainer.check_val_every_n_epoch": 1,
        "trainer.enable_progress_bar": False,
        "trainer.callbacks": "test_agent.Witness",
        "data.train_count": 33,
        "data.test_count": 13,
        "data.num_workers": 0,
        "model.conditions": ["sharp", "D4"],
    }
    sweep_file = {
        "program": "blur_lightning",
        "method": "grid",
        "parameters": {
            "data.blur": {"values": ["sharp", "0.2*sharp+0.8*D4"]},
            **{key: {"value": value} for key, value in fixed.items()},
        },
        "command": ["${interpreter}", "-m", "blur_lightning", "fit", *configs, "${args}"],
    }
    Path("s.yaml").write_text(yaml.safe_dump(sweep_file, sort_keys=False))
    trials = read_trials(Path("s.yaml"))
    with WandbServer() as server:
        sweep = server.add_sweep(sweep_file, *(trial.parameters for trial in trials))
        ended = agent(server, sweep, PYTHONPATH=f"{root}:{root}/tests", OMP_NUM_THREADS="1")
    assert ended.returncode == 0, ended.stderr
    assert len(server.runs) == 2
    for run, trial in zip(server.runs.values(), trials, strict=True):
        assert (run.starts, run.exit_code) == (1, 0)
        folder = Path("runs/sweeps", sweep, run.id)
        records = read_records(folder)
        logged = {r.condition: run.summary[f"test/{r.condition}/top1"] for r in records}
        values = {r.condition: r.value for r in records if r.metric == "top1"}
        assert logged == pytest.approx(values)
        assert {r.n for r in records} == {13}
        assert run.config["data"]["init_args"]["blur"] == trial.parameters["data.blur"]
        seen = [json.loads(file.read_text()) for file in folder.glob("rank*.json")]
        assert seen == 2 * [trial.parameters["data.blur"]]
        assert [path.name for path in (folder / "logs").iterdir()] == ["version_0"]


class Witness(Callback):
    """Notes for each process which blur it trains on."""

    @override
    def on_fit_end(self, trainer, pl_module):
        file = Path(trainer.default_root_dir, f"rank{trainer.global_rank}.json")
        file.write_text(json.dumps(str(trainer.datamodule.blur)))

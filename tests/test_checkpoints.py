"""A run that is ended at any moment goes on as if nothing had been."""

import csv
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from blur_lightning.checkpoints import CheckpointFiles, damage, forget_rows, newest
from blur_lightning.cli import main
from blur_lightning.errors import InputError
from blur_lightning.records.robustness import read_records

ROOT = Path(__file__).parent.parent
SMALL = [
    *(
        "--config",
        ROOT / "experiments/base.yaml",
        "--config",
        ROOT / "experiments/demo_scenes.yaml",
    ),
    *("--data.blur", "sharp+D2", "--data.train_count", 40, "--data.test_count", 5),
    *("--data.batch_size", 8, "--data.num_workers", 0, "--model.conditions", "[sharp, D2]"),
    *("--model.lr_scheduler.total_steps", 10, "--model.net.dict_kwargs.drop_rate", 0.5),
    *("--trainer.max_epochs", 2, "--trainer.check_val_every_n_epoch", 1),
    *(
        "--trainer.log_every_n_steps",
        1,
        "--trainer.enable_progress_bar",
        "false",
        "--trainer.checkpoint_minutes",
        1e-6,
    ),
    *("--trainer.callbacks", "ending.Ending"),
]


def words(folder, *more):
    return [str(word) for word in ("fit", *SMALL, "--trainer.default_root_dir", folder, *more)]


def ended(*, step, number, **settings):
    """Words that make a run end itself."""
    settings |= {"step": step, "number": int(number)}
    return [w for name, value in settings.items() for w in (f"--trainer.callbacks.{name}", value)]


def process(folder, *more, launcher=()):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'tests'}:{ROOT}", "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", *launcher, "blur_lightning", *words(folder, *more)],
        capture_output=True,
        text=True,
        timeout=300,
        env=environment,
        start_new_session=True,
    )


def state(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)


def assert_same(folder, whole):
    """Weights, optimiser, diary and records are those of a run that nothing ended."""
    mine, other = state(folder), state(whole)
    assert mine["global_step"] == other["global_step"]
    torch.testing.assert_close(mine["state_dict"], other["state_dict"], rtol=0, atol=0)
    weights = [run["optimizer_states"][0]["state"] for run in (mine, other)]
    torch.testing.assert_close(*weights, rtol=0, atol=0)
    assert mine["lr_schedulers"] == other["lr_schedulers"]
    assert (folder / "diary.csv").read_text() == (whole / "diary.csv").read_text()
    for record, same in zip(read_records(folder), read_records(whole), strict=True):
        numbers = [(r.value, r.low, r.high) for r in (record, same)]
        # Where memory begins decides the order of some sums in torch.
        np.testing.assert_allclose(*np.array(numbers, dtype=float), rtol=1e-6)
        assert record[:10] == same._replace(run=record.run)[:10]
    assert logged(folder) == logged(whole)


def logged(folder):
    """Step and loss, from the logs of all processes that a run took: each step once, in order."""
    found = []
    for path in sorted((folder / "logs").glob("version_*/metrics.csv")):
        with path.open() as file:
            rows = [row for row in csv.DictReader(file) if row.get("train/loss")]
            found += [(int(row["step"]), row["train/loss"]) for row in rows]
    assert [step for step, _ in found] == [*range(len(found))]
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Runs that nothing ended, by their settings."""
    made = {}

    def run(*more):
        if more not in made:
            made[more] = tmp_path_factory.mktemp("whole") / "run"
            assert main(words(made[more], *more)) == 0
        return made[more]

    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
@pytest.mark.parametrize(
    ("step", "during"), [(3, "train"), (4, "train"), (5, "train"), (5, "validation"), (9, "test")]
)
def test_a_fit_that_a_signal_ended_goes_on_to_the_same_weights(
    tmp_path, whole, number, step, during, capsys
):
    more = ended(step=step, number=number, during=during)
    assert main(words(tmp_path / "run", *more)) == 128 + number
    assert f"ended by {number.name}" in capsys.readouterr().err
    assert not (tmp_path / "run/robustness.csv").exists()
    assert main(words(tmp_path / "run", *more)) == 0
    assert_same(tmp_path / "run", whole())


@pytest.mark.parametrize(
    "more",
    [
        ("--trainer.ema", 0.9),
        ("--trainer.accumulate_grad_batches", 2),
        ("--trainer.precision", "bf16-mixed"),
        ("--trainer.max_steps", 7, "--trainer.max_epochs", -1),
    ],
    ids=lambda more: more[0],
)
def test_a_fit_with_other_settings_goes_on_to_the_same_weights(tmp_path, whole, more):
    more = (*more, *ended(step=3, number=signal.SIGTERM))
    assert main(words(tmp_path / "run", *more)) == 143
    assert main(words(tmp_path / "run", *more)) == 0
    assert_same(tmp_path / "run", whole(*more[:-4]))
    if "--trainer.ema" in more:
        averaged, own = state(tmp_path / "run"), state(whole())
        assert not torch.equal(
            averaged["state_dict"]["net.fc.weight"], own["state_dict"]["net.fc.weight"]
        )


def test_averaged_weights_are_tested_also_where_only_the_test_is_left(tmp_path, whole):
    average = ("--trainer.ema", 0.9)
    more = (*average, *ended(step=9, number=signal.SIGTERM, during="test"))
    assert main(words(tmp_path / "run", *more)) == 143
    assert main(words(tmp_path / "run", *more)) == 0
    assert_same(tmp_path / "run", whole(*average))


def test_a_finished_fit_and_one_of_other_settings_begin_anew(tmp_path, capsys):
    folder = tmp_path / "run"
    assert main(words(folder, *ended(step=3, number=signal.SIGTERM))) == 143
    assert main(words(folder)) == 0  # without what ended it: another command
    assert "going on" not in capsys.readouterr().err
    assert main(words(folder)) == 0
    assert "going on" not in capsys.readouterr().err


def test_a_damaged_checkpoint_falls_back_to_the_one_before(tmp_path, whole, caplog):
    folder, more = tmp_path / "run", ended(step=7, number=signal.SIGTERM)
    assert main(words(folder, *more)) == 143
    last = folder / "checkpoints/last.ckpt"
    data = bytearray(last.read_bytes())
    data[len(data) // 2] ^= 1  # one bit of the weights
    last.write_bytes(data)
    with caplog.at_level("INFO"):
        assert main(words(folder, *more)) == 0
    assert f"{last} is damaged (the checksum of" in caplog.text
    assert_same(folder, whole())


def test_nothing_but_damaged_checkpoints_is_one_line(tmp_path, capsys):
    folder, more = tmp_path / "run", ended(step=2, number=signal.SIGTERM)
    assert main(words(folder, *more)) == 143
    for path in (folder / "checkpoints").glob("*.ckpt"):
        path.write_bytes(path.read_bytes()[:1000])
    capsys.readouterr()
    assert main(words(folder, *more)) == 2
    line = capsys.readouterr().err.strip().splitlines()[-1]
    assert "last-1.ckpt is damaged" in line and "no other is left" in line


def test_files_of_a_name_are_kept_to_a_number(tmp_path):
    files = CheckpointFiles(keep=3)
    for value in range(5):
        files.save_checkpoint({"x": torch.tensor(value)}, tmp_path / "last.ckpt")
    kept = {path.name: int(torch.load(path)["x"]) for path in tmp_path.iterdir()}
    assert kept == {"last.ckpt": 4, "last-1.ckpt": 3, "last-2.ckpt": 2}
    assert newest(tmp_path) == (tmp_path / "last.ckpt", [])


def test_a_log_forgets_steps_that_come_again_and_a_line_that_a_kill_cut_short(tmp_path):
    file = tmp_path / "metrics.csv"
    file.write_text("epoch,step,train/loss\n0,3,0.5\n0,4,0.25\n0,5,0.1\n0,")
    forget_rows(file, 5)
    assert file.read_text().split() == ["epoch,step,train/loss", "0,3,0.5", "0,4,0.25"]
    forget_rows(file, 3)
    assert not file.exists()


def test_what_is_no_checkpoint_is_damaged(tmp_path):
    empty, text = tmp_path / "last.ckpt", tmp_path / "last-1.ckpt"
    empty.touch()
    text.write_text("no checkpoint")
    assert damage(empty) == damage(text) == "File is not a zip file"
    found, problems = newest(tmp_path)
    assert found is None and [str(empty) in problems[0], str(text) in problems[1]] == [True, True]


def test_a_checkpoint_that_cannot_be_written_is_one_line_and_leaves_the_old_one(tmp_path):
    files, path = CheckpointFiles(), tmp_path / "last.ckpt"
    files.save_checkpoint({"x": torch.tensor(1)}, path)
    with pytest.raises(InputError, match=r"/dev/full/last.ckpt: cannot be written"):
        files.save_checkpoint({"x": torch.zeros(10)}, Path("/dev/full/last.ckpt"))
    assert int(torch.load(path)["x"]) == 1


@pytest.mark.slow
def test_a_fit_that_is_killed_goes_on_to_the_same_weights(tmp_path, whole):
    more = (*ended(step=3, number=signal.SIGKILL), "--data.num_workers", 1)
    assert process(tmp_path / "run", *more).returncode == -signal.SIGKILL
    again = process(tmp_path / "run", *more)
    assert again.returncode == 0, again.stderr
    assert_same(tmp_path / "run", whole())


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["lightning", "torchrun"])
@pytest.mark.parametrize("group", [False, True], ids=["first", "group"])
def test_two_processes_leave_and_go_on_together(tmp_path, launcher, group):
    run = ("torch.distributed.run", "--nproc-per-node", "2", "-m") if launcher == "torchrun" else ()
    two = ("--trainer.devices", 2, "--trainer.strategy", "ddp", "--data.num_workers", 1)
    two = (*two, "--data.batch_size", 4)
    more = (*two, *ended(step=3, number=signal.SIGTERM, group=group))
    left = process(tmp_path / "run", *more, launcher=run)
    assert left.returncode not in (0, -signal.SIGKILL), left.stderr
    again = process(tmp_path / "run", *more, launcher=run)
    assert again.returncode == 0, again.stderr
    assert "going on from" in again.stderr
    assert process(tmp_path / "whole", *two, launcher=run).returncode == 0
    assert_same(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("counts", [(2, 1), (1, 2)])
def test_another_number_of_processes_goes_on_and_sees_each_other_image_once(tmp_path, counts):
    for count in counts:
        # Either way a step takes 8 of the 40 images.
        size = 8 // count
        more = ("--trainer.devices", count, "--data.num_workers", 1, "--data.batch_size", size)
        more = (*more, "--trainer.strategy", "ddp") if count > 1 else more
        run = process(tmp_path / "run", *more, *ended(step=3, number=signal.SIGTERM))
        assert run.returncode == (0 if count == counts[-1] else 143), run.stderr
    diary = pq.read_table(tmp_path / "run/diary.parquet").to_pydict()
    for epoch in (0, 1):
        seen = [i for i, e in zip(diary["index"], diary["epoch"], strict=True) if e == epoch]
        assert sorted(seen) == list(range(40)), (epoch, seen)
    assert state(tmp_path / "run")["global_step"] == 10

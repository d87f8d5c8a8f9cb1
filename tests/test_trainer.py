"""Flags that make training faster or steadier work in all tasks."""

import csv
import json

import numpy as np
import pytest
import torch
from forked import Command
from small_runs import TASKS, small_run

from blur_lightning.cli import main
from blur_lightning.records.robustness import read_records

ALL = [
    *("--trainer.precision", "bf16-mixed", "--model.channels_last", "true"),
    *("--trainer.accumulate_grad_batches", "3", "--trainer.ema", "0.9"),
]


def losses(folder):
    """Training loss by step."""
    found = {}
    for path in (folder / "logs").glob("version_*/metrics.csv"):
        with path.open() as file:
            found |= {
                int(r["step"]): float(r["train/loss"])
                for r in csv.DictReader(file)
                if r["train/loss"]
            }
    return np.array([found[step] for step in sorted(found)])


def weights(folder):
    return torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["state_dict"]


def provenance(folder):
    return json.loads((folder / "provenance.json").read_text())


@pytest.fixture
def fit(tmp_path):
    """Train and test in a process of its own, which may compile; the run's folder."""

    def run(task, *more, name="run", **options):
        folder = tmp_path / name
        words = small_run(task, tmp_path, **options)
        words = ["fit", *words, "--trainer.default_root_dir", folder, *more]
        cache = {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "compiled")}
        command = Command(words, tmp_path / f"{name}.log", environment=cache)
        assert command.wait() == 0, command.log.read_text()
        return folder

    return run


@pytest.mark.parametrize("task", TASKS)
def test_flags_work_together(task, tmp_path):
    words = ["fit", *small_run(task, tmp_path, normalised=True), *ALL, "--trainer.max_epochs", "2"]
    folder = tmp_path / "run"
    assert main([*words, "--trainer.default_root_dir", str(folder)]) == 0
    assert provenance(folder)["precision"] == "bf16-mixed"
    state = torch.load(folder / "checkpoints/last.ckpt", weights_only=True)
    assert state["global_step"] == 6  # of 7 batches an epoch, three make a step, and then one
    kernel = state["state_dict"]["net.first.weight"]
    assert kernel.is_contiguous(memory_format=torch.channels_last)
    assert not torch.equal(kernel, state["current_model_state"]["net.first.weight"])
    assert all(np.isfinite(record.value) for record in read_records(folder))


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize(
    ("flags", "tolerance"),
    [
        (("--trainer.precision", "bf16-mixed"), 0.02),
        (("--model.channels_last", "true"), 1e-4),
        (("--model.compile", "true"), 1e-4),
        (("--trainer.ema", "0.9"), 0),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_flag_changes_a_training_by_no_more_than_rounding(fit, task, flags, tolerance, tmp_path):
    plain, flagged = fit(task), fit(task, *flags, name="flagged")
    expected, found = losses(plain)[:20], losses(flagged)[:20]
    np.testing.assert_allclose(found, expected, rtol=tolerance)
    kernel = weights(flagged)["net.first.weight"]
    if flags[0].endswith("precision"):
        assert provenance(flagged)["precision"] == "bf16-mixed" and np.any(found != expected)
    elif flags[0].endswith("channels_last"):
        assert kernel.is_contiguous(memory_format=torch.channels_last)
    elif flags[0].endswith("compile"):
        assert any((tmp_path / "compiled").rglob("*.cpp"))
    else:
        assert not torch.equal(kernel, weights(plain)["net.first.weight"])
        assert provenance(flagged)["weights"] != provenance(plain)["weights"]
    if not flags[0].endswith("ema"):
        for one, other in zip(read_records(flagged), read_records(plain), strict=True):
            assert one.value == pytest.approx(other.value, rel=0.1, abs=0.15), one


@pytest.mark.slow
@pytest.mark.parametrize("task", ["Classification", "Deblurring"])  # masks have unlike counts
def test_small_batches_that_are_accumulated_train_as_large_ones(fit, task):
    whole = fit(task)
    parts = fit(task, "--trainer.accumulate_grad_batches", "3", batch=2, name="parts")
    torch.testing.assert_close(weights(parts), weights(whole), rtol=1e-4, atol=1e-5)

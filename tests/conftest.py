"""Fixtures, and the environment in which every test runs."""

import os
import signal

# Before torch is imported: spinning threads slow it down 5-30 times where cores are shared.
os.environ.update(OMP_WAIT_POLICY="passive", GOMP_SPINCOUNT="0", HF_HUB_OFFLINE="1")
os.environ.update(WANDB_MODE="disabled")

import numpy as np
import pytest
import torch

# Shells start what runs in the background with SIGINT ignored, and processes hand that on: tests
# which interrupt one would wait for ever.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def program_name(monkeypatch):
    """Lightning warns when a command gets arguments while the process has some of its own."""
    monkeypatch.setattr("sys.argv", ["blur_lightning"])


@pytest.fixture
def photo():
    """A float64 batch of two odd-sized images whose values are no smooth function of anything."""
    return torch.from_numpy(np.random.default_rng(0).uniform(size=(2, 3, 37, 31)))


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def device(request):
    return torch.device(request.param)


@pytest.fixture
def logged_out(monkeypatch, tmp_path):
    """Nobody is logged in to W&B, and nothing of one test reaches the next."""
    import wandb

    from blur_lightning.online import DEFAULTS

    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    names = {*DEFAULTS, *(name for name in os.environ if name.startswith("WANDB_"))}
    for name in (*names, "WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_DATA_DIR", "WANDB_RUN_ID"):
        monkeypatch.setenv(name, "")  # so that its absence is restored, too
        monkeypatch.delenv(name)
    wandb.teardown()
    yield
    monkeypatch.setenv("WANDB_FINISH_TIMEOUT", "1")
    wandb.teardown()


@pytest.fixture
def server(logged_out, monkeypatch):
    """A W&B server of the test's own, with a key for it."""
    from wandb_server import WandbServer

    with WandbServer() as server:
        for name, value in server.environment.items():
            monkeypatch.setenv(name, value)
        yield server

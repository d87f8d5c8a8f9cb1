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

"""Optical flow of pictures that move by a known amount."""

import math

import numpy as np
import pytest
import torch
from small_videos import moving

from blur_lightning.errors import InputError
from blur_lightning.wild.motion import estimator, grey, matching_error, measure_motion

STEPS = [(0.6, 0.0), (0.0, 0.4), (0.9, 0.3), (-0.5, 0.2)]


@pytest.mark.parametrize("step", STEPS)
def test_known_motion_is_found(step):
    motion = measure_motion(*moving(2, step), estimator("dis"), limit=1.0)
    assert motion.mean == pytest.approx(math.hypot(*step), rel=0.04)
    assert motion.largest == pytest.approx(math.hypot(*step), abs=0.15)
    assert motion.fast == 0
    assert motion.error < 2


@pytest.mark.parametrize("step", STEPS)
def test_the_flow_has_the_direction_of_the_motion(step):
    flow = estimator("dis")(*moving(2, step))
    assert flow.shape == (48, 64, 2)
    np.testing.assert_allclose(flow.mean((0, 1)), step, atol=0.04)


def test_what_stands_still_does_not_move():
    frame = moving(1, (0, 0))[0]
    assert measure_motion(frame, frame, estimator("dis"), limit=1.0) == (0, 0, 0, 0)


def test_fast_is_the_share_of_pixels_beyond_the_limit():
    field = np.zeros((4, 5, 2), np.float32)
    field[0, :3] = 3, 4  # 5 px
    field[1, 0] = 0, 2
    frame = np.zeros((4, 5, 3), np.uint8)
    motion = measure_motion(frame, frame, lambda first, second: field, limit=2.0)
    assert motion == pytest.approx((17 / 20, 5, 3 / 20, 0))


def test_the_matching_error_is_the_mean_difference_after_the_motion_is_taken_back():
    first = np.arange(35, dtype=np.uint8).reshape(5, 7) * 3
    flow = np.zeros((5, 7, 2), np.float32)
    assert matching_error(first, first + np.uint8(7), flow) == 7
    # Two columns to the right, 4 levels brighter: where the last two go is out of the frame.
    second = np.roll(first, 2, axis=1) + np.uint8(4)
    flow[..., 0] = 2
    assert matching_error(first, second, flow) == pytest.approx(4)
    assert matching_error(first, second, np.zeros_like(flow)) > 5
    assert matching_error(first, second, flow + 99) == math.inf


def test_grey_is_the_luma_of_bt_601():
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 3), dtype=np.uint8)
    assert np.abs(grey(pixels) - pixels @ [0.299, 0.587, 0.114]).max() <= 0.51


@pytest.fixture
def raft(monkeypatch):
    """A network in RAFT's place that says what it saw: its first channel is the motion."""

    class Seen(torch.nn.Module):
        def forward(self, first, second):
            assert first.shape == second.shape
            assert min(first.shape[2:]) >= 128
            assert all(side % 8 == 0 for side in first.shape[2:])
            assert first.min() >= -1
            assert first.max() <= 1
            return [torch.full_like(first[:, :2], 9.0), torch.cat((first[:, :1], second[:, :1]), 1)]

    monkeypatch.setattr("torchvision.models.optical_flow.raft_small", lambda **_: Seen())
    estimator.cache_clear()
    yield
    estimator.cache_clear()


def test_raft_sees_padded_frames_and_its_last_flow_is_cut_to_theirs(raft):
    first, second = moving(2, (1, 0))
    flow = estimator("raft")(first, second)
    assert flow.shape == (48, 64, 2)
    np.testing.assert_allclose(flow[..., 0], first[..., 0] / 127.5 - 1, atol=1e-6)
    np.testing.assert_allclose(flow[..., 1], second[..., 0] / 127.5 - 1, atol=1e-6)


def test_weights_of_raft_that_cannot_be_fetched_are_told(monkeypatch, tmp_path):
    def no_network(**options):
        raise OSError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("torchvision.models.optical_flow.raft_small", no_network)
    estimator.cache_clear()
    with pytest.raises(InputError, match=f"--flow raft: .*no network.*raft_small.*{tmp_path}"):
        estimator("raft")

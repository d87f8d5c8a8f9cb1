"""Windows of frames: how many, which are kept, and their mean in closed form."""

import numpy as np
import pytest
import torch
from small_videos import moving, texture

from blur_lightning.blur.light import to_linear
from blur_lightning.errors import InputError
from blur_lightning.wild.frame_windows import (
    UNEVEN,
    Judge,
    Rule,
    average,
    cut_windows,
    drawn_frames,
    parse_frames,
)
from blur_lightning.wild.video import Frame

RULE = Rule(0, (7, 23), 1, None, "dis", 1.0, 0.0, 5.0, 0.0, 0.3, "srgb")


def timed(frames, fps=240):
    return [Frame(number / fps, pixels) for number, pixels in enumerate(frames)]


def numbered(count):
    """Frames whose times are their numbers."""
    return [Frame(float(number), np.zeros((1, 1, 3), np.uint8)) for number in range(count)]


def numbers(window):
    return [frame.time for frame in window]


def test_numbers_of_frames_are_odd_and_cover_the_range():
    drawn = [drawn_frames(RULE, "a", number) for number in range(200)]
    assert set(drawn) == set(range(7, 24, 2))
    assert {drawn_frames(RULE._replace(frames=(9, 9)), "a", n) for n in range(20)} == {9}


def test_draws_are_keyed_by_seed_video_and_window():
    drawn = [drawn_frames(RULE, "a", number) for number in range(20)]
    assert drawn == [drawn_frames(RULE, "a", number) for number in range(20)]
    assert drawn != [drawn_frames(RULE, "b", number) for number in range(20)]
    assert drawn != [drawn_frames(RULE._replace(seed=1), "a", number) for number in range(20)]


def test_windows_follow_one_another_without_a_gap():
    windows = list(cut_windows(numbered(200), RULE, "a"))
    frames = [frame for _, window in windows for frame in numbers(window)]
    assert frames == list(range(len(frames)))
    assert 200 - len(frames) < 23
    assert [first for first, _ in windows] == [window[0].time for _, window in windows]
    assert [len(w) for _, w in windows] == [drawn_frames(RULE, "a", n) for n in range(len(windows))]


@pytest.mark.parametrize("step", [1, 4, 30])
def test_windows_start_a_step_apart(step):
    windows = list(cut_windows(numbered(100), RULE._replace(step=step), "a"))
    for number, (first, window) in enumerate(windows):
        assert first == number * step
        assert numbers(window) == list(range(first, first + drawn_frames(RULE, "a", number)))
    assert first + step + 23 > 100 - 23


def test_no_frame_is_asked_for_before_it_is_needed():
    asked = []
    windows = cut_windows(map(lambda x: asked.append(x) or x, numbered(1000)), RULE, "a")
    for first, window in windows:
        assert len(asked) == first + len(window)
        if first > 100:
            break


@pytest.mark.parametrize("text", ["", "8", "7..22", "9..7", "1..7", "a..b", "7..", "7,23"])
def test_wrong_ranges_of_frames_are_told(text):
    if text == "7..":
        assert parse_frames(text) == (7, 7)
        return
    with pytest.raises(InputError, match="--frames: "):
        parse_frames(text)


def test_ranges_of_frames():
    assert parse_frames("7..23") == (7, 23)
    assert parse_frames("11") == (11, 11)


@pytest.mark.parametrize(("step", "count"), [((0.6, 0.0), 9), ((0.5, -0.7), 23), ((1.0, 0.0), 7)])
def test_the_mean_of_a_moving_texture_is_damped_as_waves_are(step, count):
    frames = moving(count, step)
    middle = (count - 1) / 2
    right = texture((middle * step[0], middle * step[1]), count, step)
    assert np.abs(average(frames, light="srgb") - right).max() <= 1  # rounded twice


def test_motion_by_whole_pixels_is_a_box_blur():
    frames = moving(9, (1, 0))
    blurry, sharp = average(frames, light="srgb").astype(float), frames[4].astype(float)
    box = np.lib.stride_tricks.sliding_window_view(sharp, 9, axis=1).mean(-1)
    assert np.abs(blurry[:, 4:-4] - box).max() <= 1
    assert np.abs(blurry - sharp).max() > 40


def test_a_mean_is_rounded_half_to_even():
    frames = [np.full((1, 1, 3), level, np.uint8) for level in (0, 1)]
    assert average(frames, light="srgb").tolist() == [[[0, 0, 0]]]
    assert average([frames[1], frames[1] + 1], light="srgb").tolist() == [[[2, 2, 2]]]


def test_light_is_averaged_where_that_is_asked_for():
    generator = np.random.default_rng(0)
    frames = [generator.integers(0, 256, (5, 4, 3), dtype=np.uint8) for _ in range(7)]
    mean = average(frames, light="linear")
    right = torch.stack([to_linear(torch.from_numpy(frame)) for frame in frames]).double().mean(0)
    low, high = (to_linear((torch.from_numpy(mean) + d).clamp(0, 255) / 255) for d in (-0.51, 0.51))
    assert ((low <= right) & (right <= high)).all()
    assert (mean > average(frames, light="srgb")).mean() > 0.9


def test_a_fit_window_tells_its_motion():
    window = Judge(RULE)(30, timed(moving(11, (0.6, 0.3))))
    speed = np.hypot(0.6, 0.3)
    assert (window.first, window.frames, window.discarded) == (30, 11, "")
    assert window.fps == pytest.approx(240)
    assert window.flow_mean == pytest.approx(speed, rel=0.04)
    assert speed < window.flow_max < 1
    assert window.blur_size == pytest.approx(10 * speed, rel=0.04)
    assert 0 < window.matching_error < 2


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"max_flow": 0.5}, "too much motion"),
        ({"max_error": 0.1}, "frames do not match"),
        ({"min_blur": 5.0}, "too little motion"),
        ({"min_blur": 4.0}, ""),
    ],
)
def test_windows_are_discarded_for_a_reason(change, reason):
    window = Judge(RULE._replace(**change))(0, timed(moving(9, (0.6, 0.0))))
    assert window.discarded == reason


def test_flicker_does_not_match():
    still = moving(1, (0, 0))[0] // 2
    frames = [still + np.uint8(40 * (number == 3)) for number in range(7)]
    window = Judge(RULE)(0, timed(frames))
    assert window.discarded == "frames do not match"
    assert window.matching_error > 5


def test_a_share_of_the_pixels_may_move_faster():
    def frame(number):
        return np.vstack([moving(1, (0, 0))[0], texture((2 * number, 0))[:12].astype(np.uint8)])

    frames = timed([frame(number) for number in range(7)])  # a fifth moves by 2 px
    assert Judge(RULE)(0, frames).discarded == "too much motion"
    assert Judge(RULE._replace(outliers=0.1))(0, frames).discarded == "too much motion"
    assert Judge(RULE._replace(outliers=0.5))(0, frames).discarded == ""


def test_a_dropped_frame_is_uneven_unless_nobody_looks():
    frames = timed(moving(8, (0.3, 0.0)))
    del frames[3]
    window = Judge(RULE)(0, frames)
    assert (window.discarded, window.flow_mean) == (UNEVEN, None)
    assert Judge(RULE._replace(jitter=None))(0, frames).discarded == ""
    unknown = [frame._replace(time=None) for frame in frames]
    window = Judge(RULE)(0, unknown)
    assert (window.discarded, window.fps) == ("", None)


def test_motion_of_windows_that_overlap_is_measured_once(monkeypatch):
    measured = []

    def flow(first, second):
        measured.append(1)
        return np.zeros((48, 64, 2), np.float32)

    monkeypatch.setattr("blur_lightning.wild.frame_windows.estimator", lambda name: flow)
    frames = timed(moving(12, (0, 0)))
    judge = Judge(RULE)
    windows = [judge(first, frames[first : first + 7]) for first in range(6)]
    assert len(measured) == 11
    assert windows[3] == Judge(RULE)(3, frames[3:10])

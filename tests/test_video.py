"""Frames of videos: their pixels, their times, and files that are broken."""

import sys
from fractions import Fraction

import numpy as np
import pytest
from small_videos import moving, write_video

from blur_lightning.errors import InputError
from blur_lightning.wild import video as module
from blur_lightning.wild.video import (
    UnreadableVideoError,
    count_frames,
    find_videos,
    read_frames,
    unevenness,
)

FRAMES = moving(20, (0.5, 0.25))


@pytest.mark.parametrize("ending", ["avi", "mkv"])
def test_frames_come_as_they_were_written(tmp_path, ending):
    path = write_video(tmp_path / f"a.{ending}", FRAMES, fps=50)
    frames = list(read_frames(path))
    assert all((one.pixels == other).all() for one, other in zip(frames, FRAMES, strict=True))
    np.testing.assert_allclose([frame.time for frame in frames], np.arange(20) / 50)
    assert count_frames(path) == 20


@pytest.mark.parametrize("reduce", [2, 3])
def test_a_reduced_pixel_is_the_mean_of_a_block(tmp_path, reduce):
    path = write_video(tmp_path / "a.avi", FRAMES[:2])
    for frame, whole in zip(read_frames(path, reduce=reduce), FRAMES[:2], strict=True):
        rows, columns = (side // reduce for side in whole.shape[:2])  # 64 is not a multiple of 3
        blocks = whole[: rows * reduce, : columns * reduce].reshape(
            rows, reduce, columns, reduce, 3
        )
        mean = blocks.mean(axis=(1, 3))
        assert np.abs(frame.pixels - mean).max() <= 0.5


def test_a_video_on_its_side_is_turned_upright():
    class Picture:
        rotation = 90  # counter-clockwise

        def to_ndarray(self, format):
            return np.arange(18, dtype=np.uint8).reshape(2, 3, 3)

    upright = module._reduced(Picture(), 1)
    assert upright.shape == (3, 2, 3)
    assert upright[0, 0].tolist() == [6, 7, 8]  # the upper right pixel is now the upper left one


def test_frames_are_decoded_when_they_are_asked_for(tmp_path):
    frames = read_frames(write_video(tmp_path / "a.avi", FRAMES))
    assert (next(frames).pixels == FRAMES[0]).all()
    frames.close()


def test_what_is_no_video_is_told(tmp_path):
    (tmp_path / "a.mp4").write_text("no video")
    with pytest.raises(UnreadableVideoError, match=r"a\.mp4: cannot be decoded after 0 frames"):
        list(read_frames(tmp_path / "a.mp4"))
    assert count_frames(tmp_path / "a.mp4") == 0


@pytest.mark.parametrize(
    ("ending", "reason", "fps"),
    [("avi", "or damaged", 10), ("mkv", "s lack", 10), ("mkv", "s lack", 240)],
)
def test_frames_before_a_cut_come_and_the_cut_is_told(tmp_path, ending, reason, fps):
    path = write_video(tmp_path / f"a.{ending}", FRAMES, fps=fps)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 6 // 10])
    frames = read_frames(path)
    with pytest.raises(UnreadableVideoError, match=f"a.{ending}: cut off .*{reason}") as told:
        for number in range(21):
            assert (next(frames).pixels == FRAMES[number]).all()
    assert 8 <= number <= 12
    assert f"after {number} frames" in str(told.value)


def test_frames_too_small_for_a_flow_are_told(tmp_path):
    path = write_video(tmp_path / "a.avi", FRAMES)
    with pytest.raises(UnreadableVideoError, match=r"16x12 pixels after --reduce 4; .* 16 or more"):
        next(read_frames(path, reduce=4))
    with pytest.raises(UnreadableVideoError, match="0x0 pixels after --reduce 65"):
        next(read_frames(path, reduce=65))


def test_a_file_without_pictures_is_told(tmp_path):
    import av

    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        sound.sample_rate = 8000
        container.mux(stream.encode(sound))
        container.mux(stream.encode())
    with pytest.raises(UnreadableVideoError, match=r"a\.wav: holds no pictures"):
        next(read_frames(tmp_path / "a.wav"))
    assert count_frames(tmp_path / "a.wav") == 0


def test_times_at_a_constant_rate_are_even_and_a_dropped_frame_is_not():
    assert unevenness([0.0, 0.1, 0.2, 0.3]) == pytest.approx(0)
    # Distances of 1, 1, 2: their mean is 4/3, and 2 is half as much again.
    assert unevenness([0.0, 1.0, 2.0, 4.0]) == pytest.approx(0.5)
    assert unevenness([0.0, 4.0, 8.0, 13.0]) == pytest.approx(5 / (13 / 3) - 1)


@pytest.mark.parametrize("fps", [Fraction(30_000, 1001), 240, 480])
def test_a_constant_rate_is_even_though_matroska_rounds_to_milliseconds(tmp_path, fps):
    file = write_video(tmp_path / "v.mkv", moving(12, (0.5, 0)), fps=fps)
    frames = list(read_frames(file))
    times, tick = [frame.time for frame in frames], frames[0].tick
    assert tick == pytest.approx(1e-3)
    assert unevenness(times) > 0.01
    assert unevenness(times, tick=tick) == 0
    without = [time for number, time in enumerate(times) if number != 5]
    assert unevenness(without, tick=tick) > 0.3


def test_times_that_stand_or_go_back_are_uneven_and_unknown_ones_are_not():
    assert unevenness([0.0, 1.0, 1.0]) == float("inf")
    assert unevenness([0.0, 2.0, 1.0]) == float("inf")
    assert unevenness([0.0, None, 9.0]) == 0


def test_videos_have_the_names_of_their_paths(tmp_path):
    for name in ("b/x.mp4", "b/deep/y.MOV", "c.avi", "b/notes.txt"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "b/folder.mp4").mkdir()
    found = find_videos([tmp_path / "b", tmp_path / "c.avi"])
    assert found == {
        "x": tmp_path / "b/x.mp4",
        "deep-y": tmp_path / "b/deep/y.MOV",
        "c": tmp_path / "c.avi",
    }


def test_wrong_paths_of_videos_are_named(tmp_path):
    with pytest.raises(InputError, match="nowhere: not found; name videos or folders"):
        find_videos([tmp_path / "nowhere"])
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="empty: holds no videos"):
        find_videos([tmp_path / "empty"])
    (tmp_path / "a.mp4").touch()
    (tmp_path / "a.avi").touch()
    with pytest.raises(InputError, match=r"a.avi and .*a.mp4: both would become a; rename one"):
        find_videos([tmp_path])


def test_a_missing_package_is_one_line_that_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(InputError, match=r"av cannot be imported.*blur_lightning\[video\]"):
        next(read_frames(tmp_path / "a.mp4"))

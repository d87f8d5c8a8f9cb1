"""The pairs of one video; more of this through the command, in test_wild.py."""

import numpy as np
import pytest
from PIL import Image
from small_videos import moving, write_video

from blur_lightning.wild.frame_windows import Rule
from blur_lightning.wild.making_pairs import make_pairs, pair_files
from blur_lightning.wild.window_notes import read_notes

RULE = Rule(0, (7, 7), 1, None, "dis", 1.0, 0.0, 5.0, 0.0, 0.3, "srgb")
FRAMES = moving(30, (0.5, 0.0))


@pytest.fixture
def make(tmp_path):
    def run(path, **options):
        notes, out = tmp_path / "notes", tmp_path / "out"
        return make_pairs(path, RULE, "a", notes=notes, out=out, **options)

    return run


def test_pairs_are_made_and_frames_counted(make, tmp_path):
    decoded = []
    path = write_video(tmp_path / "a.avi", FRAMES)
    assert make(path, advance=decoded.append) == ""
    assert sum(decoded) == 30
    notes = read_notes(tmp_path / "notes")
    assert list(notes.windows) == [0, 7, 14, 21]
    for first, window in notes.windows.items():
        blurry, sharp = (np.asarray(Image.open(x)) for x in pair_files(tmp_path / "out", window))
        assert (sharp == FRAMES[first + 3]).all()
        assert (blurry == np.rint(np.mean(FRAMES[first : first + 7], axis=0))).all()


def test_a_video_that_was_moved_keeps_its_pairs(make, tmp_path):
    path = write_video(tmp_path / "a.avi", FRAMES)
    make(path)
    decoded = []
    assert make(path.rename(tmp_path / "b.avi"), advance=decoded.append) == ""
    assert decoded == []
    other = write_video(tmp_path / "c.avi", FRAMES[:20])
    assert f"{other}: its pairs would be those of {path}; rename one" in make(other)

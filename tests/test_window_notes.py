"""Notes of windows: what was written is read, but for a line that was cut off."""

import io
import os
from pathlib import Path

import pytest

from blur_lightning.errors import InputError
from blur_lightning.wild.frame_windows import Window
from blur_lightning.wild.window_notes import Notes, read_notes, source_of, writing_notes

KEPT = Window(0, 7, 240.0, 0.5, 0.9, 1.25, 3.0, "")
DISCARDED = Window(7, 9, None, None, None, None, None, "too much motion")


@pytest.fixture
def source(tmp_path):
    (tmp_path / "ä 1.mp4").write_text("four")
    return source_of(tmp_path / "ä 1.mp4")


def write(file, source, *found):
    with writing_notes(file, Notes(source, {}, None)) as note:
        for each in found:
            note(each)


def test_notes_are_read_as_they_were_written(tmp_path, source):
    file = tmp_path / "notes"
    assert read_notes(file) is None
    write(file, source, KEPT, DISCARDED)
    assert read_notes(file) == Notes(source, {0: KEPT, 7: DISCARDED}, None)
    write(file, source, KEPT, "")
    assert read_notes(file) == Notes(source, {0: KEPT}, "")
    write(file, source, "broken")
    assert read_notes(file) == Notes(source, {}, "broken")


def test_notes_go_on_from_what_is_known(tmp_path, source):
    file = tmp_path / "notes"
    with writing_notes(file, Notes(source, {0: KEPT}, None)) as note:
        note(DISCARDED)
        assert read_notes(file).windows == {0: KEPT, 7: DISCARDED}  # a kill loses nothing


def test_a_line_that_was_cut_off_is_left_out(tmp_path, source):
    file = tmp_path / "notes"
    write(file, source, KEPT, DISCARDED)
    whole = file.read_bytes()
    for cut in range(1, 40):
        file.write_bytes(whole[:-cut])
        assert read_notes(file) == Notes(source, {0: KEPT}, None)


@pytest.mark.parametrize("text", ["\n", "7\n", "{}\n", '{"source": 3}\n', "[]\n"])
def test_files_of_somebody_else_are_told(tmp_path, text):
    (tmp_path / "notes").write_text(text)
    with pytest.raises(InputError, match="notes: tells nothing of windows"):
        read_notes(tmp_path / "notes")


def test_a_full_disk_is_told(tmp_path, source, monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

        def close(self):
            pass

    opened = Path.open
    monkeypatch.setattr(
        Path, "open", lambda self, mode, **x: Full() if mode == "a" else opened(self, mode, **x)
    )
    with pytest.raises(InputError, match=r"notes: cannot be written \(No space left"):
        write(tmp_path / "notes", source, KEPT)


def test_a_source_is_told_by_place_size_and_time(tmp_path, source, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert source_of(Path("ä 1.mp4")) == source
    assert (source.path, source.size) == (str(tmp_path / "ä 1.mp4"), 4)
    os.utime(source.path, ns=(5, 5))
    assert source_of(Path(source.path)) == source._replace(changed=5)

"""Files are whole or not there."""

import errno
import os

import pytest

from blur_lightning.errors import InputError
from blur_lightning.records.writing import replacing


def test_a_file_takes_its_place_when_it_is_whole(tmp_path):
    path = tmp_path / "deep/file.txt"
    with replacing(path) as temporary:
        temporary.write_text("part")
        assert not path.exists()
    assert path.read_text() == "part" and [*path.parent.iterdir()] == [path]


@pytest.mark.parametrize(
    ("number", "advice"),
    [
        (errno.ENOSPC, "make room and give the same command again, or choose another place"),
        (errno.EROFS, "; choose another place"),
    ],
)
def test_a_disk_that_takes_nothing_leaves_the_old_file_and_no_part(tmp_path, number, advice):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(InputError, match=advice), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError(number, os.strerror(number))
    assert path.read_text() == "old" and [*tmp_path.iterdir()] == [path]


def test_what_a_killed_process_left_goes_and_what_one_that_lives_writes_stays(tmp_path):
    path = tmp_path / "file.txt"
    dead, alive, other = (
        tmp_path / name
        for name in (".file.txt.999999999.tmp", f".file.txt.{os.getppid()}.tmp", ".f.999999999.tmp")
    )
    for part in (dead, alive, other):
        part.touch()
    with replacing(path) as temporary:
        temporary.write_text("new")
    assert {*tmp_path.iterdir()} == {path, alive, other}


def test_a_folder_is_whole_or_not_there_too(tmp_path):
    path, dead = tmp_path / "pictures", tmp_path / ".pictures.999999999.tmp"
    dead.mkdir()
    (dead / "half.jpg").touch()
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "half.jpg").touch()
        raise ZeroDivisionError
    assert [*tmp_path.iterdir()] == []
    with replacing(path) as temporary:
        temporary.mkdir()
        (temporary / "whole.jpg").touch()
    assert [file.name for file in path.iterdir()] == ["whole.jpg"]

"""Folders that are filled in several runs hold results of the same settings."""

import json

import pytest

from blur_lightning.errors import InputError
from blur_lightning.resuming import SETTINGS, agree


def test_settings_of_the_first_run_are_kept_and_others_refused(tmp_path):
    out = tmp_path / "out"
    agree({"a": 1, "b": (2, 3)}, out, ["x"], kind="pairs")
    assert json.loads((out / SETTINGS).read_text()) == {"a": 1, "b": [2, 3]}
    (out / "x").touch()
    agree({"a": 1, "b": (2, 3)}, out, ["x"], kind="pairs")
    with pytest.raises(InputError, match=r'out: pairs of a 1, not "ü"; choose another --out'):
        agree({"a": "ü", "b": (2, 3)}, out, ["x"], kind="pairs")
    with pytest.raises(InputError, match="pairs of c null, not 4"):
        agree({"a": 1, "b": (2, 3), "c": 4}, out, ["x"], kind="pairs")


def test_files_of_somebody_else_are_refused(tmp_path):
    (tmp_path / "x").touch()
    with pytest.raises(InputError, match="x: not from this command; choose another --out"):
        agree({}, tmp_path, ["y", "x"], kind="pairs")
    assert not (tmp_path / SETTINGS).exists()
    agree({}, tmp_path, ["y"], kind="pairs")

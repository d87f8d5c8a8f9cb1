"""The benchmark of faults, in short; `python benchmarks/faults.py` is the long form."""

import numpy as np
import pytest
from faults import Case, cases, files_left, main, measure


@pytest.mark.slow
@pytest.mark.parametrize("name", ["fit, classification", "fit, two processes", "sweep", "blur"])
def test_a_command_that_is_killed_ends_as_one_that_is_not(name, tmp_path):
    case = cases(tmp_path / "in")[name]
    found = measure(case, tmp_path / "runs", kills=2, random=np.random.default_rng(0))
    assert found[:3] == (2, 2, [])


@pytest.mark.slow
def test_mishaps_are_told_in_one_line_and_the_same_command_goes_on(capsys):
    assert main(["--kills", "0", "--only", "a photograph"]) == 0
    assert capsys.readouterr().out.count("goes on") == 2


@pytest.mark.slow
def test_what_differs_counts_as_lost(tmp_path):
    case, seen = cases(tmp_path / "in")["blur"], []

    def left(out):
        seen.append(out)
        return files_left(out) | {"number": len(seen)}

    other = Case(case.words, left)
    found = measure(other, tmp_path / "runs", kills=1, random=np.random.default_rng(0))
    assert found.survived == 0 and found.lost[0].endswith("number differs")

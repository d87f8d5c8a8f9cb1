"""Which runs are compared, and what the comparisons say."""

import numpy as np

from blur_lightning.records.pairs import ALL_PAIRS, noise_marks, paired_runs
from blur_lightning.records.robustness import Record, write_run


def make_run(folder, right, *, fingerprint="one", index=None):
    """A run on as many images as there are answers, under one condition."""
    record = Record(
        *(folder.name, "net", "original", "photos", len(right), "sharp", "sharp", 0.0, "224"),
        *("top1", 0.5, None, None),
    )
    images = {
        "index": np.arange(len(right)) if index is None else index,
        "condition": np.full(len(right), "sharp"),
        "top1": np.array(right, dtype=bool),
    }
    facts = {"data": {"fingerprint": {"test": fingerprint}}}
    write_run(folder, records=[record], images=images, provenance=facts)
    return folder


def places(pairs):
    return [(pair.run, pair.other) for pair in pairs]


def test_few_runs_are_all_compared_and_many_with_the_first(tmp_path):
    runs = [make_run(tmp_path / f"{i}", [True, False]) for i in range(ALL_PAIRS + 2)]
    pairs = places(paired_runs(runs))
    few = [(i, j) for j in range(ALL_PAIRS) for i in range(j)]
    assert pairs == [*few, (0, ALL_PAIRS), (0, ALL_PAIRS + 1)]


def test_runs_on_other_images_and_without_images_are_apart(tmp_path):
    first = make_run(tmp_path / "first", [True] * 3)
    other = make_run(tmp_path / "other", [True] * 3, fingerprint="two")
    bare = make_run(tmp_path / "bare", [True] * 3)
    (bare / "images.parquet").unlink()
    part = make_run(tmp_path / "part", [True] * 2)
    last = make_run(tmp_path / "last", [True] * 3)
    again = make_run(tmp_path / "again", [True] * 3, fingerprint="two")
    assert places(paired_runs([first, other, bare, part, last, again])) == [(0, 4), (1, 5)]
    assert paired_runs([]) == []


def test_marks_are_those_of_the_first_run_on_the_same_images(tmp_path):
    right = [True] * 20
    runs = [
        make_run(tmp_path / "first", right),
        make_run(tmp_path / "worse", [False] * 10 + [True] * 10),
        make_run(tmp_path / "alike", [False] * 2 + [True] * 18),
    ]
    marks = noise_marks(paired_runs(runs), ["first", "worse", "alike"])
    # Against "worse" the last one would be beyond noise.
    assert marks == {("worse", "sharp", "top1"): False, ("alike", "sharp", "top1"): True}
    difference = paired_runs(runs)[0].differences[0]
    assert (difference.run, difference.other, difference.difference) == ("first", "worse", -0.5)

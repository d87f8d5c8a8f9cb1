"""The command build-wild: pairs, tables, and what a second run finds on disk."""

import csv
import json
import math

import numpy as np
import pytest
from PIL import Image
from small_videos import moving, texture, write_video

from blur_lightning.cli import main
from blur_lightning.data import PairsDataModule
from blur_lightning.pair_layouts import find_pairs
from blur_lightning.wild.building import _split

STEP = (0.6, 0.3)  # px a frame


@pytest.fixture
def videos(tmp_path):
    """A slow video, one below it, and one that is too fast in its second half."""
    write_video(tmp_path / "videos/a.avi", moving(40, STEP))
    write_video(tmp_path / "videos/deep/b.mkv", moving(24, (-0.5, 0.4)))
    fast = [*moving(22, (0.2, 0)), *moving(20, (2.5, 0))]
    write_video(tmp_path / "videos/c.avi", fast)
    return tmp_path / "videos"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def build(videos, out, capsys, monkeypatch):
    """Run the command; returns its one line of an error, or else what it printed."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # takes longer than the command when it fails

    def run(*words, paths=(videos,), expect=0, to=out, workers=1, share=0.0):
        given = ["--out", to, "--frames", "7..11", "--reduce", 1, "--workers", workers]
        given += [] if "--test" in words else ["--test_share", share]
        assert main(["build-wild", *map(str, [*paths, *given, *words])]) == expect
        output = capsys.readouterr()
        lines = [x for x in output.err.splitlines() if x.startswith("error: ")]
        assert len(lines) == (expect > 0)
        return lines[0] if lines else output.out

    return run


def rows(file):
    with file.open(newline="") as stream:
        return list(csv.DictReader(stream))


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def pairs(folder):
    return {name: data for name, data in contents(folder).items() if name.suffix == ".png"}


def pixels(file):
    return np.asarray(Image.open(file)).astype(float)


def test_pairs_are_the_mean_of_a_window_and_the_frame_in_its_middle(build, videos, out):
    build(paths=[videos / "a.avi"])
    manifest = rows(out / "manifest.csv")
    assert len(manifest) >= 3
    for row in manifest:
        first, count = int(row["first_frame"]), int(row["frames"])
        assert row["blur"] == f"train/a/blur/{first:06}.png"
        assert row["sharp"] == f"train/a/sharp/{first:06}.png"
        middle = first + count // 2
        place = (middle * STEP[0], middle * STEP[1])
        assert (pixels(out / row["sharp"]) == np.rint(texture(place))).all()
        assert np.abs(pixels(out / row["blur"]) - texture(place, count, STEP)).max() <= 1


def test_the_manifest_tells_the_motion_of_each_pair(build, videos, out):
    build(paths=[videos / "a.avi"])
    speed = math.hypot(*STEP)
    for row in rows(out / "manifest.csv"):
        told = [row[x] for x in ("video", "source", "split", "light")]
        assert told == ["a", str(videos / "a.avi"), "train", "srgb"]
        assert float(row["fps"]) == pytest.approx(240)
        assert float(row["flow_mean"]) == pytest.approx(speed, rel=0.05)
        assert speed < float(row["flow_max"]) <= 1
        assert float(row["blur_size"]) == pytest.approx((int(row["frames"]) - 1) * speed, rel=0.05)
        assert 0 < float(row["matching_error"]) < 5


def test_the_data_module_reads_what_is_written(build, out):
    build("--test", "[c]")
    found = find_pairs(out, layout="gopro", variant=None, part="test", held_out=0.5)
    assert {pair.sequence for pair in found} == {"c"}
    assert len(found) == sum(row["split"] == "test" for row in rows(out / "manifest.csv")) > 0
    data = PairsDataModule(str(out), layout="gopro", held_out=0.5, num_workers=0, seed=0)
    source = data.source("train")
    assert {pair.sequence for pair in data_pairs(out)} == {"a", "deep-b"}
    assert source.sharp(0).shape == (48, 64, 3)


def data_pairs(out):
    return [
        pair
        for part in ("train", "val")
        for pair in find_pairs(out, layout="gopro", variant=None, part=part, held_out=0.5)
    ]


def test_windows_that_move_too_fast_are_listed_and_make_no_pair(build, videos, out):
    text = build(paths=[videos / "c.avi"])
    discarded = rows(out / "discarded.csv")
    assert {row["reason"] for row in discarded} == {"too much motion"}
    assert all(int(row["first_frame"]) + int(row["frames"]) > 22 for row in discarded)
    kept = rows(out / "manifest.csv")
    assert all(int(row["first_frame"]) + int(row["frames"]) <= 22 for row in kept)
    total = len(kept) + len(discarded)
    assert f"train c: {len(kept)} of {total} windows kept" in text
    assert f"; {len(discarded)} too much motion" in text
    assert f"{out}: {len(kept)} pairs to train, 0 to test" in text


def test_frames_are_reduced_before_anything_else(build, videos, out):
    build("--reduce", 2, paths=[videos / "a.avi"])
    row = rows(out / "manifest.csv")[0]
    assert float(row["flow_mean"]) == pytest.approx(math.hypot(*STEP) / 2, rel=0.2)
    middle = int(row["frames"]) // 2
    whole = np.rint(texture((middle * STEP[0], middle * STEP[1])))
    blocks = whole.reshape(24, 2, 32, 2, 3).mean((1, 3))
    assert np.abs(pixels(out / row["sharp"]) - blocks).max() <= 0.5


def test_light_is_averaged_where_that_is_asked_for(build, videos, out, tmp_path):
    build(paths=[videos / "a.avi"])
    build("--light", "linear", paths=[videos / "a.avi"], to=tmp_path / "linear")
    for row in rows(tmp_path / "linear/manifest.csv"):
        assert row["light"] == "linear"
        brighter = pixels(tmp_path / "linear" / row["blur"]) - pixels(out / row["blur"])
        assert brighter.mean() > 1
        assert (pixels(tmp_path / "linear" / row["sharp"]) == pixels(out / row["sharp"])).all()


def test_workers_change_no_byte(build, tmp_path):
    build(to=tmp_path / "one")
    build(to=tmp_path / "two", workers=3)
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert len(pairs(tmp_path / "one")) >= 14


def test_all_pairs_of_a_video_have_one_split(build, out):
    build("--seed", 2, share=0.5)
    split = {row["video"]: set() for row in rows(out / "manifest.csv")}
    for row in rows(out / "manifest.csv"):
        split[row["video"]].add(row["split"])
        assert (out / row["split"] / row["video"] / "blur").is_dir()
    assert sorted(map(len, split.values())) == [1, 1, 1]


def test_a_split_is_drawn_by_the_seed_and_the_name_alone():
    settings = {"seed": 0, "test": None, "test_share": 0.25}
    drawn = [_split(f"v{number}", settings) for number in range(400)]
    assert 70 <= drawn.count("test") <= 130
    assert drawn != [_split(f"v{number}", settings | {"seed": 1}) for number in range(400)]
    assert {_split(f"v{number}", settings | {"test_share": 0.0}) for number in range(9)} == {
        "train"
    }
    named = settings | {"test": ["v3"]}
    assert [_split(f"v{number}", named) for number in range(5)].index("test") == 3


def test_further_videos_change_nothing_of_the_others(build, videos, out):
    build(paths=[videos / "a.avi"])
    before = pairs(out)
    build()
    after = pairs(out)
    assert before.items() < after.items()
    assert {row["video"] for row in rows(out / "manifest.csv")} == {"a", "deep-b", "c"}


def test_a_second_run_reads_no_video(build, out, monkeypatch):
    build()
    first = contents(out)
    monkeypatch.setattr("blur_lightning.wild.making_pairs.read_frames", None)
    build()
    assert contents(out) == first


def test_a_pair_that_was_removed_is_made_again(build, videos, out):
    build(paths=[videos / "a.avi"])
    first, manifest = pairs(out), rows(out / "manifest.csv")
    (out / manifest[1]["blur"]).unlink()
    build(paths=[videos / "a.avi"])
    assert pairs(out) == first
    assert rows(out / "manifest.csv") == manifest


@pytest.mark.parametrize("pictures", [3, 8])  # within a pair, and between two
def test_a_run_that_was_stopped_goes_on(build, out, tmp_path, monkeypatch, pictures):
    build(to=tmp_path / "whole")
    original, calls, measured = Image.Image.save, [], []

    def interrupted(self, path, **options):
        original(self, path, **options)
        calls.append(path)
        if len(calls) == pictures:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert "interrupted; no file was left half-written" in build(expect=130)
    monkeypatch.undo()
    assert not list(out.rglob("*.tmp"))
    assert len(pairs(out)) == pictures - 1  # the last one did not get its name
    assert not (out / "manifest.csv").exists()
    notes = next(file for file in (out / ".windows").iterdir() if file.stat().st_size)
    with notes.open("a") as stream:
        stream.write('{"window": [3, 7')  # as a kill leaves it
    monkeypatch.setattr("gc.collect", lambda: 0)
    judge = "blur_lightning.wild.frame_windows.measure_motion"
    from blur_lightning.wild.motion import measure_motion

    monkeypatch.setattr(judge, lambda *x, **y: measured.append(1) or measure_motion(*x, **y))
    build()
    assert contents(out) == contents(tmp_path / "whole")
    rest = len(measured)
    build(to=tmp_path / "again")
    assert rest < len(measured) - rest


def test_a_video_that_has_changed_is_read_anew(build, videos, out, tmp_path):
    build()
    before = pairs(out)
    write_video(videos / "a.avi", moving(20, (0.3, 0.0)))
    build()
    after = {name: data for name, data in pairs(out).items() if "a" in name.parts}
    assert 2 <= len(after) <= 4
    assert all(before[name] != data for name, data in after.items())
    others = {name: data for name, data in pairs(out).items() if "a" not in name.parts}
    assert others == {name: data for name, data in before.items() if "a" not in name.parts}
    assert sum(row["video"] == "a" for row in rows(out / "manifest.csv")) == len(after) // 2


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--frames", "7..13", "pairs of frames [7, 11], not [7, 13]"),
        ("--reduce", 2, "pairs of reduce 1, not 2"),
        ("--light", "linear", 'pairs of light "srgb", not "linear"'),
        ("--max_flow", 0.5, "pairs of max_flow 1.0, not 0.5"),
        ("--seed", 1, "pairs of seed 0, not 1"),
        ("--step", 3, "pairs of step null, not 3"),
    ],
)
def test_pairs_of_other_settings_are_not_mixed(build, videos, out, option, value, message):
    build(paths=[videos / "c.avi"])
    before = contents(out)
    assert message in build(option, value, paths=[videos / "c.avi"], expect=2)
    assert contents(out) == before


def test_files_of_somebody_else_are_not_mixed_in(build, out):
    (out / "train").mkdir(parents=True)
    assert f"{out / 'train'}: not from this command" in build(expect=2)


def test_another_video_of_the_same_name_is_refused(build, videos, out, tmp_path):
    build(paths=[videos / "a.avi"])
    other = write_video(tmp_path / "others/a.avi", moving(20, (0, 0)))
    line = build(paths=[other], expect=2)
    assert f"{other}: its pairs would be those of {videos / 'a.avi'}; rename one" in line


def broken(videos):
    whole = (videos / "a.avi").read_bytes()
    (videos / "cut.avi").write_bytes(whole[: len(whole) // 2])
    (videos / "none.mp4").write_text("no video")
    write_video(videos / "short.avi", moving(6, STEP))
    times = [number * 5 + 2 * (number % 3) for number in range(30)]
    write_video(videos / "uneven.mkv", moving(30, STEP), times=times)


def test_broken_videos_are_named_and_the_others_used(build, videos, out, capsys):
    broken(videos)
    line = build(expect=2)
    assert line.endswith("; 4 of 7 videos need mending")
    assert f"{videos / 'cut.avi'}: cut off or damaged after" in line
    kept = {row["video"] for row in rows(out / "manifest.csv")}
    assert kept == {"a", "deep-b", "c", "cut"}
    number = sum(row["video"] == "cut" for row in rows(out / "manifest.csv"))
    assert 1 <= number < sum(row["video"] == "a" for row in rows(out / "manifest.csv"))
    assert f"the {number} windows before that stand" in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("none.mp4", "cannot be decoded after 0 frames"),
        ("short.avi", "has fewer frames than its first window, which has"),
        ("uneven.mkv", "variable frame rate: frames are unevenly spaced in time in all windows"),
    ],
)
def test_each_kind_of_broken_video_is_one_line_that_names_it(build, videos, out, name, message):
    broken(videos)
    assert f"{videos / name}: {message}" in build(paths=[videos / name], expect=2)
    build(paths=[videos / "c.avi"], share=0.3)  # the folder is free for other settings


def test_a_broken_video_is_told_again_and_used_once_mended(build, videos, out):
    whole = (videos / "a.avi").read_bytes()
    (videos / "a.avi").write_bytes(whole[: len(whole) // 2])
    first = build(paths=[videos / "a.avi"], expect=2)
    assert build(paths=[videos / "a.avi"], expect=2) == first
    number = len(rows(out / "manifest.csv"))
    (videos / "a.avi").write_bytes(whole)
    build(paths=[videos / "a.avi"])
    assert len(rows(out / "manifest.csv")) > number


def test_a_variable_frame_rate_may_be_allowed(build, videos, out):
    broken(videos)
    build("--jitter", "null", paths=[videos / "uneven.mkv"])
    assert rows(out / "manifest.csv")


def test_where_no_window_is_kept_the_reasons_are_counted(build, videos, out):
    words = ["--max_flow", 0.05]
    line = build(*words, paths=[videos / "a.avi"], expect=2)
    number = len(rows(out / "discarded.csv"))
    told = f"{videos / 'a.avi'}: all windows were discarded, {number} too much motion; see "
    assert f"{told}{out / 'discarded.csv'}" in line
    assert "2 videos: all windows were" in build(
        *words, paths=[videos / "a.avi", videos / "deep"], expect=2
    )
    build()  # with other settings


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--frames", "8"], "--frames: 8 needs odd numbers"),
        (["--reduce", 0], "--reduce: 0 is not 1 or more"),
        (["--step", 0], "--step: 0 is not 1 or more"),
        (["--max_flow", 0], "--max_flow: 0.0 is not above 0"),
        (["--outliers", -1], "--outliers: -1.0 is not 0 or more"),
        (["--outliers", 5], "--outliers: 5.0 is not in [0, 1]"),
        (["--max_error", "nan"], "--max_error: Expected a float"),
        (["--test_share", 1], "--test_share: 1.0 is not in [0, 1)"),
        (["--test", "[d]"], "--test: no video has the name 'd'; there are a, c, deep-b"),
        (["--flow", "hs"], "--flow"),
        (["--workers", 0], "--workers: 0 is not 1 or more"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(build, out, words, message):
    assert message in build(*words, expect=2)
    assert not out.exists()


def test_provenance_has_the_versions_and_the_settings(build, videos, out):
    build("--test", "[c]")
    facts = json.loads((out / "provenance.json").read_text())
    assert facts["av"]
    assert facts["opencv-python-headless"]
    assert facts["settings"]["test"] == ["c"]
    assert facts["settings"]["frames"] == [7, 11]
    assert facts["settings"] == json.loads((out / "settings.json").read_text())


def test_a_missing_package_is_one_line(build, out, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "cv2", None)
    assert "cv2 cannot be imported" in build(expect=2)
    assert not out.exists()


def test_help_tells_each_option(capsys):
    with pytest.raises(SystemExit):
        main(["build-wild", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    assert "WILD was reduced by 3" in text
    assert "manifest.csv lists them, discarded.csv the other windows, and why" in text

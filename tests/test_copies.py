"""Blurred copies: their pixels against the engine's, and what a second run finds on disk."""

import csv
import hashlib
import json
import os
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from blur_lightning.blur import (
    BlurDistribution,
    box_kernel,
    disk_kernel,
    gaussian_taps,
    shake_bank,
)
from blur_lightning.blur.blurring import blur_images
from blur_lightning.cli import main
from blur_lightning.data.images import read_image, resize_smaller_side


def save(path, size=(37, 31), **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(zlib.crc32(path.name.encode()))
    pixels = generator.integers(0, 256, size=(size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path, **options)
    return path


@pytest.fixture
def photos(tmp_path):
    """A tree of odd-sized photographs, one of them on its side."""
    exif = Image.Exif()
    exif[0x0112] = 6
    save(tmp_path / "photos/a.png")
    save(tmp_path / "photos/b.JPG", (31, 37), exif=exif)
    save(tmp_path / "photos/deep/er/a.png", (40, 33))
    save(tmp_path / "photos/deep/c.jpeg", (64, 31))
    (tmp_path / "photos/notes.txt").write_text("no photograph")
    return tmp_path / "photos"


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def blur(photos, out, capsys, monkeypatch):
    """Run the command; returns its one line of an error, or else what it printed."""
    monkeypatch.setattr("gc.collect", lambda: 0)  # takes longer than the command when it fails

    def run(*words, paths=(photos,), expect=0, to=out, workers=1):
        given = ["--out", to, "--canonical", 32, "--blur", "D2", "--workers", workers, *words]
        assert main(["blur", *map(str, [*paths, *given])]) == expect
        output = capsys.readouterr()
        lines = [x for x in output.err.splitlines() if x.startswith("error: ")]
        assert len(lines) == (expect > 0)
        return lines[0] if lines else output.out

    return run


def manifest(folder):
    with (folder / "manifest.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def opened(path):
    with Image.open(path) as image:
        image.load()
    return image


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def expected(source, text, *, canonical=32, **options):
    pixels = read_image(source)
    if canonical:
        pixels = resize_smaller_side(pixels, canonical)
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    drawn = BlurDistribution.parse(text).draw(seed=0, index=0)
    return blur_images(image, [drawn], **options)[0].permute(1, 2, 0).numpy()


def test_a_copy_is_the_blurred_photograph_to_the_pixel(blur, photos, out):
    assert blur("--border", "constant", "--rim", "area").startswith(f"{out}: 4 copies written, 0 ")
    assert {row["file"] for row in manifest(out)} == {
        "a.png",
        "b.png",
        "deep/c.png",
        "deep/er/a.png",
    }
    for row in manifest(out):
        copy = np.asarray(opened(out / row["file"]))
        assert (copy == expected(Path(row["source"]), "D2", border="constant", rim="area")).all()
        assert copy.shape == (int(row["height"]), int(row["width"]), 3)


def test_a_photograph_on_its_side_is_copied_upright(blur, photos, out):
    blur("--canonical", "null")
    copy = opened(out / "b.png")
    assert copy.size == (37, 31)
    assert not copy.getexif()
    assert (np.asarray(copy) == expected(photos / "b.JPG", "D2", canonical=None)).all()


def test_the_manifest_tells_the_draw_and_the_kernel_of_each_copy(blur, photos, out):
    mix = BlurDistribution.parse("sharp+D1..5+M3..9@0..180+G2+V4+shake")
    blur("--blur", mix.name, "--seed", 3)
    rows = manifest(out)
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    for row in rows:
        inside = next(photos.glob(row["file"].replace(".png", ".*"))).relative_to(photos)
        assert row["source"] == str(photos / inside)
        drawn = mix.draw(seed=3, index=zlib.crc32(inside.as_posix().encode()))
        told = (row["family"], float(row["parameter"]), float(row["angle"]), row["bank"])
        assert told == (drawn.family, drawn.parameter, drawn.angle, drawn.bank)
        settings = [row[name] for name in ("seed", "canonical", "border", "rim")]
        assert settings == ["3", "32", "reflect", "hard"]


TAPS = {
    "sharp": lambda: torch.ones(1, 1, 1),
    "D3.5": lambda: disk_kernel(torch.tensor([3.5])),
    "M5@30": lambda: box_kernel(torch.tensor([5.0]), torch.tensor([30.0])),
    "H4": lambda: box_kernel(torch.tensor([4.0]))[:, 2:3],
    "V4": lambda: box_kernel(torch.tensor([4.0]))[:, 2:3].mT,
    "G1.25": lambda: torch.einsum("nr,nc->nrc", *[gaussian_taps(torch.tensor([1.25]))] * 2),
    "shake": lambda: shake_bank(100, seed=0),
}


@pytest.mark.parametrize("text", TAPS)
def test_the_hash_is_that_of_the_whole_kernel(blur, out, text):
    blur("--blur", text)
    for row in manifest(out):
        assert row["blur"] == text
        taps = TAPS[text]()[int(float(row["parameter"])) if text == "shake" else 0]
        assert row["kernel_hash"] == hashlib.sha256(taps.numpy().tobytes()).hexdigest()


def test_workers_change_no_byte(blur, tmp_path):
    words = ["--blur", "sharp+D1..5+shake"]
    blur(*words, to=tmp_path / "one")
    blur(*words, to=tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")


def test_further_photographs_change_no_other_draw(blur, photos, out):
    blur("--blur", "D1..5")
    before = {row["file"]: row["blur"] for row in manifest(out)}
    save(photos / "0.png")
    (photos / "a.png").unlink()
    blur("--blur", "D1..5")
    after = {row["file"]: row["blur"] for row in manifest(out)}
    assert after.pop("0.png")
    assert after == before  # the copy of a.png is still there, and its line with it


def test_a_second_run_makes_only_what_is_missing_or_older(blur, photos, out):
    blur()
    first = contents(out)
    assert "0 copies written, 4 were up to date" in blur()
    (out / "b.png").unlink()
    newer = (out / "deep/c.png").stat().st_mtime_ns + 10**9
    os.utime(save(photos / "deep/c.jpeg", (31, 50)), ns=(newer, newer))
    assert "2 copies written, 2 were up to date" in blur()
    second = contents(out)
    changed = {str(file) for file in first if first[file] != second[file]}
    assert changed == {"deep/c.png", "manifest.csv"}


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--blur", "D3", 'copies of blur "D2", not "D3"'),
        ("--seed", 1, "copies of seed 0, not 1"),
        ("--canonical", "null", "copies of canonical 32, not null"),
        ("--border", "constant", "copies of border"),
        ("--rim", "area", "copies of rim"),
        ("--format", "keep", "copies of format"),
        ("--quality", 90, "copies of quality"),
    ],
)
def test_copies_of_other_settings_are_not_mixed(blur, out, option, value, message):
    blur()
    before = contents(out)
    assert message in blur(option, value, expect=2)
    assert contents(out) == before


def test_copies_of_another_folder_are_not_taken_for_those_of_this_one(blur, photos, tmp_path):
    blur()
    save(tmp_path / "others/a.png", (50, 50))
    assert "copies of photos" in blur(paths=[tmp_path / "others"], expect=2)


@pytest.mark.parametrize("format", ["png", "jpg", "keep"])
def test_formats(blur, photos, out, format):
    save(photos / "e.webp")
    blur("--format", format)
    kinds = {row["file"]: opened(out / row["file"]).format for row in manifest(out)}
    if format == "keep":
        kept = {"a.png": "PNG", "b.JPG": "JPEG", "deep/er/a.png": "PNG", "deep/c.jpeg": "JPEG"}
        assert kinds == kept | {"e.webp": "WEBP"}
    else:
        assert set(kinds.values()) == {{"png": "PNG", "jpg": "JPEG"}[format]}
        assert all(file.endswith(format) for file in kinds)


def test_quality_is_that_of_the_jpeg_files(blur, tmp_path):
    sizes = []
    for quality in (30, 95):
        to = tmp_path / str(quality)
        blur("--format", "jpg", "--quality", quality, to=to)
        sizes.append((to / "a.jpg").stat().st_size)
    assert sizes[0] < 0.6 * sizes[1]
    assert opened(to / "a.jpg").layer[0][1:3] == (1, 1)  # colours are not subsampled


def test_a_colour_profile_is_kept_where_it_fits(blur, photos, out):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    save(photos / "rgb.jpg", icc_profile=profile)
    grey = profile[:16] + b"GRAY" + profile[20:]
    save(photos / "grey.jpg", icc_profile=grey)
    blur()
    assert opened(out / "rgb.png").info["icc_profile"] == profile
    assert "icc_profile" not in opened(out / "grey.png").info


def test_a_photograph_on_its_own_is_drawn_for_as_in_its_folder(blur, photos, out, tmp_path):
    blur("--blur", "D1..5")
    paths = [photos / "b.JPG", photos / "a.png", photos / "a.png"]
    blur("--blur", "D1..5", paths=paths, to=tmp_path / "single")
    assert manifest(tmp_path / "single") == manifest(out)[:2]


def broken(photos):
    (photos / "b.JPG").write_bytes((photos / "b.JPG").read_bytes()[:200])
    (photos / "deep/c.jpeg").write_text("no picture")


def test_unreadable_photographs_are_named_and_the_others_copied(blur, photos, out):
    whole = (photos / "b.JPG").read_bytes()
    broken(photos)
    line = blur(expect=2)
    assert f"{photos / 'b.JPG'}: cannot be read" in line
    assert "2 of 4 not copied" in line
    assert [row["file"] for row in manifest(out)] == ["a.png", "deep/er/a.png"]
    (photos / "b.JPG").write_bytes(whole)
    line = blur(expect=2)
    assert "deep/c.jpeg: cannot be read (not an image); 1 of 4 not copied" in line
    assert [row["file"] for row in manifest(out)] == ["a.png", "b.png", "deep/er/a.png"]


def test_a_kernel_that_is_larger_than_a_photograph_names_it(blur, photos):
    save(photos / "small.png", (9, 5))
    line = blur("--canonical", "null", "--blur", "D8", expect=2)
    assert "small.png: " in line
    assert "1 of 5 not copied" in line


def test_an_interrupt_leaves_whole_files_and_the_next_run_the_rest(
    blur, out, tmp_path, monkeypatch
):
    blur("--blur", "D1..5", to=tmp_path / "whole")
    original, calls = Image.Image.save, []

    def interrupted(self, path, **options):
        original(self, path, **options)
        calls.append(path)
        if len(calls) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupted)
    assert "interrupted" in blur("--blur", "D1..5", expect=130)
    monkeypatch.undo()
    names = {path.name for path in out.rglob("*") if path.is_file()}
    assert len(names) == 3
    assert "settings.json" in names
    assert not any(name.endswith(".tmp") for name in names)
    assert "copies of blur" in blur(expect=2)
    assert "2 copies written, 2 were up to date" in blur("--blur", "D1..5")
    assert contents(out) == contents(tmp_path / "whole")


def test_inputs_that_would_become_one_file_are_refused_by_name(blur, photos, out):
    save(photos / "a.webp")
    line = blur(expect=2)
    assert str(photos / "a.png") in line
    assert str(photos / "a.webp") in line
    assert not out.exists()


def test_photographs_are_never_written_over(blur, photos, out, tmp_path):
    before = contents(photos)
    assert "among the photographs" in blur(to=photos, expect=2)
    assert "among the photographs" in blur(to=photos / "deep/copies", expect=2)
    assert "is itself a photograph" in blur(paths=[photos / "a.png"], to=photos, expect=2)
    (tmp_path / "link").symlink_to(photos)
    assert "among the photographs" in blur(to=tmp_path / "link", expect=2)
    out.mkdir()
    (out / "a.png").symlink_to(photos / "a.png")
    assert "is itself a photograph" in blur(expect=2)
    assert contents(photos) == before


@pytest.mark.parametrize("name", ["a.png", "manifest.csv"])
def test_files_that_are_no_copies_are_never_written_over(blur, out, name):
    out.mkdir()
    (out / name).write_text("mine")
    assert f"{out / name}: is no copy" in blur(expect=2)
    assert contents(out).popitem()[1] == b"mine"


@pytest.mark.parametrize("text", ["", "[1]", "7", "{"])
def test_foreign_settings_are_refused(blur, out, text):
    out.mkdir()
    (out / "settings.json").write_text(text)
    assert "settings.json: tells no settings" in blur(expect=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--quality", 0], "--quality: 0 is not 1 to 100"),
        (["--quality", 101], "--quality: 101 is not 1 to 100"),
        (["--canonical", 0], "--canonical: 0 is not 1 or more"),
        (["--workers", 0], "--workers: 0 is not 1 or more"),
        (["--seed", -1], "--seed: -1 is not 0 or more"),
        (["--blur", "X4"], "'X4' is no blur"),
        (["--format", "gif"], "--format"),
        (["--border", "wrap"], "--border"),
    ],
)
def test_a_wrong_option_is_one_line_that_names_it(blur, out, words, message):
    assert message in blur(*words, expect=2)
    assert not out.exists()


def test_wrong_paths_are_one_line_that_names_them(blur, photos, out, tmp_path):
    assert "nowhere: not found" in blur(paths=[tmp_path / "nowhere"], expect=2)
    (tmp_path / "empty").mkdir()
    assert "empty: holds no images" in blur(paths=[tmp_path / "empty"], expect=2)
    note = photos / "notes.txt"
    assert "notes.txt: cannot be read" in blur(paths=[note], expect=2)
    assert "notes.txt: this format cannot be kept" in blur(
        "--format", "keep", paths=[note], expect=2
    )
    save(photos / "moving.gif")
    assert "moving.gif: this format" in blur("--format", "keep", expect=2)
    (tmp_path / "file").write_text("")
    assert "cannot be written" in blur(to=tmp_path / "file", expect=2)
    assert "cannot be written" in blur(to=tmp_path / "file/below", expect=2)


def test_the_settings_are_those_of_the_command(blur, photos, out):
    blur("--blur", "D2.0+sharp")
    assert json.loads((out / "settings.json").read_text()) == {
        "photos": [str(photos)],
        "blur": "D2+sharp",
        "seed": 0,
        "canonical": 32,
        "border": "reflect",
        "rim": "hard",
        "format": "png",
        "quality": 95,
    }

"""Blurred copies: their pixels against the engine's, and what a second run finds on disk."""

import csv
import hashlib
import json
import os
import signal
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms

from blur_lightning.blur import (
    Blur,
    BlurDistribution,
    ThinLens,
    blur_by_depth,
    blur_regions,
    box_kernel,
    disk_kernel,
    gaussian_taps,
    make_kernels,
    shake_bank,
)
from blur_lightning.blur.blurring import blur_images
from blur_lightning.cli import main
from blur_lightning.images import read_image, resize_smaller_side


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
        given = ["--out", to, "--canonical", 32, "--workers", workers, *words]
        given += [] if {"--blur", "--depth"} & set(words) else ["--blur", "D2"]
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


def resized(source, canonical=32):
    pixels = read_image(source)
    if canonical:
        pixels = resize_smaller_side(pixels, canonical)
    return torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]


def expected(source, text, *, canonical=32, **options):
    drawn = BlurDistribution.parse(text).draw(seed=0, index=0)
    image = resized(source, canonical)
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
    mix = BlurDistribution.parse("sharp+D1..5+M3..9@0..180+D2%20..60+V4+shake")
    blur("--blur", mix.name, "--seed", 3)
    rows = manifest(out)
    assert [row["file"] for row in rows] == sorted(row["file"] for row in rows)
    for row in rows:
        inside = next(photos.glob(row["file"].replace(".png", ".*"))).relative_to(photos)
        assert row["source"] == str(photos / inside)
        drawn = mix.draw(seed=3, index=zlib.crc32(inside.as_posix().encode()))
        told = (row["family"], float(row["parameter"]), float(row["angle"]), row["bank"])
        assert told == (drawn.family, drawn.parameter, drawn.angle, drawn.bank)
        assert (row["blur"], float(row["share"])) == (str(drawn), drawn.share)
        settings = [row[name] for name in ("seed", "canonical", "border", "rim", "light", "map")]
        assert settings == ["3", "32", "reflect", "hard", "srgb", ""]


TAPS = {
    "sharp": lambda: torch.ones(1, 1, 1),
    "D3.5": lambda: disk_kernel(torch.tensor([3.5])),
    "M5@30": lambda: box_kernel(torch.tensor([5.0]), torch.tensor([30.0])),
    "H4": lambda: box_kernel(torch.tensor([4.0]))[:, 2:3],
    "V4": lambda: box_kernel(torch.tensor([4.0]))[:, 2:3].mT,
    "G1.25": lambda: torch.einsum("nr,nc->nrc", *[gaussian_taps(torch.tensor([1.25]))] * 2),
    "shake": lambda: shake_bank(100, seed=0),
    "coma0.2@30": lambda: make_kernels([Blur("coma", 0.2, 30.0)]).groups[0].factors[0],
}


@pytest.mark.parametrize("text", TAPS)
def test_the_hash_is_that_of_the_whole_kernel(blur, out, text):
    blur("--blur", text)
    for row in manifest(out):
        assert row["blur"] == text
        taps = TAPS[text]()[int(float(row["parameter"])) if text == "shake" else 0]
        assert row["kernel_hash"] == hashlib.sha256(taps.numpy().tobytes()).hexdigest()


def test_what_is_no_convolution_has_no_hash(blur, photos, out):
    blur("--blur", "zoom_blur-2")
    for row in manifest(out):
        assert row["kernel_hash"] == ""
        copy = np.asarray(opened(out / row["file"]))
        assert (copy == expected(Path(row["source"]), "zoom_blur-2")).all()


def test_the_light_is_that_of_the_command(blur, photos, out):
    blur("--light", "linear")
    for row in manifest(out):
        assert row["light"] == "linear"
        copy = np.asarray(opened(out / row["file"]))
        assert (copy == expected(Path(row["source"]), "D2", light="linear")).all()
        assert (copy != expected(Path(row["source"]), "D2")).any()


@pytest.fixture
def masks(photos, tmp_path):
    """A mask for each photograph: of its size, grey; larger; smaller, of two levels."""
    for name, size in {
        "a.png": (37, 31),
        "b.tif": (74, 62),
        "deep/er/a.png": (40, 33),
        "deep/c.bmp": (32, 16),
    }.items():
        path = save(tmp_path / "masks" / name, size)
        image = opened(path).convert("L")
        (image.point(lambda x: 255 * (x > 99)) if "c" in name else image).save(path)
    return tmp_path / "masks"


@pytest.fixture
def depths(photos, tmp_path):
    """A depth map for each photograph: metres or millimetres, some larger or smaller."""
    generator = np.random.default_rng(0)
    for name, shape in {
        "a.npy": (31, 37),
        "b.npy": (62, 74),
        "deep/er/a.png": (33, 40),
        "deep/c.png": (16, 32),
    }.items():
        path = tmp_path / "depths" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        metres = generator.choice([0, 1.2, 2, 3.5], shape)  # 0 is unknown
        if path.suffix == ".npy":
            np.save(path, metres)
        else:
            Image.fromarray((1000 * metres).astype(np.uint16)).save(path)
    return tmp_path / "depths"


def beside(folder, row):
    """The map of a photograph that the manifest names."""
    path = Path(row["map"])
    assert path.relative_to(folder).with_suffix("") == Path(row["file"]).with_suffix("")
    return path


@pytest.mark.parametrize("feather", [0.0, 1.5])
@pytest.mark.parametrize("canonical", [32, None])
def test_a_mask_tells_where_a_photograph_is_blurred(blur, masks, out, feather, canonical):
    options = {"border": "replicate", "rim": "area", "light": "linear"}
    words = [x for name, value in options.items() for x in (f"--{name}", value)]
    words += ["--canonical", canonical or "null", "--feather", feather]
    assert "4 copies written" in blur("--mask", masks, *words)
    for row in manifest(out):
        image = resized(Path(row["source"]), canonical)
        mask = opened(beside(masks, row)).convert("L")
        mask = mask.resize(image.shape[:1:-1], Image.Resampling.BILINEAR)
        mask = torch.from_numpy(np.array(mask))[None] / 255
        blurs = [Blur("disk", 2.0)], [Blur("sharp")]
        right = blur_regions(image, *blurs, mask, feather=feather, **options)
        copy = np.asarray(opened(out / row["file"]))
        assert (copy == right[0].permute(1, 2, 0).numpy()).all()
        assert (row["blur"], row["light"]) == ("D2", "linear")


def test_black_is_sharp_and_white_is_blurred(blur, photos, out, tmp_path):
    mask = np.zeros((31, 37), np.uint8)
    mask[:, 18:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    blur("--mask", tmp_path / "mask.png", "--canonical", "null", paths=[photos / "a.png"])
    copy = np.asarray(opened(out / "a.png"))
    assert (copy[:, :18] == np.asarray(opened(photos / "a.png"))[:, :18]).all()
    assert (copy[:, 18:] == expected(photos / "a.png", "D2", canonical=None)[:, 18:]).all()


@pytest.mark.parametrize("text", ["zoom_blur-1", "glass_blur-1", "D2%50"])
def test_a_mask_goes_with_every_blur(blur, photos, masks, out, text):
    blur("--blur", text, "--mask", masks, paths=[photos / "a.png"])
    mask = opened(masks / "a.png").convert("L").resize((38, 32), Image.Resampling.BILINEAR)
    mask = torch.from_numpy(np.array(mask))[None] / 255
    drawn = BlurDistribution.parse(text).draw(seed=0, index=zlib.crc32(b"a.png"))
    right = blur_regions(resized(photos / "a.png"), [drawn], [Blur("sharp")], mask)
    assert (np.asarray(opened(out / "a.png")) == right[0].permute(1, 2, 0).numpy()).all()


@pytest.mark.parametrize("canonical", [32, None])
def test_depth_defocuses_as_a_lens_in_front_of_a_full_frame(blur, depths, out, canonical):
    words = ["--focal_length", 85, "--f_number", 1.4, "--focus_distance", 3, "--light", "linear"]
    assert "4 copies" in blur("--depth", depths, *words, "--canonical", canonical or "null")
    for row in manifest(out):
        image = resized(Path(row["source"]), canonical)
        path = beside(depths, row)
        depth = np.load(path) if path.suffix == ".npy" else np.asarray(opened(path)) / 1000
        depth = Image.fromarray(np.where(depth == 0, 3.5, depth).astype(np.float32))
        depth = depth.resize(image.shape[:1:-1], Image.Resampling.NEAREST)
        depth = torch.from_numpy(np.array(depth))[None]
        lens = ThinLens(85.0, 1.4, 3.0, pixel_pitch=24000 / min(image.shape[2:]))
        right = blur_by_depth(image, depth, lens, light="linear")
        copy = np.asarray(opened(out / row["file"]))
        assert (copy == right[0].permute(1, 2, 0).numpy()).all()
        assert (copy != image[0].permute(1, 2, 0).numpy()).any()
        told = [row[x] for x in ("blur", "family", "parameter", "share", "kernel_hash", "rim")]
        assert told == ["depth", "depth", "", "", "", "area"]
    settings = json.loads((out / "settings.json").read_text())
    assert settings["depth"] == str(depths)
    assert [settings[x] for x in ("focal_length", "f_number", "focus_distance")] == [85, 1.4, 3]


def test_depth_has_a_rim_of_its_choice(blur, photos, depths, out):
    wide = ["--focal_length", 200]
    blur("--depth", depths, *wide, "--rim", "hard")
    assert {row["rim"] for row in manifest(out)} == {"hard"}
    assert "copies of rim" in blur("--depth", depths, *wide, expect=2)
    assert "copies of focal_length" in blur("--depth", depths, "--rim", "hard", expect=2)


@pytest.mark.parametrize("option", ["--mask", "--depth"])
def test_a_newer_map_makes_the_copy_again(blur, masks, depths, out, option):
    folder = masks if option == "--mask" else depths
    assert "4 copies written" in blur(option, folder)
    assert "0 copies written, 4 were" in blur(option, folder)
    newer = (out / "a.png").stat().st_mtime_ns + 10**9
    (changed,) = folder.glob("a.*")
    os.utime(changed, ns=(newer, newer))
    assert "1 copies written, 3 were" in blur(option, folder)
    option = ["--feather", 1, "--mask", masks] if option == "--mask" else ["--blur", "D2"]
    assert "copies of " in blur(*option, expect=2)


def test_wrong_masks_are_named_and_the_other_photographs_copied(blur, photos, masks, out):
    save(masks / "a.png", (31, 37))  # upright is 37 x 31
    (masks / "b.tif").write_text("no picture")
    (masks / "deep/c.bmp").unlink()
    line = blur("--mask", masks, expect=2)
    sizes = f"31 x 37 pixels, but {photos / 'a.png'} has 37 x 31"
    assert f"{masks / 'a.png'}: {sizes}; that is another aspect ratio; 3 of 4 not" in line
    assert [row["file"] for row in manifest(out)] == ["deep/er/a.png"]
    save(masks / "a.png", (37, 31))
    assert f"{masks / 'b.tif'}: cannot be read" in blur("--mask", masks, expect=2)
    save(masks / "b.tif", (37, 31))
    line = blur("--mask", masks, expect=2)
    assert f"{photos / 'deep/c.jpeg'}: has no mask of its name in {masks}; 1 of 4" in line


def test_wrong_depth_maps_are_named_and_the_other_photographs_copied(blur, photos, depths, out):
    np.save(depths / "a.npy", np.full((31, 37), -1.0))
    (depths / "deep/c.png").unlink()
    np.save(depths / "b.npy", np.full((31, 37), 1e-3))  # a blur without bounds
    line = blur("--depth", depths, expect=2)
    assert f"{depths / 'a.npy'}: a depth is negative or NaN" in line
    assert "3 of 4 not copied" in line
    assert [row["file"] for row in manifest(out)] == ["deep/er/a.png"]
    np.save(depths / "a.npy", np.full((31, 37), 2.0))
    np.save(depths / "b.npy", np.full((31, 37), 2.0))
    line = blur("--depth", depths, expect=2)
    assert f"{photos / 'deep/c.jpeg'}: has no depth map of its name in {depths}; 1 of 4" in line


def test_maps_are_never_written_over(blur, photos, masks, tmp_path):
    before = contents(masks)
    assert "would lie among the masks" in blur("--mask", masks, to=masks, expect=2)
    assert "would lie among the masks" in blur("--mask", masks, to=masks / "out", expect=2)
    assert "is also a photograph" in blur("--mask", photos, expect=2)
    words = ["--mask", masks / "a.png"]
    line = blur(*words, paths=[photos / "a.png"], to=masks, expect=2)
    assert f"{masks / 'a.png'}: is itself a mask" in line
    assert contents(masks) == before


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
        ("--light", "linear", "copies of light"),
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
    told = f"{photos / 'small.png'}: D8 reaches 8 px, which a reflected border of its 9 x 5 pixels"
    assert f"{told} cannot fill; use --border replicate; 1 of 5 not copied" in line


@pytest.mark.parametrize("option", ["--blur", "--depth"])
def test_a_blur_beyond_the_border_is_told_in_words_of_photographs(blur, photos, option):
    np.save(photos.parent / "a.npy", np.where(np.eye(31, 37), 2, 1e-3))
    value = "D400" if option == "--blur" else photos.parent / "a.npy"
    line = blur(option, value, paths=[photos / "a.png"], expect=2)
    assert line.startswith(f"error: {photos / 'a.png'}: ")
    assert "a reflected border of its 38 x 32 pixels at --canonical 32 cannot fill; use --" in line
    assert not any(word in line for word in ("shape", "(1, 3", "border=", "kernels", "blurs"))


def test_a_blur_beyond_the_border_inside_a_mask_names_the_blur(blur, photos, masks):
    words = ["--blur", "D40", "--mask", masks]
    line = blur(*words, paths=[photos / "a.png"], expect=2)
    assert f"{photos / 'a.png'}: D40 reaches 40 px, which a reflected border of its 38 x 32" in line


def test_a_blur_with_a_border_of_its_own_says_how_large_a_photograph_must_be(blur, photos):
    save(photos / "small.png", (9, 5))
    words = ["--canonical", "null", "--border", "constant", "--blur", "defocus_blur_legacy-5"]
    line = blur(*words, expect=2)
    told = "defocus_blur_legacy-5 always has a reflected border, which its 9 x 5 pixels cannot fill"
    assert f"{photos / 'small.png'}: {told}; it takes 11x11 px or more; 1 of 5" in line


def test_a_photograph_that_would_become_huge_is_refused_and_the_others_copied(blur, photos, out):
    save(photos / "limit.png", (20, 1))
    save(photos / "strip.png", (3, 64))
    line = blur(expect=2)
    told = "3 x 64 pixels would be 32 x 683 at --canonical 32, beyond 1:20 or 100 megapixels"
    assert f"{photos / 'strip.png'}: {told}; --canonical null keeps its size; 1 of 6" in line
    assert opened(out / "limit.png").size == (640, 32)
    assert not (out / "strip.png").exists()
    to = out.parent / "whole"
    blur("--canonical", "null", "--border", "replicate", to=to)
    assert opened(to / "strip.png").size == (3, 64)
    line = blur("--canonical", 10_000, paths=[photos / "a.png"], to=out.parent / "huge", expect=2)
    assert "37 x 31 pixels would be 11935 x 10000 at --canonical 10000, beyond" in line


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
    assert f"{out / name}: not from this command; choose" in blur(expect=2)
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
        (["--blur", "d4"], "'d4' is no blur; did you mean D4?"),
        (["--blur", "D1e9"], "in plain digits without exponent, e.g. D4"),
        (["--blur", "D4%"], "'D4%' needs a share of 0 to 100 percent after the %"),
        (["--format", "gif"], "--format"),
        (["--border", "wrap"], "--border"),
        (["--light", "dim"], "--light"),
        (["--blur", "null"], "--blur or --depth: give one of the two"),
        (["--blur", "D2", "--depth", "."], "--blur or --depth: give one of the two"),
        (["--depth", ".", "--mask", "."], "--mask: goes with --blur"),
        (["--feather", 1], "--feather: goes with --mask"),
        (["--mask", ".", "--feather", -1], "--feather: -1.0 is not 0 or more"),
        (["--f_number", 4], "--f_number, --focus_distance: go with --depth"),
        (["--depth", ".", "--f_number", 0], "--f_number: 0.0 is not above 0"),
        (["--depth", ".", "--focus_distance", 0.01], "--focus_distance: 0.01 m is not beyond"),
        (["--depth", "nowhere"], "nowhere: not found; name a folder of depth maps"),
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
    line = blur("--format", "keep", expect=2)
    assert f"{photos / 'moving.gif'}: this format cannot be kept; choose --format png" in line
    assert not any(out.iterdir())
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
        "light": "srgb",
        "format": "png",
        "quality": 95,
    }


def test_a_folder_without_copies_is_free_for_other_settings(blur, out):
    blur("--blur", "D500", expect=2)
    assert not any(out.iterdir())
    blur("--blur", "D1")


def test_a_scheduler_ends_it_as_an_interrupt_does(blur, monkeypatch):
    handled = []
    monkeypatch.setattr("signal.signal", lambda *pair: handled.append(pair))
    blur("--blur", "D1")
    assert handled == [(signal.SIGTERM, signal.default_int_handler)]

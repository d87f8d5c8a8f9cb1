"""Blurred copies of photographs on disk, for any program that reads image files.

A folder of copies has the tree of the photographs, `settings.json`, written first so that no run
mixes in copies of other settings, and `manifest.csv`, written last, a line for each copy. The same
photographs and settings give the same bytes, whatever the number of workers.
"""

import csv
import os
import sys
import zlib
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from tqdm import tqdm  # type: ignore[import-untyped]

from blur_lightning.errors import InputError
from blur_lightning.images import UnreadableImageError
from blur_lightning.photograph import (
    LENS,
    Kind,
    find_maps,
    find_photographs,
    size_if_done,
    write_copy,
)
from blur_lightning.records.robustness import replacing
from blur_lightning.resuming import SETTINGS, agree
from blur_lightning.workers import BUSY, outcomes

if TYPE_CHECKING:  # torch is imported where there is work to do; help needs none
    from blur_lightning.blur.distributions import BlurDistribution

MANIFEST = "manifest.csv"
# share: percent of the squares that are blurred. map: the mask or the depth map, "" without one.
# kernel_hash: "" for what is no convolution: zoom, glass, ImageNet-C's legacy blurs, and depth.
COLUMNS = ["file", "source", "map", "blur", "family", "parameter", "angle", "bank", "share"]
COLUMNS += ["width", "height", "kernel_hash", "seed", "canonical", "border", "rim", "light"]
Border = Literal["reflect", "replicate", "constant"]
Rim = Literal["hard", "area"]
Light = Literal["srgb", "linear"]
Format = Literal["png", "jpg", "keep"]
Settings = dict[str, Any]  # what all copies in a folder have in common
# Path of a copy below its folder, the photograph, and its mask or depth map, if it has one.
Job = tuple[str, Path, Path | None]
Outcome = tuple[list[Any], bool] | str  # row of the manifest, is the copy new; or what is wrong
_FEW = 25  # photographs worth the start of a worker
_LENS = dict(zip(LENS, (50.0, 2.0, 2.0), strict=True))


def write_copies(
    photos: list[Path],
    *,
    blur: str | None = None,
    out: Path,
    canonical: int | None = 384,
    border: Border = "reflect",
    rim: Rim | None = None,
    light: Light = "srgb",
    mask: Path | None = None,
    feather: float = 0.0,
    depth: Path | None = None,
    focal_length: float = _LENS["focal_length"],
    f_number: float = _LENS["f_number"],
    focus_distance: float = _LENS["focus_distance"],
    format: Format = "png",
    quality: int = 95,
    seed: int = 0,
    workers: int | None = None,
) -> None:
    """Write blurred copies of photographs, and manifest.csv, which tells the blur of each.

    The same command again makes only what is missing or older than its photograph or map. Copies
    are upright, 8-bit RGB, and keep the colour profile.

    Args:
        photos: Photographs, or folders of them, searched at any depth.
        blur: A blur (D4, M8@30, G2, shake, coma0.2, motion_blur-3, D8%50: README.md has them all),
            or a mix or range (sharp+D4, D2..8) of which one is drawn for each photograph. Needed
            unless there is --depth.
        out: Folder of the copies; keeps the tree below each folder of photographs.
        canonical: Pixels of the smaller side that each photograph is resized to before the blur,
            so that D4 is the same for all; null keeps the size, lengths are then its own pixels.
            Sides beyond 1:20, and what would exceed 100 megapixels, need null.
        border: What lies beyond the edge: the image mirrored, its last row repeated, or black.
        rim: Whether pixels at a shape's rim count whole or by the covered share; null is hard for
            --blur and area for --depth.
        light: What is averaged: the values in the file, as the papers do, or the light that they
            stand for, as a camera does.
        mask: Folder of grey pictures, each named as its photograph, with any image ending; or one
            file for one photograph. White is blurred, black stays sharp, grey blends. Goes with
            --blur. A mask has the size of the photograph, upright, or its aspect ratio.
        feather: Sigma of the Gaussian that softens the mask's edges, in pixels.
        depth: Folder of depth maps, named and sized as masks are: .npy of floats in metres, or
            16-bit PNG in millimetres; 0 is unknown and counts as the largest depth of its map.
            Each pixel is defocused as by a lens, instead of --blur. With --canonical null a large
            photograph takes minutes and some gigabytes.
        focal_length: Of that lens, in millimetres; its sensor's smaller side is 24 mm.
        f_number: Of that lens; the smaller, the more blur.
        focus_distance: From that lens to what is sharp, in metres.
        format: Format of the copies; keep leaves each file its name and its format.
        quality: Quality of JPEG and WebP, 1 to 100; JPEG stores colours in full resolution.
        seed: Seed of the draws, 0 or more. Further photographs change no other draw.
        workers: Processes that work at once, 1 or more; null is one a core.
    """
    if not 1 <= quality <= 100:
        raise InputError(f"--quality: {quality} is not 1 to 100")
    at_least = {"canonical": (canonical, 1), "workers": (workers, 1), "seed": (seed, 0)}
    for name, (value, least) in (at_least | {"feather": (feather, 0)}).items():
        if value is not None and not value >= least:
            raise InputError(f"--{name}: {value} is not {least} or more")
    lens = dict(zip(LENS, (focal_length, f_number, focus_distance), strict=True))
    mix = _mix(blur, mask, feather, depth, lens)
    found, maps = find_photographs(photos, format), dict[str, Path]()
    _protect(found.values(), photos, "photograph", out, found)
    if where := mask or depth:
        kind: Kind = "mask" if mask else "depth map"
        maps = find_maps(where, found, kind)
        _protect(maps.values(), [where], kind, out, found)
    folders = {str((path if path.is_dir() else path.parent).resolve()) for path in photos}
    settings: Settings = {"photos": sorted(folders), "blur": mix.name if mix else "depth"}
    settings |= {"seed": seed, "canonical": canonical, "border": border}
    settings |= {"rim": rim or ("hard" if mix else "area"), "light": light}
    settings |= {"mask": str(mask.resolve()), "feather": feather} if mask else {}
    settings |= {"depth": str(depth.resolve()), **lens} if depth else {}
    settings |= {"format": format, "quality": quality}
    agree(settings, out, [MANIFEST, *found], kind="copies")
    copy = partial(_copy, mix=mix, settings=settings, out=out)
    jobs = [(file, source, maps.get(file)) for file, source in found.items()]
    fit = min(len(os.sched_getaffinity(0)), 1 + len(found) // _FEW)
    number = min(workers or fit, len(found))
    preload = ("blur_lightning.blur.blurring", "blur_lightning.images")
    copied = outcomes(copy, jobs, workers=number, start=_limit_threads, preload=preload)
    with _one_thread(), closing(copied):
        done = list(tqdm(copied, total=len(found), unit="photo", disable=None))
    problems = sorted(outcome for outcome in done if isinstance(outcome, str))
    copies = [outcome for outcome in done if not isinstance(outcome, str)]
    if copies or (out / MANIFEST).exists():
        _write_manifest(out / MANIFEST, [row for row, _ in copies], found)
    else:  # a folder without copies is free for other settings
        (out / SETTINGS).unlink()
    written = sum(new for _, new in copies)
    print(f"{out}: {written} copies written, {len(copies) - written} were up to date")
    if problems[1:]:
        print("", *problems, sep="\n", end="", file=sys.stderr)
    if problems:
        raise InputError(f"{problems[0]}; {len(problems)} of {len(done)} not copied: mend them")


def _mix(
    blur: str | None,
    mask: Path | None,
    feather: float,
    depth: Path | None,
    lens: Mapping[str, float],
) -> "BlurDistribution | None":
    """Read the blur, which depth replaces, and refuse options that do not go together."""
    if (blur is None) == (depth is None):
        raise InputError("--blur or --depth: give one of the two, e.g. --blur D4")
    if depth and mask:
        raise InputError("--mask: goes with --blur, not with --depth")
    if feather and not mask:
        raise InputError("--feather: goes with --mask, whose edges it softens")
    if not depth and lens != _LENS:
        raise InputError(f"--{', --'.join(LENS)}: go with --depth")
    from blur_lightning.blur.distributions import BlurDistribution
    from blur_lightning.blur.varying import ThinLens

    if blur is None:
        try:
            ThinLens(**lens)
        except InputError as error:
            raise InputError(str(error).replace("lens.", "--")) from error
        return None
    return BlurDistribution.parse(blur)


def _protect(
    inputs: Iterable[Path], paths: Sequence[Path], kind: str, out: Path, files: Iterable[str]
) -> None:
    """Refuse to replace an input, and to put copies where the next run would take them for one."""
    for path in paths:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{out}: copies would lie among the {kind}s; choose another --out")
    sources = {os.path.realpath(source) for source in inputs}  # a link may lead to itself
    for target in (out / file for file in files):
        if os.path.realpath(target) in sources:
            raise InputError(f"{target}: is itself a {kind}; choose another --out")


def _limit_threads() -> None:
    import torch

    torch.set_num_threads(1)


@contextmanager
def _one_thread() -> Iterator[None]:
    """In this process as in a worker: more threads could move the last bit."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _copy(job: Job, *, mix: "BlurDistribution | None", settings: Settings, out: Path) -> Outcome:
    """Copy a photograph unless that is done; what is wrong with it is returned, not raised."""
    from blur_lightning.blur.families import kernel_hash

    file, source, map_path = job
    for name, kind in (("mask", "mask"), ("depth", "depth map")):
        if name in settings and map_path is None:
            return f"{source}: has no {kind} of its name in {settings[name]}"
    blur, hashed = None, ""
    drawn: list[Any] = ["depth", "depth", "", "", "", ""]
    if mix:
        inside = Path(file).with_suffix(source.suffix)  # the photograph, below its folder
        key = zlib.crc32(os.fsencode(inside.as_posix()))
        blur = mix.draw(seed=settings["seed"], index=key)
        drawn = [blur, blur.family, blur.parameter, blur.angle, blur.bank, blur.share]
    inputs = [source] if map_path is None else [source, map_path]
    done = size_if_done(inputs, out / file)
    try:
        with BUSY:
            size = done or write_copy(source, out / file, blur, settings, map_path)
    except UnreadableImageError as error:
        return str(error)
    if blur:
        hashed = kernel_hash(blur, rim=settings["rim"])
    row = [file, source.as_posix(), map_path.as_posix() if map_path else "", *drawn, *size, hashed]
    return row + [settings[name] for name in COLUMNS[len(row) :]], done is None


def _write_manifest(file: Path, rows: Sequence[Sequence[Any]], renewed: Container[str]) -> None:
    """Write the rows, and keep those of other photographs that an earlier run copied."""
    text: dict[str, Any] = {"encoding": "utf-8", "errors": "surrogateescape", "newline": ""}
    kept: list[Sequence[Any]] = []
    if file.exists():
        with file.open(**text) as stream:
            kept = [row for row in list(csv.reader(stream))[1:] if row and row[0] not in renewed]
    kept = [row for row in kept if (file.parent / row[0]).exists()]
    with replacing(file) as temporary, temporary.open("w", **text) as stream:
        lines = sorted([*rows, *kept], key=lambda row: row[0])
        csv.writer(stream, lineterminator="\n").writerows([COLUMNS, *lines])

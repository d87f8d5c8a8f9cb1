"""Blurred copies of photographs on disk, for any program that reads image files.

A folder of copies has the tree of the photographs, `settings.json`, written first so that no run
mixes in copies of other settings, and `manifest.csv`, written last, a line for each copy. The same
photographs and settings give the same bytes, whatever the number of workers.
"""

import csv
import json
import os
import signal
import sys
import zlib
from collections.abc import Callable, Container, Generator, Mapping, Sequence
from concurrent.futures import BrokenExecutor, ProcessPoolExecutor, ThreadPoolExecutor, as_completed
from contextlib import closing, suppress
from functools import partial
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from threading import Lock, Thread
from typing import TYPE_CHECKING, Any, Literal

from PIL import Image
from tqdm import tqdm  # type: ignore[import-untyped]

from blur_lightning.errors import InputError
from blur_lightning.robustness import replacing

if TYPE_CHECKING:  # torch is imported where there is work to do; help needs none
    from blur_lightning.blur.distributions import BlurDistribution
    from blur_lightning.blur.families import Blur

MANIFEST, SETTINGS = "manifest.csv", "settings.json"
COLUMNS = ["file", "source", "blur", "family", "parameter", "angle", "bank"]
COLUMNS += ["width", "height", "kernel_hash", "seed", "canonical", "border", "rim"]
Border = Literal["reflect", "replicate", "constant"]
Rim = Literal["hard", "area"]
Format = Literal["png", "jpg", "keep"]
Settings = dict[str, Any]  # what all copies in a folder have in common
Job = tuple[str, Path]  # path of a copy below its folder, and the photograph
Outcome = tuple[list[Any], bool] | str  # row of the manifest, is the copy new; or what is wrong
_FEW, _ROUND = 25, 100  # photographs worth the start of a worker; that it is handed at a time
_BUSY = Lock()  # held while a copy is made: a worker ends between two


def write_copies(
    photos: list[Path],
    *,
    blur: str,
    out: Path,
    canonical: int | None = 384,
    format: Format = "png",
    quality: int = 95,
    seed: int = 0,
    border: Border = "reflect",
    rim: Rim = "hard",
    workers: int | None = None,
) -> None:
    """Write blurred copies of photographs, and manifest.csv, which tells the blur of each.

    The same command again makes only what is missing or older than its photograph. Copies are
    upright, 8-bit RGB, and keep the colour profile.

    Args:
        photos: Photographs, or folders of them, searched at any depth.
        blur: A blur (D4, M8@30, G2, shake), or a mix or range (sharp+D4, D2..8) of which one is
            drawn for each photograph.
        out: Folder of the copies; keeps the tree below each folder of photographs.
        canonical: Pixels of the smaller side that each photograph is resized to before the blur,
            so that D4 is the same for all; null keeps the size, lengths are then its own pixels.
        format: Format of the copies; keep leaves each file its name and its format.
        quality: Quality of JPEG and WebP, 1 to 100; JPEG stores colours in full resolution.
        seed: Seed of the draws, 0 or more. Further photographs change no other draw.
        border: What lies beyond the edge: the image mirrored, its last row repeated, or black.
        rim: Whether pixels at a shape's rim count whole or by the covered share.
        workers: Processes that work at once, 1 or more; null is one a core.
    """
    if not 1 <= quality <= 100:
        raise InputError(f"--quality: {quality} is not 1 to 100")
    at_least = {"canonical": (canonical, 1), "workers": (workers, 1), "seed": (seed, 0)}
    for name, (value, least) in at_least.items():
        if value is not None and value < least:
            raise InputError(f"--{name}: {value} is not {least} or more")
    from blur_lightning.blur.distributions import BlurDistribution

    mix = BlurDistribution.parse(blur)
    found = _photographs(photos, format)
    _protect(found, photos, out)
    folders = {str((path if path.is_dir() else path.parent).resolve()) for path in photos}
    settings: Settings = {"photos": sorted(folders), "blur": mix.name, "seed": seed}
    settings |= {"canonical": canonical, "border": border, "rim": rim}
    settings |= {"format": format, "quality": quality}
    _agree(settings, found, out)
    copy = partial(_copy, mix=mix, settings=settings, out=out)
    fit = min(len(os.sched_getaffinity(0)), 1 + len(found) // _FEW)
    with closing(_outcomes(copy, list(found.items()), min(workers or fit, len(found)))) as outcomes:
        done = list(tqdm(outcomes, total=len(found), unit="photo", disable=None))
    problems = sorted(outcome for outcome in done if isinstance(outcome, str))
    copies = [outcome for outcome in done if not isinstance(outcome, str)]
    _write_manifest(out / MANIFEST, [row for row, _ in copies], found)
    written = sum(new for _, new in copies)
    print(f"{out}: {written} copies written, {len(copies) - written} were up to date")
    if problems[1:]:
        print("", *problems, sep="\n", end="", file=sys.stderr)
    if problems:
        raise InputError(f"{problems[0]}; {len(problems)} of {len(done)} not copied: mend them")


def _photographs(paths: Sequence[Path], format: Format) -> dict[str, Path]:
    """All photographs that the paths stand for, by the path of their copies."""
    from blur_lightning.data.images import ENDINGS, image_files

    photos: dict[str, Path] = {}
    for path in paths:
        root, files = (path, image_files(path)) if path.is_dir() else (path.parent, [path])
        files = [file for file in files if not file.is_dir()]
        if not path.exists() or not files:
            problem = "holds no images" if path.exists() else "not found"
            raise InputError(f"{path}: {problem}; name photographs or folders of them")
        for source in files:
            if format == "keep" and source.suffix.lower() not in ENDINGS - {".gif"}:
                raise InputError(f"{source}: this format cannot be kept; choose --format png")
            file = source.relative_to(root)
            file = file if format == "keep" else file.with_suffix(f".{format}")
            other = photos.setdefault(file.as_posix(), source)
            if other != source:
                advice = "rename one, or copy them to different folders"
                raise InputError(f"{other} and {source}: both would become {file}; {advice}")
    return photos


def _protect(photos: Mapping[str, Path], paths: Sequence[Path], out: Path) -> None:
    """Refuse to replace a photograph, and to put copies where the next run would copy them."""
    for path in paths:
        if path.is_dir() and out.resolve().is_relative_to(path.resolve()):
            raise InputError(f"{out}: copies would lie among the photographs; choose another --out")
    sources = {source.resolve() for source in photos.values()}
    for target in (out / file for file in photos):
        if target.resolve() in sources:
            raise InputError(f"{target}: is itself a photograph to copy; choose another --out")


def _agree(settings: Settings, photos: Mapping[str, Path], out: Path) -> None:
    """Refuse to mix copies of different settings; note those of the first run."""
    file = out / SETTINGS
    if not file.exists():
        for name in (MANIFEST, *photos):
            if os.path.lexists(out / name):
                raise InputError(f"{out / name}: is no copy of this command; choose another --out")
        with replacing(file) as temporary:
            temporary.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
    try:
        before = dict(json.loads(file.read_text(encoding="utf-8")))
    except (ValueError, TypeError, OSError, RecursionError) as error:
        raise InputError(f"{file}: tells no settings of copies; choose another --out") from error
    for name in settings | before:
        old, new = (json.dumps(x.get(name), ensure_ascii=False) for x in (before, settings))
        if old != new:
            raise InputError(f"{out}: copies of {name} {old}, not {new}; choose another --out")


def _outcomes(
    copy: Callable[[Job], Outcome], jobs: Sequence[Job], workers: int
) -> Generator[Outcome, None, None]:
    """Copy photographs in this process or several, in any order."""
    import torch

    if workers == 1:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: more could move the last bit
        try:
            yield from map(copy, jobs)
        finally:
            torch.set_num_threads(threads)
        return
    context = get_context("forkserver")  # one process imports torch, workers are forks of it
    context.set_forkserver_preload(["blur_lightning.blur.blurring", "blur_lightning.data.images"])
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    no_interrupt = (signal.SIG_BLOCK, {signal.SIGINT})
    try:
        for start in range(0, len(jobs), workers * _ROUND):
            part = jobs[start : start + workers * _ROUND]
            # Ctrl-C neither reaches this thread nor the processes that start in it.
            with ThreadPoolExecutor(1, "start", signal.pthread_sigmask, no_interrupt) as thread:
                futures = list(thread.map(lambda job: pool.submit(copy, job), part))
            for future in as_completed(futures):
                yield future.result()
    except BrokenExecutor as error:
        raise InputError("a worker was killed (memory?); repeat with fewer --workers") from error
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker() -> None:
    import torch

    torch.set_num_threads(1)
    Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """Once the parent is killed, nobody else ends a worker."""
    connection.wait([parent_process().sentinel])  # type: ignore[union-attr]
    _BUSY.acquire()
    os._exit(1)


def _copy(job: Job, *, mix: "BlurDistribution", settings: Settings, out: Path) -> Outcome:
    """Copy a photograph unless that is done; what is wrong with it is returned, not raised."""
    from blur_lightning.blur.families import kernel_hash
    from blur_lightning.data.images import UnreadableImageError

    file, source = job
    inside = Path(file).with_suffix(source.suffix)  # the photograph, below its folder
    blur = mix.draw(seed=settings["seed"], index=zlib.crc32(os.fsencode(inside.as_posix())))
    done = _size_if_done(source, out / file)
    try:
        with _BUSY:
            size = done or _write(source, out / file, blur, settings)
    except UnreadableImageError as error:
        return str(error)
    row = [file, source.as_posix(), str(blur), blur.family, blur.parameter, blur.angle, blur.bank]
    row += [*size, kernel_hash(blur, rim=settings["rim"]), *(settings[x] for x in COLUMNS[-4:])]
    return row, done is None


def _size_if_done(source: Path, copy: Path) -> tuple[int, int] | None:
    """Width and height of a copy that is no older than its photograph."""
    with suppress(OSError):  # missing or damaged
        if copy.stat().st_mtime_ns >= source.stat().st_mtime_ns:
            with Image.open(copy) as image:
                return image.size
    return None


def _write(source: Path, target: Path, blur: "Blur", settings: Settings) -> tuple[int, int]:
    """Make the copy of one photograph and return its width and height."""
    import torch

    from blur_lightning.blur.blurring import blur_images
    from blur_lightning.data.images import UnreadableImageError, read_image, resize_smaller_side

    pixels = read_image(source)
    if settings["canonical"]:
        pixels = resize_smaller_side(pixels, settings["canonical"])
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    try:
        blurred = blur_images(image, [blur], border=settings["border"], rim=settings["rim"])
    except ValueError as error:  # the kernel reaches further than the photograph
        raise UnreadableImageError(f"{source}: {error}") from error
    with Image.open(source) as original:
        profile = original.info.get("icc_profile") or b""
    options: dict[str, Any] = {"format": Image.registered_extensions()[target.suffix.lower()]}
    if profile[16:20] == b"RGB ":  # one of CMYK or grey does not fit the copy
        options["icc_profile"] = profile
    if options["format"] in ("JPEG", "WEBP"):
        options |= {"quality": settings["quality"], "subsampling": "4:4:4"}
    copy = Image.fromarray(blurred[0].permute(1, 2, 0).numpy())
    with replacing(target) as temporary:
        copy.save(temporary, **options)
    return copy.size


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

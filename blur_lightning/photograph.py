"""Photographs and their masks or depth maps: where they lie, and the copy of each.

A map belongs to the photograph of the same path below its folder, endings aside. It has the size
of the photograph, upright, or its aspect ratio, and is resized with it.
"""

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from PIL import Image, ImageOps

from blur_lightning.errors import InputError
from blur_lightning.images import (
    ENDINGS,
    MOST_PIXELS,
    UnreadableImageError,
    image_files,
    open_image,
    read_image,
    resize_smaller_side,
    resized_shape,
)
from blur_lightning.records.robustness import replacing

if TYPE_CHECKING:  # torch is imported where there is work to do; help needs none
    from torch import Tensor

    from blur_lightning.blur.families import Blur

LENS = ("focal_length", "f_number", "focus_distance")
Kind = Literal["mask", "depth map"]
_SENSOR = 24_000  # smaller side of a full-frame sensor in micrometres
_RATIO = 20  # largest ratio of the sides of what is resized: a longer strip is a slip


def find_photographs(paths: Sequence[Path], format: str) -> dict[str, Path]:
    """All photographs that the paths stand for, by the path of their copies."""
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


def find_maps(where: Path, photos: Mapping[str, Path], kind: Kind) -> dict[str, Path]:
    """Find the maps of photographs; those that have none are left out.

    Args:
        where: Folder of the maps, or one map for one photograph.
        photos: Photographs by their paths below their folder, whatever the ending.
        kind: What to look for.
    """
    maps: dict[str, Path] = {}
    if where.is_file():
        if len(photos) > 1:
            number = len(photos)
            raise InputError(f"{where}: is one {kind} for {number} photographs; name a folder")
        maps = dict.fromkeys(photos, where)
    elif not where.is_dir():
        raise InputError(f"{where}: not found; name a folder of {kind}s")
    else:
        endings = ENDINGS if kind == "mask" else {".npy", ".png"}
        by_name: dict[Path, list[Path]] = {}
        for path in sorted(where.rglob("*")):
            if path.suffix.lower() in endings and path.is_file():
                by_name.setdefault(path.relative_to(where).with_suffix(""), []).append(path)
        for file, source in photos.items():
            first, *others = by_name.get(Path(file).with_suffix(""), [None])
            if others:
                raise InputError(f"{first} and {others[0]}: {kind}s of {source}; remove one")
            if first:
                maps[file] = first
    sources = {os.path.realpath(source) for source in photos.values()}
    for path in maps.values():
        if os.path.realpath(path) in sources:
            raise InputError(
                f"{path}: is also a photograph to copy; keep {kind}s in a folder apart"
            )
    return maps


def read_mask(path: Path) -> np.ndarray:
    """Decode a mask to uint8 (h, w), upright: 255 is white; colours count by their brightness."""
    mask = np.asarray(Image.fromarray(read_image(path)).convert("L"))
    if mask.max() == 1:  # a map of labels, which looks black
        raise UnreadableImageError(f"{path}: holds 0 and 1, all but black; a mask's white is 255")
    return mask


def read_depth(path: Path) -> np.ndarray:
    """Read metres as float32 (h, w): .npy holds metres, 16-bit PNG millimetres, upright.

    What is 0, unknown, gets the largest depth of its map: out of reach is the usual reason.
    """
    try:
        if path.suffix.lower() == ".npy":
            # Mapped: a header may tell of more than the file has, or memory.
            depth = np.load(path, mmap_mode="r", allow_pickle=False)
            needed = "floats, metres"
            fits = isinstance(depth, np.ndarray) and depth.dtype.kind == "f"
        else:
            with open_image(path) as image:
                depth, needed = np.asarray(ImageOps.exif_transpose(image)), "a 16-bit grey PNG"
            fits = depth.dtype == np.uint16
    except (OSError, ValueError, EOFError, SyntaxError, Image.DecompressionBombError) as error:
        raise UnreadableImageError(f"{path}: cannot be read ({error})") from error
    if not fits or depth.ndim != 2 or not depth.size:
        raise UnreadableImageError(f"{path}: is no depth map, which is {needed}, rows by columns")
    metres = depth.astype(np.float32) / np.float32(1 if depth.dtype.kind == "f" else 1000)
    if not (metres >= 0).all():
        raise UnreadableImageError(f"{path}: a depth is negative or NaN; 0 stands for unknown")
    if not metres.any():
        raise UnreadableImageError(f"{path}: every depth is 0, unknown")
    return np.where(metres == 0, metres.max(), metres)


def size_if_done(inputs: Sequence[Path], copy: Path) -> tuple[int, int] | None:
    """Width and height of a copy that is no older than what it is made from."""
    with suppress(OSError):  # missing or damaged
        if copy.stat().st_mtime_ns >= max(path.stat().st_mtime_ns for path in inputs):
            with open_image(copy) as image:
                return image.size
    return None


def write_copy(
    source: Path,
    target: Path,
    blur: "Blur | None",
    settings: Mapping[str, Any],
    map_path: Path | None = None,
) -> tuple[int, int]:
    """Make the copy of one photograph and return its width and height.

    Args:
        source: The photograph.
        target: The copy.
        blur: What was drawn for it; None is defocus by depth.
        settings: Those of `copies`.
        map_path: Its depth map, or mask of the blur; None is blur all over.
    """
    import torch

    pixels = whole = read_image(source)
    if canonical := settings["canonical"]:
        _check_resizable(source, whole, canonical)
        pixels = resize_smaller_side(whole, canonical)
    values = None
    if map_path:
        values = read_mask(map_path) if blur else read_depth(map_path)
        (height, width), (rows, columns) = whole.shape[:2], values.shape
        if abs(rows * width - columns * height) > max(height, width):  # a pixel on the larger side
            sizes = f"{columns} x {rows} pixels, but {source} has {width} x {height}"
            raise UnreadableImageError(f"{map_path}: {sizes}; that is another aspect ratio")
        # Between a near and a far thing lies no third one, so depths are not averaged.
        filter = Image.Resampling.BILINEAR if blur else Image.Resampling.NEAREST
        values = np.array(Image.fromarray(values).resize(pixels.shape[1::-1], filter))
    image = torch.from_numpy(pixels.transpose(2, 0, 1).copy())[None]
    try:
        blurred = _blurred(image, blur, settings, values)
    except ValueError as error:  # the kernel reaches further than the photograph
        raise UnreadableImageError(
            f"{source}: {_in_words(error, blur, image, canonical)}"
        ) from error
    with open_image(source) as original:
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


def _check_resizable(source: Path, whole: np.ndarray, canonical: int) -> None:
    """Refuse a photograph that the canonical scale would make a huge one."""
    height, width = whole.shape[:2]
    rows, columns = resized_shape((height, width), canonical)
    if max(height, width) > _RATIO * min(height, width) or rows * columns > MOST_PIXELS:
        raise UnreadableImageError(
            f"{source}: {width} x {height} pixels would be {columns} x {rows} at --canonical "
            f"{canonical}, beyond 1:{_RATIO} or {MOST_PIXELS // 10**6} megapixels; "
            "--canonical null keeps its size"
        )


def _in_words(
    error: ValueError, blur: "Blur | None", image: "Tensor", canonical: int | None
) -> str:
    """Say what the engine says of tensors and arguments for someone at a terminal."""
    rows, columns = image.shape[-2:]
    size = f"its {columns} x {rows} pixels" + (f" at --canonical {canonical}" if canonical else "")
    words = {
        "blurs: ": "",
        "kernels: one": f"{blur}",
        f"a {rows}x{columns} image": size,
        f"images of shape {tuple(image.shape)}": size,
        "border='replicate'": "--border replicate",
    }
    text = str(error)
    for tensors, photograph in words.items():
        text = text.replace(tensors, photograph)
    return text


def _blurred(
    image: "Tensor", blur: "Blur | None", settings: Mapping[str, Any], values: np.ndarray | None
) -> "Tensor":
    import torch

    from blur_lightning.blur import Blur, ThinLens, blur_by_depth, blur_images, blur_regions

    given = {name: settings[name] for name in ("border", "rim", "light")}
    if values is None:
        assert blur
        return blur_images(image, [blur], **given)
    guide = torch.from_numpy(values)[None]
    if blur:
        feather = settings["feather"]
        return blur_regions(image, [blur], [Blur("sharp")], guide / 255, feather=feather, **given)
    pitch = _SENSOR / min(image.shape[-2:])
    lens = ThinLens(**{name: settings[name] for name in LENS}, pixel_pitch=pitch)
    return blur_by_depth(image, guide, lens, **given)

"""Labelled images in WebDataset's tar files, which are read where they lie.

A tar that is not compressed holds each file's bytes in one piece, as a shard does. So an image is
read by its place, in the order that an epoch asks for, and not in that of the tar.

Files whose paths differ in what follows the first dot of the name belong together: `KEY.jpg` is an
image, `KEY.cls` the index of its class in digits (https://github.com/webdataset/webdataset).
"""

import re
import tarfile
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from blur_lightning.data.shards import UNKNOWN, Store, StoredFiles
from blur_lightning.errors import InputError
from blur_lightning.images import ENDINGS

# What the names of tars of a part have in them.
_WORDS = {"train": "train", "val": "val(?:idation)?"}


class Tars(NamedTuple):
    """The images of a part of a data set, in order, and the class index of each."""

    files: StoredFiles
    labels: list[int]


def open_tars(root: Path, part: str) -> Tars | None:
    """Find the images in the tars of a part of a data set, or find that it is no set of tars.

    A tar that lies beside images or folders counts for nothing: they may be what was in it.

    The head of each file is read: some 7,000 images a second, with a class and a JSON file each.

    Args:
        root: Folder that has `<part>/*.tar`, or tars with the part in their names, such as
            imagenet1k-train-0000.tar and imagenet1k-validation-00.tar.
        part: train or val.

    Raises:
        InputError: A tar is damaged or compressed, an image has no class, or none is found.
    """
    folder = root / part
    if folder.is_dir():
        tars = sorted(folder.glob("*.tar"))
        if any(path.is_dir() or path.suffix.lower() in ENDINGS for path in folder.iterdir()):
            return None
    else:
        word = re.compile(rf"(?<![a-z]){_WORDS[part]}(?![a-z])")
        tars = sorted(tar for tar in root.glob("*.tar") if word.search(tar.name.lower()))
    if not tars:
        return None
    rows, labels = [], []
    for number, tar in enumerate(tars):
        images, classes = _read_heads(tar)
        for key, image in images.items():
            if key not in classes:
                raise InputError(f"{tar}: {image.name} has no {key}.cls with its class; add it")
            path = f"{tar.stem}/{image.name}"
            rows.append((path, number, image.offset_data, image.size))
            labels.append(classes[key])
    if not rows:
        raise InputError(f"{tars[0].parent}: its {len(tars)} tars hold no images")
    shards = [tar.relative_to(root).as_posix() for tar in tars]
    return Tars(StoredFiles(Store(str(root)), shards, _table(rows), "image"), labels)


def _read_heads(tar: Path) -> tuple[dict[str, tarfile.TarInfo], dict[str, int]]:
    """Images and classes in a tar, by key."""
    images: dict[str, tarfile.TarInfo] = {}
    classes: dict[str, int] = {}
    try:
        with tarfile.open(tar, mode="r:") as opened:
            for member in opened:
                opened.members = []  # type: ignore[attr-defined]  # which would fill the memory
                if not member.isreg() or member.issparse():
                    continue
                key, ending = _key(member.name)
                if ending in ENDINGS:
                    if key in images:
                        raise InputError(f"{tar}: {key} has two images; leave one")
                    images[key] = member
                elif ending == ".cls":
                    file = opened.extractfile(member)
                    assert file is not None
                    text = file.read(20).strip()
                    if not re.fullmatch(rb"\d{1,9}", text):
                        raise InputError(f"{tar}: {member.name} is not the index of a class")
                    classes[key] = int(text)
            _check_end(tar, opened.offset)
    except (tarfile.TarError, OSError, EOFError) as error:
        raise InputError(
            f"{tar}: cannot be read as a tar ({error}); unpack it if it is compressed, else copy "
            "it again"
        ) from error
    return images, classes


def _check_end(tar: Path, end: int) -> None:
    """A tar ends in zeros; to end it seems where it is cut off, or the head of a file damaged."""
    with tar.open("rb") as file:
        file.seek(end)
        if len(rest := file.read(tarfile.BLOCKSIZE)) < tarfile.BLOCKSIZE:
            raise tarfile.ReadError("unexpected end of data")
        while rest:
            if rest.strip(b"\0"):
                raise tarfile.ReadError(f"damaged at byte {end}")
            rest = file.read(2**20)


def _key(name: str) -> tuple[str, str]:
    """The key of a path in a tar, and its ending."""
    path = PurePosixPath(name)
    stem, dot, ending = path.name.partition(".")
    return str(path.with_name(stem or path.name)), (dot + ending).lower()


def _table(rows: Sequence[tuple[Any, ...]]) -> Any:
    """Where images lie, in the columns that `StoredFiles` takes."""
    import pyarrow as pa

    path, shard, offset, length = zip(*rows, strict=True)
    columns: dict[str, Any] = {"image_path": path, "shard": shard}
    columns |= {"image_offset": offset, "image_length": length}
    unknown = dict.fromkeys(("image_crc", "rows", "columns"), [UNKNOWN] * len(rows))
    return pa.table(columns | unknown)

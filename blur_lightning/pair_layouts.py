"""Where data sets keep blurry images and their sharp partners, and what is held out of training.

Layouts below a root:

* gopro (Nah et al. 2017, arXiv 1612.02177): {train,test}/SEQUENCE/{blur,blur_gamma,sharp}.
* wild: as gopro with one kind of blur, {train,test}/VIDEO/{blur,sharp}: what `build-wild` makes.
* reds (Nah et al. 2019, CVPR Workshops): {train,val}/{train,val}_{blur,blur_comp,sharp}/SEQUENCE,
  also without the upper of both; tests use val, whose sharp images are public.
* hide (Shen et al. 2019, arXiv 2001.06816): blurry images below {train,test}, sharp ones of the
  same names in GT; the sequence follows "from" in a name.
* realblur (Rim et al. 2020, ECCV): RealBlur_{J,R}_{train,test}_list.txt, a line a pair, the sharp
  image first; a sequence is a scene.
* folders: {train,test}/{blur,sharp}, or input and target; without train and test the sequences are
  drawn. A sequence is the folder of an image, or where it lies in none, the image.
* sharp: sharp images alone, in {train,test} or not; they are blurred on the device.
"""

import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from blur_lightning.errors import InputError
from blur_lightning.images import image_files

Layout = Literal["gopro", "wild", "reds", "hide", "realblur", "folders", "sharp"]
Part = Literal["train", "val", "test"]

# What a layout's blurry images may be, the usual first.
VARIANTS: dict[Layout, tuple[str, ...]] = {
    "gopro": ("blur", "blur_gamma"),
    "reds": ("blur", "blur_comp"),
    "realblur": ("J", "R"),
}

# Pairs of GoPro's parts, those held out for validation among its training's.
GOPRO_COUNTS = {"train": 2103, "test": 1111}


class Pair(NamedTuple):
    """The files of a blurry image and of its sharp partner, and the sequence that they are from."""

    blurry: Path
    sharp: Path
    sequence: str


def find_pairs(
    root: Path, *, layout: Layout, variant: str | None, part: Part, held_out: float
) -> list[Pair]:
    """List the pairs of one part of a data set.

    Sequences for validation, and for tests where the layout has none, are the first in the order of
    their names' SHA-256: whatever the seed, results of runs compare.

    Args:
        root: Folder of the data set.
        layout: Where files lie.
        variant: Which blurry images, of `VARIANTS`; None is the usual one.
        part: train, val or test.
        held_out: Share of the sequences in validation, and in such a test, in (0, 1); at least one.

    Raises:
        InputError: A folder or a partner is missing, a folder is empty, or there are too few
            sequences.
    """
    known = VARIANTS.get(layout, ())
    if variant is not None and variant not in known:
        raise InputError(f"data.variant: '{variant}' is none of {layout}'s: {', '.join(known)}")
    if not root.is_dir():
        raise InputError(f"data.root: there is no folder {root}; point --data.root at yours")
    variant = variant or next(iter(known), "")
    unsplit = layout in ("folders", "sharp") and not any(
        (root / split).is_dir() for split in ("train", "test")
    )
    if unsplit:
        return _drawn(root, _FINDERS[layout](root, "", variant), ("test", "val"), part, held_out)
    if part == "test":
        return _FINDERS[layout](root, "test", variant)
    return _drawn(root, _FINDERS[layout](root, "train", variant), ("val",), part, held_out)


def _drawn(
    root: Path, pairs: Sequence[Pair], apart: Sequence[Part], part: Part, share: float
) -> list[Pair]:
    """Draw the sequences of the parts that are held out of training."""
    sequences = sorted({pair.sequence for pair in pairs}, key=_order)
    count = max(1, round(share * len(sequences)))
    ends = {held: (i * count, (i + 1) * count) for i, held in enumerate(apart)}
    if len(sequences) <= len(apart) * count:
        raise InputError(
            f"{root}: {len(sequences)} sequences are too few to hold {count} out for "
            f"{' and '.join(apart)}; add some, or lower data.held_out"
        )
    first, last = ends.get(part, (len(apart) * count, len(sequences)))
    chosen = set(sequences[first:last])
    return [pair for pair in pairs if pair.sequence in chosen]


def _order(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def _gopro(root: Path, split: str, variant: str) -> list[Pair]:
    folder = _folder(root / split)
    sequences = sorted(path for path in folder.iterdir() if path.is_dir())
    if not sequences:
        raise InputError(f"{folder}: holds no folders of sequences; unpack GOPRO_Large there")
    return [
        Pair(*files, sequence.name)
        for sequence in sequences
        for files in _partners(sequence / (variant or "blur"), sequence / "sharp")
    ]


def _reds(root: Path, split: str, variant: str) -> list[Pair]:
    part = "val" if split == "test" else "train"
    above = root / part if (root / part).is_dir() else root
    blurry = above / f"{part}_{variant}"
    files = _partners(blurry, above / f"{part}_sharp")
    return [Pair(*pair, _sequence(pair[0], blurry)) for pair in files]


def _hide(root: Path, split: str, variant: str) -> list[Pair]:
    folder, truth = _folder(root / split), _folder(root / "GT")
    pairs = []
    for blurry in _images(folder):
        sharp = truth / blurry.name
        if not sharp.is_file():
            raise InputError(f"{blurry}: there is no {sharp}; add it, or remove the blurry image")
        pairs.append(Pair(blurry, sharp, blurry.stem.rpartition("from")[2]))
    return pairs


def _realblur(root: Path, split: str, variant: str) -> list[Pair]:
    table = root / f"RealBlur_{variant}_{split}_list.txt"
    if not table.is_file():
        raise InputError(f"{table}: missing; it comes with RealBlur")
    pairs = []
    for number, line in enumerate(table.read_text(encoding="utf-8").splitlines(), start=1):
        files = [root / name for name in line.split()]
        if not files:
            continue
        if len(files) < 2:
            raise InputError(f"{table}, line {number}: names one file; a pair is two")
        sharp, blurry = files[:2]
        for file in (sharp, blurry):
            if not file.is_file():
                raise InputError(f"{table}, line {number}: there is no {file}")
        pairs.append(Pair(blurry, sharp, blurry.parent.parent.name))
    if not pairs:
        raise InputError(f"{table}: names no pairs")
    return pairs


def _folders(root: Path, split: str, variant: str) -> list[Pair]:
    above = _folder(root / split)
    blurry, sharp = (
        next((above / name for name in names if (above / name).is_dir()), above / names[0])
        for names in (("blur", "input"), ("sharp", "target"))
    )
    return [Pair(*pair, _sequence(pair[0], blurry)) for pair in _partners(blurry, sharp)]


def _sharp(root: Path, split: str, variant: str) -> list[Pair]:
    folder = _folder(root / split)
    return [Pair(file, file, _sequence(file, folder)) for file in _images(folder)]


_FINDERS: dict[Layout, Callable[[Path, str, str], list[Pair]]] = {
    "gopro": _gopro,
    "wild": _gopro,
    "reds": _reds,
    "hide": _hide,
    "realblur": _realblur,
    "folders": _folders,
    "sharp": _sharp,
}


def _partners(blurry: Path, sharp: Path) -> list[tuple[Path, Path]]:
    """Match the images of two folders by their paths, endings aside."""
    found = [
        {file.relative_to(folder).with_suffix(""): file for file in _images(_folder(folder))}
        for folder in (blurry, sharp)
    ]
    for files, others, folder in ((found[0], found[1], sharp), (found[1], found[0], blurry)):
        alone = next((file for name, file in files.items() if name not in others), None)
        if alone:
            raise InputError(f"{alone}: has no partner in {folder}; add it, or remove this one")
    return [(file, found[1][name]) for name, file in found[0].items()]


def _sequence(file: Path, folder: Path) -> str:
    """The folder of an image below another, or where there is none, the image."""
    name = file.relative_to(folder)
    return (name.with_suffix("") if len(name.parts) == 1 else name.parent).as_posix()


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise InputError(f"{path}: there is no such folder; see data.layout, data.root")
    return path


def _images(folder: Path) -> list[Path]:
    files = image_files(folder)
    if not files:
        raise InputError(f"{folder}: holds no images")
    return files

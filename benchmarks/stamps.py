"""Builds a data set for semantic segmentation from photographs: objects pasted on grounds.

    make stamps
    python benchmarks/stamps.py --source DIR --out data/stamps [--images 1200] [--seed 0]

DIR holds Debian's packages tuxpaint-stamps-default (GPL-2 or later) and mate-backgrounds (GPL-2+),
unpacked; nothing is fetched here. The first has photographs of single objects with an alpha
channel, of which eight classes are taken; drawings are left out, and photographs below 48 pixels.
The second has photographs of nature; the four that show flowers are left out, since flowers are a
class. What is built is for research, under the licences of its parts.

An image has 500x375 pixels, like most of VOC's: a part of a ground, and one to three objects of
any class at a random place, size, side and small rotation, which may cover one another. A mask is
exact: a class where an object covers 95 % of a pixel or more, and void (255) where it covers 5 to
95 %, a line of 1 to 3 pixels, where VOC's is 5 wide. Training and validation share neither objects
nor grounds. Grounds to train on are few: their channels change places, their gamma varies, and half
are upside down; those of validation stay as they are. An image is a function of (seed, index) and
its split; its bytes depend on Pillow too.

The result has VOC's layout, for `VOCDataModule`, and provenance.json, which lists what went in.
"""

import argparse
import gzip
import hashlib
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import PIL
from PIL import Image

from blur_lightning.errors import InputError
from blur_lightning.images import VOID
from blur_lightning.voc_layout import palette

PACKAGES = ("tuxpaint-stamps-default", "mate-backgrounds")
STAMPS, GROUNDS = Path("usr/share/tuxpaint/stamps"), Path("usr/share/backgrounds/mate/nature")
# Class -> folders of its stamps; label 0 is the ground.
CLASSES = {
    "bird": ("animals/birds",),
    "mammal": ("animals/mammals", "animals/marsupials"),
    "fish": ("animals/fish",),
    "fruit": ("food/fruit",),
    "vegetable": ("food/vegetables",),
    "flower": ("plants/flowers",),
    "vehicle": ("vehicles", "military/vehicles"),
    "instrument": ("hobbies/music",),
}
# Drawings, parts of vehicles, and what is no fish.
NOT_STAMPS = {"hedgehog", "echidna", "7spoke256", "wheel_tractor", "sedan_police"}
NOT_STAMPS |= {"lobster", "shrimp"}
FLOWERS = {"FreshFlower", "Garden", "LadyBird", "YellowFlower"}
WIDTH, HEIGHT = 500, 375
SMALLEST = 48  # px of a stamp's longer side
LENGTHS = (100, 300)  # px of an object's longer side
ENLARGEMENT = 2  # at most; an image of 500x375 at a geometric mean of 256 takes most of it back
ANGLE = 15  # degrees to either side
OUTSIDE = 0.2  # of an object's sides, at most
VAL_OBJECTS, VAL_IMAGES = 0.3, 1 / 6  # shares of the stamps and grounds, and of the images
GAMMA = 2.0  # of the grounds to train on, 1/2 to 2
QUALITY = 95  # of the JPEGs


class Parts(NamedTuple):
    """What the images of one split are made of."""

    grounds: Sequence[Path]
    stamps: Mapping[str, Sequence[Path]]  # by class
    vary: bool  # turn and recolour the grounds: those to train on are few


def find_stamps(source: Path) -> dict[str, list[Path]]:
    """Photographs of each class, sorted; InputError where a class has fewer than two."""
    stamps = {}
    for name, folders in CLASSES.items():
        files = sorted(f for folder in folders for f in (source / STAMPS / folder).rglob("*.png"))
        stamps[name] = [file for file in files if _is_photograph(file)]
        if len(stamps[name]) < 2:
            raise InputError(
                f"{source / STAMPS / folders[0]}: {len(stamps[name])} photographs, of 2 or more; "
                f"unpack {PACKAGES[0]} to {source}"
            )
    return stamps


def _is_photograph(file: Path) -> bool:
    drawn = {"cartoon", "toys"} & set(file.parts)
    if drawn or file.stem in NOT_STAMPS or file.stem.endswith("_mirror"):
        return False
    with Image.open(file) as image:
        return max(image.size) >= SMALLEST


def find_grounds(source: Path) -> list[Path]:
    """Photographs to paste on, sorted; InputError where there are fewer than two."""
    files = sorted(f for f in (source / GROUNDS).glob("*.jpg") if f.stem not in FLOWERS)
    if len(files) < 2:
        raise InputError(
            f"{source / GROUNDS}: {len(files)} photographs, of 2 or more; "
            f"unpack {PACKAGES[1]} to {source}"
        )
    return files


def divide(files: Sequence[Path], key: Sequence[int]) -> tuple[list[Path], list[Path]]:
    """Draw the files of training and of validation, at least one of each."""
    order = np.random.default_rng(key).permutation(len(files))
    count = max(1, round(VAL_OBJECTS * len(files)))
    train, val = ([files[i] for i in sorted(part)] for part in (order[count:], order[:count]))
    return train, val


def compose(parts: Parts, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Make one image, uint8 (375, 500, 3), and its mask, uint8 (375, 500)."""
    image = _ground(parts.grounds[generator.integers(len(parts.grounds))], generator)
    if parts.vary:
        image = vary_ground(image, generator)
    mask = np.zeros(image.shape[:2], dtype=np.uint8)
    names = list(parts.stamps)
    for _ in range(generator.integers(1, 4)):
        label = int(generator.integers(len(names)))
        files = parts.stamps[names[label]]
        stamp = _object(files[generator.integers(len(files))], generator)
        sides = zip(stamp.shape[:2], image.shape[:2], strict=True)
        corner = [
            round(generator.uniform(-OUTSIDE * side, whole - (1 - OUTSIDE) * side))
            for side, whole in sides
        ]
        paste(image, mask, stamp, (corner[0], corner[1]), label + 1)
    return np.round(image).astype(np.uint8), mask


def _ground(file: Path, generator: np.random.Generator) -> np.ndarray:
    """Any part of a ground that is at least as large as the image, as float32 (375, 500, 3)."""
    whole = _rgba(file)
    largest = min(whole.width, whole.height * WIDTH / HEIGHT)
    width = generator.uniform(min(WIDTH, largest), largest)
    height = width * HEIGHT / WIDTH
    left, top = generator.uniform(0, (whole.width - width, whole.height - height))
    part = whole.convert("RGB").resize(
        (WIDTH, HEIGHT), Image.Resampling.BICUBIC, box=(left, top, left + width, top + height)
    )
    return np.asarray(part)[:, :: generator.choice((-1, 1))].astype(np.float32)


def vary_ground(image: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Shuffle the channels of a ground, draw its gamma, and turn half of them upside down.

    Args:
        image: float32 (h, w, 3), 0 to 255.
        generator: Of all draws.
    """
    image = image[:: generator.choice((-1, 1)), :, generator.permutation(3)]
    return 255 * (image / 255) ** np.float32(GAMMA ** generator.uniform(-1, 1))


def _object(file: Path, generator: np.random.Generator) -> np.ndarray:
    """A stamp of random size, side and rotation: uint8 (h, w, 4)."""
    stamp = _rgba(file)
    factor = min(generator.uniform(*LENGTHS) / max(stamp.size), ENLARGEMENT)
    size = (max(1, round(stamp.width * factor)), max(1, round(stamp.height * factor)))
    # Pillow weighs colours by alpha, so what is transparent lends its colour to no rim.
    stamp = stamp.resize(size, Image.Resampling.BICUBIC)
    angle = generator.uniform(-ANGLE, ANGLE)
    stamp = stamp.rotate(angle, Image.Resampling.BICUBIC, expand=True)
    return np.asarray(stamp)[:, :: generator.choice((-1, 1))]


@lru_cache(maxsize=512)
def _rgba(file: Path) -> Image.Image:
    """A photograph without what is transparent around its object."""
    image = Image.open(file).convert("RGBA")
    opaque = image.getchannel("A").point(lambda alpha: 255 * (alpha > 127))
    return image.crop(opaque.getbbox())


def paste(
    image: np.ndarray, mask: np.ndarray, stamp: np.ndarray, corner: tuple[int, int], label: int
) -> None:
    """Lay a stamp over an image, and its class over the mask, in place.

    Args:
        image: float32 (h, w, 3), 0 to 255.
        mask: uint8 (h, w).
        stamp: uint8 (_, _, 4) with alpha.
        corner: Row and column of its upper left pixel; it may lie outside.
        label: Its class.
    """
    places, cuts = [], []
    for start, side, whole in zip(corner, stamp.shape[:2], mask.shape, strict=True):
        places.append(slice(max(0, start), max(0, min(whole, start + side))))
        cuts.append(slice(max(0, -start), max(0, min(side, whole - start))))
    part = stamp[cuts[0], cuts[1]].astype(np.float32)
    alpha, under = part[..., 3:] / 255, image[places[0], places[1]]
    under += alpha * (part[..., :3] - under)
    covered = mask[places[0], places[1]]
    covered[alpha[..., 0] > 0.05] = VOID
    covered[alpha[..., 0] >= 0.95] = label


def build(source: Path, out: Path, *, images: int, seed: int) -> dict[str, Any]:
    """Write a data set and return what provenance.json says of it.

    Args:
        source: Folder of the unpacked packages.
        out: Folder to make; InputError if it exists.
        images: How many, of which a sixth are for validation.
        seed: Of all draws.
    """
    if out.exists():
        raise InputError(f"{out}: exists; remove it, or choose another --out")
    if images < 12:
        raise InputError(f"--images: {images} is not 12 or more; a sixth are for validation")
    grounds = divide(find_grounds(source), [seed, 0])
    stamps = [
        divide(files, [seed, 1, number])
        for number, files in enumerate(find_stamps(source).values())
    ]
    parts = [
        Parts(grounds[i], {n: s[i] for n, s in zip(CLASSES, stamps, strict=True)}, vary=i == 0)
        for i in (0, 1)
    ]
    unfinished = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        facts = _write(unfinished, parts, images=images, seed=seed)
        facts |= _parts(source, parts)
        (unfinished / "provenance.json").write_text(json.dumps(facts, indent=1) + "\n")
        unfinished.rename(out)
    except OSError as error:
        raise InputError(f"{out}: cannot be written ({error}); choose another --out") from error
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return facts


def _write(folder: Path, parts: Sequence[Parts], *, images: int, seed: int) -> dict[str, Any]:
    for name in ("JPEGImages", "SegmentationClass", "ImageSets/Segmentation"):
        (folder / name).mkdir(parents=True)
    (folder / "classes.txt").write_text("\n".join(["background", *CLASSES]) + "\n")
    digest, first_val = hashlib.sha256(), images - round(VAL_IMAGES * images)
    counts: dict[str, Counter[str]] = {"train": Counter(), "val": Counter()}
    names: dict[str, list[str]] = {"train": [], "val": []}
    for index in range(images):
        split, name = "train" if index < first_val else "val", f"{index:06}"
        image, mask = compose(parts[split == "val"], np.random.default_rng([seed, 2, index]))
        picture, labels = folder / f"JPEGImages/{name}.jpg", Image.fromarray(mask)
        Image.fromarray(image).save(picture, quality=QUALITY)
        labels.putpalette(palette().tobytes())
        labels.save(folder / f"SegmentationClass/{name}.png")
        digest.update(picture.read_bytes() + mask.tobytes())
        names[split].append(name)
        present = set(np.unique(mask).tolist())
        counts[split].update(n for label, n in enumerate(CLASSES, start=1) if label in present)
        if (index + 1) % 50 == 0 or index + 1 == images:
            print(f"\r{index + 1:,} of {images:,} images", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    for split, own in names.items():
        (folder / f"ImageSets/Segmentation/{split}.txt").write_text("\n".join(own) + "\n")
    return {
        "seed": seed,
        "images": {split: len(own) for split, own in names.items()},
        "images_with": {split: {n: counts[split][n] for n in CLASSES} for split in counts},
        "sha256": digest.hexdigest(),
        "pillow": PIL.__version__,
    }


def _parts(source: Path, parts: Sequence[Parts]) -> dict[str, Any]:
    """The packages' versions, and which photographs each split is made of."""
    used = {}
    for split, own in zip(("train", "val"), parts, strict=True):
        stamps = {
            name: [str(file.relative_to(source / STAMPS)) for file in files]
            for name, files in own.stamps.items()
        }
        used[split] = {"grounds": [file.name for file in own.grounds], "stamps": stamps}
    return {"packages": {name: _version(source, name) for name in PACKAGES}, "parts": used}


def _version(source: Path, package: str) -> str | None:
    """As the first line of a package's changelog says: name (version) suite."""
    try:
        with gzip.open(source / "usr/share/doc" / package / "changelog.Debian.gz", "rt") as file:
            return file.readline().partition("(")[2].partition(")")[0]
    except OSError:
        return None


def main(words: Sequence[str] | None = None) -> int:
    """Read the command line; the exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--source", type=Path, default=Path("data/stamps-source"))
    parser.add_argument("--out", type=Path, default=Path("data/stamps"))
    parser.add_argument("--images", type=int, default=1200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(words)
    try:
        facts = build(options.source, options.out, images=options.images, seed=options.seed)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for split, counts in facts["images_with"].items():
        found = ", ".join(f"{name} {count}" for name, count in counts.items())
        print(f"{split}: {facts['images'][split]:,} images; with {found}")
    print(f"written: {options.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

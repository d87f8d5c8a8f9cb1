"""A few blurry and sharp images in the layouts of published data sets, for tests."""

import numpy as np
from PIL import Image

SHAPE = (30, 44)


def picture(number, shape=SHAPE):
    return np.random.default_rng(number).integers(0, 200, size=(*shape, 3), dtype=np.uint8)


def write(path, number, *, brighter=0, shape=SHAPE):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture(number, shape) + np.uint8(brighter)).save(path)


def write_pair(blurry, sharp, number):
    """The blurry image is the sharp one, 10 levels brighter: crops of both can be compared."""
    write(blurry, number, brighter=10)
    write(sharp, number)


def write_gopro(root, train=("a", "b", "c"), test=("d",), count=2):
    number = 0
    for split, sequences in (("train", train), ("test", test)):
        for sequence in sequences:
            for frame in range(count):
                folder, number = root / split / sequence, number + 1
                write_pair(folder / f"blur/{frame}.png", folder / f"sharp/{frame}.png", number)
                write(folder / f"blur_gamma/{frame}.png", number, brighter=20)
    return root


def write_folders(root, sequences=("a", "b", "c"), count=1):
    number = 0
    for sequence in sequences:
        for frame in range(count):
            number += 1
            name = f"{sequence}/{frame}.png"
            write_pair(root / "blur" / name, root / "sharp" / name, number)
    return root

"""Fashion-MNIST: grey pictures of clothes in 28x28 pixels (Xiao et al. 2017, arXiv 1708.07747).

Its four files have MNIST's format, idx: two bytes of 0, the type (8: unsigned bytes), the number of
dimensions, each dimension as a big-endian int32, then the values, the last dimension fastest.
"""

import gzip
import zlib
from collections.abc import Sequence
from math import prod
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from typing_extensions import override

from blur_lightning.blur import Capture
from blur_lightning.data.base import BlurDataModule, Split
from blur_lightning.data.windows import Source
from blur_lightning.errors import InputError

SIDE, CLASSES = 28, 10
_DEBIAN = Path("/usr/share/datasets/fashion-mnist")  # of the package dataset-fashion-mnist
_UNSIGNED_BYTE = 8
_MOST = 60_000  # items of a file; what is compressed may go on for gigabytes


class GreySource:
    """Grey images in memory, with their labels.

    Args:
        images: All pixels, 0 to 255.
        labels: Class index of each image.
        names: What tells each image from the others.
    """

    def __init__(
        self, images: UInt8[np.ndarray, "n h w"], labels: Sequence[int], names: Sequence[str]
    ) -> None:
        self.images, self.labels, self.names = images, labels, names

    def size(self, index: int) -> int:
        """Bytes of one image: the same for all, so that the labels tell data sets apart."""
        return int(self.images[index].size)

    def shape(self, index: int) -> tuple[int, int]:
        """Rows and columns of one image."""
        _, rows, columns = self.images.shape
        return rows, columns

    def load(self, index: int) -> UInt8[np.ndarray, "h w 3"]:
        """One image with its grey as all three colours."""
        return np.repeat(self.images[index][:, :, None], 3, axis=2)


class FashionMNISTDataModule(BlurDataModule):
    """Fashion-MNIST, blurred at its 28 pixels: 60,000 images to train, 10,000 to test.

    Args:
        root: Folder of the four idx files, plain or .gz, or of torchvision's FashionMNIST/raw. If
            there is no such folder, that of Debian's package dataset-fashion-mnist serves.
        val_count: How many of the training images, the last ones, serve validation instead.
        blur: What training images are blurred with, one draw an image: sharp, D2, H5, V5, M5@30,
            G1, shake, a range D1..3, a mix sharp+D1+D2, or a weighted mix 0.2*sharp+0.8*shake.
        val_blur: What validation images are blurred with; None is blur, so that of runs which train
            on other mixes the figures do not compare.
        capture: Scales, crop and border of what the network sees.
        jitter: Scales, in pixels, to which training images are resized before the blur, one at
            random, measured as the canonical one; empty is that alone.
        flip: Mirror half of the training images, left to right.
        fraction: Train on this part of every class, in (0, 1], drawn from the seed.
        per_class: Test on so many images of every class, drawn from the seed; None is all.
        batch_size: Images in a batch of each process.
        num_workers: Processes that cut out windows; 0 is fastest, as nothing is decoded.
        seed: Seed of all draws; None is the run's seed_everything.
    """

    num_classes = CLASSES

    def __init__(
        self,
        root: str = "data/fashion-mnist",
        *,
        val_count: int = 5000,
        blur: str = "sharp",
        val_blur: str | None = None,
        capture: Capture | None = None,
        jitter: Sequence[int] = (),
        flip: bool = True,
        fraction: float = 1.0,
        per_class: int | None = None,
        batch_size: int = 128,
        num_workers: int = 0,
        seed: int | None = None,
    ) -> None:
        super().__init__(
            blur=blur,
            val_blur=val_blur,
            capture=capture or Capture(canonical=SIDE, scale=SIDE, crop=SIDE),
            jitter=jitter,
            flip=flip,
            fraction=fraction,
            per_class=per_class,
            batch_size=batch_size,
            num_workers=num_workers,
            seed=seed,
        )
        self.root, self.val_count, self.name = Path(root), val_count, "fashion-mnist"

    @override
    def source(self, split: Split) -> Source:
        part = "train" if split in ("train", "val") else "t10k"
        folder = self._folder()
        image_file, images = _read(folder, f"{part}-images-idx3-ubyte", (SIDE, SIDE))
        label_file, labels = _read(folder, f"{part}-labels-idx1-ubyte", ())
        if len(images) != len(labels):
            raise InputError(
                f"{label_file}: {len(labels)} labels, but {image_file} has {len(images)} images; "
                "fetch both again"
            )
        if labels.max() >= CLASSES:
            raise InputError(f"{label_file}: label {labels.max()}, but 0 to 9 are Fashion-MNIST's")
        chosen = range(len(images))
        if part == "train":
            chosen = self._chosen(split, len(images))
        names = [f"{part}/{index}" for index in chosen]
        return GreySource(images[chosen.start : chosen.stop], labels[chosen].tolist(), names)

    def _chosen(self, split: Split, count: int) -> range:
        if not 0 < self.val_count < count:
            raise InputError(
                f"data.val_count: {self.val_count} is not 1 to {count - 1}; "
                f"there are {count} images to divide"
            )
        cut = count - self.val_count
        return range(cut) if split == "train" else range(cut, count)

    def _folder(self) -> Path:
        torchvision = self.root / "FashionMNIST" / "raw"
        if torchvision.is_dir():
            return torchvision
        if self.root.is_dir():
            return self.root
        if _DEBIAN.is_dir():
            return _DEBIAN
        raise InputError(
            f"data.root: there is no folder {self.root}; `make data/fashion-mnist` needs apt, "
            f"`torchvision.datasets.FashionMNIST('{self.root}', download=True)` does not"
        )


def _read(folder: Path, name: str, sides: tuple[int, ...]) -> tuple[Path, UInt8[np.ndarray, "..."]]:
    """Read one idx file of n items with the given sides; also return which file it was."""
    files = [folder / name, folder / f"{name}.gz"]
    file = next((file for file in files if file.is_file()), None)
    if file is None:
        raise InputError(f"data.root: {folder} has no {name} and no {name}.gz; put one there")
    header = 4 + 4 * (1 + len(sides))
    try:
        with gzip.open(file) if file.suffix == ".gz" else file.open("rb") as stream:
            content = stream.read(header + _MOST * prod(sides) + 1)
    except (OSError, EOFError, zlib.error) as error:
        raise InputError(f"{file}: cannot be read ({error}); fetch it again") from error
    shape = np.frombuffer(content[4:header], dtype=">i4").tolist() if len(content) >= header else []
    expected_start = bytes([0, 0, _UNSIGNED_BYTE, 1 + len(sides)])
    fits = content[:4] == expected_start and tuple(shape[1:]) == sides
    if not fits or not 1 <= shape[0] <= _MOST:
        what = f"{SIDE}x{SIDE} images" if sides else "labels"
        raise InputError(f"{file}: no idx file of {what}; put Fashion-MNIST's {name} there")
    if len(content) != header + prod(shape):
        raise InputError(
            f"{file}: {len(content)} bytes, but its header tells of {header + prod(shape)}; "
            "fetch it again"
        )
    return file, np.frombuffer(content, dtype=np.uint8, offset=header).reshape(shape)

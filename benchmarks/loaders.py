"""Loaders of training images for `feed.py`: from a folder and from shards, and those of others.

Each loader decodes a JPEG, resizes its smaller side to the canonical scale, antialiased and
bicubic, cuts a window at random, mirrors half of them and makes a batch of bytes, (b, 3, h, w),
with its labels. The window has the margin that blurs of 8 pixels need. There are no workers, one
thread, and all files are in memory.
"""

import time
from importlib.util import find_spec
from pathlib import Path

from interleaved import Contender  # sets the threads' policy

# isort: split
import torch
from PIL import Image
from timm.data import ImageDataset
from timm.data.loader import fast_collate
from timm.data.transforms import ToNumpy
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from blur_lightning.blur import Capture
from blur_lightning.data import ImageNetDataModule
from blur_lightning.data.batches import KeyedLoader, KeyedSampler, loader_options
from blur_lightning.data.sharding import write_shards
from blur_lightning.data.windows import WindowDataset

MARGIN = 8
FOLDER, SHARDS, FAST = "folder", "shards", "shards, fast_resize"
PILLOW, TENSORS = "ImageFolder, v2 on Pillow images", "ImageFolder, v2 on tensors"
TIMM = "timm's ImageDataset"
OURS, TORCHS = "ours", "torch's DataLoader"
SIZE = (500, 375)


def loaders(root: Path) -> dict[str, Contender]:
    """Loaders of the photographs in `root`, which has train/<class>/ alone.

    Its shards are written beside, before anything is measured.
    """
    data = ImageNetDataModule(str(root), classes="folders")
    out = root.with_name("shards")
    write_shards(data=data, out=out, parts=["train"], workers=1)
    stored = ImageNetDataModule(str(out), classes="folders")
    count = len(data.source("train").names)
    capture = Capture()
    side = capture.window_side + 2 * MARGIN

    cut = [v2.Resize(capture.canonical, v2.InterpolationMode.BICUBIC, antialias=True)]
    cut += [v2.RandomCrop(side, pad_if_needed=True), v2.RandomHorizontalFlip()]
    folder, batch = str(root / "train"), {"batch_size": count, "shuffle": True}
    on_pillow = ImageFolder(folder, v2.Compose([*cut, v2.PILToTensor()]))
    on_tensors = ImageFolder(folder, v2.Compose([v2.PILToTensor(), *cut]))
    of_timm = ImageDataset(folder, transform=v2.Compose([*cut, ToNumpy()]))

    def ours(module: ImageNetDataModule, *, fast: bool = False) -> KeyedLoader:
        source = module.source("train")
        scales = [capture.canonical]
        dataset = WindowDataset(source, capture, margin=MARGIN, jitter=scales, fast=fast)
        sampler = KeyedSampler(range(count), seed=0)
        return KeyedLoader(dataset, batch_size=count, sampler=sampler, **loader_options(0))

    contenders = {
        FOLDER: ours(data),
        SHARDS: ours(stored),
        FAST: ours(stored, fast=True),
        PILLOW: DataLoader(on_pillow, **batch),
        TENSORS: DataLoader(on_tensors, **batch),
        TIMM: DataLoader(of_timm, collate_fn=fast_collate, **batch),
    }
    return {name: Contender(Whole(loader, side), count) for name, loader in contenders.items()}


class Whole:
    """One epoch, which is one batch."""

    def __init__(self, loader: DataLoader, side: int) -> None:
        self.loader, self.side = loader, side

    def __call__(self) -> Tensor:
        """Load it, and see that all have done the same work."""
        (batch,) = self.loader
        images = batch["image"] if isinstance(batch, dict) else batch[0]
        assert images.dtype == torch.uint8
        assert images.shape[1:] == (3, self.side, self.side)
        return images


def waits(root: Path, batches: int = 4, epochs: int = 4) -> dict[str, list[float]]:
    """Seconds that a step waits for its batch, ours and with torch's DataLoader: at most, by epoch.

    One worker makes batches of a quarter of the photographs ready while a step takes twice as long
    as that; of the first epoch, in which workers start, nothing is told.
    """
    data = ImageNetDataModule(str(root), classes="folders")
    source, capture = data.source("train"), Capture()
    size = len(source.names) // batches
    dataset = WindowDataset(source, capture, margin=MARGIN, jitter=[capture.canonical])
    begun = time.perf_counter()
    for index in range(size):
        dataset[0, index]
    step = 2 * (time.perf_counter() - begun)

    def longest(kind: type[DataLoader]) -> list[float]:
        sampler = KeyedSampler(range(len(source.names)), seed=0, epochs=epochs)
        loader = kind(dataset, batch_size=size, sampler=sampler, **loader_options(1))
        found = []
        for epoch in range(epochs):
            sampler.set_epoch(epoch)
            waited, asked = [], time.perf_counter()
            batches_of_epoch = iter(loader)
            for _ in range(len(loader)):  # as Lightning does, which asks for no more
                next(batches_of_epoch)
                waited.append(time.perf_counter() - asked)
                time.sleep(step)
                asked = time.perf_counter()
            found.append(max(waited))
        return found[1:]

    return {OURS: longest(KeyedLoader), TORCHS: longest(DataLoader)}


def store_jpegs(folder: Path, count: int) -> list[Path]:
    """Store foolbox's photographs, repeated if there are not enough, as ImageNet's are."""
    package = find_spec("foolbox")
    assert package is not None and package.submodule_search_locations
    photographs = sorted(Path(package.submodule_search_locations[0]).glob("data/imagenet_*"))
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"photograph_{index}.jpg" for index in range(count)]
    for index, file in enumerate(files):
        with Image.open(photographs[index % len(photographs)]) as image:
            resized = image.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC)
            resized.save(file, quality=95, subsampling="4:4:4")
    return files

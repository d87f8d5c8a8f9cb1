"""How many training images one core makes ready: from a folder and from shards, beside others.

    python benchmarks/loaders.py [--rounds 5] [--batch 20] [--out benchmarks/results/loaders.json]

The photographs are those of `feed.py`. Each loader decodes a JPEG, resizes its smaller side to the
canonical scale, antialiased and bicubic, cuts a window at random, mirrors half of them and makes a
batch of bytes, (b, 3, h, w), with its labels. The window has the margin that blurs of 8 pixels
need. There are no workers, one thread, and all files are in memory. Loaders take turns, and what
counts is the time of the processor. Exits with status 2 where foolbox is not installed.
"""

import sys
import tempfile
import time
import warnings
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

from interleaved import (  # sets the threads' policy
    Contender,
    parse,
    ratios,
    seconds_an_image,
    spread,
    write_report,
)

# isort: split
import torch
from feed import store_jpegs
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
# Least number of times that ImageFolder must take as long as our fastest way.
TARGET = 1.5


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the figures as JSON."""
    options = parse(arguments, __doc__, out="loaders.json", batch=20)
    if find_spec("foolbox") is None:
        print("the photographs are missing: pip install foolbox")
        return 2
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what timm and torch say of each other
    with tempfile.TemporaryDirectory() as folder:
        files = store_jpegs(Path(folder, "photographs/train/all"), options.batch)
        contenders = loaders(files[0].parents[2])
        seconds = seconds_an_image(contenders, options.rounds, clock=time.process_time)
    rates = {name: spread([1 / value for value in values]) for name, values in seconds.items()}
    times = {name: spread(ratios(seconds[PILLOW], values)) for name, values in seconds.items()}
    for name, rate in rates.items():
        print("{:34} {median:6.0f} images/s ({least:.0f}-{most:.0f})".format(name, **rate), end="")
        print("  {median:.2f}x ({least:.2f}-{most:.2f})".format(**times[name]))
    write_report(options, images_a_second=rates, times_as_fast_as_image_folder=times, target=TARGET)
    missed = times[FAST]["median"] < TARGET
    verdict = f"missed: {times[FAST]['median']:.2f} times, at least {TARGET:g} wanted"
    print(verdict if missed else "the target is reached", f"-> {options.out}")
    return 0


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


if __name__ == "__main__":
    sys.exit(main())

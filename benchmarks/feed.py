"""How many images a core makes ready for a network, and what testing 12 blurs of each costs.

    python benchmarks/feed.py [--rounds 5] [--batch 20] [--out benchmarks/results/feed.json]

The photographs are the 20 of the package foolbox, resized to 500x375 and stored in a temporary
folder as JPEG of quality 95 with all colour samples (4:4:4). That makes 102 KB a file on average,
a little less than the 110 KB of ImageNet's training images. The scales are those of Vasiljevic et
al. 2016: 384 to blur at, 256 for the network, a crop of 224. One thread.

First loaders of training images, ours and others', in images a second of processor time, and how
long a step waits where an epoch begins; see `loaders.py`. Then the stages of a test, in which the
network does not count, but in the last figure: what `test` takes with all it does, files included,
beside an EfficientNet-Lite0 alone on the same images. Exits with status 2 where foolbox is not
installed.
"""

import contextlib
import io
import logging
import statistics
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
import numpy as np
import timm
import torch
from loaders import FAST, PILLOW, loaders, store_jpegs, waits
from torch import Tensor
from torch.utils.data import default_collate

from blur_lightning.blur import BlurDistribution, Capture, blur_images
from blur_lightning.blur.capture import normalize
from blur_lightning.blur.cutting import cut_window
from blur_lightning.data import PhotosDataModule
from blur_lightning.data.batches import collate_readable
from blur_lightning.data.imagenet import FileSource
from blur_lightning.data.windows import WindowDataset
from blur_lightning.images import resize_smaller_side
from blur_lightning.tasks import ClassificationTask
from blur_lightning.trainer import Trainer

TEST_IMAGES = 20
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# Table 1 of Vasiljevic et al. 2016.
CONDITIONS = ("sharp", "D2", "D4", "D6", "D8", "H4", "H8", "V4", "V8", "shake", "G4", "G8")
# Pixels that each draws on beyond a window.
REACH = {name: BlurDistribution.parse(name).half_width for name in CONDITIONS}
TOGETHER, APART = "12 conditions, decoded once", "12 conditions, decoded 12 times"
# Least number of times that ImageFolder must take as long as our fastest loader.
FASTER = 1.5
# Least number of times that a pass for each condition must take as long as one for all.
TARGET = 4.0
# A test of all conditions, the network alone on as many images, and the most that the first may
# take of the second and one decoding.
TEST, ALONE, MOST = "test under 12 conditions", "network alone, 12 times", 1.3


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the figures as JSON."""
    options = parse(arguments, __doc__, out="feed.json", batch=20)
    if find_spec("foolbox") is None:
        print("the photographs are missing: pip install foolbox")
        return 2
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # what Lightning and torch say of each other
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        training = store_jpegs(Path(folder, "photographs/train/all"), options.batch)
        contenders = loaders(training[0].parents[2])
        loading = seconds_an_image(contenders, options.rounds, clock=time.process_time)
        waited = waits(training[0].parents[2])
        feed = Feed(training)
        seconds = seconds_an_image(feed.stages() | feed.passes(), options.rounds)
        long = store_jpegs(Path(folder) / "test", TEST_IMAGES)
        seconds |= seconds_an_image(test_and_network(long), min(2, options.rounds))
    milliseconds = {name: spread([1000 * v for v in values]) for name, values in seconds.items()}
    times = spread(ratios(seconds[APART], seconds[TOGETHER]))
    rates = {name: spread([1 / value for value in values]) for name, values in loading.items()}
    faster = {name: spread(ratios(loading[PILLOW], values)) for name, values in loading.items()}
    decode = statistics.median(seconds["decode"])
    overhead = spread(ratios(seconds[TEST], [decode + alone for alone in seconds[ALONE]]))
    for name, rate in rates.items():
        print("{:34} {median:6.0f} images/s ({least:.0f}-{most:.0f})".format(name, **rate), end="")
        print("  {median:.2f}x ({least:.2f}-{most:.2f})".format(**faster[name]))
    waited_ms = {name: spread([1000 * v for v in values]) for name, values in waited.items()}
    for name, figures in waited_ms.items():
        print("longest wait of an epoch, {:19} {median:6.1f} ms".format(name, **figures))
    for name, figures in milliseconds.items():
        print("{:32} {median:7.2f} ms  ({least:.2f}-{most:.2f})".format(name, **figures))
    print("each condition on its own: {median:.2f}x  ({least:.2f}-{most:.2f})".format(**times))
    print("a test takes {median:.2f}x the network and one decoding".format(**overhead))
    write_report(
        options,
        images_a_second=rates,
        times_as_fast_as_image_folder=faster,
        least_times_as_fast=FASTER,
        milliseconds_waited_in_an_epoch=waited_ms,
        milliseconds_an_image=milliseconds,
        times_each_on_its_own=times,
        target=TARGET,
        test_over_network_and_decode=overhead,
        most=MOST,
    )
    for name, reached, wanted in (
        ("loaders", faster[FAST]["median"], FASTER),
        ("12 conditions", times["median"], TARGET),
    ):
        missed = f"missed: {reached:.2f} times, at least {wanted:g} wanted"
        print(f"{name}:", missed if reached < wanted else "the target is reached")
    print(f"-> {options.out}")
    return 0


class Feed:
    """A batch of photographs on its way to the network: stage by stage, and as a whole."""

    def __init__(self, files: Sequence[Path]) -> None:
        self.capture = Capture()
        self.source = FileSource(files[0].parent, files, labels=None)
        self.blurs = {
            name: [BlurDistribution.parse(name).draw(seed=0, index=i) for i in range(len(files))]
            for name in CONDITIONS
        }
        self.decoded = self.decode()
        self.resized = self.resize()
        self.batches = {name: self.cut(REACH[name]) for name in CONDITIONS}

    def stages(self) -> dict[str, Contender]:
        """Each stage on what the one before it has made."""
        count, blurred = len(self.decoded), len(self.decoded) * len(CONDITIONS)
        return {
            "decode": Contender(self.decode, count),
            "resize to 384": Contender(self.resize, count),
            "cut windows, make a batch": Contender(lambda: self.cut(max(REACH.values())), count),
            "blur to 8 bits, mean of 12": Contender(self.blur, blurred),
            "resize, crop, normalise": Contender(lambda: self.network_input("sharp"), count),
        }

    def passes(self) -> dict[str, Contender]:
        """Everything together, an image under all conditions."""
        count = len(self.decoded)
        return {TOGETHER: Contender(self.together, count), APART: Contender(self.apart, count)}

    def decode(self) -> list[np.ndarray]:
        """Read all photographs."""
        return [self.source.load(index) for index in range(len(self.source.names))]

    def resize(self) -> list[np.ndarray]:
        """Give all photographs the canonical scale."""
        return [resize_smaller_side(image, self.capture.canonical) for image in self.decoded]

    def cut(self, margin: int) -> Tensor:
        """Make a batch of the photographs' windows, as `WindowDataset` and its loader do."""
        windows = [
            cut_window(image, side=self.capture.window_side, margin=margin)
            for image in self.resized
        ]
        return default_collate(
            [torch.from_numpy(np.ascontiguousarray(w.transpose(2, 0, 1))) for w in windows]
        )

    def blur(self) -> None:
        """Blur a batch under each condition."""
        for name, windows in self.batches.items():
            blur_images(windows, self.blurs[name], border="replicate", margin=REACH[name])

    def network_input(self, name: str, windows: Tensor | None = None) -> Tensor:
        """Do all that happens on the device, under one condition."""
        images = self.capture(self.batches[name] if windows is None else windows, self.blurs[name])
        return normalize(images, mean=MEAN, std=STD, inplace=True)

    def load(self, margin: int) -> Tensor:
        """Do all that a loader does."""
        dataset = WindowDataset(self.source, self.capture, margin=margin)
        return collate_readable([dataset[index] for index in range(len(dataset))])["image"]

    def together(self) -> None:
        """Test under all conditions from one batch, as this package does."""
        windows = self.load(max(REACH.values()))
        for name in CONDITIONS:
            self.network_input(name, windows)

    def apart(self) -> None:
        """Test under one condition after another, each with a loader of its own."""
        for name in CONDITIONS:
            self.network_input(name, self.load(REACH[name]))


def test_and_network(files: Sequence[Path]) -> dict[str, Contender]:
    """A whole `test` under all conditions, and what its network takes of it."""
    net = timm.create_model("tf_efficientnet_lite0").eval()

    def test() -> None:
        with tempfile.TemporaryDirectory() as folder:
            trainer = Trainer(
                default_root_dir=folder,
                accelerator="cpu",
                logger=False,
                enable_progress_bar=False,
                enable_model_summary=False,
            )
            data = PhotosDataModule(str(files[0].parent), batch_size=20, num_workers=0)
            with contextlib.redirect_stdout(io.StringIO()):
                trainer.test(ClassificationTask(net, conditions=CONDITIONS), datamodule=data)

    def alone() -> None:
        batch = torch.rand(20, 3, 224, 224)
        with torch.inference_mode():
            for _ in range(len(CONDITIONS) * len(files) // len(batch)):
                net(batch)

    return {TEST: Contender(test, len(files)), ALONE: Contender(alone, len(files))}


if __name__ == "__main__":
    sys.exit(main())

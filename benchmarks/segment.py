"""What measuring a segmentation costs beside its network, and predicting on a large photograph.

    python benchmarks/segment.py [--rounds 5] [--batch 8] [--out benchmarks/results/segment.json]

One thread; images of 256x336 with 21 classes, and a U-Net with an EfficientNet-Lite0 as encoder, a
small network, beside which measuring weighs most. Truth and predictions are blobs, with a ring of
void as in PASCAL VOC. The photograph has 4000x3000 pixels; its peak memory is that of a process of
its own, less what such a process needs for one tile.
"""

import resource
import subprocess
import sys
from collections.abc import Sequence

from interleaved import (  # sets the threads' policy
    Contender,
    parse,
    ratios,
    seconds_an_image,
    spread,
    write_report,
)

# isort: split
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor

from blur_lightning.boundaries import trimap
from blur_lightning.images import VOID
from blur_lightning.metrics import MeanIoU
from blur_lightning.tasks.pixels import best_classes, count_pixels
from blur_lightning.tiles import by_tiles

CLASSES, SHAPE, WIDTHS = 21, (256, 336), (1, 2, 4, 8, 16)
LARGE, TILE, OVERLAP = (3000, 4000), 1024, 128
MOST = 0.05  # of a validation's time that its metric may take
MOST_MEMORY = 1024.0  # MiB that the photograph may need beyond a tile


def network() -> torch.nn.Module:
    """A small segmenter with random weights."""
    net = smp.Unet("tu-tf_efficientnet_lite0", encoder_weights=None, classes=CLASSES)
    return net.eval()


def blobs(batch: int, seed: int) -> Tensor:
    """Label maps (batch, h, w) of smooth shapes."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(batch, CLASSES, 8, 10, generator=generator)
    return F.interpolate(coarse, size=SHAPE, mode="bicubic").argmax(1)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the figures as JSON."""
    if arguments is None and sys.argv[1:2] == ["--photograph"]:
        return _predict(*map(int, sys.argv[2:]))
    options = parse(arguments, __doc__, out="segment.json", batch=8)
    torch.set_num_threads(1)
    net, images = network(), torch.rand(options.batch, 3, *SHAPE)
    truth, other = blobs(options.batch, 0), blobs(options.batch, 1)
    edges = trimap(truth, widths=[2])
    truth[edges == 0] = VOID
    bands = trimap(truth, widths=WIDTHS)
    logits = F.one_hot(other, CLASSES).movedim(-1, 1).float()
    metric = MeanIoU(CLASSES)
    with torch.inference_mode():
        seconds = seconds_an_image(
            {
                "network": Contender(lambda: net(images), options.batch),
                "validation: mean IoU": Contender(
                    lambda: metric.update(best_classes(logits), truth), options.batch
                ),
                "test: all counts of a condition": Contender(
                    lambda: count_pixels(
                        logits, truth, bands, num_widths=len(WIDTHS), place=WIDTHS.index(4)
                    ),
                    options.batch,
                ),
                "test: bands of the truth, once": Contender(
                    lambda: trimap(truth, widths=WIDTHS), options.batch
                ),
            },
            options.rounds,
        )
    milliseconds = {name: spread([1000 * v for v in values]) for name, values in seconds.items()}
    share = spread(ratios(seconds["validation: mean IoU"], seconds["network"]))
    one, whole = (_memory_and_seconds(*shape) for shape in ((TILE, TILE), LARGE))
    for name, figures in milliseconds.items():
        print("{:32} {median:7.2f} ms  ({least:.2f}-{most:.2f})".format(name, **figures))
    memory = whole[0] - one[0]
    print(f"mean IoU takes {100 * share['median']:.1f} % of its network's time")
    print(f"{LARGE[1]}x{LARGE[0]}: {whole[1]:.1f} s, {memory:.0f} MiB more than one tile")
    write_report(
        options,
        milliseconds_an_image=milliseconds,
        metric_over_network=share,
        most=MOST,
        photograph={"seconds": whole[1], "mib_beyond_a_tile": memory, "mib_of_a_tile": one[0]},
        most_memory=MOST_MEMORY,
    )
    missed = share["median"] > MOST or memory > MOST_MEMORY
    print("missed" if missed else "the targets are reached", f"-> {options.out}")
    return 0


def _memory_and_seconds(rows: int, columns: int) -> tuple[float, float]:
    words = [sys.executable, __file__, "--photograph", str(rows), str(columns)]
    memory, seconds = subprocess.run(
        words, check=True, capture_output=True, text=True
    ).stdout.split()
    return float(memory), float(seconds)


def _predict(rows: int, columns: int) -> int:
    """Predict on one photograph; print the peak memory in MiB and the seconds."""
    from time import perf_counter

    torch.set_num_threads(1)
    net, image = network(), torch.rand(1, 3, rows, columns)
    start = perf_counter()
    with torch.inference_mode():
        by_tiles(
            lambda part: best_classes(net(part)).to(torch.uint8),
            image,
            tile=TILE,
            overlap=OVERLAP,
            multiple=32,
        )
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(peak, perf_counter() - start)
    return 0


if __name__ == "__main__":
    sys.exit(main())

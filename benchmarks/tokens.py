"""How much faster a vision transformer is without some of its tokens.

    python benchmarks/tokens.py [--rounds 5] [--batch 8] [--out benchmarks/results/tokens.json]

Processor time of one thread, ViT-S/16 with random weights on images of noise at 224 pixels. The
ratios are to timm's own network in the same round.
"""

import time
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
import timm
import torch

from blur_lightning.models import PatchDrop

NETWORK, SIZE = "vit_small_patch16_224", 224
SHARES = (1.0, 0.75, 0.5, 0.25)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write the figures as JSON."""
    options = parse(arguments, __doc__, out="tokens.json", batch=8)
    torch.set_num_threads(1)
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(options.batch, 3, SIZE, SIZE, generator=generator)

    def make() -> torch.nn.Module:
        return timm.create_model(NETWORK).eval()

    nets: dict[str, torch.nn.Module] = {"timm": make()}
    for keep in SHARES:
        nets[f"remove, keep {100 * keep:g}%"] = PatchDrop(make(), keep=keep, mode="remove")
    nets["remove, keep 50%, drop random"] = PatchDrop(
        make(), keep=0.5, mode="remove", drop="random"
    )
    nets["remove, keep 50%, drop sharp"] = PatchDrop(make(), keep=0.5, mode="remove", drop="sharp")
    nets["mask, keep 50%"] = PatchDrop(make(), keep=0.5)
    calls = {
        name: Contender(lambda net=net: net(images), len(images)) for name, net in nets.items()
    }
    with torch.inference_mode():
        seconds = seconds_an_image(calls, options.rounds, clock=time.process_time)
    figures = {
        name: {
            "images_a_second": spread([1 / second for second in values]),
            "times_as_fast_as_timm": spread(ratios(seconds["timm"], values)),
        }
        for name, values in seconds.items()
    }
    for name, figure in figures.items():
        speed, ratio = figure["images_a_second"], figure["times_as_fast_as_timm"]
        print(
            f"{name:29} {speed['median']:6.1f} images/s, {ratio['median']:.2f} times as fast "
            f"({ratio['least']:.2f}-{ratio['most']:.2f})"
        )
    write_report(options, network=NETWORK, figures=figures)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

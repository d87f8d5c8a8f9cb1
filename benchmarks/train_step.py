"""What blurring adds to a training step: the same step with sharp and with blurred input.

    python benchmarks/train_step.py [--rounds 5] [--batch 256] [--out FILE]

A step begins with the windows that a loader has made, bytes on the device, and ends with new
weights. `sharp` makes the network's input from them by the resize, the crop and normalising that
every step needs; the others blur each image before, by draws of its own from a mix. On a CUDA GPU
the network is a ResNet-50 in bfloat16 and channels_last; elsewhere a ResNet-18 in 32 bits on one
thread, in time of the processor: what the blur costs beside a slow network, a lower bound. Steps
take turns, so that clocks and heat are the same for all.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence

from interleaved import Contender, parse, ratios, seconds_an_image, spread, write_report

# isort: split
import timm
import torch
import torch.nn.functional as F

from blur_lightning.blur import BlurDistribution, Capture
from blur_lightning.blur.capture import normalize

CLASSES = 1000
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SHARP = "sharp"
# The training mixes of Vasiljevic et al. 2016, Table 3, and one of every kind of kernel.
MIXES = ("sharp+D2+D4+D6+D8", "0.2*sharp+0.8*shake", "sharp+D4+D8+H8+M8@30+G2+G4+shake")


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the figures as JSON."""
    gpu = torch.cuda.is_available()
    device = torch.device("cuda" if gpu else "cpu")
    options = parse(arguments, __doc__, out="train_step.json", batch=256 if gpu else 8)
    torch.set_num_threads(1)
    network = "resnet50" if gpu else "resnet18"
    steps = {mix: step(network, mix, options.batch, device) for mix in (SHARP, *MIXES)}
    contenders = {mix: Contender(call, options.batch) for mix, call in steps.items()}
    clock = time.perf_counter if gpu else time.process_time
    seconds = seconds_an_image(contenders, options.rounds, clock=clock)
    milliseconds = {
        mix: spread([1000 * options.batch * value for value in values])
        for mix, values in seconds.items()
    }
    shares = {mix: spread(ratios(seconds[mix], seconds[SHARP])) for mix in MIXES}
    name = torch.cuda.get_device_name(device) if gpu else "CPU, one thread"
    print(f"{network}, {options.batch} images, {name}")
    for mix, figures in milliseconds.items():
        print("{:36} {median:9.1f} ms  ({least:.1f}-{most:.1f})".format(mix, **figures), end="")
        print(
            "  {median:.3f}x ({least:.3f}-{most:.3f})".format(**shares[mix])
            if mix in shares
            else ""
        )
    rate = options.batch / statistics.median([options.batch * value for value in seconds[SHARP]])
    write_report(
        options,
        device=name,
        network=network,
        milliseconds_a_step=milliseconds,
        times_the_sharp_step=shares,
        images_a_second_sharp=rate,
    )
    print(f"-> {options.out}")
    return 0


def step(network: str, mix: str, batch: int, device: torch.device) -> Callable[[], None]:
    """A training step on windows that are blurred by draws from a mix."""
    capture, distribution = Capture(), BlurDistribution.parse(mix)
    side = capture.window_side + 2 * distribution.half_width
    windows = torch.randint(256, (batch, 3, side, side), dtype=torch.uint8, device=device)
    net = timm.create_model(network, num_classes=CLASSES).to(device).train()
    net = net.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.001, momentum=0.9)
    labels = torch.randint(CLASSES, (batch,), device=device)
    epoch = 0

    def run() -> None:
        nonlocal epoch
        epoch += 1  # as in training: no kernel is that of the step before
        blurs = [distribution.draw(seed=0, index=index, epoch=epoch) for index in range(batch)]
        images = normalize(capture(windows, blurs), mean=MEAN, std=STD, inplace=True)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            scores = net(images.contiguous(memory_format=torch.channels_last))
            loss = F.cross_entropy(scores, labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()

    return run


if __name__ == "__main__":
    sys.exit(main())

"""What blurring costs on a GPU: beside kornia and plain PyTorch, and beside a training step.

    python benchmarks/gpu.py [--quick] [--out benchmarks/results/gpu.json]

Two questions, answered on the GPU at hand:

* How long does it take to blur a batch of uint8 images of 384x384 pixels, one kernel an image, to
  uint8 images? Contenders take turns, so that clocks and heat are the same for all. Casts, borders
  and rounding count for all; making the kernels counts for none.
* What share of a ResNet-50 training step (bfloat16, channels_last, 224 pixels) is the whole stage
  that makes its input: kernels, blur, 8 bits, resize, crop, normalise?

Exits with status 2 where there is no CUDA device or no Triton.
"""

import argparse
import datetime
import importlib.metadata
import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import kornia
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from blur_lightning.blur import (
    Blur,
    BlurDistribution,
    Capture,
    Kernels,
    convolve,
    fused,
    make_kernels,
)
from blur_lightning.blur.capture import normalize
from blur_lightning.records.provenance import environment

SIDE, CLASSES = 384, 1000
# What is blurred, by its name in the grammar; each shake kernel is 17x17 and of no special form.
BLURS = {"dense 17x17": "shake", "disk D8": "D8", "box 1x8": "H8", "Gaussian, sigma 4": "G4"}
MIXTURE = "sharp+D4+D8+H8+M8@30+G2+G4+shake"
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
# The first is meant for an H200, 256 images; the others for any GPU.
TARGETS = {"dense 17x17, ms": 3.0, "dense 17x17, times kornia": 10.0, "stage, % of a step": 5.0}

Contenders = Mapping[str, Callable[[], object]]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/gpu.json"))
    parser.add_argument("--batch", type=int, default=256, help="images a batch")
    parser.add_argument("--rounds", type=int, default=20, help="measurements of each contender")
    parser.add_argument("--quick", action="store_true", help="32 images, 5 rounds")
    options = parser.parse_args(arguments)
    if options.quick:
        options.batch, options.rounds = 32, 5
    if not torch.cuda.is_available() or fused.triton is None:
        lacking = "Triton" if torch.cuda.is_available() else "CUDA device"
        print(f"benchmarks/gpu.py: no {lacking}; run it where there is one", file=sys.stderr)
        return 2
    device = torch.device("cuda")
    figures = {
        name: measure(blur_contenders(blurs(grammar, options.batch), device), options.rounds)
        for name, grammar in BLURS.items()
    }
    figures["training"] = measure(training_contenders(options.batch, device), options.rounds)
    report = {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "device": torch.cuda.get_device_name(device),
        "versions": versions(),
        "batch": options.batch,
        "side": SIDE,
        "rounds": options.rounds,
        "figures": figures,
        "targets": TARGETS,
        "reached": reached(figures),
    }
    print(table(report))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0


def blurs(grammar: str, count: int) -> list[Blur]:
    """One blur for each of `count` images, always the same ones."""
    distribution = BlurDistribution.parse(grammar)
    return [distribution.draw(seed=0, index=index) for index in range(count)]


def blur_contenders(drawn: Sequence[Blur], device: torch.device) -> Contenders:
    """Ways to blur a batch of uint8 images, each image by its own kernel, to uint8 images."""
    images = random_images(len(drawn), SIDE, device)
    kernels = make_kernels(drawn, device=device)
    (group,) = kernels.groups

    def fused_kernel() -> Tensor:
        if len(group.factors) == 1:
            return fused.convolve_dense(images, group.factors[0])
        column, row = group.factors
        return fused.convolve_separable(images, column[..., 0], row[..., 0, :])

    return {
        "convolve": lambda: convolve(images, kernels),
        "its fused kernel alone": fused_kernel,
        "kornia": lambda: blur_with_kornia(images, kernels, drawn),
        "plain PyTorch": lambda: blur_without_fusion(images, kernels),
    }


def blur_with_kornia(images: Tensor, kernels: Kernels, drawn: Sequence[Blur]) -> Tensor:
    """The same blurs by kornia's own functions; kornia takes and gives float images."""
    (group,) = kernels.groups
    values = images.float()
    if len(group.factors) == 1:
        values = kornia.filters.filter2d(values, group.factors[0], behaviour="conv")
    else:
        side = group.factors[0].shape[-2]
        sigma = images.new_tensor([[blur.parameter] * 2 for blur in drawn], dtype=torch.float32)
        values = kornia.filters.gaussian_blur2d(values, (side, side), sigma)
    return values.round().clamp(0, 255).to(torch.uint8)


def blur_without_fusion(images: Tensor, kernels: Kernels) -> Tensor:
    """`convolve` as it runs where there is no Triton: grouped convolutions."""
    with mock.patch.object(fused, "available", return_value=False):
        return convolve(images, kernels)


def training_contenders(batch: int, device: torch.device) -> Contenders:
    """The stage that makes a network's input, and a training step on that input."""
    capture, drawn = Capture(), blurs(MIXTURE, batch)
    margin = BlurDistribution.parse(MIXTURE).half_width
    windows = random_images(batch, capture.window_side + 2 * margin, device)
    net = timm.create_model("resnet50", pretrained=False, num_classes=CLASSES)
    net = net.to(device).to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-4)
    labels = torch.randint(CLASSES, (batch,), device=device)

    def stage() -> Tensor:
        return normalize(capture(windows, drawn), mean=MEAN, std=STD)

    inputs = stage().contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(device.type, torch.bfloat16):
            loss = F.cross_entropy(net(inputs), labels)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()

    return {"stage": stage, "step": step}


def random_images(count: int, side: int, device: torch.device) -> Tensor:
    """Noise (count, 3, side, side), uint8: no cache or compression can make it cheaper."""
    return torch.randint(256, (count, 3, side, side), dtype=torch.uint8, device=device)


def measure(contenders: Contenders, rounds: int) -> dict[str, dict[str, float]]:
    """Milliseconds of each contender: median and range over rounds in which all take turns."""
    for contender in contenders.values():
        # Twice: Triton compiles in the first call, and cuDNN chooses its algorithms.
        contender()
        contender()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, contender in contenders.items():
            times[name].append(milliseconds(contender))
    return {
        name: {"median_ms": statistics.median(all_), "min_ms": min(all_), "max_ms": max(all_)}
        for name, all_ in times.items()
    }


def milliseconds(function: Callable[[], object]) -> float:
    """Time of one call on the GPU, from an idle GPU on: what the host adds counts too."""
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    function()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end)


def reached(figures: Mapping[str, Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """The figures that `TARGETS` speaks of, by the same names."""
    dense, training = (
        {name: spread["median_ms"] for name, spread in figures[case].items()}
        for case in ("dense 17x17", "training")
    )
    values = (
        dense["convolve"],
        dense["kornia"] / dense["convolve"],
        100 * training["stage"] / training["step"],
    )
    return dict(zip(TARGETS, values, strict=True))


def versions() -> dict[str, Any]:
    """The versions, machine and commit of the run."""
    more = {package: importlib.metadata.version(package) for package in ("kornia", "triton")}
    return environment() | more | {"cuda": torch.version.cuda}


def table(report: Mapping[str, Any]) -> str:
    """A report as text of a line for each contender and target."""
    lines = [f"{report['device']}, {report['batch']} images, {report['rounds']} rounds", ""]
    lines.append(f"{'ms: median (least - most)':50}")
    for case, contenders in report["figures"].items():
        for name, ms in contenders.items():
            spread = f"({ms['min_ms']:.2f} - {ms['max_ms']:.2f})"
            lines.append(f"{case:20}{name:26}{ms['median_ms']:10.2f}  {spread}")
    lines += ["", f"{'':46}{'reached':>10}{'target':>10}"]
    lines += [
        f"{name:46}{report['reached'][name]:10.2f}{target:10.2f}"
        for name, target in report["targets"].items()
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

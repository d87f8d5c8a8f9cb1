"""Measures what deconvolution by known kernels gains, and what it costs, on one CPU thread.

    python benchmarks/deconvolution.py [--out FILE.csv]

Whole images are blurred with the border "reflect", get Gaussian noise, and are stored with 8 bits:
the 20 photographs of foolbox with a smaller side of 384 pixels, and 20 procedural scenes of
256 x 256. PSNR in dB of the blurred and of each restored image against the sharp one, all pixels
and colours; means over images with bootstrap intervals.
"""

import argparse
import time
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from blur_lightning.blur import BlurDistribution, blur_images, make_kernels
from blur_lightning.blur.deconvolve import Method, deconvolve
from blur_lightning.data import PhotosDataModule
from blur_lightning.data.procedural import scene
from blur_lightning.image_quality import peak_signal_to_noise
from blur_lightning.images import resize_smaller_side
from blur_lightning.robustness import bootstrap_interval, write_table

COUNT, SIDE, SCENE = 20, 384, 256
BLURS, NOISES = ("D4", "D8", "shake"), (0.0, 0.01)


def images() -> dict[str, list[Tensor]]:
    """Sharp images (1, 3, h, w) of 8 bits, by kind."""
    photographs = PhotosDataModule().source("test")
    pixels = {
        "photographs": [resize_smaller_side(photographs.load(i), SIDE) for i in range(COUNT)],
        "scenes": [scene(2, index, size=SCENE).frames[0] for index in range(COUNT)],
    }
    return {
        kind: [torch.from_numpy(image.transpose(2, 0, 1).copy())[None] for image in found]
        for kind, found in pixels.items()
    }


def noisy(blurred: Tensor, noise: float, *, seed: int) -> Tensor:
    """Add Gaussian noise to images of 8 bits, and round."""
    if noise == 0:
        return blurred
    drawn = torch.randn(blurred.shape, generator=torch.Generator().manual_seed(seed))
    return (blurred + 255 * noise * drawn).round().clamp(0, 255).to(torch.uint8)


def psnr(image: Tensor, sharp: Tensor) -> float:
    """Of one image of 8 bits, in dB."""
    return peak_signal_to_noise(image / 255, sharp / 255).item()


def main() -> None:
    """Measure everything, and write a line for each kind, blur, noise and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deconvolution.csv"))
    out = parser.parse_args().out
    torch.set_num_threads(1)
    names = ("images", "blur", "noise", "method", "n", "psnr", "low", "high", "gain", "least_gain")
    columns: dict[str, list[object]] = {name: [] for name in (*names, "milliseconds")}
    for kind, found in images().items():
        for name in BLURS:
            for noise in NOISES:
                gains: dict[str, list[float]] = {method: [] for method in get_args(Method)}
                seconds: dict[str, list[float]] = {method: [] for method in gains}
                before = []
                for index, sharp in enumerate(found):
                    blur = BlurDistribution.parse(name).draw(seed=0, index=index)
                    blurred = noisy(blur_images(sharp, [blur]), noise, seed=index)
                    before.append(psnr(blurred, sharp))
                    for method in gains:
                        start = time.perf_counter()
                        restored = deconvolve(
                            blurred,
                            make_kernels([blur]),
                            method=method,  # type: ignore[arg-type]
                            noise=noise,
                        )
                        seconds[method].append(time.perf_counter() - start)
                        gains[method].append(psnr(restored, sharp) - before[-1])
                for method, gain in {"none": [0.0] * len(before), **gains}.items():
                    after = np.array(before) + gain
                    took = 1000 * float(np.median(seconds.get(method, [0.0])))
                    interval = bootstrap_interval(after)
                    figures = (after.mean(), *interval, np.mean(gain), min(gain))
                    texts = [f"{figure:.2f}" for figure in figures]
                    line = (kind, name, noise, method, len(before), *texts, f"{took:.0f}")
                    for column, value in zip(columns, line, strict=True):
                        columns[column].append(value)
                    print(*line, flush=True)
    write_table(out, [columns])  # type: ignore[list-item]


if __name__ == "__main__":
    main()

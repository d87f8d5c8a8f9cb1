"""Measures what deconvolution by known kernels gains, and what it costs, on one CPU thread.

    python benchmarks/deconvolution.py [--out FILE.csv] [--count 20]

Whole images are blurred with the border "reflect", get Gaussian noise, and are stored with 8 bits:
the 20 photographs of foolbox with a smaller side of 384 pixels, and 20 procedural scenes of
256 x 256. PSNR in dB of the blurred and of each restored image against the sharp one, all pixels
and colours; means over images with bootstrap intervals, the gain over the blurred images and the
least gain of an image. Prints the milliseconds of processor time an image, medians.
"""

import argparse
import time
from itertools import product
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from torch import Tensor

from blur_lightning.blur import Blur, BlurDistribution, blur_images, make_kernels
from blur_lightning.blur.deconvolve import Method, deconvolve
from blur_lightning.data import PhotosDataModule
from blur_lightning.data.procedural import scene
from blur_lightning.image_quality import peak_signal_to_noise
from blur_lightning.images import resize_smaller_side
from blur_lightning.records.robustness import bootstrap_interval, write_table

SIDE, SCENE = 384, 256
BLURS, NOISES = ("D4", "D8"), (0.0, 0.01)


def images(count: int) -> dict[str, list[Tensor]]:
    """So many sharp images (1, 3, h, w) of 8 bits, by kind."""
    photographs = PhotosDataModule().source("test")
    pixels = {
        "photographs": [resize_smaller_side(photographs.load(i), SIDE) for i in range(count)],
        "scenes": [scene(2, index, size=SCENE).frames[0] for index in range(count)],
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


def restored(blurred: Tensor, blur: Blur, noise: float) -> dict[str, tuple[Tensor, float]]:
    """One image by each method, and the seconds of processor time that it took."""
    found = {}
    for method in get_args(Method):
        start = time.process_time()
        image = deconvolve(blurred, make_kernels([blur]), method=method, noise=noise)
        found[method] = image, time.process_time() - start
    return found


def main() -> None:
    """Measure everything, and write a line for each kind, blur, noise and method."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/deconvolution.csv"))
    parser.add_argument("--count", type=int, default=20, help="images of each kind")
    options = parser.parse_args()
    torch.set_num_threads(1)
    heads = ("images", "blur", "noise", "method", "n", "psnr", "low", "high", "gain", "least_gain")
    lines: list[tuple[object, ...]] = []
    sharp_images = images(options.count)
    for (kind, found), name, noise in product(sharp_images.items(), BLURS, NOISES):
        after: dict[str, list[float]] = {"none": [], **{m: [] for m in get_args(Method)}}
        seconds: dict[str, list[float]] = {method: [] for method in get_args(Method)}
        for index, sharp in enumerate(found):
            blur = BlurDistribution.parse(name).draw(seed=0, index=index)
            blurred = noisy(blur_images(sharp, [blur]), noise, seed=index)
            after["none"].append(psnr(blurred, sharp))
            for method, (image, spent) in restored(blurred, blur, noise).items():
                after[method].append(psnr(image, sharp))
                seconds[method].append(spent)
        for method, values in after.items():
            gains = np.subtract(values, after["none"])
            figures = (np.mean(values), *bootstrap_interval(np.array(values)))
            texts = [f"{figure:.2f}" for figure in (*figures, gains.mean(), gains.min())]
            lines.append((kind, name, noise, method, len(values), *texts))
            spent = 1000 * float(np.median(seconds.get(method, [0.0])))
            print(*lines[-1], f"{spent:.0f} ms", flush=True)
    columns = zip(*lines, strict=True)
    write_table(options.out, [{head: np.array(c) for head, c in zip(heads, columns, strict=True)}])


if __name__ == "__main__":
    main()

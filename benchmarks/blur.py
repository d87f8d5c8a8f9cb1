"""What blurring costs on a CPU: this package beside others, in turns, in one process.

    python benchmarks/blur.py [--rounds 5] [--batch 32] [--out benchmarks/results/blur.json]

The work: a batch of uint8 images of 3x384x384, one kernel an image, to uint8 images; casts, border
(mirrored) and rounding count. Kernels are made beforehand, except this package's own, whose making
counts. One thread. kornia takes one tensor of kernels for a batch, so for the mixed batch they are
padded to the largest; "by kind" is a call for each size of kernel instead. A package that is not
installed is left out, and the end says so: pip install -e '.[bench]'.
"""

import ctypes
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from interleaved import (  # sets the threads' policy
    Contender,
    parse,
    ratios,
    seconds_an_image,
    spread,
    write_report,
)
from peers import imagecorruptions

# isort: split
import numpy as np
import torch

from blur_lightning.blur import BlurDistribution, blur_images, convolve, make_kernels
from blur_lightning.blur.families import Blur, half_width

SIDE = 384
# Images of a batch that a slow peer is timed on.
FEW = 4
# The work by its name: what each image is blurred with, in turn.
MIX = ("D2", "D4", "D6", "D8", "H4", "H8", "V4", "V8", *["shake"] * 4, "G4", "G8", "G4", "G8")
WORK = {name: (name,) for name in ("D2", "D4", "D6", "D8", "H8", "V8", "G1", "G2", "G4", "G8")}
WORK |= {"shake": ("shake",), "dense 17x17": ("dense",), "mixed": MIX}
# Least number of times that a peer must take as long.
TARGETS = {
    "kornia": {"D2": 7, "D4": 4, "D6": 5, "D8": 5, "H8": 15, "V8": 15, "shake": 2, "dense 17x17": 2}
    | {"G1": 4, "G2": 4, "G4": 4, "G8": 4, "mixed": 8},
    "OpenCV": {"D6": 5, "D8": 5, "shake": 2, "dense 17x17": 2, "G8": 1, "mixed": 1.3},
}
PEERS = ("kornia", "OpenCV", "torchvision", "SciPy", "albumentations", "imagecorruptions")
MEMORY_TARGET = 40  # MiB beyond the images of a batch of 32, their copy included


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print a table and write the figures as JSON."""
    options = parse(arguments, __doc__, out="blur.json", batch=32)
    torch.set_num_threads(1)
    pixels = np.random.default_rng(0).integers(0, 256, (options.batch, 3, SIDE, SIDE), np.uint8)
    images = torch.from_numpy(pixels)
    figures, memory = {}, {}
    for name, blurs in WORK.items():
        drawn = [blurs[i * len(blurs) // options.batch] for i in range(options.batch)]
        work = Work(images, drawn)
        seconds = seconds_an_image(work.contenders(), options.rounds)
        figures[name] = {
            peer: {
                "images_a_second": spread([1 / value for value in values]),
                "times_ours": spread(ratios(values, seconds["ours"])),
            }
            for peer, values in seconds.items()
        }
        memory[name] = peak_memory(work.ours)
        print(line(name, figures[name], memory[name]), flush=True)
    missed = missed_targets(figures, memory)
    write_report(
        options,
        figures=figures,
        peak_memory_mib=memory,
        targets=TARGETS,
        missed=missed,
    )
    absent = [peer for peer in PEERS if not any(peer in row for row in figures.values())]
    print(*missed, *(f"not measured: {peer} is not installed" for peer in absent), sep="\n")
    print("targets missed" if missed else "no target missed", f"-> {options.out}")
    return 0


class Work:
    """A batch with one blur for each image, and every way to blur it."""

    def __init__(self, images: torch.Tensor, names: Sequence[str]) -> None:
        self.images, self.names = images, names
        generator = torch.Generator().manual_seed(0)
        noise = torch.rand(len(names), 17, 17, generator=generator)
        self.noise = noise / noise.sum(dim=(1, 2), keepdim=True)
        self.blurs = [
            BlurDistribution.parse("sharp" if name == "dense" else name).draw(seed=0, index=index)
            for index, name in enumerate(names)
        ]
        self.kernels = [self._dense(index) for index in range(len(names))]
        self.arrays = [np.ascontiguousarray(image.permute(1, 2, 0).numpy()) for image in images]

    def contenders(self) -> dict[str, Contender]:
        """Every package that is installed and can do it."""
        everything = {
            "ours": (self.ours, len(self.names)),
            **self._kornia(),
            **self._opencv(),
            **self._torchvision(),
            **self._scipy(),
            **self._albumentations(),
            **self._imagecorruptions(),
        }
        return {name: Contender(*pair) for name, pair in everything.items()}

    def ours(self) -> torch.Tensor:
        """Blur the batch with this package."""
        if "dense" in self.names:
            return convolve(self.images, self.noise)
        return blur_images(self.images, self.blurs)

    def _dense(self, index: int) -> np.ndarray:
        """The whole kernel of one image, no larger than it must be."""
        if self.names[index] == "dense":
            return self.noise[index].numpy()
        (group,) = make_kernels([self.blurs[index]]).groups
        taps = group.factors[0][0]
        for factor in group.factors[1:]:
            taps = taps * factor[0]  # a column and a row
        return taps.numpy()

    @property
    def _sigma(self) -> float | None:
        sigmas = {blur.parameter for blur in self.blurs if blur.family == "gaussian"}
        return sigmas.pop() if len(sigmas) == 1 and len({*self.names}) == 1 else None

    def _kornia(self) -> dict[str, Any]:
        import kornia

        def to_eight_bits(values: torch.Tensor) -> torch.Tensor:
            return (values * 255).round_().to(torch.uint8)

        def filtered(images: torch.Tensor, kernels: torch.Tensor) -> torch.Tensor:
            return to_eight_bits(kornia.filters.filter2d(images.float() / 255, kernels))

        count = len(self.names)
        rows, columns = (max(taps.shape[axis] for taps in self.kernels) for axis in (0, 1))
        padded = torch.stack([_embed(taps, rows, columns) for taps in self.kernels])
        if self._sigma is not None:
            sigmas = torch.full((count, 2), self._sigma)

            def gaussian() -> torch.Tensor:
                images = self.images.float() / 255
                return to_eight_bits(kornia.filters.gaussian_blur2d(images, (rows, rows), sigmas))

            return {"kornia": (gaussian, count)}
        found = {"kornia": (lambda: filtered(self.images, padded), count)}
        kinds: dict[tuple[int, ...], list[int]] = {}
        for index, taps in enumerate(self.kernels):
            kinds.setdefault(taps.shape, []).append(index)
        if len(kinds) > 1:
            parts = [
                (indices, torch.from_numpy(np.stack([self.kernels[i] for i in indices])))
                for indices in kinds.values()
            ]
            found["kornia, by kind"] = (
                lambda: [filtered(self.images[indices], kernels) for indices, kernels in parts],
                count,
            )
        return found

    def _opencv(self) -> dict[str, Any]:
        try:
            import cv2
        except ImportError:
            return {}
        cv2.setNumThreads(1)

        def one(image: np.ndarray, taps: np.ndarray, blur: Blur) -> np.ndarray:
            if blur.family == "gaussian":
                side = 2 * half_width(blur.family, blur.parameter) + 1
                return cv2.GaussianBlur(image, (side, side), blur.parameter)
            return cv2.filter2D(image, -1, taps[::-1, ::-1])

        def every() -> list[np.ndarray]:
            return [one(*work) for work in zip(self.arrays, self.kernels, self.blurs, strict=True)]

        def separable() -> list[np.ndarray]:
            return [
                cv2.sepFilter2D(image, -1, taps.sum(axis=0), taps.sum(axis=1))
                for image, taps in zip(self.arrays, self.kernels, strict=True)
            ]

        found: dict[str, Any] = {"OpenCV": (every, len(self.names))}
        if self._sigma is not None:
            found["OpenCV, sepFilter2D"] = (separable, len(self.names))
        return found

    def _torchvision(self) -> dict[str, Any]:
        from torchvision.transforms.v2 import functional

        sigma, side = self._sigma, self.kernels[0].shape[0]
        if sigma is None:
            return {}
        few = self.images[:FEW]
        return {"torchvision": (lambda: functional.gaussian_blur(few, [side, side], [sigma]), FEW)}

    def _scipy(self) -> dict[str, Any]:
        import scipy.ndimage

        image = self.images[0].numpy()
        if len({*self.names}) > 1:
            return {}
        return {
            "SciPy": (
                lambda: [
                    scipy.ndimage.convolve(c, self.kernels[0], mode="mirror", output=np.float32)
                    .round()
                    .astype(np.uint8)
                    for c in image
                ],
                1,
            )
        }

    def _albumentations(self) -> dict[str, Any]:
        try:
            import albumentations
        except ImportError:
            return {}
        blur, same = self.blurs[0], len({*self.names}) == 1
        if not same or blur.family not in ("disk", "gaussian"):
            return {}
        if blur.family == "disk":
            radius = int(blur.parameter)
            transform = albumentations.Defocus((radius, radius), (0.01, 0.01), p=1)
        else:
            side = self.kernels[0].shape[0]
            transform = albumentations.GaussianBlur((side, side), (blur.parameter,) * 2, p=1)
        return self._each(lambda image: transform(image=image), "albumentations")

    def _imagecorruptions(self) -> dict[str, Any]:
        package = imagecorruptions()
        severity = {"D4": 2, "D6": 3, "D8": 4, "G1": 1, "G2": 2, "G4": 4}.get(self.names[0])
        if package is None or severity is None or len({*self.names}) > 1:
            return {}
        function = package.gaussian_blur if self._sigma else package.defocus_blur

        def corrupt(image: np.ndarray) -> np.ndarray:
            return function(image, severity).astype(np.uint8)

        return self._each(corrupt, "imagecorruptions")

    def _each(self, function: Callable[[np.ndarray], object], name: str) -> dict[str, Any]:
        return {name: (lambda: [function(image) for image in self.arrays[:FEW]], FEW)}


def _embed(taps: np.ndarray, rows: int, columns: int) -> torch.Tensor:
    square = torch.zeros(rows, columns)
    top, left = (rows - taps.shape[0]) // 2, (columns - taps.shape[1]) // 2
    square[top : top + taps.shape[0], left : left + taps.shape[1]] = torch.from_numpy(taps)
    return square


def peak_memory(call: Callable[[], object]) -> float | None:
    """MiB that a call needs at its highest, what it returns included; None where unknown."""
    status, clear = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def read(key: str) -> int:
        return int(status.read_text().split(f"{key}:")[1].split()[0])

    try:
        # Memory that was freed and kept would hide what is needed.
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        clear.write_text("5")  # the highest so far becomes what is used now
    except (OSError, AttributeError):
        return None
    before = read("VmRSS")
    call()
    return (read("VmHWM") - before) / 1024


def line(name: str, figures: dict[str, Any], memory: float | None) -> str:
    """One line of the table: images a second, and how many times as long each peer takes."""
    ours = figures["ours"]["images_a_second"]["median"]
    peers = (
        f"{peer} {row['times_ours']['median']:.1f}x"
        f" ({row['times_ours']['least']:.1f}-{row['times_ours']['most']:.1f})"
        for peer, row in figures.items()
        if peer != "ours"
    )
    extra = "" if memory is None else f"  {memory:.0f} MiB"
    return f"{name:12} {ours:6.0f}/s{extra}  " + "  ".join(peers)


def missed_targets(figures: dict[str, Any], memory: dict[str, float | None]) -> list[str]:
    """Say which targets were not reached by peers that were there."""
    missed = [
        f"missed: {work}: {found['median']:.2f} times {peer}, at least {least} wanted"
        for peer, wanted in TARGETS.items()
        for work, least in wanted.items()
        if peer in figures[work] and (found := figures[work][peer]["times_ours"])["median"] < least
    ]
    return missed + [
        f"missed: {work}: {peak:.0f} MiB, less than {MEMORY_TARGET} wanted"
        for work, peak in memory.items()
        if peak is not None and peak >= MEMORY_TARGET
    ]


if __name__ == "__main__":
    sys.exit(main())

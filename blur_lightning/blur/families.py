"""Families of blurs: one table of how each is written, how far it reaches and how it is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from blur_lightning.blur.convolution import KernelGroup, Kernels
from blur_lightning.blur.kernels import (
    Rim,
    bank_hash,
    box_half_width,
    box_kernel,
    disk_half_width,
    disk_kernel,
    gaussian_half_width,
    gaussian_taps,
    shake_bank,
)

# (kernels, seed) of the two banks: the paper's 100 to test with, a separate 10,000 to train with.
SHAKE_BANKS = {"test": (100, 0), "training": (10_000, 1)}


@dataclass(frozen=True)
class Blur:
    """One blur with every parameter fixed: what happens to one image.

    Attributes:
        family: Name of its family, as in the records.
        parameter: Radius, length or sigma in pixels; for shake the kernel's place in its bank.
        angle: Direction of a line in degrees, for motion only.
        bank: Which bank of `SHAKE_BANKS` a shake kernel is from.
    """

    family: str
    parameter: float = 0.0
    angle: float = 0.0
    bank: str = ""


@dataclass(frozen=True)
class Family:
    """How blurs of one shape are written and made.

    Attributes:
        name: The word in records and reports.
        symbol: The letter in the grammar.
        parameter: What the number behind the letter is.
        half_width: Parameter -> pixels that the kernel reaches to each side.
        factors: (parameters, angles, half width, rim) -> kernels, as `KernelGroup.factors`.
    """

    name: str
    symbol: str
    parameter: str
    half_width: Callable[[float], int]
    factors: Callable[[Tensor, Tensor, int, Rim], tuple[Tensor, ...]]


def _disk(radius: Tensor, angle: Tensor, half_width: int, rim: Rim) -> tuple[Tensor, ...]:
    return (disk_kernel(radius, half_width=half_width, rim=rim),)


def _horizontal(length: Tensor, angle: Tensor, half_width: int, rim: Rim) -> tuple[Tensor, ...]:
    taps = box_kernel(length, half_width=half_width, rim=rim)
    return (taps[:, half_width : half_width + 1],)


def _vertical(length: Tensor, angle: Tensor, half_width: int, rim: Rim) -> tuple[Tensor, ...]:
    (taps,) = _horizontal(length, angle, half_width, rim)
    return (taps.mT,)


def _motion(length: Tensor, angle: Tensor, half_width: int, rim: Rim) -> tuple[Tensor, ...]:
    return (box_kernel(length, angle, half_width=half_width, rim=rim),)


def _gaussian(sigma: Tensor, angle: Tensor, half_width: int, rim: Rim) -> tuple[Tensor, ...]:
    taps = gaussian_taps(sigma, half_width=half_width)
    return (taps[:, :, None], taps[:, None, :])


FAMILIES = {
    family.symbol: family
    for family in (
        Family("disk", "D", "radius", disk_half_width, _disk),
        Family("horizontal", "H", "length", box_half_width, _horizontal),
        Family("vertical", "V", "length", box_half_width, _vertical),
        Family("motion", "M", "length", box_half_width, _motion),
        Family("gaussian", "G", "sigma", gaussian_half_width, _gaussian),
    )
}
_BY_NAME = {family.name: family for family in FAMILIES.values()}
_SHAKE_HALF_WIDTH = 8


def half_width(family: str, parameter: float) -> int:
    """Pixels that a kernel of a family, by its name, reaches to each side."""
    if family in _BY_NAME:
        return _BY_NAME[family].half_width(parameter)
    return _SHAKE_HALF_WIDTH if family == "shake" else 0


def symbol(family: str) -> str | None:
    """The letter of a family in the grammar; None for sharp and shake, which are words."""
    return _BY_NAME[family].symbol if family in _BY_NAME else None


def shake_hash(bank: str) -> str:
    """SHA-256 of one of `SHAKE_BANKS`."""
    return bank_hash(_bank(bank))


def make_kernels(
    blurs: Sequence[Blur], *, rim: Rim = "hard", device: torch.device | None = None
) -> Kernels:
    """Turn the blurs drawn for a batch into kernels for `convolve`.

    Args:
        blurs: One for each image.
        rim: How shapes become pixels; see `kernels`.
        device: Where the images are.
    """
    alike: dict[tuple[str, int], list[int]] = {}
    for index, blur in enumerate(blurs):
        if blur.family != "sharp":
            reach = half_width(blur.family, blur.parameter)
            alike.setdefault((blur.family, reach), []).append(index)
    groups = tuple(
        KernelGroup(
            torch.tensor(indices, device=device),
            tuple(
                factor.to(device)
                for factor in _factors(family, [blurs[i] for i in indices], reach, rim)
            ),
        )
        for (family, reach), indices in alike.items()
    )
    return Kernels(len(blurs), groups)


def _factors(family: str, blurs: list[Blur], reach: int, rim: Rim) -> tuple[Tensor, ...]:
    if family == "shake":
        return (torch.stack([_bank(blur.bank)[int(blur.parameter)] for blur in blurs]),)
    # float32 whatever the default type is: half precision cannot tell 8-bit values apart.
    parameters = torch.tensor([blur.parameter for blur in blurs], dtype=torch.float32)
    angles = torch.tensor([blur.angle for blur in blurs], dtype=torch.float32)
    return _BY_NAME[family].factors(parameters, angles, reach, rim)


def _bank(name: str) -> Tensor:
    count, seed = SHAKE_BANKS[name]
    return shake_bank(count, seed=seed)

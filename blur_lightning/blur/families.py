"""Families of blurs: one table of how each is written, how far it reaches and how it is made."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from math import inf, isfinite

import numpy as np
import torch
from torch import Tensor

from blur_lightning.blur import imagenet_c
from blur_lightning.blur.aberrations import ABERRATIONS, aberration_half_width, aberration_kernel
from blur_lightning.blur.convolution import KernelGroup, Kernels
from blur_lightning.blur.kernels import (
    Rim,
    box_half_width,
    box_kernel,
    check_rim,
    disk_half_width,
    disk_kernel,
    gaussian_half_width,
    gaussian_taps,
)
from blur_lightning.blur.shake import SHAKE_HALF_WIDTH, bank_settings, named_bank
from blur_lightning.errors import InputError


@dataclass(frozen=True)
class Blur:
    """One blur with every parameter fixed: what happens to one image.

    Attributes:
        family: Name of its family, as in the records.
        parameter: Radius, length or sigma in pixels, waves, or severity; see `FAMILIES`. For shake
            the kernel's place in its bank.
        angle: Direction in degrees, counter-clockwise from horizontal, where there is one.
        bank: Which bank a shake kernel is from, by its name; see `shake.bank_settings`.
        key: What glass blur draws its shuffle from, and a share its squares.
        share: Percent of the image that is blurred: squares of 32 pixels; see `random_regions`.
    """

    family: str
    parameter: float = 0.0
    angle: float = 0.0
    bank: str = ""
    key: int = 0
    share: float = 100.0

    def __str__(self) -> str:
        """In the grammar, with all digits."""
        family, text = _BY_NAME.get(self.family), self.family
        if family is not None:
            text = family.symbol + number_text(self.parameter)
            text += "" if family.angles is None else f"@{number_text(self.angle)}"
        return text if self.share == 100 else f"{text}%{number_text(self.share)}"


def number_text(number: float) -> str:
    """Write a number so that it can be read again: 4, 0.25, never 1e-05."""
    return np.format_float_positional(number, trim="-")


Factors = Callable[[Tensor, Tensor, int, Rim], tuple[Tensor, ...]]


@dataclass(frozen=True)
class Family:
    """How blurs of one shape are written and made.

    Attributes:
        name: The word in records and reports.
        symbol: What stands before the number in the grammar.
        parameter: What the number is.
        half_width: Parameter -> pixels that the blur reaches to each side.
        factors: (parameters, angles, half width, rim) -> kernels, as `KernelGroup.factors`; None
            where the blur is no convolution.
        bounds: Least and largest parameter.
        whole: Whether the parameter is a whole number.
        angles: Range of degrees that a direction is drawn from unless one is written; None where
            the shape has none.
        angle_needed: Whether a direction must be written.
    """

    name: str
    symbol: str
    parameter: str
    half_width: Callable[[float], int]
    factors: Factors | None
    bounds: tuple[float, float] = (0.0, inf)
    whole: bool = False
    angles: tuple[float, float] | None = None
    angle_needed: bool = False

    @property
    def range_text(self) -> str:
        """Which parameters there are, in words."""
        low, high = self.bounds
        text = f"of {low:g} or more" if high == inf else f"of {low:g} to {high:g}"
        return text + " as a whole number" if self.whole else text


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


def _airy(radius: Tensor, angle: Tensor, half_width: int, rim: Rim) -> tuple[Tensor, ...]:
    # One at a time: the finest pattern of a batch decides how finely all are sampled.
    kernels = [aberration_kernel({}, airy_radius=r[None], half_width=half_width) for r in radius]
    return (torch.cat(kernels),)


def _aberration_half_width(name: str, waves: float) -> int:
    return aberration_half_width({name: waves})


def _aberration(
    waves: Tensor, angle: Tensor, half_width: int, rim: Rim, *, name: str
) -> tuple[Tensor, ...]:
    return (aberration_kernel({name: waves}, angle, half_width=half_width),)


def _imagenet_c(
    name: str, severity: Tensor, angle: Tensor, half_width: int, rim: Rim
) -> tuple[Tensor, ...]:
    return imagenet_c.kernels(name, severity, angle, half_width)


def _of_imagenet_c() -> list[Family]:
    names = ("defocus_blur", "motion_blur", "zoom_blur", "glass_blur", "gaussian_blur")
    return [
        Family(
            name + ending,
            f"{name}{ending}-",
            "severity",
            partial(imagenet_c.half_width, name + ending),
            None if ending or name in ("zoom_blur", "glass_blur") else partial(_imagenet_c, name),
            bounds=(1.0, 5.0),
            whole=True,
            angles=imagenet_c.MOTION_ANGLES if name == "motion_blur" else None,
        )
        for ending in ("", "_legacy")
        for name in names
    ]


_SHAPES = [
    Family("disk", "D", "radius", disk_half_width, _disk),
    Family("horizontal", "H", "length", box_half_width, _horizontal),
    Family("vertical", "V", "length", box_half_width, _vertical),
    Family("motion", "M", "length", box_half_width, _motion, angles=(0.0, 0.0), angle_needed=True),
    Family("gaussian", "G", "sigma", gaussian_half_width, _gaussian),
    # A lens: the parameter is the Airy radius, and that is 1 pixel for the aberrations.
    Family("airy", "airy", "radius", partial(aberration_half_width, {}), _airy, bounds=(0.1, 10.0)),
    *(
        Family(
            name,
            name,
            "waves",
            partial(_aberration_half_width, name),
            partial(_aberration, name=name),
            bounds=(0.0, 2.0),  # so that a slip makes no kernel of thousands of pixels
            angles=None if frequency == 0 else (0.0, 0.0),
        )
        for name, (_, frequency) in ABERRATIONS.items()
    ),
]
FAMILIES = {family.symbol: family for family in (*_SHAPES, *_of_imagenet_c())}
_BY_NAME = {family.name: family for family in FAMILIES.values()}


def family_of(name: str) -> Family | None:
    """Look up a family by its name in records; None for sharp and shake, which are words alone."""
    return _BY_NAME.get(name)


def half_width(family: str, parameter: float) -> int:
    """Pixels that a kernel of a family, by its name, reaches to each side."""
    if family in _BY_NAME:
        return _BY_NAME[family].half_width(parameter)
    return SHAKE_HALF_WIDTH if family == "shake" else 0


def check_blurs(blurs: Collection[Blur]) -> None:
    """Refuse blurs that no draw could have given: InputError."""
    if not isinstance(blurs, Collection):
        raise InputError(f"blurs: {type(blurs).__name__} is no list; give one Blur for each image")
    for blur in blurs:
        if not isinstance(blur, Blur):
            raise InputError(
                f"blurs: {blur!r} is no Blur; BlurDistribution.parse(...).draw(...) is"
            )
        if blur.family == "shake":
            try:
                count, _ = bank_settings(blur.bank)
            except (ValueError, KeyError):
                count = 0
            if blur.parameter not in range(count):
                known = "test (100), training (10000), training-100000 (100000)"
                raise InputError(f"{blur!r}: no kernel of that number in a bank; banks: {known}")
        elif blur.family != "sharp":
            family = _BY_NAME.get(blur.family)
            if family is None:
                known = ", ".join(["sharp", "shake", *_BY_NAME])
                raise InputError(f"{blur!r}: no such family; known: {known}")
            low, high = family.bounds
            fits = low <= blur.parameter <= high and isfinite(blur.parameter)
            if not fits or (family.whole and blur.parameter % 1) or not isfinite(blur.angle):
                raise InputError(f"{blur!r}: needs a {family.parameter} {family.range_text}")
        if not 0 <= blur.share <= 100:
            raise InputError(f"{blur!r}: needs a share of 0 to 100 percent")


def is_convolution(family: str) -> bool:
    """Whether a family, by its name, has kernels."""
    return family not in _BY_NAME or _BY_NAME[family].factors is not None


@lru_cache(maxsize=128)
def kernel_hash(blur: Blur, *, rim: Rim = "hard") -> str:
    """SHA-256 of a kernel's taps, channel by channel and row by row, as little-endian float32.

    Sharp is a single 1; what is no convolution has no kernel: "".
    """
    if not is_convolution(blur.family):
        return ""
    taps = torch.ones(1, 1)
    for group in make_kernels([blur], rim=rim).groups:
        factors = [factor[0] for factor in group.factors]
        taps = factors[0] * factors[1] if len(factors) == 2 else factors[0]
    return hashlib.sha256(taps.numpy().astype("<f4").tobytes()).hexdigest()


def make_kernels(
    blurs: Sequence[Blur], *, rim: Rim = "hard", device: torch.device | None = None
) -> Kernels:
    """Turn the blurs drawn for a batch into kernels for `convolve`.

    Args:
        blurs: One for each image.
        rim: How shapes become pixels; see `kernels`.
        device: Where the images are.

    Raises:
        InputError: A blur is none that can be drawn, or is no convolution: `blur_images` takes
            those too.
    """
    check_blurs(blurs)
    check_rim(rim)
    alike: dict[tuple[str, int], list[int]] = {}
    for index, blur in enumerate(blurs):
        if not is_convolution(blur.family):
            raise InputError(f"{blur}: is no convolution and has no kernel; use blur_images")
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
        return (torch.stack([named_bank(blur.bank)[int(blur.parameter)] for blur in blurs]),)
    # float32 whatever the default type is: half precision cannot tell 8-bit values apart.
    parameters = torch.tensor([blur.parameter for blur in blurs], dtype=torch.float32)
    angles = torch.tensor([blur.angle for blur in blurs], dtype=torch.float32)
    make = _BY_NAME[family].factors
    assert make  # is_convolution
    return make(parameters, angles, reach, rim)

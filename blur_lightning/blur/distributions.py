"""What YAML and the command line name: blurs, and distributions to draw one from for each image.

The grammar, the same in code, configs, records and reports:

    sharp                    no blur
    D4                       disk of radius 4
    H8, V8, M8@30            box of length 8: horizontal, vertical, at 30 degrees counter-clockwise
    G4                       Gaussian of sigma 4
    shake                    a camera-shake kernel drawn from a bank
    airy2                    a perfect lens whose Airy pattern has radius 2
    coma0.2@30               a lens with 0.2 waves RMS of coma that points to 30 degrees; likewise
                             defocus0.2, astigmatism0.2@30, trefoil0.2@30, spherical0.2
    motion_blur-3            ImageNet-C's blur of severity 3; likewise defocus_blur-3, zoom_blur-3,
                             glass_blur-3, gaussian_blur-3, and motion_blur_legacy-3 and so on:
                             with the faults of the reference, to compare with published numbers
    D2..8, M4..8@0..180      each parameter drawn uniformly from its range
    D8%50, shake%10..90      squares of 32 pixels are blurred, that percentage of them
    sharp+D2+D4              an equal mix: each image gets one of them
    0.2*sharp+0.8*shake      a weighted mix

Lengths are pixels at the canonical scale. A draw is a function of its key alone, (seed, epoch,
index) in training and (seed, condition, index) in tests: batch size, workers and number of
processes do not change it.
"""

import re
import zlib
from dataclasses import dataclass, field, replace
from math import inf

import numpy as np

from blur_lightning.blur.families import (
    FAMILIES,
    Blur,
    family_of,
    half_width,
    number_text,
)
from blur_lightning.blur.shake import SHAKE_BANKS, bank_hash, named_bank
from blur_lightning.errors import InputError


@dataclass(frozen=True)
class Component:
    """One part of a mix: a family with a range for each parameter."""

    family: str
    low: float = 0.0
    high: float = 0.0
    angles: tuple[float, float] = (0.0, 0.0)
    shares: tuple[float, float] = (100.0, 100.0)

    def __str__(self) -> str:
        family, text = family_of(self.family), self.family
        if family is not None:
            text = family.symbol + _range_text(self.low, self.high)
            if family.angles is not None and (family.angle_needed or self.angles != family.angles):
                text += f"@{_range_text(*self.angles)}"
        return text + self.share_text

    @property
    def share_text(self) -> str:
        """How much of an image is blurred, in the grammar; "" is all of it."""
        return "" if self.shares == (100.0, 100.0) else f"%{_range_text(*self.shares)}"

    @property
    def half_width(self) -> int:
        """Pixels that its widest kernel reaches to each side."""
        return half_width(self.family, self.high)

    def draw(self, generator: np.random.Generator, bank: str) -> Blur:
        """Draw every parameter from its range, a shake kernel from its bank."""
        blur = self._draw_shape(generator, bank)
        if self.shares == (100.0, 100.0):
            return blur
        share, key = float(generator.uniform(*self.shares)), int(generator.integers(2**63))
        return replace(blur, share=share, key=key)

    def _draw_shape(self, generator: np.random.Generator, bank: str) -> Blur:
        if self.family == "shake":
            return Blur("shake", float(generator.integers(SHAKE_BANKS[bank][0])), bank=bank)
        key = int(generator.integers(2**63)) if self.family.startswith("glass") else 0
        family = family_of(self.family)
        if self.low == self.high and self.angles[0] == self.angles[1]:
            return Blur(self.family, self.low, self.angles[0], key=key)
        parameter, angle = generator.uniform(
            (self.low, self.angles[0]), (self.high, self.angles[1])
        )
        if family and family.whole:
            parameter = generator.integers(int(self.low), int(self.high), endpoint=True)
        return Blur(self.family, float(parameter), float(angle), key=key)


@dataclass(frozen=True)
class BlurDistribution:
    """A mix of blurs, drawn from once for each image; also a test condition.

    Attributes:
        name: Its text in the grammar, numbers in their shortest form; also what it prints as.
        components: Its parts.
        weights: Their probabilities, of sum 1.
    """

    name: str
    components: tuple[Component, ...] = field(repr=False)
    weights: tuple[float, ...] = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> "BlurDistribution":
        """Read the grammar of the module; InputError names the part that does not fit."""
        parts = [_parse_part(part.strip(), text) for part in text.split("+")]
        weights = [1.0 if weight is None else weight for weight, _ in parts]
        if not 0 < sum(weights) < inf:
            raise InputError(f"blur '{text}': the weights sum to {sum(weights):g}; give others")
        name = "+".join(
            str(component) if weight is None else f"{number_text(weight)}*{component}"
            for weight, component in parts
        )
        components = tuple(component for _, component in parts)
        return cls(name, components, tuple(weight / sum(weights) for weight in weights))

    def __str__(self) -> str:
        return self.name

    @property
    def half_width(self) -> int:
        """Pixels that the widest kernel which can be drawn reaches to each side."""
        return max(component.half_width for component in self.components)

    @property
    def family(self) -> str:
        """The one family with its share, or "mix"."""
        first = self.components[0]
        return first.family + first.share_text if len(self.components) == 1 else "mix"

    @property
    def parameter(self) -> float | None:
        """The parameter if it is one number for all images; sharp is 0 of every family."""
        part = self.components[0]
        fixed = len(self.components) == 1 and part.low == part.high and part.family != "shake"
        return part.low if fixed else None

    def draw(self, *, seed: int, index: int, epoch: int | None = None) -> Blur:
        """Draw the blur of one image.

        Args:
            seed: The run's seed.
            index: The image's place in its data set.
            epoch: The epoch in training; None draws for a test, keyed by this mix's name.
        """
        bank = "test" if epoch is None else "training"
        key = (0, zlib.crc32(self.name.encode())) if epoch is None else (1, epoch)
        generator = np.random.default_rng([seed, *key, index])
        chosen = generator.choice(len(self.components), p=self.weights)
        return self.components[chosen].draw(generator, bank)

    def bank_hashes(self, bank: str) -> dict[str, str]:
        """SHA-256 of the bank of `SHAKE_BANKS` that draws come from, by name; {} without shake."""
        if all(component.family != "shake" for component in self.components):
            return {}
        return {f"shake-{bank}": bank_hash(named_bank(bank))}


_NUMBER = r"(\d+(?:\.\d+)?)"
_RANGE = rf"{_NUMBER}(?:\.\.{_NUMBER})?"
_ANGLES = _RANGE.replace(r"(\d", r"(-?\d")
_PART = re.compile(
    rf"(?:(?P<weight>-?\d+(?:\.\d+)?)\*)?"
    rf"(?:(?P<word>sharp|shake)|(?P<symbol>[A-Za-z_]+-?){_RANGE}(?:@{_ANGLES})?)(?:%{_RANGE})?"
)


def _range_text(low: float, high: float) -> str:
    return number_text(low) if low == high else f"{number_text(low)}..{number_text(high)}"


def _parse_part(part: str, text: str) -> tuple[float | None, Component]:
    match = _PART.fullmatch(part)
    weight = float(match["weight"]) if match and match["weight"] else None
    if weight is not None and weight < 0:
        raise InputError(f"blur '{text}': the weight of '{part}' is negative; use 0 or more")
    shares = (100.0, 100.0)
    if match and match[8]:
        shares = (float(match[8]), float(match[9] or match[8]))
        if max(shares) > 100 or match["word"] == "sharp":
            raise InputError(f"blur '{text}': '{part}' needs a share of 0 to 100, e.g. D8%50")
        if shares[1] < shares[0]:
            raise InputError(
                f"blur '{text}': '{part}' runs from high to low; write the low end first"
            )
    if match and match["word"]:
        return weight, Component(match["word"], shares=shares)
    family = FAMILIES.get(match["symbol"]) if match else None
    if not match or not family:
        raise InputError(f"blur '{text}': {_advice(part)}")
    low = float(match[4])
    high = float(match[5] or low)
    angles = family.angles or (0.0, 0.0)
    if match[6]:
        angles = (float(match[6]), float(match[7] or match[6]))
    fits = family.bounds[0] <= min(low, high) and max(low, high) <= family.bounds[1]
    fits &= not family.whole or (low.is_integer() and high.is_integer())
    fits &= family.angles is not None if match[6] else not family.angle_needed
    if not fits:
        raise InputError(f"blur '{text}': {_advice(part)}")
    if high < low or angles[1] < angles[0]:
        raise InputError(f"blur '{text}': '{part}' runs from high to low; write the low end first")
    return weight, Component(family.name, low, high, angles, shares)


def _advice(part: str) -> str:
    fitting = [f for f in FAMILIES.values() if part.startswith(f.symbol.rstrip("-"))]
    if not fitting:
        known = ", ".join(
            f"{f.symbol}<{f.parameter}>" for f in FAMILIES.values() if "legacy" not in f.symbol
        )
        return f"'{part}' is no blur; use sharp, shake, {known}, or a mix like sharp+D2+D4"
    family = max(fitting, key=lambda f: len(f.symbol))
    least = family.range_text
    unit = "" if family.parameter in ("severity", "waves") else " pixels"
    noun = "number of waves" if family.parameter == "waves" else family.parameter
    example = f"{family.symbol}{3 if family.whole else 0.2 if noun != family.parameter else 4}"
    if family.angle_needed:
        return f"'{part}' needs a {noun} {least}{unit}, then @ and degrees, e.g. {example}@30"
    if "@" in part and family.angles is None:
        return f"'{part}' has a {noun} and no direction; leave out the @, e.g. {example}"
    return f"'{part}' needs a {noun} {least}{unit}, e.g. {example}"

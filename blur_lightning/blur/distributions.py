"""What YAML and the command line name: blurs, and distributions to draw one from for each image.

The grammar, the same in code, configs, records and reports:

    sharp                    no blur
    D4                       disk of radius 4
    H8, V8, M8@30            box of length 8: horizontal, vertical, at 30 degrees counter-clockwise
    G4                       Gaussian of sigma 4
    shake                    a camera-shake kernel drawn from a bank
    shake100000              from a bank of so many, which begins like the usual one
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
from contextlib import suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from math import inf, isfinite

import numpy as np

from blur_lightning.blur.families import FAMILIES, Blur, Family, family_of, half_width, number_text
from blur_lightning.blur.shake import bank_hashes, bank_name, bank_settings, read_bank_size
from blur_lightning.errors import InputError


@dataclass(frozen=True)
class Component:
    """One part of a mix: a family with a range for each parameter; of shake the bank's size."""

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
        elif self.high:
            text += number_text(self.high)
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
            name = bank_name(bank, self.high)
            return Blur("shake", float(generator.integers(bank_settings(name)[0])), bank=name)
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
        if not isinstance(text, str):
            raise InputError(f"blur: {text!r} is no text; give a blur such as 'D4'")
        try:
            parts = [_parse_part(part.strip()) for part in text.split("+")]
        except InputError as error:
            raise InputError(f"blur '{text}': {error}") from None
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

    def draw(self, *, seed: int, index: int, epoch: int | None = None, number: int = 0) -> Blur:
        """Draw the blur of one image.

        Args:
            seed: The run's seed.
            index: The image's place in its data set.
            epoch: The epoch in training; None draws for a test, keyed by this mix's name.
            number: Which of several draws for the same image, from 0.
        """
        bank = "test" if epoch is None else "training"
        key = (0, zlib.crc32(self.name.encode())) if epoch is None else (1, epoch)
        # Not the number 0: the first draw is that of a key without one.
        generator = np.random.default_rng([seed, *key, index, *([number] if number else [])])
        chosen = generator.choice(len(self.components), p=self.weights)
        return self.components[chosen].draw(generator, bank)

    def bank_hashes(self, bank: str) -> dict[str, str]:
        """SHA-256 of the banks that draws come from, by name, as `shake.bank_hashes`."""
        return bank_hashes(bank, {c.high for c in self.components if c.family == "shake"})


_NUMBER = r"\d+(?:\.\d+)?"
_RANGE, _ANGLES = (re.compile(rf"({n})(?:\.\.({n}))?") for n in (_NUMBER, f"-?{_NUMBER}"))
# Cuts every text into pieces, so that the one that is wrong can be named.
_PART = re.compile(
    r"(?:(?P<weight>.*)\*)?(?P<word>[A-Za-z_]*)(?P<number>[^@%]*)"
    r"(?:@(?P<angles>[^%]*))?(?:%(?P<shares>.*))?",
    re.DOTALL,
)
_BY_WORD = {family.symbol.rstrip("-"): family for family in FAMILIES.values()}
_WORDS = ("sharp", "shake")
_KNOWN = (
    "sharp, shake, D4, H8, V8, M8@30, G4, airy2, defocus0.2, spherical0.2, coma0.2@30, "
    "astigmatism0.2@30, trefoil0.2@30, motion_blur-3 or motion_blur_legacy-3 (also defocus, zoom, "
    "glass, gaussian), ranges D2..8, shares D8%50, mixes 0.2*sharp+D4"
)
# How alike a word and what is meant must be: "glass" finds glass_blur, "blur" finds nothing.
_ALIKE = 0.65


def _range_text(low: float, high: float) -> str:
    return number_text(low) if low == high else f"{number_text(low)}..{number_text(high)}"


def _parse_part(part: str) -> tuple[float | None, Component]:
    match = _PART.fullmatch(part)
    assert match  # any text
    word, family = match["word"], _BY_WORD.get(match["word"])
    if family is None and word not in _WORDS:
        raise InputError(f"'{part}' is no blur; {_suggestion(match)}")
    weight = _weight(match)
    shape = (0.0, 0.0), (0.0, 0.0)
    if family:
        shape = _parameters(match, family), _angles(match, family)
    elif word == "shake" and match["number"] and match["angles"] is None:
        shape = (read_bank_size(part, match["number"]),) * 2, (0.0, 0.0)
    elif match["number"] or match["angles"] is not None:
        raise InputError(f"'{part}' has a number or a direction; write {word} alone")
    shares = _shares(match)
    if any(low > high for low, high in (*shape, shares)):
        raise InputError(f"'{part}' runs from high to low; write the low end first")
    (low, high), angles = shape
    return weight, Component(family.name if family else word, low, high, angles, shares)


def _range(text: str, pattern: re.Pattern[str] = _RANGE) -> tuple[float, float] | None:
    """Read a range, or a number as both its ends; None for anything else."""
    match = pattern.fullmatch(text)
    ends = (float(match[1]), float(match[2] or match[1])) if match else (inf, inf)
    return ends if all(map(isfinite, ends)) else None


def _weight(match: re.Match[str]) -> float | None:
    if match["weight"] is None:
        return None
    if not re.fullmatch(f"-?{_NUMBER}", match["weight"]):
        raise InputError(
            f"'{match.string}' needs a weight in plain digits before the *, e.g. 0.2*sharp"
        )
    weight = float(match["weight"])
    if weight < 0:
        raise InputError(f"the weight of '{match.string}' is negative; use 0 or more")
    return weight


def _parameters(match: re.Match[str], family: Family) -> tuple[float, float]:
    text = match["word"] + match["number"]
    ends = _range(text.removeprefix(family.symbol)) if text.startswith(family.symbol) else None
    low, high = family.bounds
    fits = ends is not None and low <= min(ends) and max(ends) <= high
    if ends is None or not fits or (family.whole and not all(end.is_integer() for end in ends)):
        noun = "number of waves" if family.parameter == "waves" else family.parameter
        unit = "" if family.parameter in ("severity", "waves") else " pixels"
        digits = "" if ends else ", in plain digits without exponent"
        need = f"{noun} {family.range_text}{unit}{digits}"
        raise InputError(f"'{match.string}' needs a {need}, e.g. {_example(family)}")
    return ends


def _angles(match: re.Match[str], family: Family) -> tuple[float, float]:
    text = match["angles"]
    if text is None and not family.angle_needed:
        return family.angles or (0.0, 0.0)
    if family.angles is None:
        raise InputError(
            f"'{match.string}' has a {family.parameter} and no direction; leave out the @, "
            f"e.g. {_example(family)}"
        )
    angles = None if text is None else _range(text, _ANGLES)
    if angles is None:
        example = _example(family).removesuffix("@30")
        raise InputError(
            f"'{match.string}' needs degrees in plain digits after an @, e.g. {example}@30"
        )
    return angles


def _shares(match: re.Match[str]) -> tuple[float, float]:
    if match["shares"] is None:
        return 100.0, 100.0
    if match["word"] == "sharp":
        raise InputError(f"'{match.string}' is a share of nothing; write sharp alone")
    shares = _range(match["shares"])
    if shares is None or max(shares) > 100:
        raise InputError(
            f"'{match.string}' needs a share of 0 to 100 percent after the %, e.g. D8%50"
        )
    return shares


def _example(family: Family) -> str:
    number = {"severity": 3, "waves": 0.2}.get(family.parameter, 4)
    return f"{family.symbol}{number}" + ("@30" if family.angle_needed else "")


def _suggestion(match: re.Match[str]) -> str:
    """What to write for a word that is none: what it looks like if that is a blur, or all kinds."""
    symbols = {family.name.lower(): family.symbol for family in FAMILIES.values()}
    symbols |= {word.lower(): family.symbol for word, family in _BY_WORD.items()}
    symbols |= {word: word for word in _WORDS}
    for name in get_close_matches(match["word"].lower(), symbols, cutoff=_ALIKE):
        symbol, number = symbols[name], match["number"]
        number = number.removeprefix("-") if symbol.endswith("-") else number
        before, after = match.string[: match.start("word")], match.string[match.end("number") :]
        with suppress(InputError):
            return f"did you mean {BlurDistribution.parse(before + symbol + number + after)}?"
    return f"use {_KNOWN}"

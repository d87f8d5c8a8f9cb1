"""What `predict` found in photographs, and the mix of blurs that it suggests to train on."""

import csv
from collections.abc import Sequence
from math import nan, sqrt
from pathlib import Path
from typing import NamedTuple

import numpy as np

from blur_lightning.errors import InputError
from blur_lightning.records.robustness import wilson_interval
from blur_lightning.records.rounding import rounded

PREDICTIONS = "predictions.csv"
KINDS = {"sharp": "sharp", "D": "out of focus", "M": "moved", "": "cannot be told"}
FEW = 30  # photographs below which a share is known to no better than 35 points
# Chosen by us: what a mix holds of sharp images at least, a fifth as in Table 3 of Vasiljevic et
# al. 2016; and what a kind of blur needs to be in it.
_LEAST_SHARP, _LEAST_SHARE, _LEAST_COUNT = 0.2, 0.05, 3
_STEP = 0.05  # of weights


class Photograph(NamedTuple):
    """One photograph of a prediction; NaN and "" stand for what is unknown.

    Attributes:
        file: Its path below the folder that was predicted.
        sharpness: Variance of the Laplacian at a shorter side of 384 pixels, grey from 0 to 255.
        blur: The estimate in the grammar of blurs: sharp, D3.2, M12@30.
        size: Radius of the disk or length of the line, in pixels at a shorter side of 384.
        low: 5 % of the probability of the size lies below.
        high: 5 % of it lies above.
        native: The size in pixels of the file.
        answer: The class that the network decides for.
        confidence: Its probability.
        critical: Weakest blur that changes the answer, in pixels; infinite where none did.
    """

    file: str
    sharpness: float
    blur: str
    size: float
    low: float
    high: float
    native: float
    answer: str = ""
    confidence: float = nan
    critical: float = nan

    @property
    def kind(self) -> str:
        """What kind of blur it has: a key of `KINDS`."""
        return self.blur if self.blur == "sharp" else self.blur[:1]

    @property
    def spread(self) -> float:
        """How far its blur carries light, root mean square in pixels; -1 where it is unknown."""
        # A disk's second moment is r^2 / 2, that of a line l^2 / 12.
        factor = {"D": sqrt(1 / 2), "M": sqrt(1 / 12), "sharp": 0.0}
        return factor[self.kind] * self.size if self.blur else -1.0


class Suggestion(NamedTuple):
    """A mix of blurs to train on.

    Attributes:
        mix: In the grammar of blurs; "" where no photograph could be judged.
        reasons: What it is derived from, in sentences.
    """

    mix: str
    reasons: str


def read_photographs(path: Path) -> list[Photograph]:
    """Photographs of a `predictions.csv`, each once, the blurriest first.

    Answers are those under the first condition of the prediction.

    Raises:
        InputError: It cannot be read or has no estimates.
    """
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        first = {row["file"]: row for row in reversed(rows)}
        photographs = [_photograph(first[name]) for name in dict.fromkeys(r["file"] for r in rows)]
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}; predict writes it") from error
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{path}: holds no estimates of blur; repeat the prediction") from error
    return sorted(photographs, key=lambda one: (-one.spread, one.sharpness))


def _photograph(row: dict[str, str]) -> Photograph:
    sizes = ("size", "low", "high", "native")
    numbers = {name: _number(row[f"estimated_{name}"]) for name in sizes}
    return Photograph(
        row["file"],
        float(row["sharpness"]),
        row["estimated_blur"],
        **numbers,
        answer=row.get("top5_classes", "").partition(" ")[0],
        confidence=_number(row.get("confidence", "")),
        critical=_number(row.get("critical_parameter", "")),
    )


def _number(cell: str) -> float:
    return float(cell) if cell else nan


def suggest_mix(photographs: Sequence[Photograph]) -> Suggestion:
    """Suggest what to blur training images with, so that they are blurred as these photographs are.

    Each kind of blur has the share that it has among them, and the middle 80 % of its sizes; lines
    point anywhere. A kind of fewer than 3 photographs, or of less than 5 %, is left out, and a
    fifth at least stays sharp.
    """
    known = [photograph for photograph in photographs if photograph.blur]
    n = len(known)
    if not n:
        return Suggestion("", "The blur of no photograph could be told, so no mix is suggested.")
    found = {kind: [one.size for one in known if one.kind == kind] for kind in ("sharp", "D", "M")}
    least = max(_LEAST_COUNT, _LEAST_SHARE * n)
    blurs = {kind: found[kind] for kind in ("D", "M") if len(found[kind]) >= least}
    shares = {kind: len(sizes) / n for kind, sizes in blurs.items()}
    blurred = sum(shares.values())
    kept = min(blurred, 1 - _LEAST_SHARP)
    weights = {kind: _stepped(share / blurred * kept) for kind, share in shares.items()}
    parts = {"sharp": 1.0 - sum(weights.values())}
    parts |= {_range(kind, sizes): weights[kind] for kind, sizes in blurs.items()}
    mix = "+".join(f"{_plain(weight)}*{name}" for name, weight in parts.items())
    return Suggestion(mix if blurs else "sharp", _reasons(found, [*blurs], n, len(photographs)))


def _reasons(found: dict[str, list[float]], used: list[str], n: int, everything: int) -> str:
    texts = []
    for kind, sizes in found.items():
        low, high = (rounded(100 * end, 0) for end in wilson_interval(len(sizes), n))
        texts.append(f"{len(sizes)} {KINDS[kind]} ({low} to {high} %)")
    images = "photograph" if n == 1 else "photographs"
    sentence = f"From {n} {images}: {', '.join(texts)}; in parentheses 95 % intervals."
    if everything > n:
        sentence += f" Of {everything - n} more the blur cannot be told."
    left_out = [KINDS[kind] for kind in ("D", "M") if found[kind] and kind not in used]
    if left_out:
        sentence += f" Too few are {' or '.join(left_out)} to be in the mix."
    if n < FEW:
        sentence += f" So few tell little about others: {FEW} or more make a mix to rely on."
    return sentence


def _stepped(share: float) -> float:
    """A weight in whole steps of 5 %, at least one; what is left over stays sharp."""
    return max(1, int(share / _STEP + 1e-9)) * _STEP


def _plain(number: float) -> str:
    return f"{number:.2f}".rstrip("0").rstrip(".")


def _range(kind: str, sizes: Sequence[float]) -> str:
    """A kind of blur with the middle 80 % of its sizes, in half pixels."""
    low, high = (max(0.5, round(2 * x) / 2) for x in np.quantile(sizes, [0.1, 0.9]))
    ends = _plain(low) if low == high else f"{_plain(low)}..{_plain(high)}"
    return f"{kind}{ends}" + ("@0..180" if kind == "M" else "")

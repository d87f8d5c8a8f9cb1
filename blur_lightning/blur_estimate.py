"""How blurry a photograph is: its sharpness, and an estimate of the blur that it has.

Sharpness is the variance of the Laplacian (Pech-Pacheco et al. 2000, Pattern Recognition 3,
314-317), which grows with what a picture shows as well. The estimate is of the blur alone. A blur
multiplies the spectrum of a picture: a disk by rings of zeros, a line by parallel stripes of zeros
(Gennery 1973, J. Opt. Soc. Am. 63, 1571-1577). So a small network sees the logarithm of the power
spectrum from each of 24 directions: its means over bands across the direction, over bands along it,
and over rings. The weights are the same for all directions, as if the photograph were turned. It
answers with a probability for each of a grid of disks, and of lines for each direction.

`blur_estimate.json` holds its weights, what they were trained on and their errors on photographs
that they were not trained on; `benchmarks/blur_estimate.py` writes it. Only numpy is needed here.

Lengths are pixels of a photograph whose shorter side was reduced to 384; a smaller one is not
enlarged, but its lengths are told as if it were. Directions are degrees, counter-clockwise from
horizontal.
"""

import json
from functools import cache
from math import isnan, nan
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from blur_lightning.images import resize_image, resized_shape

SIDE = 384  # px: the shorter side at which everything is measured
PATCH = 128  # px: side of the windows whose spectra are averaged, and the smallest photograph
DIRECTIONS, BANDS = 24, 24
_LEAST_CONTRAST = 3.0  # levels of 255; chosen by us: below, rounding to 8 bits hides zeros
_FLOOR = 0.02  # of the power, so that none is 0: a quarter of what rounding to 8 bits adds
_SHARP = 1.0  # px: a disk of a smaller radius blurs nothing, see `blur.kernels`


class BlurEstimate(NamedTuple):
    """What was found in one photograph; NaN and "" stand for what cannot be told.

    Attributes:
        sharpness: Variance of the Laplacian of grey values from 0 to 255.
        estimated_blur: In the grammar of blurs: sharp, D3.2, M12@30.
        estimated_probability: Of its kind (no blur or defocus, or else motion), in [0.5, 1].
        estimated_size: Radius of the disk or length of the line; of a sharp photograph 0.
        estimated_low: 5 % of the probability lies below.
        estimated_high: 5 % of the probability lies above.
        estimated_native: The size in pixels of the photograph as it was given.
    """

    sharpness: float
    estimated_blur: str
    estimated_probability: float
    estimated_size: float
    estimated_low: float
    estimated_high: float
    estimated_native: float


def estimate_blur(pixels: UInt8[np.ndarray, "h w 3"]) -> BlurEstimate:
    """Estimate the blur of a photograph.

    One that is flat, or whose shorter side is below 128 pixels, has a sharpness but no estimate.
    """
    grey = grey_picture(pixels)
    sharpness = round(variance_of_laplacian(grey), 2)
    shorter = min(pixels.shape[:2])
    if min(grey.shape) < PATCH or _contrast(grey) < _LEAST_CONTRAST:
        return BlurEstimate(sharpness, "", nan, nan, nan, nan, nan)
    disks, lines = probabilities(spectral_profiles(grey))
    enlarged = SIDE / min(grey.shape)
    is_motion = bool(lines.sum() > 0.5)
    grid, weights = (_grid("lengths"), lines.sum(0)) if is_motion else (_grid("radii"), disks)
    low, size, high = (enlarged * _quantile(grid, weights, level) for level in (0.05, 0.5, 0.95))
    name = f"D{size:.2g}"
    if is_motion:
        name = f"M{size:.2g}@{round(direction(lines)) % 180}"
    elif size < _SHARP:
        name, size = "sharp", 0.0
    probability = float(lines.sum() if is_motion else disks.sum())
    numbers = (probability, size, low, high, size * shorter / SIDE)
    return BlurEstimate(sharpness, name, *(round(number, 3) for number in numbers))


def grey_picture(pixels: UInt8[np.ndarray, "h w 3"]) -> UInt8[np.ndarray, "k l"]:
    """Grey values (ITU-R BT.601) of a photograph, reduced to a shorter side of 384 pixels."""
    grey = np.asarray(Image.fromarray(pixels).convert("L"))
    rows, columns = grey.shape
    if min(rows, columns) <= SIDE:
        return grey
    return resize_image(grey, resized_shape((rows, columns), SIDE))


def variance_of_laplacian(grey: UInt8[np.ndarray, "h w"]) -> float:
    """Variance of the sum of the four neighbours less four times the pixel; edges do not count."""
    g = grey.astype(np.float32)
    if min(g.shape) < 3:
        return 0.0
    neighbours = g[:-2, 1:-1] + g[2:, 1:-1] + g[1:-1, :-2] + g[1:-1, 2:]
    return float((neighbours - 4 * g[1:-1, 1:-1]).var())


def spectral_profiles(grey: UInt8[np.ndarray, "h w"]) -> Float[np.ndarray, "directions features"]:
    """What the network sees of a picture from each direction.

    The power spectra of windows of 128 pixels that overlap by half are averaged (Welch 1967, IEEE
    Trans. Audio Electroacoust. 15, 70-73), and their logarithm in bands up to half a cycle a pixel.
    """
    power = _mean_power(grey)
    shape, weights = _bands()
    logarithm = weights * np.log(power)
    count = np.bincount(shape.ravel(), np.tile(weights, len(shape)))
    total = np.bincount(shape.ravel(), np.tile(logarithm, len(shape)))
    means = (total / count).reshape(DIRECTIONS + 1, BANDS).astype(np.float32)
    across, rings = means[:DIRECTIONS], means[DIRECTIONS]
    level = rings[:4].mean()  # how much contrast the picture has, whatever its blur
    along = np.roll(across, -DIRECTIONS // 2, axis=0)
    profiles = np.concatenate([across, along, np.broadcast_to(rings, across.shape)], axis=1)
    return np.concatenate([profiles - level, np.full((DIRECTIONS, 1), level)], axis=1) / 5 + 1


def probabilities(
    profiles: Float[np.ndarray, "directions features"],
) -> tuple[Float[np.ndarray, " radii"], Float[np.ndarray, "directions lengths"]]:
    """Probabilities of the disks and of the lines in the grid, of sum 1 together."""
    hidden = profiles
    for layer in ("first", "second"):
        hidden = np.maximum(_affine(layer, hidden), 0)
    pooled = np.concatenate([hidden.mean(0), hidden.max(0)])
    disks, lines = _affine("disks", pooled), _affine("lines", hidden)
    largest = max(disks.max(), lines.max())
    disks, lines = np.exp(disks - largest), np.exp(lines - largest)
    total = disks.sum() + lines.sum()
    return disks / total, lines / total


def direction(lines: Float[np.ndarray, "directions lengths"]) -> float:
    """Mean direction in degrees, [0, 180), of lines by their probabilities."""
    turns = np.exp(2j * np.pi * np.arange(DIRECTIONS) / DIRECTIONS)  # 180 degrees are a turn
    return float(np.degrees(np.angle((lines.sum(1) * turns).sum())) / 2 % 180)


@cache
def model() -> dict[str, Any]:
    """The weights, the grid of blurs, what they were trained on and their errors."""
    text = Path(__file__).with_suffix(".json").read_text(encoding="utf-8")
    return json.loads(text)


@cache
def _grid(name: str) -> np.ndarray:
    return np.array(model()[name], dtype=np.float32)


@cache
def _layer(name: str) -> tuple[np.ndarray, np.ndarray]:
    layer = model()["layers"][name]
    return tuple(np.array(layer[part], dtype=np.float32) for part in ("weight", "bias"))  # type: ignore[return-value]


def _affine(layer: str, values: np.ndarray) -> np.ndarray:
    weight, bias = _layer(layer)
    return values @ weight.T + bias


def _quantile(grid: np.ndarray, weights: np.ndarray, level: float) -> float:
    """Of a distribution whose probabilities lie at the points of a grid, linear between them."""
    share = weights / weights.sum()
    return float(np.interp(level, np.cumsum(share) - share / 2, grid))


def _contrast(grey: np.ndarray) -> float:
    """Standard deviation of the grey values in the window that has most of it."""
    return float(max(window.std() for window in _windows(grey)))


def _windows(grey: np.ndarray) -> np.ndarray:
    """Windows (n, 128, 128) that cover a picture and overlap by half or more."""
    rows, columns = (
        np.linspace(0, side - PATCH, 1 - (PATCH - side) // (PATCH // 2)).astype(int)
        for side in grey.shape
    )
    return np.stack([grey[r : r + PATCH, c : c + PATCH] for r in rows for c in columns])


def _mean_power(grey: np.ndarray) -> np.ndarray:
    """Power of the frequencies that `_bands` lists, per pixel."""
    windows = _windows(grey).astype(np.float32)
    windows -= windows.mean(axis=(1, 2), keepdims=True)
    taper = np.hanning(PATCH + 1)[:PATCH].astype(np.float32)
    taper = np.outer(taper, taper)
    power = (np.abs(np.fft.rfft2(windows * taper)) ** 2).mean(0) / (taper**2).sum()
    return power[_frequencies()[2]] + _FLOOR


@cache
def _frequencies() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows and columns of the frequencies in use, cycles a pixel, and where they are."""
    v, u = np.meshgrid(np.fft.fftfreq(PATCH), np.fft.rfftfreq(PATCH), indexing="ij")
    radius = np.hypot(u, v)
    used = (radius > 1.5 / PATCH) & (radius <= 0.5)  # those about 0 hold the window's own spectrum
    return v[used], u[used], used


@cache
def _bands() -> tuple[np.ndarray, np.ndarray]:
    """For each direction and for rings, the band of each frequency; and how often each stands."""
    v, u, _ = _frequencies()
    angle = np.pi * np.arange(DIRECTIONS)[:, None] / DIRECTIONS
    # Rows count downwards, angles turn counter-clockwise as seen: hence the sign of v.
    across = np.abs(u * np.cos(angle) - v * np.sin(angle))
    distance = np.concatenate([across, np.hypot(u, v)[None]])
    band = np.minimum((distance * 2 * BANDS).astype(int), BANDS - 1)
    # Of a real picture half of the frequencies mirror the others, but for the first column's.
    return band + BANDS * np.arange(DIRECTIONS + 1)[:, None], np.where(u == 0, 1.0, 2.0)


def is_known(value: float) -> bool:
    """Whether a number of an estimate was found."""
    return not isnan(value)

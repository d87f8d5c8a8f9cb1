"""The blurs of a test: `D1..8:0.5` stands for a condition at every half pixel from 1 to 8."""

import re
from collections.abc import Sequence

from blur_lightning.blur.capture import Capture
from blur_lightning.blur.distributions import BlurDistribution
from blur_lightning.blur.families import number_text
from blur_lightning.errors import InputError

_NUMBER = r"\d+(?:\.\d+)?"
_GRID = re.compile(rf"(\w*?-?)({_NUMBER})\.\.({_NUMBER}):({_NUMBER})(.*)")
# More would be a slip: a test takes as many passes of the network.
_MOST = 1000


def parse_conditions(texts: Sequence[str]) -> list[BlurDistribution]:
    """Read the conditions of a test; InputError names what is none, or comes twice.

    Args:
        texts: Blurs as `BlurDistribution.parse` reads them, or grids of one parameter.
    """
    conditions = [BlurDistribution.parse(name) for text in texts for name in _expanded(text)]
    names = [str(condition) for condition in conditions]
    if not names:
        raise InputError("model.conditions: name at least one blur")
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise InputError(f"model.conditions: '{twice}' comes twice; name each blur once")
    return conditions


def _expanded(text: str) -> list[str]:
    """Names of the conditions of a grid, or the text alone."""
    match = _GRID.fullmatch(text)
    if not match:
        return [text]
    symbol, rest = match[1], match[5]
    low, high, step = (float(match[group]) for group in (2, 3, 4))
    if step == 0 or high < low or (high - low) / step >= _MOST:
        raise InputError(
            f"model.conditions: '{text}' is no grid; write from..to:step, e.g. {symbol}1..8:0.5, "
            f"of at most {_MOST} steps"
        )
    count = int((high - low) / step + 1e-9) + 1
    # Rounded, for 0.1 + 0.2 is not 0.3.
    return [f"{symbol}{number_text(round(low + i * step, 9))}{rest}" for i in range(count)]


def check_reach(blur: BlurDistribution, capture: Capture) -> None:
    """Refuse a blur that is wider than an image: InputError."""
    name = "crop" if capture.order == "crop_first" else "canonical"
    side = getattr(capture, name)
    if blur.half_width >= side:
        raise InputError(
            f"blur '{blur}': its kernel reaches {blur.half_width} pixels to each side, beyond "
            f"an image of data.capture.{name} {side}; use a smaller one"
        )

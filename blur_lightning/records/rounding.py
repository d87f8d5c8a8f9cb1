"""How numbers are rounded wherever they are shown, on the page by the same rule in `page.js`."""

from typing import SupportsFloat

# A value that is a half in decimals, as 23 of 80 in %, may lie an ulp below it in binary.
_NUDGE = 1 + 1e-12


def rounded(value: SupportsFloat, digits: int, *, sign: str = "") -> str:
    """Write a number with so many decimals: halves away from 0, and no zero is negative.

    Args:
        value: What to write.
        digits: How many decimals.
        sign: "+" writes one before positive numbers and 0.
    """
    return f"{float(value) * _NUDGE:{sign}z.{digits}f}"

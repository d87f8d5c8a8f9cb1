import math
from fractions import Fraction

import pytest

from blur_lightning.records.rounding import rounded


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [
        (56.25, 1, "56.3"),
        (-56.25, 1, "-56.3"),
        (56.35, 1, "56.4"),
        (100 * (23 / 80), 1, "28.8"),
        (56.2499, 1, "56.2"),
        (0.5, 0, "1"),
        (1.5, 0, "2"),
        (-0.00004, 4, "0.0000"),
        (7, 2, "7.00"),
        (math.inf, 1, "inf"),
        (math.nan, 1, "nan"),
    ],
)
def test_halves_go_away_from_zero_and_no_zero_is_negative(value, digits, text):
    assert rounded(value, digits) == text


def test_signs_are_written_on_demand():
    texts = [rounded(value, 1, sign="+") for value in (0.25, -0.25, -0.01)]
    assert texts == ["+0.3", "-0.3", "+0.0"]


def test_every_share_of_a_thousand_images_is_rounded_as_by_hand():
    for n in (16, 80, 400, 1000):
        for successes in range(n + 1):
            tenths = math.floor(Fraction(1000 * successes, n) + Fraction(1, 2))
            assert rounded(100 * (successes / n), 1) == f"{tenths // 10}.{tenths % 10}"

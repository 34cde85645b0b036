"""Texts of numbers as the pages write them: no zero before the point, few digits."""

from __future__ import annotations

import math
from collections.abc import Iterable
from decimal import ROUND_HALF_UP, Decimal

_WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]


def fixed(value: float, digits: int) -> str:
    """Return a value with this many digits after the point, without a zero before it; halves are rounded away from 0."""
    exact = Decimal(f"{value:.12g}")  # .825 is a little less in binary
    text = f"{exact.quantize(Decimal(1).scaleb(-digits), ROUND_HALF_UP):f}"
    return text.replace("0.", ".", 1) if text.lstrip("-").startswith("0.") else text


def at_most(value: float, digits: int = 1) -> str:
    """Return an upper bound of a positive value, rounded up to this many significant digits, as in "p at most .0008"."""
    exponent = math.floor(math.log10(value)) - digits + 1
    scaled = math.ceil(value / 10**exponent - 1e-9)
    return significant(scaled * 10.0**exponent, digits)


def significant(value: float, digits: int = 1) -> str:
    """Return a value with this many significant digits; from .0001 down as in 2e-6."""
    if value and abs(value) < 1e-4:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        return f"{mantissa}e{int(exponent)}"
    places = digits - 1 - math.floor(math.log10(abs(float(f"{value:.{digits - 1}e}")))) if value else digits
    return fixed(value, max(0, places))


def probability(p: float) -> str:
    """Return a p-value: to two digits after the point, or four below .01, or one significant digit below .0001."""
    return fixed(p, 2) if p >= 0.01 else fixed(p, 4) if p >= 1e-4 else significant(p)


def whole(value: float) -> str:
    """Return the nearest integer, with commas."""
    return f"{round(value):,}"


def percent(share: float) -> str:
    """Return a share as a whole number of percent."""
    return fixed(100 * share, 0)


def word(count: int) -> str:
    """Return a small number as a word."""
    return _WORDS[count]


def ends(values: Iterable[float], digits: int) -> tuple[str, str]:
    """Return the least and the largest value."""
    known = list(values)
    return fixed(min(known), digits), fixed(max(known), digits)

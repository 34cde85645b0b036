"""Formatting of numbers and tables for human readers."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from decimal import Decimal

_LARGEST_FLOAT = int(sys.float_info.max)


def number(value: float | None) -> str:
    """Format a number with three significant digits and no trailing zeros; a missing value is a dash."""
    if value is None or math.isnan(value):
        return "-"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def whole(value: int) -> str:
    """Format an integer in full, or with three digits from 10^9 on."""
    return str(value) if value < 10**9 else f"{value if value < _LARGEST_FLOAT else Decimal(value):.2e}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Align the columns of a table: pad each to a common width and separate them by two spaces."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; pipes inside cells are escaped."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)

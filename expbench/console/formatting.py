"""Formatting of numbers and tables for human readers."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

# controls, marks of direction and other characters without a shape, separators of lines, lone surrogates
_HIDDEN = re.compile(
    "[\\x00-\\x1f\\x7f-\\x9f\\xad\\u061c\\u180e\\u200b-\\u200f\\u2028-\\u202e\\u2060-\\u206f\\ufeff\\ufff9-\\ufffb\\ufffe\\uffff"
    "\\ud800-\\udfff\\U000e0000-\\U000e007f]"
)


def visible(text: str, keep: str = "") -> str:
    """Replace characters that would act on a terminal or a page by their escapes, such as ``\\x1b``, except those to keep.

    Names come from third-party files: an escape sequence could hide a line, and a mark of direction could reverse it.
    """
    return _HIDDEN.sub(lambda f: f[0] if f[0] in keep else f[0].encode("unicode_escape").decode(), text)


def number(value: float | None) -> str:
    """Format a number with three significant digits and no trailing zeros; a missing value is a dash."""
    if value is None or math.isnan(value):
        return "-"
    if value != 0 and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.2e}"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def whole(value: int) -> str:
    """Format an integer in full, or with three digits from 10^9 on."""
    return str(value) if value < 10**9 else f"{value:.2e}"


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Align the columns of a table: pad each to a common width and separate them by two spaces."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; pipes inside cells are escaped."""
    rows = [header, ["---"] * len(header), *lines]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows)

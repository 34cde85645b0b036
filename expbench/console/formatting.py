"""Formatting of numbers, tables and third-party texts for human readers, on a terminal or in Markdown."""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Sequence
from decimal import Decimal

_LARGEST_FLOAT = int(sys.float_info.max)

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


def say(line: str) -> None:
    """Print a line to standard error; names in it cannot act on the terminal."""
    print(visible(line, keep="\n\t"), file=sys.stderr, flush=True)


class Strong(str):
    """A text of a table that is set in bold."""


# Markdown of CommonMark and GitHub, also formulas; underscores inside words and a lone < are none
_MARKS = re.compile(r"[\\`*\[\]~$]|(?<!\w)_|_(?!\w)|<(?=[A-Za-z/!?])|&(?=#?\w+;)")
_STARTS = re.compile(r"^(\s*)([#>+=-]|\d+(?=[.)]))")


def escaped(text: str) -> str:
    """Escape a text for a paragraph or heading of Markdown, so that it is shown as it is, in one line."""
    return _STARTS.sub(lambda f: f"{f[1]}{f[2]}\\" if f[2].isdigit() else f"{f[1]}\\{f[2]}", _inline(text))


def _inline(text: str) -> str:
    return _MARKS.sub(r"\\\g<0>", visible(text))


def code_block(text: str, language: str = "") -> str:
    """Return a code block of Markdown whose fence is longer than any run of backticks in the text."""
    fence = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{fence}{language}\n{text}\n{fence}"


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
    """Align the columns of a table: pad each to a common width and separate them by two spaces.

    Control characters are shown as escapes.
    """
    lines = [[visible(cell) for cell in line] for line in lines]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(f"{cell:{w}}" for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines)


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Format a Markdown table; every cell is shown as it is, and `Strong` ones in bold."""
    rows = [[_in_table(cell) for cell in row] for row in (header, *lines)]
    return "\n".join(f"| {' | '.join(row)} |" for row in [rows[0], ["---"] * len(header), *rows[1:]])


def _in_table(cell: str) -> str:
    text = _inline(cell).replace("|", "\\|")
    return f"**{text}**" if isinstance(cell, Strong) else text

"""Statistics of the words in the source: how docstrings begin, where comments stand, how large README.md is."""

from __future__ import annotations

import ast
import io
import tokenize
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.test_imports import ROOT, SOURCES

NOT_A_VERB = ("What", "Whether", "How", "Where", "Why", "Which", "Of", "In")
ARTICLES = ("The", "A", "An")
REASONED = ("ops", "stats", "training")  # numerics, statistics and kernels need comments that state reasons


class Docstring(NamedTuple):
    """The first word of a function's docstring, and the place of the function."""

    word: str
    place: str


def docstrings() -> list[Docstring]:
    """Return how the docstring of each function and method begins."""
    return [
        Docstring(text.split()[0].strip("`.,:;"), f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and (text := ast.get_docstring(node))
    ]


def comment_lines(package: str) -> int:
    """Return how many lines of a package hold a comment."""
    return sum(_comments(path) for path in SOURCES if path.is_relative_to(ROOT / "expbench" / package))


def _comments(path: Path) -> int:
    tokens = tokenize.generate_tokens(io.StringIO(path.read_text()).readline)
    return sum(token.type == tokenize.COMMENT for token in tokens)


def readme_bytes() -> int:
    """Return the size of README.md in bytes."""
    return (ROOT / "README.md").stat().st_size


def report() -> Iterator[str]:
    """Yield the lines that `python tests/structure.py` prints about words."""
    found = docstrings()
    yield f"Docstrings of functions: {len(found)}"
    for title, words in (("no verb", NOT_A_VERB), ("an article", ARTICLES)):
        count = sum(each.word in words for each in found)
        yield f"  that begin with {title} ({', '.join(words)}): {count}, {count / len(found):.1%}"
    yield f"Lines with a comment: {', '.join(f'{package} {comment_lines(package)}' for package in REASONED)}"
    yield f"README.md: {readme_bytes()} bytes"

"""A text that is made, not fetched: always there, the same everywhere, and with an entropy that is known.

A line is a topic, one of 4, and 15 words of 32. Each word but the first follows from the one before it and the topic: of
four possible ones, which a table of the topic lists, the first follows in half of all cases, then a quarter, and an eighth
each. Who has forgotten the topic at the end of a line knows less of what follows.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Literal

TOPICS, WORDS, LENGTH = 4, 32, 16  # of a line with its topic, and without its end
LINES = {"train": 3000, "validation": 200, "test": 400}
_SHARES = (0.5, 0.25, 0.125, 0.125)


def lines(split: Literal["train", "validation", "test"]) -> Iterator[str]:
    """The lines of a split, without line ends."""
    tables, draw = successors(), Random(f"markov {split}")
    for _ in range(LINES[split]):
        topic, word = _below(draw, TOPICS), _below(draw, WORDS)
        line = [f"t{topic}", f"w{word}"]
        while len(line) < LENGTH:
            word = tables[topic][word][_chosen(draw)]
            line.append(f"w{word}")
        yield " ".join(line)


def successors() -> list[list[list[int]]]:
    """Of each topic and word the words that may follow it, the likeliest first."""
    draw = Random("markov")
    return [[_distinct(draw) for _ in range(WORDS)] for _ in range(TOPICS)]


def floor() -> float:
    """The perplexity of the source itself, by token with the ends of lines, which are certain: no model is expected to be
    better on an unlimited text."""
    following = -sum(share * math.log(share) for share in _SHARES)
    nats = math.log(TOPICS) + math.log(WORDS) + (LENGTH - 2) * following
    return math.exp(nats / (LENGTH + 1))


def _below(draw: Random, n: int) -> int:
    return int(draw.random() * n)  # `Random.random` alone gives the same numbers in every version of Python


def _chosen(draw: Random) -> int:
    at = draw.random()
    return next(i for i in range(len(_SHARES)) if at < sum(_SHARES[: i + 1]))


def _distinct(draw: Random) -> list[int]:
    found: list[int] = []
    while len(found) < len(_SHARES):
        word = _below(draw, WORDS)
        if word not in found:
            found.append(word)
    return found

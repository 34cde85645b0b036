"""A generated text: available without a download, equal on every machine, with known entropy.

A line is one of 4 topics and 15 words of a vocabulary of 32. The first word is uniform. Each further word depends on the
previous word and the topic: a table of the topic lists four successors, with probabilities 1/2, 1/4, 1/8 and 1/8. A model
therefore predicts the end of a line better if it remembers the topic.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from random import Random
from typing import Literal

TOPICS, WORDS, LENGTH = 4, 32, 16  # the length of a line includes its topic but not its end
LINES = {"train": 3000, "validation": 200, "test": 400}
_SHARES = (0.5, 0.25, 0.125, 0.125)


def lines(split: Literal["train", "validation", "test"]) -> Iterator[str]:
    """Yield the lines of a split, without line ends."""
    tables, draw = successors(), Random(f"markov {split}")
    for _ in range(LINES[split]):
        topic, word = _below(draw, TOPICS), _below(draw, WORDS)
        line = [f"t{topic}", f"w{word}"]
        while len(line) < LENGTH:
            word = tables[topic][word][_chosen(draw)]
            line.append(f"w{word}")
        yield " ".join(line)


def successors() -> list[list[list[int]]]:
    """Return the possible successors of each topic and word, the most probable first."""
    draw = Random("markov")
    return [[_distinct(draw) for _ in range(WORDS)] for _ in range(TOPICS)]


def floor() -> float:
    """Return the perplexity of the source itself, the lowest expected perplexity of any model on an unlimited text.

    It is per token, including line ends, which are certain.
    """
    following = -sum(share * math.log(share) for share in _SHARES)
    nats = math.log(TOPICS) + math.log(WORDS) + (LENGTH - 2) * following
    return math.exp(nats / (LENGTH + 1))


def _below(draw: Random, n: int) -> int:
    return int(draw.random() * n)  # only `Random.random` is reproducible across Python versions


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

"""The orders of Table 1 (right) of arXiv 2502.02209 in our runs on a text, and its perplexities compared with ours.

These tables show few seeds with Student's intervals and give no verdicts; `claims.verdicts` judges claims.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence

import pandas as pd

from expbench.claims.pairing import MatchedPair, candidates, matched_pairs
from expbench.console.formatting import number
from expbench.report.document import Block, Table
from expbench.report.published import beside_table1
from expbench.results.configurations import divergence
from expbench.results.histories import Trained
from expbench.stats.intervals import Interval
from expbench.stats.resampling import paired
from expbench.studies.published import numbers


def orders(frame: pd.DataFrame, trained: Sequence[Trained], names: Mapping[int, str]) -> Iterator[Block]:
    """Yield the table of differences in test perplexity for pairs of rows of Table 1, published and ours, paired by seed."""
    histories = {id(each.configuration): each for each in trained}
    among = candidates(frame, [each.configuration for each in trained])
    value = {row.model: row.value for row in numbers.table1()}
    lines, about = [], []
    for claim in numbers.orders(str(trained[0].configuration["task"])):
        for pair in matched_pairs(claim, among):
            left, right = (histories[id(side.configuration)] for side in (pair.left, pair.right))
            line = [f"{names[id(left.configuration)]} < {names[id(right.configuration)]}"]
            if len({each.configuration["L"] for each in trained}) > 1:
                line[0] += f" (L={left.configuration['L']})" if "L=" not in line[0] else ""
            line.append(perplexity(value[claim.left.model] - value[claim.right.model]))
            lines.append(
                [*line, *(text for what in ("chosen", "last") for text in _difference(left, right, what)), _lost(pair)]
            )
            about.append([left.configuration, right.configuration])
    if lines:
        yield (
            f"Orders of {numbers.TEXT_SOURCE}, the lower perplexity first, with our differences in test perplexity, left "
            "minus right, paired by seed. There is no verdict, since a verdict requires ten pairs. Claims are judged by the "
            "perplexity at the chosen epochs."
        )
        header = [
            "published order",
            "published difference",
            "ours, at the chosen epochs",
            "as published",
            "ours, at the end",
        ]
        yield Table("orders of Table 1", [*header, "as published", "diverged"], lines, about)


def _difference(left: Trained, right: Trained, what: str) -> list[str]:
    """Return the mean difference in test perplexity with its interval, and the number of pairs with the published sign."""
    ours, theirs = left.of_ended(what), right.of_ended(what)
    found = [ours[seed].test - theirs[seed].test for seed in ours if seed in theirs]
    if not found:
        return ["-", "0 of 0 pairs"]
    said = f"{sum(difference < 0 for difference in found)} of {len(found)} pair{'s' * (len(found) != 1)}"
    return [with_ends(paired([found]).difference), said]


def _lost(pair: MatchedPair) -> str:
    return divergence(side.configuration for side in (pair.left, pair.right)) or "-"


def published(trained: Sequence[Trained], names: Mapping[int, str]) -> Iterator[Block]:
    """Yield the rows of Table 1 with every configuration of their model; nothing if none was run."""
    lines, about = [], []
    for row in numbers.table1():
        for each in (each for each in trained if each.configuration["model"] == row.model):
            values = [epoch.test for epoch in each.of_ended("chosen").values()]
            ours, verdict = beside_table1(row, each.configuration, values)
            line = [
                row.row,
                row.parameters,
                perplexity(row.value),
                names[id(each.configuration)],
                str(each.configuration["parameters"] or "-"),
            ]
            lines.append([*line, perplexity(ours.center), ends(ours), verdict])
            about.append([each.configuration])
    if lines:
        yield (
            f"Published: {numbers.TEXT_SOURCE}. Ours: test perplexity at the chosen epochs, and a 95 % prediction interval "
            "for the mean of 3 further seeds."
        )
        header = [
            "published row",
            "parameters",
            "published",
            "our model",
            "our parameters",
            "ours",
            "95 % interval",
            "verdict",
        ]
        yield Table("Table 1", header, lines, about)


def perplexity(value: float) -> str:
    """Format a perplexity with four digits; a missing value is a dash."""
    return "-" if math.isnan(value) else f"{value:.4g}" if abs(value) < 1e4 else number(value)


def ends(interval: Interval) -> str:
    return "-" if math.isnan(interval.low) else f"{perplexity(interval.low)} to {perplexity(interval.high)}"


def with_ends(interval: Interval) -> str:
    return perplexity(interval.center) + ("" if math.isnan(interval.low) else f" ({ends(interval)})")

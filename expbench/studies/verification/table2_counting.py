"""Computations of docs/studies/table2.md from results/table2: counting in a row."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from expbench.claims.judgement import Judgement
from expbench.results.configurations import Configuration
from expbench.stats.intervals import Interval
from expbench.stats.resampling import further_mean_interval
from expbench.studies.published.numbers import table2
from expbench.studies.verification.formatting import at_most, ends, fixed, probability, word
from expbench.studies.verification.page import Statement
from expbench.studies.verification.tables import Tables, of_all, published

_COUNT = "count-in-row"


def _counting(t: Tables, *, D: int, depth: int) -> list[Judgement]:
    """Return the claims that one layer of S6 of width 2 without codes counts better than attention with codes."""
    return t.study("table2").judgements(f"s6(D=2, depth=1, positions=none) > attn(D={D}, depth={depth}, positions=sin)")


def _counting_with_codes(t: Tables, *, D: int, depth: int) -> list[Judgement]:
    return t.study("table2").post_hoc(f"s6(D=2, depth=1, positions=sin) > attn(D={D}, depth={depth}, positions=sin)", _COUNT)


def _parameters(t: Tables) -> Sequence[str]:
    own = t.study("table2").having(task=_COUNT, model="s6", D=2, depth=1, positions="none", head="scalar")
    return [str(n) for n in sorted({c["parameters"] for c in own})]


def _counts_better(t: Tables) -> Sequence[str]:
    found = _counting_with_codes(t, D=2, depth=1)
    higher = [j for j in found if j.difference.center > 0]
    return str(len(higher)), str(len(found)), at_most(max(j.p for j in higher))


def _counts_better_than_four(t: Tables) -> Sequence[str]:
    found = _counting_with_codes(t, D=2, depth=4)
    higher = [j for j in found if j.difference.center > 0]
    others = sorted((j for j in found if j.difference.center <= 0), key=lambda j: -j.difference.center)
    lower = [text for j in others for text in (fixed(-j.difference.center, 2), probability(j.p))]
    return str(len(higher)), str(len(found)), str(sum(j.p <= 1e-4 for j in higher)), word(len(others)), *lower


def _accuracies(t: Tables) -> dict[str, float]:
    """Return the plain accuracy of each run on the test split, in percent."""
    frame = t.study("table2").frame
    rows = frame[(frame["kind"] == "run") & (frame["split"] == "test") & (frame["metric"] == "accuracy")]
    rows = rows[rows["slice"] == ""]
    return dict(zip(rows["key"], 100 * rows["value"], strict=True))


def _larger_attention(t: Tables) -> Sequence[str]:
    known = _accuracies(t)
    own = t.study("table2").having(task=_COUNT, model="attn", D=4, depth=4)
    plain = ends((sum(known[key] for key in c.each("key")) / len(c.runs) for c in own), 0)
    balanced = ends((100 * c.interval.center for c in own), 0)
    return published(_COUNT, "attn", "sin", depth=4, D=4), *plain, *balanced


def _alike(judgements: Sequence[Judgement]) -> list[float]:
    """Return the means of both sides, in percent, where they do not differ by more than the margin."""
    alike = [j for j in judgements if j.verdict == "not supported"]
    return [100 * side.interval.center for j in alike for side in (j.left, j.right)]


def _better_than_larger(t: Tables) -> Sequence[str]:
    found = _counting(t, D=4, depth=4)
    supported, total, alike, *others = of_all(found, "supported", "not supported", "contradicted", "undecided")
    return supported, total, alike, *ends(_alike(found), 0), *others


def _second_layer(t: Tables) -> Sequence[str]:
    found = t.study("table2").judgements("s6(D=2, depth=2, positions=none) > s6(D=2, depth=1, positions=none)")
    supported, total, alike, *others = of_all(found, "supported", "not supported", "contradicted", "undecided")
    return supported, total, alike, str(math.floor(min(_alike(found)))), *others


def _codes_hurt_counting(t: Tables) -> Sequence[str]:
    found = t.study("table2").judgements("s6(D=2, depth=1, positions=none) > s6(D=2, depth=1, positions=sin)")
    printed = [published(_COUNT, "s6", positions, depth=1, D=2) for positions in ("none", "sin")]
    return *printed, *of_all(found, "supported", "not supported", "contradicted", "undecided")


def _below_the_margin(t: Tables) -> Sequence[str]:
    (only,) = [j for j in _counting(t, D=4, depth=4) if j.verdict == "supported"]
    codes = _counting_with_codes(t, D=4, depth=4)
    higher = sum(j.difference.center > 0 for j in codes)
    return fixed(only.difference.center, 3), fixed(only.margin, 2), str(higher), str(len(codes))


def _three_seeds(t: Tables) -> Sequence[str]:
    normed = [interval for c, _, interval in _besidepublished(t) if c["model"] == "s6" and c["norm"] == "layer"]
    widest = max(normed, key=lambda interval: interval.high - interval.low)
    counts = []
    for model in ("s6", "attn"):
        own = [interval.low <= value <= interval.high for c, value, interval in _besidepublished(t) if c["model"] == model]
        counts += [str(sum(own)), str(len(own))]
    return fixed(widest.low, 0), fixed(widest.high, 0), *counts


def _besidepublished(t: Tables) -> Iterator[tuple[Configuration, float, Interval]]:
    """Yield each configuration of a published accuracy, the accuracy, and our interval for the mean of three seeds."""
    known = _accuracies(t)
    for row in table2():
        if row.task == _COUNT:
            wanted = {"task": row.task, "model": row.model, "positions": row.positions, "depth": row.depth, "D": row.D}
            for c in t.study("table2").having(**wanted):
                yield c, row.value, further_mean_interval([[known[key] for key in c.each("key")]])


STATEMENTS = (
    Statement("one layer of S6 without codes has {} or {} parameters in the scalar protocols", _parameters),
    Statement(
        "| one layer of attention | {} of {} protocols | {} |",
        lambda t: of_all(_counting(t, D=2, depth=1), "supported", "undecided"),
    ),
    Statement(
        "| four layers of attention | {} of {} protocols | {} |",
        lambda t: of_all(_counting(t, D=2, depth=4), "supported", "undecided"),
    ),
    Statement("- higher than that of one layer of attention in {} of {} protocols (p at most {});", _counts_better),
    Statement(
        """- higher than that of four layers in {} of {} protocols (in {} of them with p at most .0001). In the other
            {word} it is lower, by {} (p {}) and {} (p {}).""",
        _counts_better_than_four,
    ),
    Statement(
        """The paper reports {} % for it. In this study it reaches {} to {} % in every protocol ({} to {} % in balanced
            accuracy""",
        _larger_attention,
    ),
    Statement(
        "is better than this network | {} of {} protocols | {} (both sides at {} to {} %) | {} | {} |",
        _better_than_larger,
    ),
    Statement("| a second layer of S6 helps | {} of {} protocols | {} (both sides above {} %) | {} | {} |", _second_layer),
    Statement("(published: {} without, {} with) | {} of {} protocols | {} | {} | {} |", _codes_hurt_counting),
    Statement(
        """has a difference of {}, which is below the margin of {}. With codes on both sides the mean of S6 is higher
            in {} of {} protocols.""",
        _below_the_margin,
    ),
    Statement(
        """may lie anywhere between {} and {} %. The published accuracies of S6 lie within such intervals in {} of {}
            configurations, which is weak evidence. The seeds of attention agree, and its published accuracies lie
            within the intervals in {} of {}.""",
        _three_seeds,
    ),
)

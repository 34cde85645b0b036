"""Computations of docs/studies/table2.md from results/table2: counting in a row."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from functools import partial

from expbench.claims.judgement import Judgement
from expbench.results.configurations import Configuration
from expbench.stats.intervals import Interval
from expbench.stats.resampling import further_mean_interval
from expbench.studies.published.numbers import table2
from expbench.studies.verification.formatting import ends, fixed
from expbench.studies.verification.page import Statement
from expbench.studies.verification.tables import Tables, of_all, published

_COUNT = "count-in-row"


_LARGER = ((2, 1), (2, 4), (4, 4))  # width and number of layers of attention


def _with_codes(t: Tables, *, D: int, depth: int) -> list[Judgement]:
    """Return the claim that one layer of S6 of width 2 counts better than this attention, with codes on both sides."""
    about = ("model", *(["D"] if D > 2 else []), *(["depth"] if depth > 1 else []))
    text = f"s6(D=2, depth=1, positions=sin) > attn(D={D}, depth={depth}, positions=sin)"
    return t.study("table2").post_hoc(text, _COUNT, about)


def _counts_better(t: Tables) -> Iterator[str]:
    for D, depth in _LARGER:
        yield from of_all(_with_codes(t, D=D, depth=depth), "supported", "contradicted", "ceiling", "undecided")


def _shares(t: Tables) -> Iterator[str]:
    """Yield the verdicts on the share solved, if none on the means is decided."""
    for D, depth in _LARGER:
        found = _with_codes(t, D=D, depth=depth)
        counts = Counter(str(j.share.verdict) for j in found)
        if {str(j.means.verdict) for j in found} != {"undecided on means"} or (counts["contradicted"] and D == 2):
            raise ValueError("means are decided, or attention of width 2 solves the task more often")
        yield from (str(counts["supported"]), *([str(len(found))] if D == 2 else [str(counts["contradicted"])]))


def _parameters(t: Tables) -> Sequence[str]:
    own = t.study("table2").having(task=_COUNT, model="s6", D=2, depth=1, positions="none", head="scalar")
    return [str(n) for n in sorted({c["parameters"] for c in own})]


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


def _second_layer(t: Tables) -> Sequence[str]:
    return _all_words(t.study("table2").judgements("s6(D=2, depth=2, positions=none) > s6(D=2, depth=1, positions=none)"))


def _codes_hurt_counting(t: Tables) -> Sequence[str]:
    found = t.study("table2").judgements("s6(D=2, depth=1, positions=none) > s6(D=2, depth=1, positions=sin)")
    return *(published(_COUNT, "s6", positions, depth=1, D=2) for positions in ("none", "sin")), *_all_words(found)


def _larger_helps(t: Tables, *, D: int, depth: int, than: tuple[int, int]) -> Sequence[str]:
    sides = [f"attn(D={width}, depth={layers}, positions=sin)" for width, layers in ((D, depth), than)]
    return _all_words(t.study("table2").judgements(" > ".join(sides)))


def _all_words(judgements: Sequence[Judgement]) -> Sequence[str]:
    return of_all(judgements, "supported", "not supported", "contradicted", "ceiling", "undecided")


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


_VERDICTS = "{} of {} protocols | {} | {} | {}"

STATEMENTS = (
    Statement("one layer of S6 has {} or {} parameters in the scalar protocols", _parameters),
    Statement(
        "\n".join(
            f"| {layers} of attention of width {D} | {_VERDICTS} |"
            for layers, D in (("one layer", 2), ("four layers", 2), ("four layers", 4))
        ),
        _counts_better,
    ),
    Statement(
        """is higher for S6 in {} of {} protocols against one layer and in {} of {} against four layers of the same width,
            and otherwise undecided. Against four layers of width 4 it is higher in {} and lower in {}.""",
        _shares,
    ),
    Statement(
        """The paper reports {} % for attention of width 4 and four layers. In this study it reaches {} to {} % in every
            protocol ({} to {} % in balanced accuracy""",
        _larger_attention,
    ),
    Statement(f"| a second layer of S6 helps in counting | {_VERDICTS} | {{}} |", _second_layer),
    Statement(f"in counting (published: {{}} without, {{}} with) | {_VERDICTS} | {{}} |", _codes_hurt_counting),
    Statement(
        f"| four layers of attention of width 2 count better than one | {_VERDICTS} | {{}} |",
        partial(_larger_helps, D=2, depth=4, than=(2, 1)),
    ),
    Statement(
        f"| four layers of attention count better at width 4 than at width 2 | {_VERDICTS} | {{}} |",
        partial(_larger_helps, D=4, depth=4, than=(2, 4)),
    ),
    Statement(
        """may lie anywhere between {} and {} %. The published accuracies of S6 lie within such intervals in {} of {}
            configurations, which is weak evidence. The seeds of attention agree, and its published accuracies lie
            within the intervals in {} of {}.""",
        _three_seeds,
    ),
)

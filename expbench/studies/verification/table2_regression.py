"""Computations of docs/studies/table2.md from results/table2: polynomial regression."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import median

import pandas as pd

from expbench.claims.judgement import Judgement
from expbench.studies.verification.formatting import at_most, ends, fixed, whole, word
from expbench.studies.verification.page import Statement
from expbench.studies.verification.tables import Tables, of_all, published

_WIDTHS = (4, 6, 8)


def _regression_with_codes(t: Tables, family: str) -> list[Judgement]:
    texts = [f"s6(D={D}, positions=sin) < attn(D={D}, positions=sin)" for D in _WIDTHS]
    return [j for text in texts for j in t.study("table2").post_hoc(text, "polyreg", family=family)]


def _hurt(t: Tables) -> list[Judgement]:
    return t.study("table2").judgements("s6(D=8, positions=none) < s6(D=8, positions=sin)", family="random")


def suffix_with_codes(t: Tables) -> Sequence[str]:
    """Return in how many protocols S6 has the lower error on `suffix` with codes on both sides, and their number."""
    codes = _regression_with_codes(t, "suffix")
    return str(sum(j.difference.high < 0 for j in codes)), str(len(codes))


def _suffix(t: Tables) -> Sequence[str]:
    found = _regression_with_codes(t, "suffix")
    supported, total, ceiling = of_all(found, "supported", "ceiling")
    easy = [j for j in found if j.verdict == "ceiling"]
    lower = ends((-j.difference.center for j in easy), 3)
    corrected = at_most(max(j.holm for j in found if j.verdict == "supported"))
    return supported, total, corrected, word(int(ceiling)), *lower, at_most(max(j.p for j in easy))


def _uses(t: Tables) -> Sequence[str]:
    """Return the numbers of protocols and of attention configurations in them, the same for both families of labels."""
    found = [_regression_with_codes(t, family) for family in ("suffix", "random")]
    ((protocols, configurations),) = {(len(own), len({tuple(j.right.each("key")) for j in own})) for own in found}
    return str(protocols), str(configurations)


def _random(t: Tables) -> Sequence[str]:
    found = _regression_with_codes(t, "random")
    corrected = at_most(max(j.holm for j in found))
    return *of_all(found, "supported"), *ends((-j.difference.center for j in found), 2), corrected


def _of_polynomials(t: Tables) -> Sequence[str]:
    return str(len(random_polynomials(t))), str(t.study("polynomials").runs["instance"].nunique())


def _codes_hurt_suffix(t: Tables) -> Sequence[str]:
    found = t.study("table2").judgements("s6(D=8, positions=none) < s6(D=8, positions=sin)", family="suffix")
    return of_all(found, "supported", "not supported", "contradicted", "ceiling", "undecided")


def _codes_hurt(t: Tables) -> Sequence[str]:
    found = _hurt(t)
    printed = [published("polyreg", "s6", positions, depth=1, D=8) for positions in ("none", "sin")]
    contradicted = sum(j.verdict == "contradicted" for j in found)
    return *printed, str(contradicted), str(len(found)), *ends((j.difference.center for j in found), 2)


def medians(t: Tables) -> Iterator[str]:
    """Yield the rows of the table of medians, both layouts of S6 together."""
    for D, (model, positions) in product(_WIDTHS, (("s6", "none"), ("s6", "sin"), ("attn", "sin"))):
        for norm in ("layer", "none"):
            own = t.study("table2").having(
                task="polyreg", family="random", steps=4000, D=D, model=model, positions=positions, norm=norm
            )
            yield fixed(median(value for c in own for value in c.values), 3)


def _of_medians(t: Tables) -> Sequence[str]:
    (steps,) = {c["steps"] for c in t.study("table2").having(positions="sin", task="polyreg", model="s6")}
    return str(len(random_polynomials(t))), whole(steps)


def random_polynomials(t: Tables) -> pd.DataFrame:
    """Return one row for each random polynomial, with the facts on its labels."""
    runs = t.study("table2").runs
    return runs[runs["context"].str.contains("family=random")].drop_duplicates("instance")


def _effective(t: Tables) -> Sequence[str]:
    found = random_polynomials(t)
    if not found["well_posed"].all():
        raise ValueError("polynomials are ill-posed")
    return str(len(found)), str(len(found)), *map(whole, (found["effective_sample_size"].agg(["min", "max"])))


STATEMENTS = (
    Statement(
        """it is supported in {} of {} protocols (Holm's p at most {}), at widths 4, 6 and 8. In the other {word} nearly all
        runs of both sides solve the task, which the rule calls `ceiling`; the error of S6 is lower there too, by {} to {} (p
        at most {} in each).""",
        _suffix,
    ),
    Statement("The {} protocols are {} configurations of attention", _uses),
    Statement(
        """With codes on both sides it is supported in {} of {} protocols: the error of S6 is lower by {} to {} of the
            variance of the labels (Holm's p at most {}).""",
        _random,
    ),
    Statement("The first {} of its {} polynomials are the ones of this study", _of_polynomials),
    Statement(
        """an error of {} without codes and {} with codes, at width 8. In {} of {} protocols of this study the order is
            the opposite: the codes lower the error, by {} to {} of the variance.""",
        _codes_hurt,
    ),
    Statement("| median error, {} polynomials, {} steps, both layouts of S6 |", _of_medians),
    Statement("\n".join(f"| width {D}, LayerNorm / no norm |{' {} / {} |' * 3}" for D in _WIDTHS), medians),
    Statement("position codes hurt S6 on `suffix`, width 8 | {} of {} protocols | {} | {} | {} | {} |", _codes_hurt_suffix),
    Statement(
        """**{} polynomials are few.** With one seed each they decide only large differences. All {} are well posed: the
            effective size of their test samples is {} to {}.""",
        _effective,
    ),
)

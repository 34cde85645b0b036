"""Computations of docs/studies/polynomials.md from results/polynomials."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from statistics import median

from expbench.claims.judgement import Judgement
from expbench.results.configurations import Configuration
from expbench.stats.families import SIGNIFICANCE
from expbench.stats.intervals import CONFIDENCE, holm
from expbench.studies.verification import polynomials_runs
from expbench.studies.verification.formatting import at_most, ends, fixed, percent, whole, word
from expbench.studies.verification.page import Page, Setting, Statement
from expbench.studies.verification.polynomials_runs import (
    AGAINST_ATTENTION,
    FAMILY,
    NORMS,
    TASK,
    WIDTHS,
    posed,
    reported,
    study,
)
from expbench.studies.verification.tables import Tables, of_all, published

_FORMER = "10000"
_CODES = (("none", None), ("sin", "auto"), ("sin", _FORMER), ("learned", None))  # with the base of the sinusoids
_ROWS = tuple(product(WIDTHS, NORMS))


def _own(t: Tables, model: str, code: str, base: str | None, **wanted: object) -> list[Configuration]:
    """Return the configurations of a model with a position code. base: `auto` if it is matched to the length."""
    found = study(t).having(model=model, positions=code, **wanted)
    return [c for c in found if base is None or c.base == base]


def _median(t: Tables, model: str, code: str, base: str | None, D: int, norm: str) -> str:
    (own,) = _own(t, model, code, base, D=D, norm=norm)
    return fixed(median(posed(own)), 3)


def _of_attention(t: Tables, code: str = "") -> list[Judgement]:
    """Return the claims that S6 has a lower error than attention (with this code), at all widths, norms and bases."""
    texts = [text for text in AGAINST_ATTENTION if f"={code}" in text]
    return [j for text in texts for j in study(t).judgements(text, family=FAMILY)]


def _at(judgements: Iterable[Judgement], D: int, norm: str, base: str | None) -> Judgement:
    (found,) = [
        j for j in judgements if (j.left["D"], j.left["norm"]) == (D, norm) and (base is None or j.left.base == base)
    ]
    return found


def _differences(t: Tables) -> Iterator[str]:
    """Yield the rows of the table of differences, each with its interval."""
    for (D, norm), (code, base) in product(_ROWS, _CODES):
        yield from (fixed(end, 2) for end in _at(_of_attention(t, code), D, norm, base).difference)


def _verdicts(t: Tables) -> Sequence[str]:
    found = _of_attention(t)
    return *of_all(found, "supported", "below the margin"), *ends((-j.difference.center for j in found), 2)


def _least(t: Tables) -> Sequence[str]:
    (only,) = [j for j in _of_attention(t) if j.verdict == "below the margin"]
    return str(only.left["D"]), fixed(-only.difference.center, 3), fixed(only.margin, 3)


def _corrected(t: Tables) -> Sequence[str]:
    found = _of_attention(t)
    p_values = [j.p for j in found]
    together = at_most(max(holm(p_values)), 2)
    return at_most(max(j.holm for j in found), 2), together, str(len(found)), str(p_values.count(min(p_values)))


def _means(judgements: Sequence[Judgement]) -> tuple[str, ...]:
    """Return of how many pairs the mean is decided in the claimed direction, their number, and the undecided ones."""
    verdicts = [str(j.means.verdict) for j in judgements]
    if set(verdicts) - {"supported", "undecided on means"}:
        raise ValueError(f"the verdicts on means are {sorted(set(verdicts))}")
    return str(verdicts.count("supported")), str(len(verdicts)), str(verdicts.count("undecided on means"))


def _open_means(t: Tables) -> Sequence[str]:
    found = _of_attention(t)
    undecided = [j for j in found if j.means.verdict == "undecided on means"]
    if sum((j.left["D"], j.left["norm"]) == (4, "layer") for j in undecided) != len(_CODES):
        raise ValueError("at width 4 with LayerNorm a mean is decided")
    of_norms = [sum(j.left["norm"] == norm for j in own) for norm in NORMS for own in (undecided, found)]
    skewed = sum("bimodal" in j.means.reason for j in undecided)
    return *_means(found), *map(str, of_norms), word(skewed)


def _shares(t: Tables) -> Sequence[str]:
    found = _of_attention(t)
    decided = [j for j in found if j.share.verdict == "supported"]
    others = {str(j.share.verdict) for j in found} - {"supported", "undecided"}
    if others or {j.left["positions"] for j in decided} != {"learned"}:
        raise ValueError("the share solved has other verdicts, or with other codes")
    together = holm([1.0 if math.isnan(j.share.p) else j.share.p for j in found])
    ((D, norm),) = [(j.left["D"], j.left["norm"]) for j, p in zip(found, together, strict=True) if p <= SIGNIFICANCE]
    if norm != "none":
        raise ValueError(f"the remaining pair has norm {norm}")
    return word(len(decided)), str(len(found)), str(len(found) - len(decided)), str(len(found)), "one", str(D)


def _compute(t: Tables) -> Sequence[str]:
    """Return the ratios of S6 to attention in parameters at the same width, and in FLOPs and state at the largest."""
    pairs = [
        pair
        for (D, norm), (code, base) in product(_ROWS, _CODES)
        for pair in zip(*(_own(t, m, code, base, D=D, norm=norm) for m in ("s6", "attn")), strict=True)
    ]
    widest = [(s6, attention) for s6, attention in pairs if s6["D"] == max(WIDTHS)]
    (flops,) = {fixed(s6["flops_per_token"] / attention["flops_per_token"], 1) for s6, attention in widest}
    (state,) = {fixed(s6["state_size"] / attention["state_size"], 1) for s6, attention in widest}
    return *ends((s6["parameters"] / attention["parameters"] for s6, attention in pairs), 1), str(max(WIDTHS)), flops, state


def _narrower(t: Tables) -> Sequence[str]:
    """Return S6 of width 6 against attention of width 8, which has more parameters, with the same codes and norm."""
    texts = [f"s6(D=6, positions={code}) < attn(D=8, positions={code})" for code in ("none", "sin", "learned")]
    found = [j for text in texts for j in study(t).post_hoc(text, TASK, about=("model", "D"), family=FAMILY)]
    sizes = [(j.left["parameters"], j.right["parameters"]) for j in found]
    if not all(one < other for one, other in sizes):
        raise ValueError(f"S6 is larger: {sizes}")
    own, others = zip(*sizes, strict=True)
    return (
        *map(str, (min(own), max(own), min(others), max(others))),
        *of_all(found, "supported"),
        *ends((-j.difference.center for j in found), 2),
    )


def _solved(t: Tables) -> Sequence[str]:
    counts = []
    for model in ("s6", "attn"):
        own = [c for c in reported(t) if c["model"] == model]
        counts += [whole(sum(c.solved for c in own)), whole(sum(c.trials for c in own))]
    most = max(reported(t), key=lambda c: c.solved)
    return fixed(most.success_threshold, 2), *counts, str(most.solved), str(most.trials), str(most["D"])


def _medians(t: Tables) -> Iterator[str]:
    """Yield the rows of the table of medians: S6 and attention with each code."""
    for (D, norm), model, (code, base) in product(_ROWS, ("s6", "attn"), _CODES):
        yield _median(t, model, code, base, D, norm)


def _relative(t: Tables) -> Iterator[str]:
    for code, base in (("rotary", None), ("alibi", None), ("none", None)):
        for norm in NORMS:
            yield _median(t, "attn", code, base, 8, norm)


def _helped(t: Tables) -> list[Judgement]:
    texts = [f"s6(D={D}, positions=sin) < s6(D={D}, positions=none)" for D in WIDTHS]
    return [j for text in texts for j in study(t).judgements(text, family=FAMILY)]


def _help(t: Tables) -> Sequence[str]:
    found = _helped(t)
    printed = [published(TASK, "s6", positions, depth=1, D=8) for positions in ("none", "sin")]
    lower, total, _ = _means(found)
    return (
        *of_all(found, "supported"),
        *ends((-j.difference.center for j in found), 2),
        at_most(max(j.holm for j in found), 2),
        *(lower, total, *printed),
    )


def _learned(t: Tables) -> Iterator[str]:
    """Yield for S6 and attention how many pairs of learned and sinusoidal codes favour the learned ones, and by how much."""
    for model in ("s6", "attn"):
        texts = [f"{model}(D={D}, positions=learned) < {model}(D={D}, positions=sin)" for D in WIDTHS]
        found = [j for text in texts for j in study(t).post_hoc(text, TASK, family=FAMILY)]
        yield from of_all(found, "supported")
        yield from ends((-j.difference.center for j in found), 2)


def _runs_of_medians(t: Tables) -> Sequence[str]:
    (runs,) = {len(posed(c)) for c in reported(t)}
    return str(runs), str(len({i for c in reported(t) for i in c.each("instance")}) - 1)


def _bases(t: Tables) -> Iterator[str]:
    """Yield for S6 and attention in how many of the widths and norms the matched base has the lower median."""
    for model in ("s6", "attn"):
        pairs = [[float(_median(t, model, "sin", base, D, norm)) for base in ("auto", _FORMER)] for D, norm in _ROWS]
        yield str(sum(matched < former for matched, former in pairs))
        yield str(len(pairs))


def _without_verdict(t: Tables) -> Sequence[str]:
    found = study(t).findings
    return str(sum(not f.judgements for f in found)), str(len(found))


def _undecided(t: Tables) -> Sequence[str]:
    judged = [j for f in study(t).findings for j in f.judgements]
    if any(j.verdict == "undecided" for j in judged):
        raise ValueError("pairs are undecided; state how many instances they need")
    found = _of_attention(t)
    means, shares = (
        sum(str(verdict).startswith("undecided") for verdict in own)
        for own in ([j.means.verdict for j in found], [j.share.verdict for j in found])
    )
    return str(len(judged)), str(len(found)), str(means), str(shares)


def _row(D: int, norm: str, cells: str) -> str:
    return f"| width {D}, {'LayerNorm' if norm == 'layer' else 'no norm'} | {cells} |"


def _table(cell: str, columns: int) -> str:
    return "\n".join(_row(D, norm, " | ".join([cell] * columns)) for D, norm in _ROWS)


PAGE = Page(
    "docs/studies/polynomials.md",
    (
        *polynomials_runs.STATEMENTS,
        Statement(
            """The claim is supported in {} of {} pairs and below the margin in {}; the error is lower by {} to {} of the
            variance of the labels.""",
            _verdicts,
        ),
        Statement(
            """Holm's p is at most {} within each claim, and at most {} over all {} pairs together. In {} pairs p is the
            least that the permutation test can give.""",
            _corrected,
        ),
        Statement("is width {} with LayerNorm and no codes: the difference is {}, the margin {}.", _least),
        Statement(_table("{} ({} to {})", len(_CODES)), _differences),
        Statement("and its {} % interval.", lambda _: (percent(CONFIDENCE),)),
        Statement(
            """The mean is lower in {} of {} pairs; {} are undecided on means: {} of the {} with LayerNorm, among them all
            codes at width 4, and {} of the {} without a norm ({word} because S6 is bimodal or skewed).""",
            _open_means,
        ),
        Statement(
            """higher for S6 in {word} of {} pairs, all with learned codes, and undecided in the other {}. This corrects
            within each claim; with a correction over all {} pairs {word} remains, width {} without a norm.""",
            _shares,
        ),
        Statement(
            """At the same width S6 has {} to {} times the parameters of attention; at width {} it also has {} times the
            FLOPs per token and {} of the state.""",
            _compute,
        ),
        Statement(
            """S6 of width 6 ({} to {} parameters) against attention of width 8 ({} to {}) is supported in {} of {}
            pairs, by {} to {}.""",
            _narrower,
        ),
        Statement(
            """On the polynomials {} to {}, of which {} are well posed, the claim is supported in {} of {} pairs and below
            the margin in {}; the error is lower by {} to {} (Holm's p over all {} pairs at most {}).""",
            polynomials_runs.unseen,
        ),
        Statement(
            """{} reported runs have the same key as a run of Table 2. Both were made with the same GPU, backend and version
            of torch, but {} runs were trained together there and {} here, and the commits differ. The test errors differ by
            {} in the median, in {} of the runs by more than {}, and by {} at most.""",
            polynomials_runs.repeated_keys,
        ),
        Statement(
            """is supported in {} of {} pairs, by {} to {} of the variance (Holm's p at most {}), and the mean is lower in
            {} of {}. The paper reports the opposite order at width 8: {} without codes, {} with them.""",
            _help,
        ),
        Statement("Each median is over {} runs, two on each of {} well-posed polynomials.", _runs_of_medians),
        Statement(_table(" / ".join(["{}"] * len(_CODES)), 2), _medians),
        Statement(
            "they are better than sinusoids in {} of {} pairs, by {} to {}; for attention in {} of {}, by {} to {}.",
            _learned,
        ),
        Statement("has the lower median in {} of {} pairs for S6 and in {} of {} for attention", _bases),
        Statement(
            "rotary codes {} with LayerNorm and {} without, with ALiBi {} and {}, without codes {} and {}.", _relative
        ),
        Statement(
            """On average over the {} well-posed polynomials its floor is {}. The mean errors of attention are {} to {} with
            LayerNorm and {} to {} without.""",
            polynomials_runs.floor,
        ),
        Statement(
            """its error without codes lies below this floor in {} of {} runs, in {} of them by more than {word} standard
            errors of the measured error. {} of {} runs of attention lie below it too, by at most {} standard errors""",
            polynomials_runs.below_the_floor,
        ),
        Statement(
            """an error of {} in {} of {} runs of S6 and {} of {} of attention; the most are {} of {}, by S6 of width {}
            with learned codes.""",
            _solved,
        ),
        Statement("{} of {} registered claims have no verdict yet.", _without_verdict),
        Statement(
            """**One polynomial of {} is excluded.** The test set measures the error of a constant prediction on it to {} %
            (the limit is {} %)""",
            polynomials_runs.ill_posed,
        ),
        Statement(
            """On the distributions, none of {} pairs is undecided. Of the {} pairs of S6 and attention, {} are undecided on
            means and {} on the share solved.""",
            _undecided,
        ),
    ),
    settings=(
        Setting("width {list}", lambda t: WIDTHS),
        Setting("widths {list}", lambda t: WIDTHS),
        Setting("base {list}", lambda t: [c["position_base"] for c in study(t).configurations]),
    ),
    names=("Table {}", "arXiv {}"),
)

"""Computations of docs/studies/polynomials.md from results/polynomials."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import product
from statistics import median

from expbench.claims.judgement import Judgement
from expbench.results.configurations import Configuration
from expbench.stats.intervals import CONFIDENCE
from expbench.stats.sampling import MOST_SAMPLING_ERROR, sampling_error
from expbench.studies.verification.formatting import at_most, ends, fixed, percent, whole, word
from expbench.studies.verification.page import Page, Setting, Statement
from expbench.studies.verification.tables import Study, Tables, of_all, published, settings_of

_TASK, _FAMILY = "polyreg", "random"
_WIDTHS, _NORMS = (4, 6, 8), ("layer", "none")
_FORMER = "10000"
_CODES = (("none", None), ("sin", "auto"), ("sin", _FORMER), ("learned", None))  # with the base of the sinusoids
_ROWS = tuple(product(_WIDTHS, _NORMS))


def _study(t: Tables) -> Study:
    return t.study("polynomials")


def _own(t: Tables, model: str, code: str, base: str | None, **wanted: object) -> list[Configuration]:
    """Return the configurations of a model with a position code. base: `auto` if it is matched to the length."""
    found = _study(t).having(model=model, positions=code, **wanted)
    return [c for c in found if base is None or c.base == base]


def _posed(configuration: Configuration) -> list[float]:
    """Return the errors of the runs on well-posed polynomials, as the verdicts use them."""
    pairs = zip(configuration.each("value"), configuration.each("well_posed"), strict=True)
    return [value for value, posed in pairs if posed is not False]


def _median(t: Tables, model: str, code: str, base: str | None, D: int, norm: str) -> str:
    (own,) = _own(t, model, code, base, D=D, norm=norm)
    return fixed(median(_posed(own)), 3)


def _of_attention(t: Tables, code: str) -> list[Judgement]:
    """Return the claims that S6 has a lower error than attention with this code, at all widths, norms and bases."""
    texts = [f"s6(D={D}, positions={code}) < attn(D={D}, positions={code})" for D in _WIDTHS]
    return [j for text in texts for j in _study(t).judgements(text, family=_FAMILY)]


def _all_of_attention(t: Tables) -> list[Judgement]:
    return [j for code in ("none", "sin", "learned") for j in _of_attention(t, code)]


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
    found = _all_of_attention(t)
    return *of_all(found, "supported", "below the margin"), *ends((-j.difference.center for j in found), 2)


def _corrected(t: Tables) -> Sequence[str]:
    return (at_most(max(j.holm for j in _all_of_attention(t)), 2),)


def _least(t: Tables) -> Sequence[str]:
    (only,) = [j for j in _all_of_attention(t) if j.verdict == "below the margin"]
    return str(only.left["D"]), fixed(-only.difference.center, 3), fixed(only.margin, 3)


def _means(judgements: Sequence[Judgement]) -> tuple[str, ...]:
    """Return of how many pairs the mean is decided in the claimed direction, their number, and the undecided ones."""
    verdicts = [str(j.means.verdict) for j in judgements]
    if set(verdicts) - {"supported", "undecided on means"}:
        raise ValueError(f"the verdicts on means are {sorted(set(verdicts))}")
    return str(verdicts.count("supported")), str(len(verdicts)), str(verdicts.count("undecided on means"))


def _open_means(t: Tables) -> Sequence[str]:
    found = [j for j in _all_of_attention(t) if j.means.verdict == "undecided on means"]
    skewed = sum("bimodal" in j.means.reason for j in found)
    return *_means(_all_of_attention(t)), word(skewed)


def _shares(t: Tables) -> Sequence[str]:
    found = _all_of_attention(t)
    decided = [j for j in found if j.share.verdict == "supported"]
    if {str(j.share.verdict) for j in found} - {"supported", "undecided"} or {j.left["positions"] for j in decided} != {
        "learned"
    }:
        raise ValueError("the share solved has other verdicts, or with other codes")
    return word(len(decided)), str(len(found)), str(len(found) - len(decided))


def _solved(t: Tables) -> Sequence[str]:
    counts = []
    for model in ("s6", "attn"):
        own = [c for c in _reported(t) if c["model"] == model]
        counts += [whole(sum(c.solved for c in own)), whole(sum(c.trials for c in own))]
    most = max(_reported(t), key=lambda c: c.solved)
    return fixed(most.success_threshold, 2), *counts, str(most.solved), str(most.trials), str(most["D"])


def _narrower(t: Tables) -> Sequence[str]:
    """Return S6 of width 6 against attention of width 8, which has more parameters, with the same codes and norm."""
    found = [
        j
        for code in ("none", "sin", "learned")
        for j in _study(t).post_hoc(
            f"s6(D=6, positions={code}) < attn(D=8, positions={code})", _TASK, about=("model", "D"), family=_FAMILY
        )
    ]
    sizes = [(j.left["parameters"], j.right["parameters"]) for j in found]
    if not all(one < other for one, other in sizes):
        raise ValueError(f"S6 is larger: {sizes}")
    own, others = zip(*sizes, strict=True)
    return (
        *map(str, (min(own), max(own), min(others), max(others))),
        *of_all(found, "supported"),
        *ends((-j.difference.center for j in found), 2),
    )


def _sizes(t: Tables) -> Sequence[str]:
    sizes = [
        (s6["parameters"], attention["parameters"])
        for (D, norm), (code, base) in product(_ROWS, _CODES)
        for s6, attention in zip(*(_own(t, m, code, base, D=D, norm=norm) for m in ("s6", "attn")), strict=True)
    ]
    ratios = [one / other for one, other in sizes]
    return tuple(ends(ratios, 1))


def _medians(t: Tables) -> Iterator[str]:
    """Yield the rows of the table of medians: S6 and attention with each code."""
    for (D, norm), model, (code, base) in product(_ROWS, ("s6", "attn"), _CODES):
        yield _median(t, model, code, base, D, norm)


def _relative(t: Tables) -> Iterator[str]:
    for code, base in (("rotary", None), ("alibi", None), ("none", None)):
        for norm in _NORMS:
            yield _median(t, "attn", code, base, 8, norm)


def _helped(t: Tables) -> list[Judgement]:
    texts = [f"s6(D={D}, positions=sin) < s6(D={D}, positions=none)" for D in _WIDTHS]
    return [j for text in texts for j in _study(t).judgements(text, family=_FAMILY)]


def _help(t: Tables) -> Sequence[str]:
    found = _helped(t)
    printed = [published(_TASK, "s6", positions, depth=1, D=8) for positions in ("none", "sin")]
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
        texts = [f"{model}(D={D}, positions=learned) < {model}(D={D}, positions=sin)" for D in _WIDTHS]
        found = [j for text in texts for j in _study(t).post_hoc(text, _TASK, family=_FAMILY)]
        yield from of_all(found, "supported")
        yield from ends((-j.difference.center for j in found), 2)


def _bases(t: Tables) -> Iterator[str]:
    """Yield for S6 and attention in how many of the widths and norms the matched base has the lower median."""
    for model in ("s6", "attn"):
        pairs = [[float(_median(t, model, "sin", base, D, norm)) for base in ("auto", _FORMER)] for D, norm in _ROWS]
        yield str(sum(matched < former for matched, former in pairs))
        yield str(len(pairs))


def _floor(t: Tables) -> Sequence[str]:
    own = [c for c in _study(t).having(model="attn", positions="none") if c.trials]
    ((floor, bound),) = {(c.floor, c.floor_of) for c in own}
    if floor is None or "symmetry" not in bound:
        raise ValueError(f"the floor is {floor}, of {bound!r}")
    means = {norm: ends((c.interval.center for c in own if c["norm"] == norm), 3) for norm in _NORMS}
    return fixed(floor, 3), *means["layer"], *means["none"]


def _below_the_floor(t: Tables) -> Sequence[str]:
    """Return how many runs of S6 without codes have an error below the floor of attention without codes."""
    (attention, *_) = [c for c in _study(t).having(model="attn", positions="none") if c.trials]
    floors = dict(zip(attention.each("instance"), attention.each("floor"), strict=True))
    below, total = 0, 0
    for c in _study(t).having(model="s6", positions="none"):
        pairs = list(zip(c.each("instance"), c.each("value"), strict=True))
        below, total = below + sum(value < floors[i] for i, value in pairs), total + len(pairs)
    return str(below), str(total)


def _size(t: Tables) -> Sequence[str]:
    s = _study(t)
    tuning = s.keys[s.keys["kind"] == "tuning"]
    return whole(len(s.runs)), whole(len(tuning)), str(s.keys["device_name"].str.contains("CPU").sum())


def _reported(t: Tables) -> list[Configuration]:
    return [c for c in _study(t).configurations if c.trials]


def _labels(t: Tables) -> Sequence[str]:
    runs, own = _study(t).runs, _reported(t)
    ((L, variance),) = {(c["L"], settings_of(c)["label_var"]) for c in own}
    return str(runs["instance"].nunique()), str(L), f"{variance:g}", word(runs["seed"].nunique())


def _protocol(t: Tables) -> Sequence[str]:
    ((depth, steps, batch),) = {(c["depth"], c["steps"], c["batch_size"]) for c in _reported(t)}
    return word(int(depth)), whole(steps), str(batch)


def _tuning(t: Tables) -> Sequence[str]:
    own, found = _reported(t), []
    for norm in _NORMS:
        ((runs, rates),) = {(c.tuning.runs, c.tuning.rates) for c in own if c["norm"] == norm and c.tuning is not None}
        found += [word(len(rates)), f"{rates[0]:g}".lstrip("0"), f"{rates[-1]:g}".lstrip("0"), str(runs)]
    return found


def _base(t: Tables) -> Sequence[str]:
    (base,) = {float(c["position_base"]) for c in _study(t).having(positions="sin") if c.base == "auto"}
    return (fixed(base, 2),)


def _ill_posed(t: Tables) -> Sequence[str]:
    found = _study(t).runs.drop_duplicates("instance")
    (left_out,) = found[~found["well_posed"].astype(bool)].itertuples()
    error = sampling_error(left_out.label_kurtosis, left_out.effective_sample_size, left_out.test_size)
    excluded = {j.excluded for j in _all_of_attention(t)}
    if excluded != {1}:
        raise ValueError(f"{excluded} instances are excluded")
    return str(len(found)), fixed(100 * float(error), 1), percent(MOST_SAMPLING_ERROR)


def _without_verdict(t: Tables) -> Sequence[str]:
    found = _study(t).findings
    return str(sum(not f.judgements for f in found)), str(len(found))


def _undecided(t: Tables) -> Sequence[str]:
    judged = [j for f in _study(t).findings for j in f.judgements]
    if any(j.verdict == "undecided" for j in judged):
        raise ValueError("pairs are undecided; state how many instances they need")
    return (str(len(judged)),)


def _row(D: int, norm: str, cells: str) -> str:
    return f"| width {D}, {'LayerNorm' if norm == 'layer' else 'no norm'} | {cells} |"


def _table(cell: str, columns: int) -> str:
    return "\n".join(_row(D, norm, " | ".join([cell] * columns)) for D, norm in _ROWS)


PAGE = Page(
    "docs/studies/polynomials.md",
    (
        Statement("- **Size**: {} reported runs and {} runs that choose learning rates; {} of the latter on a CPU.", _size),
        Statement(
            """- **Labels**: {} random polynomials of sequences of length {}, with labels of variance {}. Each is trained
            with {word} seeds""",
            _labels,
        ),
        Statement("- **Networks**: {word} layer, trained for {} steps at batch {}.", _protocol),
        Statement("with the base matched to the length ({} here)", _base),
        Statement(
            """With LayerNorm each configuration has {word} rates from {} to {} and {} runs; without a norm {word}
            rates from {} to {} and {} runs.""",
            _tuning,
        ),
        Statement(
            """The claim is supported in {} of {} pairs and below the margin in {}; the error is lower by {} to {} of the
            variance of the labels.""",
            _verdicts,
        ),
        Statement("Holm's p is at most {} in each pair.", _corrected),
        Statement("is width {} with LayerNorm and no codes: the difference is {}, the margin {}.", _least),
        Statement(_table("{} ({} to {})", len(_CODES)), _differences),
        Statement("and its {} % interval.", lambda _: (percent(CONFIDENCE),)),
        Statement(
            "The mean is lower in {} of {} pairs; {} are undecided on means ({word} because S6 is bimodal or skewed).",
            _open_means,
        ),
        Statement(
            "higher for S6 in {word} of {} pairs, all with learned codes, and undecided in the other {}.",
            _shares,
        ),
        Statement("At the same width S6 has {} to {} times the parameters of attention.", _sizes),
        Statement(
            """S6 of width 6 ({} to {} parameters) against attention of width 8 ({} to {}) is still supported in {} of {}
            pairs, by {} to {}.""",
            _narrower,
        ),
        Statement(
            """is supported in {} of {} pairs, by {} to {} of the variance (Holm's p at most {}), and the mean is lower in
            {} of {}. The paper reports the opposite order at width 8: {} without codes, {} with them.""",
            _help,
        ),
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
            """its floor is {} on average over the polynomials. The means of attention are {} to {} with LayerNorm and
            {} to {} without.""",
            _floor,
        ),
        Statement("its error without codes lies below this floor in {} of {} runs.", _below_the_floor),
        Statement(
            """an error of {} in {} of {} runs of S6 and {} of {} of attention; the most are {} of {}, by S6 of width {}
            with learned codes.""",
            _solved,
        ),
        Statement("{} of {} registered claims have no verdict yet.", _without_verdict),
        Statement(
            """**One polynomial of {} is excluded.** The test set measures the error of a constant prediction on it to {} %
            (the limit is {} %)""",
            _ill_posed,
        ),
        Statement("On the distributions, none of {} pairs is undecided", _undecided),
    ),
    settings=(
        Setting("width {list}", lambda t: _WIDTHS),
        Setting("widths {list}", lambda t: _WIDTHS),
        Setting("base {list}", lambda t: [c["position_base"] for c in _study(t).configurations]),
    ),
    names=("Table {}", "arXiv {}"),
)

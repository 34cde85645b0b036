"""Computations of docs/studies/degree.md from results/degree: the study, and lengths up to 32."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from statistics import median

from expbench.claims.judgement import Judgement
from expbench.results.configurations import Configuration
from expbench.stats.means import LEAST_UNITS_FOR_MEANS
from expbench.studies.verification import degree_floors, degree_long, starts
from expbench.studies.verification.degree_floors import SHORT, interval_of, is_forbidden
from expbench.studies.verification.degree_long import degree_study, solved
from expbench.studies.verification.formatting import ends, fixed, significant, whole
from expbench.studies.verification.page import Page, Setting, Statement, Unverified
from expbench.studies.verification.table2_regression import suffix_with_codes
from expbench.studies.verification.tables import Tables, settings_of

_ON_SIGNS = {"model": "s6-poly", "depth": 1, "family": "suffix", "inputs": "signs"}


def _size(t: Tables) -> Sequence[str]:
    s = degree_study(t)
    return whole(len(s.runs)), whole((s.runs["L"] >= 256).sum()), whole(len(s.keys) - len(s.runs))


def _training(t: Tables) -> Sequence[str]:
    configurations = degree_study(t).configurations
    width, steps, batch = (only for name in ("D", "steps", "batch_size") for only in {c[name] for c in configurations})
    (tried,) = {c.tuning.runs / len(c.tuning.rates) for c in configurations if c.tuning is not None}
    return str(width), whole(steps), str(batch), whole(tried)


def _threshold(t: Tables) -> Sequence[str]:
    (threshold,) = {c.success_threshold for c in degree_study(t).having(task="polyreg")}
    return (fixed(threshold, 2),)


def _judged(t: Tables, text: str) -> list[Judgement]:
    found = [f for f in degree_study(t).findings if f.claim.text == text and f.claim.withdrawn is None]
    return [j for f in found for j in f.judgements]


def _supported(judgements: Sequence[Judgement]) -> Sequence[str]:
    return str(sum(j.verdict == "supported" for j in judgements)), str(len(judgements))


def _on_means(t: Tables) -> Sequence[str]:
    """Return the pairs of each claim, and how many a verdict on means needs; no claim that stands is undecided."""
    found = [j for f in degree_study(t).findings if f.claim.withdrawn is None for j in f.judgements]
    if any(j.verdict == "undecided" for j in found):
        raise ValueError("a claim is undecided")
    (pairs,) = {j.pairs for j in found}
    return str(pairs), str(LEAST_UNITS_FOR_MEANS)


def _withdrawn(t: Tables) -> Iterator[str]:
    """Return the lengths of the withdrawn claims against each model, and in how many the error of S6 is lower."""
    found = [f for f in degree_study(t).findings if f.claim.withdrawn is not None]
    own: list[Judgement] = []
    for model in ("linattn", "attn"):
        text = f"s6(depth=1, positions=none) < {model}(depth=1, positions=sin)"
        against = [j for f in found if f.claim.text == text for j in f.judgements]
        yield str(len({j.where["L"] for j in against if j.where["L"] == j.where["degree"] and "positions" in j.confounders}))
        own += against
    if not all(j.difference.high < 0 for j in own) or len(own) != len(found):
        raise ValueError("the error of S6 is not lower in each of the withdrawn claims")
    yield str(len(own))


def _left_out(t: Tables) -> Iterator[str]:
    """Return how many runs are ill-posed, and how many of `sparse` and `product`, of the latter also at each length."""
    runs = degree_study(t).runs
    settings = runs["task_settings"].map(json.loads)
    family, inputs = (settings.map(lambda known, name=name: known.get(name)) for name in ("family", "inputs"))
    posed = runs["well_posed"].isin([False])
    sparse, product = posed & (family == "sparse"), posed & (family == "product")
    if (sparse & (inputs != "unit")).any() or sparse.sum() + product.sum() != posed.sum():
        raise ValueError("other runs are ill-posed")
    yield from (whole(posed.sum()), whole(sparse.sum()), "0", "1", whole(product.sum()), whole((family == "product").sum()))
    for length in sorted(runs.loc[family == "product", "L"].unique()):
        own = runs["L"] == length
        yield from (str(length), whole((product & own).sum()))
        yield from (whole(((family == "product") & own).sum()),) if length == 4 else ()
    yield whole(((family == "product") & (runs["L"] == 8)).sum())


def _on_products(t: Tables) -> Iterator[str]:
    """Return degrees and lengths of the claim on sparse products, its verdicts, and the errors and floors of attention."""
    found = _judged(t, "s6(depth=1) < linattn(depth=1)")
    degrees, lengths = (sorted({int(j.where[name]) for j in found}) for name in ("degree", "L"))
    yield from ("0", "1", *map(str, degrees), *map(str, lengths), *_supported(found), str(degrees[0]))
    for length in lengths:
        c = _linear(t, family="sparse", inputs="unit", L=length, degree=degrees[0], depth=1)
        yield from (fixed(median(c.values), 3), str(length), fixed(c.floor or 0, 3))


def _lower_on_products(t: Tables) -> Sequence[str]:
    """Return the well-posed settings of sparse products with one layer, and where S6 has a lower median than each model."""
    own = [c for c in degree_study(t).having(family="sparse", depth=1, L=SHORT) if c["well_posed"]]
    medians = {(settings_of(c)["inputs"], c["L"], c["degree"], c["model"]): median(c.values) for c in own}
    places = {place[:-1] for place in medians}
    lower = [sum(medians[*p, "s6"] < medians[*p, model] for p in places) for model in ("linattn", "attn", "s6-poly")]
    return str(len(places)), *map(str, lower)


def _one_layer(t: Tables) -> Sequence[str]:
    own = {"family": "suffix", "inputs": "unit", "depth": 1, "L": SHORT}
    s6 = min(degree_study(t).having(model="s6", **own), key=lambda c: c.solved)
    attention = [c for c in degree_study(t).having(model="linattn", **own) if solved(c)]
    if len([c for c in attention if c["L"] == 4]) != len(degree_study(t).having(model="linattn", **{**own, "L": 4})):
        raise ValueError("linear attention does not solve all degrees at L = 4")
    (degree,) = {c["degree"] for c in attention if c["L"] > 4}
    return str(s6.solved), str(s6.trials), str(degree)


def _largest(t: Tables, **wanted: object) -> str:
    """Return the largest degree that at least half of the seeds solve."""
    return str(max(c["degree"] for c in degree_study(t).having(**wanted) if solved(c) and c["well_posed"]))


def _two_layers_on_products(t: Tables) -> Iterator[str]:
    for length in (16, 32):
        own = {"model": "s6", "family": "sparse", "L": length, "depth": 2}
        (reached,) = {_largest(t, inputs=inputs, **own) for inputs in ("unit", "signs")}
        yield from (reached, str(length))


def _solved_by_layers(t: Tables) -> Iterator[str]:
    degrees = (4, 6, 8, 9, 12)
    yield from map(str, degrees)
    for depth in (2, 3, 4):
        own = {"model": "s6", "family": "suffix", "inputs": "signs", "L": 32, "depth": depth}
        yield from (str(depth), *(str(degree_study(t).only(degree=degree, **own).solved) for degree in degrees))


def _suffix_on_signs(t: Tables) -> Iterator[str]:
    """Return the degrees of the table and how many seeds solve them, then the medians at degrees from 3 and below L."""
    own = {c["L"]: degree_study(t).having(**_ON_SIGNS, L=c["L"]) for c in degree_study(t).having(**_ON_SIGNS, L=(16, 32))}
    between = []
    for length in (32, 16):
        found = sorted(own[length], key=lambda c: int(c["degree"]))
        if {c.trials for c in found} != {10}:
            raise ValueError("not all have ten seeds")
        between += [c for c in found if 3 <= c["degree"] < length]
    yield from (str(c["degree"]) for c in sorted(own[32], key=lambda c: int(c["degree"])))
    for length in (16, 32):
        yield from (str(length), *(str(c.solved) for c in sorted(own[length], key=lambda c: int(c["degree"]))))
    yield "3"
    yield from (*ends((median(c.values) for c in between), 3), *_threshold(t))


def _linear(t: Tables, **wanted: object) -> Configuration:
    """Return the only configuration of linear attention with these settings."""
    return degree_study(t).only(model="linattn", positions="sin", **wanted)


def _cannot(t: Tables) -> Iterator[str]:
    for depth in (1, 2):
        c = _linear(t, family="suffix", inputs="signs", L=32, degree=32, depth=depth)
        yield fixed(c.floor or 0, 2)


def _no_bound(t: Tables) -> Sequence[str]:
    own = degree_study(t).having(model="s6-poly", depth=1, family="suffix", inputs="signs", L=(16, 32))
    return (f"{max(c.floor or 0 for c in own):g}",)


def _polynomial_against_exact(t: Tables) -> Sequence[str]:
    found = {str(j.verdict): j.where for j in _judged(t, "s6-poly(depth=1) < s6(depth=1)")}
    return found["supported"]["L"], found["supported"]["degree"], found["ceiling"]["degree"]


def _four_layers(t: Tables) -> Iterator[str]:
    for family, inputs in (("suffix", ("signs",)), ("sparse", ("unit", "signs"))):
        yield max((_largest(t, model="linattn", family=family, inputs=i, L=32, depth=4) for i in inputs), key=int)


def _learned(t: Tables) -> Iterator[str]:
    """Return the rate of the networks with learned codes, and the rows of the table on them."""
    rows = [("sparse", 16, 1, 1), ("sparse", 16, 2, 2), ("sparse", 16, 4, 3), ("sparse", 32, 1, 1), ("suffix", 32, 2, 1)]
    kept = t.study("witnesses").having(model="linattn", positions="learned")
    (rate,) = {c["lr"] for c in kept}
    yield fixed(rate, 2)
    for family, length, degree, depth in rows:
        own = {"family": family, "L": length, "degree": degree, "depth": depth}
        inputs = "unit" if family == "sparse" else "signs"
        ours = _linear(t, inputs=inputs, **own)
        learned = t.study("witnesses").only(model="linattn", positions="learned", inputs=inputs, **own)
        if solved(ours) or not learned.solved or learned.trials != 1 or (depth == 1) != is_forbidden(ours):
            raise ValueError(f"the text on {family}, L={length}, degree {degree} does not hold")
        yield from interval_of(ours) if family == "sparse" else ()
        yield from (str(length), str(degree), str(depth), fixed(median(ours.values), 3), significant(learned.values[0]))


def _exact_on_signs(t: Tables) -> Sequence[str]:
    own = degree_study(t).having(model="s6", depth=1, family="suffix", inputs="signs", L=SHORT[1:])
    return (str(max(c["degree"] for c in own if solved(c))),)


def _only(t: Tables, name: str) -> int:
    """Return a fact that all networks of one layer of linear attention share."""
    (value,) = {c[name] for c in degree_study(t).having(model="linattn", depth=1, task="polyreg")}
    return int(value)


PAGE = Page(
    "docs/studies/degree.md",
    (
        Statement(
            """- **Size**: {} reported runs, {} of them at lengths of 256, 512 and 1024, and {} runs that chose learning
            rates.""",
            _size,
        ),
        Statement(
            """width {}, no normalisation (so that floors hold), {} steps, batch {}. Each rate of a grid that all models
            share is tried with {} runs""",
            _training,
        ),
        Statement("(normalised error {})", _threshold),
        Statement(
            """every degree up to L, in {} of {} seeds or more. One layer of linear attention solves all degrees at
            L = 4; at L = 8 to 32, at least half of its seeds solve degree {} only.""",
            _one_layer,
        ),
        Statement("a claim has {} pairs at each setting, and {} would be needed.", _on_means),
        Statement(
            """against linear attention ({} lengths) and softmax attention ({} lengths). The error of S6 is lower in all {}.
            """,
            _withdrawn,
        ),
        Statement("on `suffix` they favour S6 in {} of {} protocols", suffix_with_codes),
        Statement(
            """- **Left out**: {} runs are [ill-posed](../guides/fair-comparison.md#ill-posed-labels), and no verdict and no
            count of solved labels uses them: {} of `sparse` on [{}, {}], and {} of the {} runs of `product`. `product` has
            lengths of {} ({} of {} ill-posed) and {} ({} of {}) only""",
            _left_out,
        ),
        Statement(
            """concerns `sparse` on [{}, {}] with degrees {} and {} at L = {} and {}, and is supported in {} of {} settings.
            Each setting is one polynomial, and its pairs are seeds, so the verdicts do not extend to other polynomials. At
            degree {}, linear attention is far above its floor by degree and structure: its median error is {} at L = {}
            (floor {}) and {} at L = {} (floor {}).""",
            _on_products,
        ),
        Statement(
            """over the {} well-posed settings of `sparse` at L up to 32, one layer of S6 has a lower median error than one
            layer of linear attention in {}, of softmax attention in {} and of the polynomial S6 in {}.""",
            _lower_on_products,
        ),
        Statement(
            "on sparse products, is supported in {} of {} settings",
            lambda t: _supported(_judged(t, "linattn(depth=2) < linattn(depth=1)")),
        ),
        Statement(
            """| layers | degree {} | degree {} | degree {} | degree {} | degree {} |
            | --- | --- | --- | --- | --- | --- |
            | {} | {} | {} | {} | {} | {} |
            | {} | {} | {} | {} | {} | {} |
            | {} | {} | {} | {} | {} | {} |""",
            _solved_by_layers,
        ),
        Statement("seeds solve with two layers is {} at L = {}, and {} at L = {}.", _two_layers_on_products),
        Statement(
            f"""| degree{" | {}" * 11} |
            |{" --- |" * 12}
            | L = {{}}{" | {}" * 9} | - | - |
            | L = {{}}{" | {}" * 11} |
            From degree {{}} up to below L, the median errors are {{}} to {{}}, on both sides of the threshold of {{}}.""",
            _suffix_on_signs,
        ),
        Statement("with one layer (floor {}) or with two (floor {})", _cannot),
        Statement("the table to the polynomial S6 (floor {})", _no_bound),
        Statement(
            "better than S6 on signs is, at L = {}, supported for degree {}. For degree {} both are at the ceiling.",
            _polynomial_against_exact,
        ),
        Statement(
            "can represent it. They solve degree {} on signs and degree {} on sparse products",
            _four_layers,
        ),
        Statement("**The budget is fixed.** Every configuration has {} steps", lambda t: _training(t)[1:2]),
        Statement(
            """at an untuned rate of {}. So it shows existence only, and is no comparison of codes:
            | family | L | degree | layers | sinusoidal | learned |
            | --- | --- | --- | --- | --- | --- |
            | `sparse` on [{}, {}] | {} | {} | {} | {} | {} |
            | `sparse` on [{}, {}] | {} | {} | {} | {} | {} |
            | `sparse` on [{}, {}] | {} | {} | {} | {} | {} |
            | `sparse` on [{}, {}] | {} | {} | {} | {} | {} |
            | `suffix` on signs | {} | {} | {} | {} | {} |""",
            _learned,
        ),
        Statement("codes have a base of {}, and", lambda t: (whole(_only(t, "position_base")),)),
        Statement("one layer of linear attention has degree {}. This study", lambda t: (str(_only(t, "network_degree")),)),
        Statement("degrees above {} at L = 8 to 32", _exact_on_signs),
        *starts.OF_DEGREE,
        *degree_floors.STATEMENTS,
        *degree_long.STATEMENTS,
    ),
    settings=(
        Setting("L = {list}", lambda t: [c["L"] for c in degree_study(t).configurations]),
        Setting("L up to {}", lambda t: [c["L"] for c in degree_study(t).configurations]),
        Setting("lengths up to {}", lambda t: [c["L"] for c in degree_study(t).configurations]),
        Setting("lengths of {list}", lambda t: [c["L"] for c in degree_study(t).configurations]),
        Setting("Lengths of {} and more", lambda t: [c["L"] for c in degree_study(t).configurations]),
        Setting("Degrees {list}", lambda t: [c["degree"] for c in degree_study(t).configurations]),
        Setting("degree {list}", lambda t: [c["degree"] for c in degree_study(t).configurations]),
        Setting("degrees {list}", lambda t: [c["degree"] for c in degree_study(t).configurations]),
        Setting("width {}", lambda t: [c["D"] for c in degree_study(t).configurations]),
        Setting("[{}, {}]", lambda t: {0.5, 1}),
    ),
    names=("Table {}",),
    exceptions=(
        Unverified(
            "about 24 minutes of a machine with four H200s, shared with Table 2, and 49 minutes", "measured with a clock"
        ),
        Unverified("**A floor of 0 is", "the definition of a floor"),
    ),
)

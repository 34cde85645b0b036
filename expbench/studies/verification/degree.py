"""Computations of docs/studies/degree.md from results/degree: the study, and lengths up to 32."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from statistics import median

import pandas as pd

from expbench.claims.judgement import Judgement
from expbench.results.configurations import Configuration
from expbench.results.reported import FIRST_STEPS
from expbench.stats.means import LEAST_UNITS_FOR_MEANS
from expbench.studies.verification import degree_floors, degree_long, starts
from expbench.studies.verification.degree_floors import SHORT, interval_of, is_forbidden
from expbench.studies.verification.degree_long import degree_study, solved
from expbench.studies.verification.formatting import ends, fixed, percent, significant, whole
from expbench.studies.verification.page import Page, Setting, Statement, Unverified
from expbench.studies.verification.table2_regression import suffix_with_codes
from expbench.studies.verification.tables import Tables


def _size(t: Tables) -> Sequence[str]:
    s = degree_study(t)
    return whole(len(s.runs)), whole((s.runs["L"] >= 256).sum()), whole(len(s.keys) - len(s.runs))


def _training(t: Tables) -> Sequence[str]:
    configurations = degree_study(t).configurations
    (width,), (steps,) = {c["D"] for c in configurations}, {c["steps"] for c in configurations}
    (tried,) = {c.tuning.runs / len(c.tuning.rates) for c in configurations if c.tuning is not None}
    return str(width), whole(steps), whole(tried)


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


def _one_layer(t: Tables) -> Sequence[str]:
    own = {"family": "suffix", "inputs": "unit", "depth": 1, "L": SHORT}
    s6 = min(degree_study(t).having(model="s6", **own), key=lambda c: c.solved)
    attention = [c for c in degree_study(t).having(model="linattn", **own) if c.solved]
    return str(s6.solved), str(s6.trials), str(max(c["degree"] for c in attention))


def _largest(t: Tables, **wanted: object) -> str:
    """Return the largest degree that at least half of the seeds solve."""
    return str(max(c["degree"] for c in degree_study(t).having(**wanted) if solved(c)))


def _more_layers(t: Tables) -> Iterator[str]:
    for depth in (2, 3):
        yield _largest(t, model="s6", family="suffix", inputs="signs", L=32, depth=depth)
    for length in (16, 32):
        reached = {
            _largest(t, model="s6", family="sparse", inputs=inputs, L=length, depth=2) for inputs in ("unit", "signs")
        }
        yield min(reached, key=int)


def _suffix_on_signs(t: Tables) -> Iterator[str]:
    for length in (32, 16):
        own = degree_study(t).having(model="s6-poly", depth=1, family="suffix", inputs="signs", L=length)
        never = sorted((c for c in own if not c.solved), key=lambda c: int(c["degree"]))
        if length == 32:
            (full,) = [c for c in own if c["degree"] == length]
            yield from (str(length), str(length), str(full.solved), str(full.trials))
        yield from (str(length), *(str(c["degree"]) for c in never))
        if length == 32:
            yield from ends((median(c.values) for c in never), 3)


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


def _polynomial(t: Tables, *depths: int) -> pd.DataFrame:
    """Return the runs of the polynomial S6 at these depths, up to L = 32."""
    runs = degree_study(t).runs
    return runs[(runs["model"] == "s6-poly") & (runs["L"] <= 32) & runs["depth"].isin(depths)]


def _diverged(t: Tables, *depths: int) -> str:
    return percent(_polynomial(t, *depths)["status"].eq("diverged").mean())


def _stopped(t: Tables) -> Sequence[str]:
    runs = _polynomial(t, 4)
    at = runs.loc[runs["status"] == "diverged", "error"].str.extract(r"at step (\d+) of")[0].astype(int)
    return percent((at < FIRST_STEPS).mean()), str(FIRST_STEPS), percent((at == 1).mean())


def _lowest_rate(t: Tables) -> Sequence[str]:
    runs, every = _polynomial(t, 4), degree_study(t).runs
    exact = every[(every["model"] == "s6") & (every["L"] <= 32) & (every["depth"] == 4)]
    lowest = runs["lr"].min()
    return (
        significant(lowest),
        whole((runs["lr"] == lowest).sum()),
        whole(len(runs)),
        percent(exact["status"].eq("ok").mean()),
    )


def _exact_on_signs(t: Tables) -> Sequence[str]:
    own = degree_study(t).having(model="s6", depth=1, family="suffix", inputs="signs", L=SHORT[1:])
    return (str(max(c["degree"] for c in own if solved(c))),)


def _only(t: Tables, name: str) -> int:
    """Return a fact that all networks of one layer of linear attention share."""
    (value,) = {c[name] for c in degree_study(t).having(model="linattn", depth=1, task="polyreg")}
    return int(value)


def _versions(t: Tables) -> Sequence[str]:
    """Return the version of s6-poly that starts scaled, and that of this study."""
    (later,), (own,) = (
        {c["model_version"] for c in s.having(model="s6-poly")} for s in (t.study("starts"), degree_study(t))
    )
    return later, own


def _scaled_start(t: Tables) -> Sequence[str]:
    length, degree, depth, _ = starts.size(t)
    return depth.capitalize(), length, degree, *starts.learned(t)


PAGE = Page(
    "docs/studies/degree.md",
    (
        Statement(
            """- **Size**: {} reported runs, {} of them at lengths of 256, 512 and 1024, and {} runs that chose learning
            rates.""",
            _size,
        ),
        Statement(
            """width {}, no normalisation (so that floors hold), {} steps. Each rate of a grid that all models share is
            tried with {} runs""",
            _training,
        ),
        Statement("(normalised error {})", _threshold),
        Statement(
            "every degree up to L, in {} of {} seeds or more. One layer of linear attention solves no degree above {}.",
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
            "lower than that of linear attention is supported in {} of {} settings",
            lambda t: _supported(_judged(t, "s6(depth=1) < linattn(depth=1)")),
        ),
        Statement(
            "on sparse products, is supported in {} of {} settings",
            lambda t: _supported(_judged(t, "linattn(depth=2) < linattn(depth=1)")),
        ),
        Statement(
            """two layers of S6 solve degrees up to {} on signs, and three layers up to {}. On sparse products two layers
            solve degrees up to {} at L = 16, and up to {} at L = 32.""",
            _more_layers,
        ),
        Statement(
            """| {} | {} | in {} of {} seeds |
            | {} | {}, {}, {}, {}, {}, {} | in no seed (median errors {} to {}) |
            | {} | {}, {}, {} | in no seed |""",
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
            """at an untuned rate of {}:
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
        Statement(
            "{} % of its runs with three and four layers diverge, and {} % of those with one layer",
            lambda t: (_diverged(t, 3, 4), _diverged(t, 1)),
        ),
        Statement(
            "{} % of the diverged runs stop before step {} (`diverged at the start`), and {} % at the first step.",
            _stopped,
        ),
        Statement(
            """The first loss and gradient (width {}, no normalisation, signs, L = {}, {} and {}) are finite in {}, {} and {}
            of {} seeds with four layers, and in {}, {} and {} with three ([starts](others.md#starts-of-polynomial-layers)).
            - With a hundredth of the initial maps and skip they are finite in all {}.""",
            starts.finite_of_depths,
        ),
        Statement("starts so from its version {} on; this study has version {}.", _versions),
        Statement(
            "{word} layers of it then learn: at L = {} and degree {}, the training error is below {} in {} of {} seeds.",
            _scaled_start,
        ),
        Statement(
            """the rule of that time took the lowest rate, {} (in {} of the {} runs with four layers). The exact S6, with
            softplus and exp, keeps {} % of its runs""",
            _lowest_rate,
        ),
        Statement("degrees above {} at L = 8 to 32", _exact_on_signs),
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

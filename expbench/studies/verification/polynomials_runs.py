"""Computations of docs/studies/polynomials.md from results/polynomials: its runs, their floors, and those of Table 2."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean, median

import pandas as pd

from expbench.claims.claim import Claim
from expbench.claims.judgement import Judgement
from expbench.claims.verdicts import judge
from expbench.results.configurations import Configuration
from expbench.results.learning_rates import Criterion, choose
from expbench.stats.intervals import holm
from expbench.stats.sampling import MOST_SAMPLING_ERROR, sampling_error
from expbench.studies.verification.formatting import at_most, ends, fixed, percent, whole, word
from expbench.studies.verification.page import Statement
from expbench.studies.verification.table2_regression import random_polynomials
from expbench.studies.verification.tables import Study, Tables, of_all, settings_of

WIDTHS, NORMS = (4, 6, 8), ("layer", "none")
TASK, FAMILY = "polyreg", "random"
AGAINST_ATTENTION = [
    f"s6(D={D}, positions={code}) < attn(D={D}, positions={code})" for code in ("none", "sin", "learned") for D in WIDTHS
]


def study(t: Tables) -> Study:
    """Return the tables of the study."""
    return t.study("polynomials")


def reported(t: Tables) -> list[Configuration]:
    """Return the configurations with reported runs."""
    return [c for c in study(t).configurations if c.trials]


def _tuning_runs(t: Tables) -> pd.DataFrame:
    keys = study(t).keys
    return keys[keys["kind"] == "tuning"]


def _size(t: Tables) -> Sequence[str]:
    return whole(len(study(t).runs)), whole(len(_tuning_runs(t)))


def _added(t: Tables) -> Sequence[str]:
    """Return the tuning runs that were added after the reported runs, and their rate, if no choice depends on them."""
    tuning, runs = _tuning_runs(t), study(t).runs
    late = tuning[tuning["device"] == "cpu"]
    ((model, norm, rate),) = set(late[["model", "norm", "lr"]].itertuples(index=False, name=None))
    if (model, norm) != ("attn", "none") or late["created"].min() <= runs["created"].max():
        raise ValueError(f"the added runs are of {model}, norm {norm}, or older than reported runs")
    for _, own in tuning[(tuning["model"] == model) & (tuning["norm"] == norm)].groupby(["D", "positions", "position_base"]):
        if _chosen(own) != _chosen(own[~own["key"].isin(late["key"])]):
            raise ValueError("the added runs change a choice")
    return str(len(late)), str(late.groupby(["D", "positions", "position_base"]).ngroups), f"{rate:g}"


def _chosen(tuning: pd.DataFrame) -> float:
    tried: dict[float, list[float | None]] = {}
    for rate, metric, value in tuning[["lr", "metric", "value"]].itertuples(index=False, name=None):
        tried.setdefault(rate, []).append(value if metric == "nmse" and not math.isnan(value) else None)
    (threshold,) = set(tuning["success_threshold"])
    return choose(tried, Criterion(higher_is_better=False, success_threshold=threshold))


def _labels(t: Tables) -> Sequence[str]:
    runs, own = study(t).runs, reported(t)
    ((L, variance),) = {(c["L"], settings_of(c)["label_var"]) for c in own}
    return str(runs["instance"].nunique()), str(L), f"{variance:g}", word(runs["seed"].nunique())


def _protocol(t: Tables) -> Sequence[str]:
    ((depth, steps, batch),) = {(c["depth"], c["steps"], c["batch_size"]) for c in reported(t)}
    return word(int(depth)), whole(steps), str(batch)


def _layout(t: Tables) -> Sequence[str]:
    if {settings_of(c)["layout"] for c in study(t).having(model="s6")} != {"mamba_rank_D"}:
        raise ValueError("S6 has other layouts")
    return ()


def _rates(t: Tables) -> Sequence[str]:
    own, found = reported(t), []
    for norm in NORMS:
        ((runs, rates),) = {(c.tuning.runs, c.tuning.rates) for c in own if c["norm"] == norm and c.tuning is not None}
        found += [word(len(rates)), f"{rates[0]:g}".lstrip("0"), f"{rates[-1]:g}".lstrip("0"), str(runs)]
    return found


def _base(t: Tables) -> Sequence[str]:
    (base,) = {float(c["position_base"]) for c in study(t).having(positions="sin") if c.base == "auto"}
    return (fixed(base, 2),)


def _sources(t: Tables) -> Sequence[str]:
    commits = study(t).keys["git_commit"].value_counts()
    ((changed, count),) = [(commit, count) for commit, count in commits.items() if str(commit).endswith("+changes")]
    if not str(changed).startswith("3501eb5"):
        raise ValueError(f"the commit is {changed}")
    return (whole(count),)


def ill_posed(t: Tables) -> Sequence[str]:
    """Return the number of polynomials, and of the only ill-posed one the sampling error in percent and its limit."""
    found = study(t).runs.drop_duplicates("instance")
    (left_out,) = found[~found["well_posed"].astype(bool)].itertuples()
    error = sampling_error(left_out.label_kurtosis, left_out.effective_sample_size, left_out.test_size)
    excluded = {j.excluded for text in AGAINST_ATTENTION for j in study(t).judgements(text, family=FAMILY)}
    if excluded != {1}:
        raise ValueError(f"{excluded} instances are excluded")
    return str(len(found)), fixed(100 * float(error), 1), percent(MOST_SAMPLING_ERROR)


def seen(t: Tables) -> tuple[int, int]:
    """Return how many of the polynomials are those of Table 2, whose numbers are the first, and how many there are."""
    facts = ["label_kurtosis", "label_interaction_order"]
    first = [f.drop_duplicates("instance").set_index("instance") for f in (study(t).runs, random_polynomials(t))]
    ours, theirs = (rows[facts].sort_index() for rows in first)
    if sorted(theirs.index) != list(range(len(theirs))) or not ours.loc[theirs.index].equals(theirs):
        raise ValueError("the polynomials of Table 2 are not the first of the study")
    return len(theirs), len(ours)


def _seen(t: Tables) -> Sequence[str]:
    known, total = seen(t)
    return str(known), str(total)


def unseen(t: Tables) -> Sequence[str]:
    """Return the claims against attention on the polynomials that Table 2 lacks: numbers, signs and Holm's correction."""
    (known, total), frame = seen(t), study(t).frame
    rest = frame[(frame["kind"] != "run") | (frame["instance"] >= known)]
    claims = [Claim(text, TASK, {"family": [FAMILY]}) for text in AGAINST_ATTENTION]
    found: list[Judgement] = [j for result in judge(claims, rest) for j in result.judgements]
    (units,) = {j.units for j in found}
    return (
        *(str(known), str(total - 1), str(units)),
        *of_all(found, "supported", "below the margin"),
        *ends((-j.difference.center for j in found), 2),
        *(str(len(found)), at_most(max(holm([j.p for j in found])), 2)),
    )


def posed(configuration: Configuration) -> list[float]:
    """Return the errors of the runs on well-posed polynomials, as the verdicts use them."""
    pairs = zip(configuration.each("value"), configuration.each("well_posed"), strict=True)
    return [value for value, posed in pairs if posed is not False]


def _floors(t: Tables) -> tuple[str, dict[int, float]]:
    """Return the mean of the floors of attention without codes on the well-posed polynomials, and each floor."""
    (any_of, *_) = own = [c for c in study(t).having(model="attn", positions="none") if c.trials]
    if not all("symmetry" in c.floor_of for c in own):
        raise ValueError("the floors are of other bounds")
    columns = [any_of.each(name) for name in ("instance", "floor", "well_posed")]
    floors = {instance: floor for instance, floor, posed in zip(*columns, strict=True) if posed is not False}
    return fixed(fmean(floors.values()), 3), floors


def floor(t: Tables) -> Sequence[str]:
    """Return the number of well-posed polynomials, the mean floor, and the ends of the means of attention for each norm."""
    own = [c for c in study(t).having(model="attn", positions="none") if c.trials]
    means = {norm: ends((fmean(posed(c)) for c in own if c["norm"] == norm), 3) for norm in NORMS}
    floor, floors = _floors(t)
    return str(len(floors)), floor, *means["layer"], *means["none"]


def below_the_floor(t: Tables) -> Sequence[str]:
    """Return how many runs without codes lie below the floor of attention, and by how many standard errors."""
    _, floors = _floors(t)
    frame = study(t).frame
    rows = frame[(frame["metric"] == "nmse_standard_error") & (frame["split"] == "test") & (frame["slice"] == "")]
    errors = dict(zip(rows["key"], rows["value"], strict=True))
    found: dict[str, list[float]] = {}
    for model in ("s6", "attn"):
        own = [c for c in study(t).having(model=model, positions="none") if c.trials]
        runs = [run for c in own for run in zip(c.each("key"), c.each("instance"), c.each("value"), strict=True)]
        found[model] = [(floors[i] - value) / errors[key] for key, i, value in runs if i in floors]
    s6, attention = ([ratio for ratio in found[model] if ratio > 0] for model in ("s6", "attn"))
    return (
        *(str(len(s6)), str(len(found["s6"])), str(sum(ratio > 2 for ratio in s6)), "two"),
        *(str(len(attention)), str(len(found["attn"])), fixed(max(attention), 1)),
    )


def _test_errors(own: Study) -> dict[str, float]:
    rows = own.frame[own.frame["kind"] == "run"]
    rows = rows[(rows["split"] == "test") & (rows["metric"] == "nmse") & (rows["slice"] == "")]
    return dict(zip(rows["key"], rows["value"], strict=True))


def repeated(t: Tables) -> list[float]:
    """Return how much the test error of each reported run that both studies have differs between them."""
    studies = [study(t), t.study("table2")]
    here, there = (_test_errors(own) for own in studies)
    keys = sorted(set(here) & set(there))
    runs = [own.runs.set_index("key").loc[keys] for own in studies]
    for column in ("device_name", "torch", "backend", "precision"):
        if not runs[0][column].equals(runs[1][column]):
            raise ValueError(f"the repeated runs differ in {column}")
    if [set(own["stack_size"]) for own in runs] != [{120}, {20}]:
        raise ValueError("the repeated runs have other stack sizes")
    return [abs(here[key] - there[key]) for key in keys]


def repeated_keys(t: Tables) -> Sequence[str]:
    """Return the number of repeated runs, the stack sizes, and how far their errors are apart."""
    found = repeated(t)
    apart = sum(difference > 0.01 for difference in found)
    return (
        *(str(len(found)), "20", "120"),
        *(fixed(median(found), 3), str(apart), ".01", fixed(max(found), 2)),
    )


STATEMENTS = (
    Statement("- **Size**: {} reported runs and {} runs that choose learning rates.", _size),
    Statement(
        """{} of the tuning runs were added on a CPU after the reported runs: {} configurations of attention without a norm
        had fewer of them, at rate {}, than the rest. No chosen rate changed.""",
        _added,
    ),
    Statement(
        "- **Sources**: {} of all runs were made by sources with uncommitted changes to the commit that they name",
        _sources,
    ),
    Statement(
        """- **Labels**: {} random polynomials of sequences of length {}, with labels of variance {}. Each is trained
        with {word} seeds""",
        _labels,
    ),
    Statement("the first {} of the {} polynomials are also those of [Table 2](table2.md)", _seen),
    Statement("- **Networks**: {word} layer, trained for {} steps at batch {}.", _protocol),
    Statement("S6 has the layout `mamba_rank_D` only.", _layout),
    Statement("with the base matched to the length ({} here)", _base),
    Statement(
        """With LayerNorm each configuration has {word} rates from {} to {} and {} runs; without a norm {word}
        rates from {} to {} and {} runs.""",
        _rates,
    ),
)

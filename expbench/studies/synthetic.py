"""Presets: the studies of arXiv 2502.02209, as requests and claims that are fixed before anything is run.

What the paper's text does not say is an axis here, not a guess: norm, head, supervision, layout. Settings that are not
varied and not known (length, batch size, steps, the family's terms) are those of its reconstruction in the README.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from expbench.claims.claim import Claim
from expbench.errors import BadInput
from expbench.results.learning_rates import TUNING_RUNS
from expbench.studies import language
from expbench.sweep.request import Request
from expbench.training.job import Job


class Preset(NamedTuple):
    """requests: what is run. claims: what is judged. tuning_runs: at each rate, to choose one. of_text: whether it is on a
    text, which is chosen with it."""

    requests: tuple[Request, ...]
    claims: tuple[Claim, ...]
    tuning_runs: int = TUNING_RUNS
    of_text: bool = False

    @property
    def tunes(self) -> bool:
        """Whether rates are chosen first."""
        return any(request.lr == "auto" for request in self.requests)


_COUNT = "count-in-row"
_EVERY_READING = ("head=scalar,classes", "supervise=last,all")
_LAYOUTS = ("layout=mamba_rank_D,full_bias",)
_S6, _ATTN = "positions=none", "positions=sin"  # the paper's better rows: S6 without position codes, attention with them


# 20 runs that are reported, and the rates are chosen on other seeds
_STUDY = Request(task=_COUNT, models="s6", norm="layer,none", lr="auto", steps="4000", batch_size="256", seeds="0:20")


def _count_in_row(models: str, **others: Any) -> Request:
    """Table 2, left. L = 20 is the least length at which the 20 labels are equally likely when the last one is read."""
    return replace(_STUDY, models=models, L="20", task_settings=_EVERY_READING, **others)


def _longer(request: Request) -> Request:
    """At four times the steps: does a verdict hang on the budget?"""
    return replace(request, norm="none", steps=str(4 * int(request.steps or 0)))


def _polynomials(models: str, family: str, **others: Any) -> Request:
    """Table 2, right: random polynomials (another for each seed), and the family that S6 is made for."""
    settings = (f"family={family}", "label_var=20")
    of_seeds = family == "random"
    return replace(
        _STUDY, task="polyreg", models=models, L="10", D="4,6,8", task_settings=settings, paired=of_seeds, **others
    )


def _table2() -> Preset:
    """Counting in a row and polynomial regression, S6 against attention."""
    families = ("random", "suffix")
    counts = [
        f"s6(D=2, depth=1, {_S6}) > attn(D=2, depth=1, {_ATTN})",
        f"s6(D=2, depth=1, {_S6}) > attn(D=2, depth=4, {_ATTN})",
        f"s6(D=2, depth=1, {_S6}) > attn(D=4, depth=4, {_ATTN})",
        f"s6(D=4, depth=1, {_S6}) > attn(D=4, depth=1, {_ATTN})",
        f"s6(D=2, depth=2, {_S6}) > s6(D=2, depth=1, {_S6})",
        f"s6(D=2, depth=1, {_S6}) > s6(D=2, depth=1, {_ATTN})",
        f"attn(D=2, depth=4, {_ATTN}) > attn(D=2, depth=1, {_ATTN})",
        f"attn(D=4, depth=4, {_ATTN}) > attn(D=2, depth=4, {_ATTN})",
    ]
    values = [*(f"s6(D={D}, {_S6}) < attn(D={D}, {_ATTN})" for D in (4, 6, 8)), f"s6(D=8, {_S6}) < s6(D=8, {_ATTN})"]
    return Preset(
        (
            _count_in_row("s6", D="2", depth="1,2", positions="none,sin", model_settings=_LAYOUTS),
            _count_in_row("s6", D="4", depth="1,2", positions="none"),
            _count_in_row("attn", D="2,4", depth="1,2,4", positions="sin"),
            *(_polynomials("s6", f, positions="none,sin", model_settings=_LAYOUTS) for f in families),
            *(_polynomials("attn", f, positions="sin") for f in families),
            _longer(_count_in_row("s6", D="2", depth="1,2", positions="none")),
            _longer(_count_in_row("attn", D="2,4", depth="1,4", positions="sin")),
            *(_longer(_polynomials("s6", f, positions="none")) for f in families),
            *(_longer(_polynomials("attn", f, positions="sin")) for f in families),
        ),
        (
            *(Claim(text, _COUNT) for text in counts),
            *(Claim(text, "polyreg", {"family": [family]}) for family in families for text in values),
        ),
    )


_DEGREES = (1, 2, 3, 4, 6, 8, 9, 12, 16, 24, 32)
_LENGTHS = (4, 8, 16, 32)
_ANY_MODEL = "s6,s6-poly,linattn,polyattn,attn"


def _degree() -> Preset:
    """Depth against degree: what one layer of S6 reaches, and how deep attention must be for it.

    No normalisation, so that floors hold; width 8, so that it is not width that is missing.
    Where what is multiplied is told by its positions (sparse), all models have the same code; elsewhere each has its own.
    At ten seeds Holm's correction leaves room for some twenty places: the claims are few.
    """
    budget = replace(_STUDY, steps="2000", batch_size="64", seeds="0:10")
    study = replace(budget, task="polyreg", models=_ANY_MODEL, D="8", norm="none")
    short = [
        replace(
            study,
            L=str(L),
            degree=",".join(str(degree) for degree in _DEGREES if degree <= L),
            depth="1,2,3,4",
            positions="sin" if family == "sparse" else None,
            task_settings=(f"family={family}", f"inputs={inputs}"),
        )
        for L in _LENGTHS
        for family in ("suffix", "sparse")
        for inputs in ("unit", "signs")
    ]
    products = [
        replace(
            study,
            L=str(L),
            degree=",".join(str(degree) for degree in _DEGREES if degree >= L),
            depth="1,2,3,4",
            task_settings=("family=product",),
        )
        for L in (4, 8)
    ]
    long = [
        replace(study, L=str(L), degree=f"8,32,{L}", depth="1,2", task_settings=(f"inputs={inputs}",))
        for L in (256, 512, 1024)
        for inputs in ("unit", "signs")
    ]
    counts = [
        replace(study, task=_COUNT, L=str(L), depth="1,2", task_settings=("supervise=last",)) for L in (256, 512, 1024)
    ]
    suffix: dict[str, Iterable[object]] = {"family": ["suffix"], "inputs": ["unit"]}
    joined: dict[str, Iterable[object]] = {"family": ["sparse"], "inputs": ["unit"], "L": [16, 32], "degree": [3, 8]}
    claims = [
        *(
            Claim(f"s6(depth=1, {_S6}) < {model}(depth=1, {_ATTN})", "polyreg", {**suffix, "L": [L], "degree": [L]})
            for model in ("linattn", "attn")
            for L in _LENGTHS
        ),
        Claim("s6(depth=1) < linattn(depth=1)", "polyreg", joined),
        Claim("linattn(depth=2) < linattn(depth=1)", "polyreg", joined),
        Claim(
            "s6-poly(depth=1) < s6(depth=1)",
            "polyreg",
            {"family": ["suffix"], "inputs": ["signs"], "L": [8], "degree": [2, 8]},
        ),
    ]
    return Preset(
        (*short, *products, *long, *counts),
        tuple(claims),
        tuning_runs=2,
    )


PRESETS: Mapping[str, Callable[[], Preset]] = {
    "table2": _table2,
    "degree": _degree,
    "table1-nlp": lambda: Preset(*language.table1(), of_text=True),
    "context": lambda: Preset(*language.contexts(), of_text=True),
}


def chosen(name: str, data: str | None, path: str | None, *, small: bool) -> Preset:
    """The preset of that name, for a few steps if it is to be `small`.

    data, path: the text of a study of one, by name or in a folder. Raises BadInput for a text where none is asked for, and
    for none where one is.
    """
    study = PRESETS[name]()
    if study.of_text:
        study = study._replace(requests=language.on_text(name, study.requests, data, path))
    elif data is not None or path is not None:
        option = f"--data {data}" if data is not None else f"--path {path}"
        raise BadInput(f"{option}: {name} is on no text, it makes its own data; leave the option out")
    return smoke(study) if small else study


def called(name: str, study: Preset, jobs: Sequence[Job], *, small: bool) -> str:
    """What the results of a preset are called: with the name of its text, as its jobs found it to be."""
    text = [str(jobs[0].run.task_settings["data"])] if study.of_text else []
    return "-".join([name, *text, *(["smoke"] if small else [])])  # what is tried is no part of the study


def smoke(preset: Preset) -> Preset:
    """The first value of every list, or small models of a text, for a few steps: does everything run? Its claims stay
    undecided. Requests that differ in L alone, and in the degrees that it allows, are a list of lengths."""
    if preset.of_text:
        return preset._replace(requests=tuple(map(language.smaller, preset.requests)))

    def first(request: Request) -> Request:
        lists = ("L", "D", "depth", "norm", "positions", "degree")
        few: dict[str, Any] = {name: _first(getattr(request, name)) for name in lists if getattr(request, name) is not None}
        for name in ("task_settings", "model_settings"):
            few[name] = tuple(map(_first, getattr(request, name)))
        few["task_settings"] += ("test_size=64", "selection_size=64")
        return replace(request, **few, steps="20", batch_size="8", seeds="0:2")

    shortest: dict[Request, Request] = {}
    for request in preset.requests:
        shortest.setdefault(replace(request, L=None, degree=None), request)
    return preset._replace(requests=tuple(map(first, shortest.values())), tuning_runs=1)


def _first(text: str) -> str:
    return text.partition(",")[0]

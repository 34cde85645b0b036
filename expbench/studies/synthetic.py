"""Presets: the studies of arXiv 2502.02209, as requests and preregistered claims.

Choices that the paper does not state (norm, head, supervision, layout) are axes of the sweep, not guesses. Settings that are
neither varied nor known (length, batch size, steps, the terms of the family) follow the reconstruction in docs/studies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from expbench.claims.claim import Claim
from expbench.errors import BadInput
from expbench.studies import crossed, language
from expbench.studies.preset import Preset, whole
from expbench.sweep.spec import SweepSpec
from expbench.training.job import Job

_COUNT = "count-in-row"
_EVERY_READING = ("head=scalar,classes", "supervise=last,all")
_LAYOUTS = ("layout=mamba_rank_D,full_bias",)
_NONE, _SIN = "positions=none", "positions=sin"


# 20 reported runs; learning rates are tuned on other seeds. The base of the sinusoids is that of the committed runs.
_STUDY = SweepSpec(
    task=_COUNT,
    models="s6",
    norm="layer,none",
    position_base=crossed.FORMER_BASE,
    lr="auto",
    steps="4000",
    batch_size="256",
    seeds="0:20",
)


def _count_in_row(models: str, **others: Any) -> SweepSpec:
    """Return a request of Table 2, left. L = 20 is the least length at which the 20 last labels are uniform."""
    return replace(_STUDY, models=models, L="20", task_settings=_EVERY_READING, **others)


def _longer(spec: SweepSpec) -> SweepSpec:
    """Return the request with four times the steps, to test whether a verdict depends on the budget."""
    return replace(spec, norm="none", steps=str(4 * int(spec.steps or 0)))


def _polynomials(models: str, family: str, **others: Any) -> SweepSpec:
    """Return a request of Table 2, right: random polynomials (one per seed), or the family that suits S6 (suffix)."""
    settings = (f"family={family}", "label_var=20")
    of_seeds = family == "random"
    return replace(
        _STUDY, task="polyreg", models=models, L="10", D="4,6,8", task_settings=settings, paired=of_seeds, **others
    )


def _table2() -> Preset:
    """Return the study of Table 2: counting in a row and polynomial regression, S6 against attention."""
    families = ("random", "suffix")
    counts = [
        f"s6(D=2, depth=1, {_SIN}) > attn(D=2, depth=1, {_SIN})",
        f"s6(D=2, depth=2, {_NONE}) > s6(D=2, depth=1, {_NONE})",
        f"s6(D=2, depth=1, {_NONE}) > s6(D=2, depth=1, {_SIN})",
        f"attn(D=2, depth=4, {_SIN}) > attn(D=2, depth=1, {_SIN})",
        f"attn(D=4, depth=4, {_SIN}) > attn(D=2, depth=4, {_SIN})",
    ]
    values = [*(f"s6(D={D}, {_SIN}) < attn(D={D}, {_SIN})" for D in (4, 6, 8)), f"s6(D=8, {_NONE}) < s6(D=8, {_SIN})"]
    return Preset(
        whole(
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
            Claim(f"s6(D=2, depth=1, {_SIN}) > attn(D=2, depth=4, {_SIN})", _COUNT, about=("model", "depth")),
            *(Claim(text, "polyreg", {"family": [family]}) for family in families for text in values),
        ),
    )


_DEGREES = (1, 2, 3, 4, 6, 8, 9, 12, 16, 24, 32)
_LENGTHS = (4, 8, 16, 32)
_ANY_MODEL = "s6,s6-poly,linattn,polyattn,attn"


def _degree() -> Preset:
    """Return the study of depth against degree: the reach of one S6 layer, and the depth at which attention matches it.

    There is no normalisation, so that floors hold; width 8 is large enough not to be the bottleneck. In the family sparse,
    whose factors are given by position, all models share one position code; elsewhere each uses its own. At ten seeds
    Holm's correction leaves room for about twenty comparisons, so there are few claims.
    """
    budget = replace(_STUDY, steps="2000", batch_size="64", seeds="0:10")
    settings = ("s6-poly:start=literal",)  # as in the committed table
    study = replace(budget, task="polyreg", models=_ANY_MODEL, D="8", norm="none", model_settings=settings)
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
    joined: dict[str, Iterable[object]] = {"family": ["sparse"], "inputs": ["unit"], "L": [16, 32], "degree": [3, 8]}
    claims = [
        Claim("s6(depth=1) < linattn(depth=1)", "polyreg", joined),
        Claim("linattn(depth=2) < linattn(depth=1)", "polyreg", joined),
        Claim(
            "s6-poly(depth=1) < s6(depth=1)",
            "polyreg",
            {"family": ["suffix"], "inputs": ["signs"], "L": [8], "degree": [2, 8]},
        ),
    ]
    return Preset(
        whole(*short, *products, *long, *counts),
        tuple(claims),
        tuning_runs=2,
    )


PRESETS: Mapping[str, Callable[[], Preset]] = {
    "table2": _table2,
    "degree": _degree,
    "polynomials": crossed.polynomials,
    "positions": crossed.positions,
    "counting": crossed.counting,
    "table1-nlp": lambda: _on_text(*language.table1()),
    "context": lambda: _on_text(*language.contexts()),
}


def _on_text(requests: Sequence[SweepSpec], claims: tuple[Claim, ...]) -> Preset:
    return Preset(whole(*requests), claims, of_text=True)


def chosen(name: str, data: str | None, path: str | None, *, small: bool, until: str | None = None) -> Preset:
    """Return the preset of that name, or its smoke test if `small`.

    data, path: the text, by name or folder. until: name of the last part. Raise BadInput if a text is missing, or given to a
    study without one, and for an unknown part.
    """
    study = PRESETS[name]().until(until)
    if study.of_text:
        study = study._replace(parts=whole(*language.on_text(name, study.requests, data, path)))
    elif data is not None or path is not None:
        option = f"--data {data}" if data is not None else f"--path {path}"
        raise BadInput(f"{option}: {name} uses no text, it generates its own data; omit the option")
    return smoke(study) if small else study


def called(name: str, study: Preset, jobs: Sequence[Job], *, small: bool) -> str:
    """Return the name of the results folder of a preset, with the name of the text in its jobs."""
    text = [str(jobs[0].run.task_settings["data"])] if study.of_text else []
    return "-".join([name, *text, *(["smoke"] if small else [])])  # a smoke test is not part of the study


def smoke(preset: Preset) -> Preset:
    """Return a smoke test of a preset: the first value of every list, or small language models, for a few steps.

    Its claims stay undecided. Requests that differ only in L and in degree count as one list of lengths.
    """
    if preset.of_text:
        return preset._replace(parts=whole(*map(language.smaller, preset.requests)))

    def first(spec: SweepSpec) -> SweepSpec:
        lists = ("L", "D", "depth", "norm", "positions", "degree")
        few: dict[str, Any] = {name: _first(getattr(spec, name)) for name in lists if getattr(spec, name) is not None}
        for name in ("task_settings", "model_settings"):
            few[name] = tuple(map(_first, getattr(spec, name)))
        few["task_settings"] += ("test_size=64", "validation_size=64")
        few["instances"] = None if spec.instances is None else "0:2"
        return replace(spec, **few, steps="20", batch_size="8", seeds="0:2")

    shortest: dict[SweepSpec, SweepSpec] = {}
    for spec in preset.requests:
        shortest.setdefault(replace(spec, L=None, degree=None), spec)
    return preset._replace(parts=whole(*map(first, shortest.values())), tuning_runs=1)


def _first(text: str) -> str:
    return text.partition(",")[0]

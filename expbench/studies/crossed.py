"""Studies with the position codes crossed: every model with every code, and claims whose two sides have the same code.

They follow the first studies (`synthetic`), whose claims compared sides with different position codes. The recurrent network
`gru` and the time-invariant `ssm` are controls: one with gates that depend on the input, one whose output is linear in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from expbench.claims.claim import Claim
from expbench.studies.preset import Part, Preset
from expbench.sweep.spec import SweepSpec

MODELS = ("s6", "attn", "linattn", "gru", "ssm")  # in the order in which they are run
CODES = ("none", "sin", "learned")
FORMER_BASE = "10000"  # of the sinusoidal codes of the first studies; the default base is matched to the length
_INSTANCES = "0:60"  # so many decide: at 80 % power, the effects of the first study needed 10 to 51


def _at(code: str, **settings: object) -> str:
    return ", ".join(f"{name}={value}" for name, value in (settings | {"positions": code}).items())


def polynomials() -> Preset:
    """Return the study of Table 2, right: random polynomials, 60 instances crossed with 2 seeds, a part for each model."""
    study = SweepSpec(
        task="polyreg",
        models=MODELS[0],
        L="10",
        D="4,6,8",
        norm="layer,none",
        positions=",".join(CODES),
        lr="auto",
        steps="4000",
        batch_size="256",
        instances=_INSTANCES,
        seeds="0:2",
        task_settings=("family=random", "label_var=20"),
    )

    def part(model: str) -> Part:
        own = replace(study, models=model)
        requests = [own, replace(own, positions="sin", position_base=FORMER_BASE)]
        if model == "attn":
            requests.append(replace(own, D="8", positions="rotary,alibi"))
        return Part(model, tuple(requests))

    random = {"family": ["random"]}
    claims = [
        *(f"s6({_at(code, D=D)}) < {other}({_at(code, D=D)})" for other in MODELS[1:3] for code in CODES for D in (4, 6, 8)),
        *(f"s6({_at('sin', D=D)}) < s6({_at('none', D=D)})" for D in (4, 6, 8)),
        *(f"{model}({_at(code, D=8)}) < ssm({_at(code, D=8)})" for model in ("s6", "attn") for code in CODES),
        *(f"s6({_at(code, D=8)}) < gru({_at(code, D=8)})" for code in CODES),
    ]
    return Preset(tuple(map(part, MODELS)), tuple(Claim(text, "polyreg", random) for text in claims))


_DEGREES = (1, 2, 4, 8, 16, 32)
_LENGTHS = (8, 16, 32)
_DEPTHS = {"linattn,s6-poly": "1,2,4", "s6,attn": "1,2", "gru,ssm": "1"}  # more only where depth can replace degree


def positions() -> Preset:
    """Return the study of depth against degree with the codes crossed, ten instances each, the shortest length first.

    There is no normalisation, so that floors hold. Seed i is trained on instance i.
    """
    study = SweepSpec(
        task="polyreg",
        models="s6",
        D="8",
        norm="none",
        positions=",".join(CODES),
        lr="auto",
        steps="2000",
        batch_size="64",
        seeds="0:10",
    )

    def part(L: int, family: str, inputs: str, degrees: Iterable[int]) -> Part:
        own = replace(
            study,
            L=str(L),
            degree=",".join(map(str, degrees)),
            paired=family != "suffix",  # this family has one instance
            task_settings=(f"family={family}", f"inputs={inputs}"),
        )
        requests = [replace(own, models=models, depth=depths) for models, depths in _DEPTHS.items()]
        return Part(f"{family}-{inputs}-{L}", tuple(requests))

    parts = []
    for L in _LENGTHS:
        degrees = [degree for degree in _DEGREES if degree <= L]
        parts += [part(L, "sparse", "signs", degrees), part(L, "sparse", "unit", degrees)]
        if L < 16:  # longer products have ill-posed labels
            parts.append(part(L, "product", "unit", [L, 2 * L]))
        parts += [part(L, "random", "unit", [2, L]), part(L, "suffix", "signs", degrees)]
    return Preset(tuple(parts), tuple(_claims_of_positions()), tuning_runs=2)


def _claims_of_positions() -> Iterable[Claim]:
    """Yield the claims: at most twelve places each, since ten instances have a least p-value of .002."""
    sparse: dict[str, Iterable[object]] = {"family": ["sparse"], "L": _LENGTHS, "degree": [4, 8]}
    for code in CODES:
        one, two = (_at(code, depth=depth) for depth in (1, 2))
        for other in ("linattn", "attn"):
            yield Claim(f"s6({one}) < {other}({one})", "polyreg", sparse)
        yield Claim(f"linattn({two}) < linattn({one})", "polyreg", sparse)
        for L in _LENGTHS:
            full: dict[str, Iterable[object]] = {"family": ["suffix"], "L": [L], "degree": [L]}
            yield Claim(f"s6({one}) < linattn({one})", "polyreg", full)
            yield Claim(f"s6-poly({one}) < linattn({one})", "polyreg", full)
    learned, sin = (_at(code, depth=1) for code in ("learned", "sin"))
    few = sparse | {"L": [16, 32], "degree": [1, 2]}
    yield Claim(f"linattn({learned}) < linattn({sin})", "polyreg", few)


def counting() -> Preset:
    """Return the study of Table 2, left, with the codes crossed and with controls, a part for each model."""
    study = SweepSpec(
        task="count-in-row",
        models=MODELS[0],
        L="20",
        D="2",
        norm="layer,none",
        positions=",".join(CODES),
        lr="auto",
        steps="4000",
        batch_size="256",
        seeds="0:20",
        task_settings=("head=scalar,classes", "supervise=last,all"),
    )

    def part(model: str) -> Part:
        requests = [replace(study, models=model)]
        if model == "attn":
            requests.append(replace(study, models=model, D="2,4", depth="4"))
        return Part(model, tuple(requests))

    def side(model: str, code: str, **size: int) -> str:
        return f"{model}({_at(code, **({'D': 2, 'depth': 1} | size))})"

    claims = [
        *(f"{side('s6', code)} > {side(other, code)}" for code in CODES for other in MODELS[1:]),
        *(f"{side('attn', code, depth=4)} > {side('attn', code)}" for code in CODES),
        f"{side('s6', 'none')} > {side('s6', 'sin')}",
    ]
    deeper = [f"{side('s6', code)} > {side('attn', code, depth=4)}" for code in CODES]
    return Preset(
        tuple(map(part, MODELS)),
        (
            *(Claim(text, study.task) for text in claims),
            *(Claim(text, study.task, about=("model", "depth")) for text in deeper),
        ),
    )

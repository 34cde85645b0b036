"""Computations of docs/studies/degree.md from results/degree: lengths of 256 and more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from statistics import median

from expbench.results.configurations import Configuration
from expbench.studies.verification.formatting import at_most, ends, fixed
from expbench.studies.verification.page import Statement
from expbench.studies.verification.tables import Study, Tables

HALF = 0.5  # the share of seeds that must solve a degree
_LONG = (256, 512, 1024)
_MODELS = ("s6", "s6-poly", "attn", "linattn", "polyattn")


def degree_study(t: Tables) -> Study:
    """Return the study of depth against degree."""
    return t.study("degree")


def solved(configuration: Configuration) -> bool:
    """Return whether at least half of the seeds solve the task."""
    return configuration.solved >= HALF * configuration.trials


def _suffix(t: Tables, inputs: str, length: int, degree: int, **wanted: object) -> Configuration:
    return degree_study(t).only(family="suffix", inputs=inputs, L=length, degree=degree, **wanted)


def _on_intervals(t: Tables) -> Iterator[str]:
    for model, depth in product(_MODELS, (1, 2)):
        yield str(depth)
        for length in _LONG:
            yield from (str(_suffix(t, "unit", length, q, model=model, depth=depth).solved) for q in (8, 32, length))


def _two_layers_of_attention(t: Tables) -> Iterator[str]:
    own = degree_study(t).having(family="suffix", inputs="unit", L=_LONG, model="linattn", depth=2)
    yield at_most(max(c.floor or 0 for c in own), 2)
    for length in _LONG:
        yield from ends((median(c.values) for c in own if c["L"] == length), 2)
        yield str(length)


def _one_layer_of_attention(t: Tables) -> Sequence[str]:
    own = degree_study(t).having(family="suffix", inputs="unit", L=_LONG, model=("linattn", "polyattn"), depth=1)
    return ends((c.floor or 0 for c in own), 3)


def _degree_8_on_signs(t: Tables) -> Iterator[str]:
    own = [c for c in degree_study(t).having(family="suffix", inputs="signs", L=_LONG, degree=8) if c.solved]
    poly = {c["L"]: c for c in own if (c["model"], c["depth"]) == ("s6-poly", 2)}
    (exact,) = [c for c in own if c not in poly.values()]
    if (exact["model"], exact["depth"]) != ("s6", 2):
        raise ValueError(f"{exact['model']} with {exact['depth']} layers solves degree 8")
    yield from ("8", *(str(poly[length].solved) for length in _LONG), str(poly[256].trials), *map(str, _LONG))
    yield from (str(exact.solved), str(exact.trials), str(exact["L"]))


def _degree_32_on_signs(t: Tables) -> Iterator[str]:
    def medians(model: str, *lengths: int) -> list[float]:
        return [median(_suffix(t, "signs", length, 32, model=model, depth=1).values) for length in lengths]

    floors = [_suffix(t, "signs", length, 32, model="s6-poly", depth=1).floor for length in _LONG]
    yield from ("32", f"{max(floor or 0 for floor in floors):g}")
    for model in ("s6-poly", "s6"):
        yield from ends(medians(model, *_LONG), 2)
    yield from (*ends(medians("attn", _LONG[0]), 2)[:1], str(_LONG[0]))
    yield from (*ends(medians("attn", *_LONG[1:]), 2), *map(str, _LONG[1:]))


def _degree_L_on_signs(t: Tables) -> Sequence[str]:
    own = [c for c in degree_study(t).having(family="suffix", inputs="signs", L=_LONG) if c["degree"] == c["L"]]
    late = min(median(c.values) for c in own if c["L"] > 256 and c.values)
    early = _suffix(t, "signs", 256, 256, model="s6-poly", depth=1)
    return str(_LONG[1]), fixed(int(late * 100) / 100, 2), str(_LONG[0]), fixed(median(early.values), 2)


def _counting(t: Tables) -> Iterator[str]:
    for model, depth in product(("s6", "s6-poly", "attn", "polyattn"), (1, 2)):
        for length in _LONG:
            yield str(degree_study(t).only(task="count-in-row", model=model, depth=depth, L=length).solved)


_CELLS = " {}, {}, {} |"
STATEMENTS = (
    Statement("\n".join(f"| `{model}` | {{}} |{_CELLS * 3}" for model in _MODELS for _ in (1, 2)), _on_intervals),
    Statement(
        """(floors of at most {}), and training does not solve them. Their median errors are {} to {} at {}, {} to {}
            at {} and {} to {} at {}.""",
        _two_layers_of_attention,
    ),
    Statement("cannot solve them (floors of {} to {}).", _one_layer_of_attention),
    Statement(
        """| {} | two layers of `s6-poly` solve it in {}, {} and {} of {} seeds at {}, {} and {}; two layers of `s6` in
            {} of {} at {};""",
        _degree_8_on_signs,
    ),
    Statement(
        """| {} | with one layer, `s6-poly`, whose floor is {}, stops at {} to {}, `s6` at {} to {}, and softmax
            attention at {} (L = {}) and {} to {} (L = {} and {}) |""",
        _degree_32_on_signs,
    ),
    Statement(
        "nothing is learned from {} on (medians of {} and more); at {} one layer of `s6-poly` reaches {} |",
        _degree_L_on_signs,
    ),
    Statement(
        """| `s6` | {}, {}, {} | {}, {}, {} |
        | `s6-poly` | {}, {}, {} (the others diverged) | {}, {}, {} (the others diverged) |
        | `attn` | {}, {}, {} | {}, {}, {} |
        | `polyattn` | {}, {}, {} | {}, {}, {} |""",
        _counting,
    ),
)

"""Presets: the studies of arXiv 2502.02209, as requests and claims that are fixed before anything is run.

What the paper's text does not say is an axis here, not a guess: norm, head, supervision, layout. Settings that are not
varied and not known (length, batch size, steps, the family's terms) are those of its reconstruction in the README.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from expbench.claims import Claim
from expbench.grid import Request


class Preset(NamedTuple):
    """about: in one line. requests: what is run. claims: what is judged."""

    about: str
    requests: tuple[Request, ...]
    claims: tuple[Claim, ...]


_COUNT = "count-in-row"
_EVERY_READING = ("head=scalar,classes", "supervise=last,all")
_LAYOUTS = ("layout=mamba_rank_D,full_bias",)
_S6, _ATTN = "positions=none", "positions=sin"  # the paper's better rows: S6 without position codes, attention with them


# 20 runs that are reported, and the rates are chosen on other seeds
_STUDY = Request(task=_COUNT, models="s6", norm="layer,none", lr="auto", steps="4000", batch_size="256", seeds="0:20")


def _count_in_row(models: str, **others: Any) -> Request:
    """Table 2, left. L = 20 is the least length at which the 20 labels are equally likely when the last one is read."""
    return replace(_STUDY, models=models, L="20", task_settings=_EVERY_READING, **others)


def _polynomials(models: str, family: str, **others: Any) -> Request:
    """Table 2, right: random polynomials (another for each seed), and the family that S6 is made for."""
    settings = (f"family={family}", "label_var=20")
    of_seeds = family == "random"
    return replace(
        _STUDY, task="polyreg", models=models, L="10", D="4,6,8", task_settings=settings, paired=of_seeds, **others
    )


def _table2() -> Preset:
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
        "Table 2: counting in a row and polynomial regression, S6 against attention",
        (
            _count_in_row("s6", D="2", depth="1,2", positions="none,sin", model_settings=_LAYOUTS),
            _count_in_row("s6", D="4", depth="1,2", positions="none"),
            _count_in_row("attn", D="2,4", depth="1,2,4", positions="sin"),
            *(_polynomials("s6", f, positions="none,sin", model_settings=_LAYOUTS) for f in families),
            *(_polynomials("attn", f, positions="sin") for f in families),
        ),
        (
            *(Claim(text, _COUNT) for text in counts),
            *(Claim(text, "polyreg", {"family": [family]}) for family in families for text in values),
        ),
    )


PRESETS: Mapping[str, Callable[[], Preset]] = {"table2": _table2}


def smoke(preset: Preset) -> Preset:
    """The first value of every list, for a few steps: does everything run? Its claims stay undecided."""

    def first(request: Request) -> Request:
        lists = ("L", "D", "depth", "norm", "positions", "degree")
        few: dict[str, Any] = {name: _first(getattr(request, name)) for name in lists if getattr(request, name) is not None}
        for name in ("task_settings", "model_settings"):
            few[name] = tuple(map(_first, getattr(request, name)))
        few["task_settings"] += ("test_size=256", "selection_size=256")
        return replace(request, **few, steps="20", batch_size="16", seeds="0:2")

    return preset._replace(requests=tuple(map(first, preset.requests)))


def _first(text: str) -> str:
    return text.partition(",")[0]

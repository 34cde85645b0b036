"""Floors of docs/studies/degree.md: those of the table, by degree and structure, and the spans of one layer's codes."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from functools import cache

from expbench.results.configurations import Configuration
from expbench.studies.verification.degree_long import degree_study, solved
from expbench.studies.verification.formatting import fixed, significant, whole
from expbench.studies.verification.page import Statement
from expbench.studies.verification.tables import Tables, settings_of

SHORT = (4, 8, 16, 32)
_LARGEST = 1e5  # of the coefficients in the last column of the table
_ROWS: list[dict[str, str | int]] = [
    *[{"family": "sparse", "inputs": "unit", "L": length, "degree": 1} for length in (16, 32)],
    *[{"family": "suffix", "inputs": "unit", "L": 32, "degree": degree} for degree in (2, 3, 4)],
    {"family": "suffix", "inputs": "signs", "L": 32, "degree": 2},
]


def span_floor(c: Configuration, largest: float = math.inf) -> float:
    """Return the span floor of one layer of linear attention; 0 for other networks. largest: see `algebra/spans.py`."""
    if (c["task"], c["model"], c["depth"], c["norm"], c["positions"]) != ("polyreg", "linattn", 1, "none", "sin"):
        return 0.0
    (settings,) = set(c.each("task_settings"))
    return _span_floor(str(settings), c["D"], c["position_base"], largest)


@cache
def _span_floor(settings: str, width: int, base: float, largest: float) -> float:
    # The task and the codes as a network stores them need torch, which the other computations do without.
    from expbench.contracts import load_task
    from expbench.nn.positions import sinusoids
    from expbench.plugins import find

    task = load_task(find("task", "polyreg"))(**json.loads(settings))
    codes = sinusoids(task.L, width, base).double().tolist()
    return task.span_floor(tuple(map(tuple, codes)), largest=largest) or 0.0


def is_forbidden(c: Configuration) -> bool:
    """Return whether the floor of the table or the span floor lies above the threshold."""
    return max(c.floor or 0, span_floor(c)) > c.success_threshold


def _judged(t: Tables, **wanted: object) -> list[Configuration]:
    """Return the well-posed configurations of regression with these settings."""
    return [c for c in degree_study(t).having(task="polyreg", **wanted) if c["well_posed"] is not False]


def _no_run_below(t: Tables) -> Sequence[str]:
    found = [c for c in _judged(t) if is_forbidden(c)]
    if any(c.solved for c in found):
        raise ValueError("a configuration is solved that its floor forbids")
    return str(len(found)), str(sum(c["L"] <= 32 for c in found))


def _allowed(t: Tables) -> list[Configuration]:
    """Return the well-posed configurations of linear attention that no bound forbids, up to L = 32."""
    return [c for c in _judged(t, model="linattn", L=SHORT) if not is_forbidden(c)]


def _never_solved(t: Tables) -> Sequence[str]:
    allowed = _allowed(t)
    return str(len(allowed)), str(sum(not c.solved for c in allowed)), str(sum(not solved(c) for c in allowed))


def _by_span(t: Tables) -> Iterator[str]:
    """Return the rows of the table of span floors."""
    for row in _ROWS:
        (c,) = _judged(t, model="linattn", depth=1, **row)
        if row["inputs"] == "unit":
            yield from interval_of(c)
        yield from (str(c["L"]), str(c["degree"]), fixed(c.floor, 4) if c.floor else "0")
        yield from (significant(span_floor(c, largest), 2) for largest in (math.inf, _LARGEST))


def interval_of(c: Configuration) -> tuple[str, str]:
    """Return the ends of the interval of the inputs."""
    known = settings_of(c)
    return fixed(known["lo"], 1) if known["lo"] else "0", f"{known['hi']:g}"


def _bounds(t: Tables) -> Sequence[str]:
    (variance,) = {settings_of(c)["label_var"] for row in _ROWS for c in _judged(t, model="linattn", depth=1, **row)}
    return whole(_LARGEST), f"{variance:g}"


def _without_solution(t: Tables) -> Sequence[str]:
    """Return how many configurations of one layer degree and structure allow and no seed solves, and how many of them the
    span forbids, in exact arithmetic and with bounded coefficients."""
    own = [
        c for c in _judged(t, model="linattn", depth=1, L=SHORT) if not c.solved and (c.floor or 0) <= c.success_threshold
    ]
    spans = ([span_floor(c, largest) > c.success_threshold for c in own] for largest in (math.inf, _LARGEST))
    return str(len(own)), *(str(sum(forbidden)) for forbidden in spans)


def _long(t: Tables) -> Iterator[str]:
    for degree in (8, 32):
        c = degree_study(t).only(model="linattn", depth=1, family="suffix", inputs="unit", L=256, degree=degree)
        yield fixed(span_floor(c), 2)


STATEMENTS = (
    Statement("There are {} such well-posed configurations, {} of them at L up to 32.", _no_run_below),
    Statement(
        """{} well-posed configurations of linear attention are forbidden by no bound; {} of them are solved in no seed, and
        {} in fewer than half.""",
        _never_solved,
    ),
    Statement("bounded, here by {} for labels of variance {}", _bounds),
    Statement(
        """| `sparse` on [{}, {}] | {} | {} | {} | {} | {} |
        | `sparse` on [{}, {}] | {} | {} | {} | {} | {} |
        | `suffix` on [{}, {}] | {} | {} | {} | {} | {} |
        | `suffix` on [{}, {}] | {} | {} | {} | {} | {} |
        | `suffix` on [{}, {}] | {} | {} | {} | {} | {} |
        | `suffix` on signs | {} | {} | {} | {} | {} |""",
        _by_span,
    ),
    Statement(
        """Degree and structure allow {} configurations that one layer leaves unsolved. By span, {} of them have no solution,
        and {} have none with such coefficients.""",
        _without_solution,
    ),
    Statement("one layer of `linattn` cannot go below {} and {} at", _long),
)

"""Floors of one layer of linear attention, by each bound: what a label, its length and the position codes decide."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import product

import torch

from expbench.algebra.reach import Reach
from expbench.algebra.spans import LEARNED, Codes
from expbench.console.formatting import aligned, number
from expbench.contracts import build_task, load_task
from expbench.models.linattn import LinAttn
from expbench.plugins import find
from expbench.task import Task

POSITIONS = ("none", "sin", "learned", "onehot", "index")


def codes(positions: str, length: int, width: int, base: float) -> Codes:
    """Return the position codes (L, K) of a network: sinusoids of t / base^(2i/D) in float32, t/L, none, or free ones."""
    if positions in ("learned", "onehot"):
        return LEARNED
    if positions == "none":
        return ((),) * length
    if positions == "index":
        return tuple((float(x),) for x in torch.arange(1, length + 1) / length)
    angle = torch.arange(length)[:, None] * torch.exp(torch.arange(0, width, 2) * (-math.log(base) / width))
    table = torch.stack([angle.sin(), angle.cos()], -1).flatten(1)[:, :width]
    return tuple(map(tuple, table.double().tolist()))


def text(
    settings: Mapping[str, str],
    lengths: Iterable[int],
    degrees: Sequence[int | None],
    *,
    width: int,
    positions: str,
    base: float,
    largest: Sequence[float],
) -> str:
    """Return a table with a line per length and degree of `polyreg`, and a column per bound.

    largest: bounds on the coefficients, each with a column (`span_floor`). Raise `BadInput` for an unknown setting.
    """
    of_size = [f"coefficients to {size:g}" for size in largest]
    lines = [["L", "degree", "by degree and structure", f"span, {positions}", *of_size, "symmetry, no codes"]]
    for length, degree in product(lengths, degrees):
        given = {**settings, "L": str(length), **({} if degree is None else {"degree": str(degree)})}
        lines.append(
            _line(build_task(load_task(find("task", "polyreg")), given, "polyreg"), width, positions, base, largest)
        )
    return aligned(lines)


def _line(task: Task, width: int, positions: str, base: float, largest: Sequence[float]) -> list[str]:
    reach = LinAttn(1).reach(Reach.of_inputs(task.L))
    by_degree = task.floor(reach)
    table = codes(positions, task.L, width, base)
    spans = [task.span_floor(table, largest=size) for size in (math.inf, *largest)]
    bounds = [by_degree.both if by_degree else None, *spans, task.symmetry_floor()]
    return [str(task.L), str(getattr(task, "degree", None)), *map(number, bounds)]

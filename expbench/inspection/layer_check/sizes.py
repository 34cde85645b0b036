"""The sizes at which a layer is checked: those that it supports, of those asked for or else of others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, get_args

import torch
from torch import nn

from expbench import contracts
from expbench.errors import first_line
from expbench.global_state import seed_generators
from expbench.inspection.layer_check.layer import CheckResult
from expbench.mixer import declared_lengths, unsupported
from expbench.ops.backends import BackendUnsupported
from expbench.run import DType
from expbench.settings import Value

_OTHER_WIDTHS = (8, 16, 32, 64)  # tried if a layer refuses all requested widths, as kernels with fixed tiles do
_OTHER_LENGTHS = (8, 16, 32, 64, 128, 256)  # likewise
_LONGEST = 512  # of lengths that are tried because the layer declares them
Findings = list[tuple[str, CheckResult]]


def dtypes(cls: type) -> list[DType]:
    """Return the dtypes that a layer supports; float32 if it declares none of `DType`."""
    declared: Any = getattr(cls, "dtypes", None)
    return [dtype for dtype in get_args(DType) if not hasattr(declared, "__contains__") or dtype in declared] or ["float32"]


def widths(cls: type, values: Mapping[str, Value], asked: Sequence[int]) -> tuple[list[int], Findings]:
    """Return the widths to check, empty if there are none, and a finding for each requested one without support."""
    refused = {width: _refused(cls, values, width) for width in dict.fromkeys(asked)}
    findings: Findings = [(f"width {w}", CheckResult("unsupported", why)) for w, why in refused.items() if why]
    supported = [width for width, why in refused.items() if why is None]
    if not supported:
        declared: Any = getattr(cls, "widths", None)
        others = (*sorted(declared)[:1], *_OTHER_WIDTHS) if hasattr(declared, "__iter__") else _OTHER_WIDTHS
        supported = [width for width in others if _refused(cls, values, width) is None][:1]
    return supported, findings


def lengths(
    cls: type[nn.Module], values: Mapping[str, Value], width: int, asked: Sequence[int]
) -> tuple[list[int], Findings]:
    """Return the lengths to check, and findings about requested ones that the layer does not support.

    A layer that raises at some lengths only, and does not declare its `lengths`, fails once; it is checked at the others.
    """
    asked = sorted(set(asked))
    declared = declared_lengths(cls)
    if declared is not None:
        out = {n: unsupported(cls, width=width, dtype=dtypes(cls)[0], device="cpu", length=n) for n in asked}
        findings: Findings = [(f"length {n}", CheckResult("unsupported", why)) for n, why in out.items() if why]
        supported = [n for n, why in out.items() if why is None]
        return supported or [n for n in range(1, _LONGEST + 1) if n in declared][:2], findings
    raised = {n: _raised(cls, values, width, n) for n in asked}
    errors = {n: error for n, error in raised.items() if error is not None}
    if not errors:
        return asked, []
    fine = [n for n in asked if n not in errors]
    fine = fine if any(n > 1 for n in fine) else [n for n in _OTHER_LENGTHS if _raised(cls, values, width, n) is None][:2]
    if not fine:
        return asked, []  # it raises whatever the length is; the checks report it
    unit, (first, error) = math.gcd(*fine), next(iter(errors.items()))
    all_, some = (", ".join(map(str, each)) for each in (errors, fine))
    range_ = f"range({unit}, 4097, {unit})" if unit > 1 else f"range({min(fine)}, 4097)"
    said = f"L={all_}: {first_line(error)}; L={some} work: a layer for some lengths declares them: lengths = {range_}"
    return fine, [("lengths", CheckResult("fail", said, raised[first]))]


def _raised(cls: type[nn.Module], values: Mapping[str, Value], width: int, length: int) -> BaseException | None:
    """Return the exception of a forward pass at a length, other than for a backend; None without one."""
    seed_generators(0)
    try:
        module = cls(width, **contracts.resolved_settings(cls, values, width)).eval()
    except (Exception, SystemExit):  # the checks report it
        return None
    try:
        with torch.no_grad():
            module(torch.zeros(1, length, width))
    except BackendUnsupported:
        return None
    except (Exception, SystemExit) as error:  # a plugin is third-party code
        return error
    return None


def _refused(cls: type, values: Mapping[str, Value], width: int) -> str | None:
    """Return why the layer does not support a width: declared, or the constructor raises ValueError; None if it does."""
    why = unsupported(cls, width=width, dtype=dtypes(cls)[0], device="cpu")
    if why is not None:
        return why
    try:
        cls(width, **contracts.resolved_settings(cls, values, width))
    except ValueError as error:
        return first_line(error).removeprefix("ValueError: ")
    except (Exception, SystemExit):  # not a refusal: the checks report it
        return None
    return None

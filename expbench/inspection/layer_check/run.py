"""Layer check: test whether a layer satisfies the contract of a sequence mixer, and whether its declarations are true.

Every check runs the layer on a CPU, on short sequences. Parameters are perturbed, since special initial values such as zeros
hide errors. Random generators are reset before each call, so that hidden randomness fails only the check for it. Checks use
float64 where the layer supports it, because there errors are much larger than rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, get_args

import torch
from torch import nn

from expbench import contracts, plugins
from expbench.console.formatting import aligned
from expbench.errors import BadInput, first_line
from expbench.global_state import preserved
from expbench.inspection.layer_check import causality, dtypes, gradients, inputs, randomness, stacking, statements
from expbench.inspection.layer_check.layer import CheckResult, Layer, Verdict
from expbench.mixer import unsupported
from expbench.ops.backends import BackendUnsupported
from expbench.run import DType
from expbench.settings import Value, resolve
from expbench.sweep import spec
from expbench.task import LONGEST

_COUNTED: dict[Verdict, str] = {"pass": "passed", "fail": "failed", "unsupported": "unsupported", "not stated": "not stated"}
_OTHER_WIDTHS = (8, 16, 32, 64)  # tried if a layer refuses all requested widths, as kernels with fixed tiles do


class Check(NamedTuple):
    """Name, verdict and one-line detail of a check."""

    what: str
    verdict: Verdict
    detail: str


def check(
    name: str,
    *,
    widths: Sequence[int] = (1, 2, 4, 7),
    lengths: Sequence[int] = (1, 2, 5, 16),
    settings: Sequence[str] = (),
) -> list[Check]:
    """Check the layer `name` (as in ``run --models``) with settings such as ``N=2`` (as in ``run -m``).

    The checks are independent: an exception fails only its own check. Raise `BadInput` for an unknown layer, for one that
    cannot be built, and for bad settings, widths or lengths.
    """
    for option, sizes in (("widths", widths), ("lengths", lengths)):
        if not sizes or not all(1 <= size <= LONGEST for size in sizes):
            raise BadInput(f"{option}: {', '.join(map(str, sizes)) or 'none'} is not a list of sizes in 1 to {LONGEST}")
    plugin = plugins.find("model", name)
    cls = contracts.load_model(plugin)
    given = spec.assignments(settings, "-m", [name], "model", name)
    for setting, texts in given.items():
        if len(texts) != 1:
            raise BadInput(f"-m {setting}={','.join(texts)}: check takes one value per setting")
    values = resolve(cls, {setting: texts[0] for setting, texts in given.items()}, plugin.name)
    with _surroundings():
        return _findings(cls, plugin.name, values, widths, lengths)


def text(findings: Sequence[Check]) -> str:
    """Return the findings as a table, with the number of each verdict."""
    counts = {verdict: sum(finding.verdict == verdict for finding in findings) for verdict in _COUNTED}
    counted = ", ".join(f"{count} {_COUNTED[verdict]}" for verdict, count in counts.items() if count)
    table = aligned([["check", "verdict", "detail"], *findings])
    return f"{table}\n\n{len(findings)} checks: {counted}"


@contextmanager
def _surroundings() -> Iterator[None]:
    """Use one thread, since tensors are tiny, and restore the global state on exit, random generators included."""
    with preserved("the layer"):
        torch.set_num_threads(1)
        yield


def _findings(
    cls: type[nn.Module], name: str, values: dict[str, Value], widths: Sequence[int], lengths: Sequence[int]
) -> list[Check]:
    asked = [(width, _refused(cls, values, width)) for width in dict.fromkeys(widths)]
    findings = [Check(f"width {width}", "unsupported", why) for width, why in asked if why]
    supported = [width for width, why in asked if why is None]
    if not supported:
        declared: Any = getattr(cls, "widths", None)
        others = (*sorted(declared)[:1], *_OTHER_WIDTHS) if hasattr(declared, "__iter__") else _OTHER_WIDTHS
        supported = [width for width in others if _refused(cls, values, width) is None][:1]
    if not supported:
        if unsupported(cls, width=widths[0], dtype=_dtypes(cls)[0], device="cpu") is None:
            contracts.check_mixer(
                cls, name, widths[0], contracts.resolved_settings(cls, values, widths[0]), lengths[0], "cpu"
            )
        return findings
    layer = Layer(cls, values, tuple(supported), tuple(sorted(set(lengths))))
    each: dict[str, Callable[[], CheckResult]] = {
        "shape and dtype": lambda: inputs.shapes(layer),
        "memory layout": lambda: inputs.layout(layer),
        "causality": lambda: causality.causality(layer),
        "batch independence": lambda: causality.batch_independence(layer),
        "gradients": lambda: gradients.gradients(layer),
        "determinism": lambda: randomness.determinism(layer),
        "stacking": lambda: stacking.stacking(layer),
        "float64": lambda: dtypes.double(layer),
        "float32": lambda: dtypes.narrow(layer, "float32"),
        "bfloat16 autocast": lambda: dtypes.narrow(layer, "bfloat16"),
        "state size": lambda: statements.state(layer),
        "degree": lambda: statements.reach(layer),
    }
    return findings + [_guarded(what, ask) for what, ask in each.items()]


def _guarded(what: str, ask: Callable[[], CheckResult]) -> Check:
    try:
        verdict, detail = ask()
    except BackendUnsupported as error:
        verdict, detail = "unsupported", first_line(error)
    except (Exception, SystemExit) as error:  # a plugin is third-party code
        verdict, detail = "fail", first_line(error)
    return Check(what, verdict, " ".join(detail.split()))


def _dtypes(cls: type) -> list[DType]:
    """Return the dtypes that a layer supports; float32 if it declares none of `DType`."""
    declared: Any = getattr(cls, "dtypes", None)
    return [dtype for dtype in get_args(DType) if not hasattr(declared, "__contains__") or dtype in declared] or ["float32"]


def _refused(cls: type, values: Mapping[str, Value], width: int) -> str | None:
    """Return why the layer does not support a width: declared, or the constructor raises ValueError; None if it does."""
    why = unsupported(cls, width=width, dtype=_dtypes(cls)[0], device="cpu")
    if why is not None:
        return why
    try:
        cls(width, **contracts.resolved_settings(cls, values, width))
    except ValueError as error:
        return first_line(error).removeprefix("ValueError: ")
    except (Exception, SystemExit):  # not a refusal: the checks report it
        return None
    return None

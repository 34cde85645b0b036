"""Layer check: test whether a layer satisfies the contract of a sequence mixer, and whether its declarations are true.

Every check runs the layer on a CPU, on short sequences. Parameters are perturbed, since special initial values such as zeros
hide errors. Random generators are reset before each call, so that hidden randomness fails only the check for it. Checks use
float64 where the layer supports it, because there errors are much larger than rounding.
"""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import torch
from torch import nn

from expbench import contracts, plugins
from expbench.console.formatting import aligned
from expbench.errors import BadInput, first_line, place_of, shown_place
from expbench.global_state import preserved
from expbench.inspection.layer_check import causality, dtypes, gradients, inputs, randomness, sizes, stacking, statements
from expbench.inspection.layer_check.layer import BadOutput, CheckResult, Layer, Verdict
from expbench.inspection.layer_check.randomness import TWO
from expbench.mixer import unsupported
from expbench.ops.backends import BackendUnsupported
from expbench.settings import Value, resolve
from expbench.sweep import spec
from expbench.task import LONGEST

_COUNTED: dict[Verdict, str] = {
    "pass": "passed",
    "fail": "failed",
    **{verdict: verdict for verdict in ("unsupported", "not stated", "not measured")},
}
_STOPPED = "stopped by the error of "
_EXCUSED = {"lengths", "shape and dtype", "finiteness", "determinism", "degree"}  # failures that no randomness explains


class Check(NamedTuple):
    """Name, verdict and one-line detail of a check; traceback: of the exception that led to it, if there was one."""

    what: str
    verdict: Verdict
    detail: str
    traceback: str = ""


def check(
    name: str,
    *,
    widths: Sequence[int] = (1, 2, 4, 7),
    lengths: Sequence[int] = (1, 2, 5, 16),
    settings: Sequence[str] = (),
) -> list[Check]:
    """Check the layer `name` (as in ``run --models``) with settings such as ``N=2`` (as in ``run -m``).

    The checks are independent: an exception fails only its own check. What it
    stops besides is `not measured`. Raise `BadInput` for an unknown layer, for one that
    cannot be built, and for bad settings, widths or lengths.
    """
    for option, asked in (("widths", widths), ("lengths", lengths)):
        if not asked or not all(1 <= size <= LONGEST for size in asked):
            raise BadInput(f"{option}: {', '.join(map(str, asked)) or 'none'} is not a list of sizes in 1 to {LONGEST}")
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
    stopped: dict[str, list[str]] = {}
    for finding in findings:
        if finding.detail.startswith(_STOPPED):
            stopped.setdefault(finding.detail, []).append(finding.what)
    shown = [[f.what, f.verdict, f.detail] for f in findings if f.detail not in stopped]
    table = aligned([["check", "verdict", "detail"], *shown])
    notes = "".join(f"\nnot measured, {why}: {', '.join(names)}" for why, names in stopped.items())
    return f"{table}{notes}\n\n{len(findings)} checks: {counted}"


def tracebacks(findings: Sequence[Check]) -> str:
    """Return the tracebacks of the exceptions that led to findings."""
    return "\n".join(f"{finding.what}:\n{finding.traceback}" for finding in findings if finding.traceback)


@contextmanager
def _surroundings() -> Iterator[None]:
    """Use one thread, since tensors are tiny, and restore the global state on exit, random generators included."""
    with preserved("the layer"):
        torch.set_num_threads(1)
        yield


def _findings(
    cls: type[nn.Module], name: str, values: dict[str, Value], widths: Sequence[int], lengths: Sequence[int]
) -> list[Check]:
    supported, about_widths = sizes.widths(cls, values, widths)
    findings = [_told(what, result, cls) for what, result in about_widths]
    if not supported:
        if unsupported(cls, width=widths[0], dtype=sizes.dtypes(cls)[0], device="cpu") is None:
            contracts.check_mixer(
                cls, name, widths[0], contracts.resolved_settings(cls, values, widths[0]), lengths[0], "cpu"
            )
        return findings
    fine, about_lengths = sizes.lengths(cls, values, supported[0], lengths)
    findings += [_told(what, result, cls) for what, result in about_lengths]
    if not fine:
        return findings
    layer = Layer(cls, values, tuple(supported), tuple(fine))
    each: dict[str, Callable[[], CheckResult]] = {
        "shape and dtype": lambda: inputs.shapes(layer),
        "finiteness": lambda: inputs.finite(layer),
        "gradients": lambda: gradients.gradients(layer),
        "determinism": lambda: randomness.determinism(layer),
        "memory layout": lambda: inputs.layout(layer),
        "causality": lambda: causality.causality(layer),
        "batch independence": lambda: causality.batch_independence(layer),
        "stacking": lambda: stacking.stacking(layer),
        "float64": lambda: dtypes.double(layer),
        "float32": lambda: dtypes.narrow(layer, "float32"),
        "bfloat16 autocast": lambda: dtypes.narrow(layer, "bfloat16"),
        "state size": lambda: statements.state(layer),
        "positions": lambda: statements.positions(layer),
        "degree": lambda: statements.reach(layer),
    }
    causes: dict[str, str] = {_cause(r.error, cls): what for what, r in about_lengths if r.error is not None}
    for what, ask in each.items():
        result = _guarded(ask)
        if result.error is not None:
            first = causes.setdefault(_cause(result.error, cls), what)
            if first != what:
                result = CheckResult("not measured", f"{_STOPPED}{first}")
        findings.append(_told(what, result, cls))
    return _one_cause(findings)


def _guarded(ask: Callable[[], CheckResult]) -> CheckResult:
    try:
        return ask()
    except BackendUnsupported as error:
        return CheckResult("unsupported", first_line(error))
    except BadOutput as error:
        return CheckResult("fail", str(error), error)
    except (Exception, SystemExit) as error:  # a plugin is third-party code
        return CheckResult("fail", first_line(error), error)


def _told(what: str, result: CheckResult, cls: type) -> Check:
    """Return a finding, with the place in the layer's code that its exception comes from."""
    place = "" if result.error is None else f" ({_place(result.error, cls)})"
    full = "" if result.error is None else "".join(traceback.format_exception(result.error))
    return Check(what, result.verdict, " ".join(result.detail.split()) + place, full)


def _place(error: BaseException, cls: type) -> str:
    """Return FILE:LINE of the code of the layer in which an exception was raised, or else of its `forward` or class."""
    place = place_of(error)
    if place is None and isinstance(error, BadOutput):
        code = cls.forward.__code__  # type: ignore[attr-defined]
        place = shown_place(Path(code.co_filename), code.co_firstlineno)
    if place is None:
        with suppress(OSError, TypeError):
            place = shown_place(Path(inspect.getfile(cls)), inspect.getsourcelines(cls)[1])
    return place or cls.__qualname__


def _cause(error: BaseException, cls: type) -> str:
    """Return a text that is the same for exceptions of one cause: their type and place."""
    return f"{type(error).__name__} {_place(error, cls)}"


def _one_cause(findings: list[Check]) -> list[Check]:
    """Return the findings without failures that another one explains: results that are not reproducible fail much."""
    by_name = {finding.what: finding for finding in findings}
    random_ = by_name["determinism"]
    if random_.verdict != "fail" or not any(each in random_.detail for each in ("results for the same input differ", TWO)):
        return findings
    said = "results are not reproducible, see determinism"

    def explained(f: Check) -> bool:
        return (f.verdict == "fail" and f.what not in _EXCUSED) or (f.verdict == "unsupported" and f.what == "float64")

    return [Check(f.what, "not measured", said) if explained(f) else f for f in findings]

"""Choice of an operator's implementation: the argument of the call, else the backend that `using` forces, else the default.

An operator implements some of the names in `BACKENDS`; the default depends on the device. A forced backend is never
silently replaced: a name that is unknown or unavailable on this machine raises `BadInput`, and a problem that the named
implementation cannot solve raises `BackendUnsupported`.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from importlib import import_module
from typing import Any, NamedTuple, TypeVar

from expbench.errors import BadInput, unknown

BACKENDS = ("reference", "torch", "triton", "mamba")
_PROBED = {
    "triton": "expbench.ops.selective.backend_triton",
    "mamba": "expbench.ops.selective.backend_mamba",
}  # the other backends work on every machine
_log = logging.getLogger("expbench")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class BackendUnsupported(ValueError):
    """A forced backend works on this machine but does not support the given problem."""


class Used:
    """The names of the implementations that ran within a `using` block."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, name: str) -> None:
        """Record one name."""
        self._names.add(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Names without duplicates, in alphabetical order."""
        return tuple(sorted(self._names))


class _Choice(NamedTuple):
    forced: str | None
    used: tuple[Used, ...]


_FREE = _Choice(None, ())
_choice: ContextVar[_Choice] = ContextVar("expbench.backend", default=_FREE)


@contextmanager
def using(name: str | None) -> Iterator[Used]:
    """Force the backend of every operator called within (None: keep the outer choice), and record the backends that ran.

    If contexts are nested, the innermost name is forced and all contexts record. A compiled program keeps the choice under
    which it was traced. Raises `BadInput` as `require` does.
    """
    if name is not None:
        require(name)
    outer, used = _choice.get(), Used()
    token = _choice.set(_Choice(name or outer.forced, (*outer.used, used)))
    try:
        yield used
    finally:
        _choice.reset(token)


def forced() -> str | None:
    """Return the backend that a surrounding `using` forces, or None."""
    return _choice.get().forced


def require(name: str) -> None:
    """Raise `BadInput` if the backend is unknown or unavailable on this machine; the message says how to install it."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    reason = unavailable_reason(name)
    if reason is not None:
        raise BadInput(f"backend {name} does not work here: {reason}")


def unavailable_reason(name: str) -> str | None:
    """Return why the backend is unavailable on this machine and how to install it, or None; it is probed once, by a call."""
    if name not in _PROBED:
        return None
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():  # torch.compile traces with tensors that have no data; the probe would fail on them
        reason: str | None = import_module(_PROBED[name]).unavailable_reason()
    return reason


def constant_when_traced(function: _Function) -> _Function:
    """Mark `function` for torch.compile, which then calls it while tracing and keeps the result as a constant.

    This replaces torch.compiler.assume_constant_result, whose import of the compiler costs every process 2 seconds.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_traced
def requested(backend: str | None) -> str | None:
    """Return the backend of a call's argument, else of the context, else None. Raises `BadInput` as `require` does."""
    if backend is None:
        return forced()
    require(backend)
    return backend


@constant_when_traced
def ran(operation: str, name: str) -> None:
    """Record that implementation `name` of `operation` ran, and log its first use in this process."""
    for used in _choice.get().used:
        used.add(name)
    _announce(operation, name)


@functools.cache
def _announce(operation: str, name: str) -> None:
    _log.info("%s: backend %s", operation, name)

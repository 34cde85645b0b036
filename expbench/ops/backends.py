"""Which implementation of an operation runs: the call's own argument, else what `using` forces, else what suits the device.

An operation has some of the names in `BACKENDS`. What is forced is never silently replaced: a name that is unknown or
absent on this machine is bad input, a problem that the named implementation cannot solve is an error of the call's.
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
}  # the others always work
_log = logging.getLogger("expbench")
_Function = TypeVar("_Function", bound=Callable[..., Any])


class Unable(ValueError):
    """A forced backend works here, but cannot solve the problem that it is given."""


class Used:
    """Collects the names of the implementations that ran."""

    def __init__(self) -> None:
        self._names: set[str] = set()

    def add(self, name: str) -> None:
        self._names.add(name)

    @property
    def names(self) -> tuple[str, ...]:
        """Each once, in alphabetical order."""
        return tuple(sorted(self._names))


class _Choice(NamedTuple):
    forced: str | None
    used: tuple[Used, ...]


_FREE = _Choice(None, ())
_choice: ContextVar[_Choice] = ContextVar("expbench.backend", default=_FREE)


@contextmanager
def using(name: str | None) -> Iterator[Used]:
    """Force the backend of every operation within (None: force nothing more) and record those that ran.

    Of nested contexts the innermost name is forced, and all of them record. A compiled program keeps the choice under which
    it was traced. Raises `BadInput` as `require` does.
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
    """The backend that a surrounding `using` forces; None if none does."""
    return _choice.get().forced


def require(name: str) -> None:
    """Raise `BadInput` if there is no backend of this name, or it does not work on this machine (saying how to get it)."""
    if name not in BACKENDS:
        raise unknown("backend", name, BACKENDS)
    reason = absent(name)
    if reason is not None:
        raise BadInput(f"backend {name} does not work here: {reason}")


def absent(name: str) -> str | None:
    """Why the backend does not work on this machine and how to get it; None if it works. Probed by a call, once."""
    if name not in _PROBED:
        return None
    from torch.utils._python_dispatch import _disable_current_modes

    with _disable_current_modes():  # a compiler's tracing makes tensors without data, on which the probe's call would fail
        reason: str | None = import_module(_PROBED[name]).absent()
    return reason


def constant_when_traced(function: _Function) -> _Function:
    """Have torch.compile call `function` while it traces and keep the result, where it could not trace it.

    This is torch.compiler.assume_constant_result, which imports the compiler: 2 seconds that nobody else needs to wait for.
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function


@constant_when_traced
def requested(backend: str | None) -> str | None:
    """What a call's own argument or else the context asks for, known to work here; None if neither asks."""
    if backend is None:
        return forced()
    require(backend)
    return backend


@constant_when_traced
def ran(operation: str, name: str) -> None:
    """Record that an implementation of `operation` ran; the first time in this process, log it too."""
    for used in _choice.get().used:
        used.add(name)
    _announce(operation, name)


@functools.cache
def _announce(operation: str, name: str) -> None:
    _log.info("%s: backend %s", operation, name)

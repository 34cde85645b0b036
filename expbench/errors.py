"""Bad input: a user error that a one-line message explains.

Every user error raises `BadInput`; the command line prints its message and exits with 2. Any other exception is a bug of
expbench and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class BadInput(Exception):
    """A user error with a one-line message, which suggests the nearest valid choice if there is one."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


class BrokenContract(BadInput):
    """A layer that breaks its contract: it is recorded as failed if other layers of the same command keep theirs."""


def unknown(kind: str, name: object, choices: Iterable[str]) -> BadInput:
    """Return the error for a `name` that is not in `choices`, with the nearest choice and a list of all."""
    known = sorted(choices)
    lower = {choice.lower(): choice for choice in known}
    near = get_close_matches(str(name).lower(), lower, n=1, cutoff=0.4)
    hint = f"; did you mean {lower[near[0]]!r}?" if near else ";"
    return BadInput(f"unknown {kind} {str(name)!r}{hint} (known: {', '.join(known) or 'none'})")


def first_line(error: BaseException) -> str:
    """Return the type of an exception and the first line of its message."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def of_plugin(name: str, what: str) -> Iterator[None]:
    """Convert exceptions of third-party code to `BadInput`: a ValueError with its own message, others prefixed by `what`."""
    try:
        yield
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:
        raise BadInput(f"{what}: {type(error).__name__}: {error}") from error

"""Bad input: an error of the user's that one line can put right.

Everything that a user can get wrong raises `BadInput`; the command line prints its one line and exits with 2. Any other
exception that escapes is a bug of ours and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class BadInput(Exception):
    """One clear line for the user, with the nearest valid choice where there is one."""

    def __init__(self, message: str) -> None:
        super().__init__(" ".join(message.split()))


def unknown(kind: str, name: object, choices: Iterable[str]) -> BadInput:
    """The error for `name`, which is none of `choices`: names the nearest one and lists them all."""
    known = sorted(choices)
    lower = {choice.lower(): choice for choice in known}
    near = get_close_matches(str(name).lower(), lower, n=1, cutoff=0.4)
    hint = f"; did you mean {lower[near[0]]!r}?" if near else ";"
    return BadInput(f"unknown {kind} {str(name)!r}{hint} (known: {', '.join(known) or 'none'})")


def first_line(error: BaseException) -> str:
    """The type of an exception and the first line of what it says."""
    lines = str(error).splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


@contextmanager
def of_plugin(name: str, what: str) -> Iterator[None]:
    """Turns what a stranger's code raises into `BadInput`: a ValueError in its own words, all else as what it prevents."""
    try:
        yield
    except BadInput:
        raise
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:
        raise BadInput(f"{what}: {type(error).__name__}: {error}") from error

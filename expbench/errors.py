"""Bad input: a user error that a one-line message explains.

Every user error raises `BadInput`; the command line prints its message and exits with 2. Any other exception is a bug of
expbench and keeps its traceback.
"""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path


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


def place_of(error: BaseException) -> str | None:
    """Return FILE:LINE of the innermost call in third-party code, or None: not in torch, Python's library or expbench.

    The models of expbench count as third-party code.
    """
    own, torch = Path(__file__).parent, getattr(sys.modules.get("torch"), "__file__", None)
    library = Path(sysconfig.get_path("stdlib"))

    def is_foreign(path: Path) -> bool:
        if own in path.parents:
            return own / "models" in path.parents
        if library in path.parents and not {"site-packages", "dist-packages"} & set(path.parts):
            return False
        return path.is_file() and (torch is None or Path(torch).parent not in path.parents)

    frames = [(Path(f.filename), f.lineno) for f in traceback.extract_tb(error.__traceback__)]
    return next((shown_place(path, line) for path, line in reversed(frames) if is_foreign(path)), None)


def shown_place(path: Path, line: int | None) -> str:
    """Return FILE:LINE, relative to the current folder if the file is in it."""
    here = Path.cwd()
    return f"{path.relative_to(here) if path.is_relative_to(here) else path}:{line}"


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

"""The standard streams: one that is closed, full or of a narrow encoding ends the output of a command, not its work."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO, cast


class _Guarded:
    """A text stream that keeps its first failure to write instead of raising it, and drops all text after it."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.failure: OSError | None = None

    def write(self, text: str) -> int:
        try:
            if self.failure is None:
                self._stream.write(text)
        except UnicodeEncodeError:
            encoding = self._stream.encoding or "ascii"
            self.write(text.encode(encoding, "backslashreplace").decode(encoding))
        except OSError as failure:
            self._end(failure)
        return len(text)

    def writelines(self, lines: Iterator[str]) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        try:
            if self.failure is None:
                self._stream.flush()
        except OSError as failure:
            self._end(failure)

    def incomplete(self) -> bool:
        """Return whether text is missing that a reader may still wait for."""
        self.flush()
        return self.failure is not None and not isinstance(self.failure, BrokenPipeError)

    def _end(self, failure: OSError) -> None:
        self.failure = failure
        if self._stream in (sys.__stdout__, sys.__stderr__):
            # the text that could not be written is still buffered, and Python writes it again when it exits
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self._stream.fileno())
            os.close(null)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextmanager
def guarded() -> Iterator[None]:
    """Within the block, failures to write output are not raised; at its end, exit with 2 if standard output was incomplete.

    A closed pipe is no failure: its reader wants no more, and the command goes on in silence.
    """
    _open_closed()
    before = sys.stdout, sys.stderr
    out, err = _Guarded(sys.stdout), _Guarded(sys.stderr)
    sys.stdout, sys.stderr = cast(TextIO, out), cast(TextIO, err)
    try:
        yield
    except SystemExit:
        if not out.incomplete():
            raise
        print(f"error: the output cannot be written ({out.failure and out.failure.strerror})", file=sys.stderr)
        raise SystemExit(2) from None
    finally:
        err.flush()
        sys.stdout, sys.stderr = before


def _open_closed() -> None:
    """Open those of the standard streams that are closed as the null device, so that no other file takes their numbers."""
    if None not in (sys.stdin, sys.stdout, sys.stderr):
        return
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest number that is free
    if sys.stdin is None:
        sys.stdin = open(os.devnull, encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stdout is None:
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115
    if sys.stderr is None:
        sys.stderr = open(os.devnull, "w", encoding="utf-8")  # noqa: PTH123, SIM115

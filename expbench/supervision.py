"""Supervision: a plugin that ends its process (a segmentation fault, `os._exit`, the kernel's memory limit) ends one run.

A command that trains continues in a child of the process that was started. The parent, which imports neither torch nor
plugins, waits for it. If the child ends without saying so, the parent reads from a journal what it was attempting, and
continues the same command in a new child. What took its process twice is refused, and its run becomes a failed row.

The journal is memory that both share, so that nothing is left behind if both are killed at once, and this counts for
nothing: only a death that the parent outlives is a verdict. A child does not outlive its parent.

Supervision needs Linux. It is off within a Python process (`main` with arguments), under torchrun, a debugger, a profiler or
a coverage tool, and with EXPBENCH_SUPERVISE=0.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from expbench.console.formatting import say

TWICE = 2  # deaths after which an attempt is refused
_ALIKE = 3  # refused attempts of a group, after which its other members are refused untried
_ASIDE = 2.0  # seconds in which a repeated signal is ignored: a terminal, `timeout` and the parent may all send it
_BY_HAND = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT}
_PR_SET_PDEATHSIG = 1


class ProcessDied(Exception):
    """An attempt that is refused, because it or its like ended their processes; the message says how."""


class _Supervision:
    """The state of a command, which the parent keeps and each child inherits."""

    def __init__(self) -> None:
        self.allowed = False  # whether this is a command of its own process
        self.child = 0  # process id of the child, in the parent
        self.journal: int | None = None  # file descriptor, in a child
        self.asked_to_end = False
        self.starts = 0
        self.began = 0.0
        self.deaths: Counter[str] = Counter()  # by attempt
        self.manner: dict[str, str] = {}  # how the last process of an attempt died
        self.refused: Counter[str] = Counter()  # refused attempts by group
        self.statuses: dict[str, str] = {}  # of the runs that ended, by key
        self.done: set[str] = set()  # what is done once in a command


_now = _Supervision()


@contextmanager
def command(*, of_this_process: bool) -> Iterator[None]:
    """Run a command. of_this_process: whether the process was started for it, so that `supervise` may take effect.

    At its end a child tells its parent the exit code.
    """
    if not of_this_process:
        yield
        return
    _now.allowed, code = _possible(), 1
    try:
        yield
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        raise
    finally:
        _write("exit", code)


def supervise(announcement: str) -> None:
    """Print what the command will do, and continue it in a child; the parent exits with the child's exit code.

    Without supervision return at once, after the announcement if this process has yet to import torch.
    """
    leads = os.environ.get("RANK", "0") == "0"  # of the processes of torchrun, the first
    if _now.allowed or (leads and _now.journal is None and "torch" not in sys.modules):
        say(announcement)
    if not _now.allowed:
        return
    journal = os.memfd_create("expbench")
    _now.began, read = time.monotonic(), 0
    while True:
        if _continues_in_child(journal):
            return
        status = os.waitstatus_to_exitcode(os.waitpid(_now.child, 0)[1])
        _now.child = 0
        written = os.pread(journal, os.fstat(journal).st_size - read, read)
        read += len(written)
        code = _after(status, written.decode().splitlines())
        if code is not None:
            raise SystemExit(code)


def once(what: str) -> bool:
    """Return True the first time in a command, and False if an earlier child did this."""
    _write("done", what)
    return what not in _now.done


def elapsed() -> float:
    """Return the seconds that earlier children of this command took."""
    return time.monotonic() - _now.began if _now.starts > 1 else 0.0


def ended_before() -> dict[str, str]:
    """Return the statuses, by key, of the runs that earlier children of this command ended."""
    return dict(_now.statuses)


def ended(key: str, status: str) -> None:
    """Record that a run has ended."""
    _write("ended", key, status)


@contextmanager
def attempting(what: str, *attempts: str, group: str = "", row: str = "") -> Iterator[None]:
    """Mark what the process does, in case it dies. attempts: names by which it is found again; without any it is fatal.

    group: a name of what is alike. If several members of a group are refused, all others are. row: `what` in a row.
    """
    _write("begin", what, attempts, group, row or what)
    try:
        yield
    finally:
        _write("end")


def deaths(attempt: str) -> int:
    """Return the number of processes that died in an attempt."""
    return _now.deaths[attempt]


def manner(attempt: str) -> str:
    """Return how the last process died in an attempt: ``the process died while training this run (signal 11, SIGSEGV)``."""
    return _now.manner.get(attempt, "")


def refusal(attempt: str, group: str = "") -> str | None:
    """Return why an attempt is refused; None if it may be made."""
    if _now.deaths[attempt] >= TWICE:
        return _twice(attempt)
    if group and _now.refused[group] >= _ALIKE:
        return f"not tried, because {_ALIKE} similar runs failed: {_twice(group)}"
    return None


def _twice(attempt: str) -> str:
    return manner(attempt).replace("died", "died twice", 1)


def refuse(attempt: str, group: str = "") -> None:
    """Raise `ProcessDied` if an attempt is refused."""
    reason = refusal(attempt, group)
    if reason is not None:
        raise ProcessDied(reason)


def interrupt(*_: object) -> None:
    """Raise KeyboardInterrupt in response to a signal, unless another arrived just before."""
    global _interrupted
    now = time.monotonic()
    if now - _interrupted > _ASIDE:
        _interrupted = now
        raise KeyboardInterrupt


_interrupted = -_ASIDE


def _possible() -> bool:
    monitoring: Any = getattr(sys, "monitoring", None)  # from Python 3.12 on
    watched = sys.gettrace() or sys.getprofile() or (monitoring and any(map(monitoring.get_tool, range(6))))
    several = os.environ.get("WORLD_SIZE", "1") != "1" or threading.active_count() > 1
    off = os.environ.get("EXPBENCH_SUPERVISE") == "0"
    return hasattr(os, "memfd_create") and not (watched or several or off or "torch" in sys.modules)


def _continues_in_child(journal: int) -> bool:
    """Fork; return True in the child, which receives signals as before and dies with its parent."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError, AttributeError):
            stream.flush()
    parent, numbers = os.getpid(), (signal.SIGINT, signal.SIGTERM)
    signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    _now.starts += 1
    _now.child = os.fork()
    for number in numbers:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _pass_on if _now.child else interrupt)
    if not _now.child:
        _now.journal, _now.allowed = journal, False
        _die_with(parent)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
    return not _now.child


def _pass_on(number: int, _: Any) -> None:
    _now.asked_to_end = True
    if _now.child:
        with suppress(ProcessLookupError):
            os.kill(_now.child, number)


def _die_with(parent: int) -> None:
    """Ask the kernel to kill this process when its parent dies."""
    import ctypes

    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def _write(*entry: object) -> None:
    """Add an entry to the journal, at once, so that it outlives this process."""
    if _now.journal is not None:
        os.write(_now.journal, b"\n" + json.dumps(entry).encode())


def _after(status: int, lines: list[str]) -> int | None:
    """Take up the journal of a child that has ended; return the exit code, or None to continue in a new child."""
    last = _entry(lines[-1]) if lines else [""]
    if last[0] == "exit":
        return int(last[1])
    doing: list[list[Any]] = []
    for kind, *entry in map(_entry, lines):
        if kind == "ended":
            _now.statuses[entry[0]] = entry[1]
        elif kind == "done":
            _now.done.add(entry[0])
        elif kind == "begin":
            doing.append(entry)
        elif kind == "end":
            doing.pop()
    how = _manner(status)
    if -status in _BY_HAND or _now.asked_to_end:
        return 128 + abs(status) if status < 0 else 130
    if not doing or not doing[-1][1]:
        at = f"while {doing[-1][0]}" if doing else "outside of any training"
        say(f"error: the process died {at} ({how})")
        return 2 if doing else 1
    what, attempts, group, row = doing[-1]
    for attempt in attempts:
        _now.deaths[attempt] += 1
        _now.manner[attempt] = f"the process died while {row} ({how})"
    if len(attempts) == 1 and _now.deaths[attempts[0]] == TWICE:
        _now.refused[group] += 1
        _now.manner[group] = _now.manner[attempts[0]]
    then = "them one by one" if len(attempts) > 1 else "without it" if refusal(attempts[0]) else "with it once more"
    say(f"the process died while {what} ({how}); continuing {then}")
    return None


def _entry(line: str) -> list[Any]:
    try:
        entry: list[Any] = json.loads(line)
    except ValueError:  # empty, or the child died while it wrote this line
        return [""]
    return entry


def _manner(status: int) -> str:
    if status >= 0:
        return f"exit code {status} before its end"
    with suppress(ValueError):
        name = signal.Signals(-status).name
        return f"signal {-status}, {name}{', perhaps for lack of memory' if name == 'SIGKILL' else ''}"
    return f"signal {-status}"

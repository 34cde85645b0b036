"""Processes that a test may kill: forked from a server that has imported torch, as a start of python takes seconds."""

from __future__ import annotations

import multiprocessing
import os
import shutil
import signal
import sys
import tempfile
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(
    [
        "expbench.cli.run",
        "expbench.sweep.sweep",
        "expbench.sweep.expand",
        "expbench.training.loop",
        "expbench.training.stacked",
        "expbench.language.family",
        "expbench_tasks.polyreg",
    ]
)


class Child:
    """A function in a process of its own, with this process's environment and working directory.

    `wait` returns its exit code, negative for a signal; `out` and `err` are what it has written so far.
    """

    def __init__(
        self, function: Callable[..., None], *arguments: object, environment: Mapping[str, str] | None = None
    ) -> None:
        written = Path(tempfile.mkdtemp())
        weakref.finalize(self, shutil.rmtree, written, ignore_errors=True)
        self._out, self._err = written / "out", written / "err"
        given = {**os.environ, **(environment or {})}
        start = (str(self._out), str(self._err), str(Path.cwd()), given, function, arguments)
        self._process = _FORKED.Process(target=_begin, args=start, daemon=True)
        self._process.start()

    @property
    def out(self) -> str:
        return self._out.read_text() if self._out.exists() else ""

    @property
    def err(self) -> str:
        return self._err.read_text() if self._err.exists() else ""

    def poll(self) -> int | None:
        """Return the exit code, or None while the process runs."""
        return self._process.exitcode

    def send_signal(self, number: signal.Signals) -> None:
        os.kill(int(self._process.pid or 0), number)

    def wait(self, timeout: float = 300) -> int:
        self._process.join(timeout)
        code = self._process.exitcode
        assert code is not None, f"still runs after {timeout:g} s: {self.err}"
        return code


def command(*words: str) -> Child:
    """Start the command line with these words, as `python -m expbench` does."""
    return Child(_command, *words)


def _command(*words: str) -> None:
    from expbench.cli.main import main
    from tests.conftest import latest

    main(latest(words))


def _begin(
    out: str,
    err: str,
    folder: str,
    environment: dict[str, str],
    function: Callable[..., None],
    arguments: tuple[object, ...],
) -> None:
    import torch

    for path, stream in ((out, sys.stdout), (err, sys.stderr)):
        with open(path, "w") as file:  # noqa: PTH123
            os.dup2(file.fileno(), stream.fileno())
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # the server ignores it
    torch.set_num_threads(1)
    function(*arguments)

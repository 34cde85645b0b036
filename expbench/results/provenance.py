"""Provenance of results: versions, device, precision and git commit; stored in every row and part of no key."""

from __future__ import annotations

import os
import platform
import subprocess
import tempfile
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import expbench
from expbench.errors import first_line


@cache
def versions() -> dict[str, str]:
    """Return the versions of expbench, Python and torch, without importing torch."""
    return {
        "expbench": expbench.__version__,
        "python": platform.python_version(),
        "torch": installed("torch") or "none",
    }


def installed(distribution: str) -> str | None:
    """Return the installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def git_commit() -> str | None:
    """Return the git commit of the checkout that contains expbench, or None outside a checkout.

    ``+changes`` is appended if its sources are modified. If git cannot tell, the text says so with git's reason: ``unknown:
    ...``, or ``...; changes unknown: ...``. A copy without history can state its commit in EXPBENCH_COMMIT.
    """
    if "EXPBENCH_COMMIT" in os.environ:
        return os.environ["EXPBENCH_COMMIT"]
    return commit_of(Path(__file__).resolve().parent.parent.parent, "expbench/__init__.py")


def commit_of(root: Path, source: str) -> str | None:
    """Return the commit of the checkout `root`, as `git_commit` does; None if `root` is none, or if it ignores `source`.

    source: a file of the sources, relative to the root. Another repository can have an installed copy among its files.
    """
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "--verify", "HEAD^{commit}")
        if not _git(root, "ls-tree", "-r", "--name-only", "HEAD", "--", source):
            return None
    except _GitError as error:
        return f"unknown: {error}"
    try:
        return f"{commit}+changes" if _changes(root) else commit
    except _GitError as error:
        return f"{commit}; changes unknown: {error}"


def _changes(root: Path) -> str:
    """Return the lines of `git status` on modified sources; with an index of its own if the checkout's is damaged."""
    status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules", "--", "*.py")
    try:
        return _git(root, *status)
    except _GitError:
        with tempfile.TemporaryDirectory() as folder:
            index = str(Path(folder, "index"))
            _git(root, "read-tree", "HEAD", index=index)
            return _git(root, *status, index=index)


class _GitError(Exception):
    """The reason why git gives no answer, in one line."""


def _git(root: Path, *arguments: str, index: str | None = None) -> str:
    """Return what git prints about the repository of this checkout, whatever the environment or the folders above name."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")} | {
        "GIT_OPTIONAL_LOCKS": "0",
        "LC_ALL": "C",
        **({"GIT_INDEX_FILE": index} if index else {}),
    }
    # An explicit repository also holds if it belongs to another user, whose code runs here already.
    repository = ["-C", str(root), f"--git-dir={root / '.git'}", f"--work-tree={root}", "-c", "core.fsmonitor=false"]
    try:
        answer = subprocess.run(
            ["git", *repository, *arguments], capture_output=True, text=True, timeout=10, check=False, env=environment
        )
    except FileNotFoundError:
        raise _GitError("git is not installed") from None
    except (OSError, UnicodeDecodeError, subprocess.TimeoutExpired) as error:
        raise _GitError(first_line(error)) from error
    if answer.returncode:
        reason = (answer.stderr.strip().splitlines() or [f"git ends with {answer.returncode}"])[-1]
        raise _GitError(reason.removeprefix("fatal: "))
    return answer.stdout.strip()


def device_name(device: str) -> str:
    """Return the name of the GPU, or the CPU's architecture and the number of torch threads."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def precision(dtype: str, device: str) -> str:
    """Return the precision as a text: dtype, use of TF32 on a GPU, and whether a run is bitwise reproducible."""
    import torch

    if device != "cuda":
        return f"{dtype}, deterministic"
    tf32 = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    return f"{dtype}, tf32 {tf32}, not deterministic"

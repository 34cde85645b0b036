"""Provenance of results: versions, device, precision and git commit; stored in every row and part of no key."""

from __future__ import annotations

import os
import platform
import subprocess
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import expbench


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

    ``+changes`` is appended if its sources are modified. A copy without history can state its commit in EXPBENCH_COMMIT.
    """
    root = Path(__file__).resolve().parent.parent
    if "EXPBENCH_COMMIT" in os.environ:
        return os.environ["EXPBENCH_COMMIT"]
    if not (root / ".git").exists():
        return None
    commit = _git(root, "rev-parse", "HEAD")
    if commit and _git(root, "status", "--porcelain", "--untracked-files=no", "--", "*.py"):
        return f"{commit}+changes"
    return commit or None


def _git(root: Path, *arguments: str) -> str:
    try:
        answer = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return answer.stdout.strip() if answer.returncode == 0 else ""


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

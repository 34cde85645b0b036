"""Provenance: where a number comes from. Versions, device, precision, git state; recorded in every row, in no key."""

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
    """The versions of expbench, Python and torch, without importing torch."""
    return {
        "expbench": expbench.__version__,
        "python": platform.python_version(),
        "torch": installed("torch") or "none",
    }


def installed(distribution: str) -> str | None:
    """The installed version of a distribution, or None."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


@cache
def git_commit() -> str | None:
    """The commit of the checkout that expbench runs from, with ``+changes`` where its sources differ; None outside one.

    A copy without its history may state its commit in EXPBENCH_COMMIT.
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
    """The device as its maker calls it: the GPU's name, or the processor's architecture and the threads that torch has."""
    import torch

    if device == "cuda":
        return torch.cuda.get_device_name()
    return f"{platform.machine()} CPU, {torch.get_num_threads()} threads"


def precision(dtype: str, device: str) -> str:
    """How numbers are computed: the dtype, whether TF32 is in use, and whether the same run gives the same bits again."""
    import torch

    if device != "cuda":
        return f"{dtype}, deterministic"
    tf32 = "on" if torch.backends.cuda.matmul.allow_tf32 else "off"
    return f"{dtype}, tf32 {tf32}, not deterministic"

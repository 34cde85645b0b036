"""Doctor: report versions, the device and the optional backends. Each backend is probed by a call, not by its version."""

from __future__ import annotations

import platform

from expbench.console.formatting import aligned
from expbench.results import provenance

_PACKAGES = ("torch", "numpy", "pandas", "pyarrow", "matplotlib", "scipy", "safetensors", "typer", "tqdm")


def examine() -> str:
    """Return the report, one line per finding."""
    lines = [["expbench", provenance.versions()["expbench"]], ["python", platform.python_version()]]
    lines += [[name, provenance.installed(name) or "missing"] for name in _PACKAGES]
    lines += [["commit", provenance.git_commit() or "not run from a checkout"]]
    lines += [["device", _device()], ["triton", _triton()], ["mamba-ssm", _mamba()]]
    return aligned(lines)


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        count = torch.cuda.device_count()
        more = f" and {count - 1} more" if count > 1 else ""
        return f"cuda: {torch.cuda.get_device_name()}{more} (CUDA {torch.version.cuda})"
    why = "this build of torch has no CUDA" if torch.version.cuda is None else "torch finds no CUDA device"
    return f"cpu: {provenance.device_name('cpu')} ({why})"


def _triton() -> str:
    from expbench.ops.selective import backend_triton

    reason = backend_triton.unavailable_reason()
    return f"works ({provenance.installed('triton')})" if reason is None else f"not available: {reason}"


def _mamba() -> str:
    from expbench.ops.selective import backend_mamba

    reason = backend_mamba.unavailable_reason()
    if reason is not None:
        return f"not available: {reason}"
    return f"works ({provenance.installed('mamba-ssm') or 'only its extension'})"

"""Device: where runs are trained, and what a GPU could do."""

from __future__ import annotations

import torch

from expbench.errors import BadInput

# Dense bfloat16 products of matrices, operations a second (data sheets of Nvidia); the first that is in a GPU's name holds.
PEAKS = {
    "B200": 2250e12,
    "H200 NVL": 835e12,
    "H100 NVL": 835e12,
    "H100 PCIe": 756e12,
    "GH200": 989e12,
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "A10": 125e12,
}


def choose_device(name: str) -> str:
    """``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``; raises `BadInput` for a GPU that is not there."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch finds no CUDA device here; take --device cpu (expbench doctor says more)")
    return name


def peak(device_name: str) -> float | None:
    """Return the operations a second that a GPU of that name could do in bfloat16; None where the table lacks it."""
    return next((value for name, value in PEAKS.items() if name in device_name), None)

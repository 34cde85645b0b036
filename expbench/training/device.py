"""Device: the choice of CPU or GPU, and the peak throughput of GPUs."""

from __future__ import annotations

import torch

from expbench.errors import BadInput

# Dense bfloat16 matrix products in FLOP/s (Nvidia's data sheets). The first key contained in a GPU's name applies, so
# longer names must stand before their substrings.
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
    """Return ``cpu`` or ``cuda`` for ``auto``, ``cpu`` or ``cuda``. Raises `BadInput` if there is no GPU."""
    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise BadInput("--device cuda: torch finds no CUDA device; use --device cpu (expbench doctor shows details)")
    return name


def peak(device_name: str) -> float | None:
    """Return the peak bfloat16 throughput of a GPU in FLOP/s; None if the table lacks its name."""
    return next((value for name, value in PEAKS.items() if name in device_name), None)

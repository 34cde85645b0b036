"""The selective scan by mamba-ssm's CUDA extension `selective_scan_cuda` (2.3.2.post1), the baseline of our own kernels.

The extension expects time as the last axis, (B, D, L), and a single model. This module therefore transposes tensors on
the way in and out, and runs stacked models one after the other. The extension supports only the exact form without an
initial state, and no gradient through the last state. Its backward pass uses atomic additions, so its results differ from
run to run. (The extension itself needs only torch; `import mamba_ssm` needs many more packages.)
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch
from torch import Tensor

from expbench.errors import first_line
from expbench.ops.selective.problem import Form, Gradients, Inputs, Outputs

_HOW = (
    "on a machine with a CUDA toolkit: MAMBA_KEEP_CUDA_BUILD=TRUE pip install --no-build-isolation --no-deps mamba-ssm"
    " (or pip install 'expbench[mamba]', which also installs its other dependencies)"
)
_CHUNK = 2048  # steps between two of the states that the extension stores
_MOST_STATES, _MOST_CHANNELS = 256, 65535
_INDEX_LIMIT = 1 << 31  # number of stored states, which the extension indexes with 32 bits


@functools.cache
def unavailable_reason() -> str | None:
    """Return why the extension is unavailable on this machine and how to install it, or None; it is probed by a call."""
    try:
        extension = _extension()
        x = torch.ones(1, 1, 8, device="cuda")
        A, B = torch.zeros(1, 1, device="cuda"), torch.ones(1, 1, 1, 8, device="cuda")
        extension.fwd(x, x, A, B, B, None, None, None, True)[0].sum().item()
    except Exception as error:  # a wrong ABI, no device and a missing symbol raise different types
        return f"{first_line(error)}; to get it: {_HOW}"
    return None


def _extension() -> Any:
    return import_module("selective_scan_cuda")


def unsupported(inputs: Inputs, form: Form) -> str | None:
    """Return why the extension does not support this problem, or None."""
    _, B, L, D = inputs.u.shape
    N = inputs.A.shape[-1]
    lacks = {
        "it supports only bfloat16 and float32": inputs.u.dtype == torch.float64,
        "it supports only CUDA tensors": not inputs.u.is_cuda,
        "it supports only the exact transition": form.kind != "exact",
        "it supports only Delta B (delta_on_b)": not form.delta_on_b,
        "it supports no initial state": inputs.state is not None,
        f"it supports at most {_MOST_STATES} states": N > _MOST_STATES,
        f"it supports at most {_MOST_CHANNELS} channels": D > _MOST_CHANNELS,
        "the problem exceeds its 32-bit indices": B * D * _chunks(L) * N >= _INDEX_LIMIT,
    }
    return next((reason for reason, holds in lacks.items() if holds), None)


def saved_shapes(inputs: Inputs, form: Form) -> tuple[Sequence[int], Sequence[int]]:
    """Return the shapes of y before the gate (S, B, L, D) and of the extension's states (S, B, D, chunks, 2 N).

    For each chunk the extension interleaves the products of transitions with the states.
    """
    S, B, L, D = inputs.u.shape
    return (0,) if inputs.z is None else (S, B, L, D), (S, B, D, _chunks(L), 2 * inputs.A.shape[-1])


def _chunks(L: int) -> int:
    return -(-L // _CHUNK)


def forward(inputs: Inputs, form: Form, keep: bool) -> Outputs:
    """Return y, the last state, y before the gate and the extension's states."""
    gated, outputs = inputs.z is not None, []
    for s in range(len(inputs.u)):
        y, states, *after_gate = _extension().fwd(*_model(inputs, s), True)
        outputs.append((after_gate[0] if gated else y, states[:, :, -1, 1::2], y, states))
    ys, lasts, raws, states = zip(*outputs, strict=True)
    raw = _channel_last(raws) if gated else inputs.u.new_empty(0)
    return Outputs(_channel_last(ys), torch.stack(lasts), raw, torch.stack(states) if keep else inputs.A.new_empty(0))


def backward(
    grad_y: Tensor, grad_last: Tensor | None, inputs: Inputs, form: Form, raw: Tensor, checkpoints: Tensor
) -> Gradients:
    """Return the gradients of the inputs from those of y (S, B, L, D).

    Raises ValueError if there is a gradient of the last state, and RuntimeError if torch requires deterministic algorithms.
    """
    if grad_last is not None:
        raise ValueError("selective scan: backend 'mamba' has no gradient through the last state")
    _check_determinism()
    gated, found = inputs.z is not None, []
    for s in range(len(inputs.u)):
        y = _time_last(raw[s]) if gated else None
        more = _time_last(grad_y[s]), checkpoints[s], y, None, True, False
        found.append(_extension().bwd(*_model(inputs, s), *more))
    u, delta, A, B, C, skip, bias, *z = zip(*found, strict=True)
    return Gradients(
        _channel_last(u),
        _channel_last(delta),
        torch.stack(A),
        _channel_last([x.squeeze(1) for x in B]),
        _channel_last([x.squeeze(1) for x in C]),
        None if inputs.skip is None else torch.stack(skip),
        _channel_last(z[0]) if gated else None,
        None if inputs.bias is None else torch.stack(bias),
        None,
    )


def _model(inputs: Inputs, s: int) -> tuple[Tensor | None, ...]:
    """Return the extension's arguments u, delta, A, B, C, D, z and delta_bias for model s."""
    u, delta, B, C = (_time_last(x[s]) for x in (inputs.u, inputs.delta, inputs.B, inputs.C))
    A, skip, bias = (None if x is None else x[s].contiguous() for x in (inputs.A, inputs.skip, inputs.bias))
    z = None if inputs.z is None else _time_last(inputs.z[s])
    return u, delta, A, B.unsqueeze(1), C.unsqueeze(1), skip, z, bias


def _time_last(x: Tensor) -> Tensor:
    """Transpose x (B, L, D) to a contiguous (B, D, L)."""
    return x.transpose(1, 2).contiguous()


def _channel_last(models: Any) -> Tensor:
    """Stack the tensors (B, D, L) of the models as (S, B, L, D)."""
    return torch.stack([x.transpose(1, 2) for x in models])


def _check_determinism() -> None:
    if torch.are_deterministic_algorithms_enabled():
        message = "the backward pass of backend 'mamba' is not deterministic (it uses atomic operations)"
        if not torch.is_deterministic_algorithms_warn_only_enabled():
            raise RuntimeError(f"selective scan: {message}; use backend='triton'")
        warnings.warn(message, stacklevel=2)

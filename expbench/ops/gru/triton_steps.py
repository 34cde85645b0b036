"""The gated recurrence by two Triton kernels, one forward and one backward, each for all steps at once.

The tensors are those of `torch_steps`. A state beyond `LARGEST_STATE` does not fit the registers.
"""

from __future__ import annotations

import functools
import logging
import math

import torch
from torch import Tensor

from expbench.ops.gru import torch_steps

LARGEST_STATE = 32
_WARPS = 4  # per program; with one state per thread
_NEAR = 1e-4  # relative difference from torch up to which the kernels are trusted
_log = logging.getLogger("expbench")


def unsupported(x: Tensor, weight: Tensor) -> str | None:
    """Return why the kernels do not support x (S, B, L, 3H) and weight (S, 3H, H), or None."""
    if x.dtype != torch.float32:
        return f"it computes in float32, and the tensors are {str(x.dtype).removeprefix('torch.')}"
    if weight.shape[-1] > LARGEST_STATE:
        return f"it supports up to {LARGEST_STATE} states, not {weight.shape[-1]}"
    return None


def forward(x: Tensor, weight: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
    """Return states and gates, as `torch_steps.forward` does."""
    from expbench.ops.gru import triton_kernels

    (S, B, L, _), H = x.shape, weight.shape[2]
    x = x if x.stride(3) == 1 else x.contiguous()
    states, gates = torch_steps.empty(x, S, B, L, H), torch_steps.empty(x, S, B, L, 3 * H)
    H2, rows = _tile(H)
    triton_kernels.forward[(-(-B // rows), S)](
        *(x, weight.contiguous(), bias.contiguous(), states, gates),
        *(B, L, S * B * H, *x.stride()[:3], H, H2, rows),
        num_warps=_WARPS,
    )
    return states, gates


def backward(grad: Tensor, x: Tensor, weight: Tensor, states: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of x, weight and bias, as `torch_steps.backward` does."""
    from expbench.ops.gru import triton_kernels

    S, B, L, H = grad.shape
    x = x if x.stride(3) == 1 else x.contiguous()
    grad, states, gates = (tensor.movedim(2, 0).contiguous() for tensor in (grad, states, gates))
    of_input, of_state = torch.empty_like(gates), torch.empty_like(gates)
    H2, rows = _tile(H)
    triton_kernels.backward[(-(-B // rows), S)](
        *(grad, x, weight.contiguous(), states, gates, of_input, of_state),
        *(B, L, S * B * H, (L - 1) * S * B * H, *x.stride()[:3], (L - 1) * x.stride(2), H, H2, rows),
        num_warps=_WARPS,
    )
    return of_input.movedim(0, 2), *torch_steps.of_parameters(of_state, states)


@functools.cache
def agrees(H: int, device: torch.device) -> bool:
    """Return whether the kernels for H states give torch's numbers on a device; a small problem is tried once per process.

    Kernels are compiled on the machine, by its compiler and driver, so that tests elsewhere do not vouch for them.
    """

    def numbers(*shape: int) -> Tensor:
        return torch.arange(math.prod(shape), dtype=torch.float32, device=device).sin().reshape(shape)

    x, weight, bias, grad = numbers(2, 5, 4, 3 * H), numbers(2, 3 * H, H), numbers(2, 3 * H), numbers(2, 5, 4, H)
    kept = torch_steps.forward(x, weight, bias)
    expected = (*kept, *torch_steps.backward(grad, x, weight, *kept))
    try:
        found = (*forward(x, weight, bias), *backward(grad, x, weight, *kept))
    except Exception as error:  # a compiler and a driver raise different types
        _log.warning("gru: the Triton kernels for %d states fail here (%s); torch is used", H, type(error).__name__)
        return False
    worst = max(float((mine - its).norm() / its.norm()) for mine, its in zip(found, expected, strict=True))
    if not worst <= _NEAR:
        _log.warning("gru: the Triton kernels for %d states differ from torch by %.1e here; torch is used", H, worst)
    return worst <= _NEAR


def _tile(H: int) -> tuple[int, int]:
    """Return H rounded up to a power of two, and the number of sequences per program."""
    wide = 1 << (H - 1).bit_length()
    return wide, 32 * _WARPS // wide

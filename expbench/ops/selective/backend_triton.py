"""The selective scan as two fused Triton kernels, the backend ``triton``: choice of tiles, memory and launch.

No tensor (B, L, D, N) exists: the forward saves the state before every few steps, and the backward recomputes the states
between. There are no atomic additions: each program writes its own partial sum of a shared gradient, and torch adds these
up in a fixed order, so two runs give the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.errors import first_line
from expbench.ops.selective.problem import Form, Gradients, Inputs, Outputs
from expbench.ops.selective.triton_launch import launch

LARGEST_DEGREE, LARGEST_STATE = 3, 128
_LANES = 32  # lanes per warp; a program is one warp
_WIDE = 64  # channels from which one conversion of B and C to float32 costs less than a conversion in every program


class Tile(NamedTuple):
    """The layout of a program along the axes of `triton_kernels`.

    T: steps. V x R: states per thread. LN, LD, LB: lanes along states, channels and sequences.
    """

    T: int
    V: int
    LN: int
    LD: int
    LB: int
    R: int


@cache
def unavailable_reason() -> str | None:
    """Return why Triton is unavailable on this machine and how to install it, or None; a scan of two steps probes it."""
    try:
        import triton

        from expbench.ops.selective import triton_kernels
    except Exception as error:  # a broken installation may raise any type
        return f"Triton cannot be imported ({first_line(error)}): pip install 'expbench[triton]' (Linux)"
    if _interpreted():
        return None
    if not torch.cuda.is_available():
        return "Triton needs a GPU, and torch finds none here (run expbench doctor for details)"
    try:
        x = torch.ones(1, 1, 2, 1, device="cuda")
        forward(Inputs(x, x, -torch.ones(1, 1, 1, device="cuda"), x, x), Form(), keep=False)
    except Exception as error:  # a missing compiler, an old driver and an old device raise different types
        return f"Triton {triton.__version__} does not compile {triton_kernels.__name__} here ({first_line(error)})"
    return None


def unsupported(inputs: Inputs, form: Form) -> str | None:
    """Return why the kernels do not support this problem, or None."""
    if not (inputs.u.is_cuda or _interpreted()):
        return "it needs tensors on a GPU"
    if inputs.u.dtype == torch.float64:
        return "it computes in float32, and the tensors are float64 (use backend reference or torch)"
    if form.kind == "taylor" and form.degree > LARGEST_DEGREE:
        return f"it supports Taylor polynomials up to degree {LARGEST_DEGREE}, not {form.degree}"
    if inputs.A.shape[-1] > LARGEST_STATE:
        return f"it supports up to {LARGEST_STATE} states per channel, not {inputs.A.shape[-1]}"
    return None


def forward(inputs: Inputs, form: Form, keep: bool) -> Outputs:
    """Return y, the last state and, if `keep`, the checkpoints of `saved_shapes`."""
    from expbench.ops.selective import triton_kernels

    given, inputs = inputs, _prepared(inputs)
    S, batch, L, D = inputs.u.shape
    N = inputs.A.shape[-1]
    tile = forward_tile(S * batch, L, D, N)
    kept = saved_shapes(given, form)[1] if keep else (0,)
    y = torch.empty_like(inputs.u)
    last = inputs.A.new_empty(S, batch, D, N)
    checkpoints = inputs.A.new_empty(kept)
    blocks, programs = _grid(tile, S * batch, D)
    with _device_of(inputs.u):
        launch(
            triton_kernels.forward_kernel,
            programs,
            [*(_given(x, inputs.u) for x in inputs), y, last, checkpoints, S * batch, batch, L, D, blocks],
            N=N,
            **tile._asdict(),
            **_constants(inputs, form, tile, 1),
            KEEP=backward_tile(S * batch, L, D, N).T if keep else 0,
            STAGES=3,
        )
    return Outputs(y, last[..., : given.A.shape[-1]], y.new_empty(0), checkpoints)


def backward(
    grad_y: Tensor, grad_last: Tensor | None, inputs: Inputs, form: Form, raw: Tensor, checkpoints: Tensor
) -> Gradients:
    """Return the gradients of the inputs from those of y (S, B, L, D) and of the last state (S, B, D, N)."""
    from expbench.ops.selective import triton_kernels

    given, inputs = inputs, _prepared(inputs)
    S, batch, L, D = inputs.u.shape
    N = inputs.A.shape[-1]
    tile = backward_tile(S * batch, L, D, N)
    turns = backward_turns(tile, D)
    blocks, programs = _grid(tile, S * batch, D, turns)
    u, A = inputs.u, inputs.A
    du, ddelta = torch.empty_like(u), torch.empty_like(u)
    dz = torch.empty_like(u) if inputs.z is not None else None
    joint = batch % tile.LB == 0
    parts = batch // tile.LB if joint else batch
    dA = A.new_empty(S, parts, D, N)
    dB, dC = A.new_empty(blocks, S, batch, L, N), A.new_empty(blocks, S, batch, L, N)
    dskip = A.new_empty(S, parts, D) if inputs.skip is not None else None
    dbias = A.new_empty(S, parts, D) if inputs.bias is not None else None
    dstate = A.new_empty(S, batch, D, N) if inputs.state is not None else None
    if grad_last is not None:
        grad_last = _padded(grad_last.to(A.dtype), N)
    with _device_of(u):
        launch(
            triton_kernels.backward_kernel,
            programs,
            [
                *(_given(x, u) for x in (*inputs[:8], inputs.coefficients, checkpoints, grad_y.contiguous(), grad_last)),
                *(_given(x, u) for x in (du, ddelta, dz, dA, dB, dC, dskip, dbias, dstate)),
                *(S * batch, batch, L, D, blocks),
            ],
            N=N,
            **_lanes(tile),
            TURNS=turns,
            **_constants(inputs, form, tile, turns),
            LAST=grad_last is not None,
            JOINT=joint,
            STAGES=3,
        )
    n = given.A.shape[-1]
    return Gradients(
        du,
        ddelta,
        dA.sum(1)[..., :n],
        (dB[0] if blocks == 1 else dB.sum(0))[..., :n].to(given.B.dtype),
        (dC[0] if blocks == 1 else dC.sum(0))[..., :n].to(given.C.dtype),
        dskip.sum(1) if dskip is not None else None,
        dz,
        dbias.sum(1) if dbias is not None else None,
        dstate[..., :n] if dstate is not None else None,
    )


def saved_shapes(inputs: Inputs, form: Form) -> tuple[Sequence[int], Sequence[int]]:
    """Return the shape of raw, which is empty, and of the checkpoints (tiles, S, B, D, N).

    The backward recomputes y before the gate. Checkpoints are the states before each of its tiles, N padded to a power of
    two.
    """
    S, batch, L, D = inputs.u.shape
    N = _power(inputs.A.shape[-1])
    return (0,), (-(-L // backward_tile(S * batch, L, D, N).T), S, batch, D, N)


def forward_tile(sequences: int, L: int, D: int, N: int) -> Tile:
    """Choose the layout of the forward, for N a power of two: tiles of 16 steps if they fit L, else as in the backward."""
    every = backward_tile(sequences, L, D, N).T
    return _tile(sequences, D, N, 16 if L % 16 == 0 or (every == 8 and L > 64) else every, states=8)


def backward_tile(sequences: int, L: int, D: int, N: int) -> Tile:
    """Choose the layout of the backward, for N a power of two: tiles of 8 steps, or of 4 if checkpoints are small."""
    return _tile(sequences, D, N, 4 if N <= 4 and D <= 2 * N else 8, states=4)


def _tile(sequences: int, D: int, N: int, T: int, states: int) -> Tile:
    """Choose lanes for about `states` states per thread: more of them need fewer shuffles, but leave fewer programs."""
    V, quads = min(4, N), N // min(4, N)
    LN = min(_LANES, max(1, N // states))
    LD = min(_power(D), _LANES // LN)
    return Tile(T, V, LN, LD, min(_power(sequences), _LANES // (LN * LD)), quads // LN)


def backward_turns(tile: Tile, D: int) -> int:
    """Return the number of channels per thread of the backward, in turn: two halve the partial sums of dB and dC."""
    return 2 if tile.LN >= 4 and D >= 2 * tile.LD else 1


def _grid(tile: Tile, sequences: int, D: int, turns: int = 1) -> tuple[int, int]:
    """Return the number of blocks of channels and the number of programs."""
    blocks = -(-D // (tile.LD * turns))
    return blocks, blocks * -(-sequences // tile.LB)


def _lanes(tile: Tile) -> dict[str, int]:
    """Return the sizes of a tile but R, which the backward lacks: its threads hold a single vector of states."""
    return {name: size for name, size in tile._asdict().items() if name != "R"}


def _constants(inputs: Inputs, form: Form, tile: Tile, turns: int) -> dict[str, Any]:
    S, batch, L, D = inputs.u.shape
    return {
        "KIND": form.kind,
        "DEGREE": form.degree,
        "LOWEST": form.lowest,
        "DELTA_ON_B": form.delta_on_b,
        "SKIP": inputs.skip is not None,
        "GATE": inputs.z is not None,
        "BIAS": inputs.bias is not None,
        "STATE": inputs.state is not None,
        "EVEN": D % (tile.LD * turns) == 0 and S * batch % tile.LB == 0,
        "EVEN_L": L % tile.T == 0,
    }


def _prepared(inputs: Inputs) -> Inputs:
    """Return the inputs contiguous, with N padded to a power of two, and with B and C in float32 if D is large.

    The padding states have A, B and C of 0, so they stay 0.
    """
    n = inputs.A.shape[-1]
    N = _power(n)
    B, C = _padded(inputs.B, N), _padded(inputs.C, N)
    if B.dtype != torch.float32 and inputs.u.shape[-1] >= _WIDE:
        B, C = _widened(B, C)
    inputs = inputs._replace(B=B, C=C, A=_padded(inputs.A, N))
    if inputs.state is not None:
        inputs = inputs._replace(state=_padded(inputs.state, N))
    stacked: Any = [x.contiguous() if x is not None else None for x in inputs]
    return Inputs(*stacked)


def _widened(B: Tensor, C: Tensor) -> tuple[Tensor, Tensor]:
    """Convert contiguous B and C (S, B, L, N) to float32."""
    from expbench.ops.selective import triton_kernels

    wide_B, wide_C = B.new_empty(B.shape, dtype=torch.float32), C.new_empty(C.shape, dtype=torch.float32)
    with _device_of(B):
        triton_kernels.widen_kernel[(-(-B.numel() // 1024),)](B, C, wide_B, wide_C, B.numel(), BLOCK=1024)
    return wide_B, wide_C


def _padded(x: Tensor, N: int) -> Tensor:
    return F.pad(x, (0, N - x.shape[-1])) if x.shape[-1] < N else x.contiguous()


def _given(x: Tensor | None, stand_in: Tensor) -> Tensor:
    """Return x, or `stand_in` if x is absent: kernels expect a pointer, but do not access absent tensors."""
    return stand_in if x is None else x


def _power(n: int) -> int:
    """Return the least power of two that is at least n."""
    return 1 << (n - 1).bit_length()


def _device_of(x: Tensor) -> Any:
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def _interpreted() -> bool:
    from triton import knobs

    return bool(knobs.runtime.interpret)

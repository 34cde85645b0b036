"""The selective scan as a problem: its tensors, the form of its transition, and what solving it gives.

Every implementation takes these canonical shapes, with a leading axis S of stacked models (1 for a single one). Tensors of
a sequence have one dtype (bfloat16, float32 or float64), those of a channel and of the state the state's dtype, which is
float32, or float64 where the sequences are float64.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["exact", "taylor", "linear"]
KINDS: tuple[Kind, ...] = ("exact", "taylor", "linear")


class Form(NamedTuple):
    """How Delta and a follow from the argument r = delta + bias, with v = Delta A.

    kind: ``exact`` is Delta = softplus(r), a = exp(v); ``taylor`` is Delta = sum_k coefficients_k r^k and a the Taylor
    polynomial of exp of the same degree (r is then relative to the point of expansion); ``linear`` is Delta = r, a = v.
    degree: of both Taylor polynomials, 0 for the other kinds. lowest: Taylor only, v is clamped to [lowest, 0] first where
    lowest < 0. delta_on_b: whether the input of the state is Delta B u or B u.
    """

    kind: Kind = "exact"
    degree: int = 0
    lowest: float = 0.0
    delta_on_b: bool = True


class Inputs(NamedTuple):
    """S stacked models, batch B, length L, width D, N states a channel; None is absent."""

    u: Tensor  # (S, B, L, D)
    delta: Tensor  # (S, B, L, D)
    A: Tensor  # (S, D, N)
    B: Tensor  # (S, B, L, N)
    C: Tensor  # (S, B, L, N)
    skip: Tensor | None = None  # (S, D)
    z: Tensor | None = None  # (S, B, L, D), the gate: y silu(z)
    bias: Tensor | None = None  # (S, D)
    state: Tensor | None = None  # (S, B, D, N), before the first step
    coefficients: Tensor | None = None  # (S, degree + 1, D), of softplus's Taylor polynomial; no gradient


class Outputs(NamedTuple):
    """y (S, B, L, D) in the dtype of u and the last state (S, B, D, N); and what the backward pass asks for.

    raw: y before the gate, (S, B, L, D), of implementations that keep it, else empty. checkpoints: states at some steps, in
    an order of the implementation's own; empty where no gradient was asked for.
    """

    y: Tensor
    last: Tensor
    raw: Tensor
    checkpoints: Tensor


class Gradients(NamedTuple):
    """One for each of `Inputs` but the coefficients, in its shape and dtype; None where the input is absent."""

    u: Tensor
    delta: Tensor
    A: Tensor
    B: Tensor
    C: Tensor
    skip: Tensor | None
    z: Tensor | None
    bias: Tensor | None
    state: Tensor | None


def state_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype of the state for sequences of `dtype`: never below float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32

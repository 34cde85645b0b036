"""The types that every implementation of the selective scan shares: inputs, form of the transition, outputs and gradients.

All implementations take these canonical shapes, with a leading axis S of stacked models (1 for a single model). Sequences
have one common dtype: bfloat16, float32 or float64. Parameters and states have the state's dtype: float64 if the sequences
are float64, else float32.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from torch import Tensor

Kind = Literal["exact", "taylor", "linear"]
KINDS: tuple[Kind, ...] = ("exact", "taylor", "linear")


class Form(NamedTuple):
    """The map from the argument r = delta + bias to Delta and a, with v = Delta A.

    kind: ``exact``: Delta = softplus(r), a = exp(v). ``taylor``: Delta = sum_k coefficients_k r^k, and a is the Taylor
    polynomial of exp of the same degree at v; r is relative to the point of expansion. ``linear``: Delta = r, a = v.
    degree: that of both Taylor polynomials, 0 for the other kinds. lowest: for ``taylor``, if negative, v is clamped to
    [lowest, 0] first. delta_on_b: whether the input of the state is Delta B u (else B u).
    """

    kind: Kind = "exact"
    degree: int = 0
    lowest: float = 0.0
    delta_on_b: bool = True


class Inputs(NamedTuple):
    """The tensors of S stacked models with batch B, length L, width D and N states per channel; None if absent."""

    u: Tensor  # (S, B, L, D)
    delta: Tensor  # (S, B, L, D)
    A: Tensor  # (S, D, N)
    B: Tensor  # (S, B, L, N)
    C: Tensor  # (S, B, L, N)
    skip: Tensor | None = None  # (S, D)
    z: Tensor | None = None  # (S, B, L, D), the gate: y silu(z)
    bias: Tensor | None = None  # (S, D)
    state: Tensor | None = None  # (S, B, D, N), before the first step
    coefficients: Tensor | None = None  # (S, degree + 1, D), softplus's Taylor polynomial; no gradient


class Outputs(NamedTuple):
    """Outputs y (S, B, L, D) in the dtype of u and last state (S, B, D, N), and the tensors saved for the backward pass.

    raw: y before the gate, (S, B, L, D), or empty if the implementation does not save it. checkpoints: states at some steps,
    in a layout private to the implementation; empty if no gradients were requested.
    """

    y: Tensor
    last: Tensor
    raw: Tensor
    checkpoints: Tensor


class Gradients(NamedTuple):
    """Gradients of all `Inputs` but the coefficients, in the same shapes and dtypes; None if the input is absent."""

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
    """Return the dtype of the state for sequences of `dtype`: never below float32, as rounding errors add up over steps."""
    return torch.promote_types(dtype, torch.float32)

"""What is done to each number: softplus, the gate, transitions and their slopes."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def exp2(x, FAST: tl.constexpr):
    """2^x; FAST is one instruction, which flushes results below 2^-126 to 0."""
    if FAST:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return tl.exp2(x)


@triton.jit
def softplus(x, FAST: tl.constexpr):
    """log(1 + e^x) = max(x, 0) + log1p(e), and e = exp(-|x|).

    log1p(e) / e is a minimax polynomial on [0, 1]; its relative error is 2e-7 in float32. log(1 + e) would lose all digits
    of a small Delta.
    """
    e = exp2(-tl.abs(x) * LOG2E, FAST)
    p = 0.005232680506 * e - 0.02950526049
    p = p * e + 0.07822613966
    p = p * e - 0.1366327736
    p = p * e + 0.1910603025
    p = p * e - 0.2484299063
    p = p * e + 0.3331909814
    p = p * e - 0.4999949321
    p = p * e + 0.9999999699
    return tl.maximum(x, 0.0) + p * e, e


@triton.jit
def sigmoid(x, FAST: tl.constexpr):
    return 1.0 / (1.0 + exp2(x * -LOG2E, FAST))


@triton.jit
def discretise(x, coefficients, KIND: tl.constexpr, DEGREE: tl.constexpr, FAST: tl.constexpr):
    """Delta and dDelta/dx for the argument x."""
    if KIND == "exact":
        step, e = softplus(x, FAST)
        slope = tl.where(x >= 0, 1.0, e) / (1.0 + e)
    elif KIND == "linear":
        step = x
        slope = x * 0.0 + 1.0
    else:
        step = coefficients[DEGREE]
        slope = coefficients[DEGREE] * 0.0
        for k in tl.static_range(DEGREE):
            slope = slope * x + step
            step = step * x + coefficients[DEGREE - 1 - k]
    return step, slope


@triton.jit
def argument(step, rate, KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr):
    """What a is a function of: step rate; of a Taylor polynomial w = k (Delta A + 1), in which it has fewer terms.

    `rate` is k A, with k as `scale` says. Clipping keeps Delta A in [LOWEST, 0].
    """
    w = step * rate
    if KIND == "taylor":
        w += scale(KIND, DEGREE)
        if LOWEST < 0:
            w = tl.minimum(tl.maximum(w, scale(KIND, DEGREE) * (LOWEST + 1.0)), scale(KIND, DEGREE))
    return w


@triton.constexpr_function
def scale(kind, degree):
    """k: log2(e) for exp, and for a Taylor polynomial what makes its leading coefficient 1."""
    if kind == "exact":
        return 1.4426950408889634
    if kind == "linear":
        return 1.0
    return (1.0, 2**-0.5, 6 ** (-1 / 3))[degree - 1]


@triton.constexpr_function
def gain(kind, degree):
    """By what `slope_of` falls short of da / d(Delta A)."""
    if kind != "taylor":
        return 1.0
    return (1.0, 2**0.5, 6 ** (2 / 3) / 2)[degree - 1]


@triton.jit
def transition(w, KIND: tl.constexpr, DEGREE: tl.constexpr, FAST: tl.constexpr):
    """a of its argument: 2^w, w, or the Taylor polynomial of exp: w, w^2 + 1/2, w^3 + 6^(1/3) / 2 w + 1/3."""
    tl.static_assert(DEGREE <= 3)
    if KIND == "exact":
        return exp2(w, FAST)
    if DEGREE == 2:
        return w * w + 0.5
    if DEGREE == 3:
        return (w * w + 0.9085602964160698) * w + 1.0 / 3.0
    return w


@triton.jit
def slope_of(w, DEGREE: tl.constexpr):
    """da / d(Delta A) up to `gain`, of a Taylor polynomial of degree 2 or 3; of degree 1 it is 1."""
    if DEGREE == 2:
        return w
    return w * w + 0.3028534321386899  # 6^(-2/3)


@triton.jit
def within(step, rate, x, KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr):
    """x where clipping leaves Delta A as it is, 0 elsewhere."""
    v = step * rate
    return tl.where((v >= LOWEST * scale(KIND, DEGREE)) & (v <= 0.0), x, 0.0)


@triton.jit
def widen_kernel(B, C, wide_B, wide_C, numbers, BLOCK: tl.constexpr):
    """B and C in float32, in one launch."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numbers
    tl.store(wide_B + at, tl.load(B + at, mask=inside).to(tl.float32), mask=inside)
    tl.store(wide_C + at, tl.load(C + at, mask=inside).to(tl.float32), mask=inside)

"""Elementwise functions of the scan kernels: softplus, the gate's sigmoid, transitions and their slopes, of any shape."""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def exp2(x, FAST: tl.constexpr):
    """Return 2^x; if FAST, by one instruction, which flushes results below 2^-126 to 0."""
    if FAST:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return tl.exp2(x)


@triton.jit
def softplus(x, FAST: tl.constexpr):
    """Return log(1 + e^x) = max(x, 0) + log1p(e), and e = exp(-|x|).

    log1p(e) / e is a minimax polynomial on [0, 1] with relative error 2e-7 in float32. log(1 + e) would lose all digits of a
    small Delta.
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
    """Return 1 / (1 + e^-x)."""
    return 1.0 / (1.0 + exp2(x * -LOG2E, FAST))


@triton.jit
def discretise(x, coefficients, KIND: tl.constexpr, DEGREE: tl.constexpr, FAST: tl.constexpr):
    """Return Delta and dDelta/dx at the argument x; both share one exponential or one Horner scheme."""
    if KIND == "exact":
        step, e = softplus(x, FAST)
        slope = tl.where(x >= 0, 1.0, e) / (1.0 + e)
    elif KIND == "linear":
        step = x
        slope = x * 0.0 + 1.0  # computed from x to have its shape and layout
    else:
        step = coefficients[DEGREE]
        slope = coefficients[DEGREE] * 0.0
        for k in tl.static_range(DEGREE):
            slope = slope * x + step
            step = step * x + coefficients[DEGREE - 1 - k]
    return step, slope


@triton.jit
def argument(step, rate, KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr):
    """Return the argument w of `transition`: step rate, or for a Taylor polynomial k (Delta A + 1).

    `rate` is k A, with k from `scale`. The shift by 1 removes a term of the polynomial, which saves an operation per
    state and step. Clipping keeps Delta A in [LOWEST, 0].
    """
    w = step * rate
    if KIND == "taylor":
        w += scale(KIND, DEGREE)
        if LOWEST < 0:
            w = tl.minimum(tl.maximum(w, scale(KIND, DEGREE) * (LOWEST + 1.0)), scale(KIND, DEGREE))
    return w


@triton.constexpr_function
def scale(kind, degree):
    """Return k: log2(e) for exp; for a Taylor polynomial, the factor that makes its leading coefficient 1."""
    if kind == "exact":
        return 1.4426950408889634
    if kind == "linear":
        return 1.0
    return (1.0, 2**-0.5, 6 ** (-1 / 3))[degree - 1]


@triton.constexpr_function
def gain(kind, degree):
    """Return the factor from `slope_of` to da / d(Delta A); kernels multiply sums by it instead of every term."""
    if kind != "taylor":
        return 1.0
    return (1.0, 2**0.5, 6 ** (2 / 3) / 2)[degree - 1]


@triton.jit
def transition(w, KIND: tl.constexpr, DEGREE: tl.constexpr, FAST: tl.constexpr):
    """Return a for its argument w: 2^w, w, or the Taylor polynomial of exp: w, w^2 + 1/2, w^3 + 6^(1/3) / 2 w + 1/3."""
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
    """Return da / d(Delta A) without the factor `gain`, for a Taylor polynomial of degree 2 or 3 (degree 1 has slope 1)."""
    if DEGREE == 2:
        return w
    return w * w + 0.3028534321386899  # 6^(-2/3)


@triton.jit
def within(step, rate, x, KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr):
    """Return x where clipping does not change Delta A, and 0 elsewhere."""
    v = step * rate
    return tl.where((v >= LOWEST * scale(KIND, DEGREE)) & (v <= 0.0), x, 0.0)


@triton.jit
def widen_kernel(B, C, wide_B, wide_C, numbers, BLOCK: tl.constexpr):
    """Convert B and C to float32 in a single launch."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numbers
    tl.store(wide_B + at, tl.load(B + at, mask=inside).to(tl.float32), mask=inside)
    tl.store(wide_C + at, tl.load(C + at, mask=inside).to(tl.float32), mask=inside)

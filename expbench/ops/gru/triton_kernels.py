"""Triton kernels of the gated recurrence: all steps of a few sequences in one program, the state in registers.

Letters: S models, B sequences per model, L steps, H states (H2: the next power of two, which Triton's blocks need). A
program processes ROWS sequences of one model. Tensors lie time first, (L, S, B, ...), except X (S, B, L, 3H), whose strides
are given as xs, xb, xl. step: S B H, from one step to the next.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tanh(x):
    """Return tanh of x, without overflow."""
    e = tl.exp(-2.0 * tl.abs(x))
    size = (1.0 - e) / (1.0 + e)
    return tl.where(x < 0, -size, size)


@triton.jit
def _product(x, w):
    """Return x (ROWS, H2) times w (H2, H2): blocks too small for matrix units. The first axis of a block is in a thread."""
    return tl.sum(tl.trans(x)[:, :, None] * w[:, None, :], axis=0)


@triton.jit
def forward(X, W, BIAS, Y, GATES, B, L, step, xs, xb, xl, H: tl.constexpr, H2: tl.constexpr, ROWS: tl.constexpr):
    """Compute states Y (L, S, B, H), and GATES (L, S, B, 3H): r, z and W_n h + b_n, of X, W (S, 3H, H) and BIAS (S, 3H)."""
    model = tl.program_id(1).to(tl.int64)
    rows, ins, outs = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, H2), tl.arange(0, H2)
    there = (rows < B)[:, None] & (outs < H)[None, :]
    square = (ins < H)[:, None] & (outs < H)[None, :]
    at = W + (model * 3 * H + outs[None, :]) * H + ins[:, None]  # of each gate the transpose (in, out)
    w_r = tl.load(at, mask=square, other=0.0)
    w_z = tl.load(at + H * H, mask=square, other=0.0)
    w_n = tl.load(at + 2 * H * H, mask=square, other=0.0)
    bias = BIAS + model * 3 * H + outs
    b_r = tl.load(bias, mask=outs < H, other=0.0)[None, :]
    b_z = tl.load(bias + H, mask=outs < H, other=0.0)[None, :]
    b_n = tl.load(bias + 2 * H, mask=outs < H, other=0.0)[None, :]
    x = X + model * xs + rows.to(tl.int64)[:, None] * xb + outs[None, :]
    row = (model * B + rows)[:, None]
    y, gates = Y + row * H + outs[None, :], GATES + row * 3 * H + outs[None, :]
    h = tl.zeros([ROWS, H2], tl.float32)
    for _ in range(L):
        x_r = tl.load(x, mask=there, other=0.0)
        x_z = tl.load(x + H, mask=there, other=0.0)
        x_n = tl.load(x + 2 * H, mask=there, other=0.0)
        r = tl.sigmoid(x_r + b_r + _product(h, w_r))
        z = tl.sigmoid(x_z + b_z + _product(h, w_z))
        own = b_n + _product(h, w_n)
        n = _tanh(x_n + r * own)
        h = n + z * (h - n)
        tl.store(gates, r, mask=there)
        tl.store(gates + H, z, mask=there)
        tl.store(gates + 2 * H, own, mask=there)
        tl.store(y, h, mask=there)
        x += xl
        y += step
        gates += 3 * step


@triton.jit
def backward(
    G,
    X,
    W,
    Y,
    GATES,
    OF_INPUT,
    OF_STATE,
    B,
    L,
    step,
    last,
    xs,
    xb,
    xl,
    last_x,
    H: tl.constexpr,
    H2: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Compute the gradients OF_INPUT and OF_STATE (L, S, B, 3H) of the gates from G (L, S, B, H), that of the states.

    last, last_x: from the first step to the last, in Y and in X.
    """
    model = tl.program_id(1).to(tl.int64)
    rows, ins, outs = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, H2), tl.arange(0, H2)
    there = (rows < B)[:, None] & (outs < H)[None, :]
    square = (ins < H)[:, None] & (outs < H)[None, :]
    at = W + (model * 3 * H + ins[:, None]) * H + outs[None, :]
    w_r = tl.load(at, mask=square, other=0.0)
    w_z = tl.load(at + H * H, mask=square, other=0.0)
    w_n = tl.load(at + 2 * H * H, mask=square, other=0.0)
    x = X + model * xs + rows.to(tl.int64)[:, None] * xb + last_x + outs[None, :]
    row = (model * B + rows)[:, None] * H + last
    state, gate = row + outs[None, :], 3 * row + outs[None, :]
    g = tl.zeros([ROWS, H2], tl.float32)
    for _ in range(L):
        g += tl.load(G + state, mask=there, other=0.0)
        r = tl.load(GATES + gate, mask=there, other=0.0)
        z = tl.load(GATES + gate + H, mask=there, other=0.0)
        own = tl.load(GATES + gate + 2 * H, mask=there, other=0.0)
        n = _tanh(tl.load(x + 2 * H, mask=there, other=0.0) + r * own)
        h = tl.load(Y + state - step, mask=there & (state >= step), other=0.0)
        g_n = g * (1.0 - z) * (1.0 - n * n)
        g_z = g * (h - n) * z * (1.0 - z)
        g_r = g_n * own * r * (1.0 - r)
        g_own = g_n * r
        tl.store(OF_INPUT + gate, g_r, mask=there)
        tl.store(OF_INPUT + gate + H, g_z, mask=there)
        tl.store(OF_INPUT + gate + 2 * H, g_n, mask=there)
        tl.store(OF_STATE + gate, g_r, mask=there)
        tl.store(OF_STATE + gate + H, g_z, mask=there)
        tl.store(OF_STATE + gate + 2 * H, g_own, mask=there)
        g = g * z + _product(g_r, w_r) + _product(g_z, w_z) + _product(g_own, w_n)
        x -= xl
        state -= step
        gate -= 3 * step

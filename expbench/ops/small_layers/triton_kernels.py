"""Triton kernels of small layers: linear maps, norms, cross-entropy and splits in one pass over memory in each direction.

Letters: S models, R rows per model, P programs per model, IN inputs and OUT outputs of a row (IN2 and OUT2: the next powers
of two, which Triton's blocks need). A program processes blocks of ROWS rows of one model. It keeps sums over rows in
registers and writes one partial sum. torch adds these up in a fixed order, so that results are deterministic.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def linear_forward(X, W, BIAS, Y, R, IN: tl.constexpr, OUT: tl.constexpr, OUT2: tl.constexpr, ROWS: tl.constexpr):
    """Compute Y (S, R, OUT) = X (S, R, IN) W (S, OUT, IN)^T + BIAS (S, OUT); BIAS may be None."""
    model = tl.program_id(1).to(tl.int64)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    outs = tl.arange(0, OUT2)
    there, wanted = rows < R, outs < OUT
    y = tl.zeros([ROWS, OUT2], tl.float32)
    if BIAS is not None:
        y += tl.load(BIAS + model * OUT + outs, mask=wanted, other=0.0)[None, :]
    for i in tl.static_range(IN):
        x = tl.load(X + (model * R + rows) * IN + i, mask=there, other=0.0)
        w = tl.load(W + (model * OUT + outs) * IN + i, mask=wanted, other=0.0)
        y += x[:, None] * w[None, :]
    tl.store(Y + (model * R + rows)[:, None] * OUT + outs[None, :], y, mask=there[:, None] & wanted[None, :])


@triton.jit
def linear_backward(
    X, W, G, DX, DW, DB, R, BLOCKS, IN: tl.constexpr, OUT: tl.constexpr, OUT2: tl.constexpr, ROWS: tl.constexpr
):
    """Compute DX (S, R, IN) from G = dY (S, R, OUT), and per program its part of DW (S, P, IN, OUT) and DB (S, P, OUT).

    DB may be None. The partial sums keep the ROWS axis until the last block: one reduction over rows instead of one per
    block.
    """
    model, program = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    outs = tl.arange(0, OUT2)
    wanted = outs < OUT
    w, dw = (), ()
    for i in tl.static_range(IN):
        w += (tl.load(W + (model * OUT + outs) * IN + i, mask=wanted, other=0.0)[None, :],)
        dw += (tl.zeros([ROWS, OUT2], tl.float32),)
    db = tl.zeros([ROWS, OUT2], tl.float32)
    for block in range(BLOCKS):
        rows = (program * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        there = rows < R
        row = model * R + rows
        g = tl.load(G + row[:, None] * OUT + outs[None, :], mask=there[:, None] & wanted[None, :], other=0.0)
        sums = ()
        for i in tl.static_range(IN):
            x = tl.load(X + row * IN + i, mask=there, other=0.0)
            sums += (dw[i] + x[:, None] * g,)
            tl.store(DX + row * IN + i, tl.sum(g * w[i], axis=1), mask=there)
        dw = sums
        db += g
    part = model * tl.num_programs(0) + program
    for i in tl.static_range(IN):
        tl.store(DW + (part * IN + i) * OUT + outs, tl.sum(dw[i], axis=0), mask=wanted)
    if DB is not None:
        tl.store(DB + part * OUT + outs, tl.sum(db, axis=0), mask=wanted)


@triton.jit
def _normalised(x, inside, EPS, IN: tl.constexpr, CENTRED: tl.constexpr):
    """Return the rows of `x` (ROWS, IN2) with mean 0 (if CENTRED) and mean square 1, and their scale factors (ROWS,)."""
    if CENTRED:  # the padding beyond IN must stay 0: it enters the mean square below
        x = tl.where(inside, x - (tl.sum(x, axis=1) / IN)[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / IN + EPS)
    return x * factor[:, None], factor


@triton.jit
def norm_forward(X, W, BIAS, Y, R, EPS, IN: tl.constexpr, IN2: tl.constexpr, ROWS: tl.constexpr, CENTRED: tl.constexpr):
    """Compute Y (S, R, IN): normalised rows of X, times W (S, IN), plus BIAS (S, IN); W and BIAS may be None."""
    model = tl.program_id(1).to(tl.int64)
    rows, ins = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, IN2)
    inside = (rows < R)[:, None] & (ins < IN)[None, :]
    place = (model * R + rows)[:, None] * IN + ins[None, :]
    y, _ = _normalised(tl.load(X + place, mask=inside, other=0.0), inside, EPS, IN, CENTRED)
    if W is not None:
        y *= tl.load(W + model * IN + ins, mask=ins < IN, other=0.0)[None, :]
    if BIAS is not None:
        y += tl.load(BIAS + model * IN + ins, mask=ins < IN, other=0.0)[None, :]
    tl.store(Y + place, y, mask=inside)


@triton.jit
def norm_backward(
    X,
    W,
    G,
    DX,
    DW,
    DB,
    R,
    BLOCKS,
    EPS,
    IN: tl.constexpr,
    IN2: tl.constexpr,
    ROWS: tl.constexpr,
    CENTRED: tl.constexpr,
):
    """Compute DX (S, R, IN) from G = dY (S, R, IN), and per program its part of DW and DB (S, P, IN); both may be None.

    Rows are normalised again here, so that the forward pass need not store means and factors.
    """
    model, program = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    ins = tl.arange(0, IN2)
    dw = tl.zeros([ROWS, IN2], tl.float32)
    db = tl.zeros([ROWS, IN2], tl.float32)
    for block in range(BLOCKS):
        rows = (program * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        inside = (rows < R)[:, None] & (ins < IN)[None, :]
        place = (model * R + rows)[:, None] * IN + ins[None, :]
        x, factor = _normalised(tl.load(X + place, mask=inside, other=0.0), inside, EPS, IN, CENTRED)
        g = tl.load(G + place, mask=inside, other=0.0)
        dw += g * x
        db += g
        if W is not None:
            g *= tl.load(W + model * IN + ins, mask=ins < IN, other=0.0)[None, :]
        dx = g - x * (tl.sum(g * x, axis=1) / IN)[:, None]
        if CENTRED:
            dx -= (tl.sum(g, axis=1) / IN)[:, None]
        tl.store(DX + place, dx * factor[:, None], mask=inside)
    part = (model * tl.num_programs(0) + program) * IN + ins
    if DW is not None:
        tl.store(DW + part, tl.sum(dw, axis=0), mask=ins < IN)
    if DB is not None:
        tl.store(DB + part, tl.sum(db, axis=0), mask=ins < IN)


@triton.jit
def cross_entropy_forward(X, TARGET, SUMS, R, BLOCKS, IGNORED, IN: tl.constexpr, IN2: tl.constexpr, ROWS: tl.constexpr):
    """Compute SUMS (S, P, 2): per program the sum of losses and the number of rows of X (S, R, IN) that count.

    A row counts unless its TARGET (S, R) is IGNORED.
    """
    model, program = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    ins = tl.arange(0, IN2)
    loss, count = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for block in range(BLOCKS):
        rows = (program * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        row, there = model * R + rows, rows < R
        target = tl.load(TARGET + row, mask=there, other=IGNORED)
        inside = there[:, None] & (ins < IN)[None, :]
        x = tl.load(X + row[:, None] * IN + ins[None, :], mask=inside, other=-float("inf"))
        x = tl.where(there[:, None], x, 0.0)  # in rows of only -inf, x - max would be NaN
        largest = tl.max(x, axis=1)
        total = tl.sum(tl.exp(x - largest[:, None]), axis=1)
        chosen = tl.sum(tl.where(ins[None, :] == target[:, None], x - largest[:, None], 0.0), axis=1)
        loss += tl.where(target == IGNORED, 0.0, tl.log(total) - chosen)
        count += tl.where(target == IGNORED, 0.0, 1.0)
    part = (model * tl.num_programs(0) + program) * 2
    tl.store(SUMS + part, tl.sum(loss, axis=0))
    tl.store(SUMS + part + 1, tl.sum(count, axis=0))


@triton.jit
def cross_entropy_backward(X, TARGET, SCALE, DX, R, IGNORED, IN: tl.constexpr, IN2: tl.constexpr, ROWS: tl.constexpr):
    """Compute DX (S, R, IN): SCALE (S,) times the gradient of the sum of losses."""
    model = tl.program_id(1).to(tl.int64)
    rows, ins = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, IN2)
    row, there = model * R + rows, rows < R
    target = tl.load(TARGET + row, mask=there, other=IGNORED)
    inside = there[:, None] & (ins < IN)[None, :]
    x = tl.load(X + row[:, None] * IN + ins[None, :], mask=inside, other=-float("inf"))
    x = tl.where(there[:, None], x, 0.0)  # in rows of only -inf, x - max would be NaN
    e = tl.exp(x - tl.max(x, axis=1)[:, None])
    share = e / tl.sum(e, axis=1)[:, None] - tl.where(ins[None, :] == target[:, None], 1.0, 0.0)
    scale = tl.where(target == IGNORED, 0.0, tl.load(SCALE + model))
    tl.store(DX + row[:, None] * IN + ins[None, :], share * scale[:, None], mask=inside)


@triton.jit
def split(
    X,
    A,
    B,
    C,
    D,
    R,
    NA: tl.constexpr,
    NB: tl.constexpr,
    NC: tl.constexpr,
    ND: tl.constexpr,
    IN2: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Split the rows of X (R, NA + NB + NC + ND) into A (R, NA) to D (R, ND); C and D may be None, with sizes 0."""
    rows, ins = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, IN2)
    there, width = (rows < R)[:, None], NA + NB + NC + ND
    x = tl.load(X + rows[:, None] * width + ins[None, :], mask=there & (ins < width)[None, :], other=0.0)
    _store_part(A, x, rows, there, ins, 0, NA)
    _store_part(B, x, rows, there, ins, NA, NB)
    if C is not None:
        _store_part(C, x, rows, there, ins, NA + NB, NC)
    if D is not None:
        _store_part(D, x, rows, there, ins, NA + NB + NC, ND)


@triton.jit
def join(
    X,
    A,
    B,
    C,
    D,
    R,
    NA: tl.constexpr,
    NB: tl.constexpr,
    NC: tl.constexpr,
    ND: tl.constexpr,
    IN2: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Join A (R, NA) to D (R, ND) into X (R, NA + NB + NC + ND): the inverse of `split`."""
    rows, ins = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, IN2)
    there, width = (rows < R)[:, None], NA + NB + NC + ND
    # Each part is 0 in the columns of the others, so their sum concatenates them: Triton has no concatenation of uneven
    # parts.
    x = _load_part(A, rows, there, ins, 0, NA) + _load_part(B, rows, there, ins, NA, NB)
    if C is not None:
        x += _load_part(C, rows, there, ins, NA + NB, NC)
    if D is not None:
        x += _load_part(D, rows, there, ins, NA + NB + NC, ND)
    tl.store(X + rows[:, None] * width + ins[None, :], x, mask=there & (ins < width)[None, :])


@triton.jit
def _store_part(PART, x, rows, there, ins, START: tl.constexpr, SIZE: tl.constexpr):
    own = there & (ins >= START)[None, :] & (ins < START + SIZE)[None, :]
    tl.store(PART + rows[:, None] * SIZE + (ins - START)[None, :], x, mask=own)


@triton.jit
def _load_part(PART, rows, there, ins, START: tl.constexpr, SIZE: tl.constexpr):
    own = there & (ins >= START)[None, :] & (ins < START + SIZE)[None, :]
    return tl.load(PART + rows[:, None] * SIZE + (ins - START)[None, :], mask=own, other=0.0)

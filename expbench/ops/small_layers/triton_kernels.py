"""Linear maps, normalisation and cross-entropy of rows of a few numbers, in one pass over memory each way.

Letters: S models, R rows of each, IN numbers of a row in, OUT out (IN2 and OUT2: the next powers of two). A program has some
blocks of ROWS rows of one model; sums over rows are kept in registers from block to block, one partial sum a program, and
added up afterwards in a fixed order.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def linear_forward(X, W, BIAS, Y, R, IN: tl.constexpr, OUT: tl.constexpr, OUT2: tl.constexpr, ROWS: tl.constexpr):
    """Y (S, R, OUT) = X (S, R, IN) W (S, OUT, IN)^T + BIAS (S, OUT), or None."""
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
    """From G = dY (S, R, OUT): DX (S, R, IN), and each program's share of DW (S, P, IN, OUT) and DB (S, P, OUT), or None."""
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
    """Rows of `x` with mean 0 (if CENTRED) and mean square 1, and what they were multiplied by."""
    if CENTRED:
        x = tl.where(inside, x - (tl.sum(x, axis=1) / IN)[:, None], 0.0)
    factor = 1.0 / tl.sqrt(tl.sum(x * x, axis=1) / IN + EPS)
    return x * factor[:, None], factor


@triton.jit
def norm_forward(X, W, BIAS, Y, R, EPS, IN: tl.constexpr, IN2: tl.constexpr, ROWS: tl.constexpr, CENTRED: tl.constexpr):
    """Y (S, R, IN): the rows of X normalised, times W (S, IN), plus BIAS (S, IN); W and BIAS may be None."""
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
    """From G = dY (S, R, IN): DX (S, R, IN), and for each program p its share DW and DB (S, P, IN), or None."""
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
    """Over the rows of X (S, R, IN) whose TARGET (S, R) is not IGNORED, of each program the sum of the losses, and how many
    there are: SUMS (S, P, 2)."""
    model, program = tl.program_id(1).to(tl.int64), tl.program_id(0).to(tl.int64)
    ins = tl.arange(0, IN2)
    loss, count = tl.zeros([ROWS], tl.float32), tl.zeros([ROWS], tl.float32)
    for block in range(BLOCKS):
        rows = (program * BLOCKS + block) * ROWS + tl.arange(0, ROWS)
        row, there = model * R + rows, rows < R
        target = tl.load(TARGET + row, mask=there, other=IGNORED)
        inside = there[:, None] & (ins < IN)[None, :]
        x = tl.load(X + row[:, None] * IN + ins[None, :], mask=inside, other=-float("inf"))
        x = tl.where(there[:, None], x, 0.0)
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
    """DX (S, R, IN): SCALE (S,) times the gradient of the sum of the losses."""
    model = tl.program_id(1).to(tl.int64)
    rows, ins = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, IN2)
    row, there = model * R + rows, rows < R
    target = tl.load(TARGET + row, mask=there, other=IGNORED)
    inside = there[:, None] & (ins < IN)[None, :]
    x = tl.load(X + row[:, None] * IN + ins[None, :], mask=inside, other=-float("inf"))
    x = tl.where(there[:, None], x, 0.0)
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
    """Rows of X (R, NA + NB + NC + ND) into A (R, NA) to D (R, ND); C and D may be None, and their sizes 0."""
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
    """The reverse of `split`: X from A to D."""
    rows, ins = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS), tl.arange(0, IN2)
    there, width = (rows < R)[:, None], NA + NB + NC + ND
    x = _load_part(A, rows, there, ins, 0, NA) + _load_part(B, rows, there, ins, NA, NB)  # 0 where it is another's
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

"""Rows of a tile in registers, and sums and exchanges over the lanes of a warp.

All tensors have the axes [T, V, LD, LN, LB, R] of the package's docstring, of which some may have size 1.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def row(x, index, i: tl.constexpr):
    """Return row i of x along its first axis (steps), kept as an axis of size 1; `index` numbers the rows.

    The compiler reduces a sum of integers, all but one of which are 0, to a renamed register. It cannot do so for floats.
    """
    bits = tl.where(index == i, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def column_of(x, index, i: tl.constexpr):
    """Return column i of x along its second axis (states of a vector), as `row` does along the first."""
    bits = tl.where(index == i, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 1, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def over(x, first: tl.constexpr, second: tl.constexpr, third: tl.constexpr):
    """Sum x over three axes, which are kept with size 1."""
    return tl.sum(tl.sum(tl.sum(x, third, keep_dims=True), second, keep_dims=True), first, keep_dims=True)


@triton.jit
def tie(x, anchor, FAST: tl.constexpr):
    """Return x in the layout of `anchor`, by move instructions that the assembler removes.

    Triton gives an operation the layout of the load that is the fewest operations away. Loads of sequences spread time over
    lanes, in which case `row` costs a reduction. The eight moves make these loads more distant than the anchor, which comes
    from A.
    """
    if FAST:
        for _ in tl.static_range(8):
            x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f,f", [x, anchor], dtype=tl.float32, is_pure=True, pack=1)
    return x


@triton.jit
def load_rows(x, inside, anchor, ALL: tl.constexpr, FAST: tl.constexpr):
    """Load a tile [T, V, 1, LN, LB, R] of B or C as float32, in the layout of `anchor`."""
    if ALL:
        x = tl.load(x).to(tl.float32)
    else:
        x = tl.load(x, mask=inside, other=0.0).to(tl.float32)
    return tie(x, anchor, FAST)


@triton.constexpr_function
def stride_of_channels(LN, LB, FAST):
    """Return the number of lanes between neighbouring channels.

    The compiler orders lanes by channels, states, sequences, or in reverse (FAST of 3).
    """
    return LN * LB if FAST == 3 else 1


@triton.constexpr_function
def stride_of_states(LD, LB, FAST):
    """Return the number of lanes between neighbouring vectors of states, as `stride_of_channels`."""
    return LB if FAST == 3 else LD


@triton.constexpr_function
def exchange(stride):
    """Return the instruction that exchanges values between lanes whose numbers differ in the bit `stride`."""
    return f"shfl.sync.bfly.b32 $0, $1, {stride}, 31, -1;"


@triton.jit
def neighbour(x, index, bit: tl.constexpr, AXIS: tl.constexpr, STRIDE: tl.constexpr, FAST: tl.constexpr):
    """Return x of the lane whose index along AXIS differs in `bit`; neighbouring indices are STRIDE lanes of the warp apart.

    tl.gather is correct in every layout, but it requires a layout of its own, and the conversions cost more than the
    exchange. A shuffle (FAST of 2 or 3) is correct only in the layout that `tie` requests. `triton_launch.py` checks the
    compiler's output for this layout.
    """
    if FAST >= 2:
        return tl.inline_asm_elementwise(exchange(bit * STRIDE), "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return tl.gather(x, tl.broadcast_to(index ^ bit, x.shape), AXIS)


@triton.jit
def halve(low, high, index, bit: tl.constexpr, AXIS: tl.constexpr, STRIDE: tl.constexpr, FAST: tl.constexpr):
    """Return sums over pairs of lanes that differ in `bit`: of low in lanes where it is 0, of high where it is 1.

    Each lane sends the value that its neighbour needs, so two sums cost a single exchange.
    """
    upper = (index & bit) != 0
    own = tl.where(upper, high, low)
    other = tl.where(upper, low, high)
    return own + neighbour(other, index, bit, AXIS, STRIDE, FAST)


@triton.jit
def spread(x, lane, T: tl.constexpr, SHARE: tl.constexpr, STRIDE: tl.constexpr, FAST: tl.constexpr):
    """Return T rows, each in all lanes of axis 3, from x (T / SHARE, ...), whose lane l holds the steps l, SHARE + l, ...

    This all-gather doubles the rows with each bit of the lane, at T - T / SHARE exchanges in all. `gathered` has the same
    layout.
    """
    index = tl.arange(0, T // SHARE)[:, None, None, None, None, None]
    rows = ()
    for i in tl.static_range(T // SHARE):
        rows += (row(x, index, i),)
    for k in tl.static_range(5):
        if (1 << k) < SHARE:
            upper = (lane & (1 << k)) != 0
            new = ()
            for i in tl.static_range(T // SHARE):
                others = ()
                for j in tl.static_range(1 << k):
                    others += (neighbour(rows[(i << k) + j], lane, 1 << k, 3, STRIDE, FAST),)
                for j in tl.static_range(1 << k):
                    new += (tl.where(upper, others[j], rows[(i << k) + j]),)
                for j in tl.static_range(1 << k):
                    new += (tl.where(upper, rows[(i << k) + j], others[j]),)
            rows = new
    return rows


@triton.jit
def gathered(rows, lane, T: tl.constexpr, SHARE: tl.constexpr, LN: tl.constexpr, STRIDE: tl.constexpr, FAST: tl.constexpr):
    """Sum T rows over the lanes of axis 3 into (T / SHARE, ...), whose lane l holds the steps l, SHARE + l, ...

    Rows are halved with each bit of the lane (a reduce-scatter), so all T sums cost about T exchanges instead of T log2(LN).
    """
    for k in tl.static_range(5):
        if (16 >> k) < SHARE:
            new = ()
            for i in tl.static_range(T // SHARE):
                for j in tl.static_range(16 >> k):
                    new += (
                        halve(rows[i * (32 >> k) + j], rows[i * (32 >> k) + j + (16 >> k)], lane, 16 >> k, 3, STRIDE, FAST),
                    )
            rows = new
    index = tl.arange(0, T // SHARE)[:, None, None, None, None, None]
    x = rows[0]
    if T // SHARE > 1:
        x = tl.broadcast_to(x, [T // SHARE, x.shape[1], x.shape[2], x.shape[3], x.shape[4], x.shape[5]])
        for i in tl.static_range(1, T // SHARE):
            x = tl.where(index == i, rows[i], x)
    for k in tl.static_range(5):
        if (1 << k) >= SHARE and (1 << k) < LN:
            x += neighbour(x, lane, 1 << k, 3, STRIDE, FAST)
    return x


@triton.jit
def fold(rows, lane, LD: tl.constexpr, STRIDE: tl.constexpr, FAST: tl.constexpr):
    """Sum rows over the lanes of axis 2, bit by bit, while there are lanes and several rows; each lane keeps half the rows.

    A step adds pairs of neighbouring rows over lanes that differ in bit 0, then 1, and so on.
    """
    for k in tl.static_range(5):
        if (1 << k) < LD and len(rows) > 1:
            new = ()
            for i in tl.static_range(len(rows) // 2):
                new += (halve(rows[2 * i], rows[2 * i + 1], lane, 1 << k, 2, STRIDE, FAST),)
            rows = new
    return rows


@triton.jit
def store_sums(
    rows,
    target,
    lane,
    v,
    steps,
    inside,
    N,
    T: tl.constexpr,
    V: tl.constexpr,
    LD: tl.constexpr,
    STRIDE: tl.constexpr,
    FAST: tl.constexpr,
):
    """Store the sums over LD lanes of T rows [1, V, LD, LN, LB]; rows come from `fold`, and columns are folded here.

    If LD <= T, lane l holds the steps l, LD + l, ... Otherwise a single row is left, and further lanes divide its V columns.
    `target` points at the first step and column 0.
    """
    if LD <= T:
        for i in tl.static_range(T // LD):
            step = i * LD + lane
            tl.store(target + step * N + v, rows[i], mask=inside & (step < steps))
    elif V == 4 and LD == 2 * T:
        step = lane % T
        column = (lane // T & 1) * 2
        one = halve(column_of(rows[0], v, 0), column_of(rows[0], v, 2), lane, T, 2, STRIDE, FAST)
        tl.store(target + step * N + column, one, mask=inside & (step < steps))
        two = halve(column_of(rows[0], v, 1), column_of(rows[0], v, 3), lane, T, 2, STRIDE, FAST)
        tl.store(target + step * N + column + 1, two, mask=inside & (step < steps))
    else:
        step = lane % T
        columns: tl.constexpr = V  # spread over lanes; lanes beyond T * columns hold duplicates of the sums
        x = rows[0]
        column = lane * 0
        if V == 4:
            one = halve(column_of(x, v, 0), column_of(x, v, 2), lane, T, 2, STRIDE, FAST)
            two = halve(column_of(x, v, 1), column_of(x, v, 3), lane, T, 2, STRIDE, FAST)
            x = halve(one, two, lane, 2 * T, 2, STRIDE, FAST)
            column = (lane // T & 1) * 2 + (lane // (2 * T) & 1)
        elif V == 2:
            x = halve(column_of(x, v, 0), column_of(x, v, 1), lane, T, 2, STRIDE, FAST)
            column = lane // T & 1
        for k in tl.static_range(5):
            if (T * columns << k) < LD:
                x += neighbour(x, lane, T * columns << k, 2, STRIDE, FAST)
        tl.store(target + step * N + column, x, mask=inside & (step < steps) & (lane < T * columns))

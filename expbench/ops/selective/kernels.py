"""The selective scan in Triton: one kernel forward, one backward, each state of a channel in the registers of one thread.

A program is one warp. Its tile has the axes [T, V, LD, LN, LB, R]: T steps of time and V x R states lie in a thread's
registers, LD x LN x LB lanes lie along states, channels and sequences. Time never crosses lanes, so the recurrence is plain
arithmetic in registers; states cross LN lanes only where they are summed, channels LD lanes only for the gradients of B
and C. Inputs are fetched tiles ahead. V is one vector load of A, and that load is what fixes the layout of everything else.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2E = tl.constexpr(1.4426950408889634)


@triton.jit
def _row(x, index, i: tl.constexpr):
    """Row i of x along its first axis, kept as an axis of size 1.

    A sum of integers whose other terms are 0 is one register under another name after compilation; of floats it would not be.
    """
    bits = tl.where(index == i, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 0, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def _exp2(x, FAST: tl.constexpr):
    """2^x; FAST is one instruction, which flushes results below 2^-126 to 0."""
    if FAST:
        return tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
    return tl.exp2(x)


@triton.jit
def _tie(x, anchor, FAST: tl.constexpr):
    """x itself, in the layout of `anchor`, by instructions that vanish when they are assembled.

    The compiler gives an operation the layout of whichever load reaches it over the fewest operations. Loads of sequences
    spread time over lanes, where a row costs a reduction, so they are kept farther away than the anchor, which comes from A.
    """
    if FAST:
        for _ in tl.static_range(8):
            x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f", [x], dtype=tl.float32, is_pure=True, pack=1)
        x = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=f,f,f", [x, anchor], dtype=tl.float32, is_pure=True, pack=1)
    return x


@triton.jit
def _over(x, first: tl.constexpr, second: tl.constexpr, third: tl.constexpr):
    """x summed over three axes, which stay as axes of size 1."""
    return tl.sum(tl.sum(tl.sum(x, third, keep_dims=True), second, keep_dims=True), first, keep_dims=True)


@triton.jit
def _softplus(x, FAST: tl.constexpr):
    """log(1 + e^x) = max(x, 0) + log1p(e), and e = exp(-|x|).

    log1p(e) / e is a minimax polynomial on [0, 1]; its relative error is 2e-7 in float32. log(1 + e) would lose all digits
    of a small Delta.
    """
    e = _exp2(-tl.abs(x) * LOG2E, FAST)
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
def _silu(x, FAST: tl.constexpr):
    return x / (1.0 + _exp2(x * -LOG2E, FAST))


@triton.jit
def _step(x, coefficients, KIND: tl.constexpr, DEGREE: tl.constexpr, FAST: tl.constexpr):
    """Delta and dDelta/dx for the argument x."""
    if KIND == "exact":
        step, e = _softplus(x, FAST)
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
def _argument(step, rate, KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr):
    """What a is a function of: step rate; of a Taylor polynomial w = k (Delta A + 1), in which it has fewer terms.

    `rate` is k A, with k as `_scale` says. Clipping keeps Delta A in [LOWEST, 0].
    """
    w = step * rate
    if KIND == "taylor":
        w += _scale(KIND, DEGREE)
        if LOWEST < 0:
            w = tl.minimum(tl.maximum(w, _scale(KIND, DEGREE) * (LOWEST + 1.0)), _scale(KIND, DEGREE))
    return w


@triton.constexpr_function
def _scale(kind, degree):
    """k: log2(e) for exp, and for a Taylor polynomial what makes its leading coefficient 1."""
    if kind == "exact":
        return 1.4426950408889634
    if kind == "linear":
        return 1.0
    return (1.0, 2**-0.5, 6 ** (-1 / 3))[degree - 1]


@triton.constexpr_function
def _gain(kind, degree):
    """By what `_slope` falls short of da / d(Delta A)."""
    if kind != "taylor":
        return 1.0
    return (1.0, 2**0.5, 6 ** (2 / 3) / 2)[degree - 1]


@triton.jit
def _transition(w, KIND: tl.constexpr, DEGREE: tl.constexpr, FAST: tl.constexpr):
    """a of its argument: 2^w, w, or the Taylor polynomial of exp: w, w^2 + 1/2, w^3 + 6^(1/3) / 2 w + 1/3."""
    tl.static_assert(DEGREE <= 3)
    if KIND == "exact":
        return _exp2(w, FAST)
    if DEGREE == 2:
        return w * w + 0.5
    if DEGREE == 3:
        return (w * w + 0.9085602964160698) * w + 1.0 / 3.0
    return w


@triton.jit
def _slope(w, DEGREE: tl.constexpr):
    """da / d(Delta A) up to `_gain`, of a Taylor polynomial of degree 2 or 3; of degree 1 it is 1."""
    if DEGREE == 2:
        return w
    return w * w + 0.3028534321386899  # 6^(-2/3)


@triton.jit
def _within(step, rate, x, KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr):
    """x where clipping leaves Delta A as it is, 0 elsewhere."""
    v = step * rate
    return tl.where((v >= LOWEST * _scale(KIND, DEGREE)) & (v <= 0.0), x, 0.0)


@triton.jit
def widen_kernel(B, C, wide_B, wide_C, numbers, BLOCK: tl.constexpr):
    """B and C in float32, in one launch."""
    at = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = at < numbers
    tl.store(wide_B + at, tl.load(B + at, mask=inside).to(tl.float32), mask=inside)
    tl.store(wide_C + at, tl.load(C + at, mask=inside).to(tl.float32), mask=inside)


@triton.jit
def forward_kernel(
    u, delta, A, B, C, skip, z, bias, state, coefficients,
    y, last, checkpoints,
    sequences, batch, L, D, blocks,
    N: tl.constexpr, T: tl.constexpr, V: tl.constexpr, LN: tl.constexpr, LD: tl.constexpr, LB: tl.constexpr, R: tl.constexpr,
    KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr, DELTA_ON_B: tl.constexpr,
    SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, STATE: tl.constexpr, KEEP: tl.constexpr,
    EVEN: tl.constexpr, EVEN_L: tl.constexpr, FAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """y, the last state, and with KEEP the state before every KEEP-th step. `sequences` is S batch, `blocks` cover D."""
    block = tl.program_id(0) % blocks
    time = tl.arange(0, T)[:, None, None, None, None, None]
    n = tl.arange(0, LN)[None, None, None, :, None, None] * V + tl.arange(0, V)[None, :, None, None, None, None]
    n += tl.arange(0, R)[None, None, None, None, None, :] * (LN * V)
    d = block * LD + tl.arange(0, LD)[None, None, :, None, None, None]
    s = (tl.program_id(0) // blocks).to(tl.int64) * LB + tl.arange(0, LB)[None, None, None, None, :, None]
    model = s // batch
    here = (d < D) & (s < sequences)
    there = s < sequences
    if EVEN:
        rate = tl.load(A + model * (D * N) + d * N + n)
    else:
        rate = tl.load(A + model * (D * N) + d * N + n, mask=here, other=0.0)
    rate *= _scale(KIND, DEGREE)
    of_d = _over(rate, 1, 3, 5)
    of_n = _over(rate, 2, 4, 0)
    of_channel = model * D + d
    if SKIP:
        factor = tl.load(skip + of_channel, mask=here, other=0.0)
    if BIAS:
        shift = tl.load(bias + of_channel, mask=here, other=0.0)
    c = ()
    if KIND == "taylor":
        for k in tl.static_range(DEGREE + 1):
            c += (tl.load(coefficients + (model * (DEGREE + 1) + k) * D + d, mask=here, other=0.0),)
    of_state = (s * D + d) * N + n
    if STATE:
        h = tl.load(state + of_state, mask=here, other=0.0)
    else:
        h = tl.zeros([1, V, LD, LN, LB, R], tl.float32)
    at = (s * L + time) * D + d
    u += at
    delta += at
    y += at
    if GATE:
        z += at
    of_sequence = (s * L + time) * N + n
    B += of_sequence
    C += of_sequence
    kept = checkpoints + of_state
    for t in tl.range(0, L, T, num_stages=STAGES):
        if EVEN and EVEN_L:
            u_t = tl.load(u).to(tl.float32)
            x = tl.load(delta).to(tl.float32)
            B_t = tl.load(B).to(tl.float32)
            C_t = tl.load(C).to(tl.float32)
        else:
            inside = here & (time < L - t)
            u_t = tl.load(u, mask=inside, other=0.0).to(tl.float32)
            x = tl.load(delta, mask=inside, other=0.0).to(tl.float32)
            B_t = tl.load(B, mask=there & (time < L - t), other=0.0).to(tl.float32)
            C_t = tl.load(C, mask=there & (time < L - t), other=0.0).to(tl.float32)
        if BIAS:
            x += shift
        x = _tie(x, of_d, FAST)
        u_t = _tie(u_t, of_d, FAST)
        B_t = _tie(B_t, of_n, FAST)
        C_t = _tie(C_t, of_n, FAST)
        step, _ = _step(x, c, KIND, DEGREE, FAST)
        a = _transition(_argument(step, rate, KIND, DEGREE, LOWEST), KIND, DEGREE, FAST)
        if not EVEN_L:
            a = tl.where(time < L - t, a, 1.0)
        if DELTA_ON_B:
            b = (step * u_t) * B_t
        else:
            b = u_t * B_t
        states = tl.zeros([T, V, LD, LN, LB, R], tl.float32)
        for i in tl.static_range(T):
            if KEEP > 0:
                if i % KEEP == 0:
                    if EVEN and EVEN_L:
                        tl.store(kept, h)
                    else:
                        tl.store(kept, h, mask=here & (d * 0 + (t + i) < L))
                    kept += sequences.to(tl.int64) * D * N
            h = _row(a, time, i) * h + _row(b, time, i)
            states = tl.where(time == i, h, states)
        y_t = _over(states * C_t, 3, 5, 1)
        if SKIP:
            y_t += factor * u_t
        if EVEN and EVEN_L:
            if GATE:
                z_t = tl.load(z).to(tl.float32)
                y_t *= _silu(z_t, FAST)
            tl.store(y, y_t.to(y.dtype.element_ty))
        else:
            inside = here & (time < L - t)
            if GATE:
                z_t = tl.load(z, mask=inside, other=0.0).to(tl.float32)
                y_t *= _silu(z_t, FAST)
            tl.store(y, y_t.to(y.dtype.element_ty), mask=inside)
        u += T * D
        delta += T * D
        y += T * D
        if GATE:
            z += T * D
        B += T * N
        C += T * N
    tl.store(last + of_state, h, mask=here)


@triton.jit
def _halve(low, high, lane, bit: tl.constexpr):
    """low + its neighbour's low in lanes where `bit` is 0, high + its neighbour's high where it is 1; neighbours differ in it."""
    upper = (lane & bit) != 0
    own = tl.where(upper, high, low)
    other = tl.where(upper, low, high)
    return own + tl.gather(other, tl.broadcast_to(lane ^ bit, other.shape), 2)


@triton.jit
def _column(x, index, i: tl.constexpr):
    bits = tl.where(index == i, x.to(tl.int32, bitcast=True), 0)
    return tl.sum(bits, 1, keep_dims=True).to(tl.float32, bitcast=True)


@triton.jit
def _store_sums(rows, target, lane, v, steps, inside, N, T: tl.constexpr, V: tl.constexpr, LD: tl.constexpr):
    """Sum T rows of [1, V, LD, LN, LB] over their LD lanes, and store the sums, spread over these lanes.

    Each exchange halves the values that are left to a lane, rows first, then columns, so that all sums over 2^k lanes take
    less than one exchange a value. The rows come last step first; `target` points at the first step and at column 0.
    """
    step = lane * 0
    for k in tl.static_range(3):
        if (1 << k) < LD and (2 << k) <= T:
            new = ()
            for i in tl.static_range(T >> (k + 1)):
                new += (_halve(rows[i + (T >> (k + 1))], rows[i], lane, 1 << k),)
            rows = new
            step += ((lane >> k) & 1) * (T >> (k + 1))
    if LD <= T:
        for i in tl.static_range(T // LD):
            at = step + (T // LD - 1 - i)
            tl.store(target + at * N + v, rows[i], mask=inside & (at < steps))
    elif V == 4 and LD == 2 * T:
        column = (lane // T & 1) * 2
        one = _halve(_column(rows[0], v, 0), _column(rows[0], v, 2), lane, T)
        tl.store(target + step * N + column, one, mask=inside & (step < steps))
        two = _halve(_column(rows[0], v, 1), _column(rows[0], v, 3), lane, T)
        tl.store(target + step * N + column + 1, two, mask=inside & (step < steps))
    else:
        columns: tl.constexpr = V  # that are spread over lanes; further lanes hold the same sums
        x = rows[0]
        column = lane * 0
        if V == 4:
            one = _halve(_column(x, v, 0), _column(x, v, 2), lane, T)
            two = _halve(_column(x, v, 1), _column(x, v, 3), lane, T)
            x = _halve(one, two, lane, 2 * T)
            column = (lane // T & 1) * 2 + (lane // (2 * T) & 1)
        elif V == 2:
            x = _halve(_column(x, v, 0), _column(x, v, 1), lane, T)
            column = lane // T & 1
        for k in tl.static_range(5):
            if (T * columns << k) < LD:
                x += tl.gather(x, tl.broadcast_to(lane ^ (T * columns << k), x.shape), 2)
        tl.store(target + step * N + column, x, mask=inside & (step < steps) & (lane < T * columns))


@triton.jit
def backward_kernel(
    u, delta, A, B, C, skip, z, bias, coefficients, checkpoints, grad_y, grad_last,
    du, ddelta, dz, dA, dB, dC, dskip, dbias, dstate,
    sequences, batch, L, D, blocks,
    N: tl.constexpr, T: tl.constexpr, V: tl.constexpr, LN: tl.constexpr, LD: tl.constexpr, LB: tl.constexpr, R: tl.constexpr,
    KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr, DELTA_ON_B: tl.constexpr,
    SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, STATE: tl.constexpr, LAST: tl.constexpr, JOINT: tl.constexpr,
    EVEN: tl.constexpr, EVEN_L: tl.constexpr, FAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Every gradient, from the last tile to the first: the states of a tile anew from its checkpoint, then the adjoint.

    g_t = C_t grad_t + p_{t+1} and p_t = a_t g_t, so that p carries the adjoint from step to step. dB and dC hold a partial
    sum for each of the `blocks` of channels, (blocks, S batch, L, N); dA, dskip and dbias one for each sequence, or for each
    LB sequences if these are JOINT. States are taken V x LN at a time, R times, which keeps a tile in registers.
    """
    block = tl.program_id(0) % blocks
    time = tl.arange(0, T)[:, None, None, None, None]
    v = tl.arange(0, V)[None, :, None, None, None]
    n = tl.arange(0, LN)[None, None, None, :, None] * V + v
    lane = tl.arange(0, LD)[None, None, :, None, None]
    d = block * LD + lane
    s = (tl.program_id(0) // blocks).to(tl.int64) * LB + tl.arange(0, LB)[None, None, None, None, :]
    model = s // batch
    here = (d < D) & (s < sequences)
    there = s < sequences
    of_channel = model * D + d
    of_first_state = (s * D + d) * N + n
    rates = ()
    p = ()
    for r in tl.static_range(R):
        if EVEN:
            rate = tl.load(A + of_channel * N + n + r * (LN * V))
        else:
            rate = tl.load(A + of_channel * N + n + r * (LN * V), mask=here, other=0.0)
        rate *= _scale(KIND, DEGREE)
        rates += (rate,)
        if LAST:
            p += (tl.load(grad_last + of_first_state + r * (LN * V), mask=here, other=0.0),)
        else:
            p += (tl.zeros([1, V, LD, LN, LB], tl.float32),)
    of_d = _over(rates[0], 1, 3, 0)
    of_n = _over(rates[0], 2, 4, 0)
    if SKIP:
        factor = tl.load(skip + of_channel, mask=here, other=0.0)
    if BIAS:
        shift = tl.load(bias + of_channel, mask=here, other=0.0)
    c = ()
    if KIND == "taylor":
        for k in tl.static_range(DEGREE + 1):
            c += (tl.load(coefficients + (model * (DEGREE + 1) + k) * D + d, mask=here, other=0.0),)
    sums = ()
    for _ in tl.static_range(R):
        sums += (tl.zeros([1, V, LD, LN, LB], tl.float32),)
    sum_skip = tl.zeros([1, 1, LD, 1, LB], tl.float32)
    sum_bias = tl.zeros([1, 1, LD, 1, LB], tl.float32)
    tiles = (L + T - 1) // T
    start = (tiles - 1) * T
    at = (s * L + start + time) * D + d
    u += at
    delta += at
    grad_y += at
    du += at
    ddelta += at
    if GATE:
        z += at
        dz += at
    B += (s * L + start + time) * N + n
    C += (s * L + start + time) * N + n
    of_sums = ((block * sequences.to(tl.int64) + s) * L + start) * N + tl.arange(0, LN)[None, None, None, :, None] * V
    dB += of_sums
    dC += of_sums
    per_tile = sequences.to(tl.int64) * D * N
    kept = checkpoints + (tiles - 1) * per_tile + of_first_state
    for tile in tl.range(0, tiles, num_stages=STAGES):
        left = L - start + tile * T
        if EVEN and EVEN_L:
            u_t = tl.load(u).to(tl.float32)
            x = tl.load(delta).to(tl.float32)
            dy = tl.load(grad_y).to(tl.float32)
        else:
            inside = here & (time < left)
            u_t = tl.load(u, mask=inside, other=0.0).to(tl.float32)
            x = tl.load(delta, mask=inside, other=0.0).to(tl.float32)
            dy = tl.load(grad_y, mask=inside, other=0.0).to(tl.float32)
        if GATE:
            if EVEN and EVEN_L:
                z_t = tl.load(z).to(tl.float32)
            else:
                z_t = tl.load(z, mask=inside, other=0.0).to(tl.float32)
            open_t = 1.0 / (1.0 + _exp2(z_t * -LOG2E, FAST))
            of_z = dy * open_t * (1.0 + z_t * (1.0 - open_t))
            dy *= z_t * open_t
        if BIAS:
            x += shift
        x = _tie(x, of_d, FAST)
        u_t = _tie(u_t, of_d, FAST)
        dy = _tie(dy, of_d, FAST)
        step, slope = _step(x, c, KIND, DEGREE, FAST)
        if not EVEN_L:
            step = tl.where(time < left, step, 0.0)
        if DELTA_ON_B:
            source = step * u_t
        else:
            source = u_t
        steps = ()
        sources = ()
        dys = ()
        for i in tl.static_range(T):
            steps += (_row(step, time, i),)
            sources += (_row(source, time, i),)
            dys += (_row(dy, time, i),)
        by_source = ()
        by_step = ()
        ys = ()
        next_p = ()
        next_sums = ()
        for r in tl.static_range(R):
            if EVEN and EVEN_L:
                B_t = tl.load(B + r * (LN * V)).to(tl.float32)
                C_t = tl.load(C + r * (LN * V)).to(tl.float32)
            else:
                B_t = tl.load(B + r * (LN * V), mask=there & (time < left), other=0.0).to(tl.float32)
                C_t = tl.load(C + r * (LN * V), mask=there & (time < left), other=0.0).to(tl.float32)
            B_t = _tie(B_t, of_n, FAST)
            C_t = _tie(C_t, of_n, FAST)
            if EVEN:
                h = tl.load(kept + r * (LN * V))
            else:
                h = tl.load(kept + r * (LN * V), mask=here, other=0.0)
            rate = rates[r]
            a = ()
            states = (h,)
            for i in tl.static_range(T):
                a_i = _transition(_argument(steps[i], rate, KIND, DEGREE, LOWEST), KIND, DEGREE, FAST)
                if not EVEN_L:
                    a_i = tl.where(lane * 0 + i < left, a_i, 1.0)
                h = a_i * h + sources[i] * _row(B_t, time, i)
                a += (a_i,)
                states += (h,)
            if GATE:
                new_ys = ()
                for i in tl.static_range(T):
                    y_i = tl.sum(states[i + 1] * _row(C_t, time, i), 1, keep_dims=True)
                    if r > 0:
                        y_i += ys[i]
                    new_ys += (y_i,)
                ys = new_ys
            carried = p[r]
            dA_r = sums[r]
            dB_rows = ()
            dC_rows = ()
            new_by_source = ()
            new_by_step = ()
            for j in tl.static_range(T):
                g = carried + _row(C_t, time, T - 1 - j) * dys[T - 1 - j]
                carried = a[T - 1 - j] * g
                if KIND == "exact":
                    dv = carried * states[T - 1 - j]
                elif DEGREE <= 1:
                    dv = g * states[T - 1 - j]
                else:
                    w = _argument(steps[T - 1 - j], rate, KIND, DEGREE, LOWEST)
                    dv = g * states[T - 1 - j] * _slope(w, DEGREE)
                if LOWEST < 0:
                    dv = _within(steps[T - 1 - j], rate, dv, KIND, DEGREE, LOWEST)
                dA_r += dv * steps[T - 1 - j]
                of_source = tl.sum(g * _row(B_t, time, T - 1 - j), 1, keep_dims=True)
                of_step = tl.sum(dv * rate, 1, keep_dims=True)
                if r > 0:
                    of_source += by_source[j]
                    of_step += by_step[j]
                new_by_source += (of_source,)
                new_by_step += (of_step,)
                dB_rows += (g * sources[T - 1 - j],)
                dC_rows += (states[T - j] * dys[T - 1 - j],)
            by_source = new_by_source
            by_step = new_by_step
            next_p += (carried,)
            next_sums += (dA_r,)
            _store_sums(dB_rows, dB + r * (LN * V), lane, v, left, there, N, T, V, LD)
            _store_sums(dC_rows, dC + r * (LN * V), lane, v, left, there, N, T, V, LD)
        p = next_p
        sums = next_sums
        dsource = tl.zeros([T, 1, LD, 1, LB], tl.float32)
        dstep = tl.zeros([T, 1, LD, 1, LB], tl.float32)
        for j in tl.static_range(T):
            dsource = tl.where(time == T - 1 - j, tl.sum(by_source[j], 3, keep_dims=True), dsource)
            dstep = tl.where(time == T - 1 - j, tl.sum(by_step[j], 3, keep_dims=True), dstep)
        if GATE:
            y_t = tl.zeros([T, 1, LD, 1, LB], tl.float32)
            for i in tl.static_range(T):
                y_t = tl.where(time == i, tl.sum(ys[i], 3, keep_dims=True), y_t)
            if SKIP:
                y_t += factor * u_t
            if EVEN and EVEN_L:
                tl.store(dz, (of_z * y_t).to(dz.dtype.element_ty))
            else:
                tl.store(dz, (of_z * y_t).to(dz.dtype.element_ty), mask=inside)
        dstep *= _gain(KIND, DEGREE) / _scale(KIND, DEGREE)
        if DELTA_ON_B:
            dstep += dsource * u_t
            du_t = dsource * step
        else:
            du_t = dsource
        if SKIP:
            du_t += dy * factor
            sum_skip += tl.sum(dy * u_t, 0, keep_dims=True)
        ddelta_t = dstep * slope
        if not EVEN_L:
            ddelta_t = tl.where(time < left, ddelta_t, 0.0)
        if BIAS:
            sum_bias += tl.sum(ddelta_t, 0, keep_dims=True)
        if EVEN and EVEN_L:
            tl.store(du, du_t.to(du.dtype.element_ty))
            tl.store(ddelta, ddelta_t.to(ddelta.dtype.element_ty))
        else:
            tl.store(du, du_t.to(du.dtype.element_ty), mask=here & (time < left))
            tl.store(ddelta, ddelta_t.to(ddelta.dtype.element_ty), mask=here & (time < left))
        u -= T * D
        delta -= T * D
        grad_y -= T * D
        du -= T * D
        ddelta -= T * D
        if GATE:
            z -= T * D
            dz -= T * D
        B -= T * N
        C -= T * N
        dB -= T * N
        dC -= T * N
        kept -= per_tile
    inside = here
    if JOINT:  # the sequences of a program are of one model, so their sums are one
        s = (tl.program_id(0) // blocks).to(tl.int64)
        inside = d < D
    of_state = (s * D + d) * N + n
    for r in tl.static_range(R):
        if STATE:
            tl.store(dstate + of_first_state + r * (LN * V), p[r], mask=here)
        dA_r = sums[r] * _gain(KIND, DEGREE)
        if JOINT:
            dA_r = tl.sum(dA_r, 4, keep_dims=True)
        tl.store(dA + of_state + r * (LN * V), dA_r, mask=inside)
    if JOINT:
        sum_skip = tl.sum(sum_skip, 4, keep_dims=True)
        sum_bias = tl.sum(sum_bias, 4, keep_dims=True)
    if SKIP:
        tl.store(dskip + s * D + d, sum_skip, mask=inside)
    if BIAS:
        tl.store(dbias + s * D + d, sum_bias, mask=inside)

"""The backward kernel of the selective scan; the axes of its tiles are those of the package's docstring."""

from __future__ import annotations

import triton
import triton.language as tl

from expbench.ops.selective.triton_kernels.elementwise import (
    argument,
    discretise,
    gain,
    scale,
    sigmoid,
    slope_of,
    transition,
    within,
)
from expbench.ops.selective.triton_kernels.lanes import (
    fold,
    gathered,
    load_rows,
    over,
    row,
    spread,
    store_sums,
    stride_of_channels,
    stride_of_states,
    tie,
)


@triton.jit
def backward_kernel(
    u, delta, A, B, C, skip, z, bias, coefficients, checkpoints, grad_y, grad_last,
    du, ddelta, dz, dA, dB, dC, dskip, dbias, dstate,
    sequences, batch, L, D, blocks,
    N: tl.constexpr, T: tl.constexpr, V: tl.constexpr, LN: tl.constexpr, LD: tl.constexpr, LB: tl.constexpr, TURNS: tl.constexpr,
    KIND: tl.constexpr, DEGREE: tl.constexpr, LOWEST: tl.constexpr, DELTA_ON_B: tl.constexpr,
    SKIP: tl.constexpr, GATE: tl.constexpr, BIAS: tl.constexpr, STATE: tl.constexpr, LAST: tl.constexpr, JOINT: tl.constexpr,
    EVEN: tl.constexpr, EVEN_L: tl.constexpr, FAST: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Compute all gradients from the last tile to the first: recompute a tile's states, then run its adjoint recurrence.

    g_t = C_t grad_t + p_{t+1} and p_t = a_t g_t, so p carries the adjoint from step to step. dB and dC hold one partial
    sum per block of channels, (blocks, S batch, L, N). dA, dskip and dbias hold one per sequence, or one per LB sequences
    if JOINT, which requires that the LB sequences belong to one model. A thread processes TURNS channels one after the
    other and adds them up before lanes exchange sums. Work that is needed once per channel and step is divided among the
    LN lanes of the channel.
    """
    SHARE: tl.constexpr = min(LN, T)
    CHANNELS: tl.constexpr = stride_of_channels(LN, LB, FAST)
    STATES: tl.constexpr = stride_of_states(LD, LB, FAST)
    block = tl.program_id(0) % blocks
    time = tl.arange(0, T)[:, None, None, None, None, None]
    v = tl.arange(0, V)[None, :, None, None, None, None]
    ln = tl.arange(0, LN)[None, None, None, :, None, None]
    n = ln * V + v
    own_time = tl.arange(0, T // SHARE)[:, None, None, None, None, None] * SHARE + ln % SHARE
    lane = tl.arange(0, LD)[None, None, :, None, None, None]
    d = block * (LD * TURNS) + lane
    # 64-bit: offsets s L D and s D N may exceed 2^31
    s = (tl.program_id(0) // blocks).to(tl.int64) * LB + tl.arange(0, LB)[None, None, None, None, :, None]
    model = s // batch
    there = s < sequences
    of_channel = model * D + d
    of_first_state = (s * D + d) * N + n
    rates = ()
    p = ()
    sums = ()
    factors = ()
    shifts = ()
    cs = ()
    sums_skip = ()
    sums_bias = ()
    for r in tl.static_range(TURNS):
        here = (d + r * LD < D) & there
        if EVEN:
            rate = tl.load(A + of_channel * N + n + r * LD * N)
        else:
            rate = tl.load(A + of_channel * N + n + r * LD * N, mask=here, other=0.0)
        rates += (rate * scale(KIND, DEGREE),)
        if LAST:
            p += (tl.load(grad_last + of_first_state + r * LD * N, mask=here, other=0.0),)
        else:
            p += (tl.zeros([1, V, LD, LN, LB, 1], tl.float32),)
        if SKIP:
            factors += (tl.load(skip + of_channel + r * LD, mask=here, other=0.0),)
        if BIAS:
            shifts += (tl.load(bias + of_channel + r * LD, mask=here, other=0.0),)
        c = ()
        if KIND == "taylor":
            for k in tl.static_range(DEGREE + 1):
                c += (tl.load(coefficients + (model * (DEGREE + 1) + k) * D + d + r * LD, mask=here, other=0.0),)
        cs += (c,)
        sums += (tl.zeros([1, V, LD, LN, LB, 1], tl.float32),)
        sums_skip += (tl.zeros([1, 1, LD, LN, LB, 1], tl.float32),)
        sums_bias += (tl.zeros([1, 1, LD, LN, LB, 1], tl.float32),)
    # anchors of `tie`: sums of A keep its layout, with the axes of a channel (of_d) and of a state (of_n)
    of_d = tl.sum(rates[0], 1, keep_dims=True)
    of_n = over(rates[0], 2, 4, 0)
    tiles = (L + T - 1) // T
    start = (tiles - 1) * T
    at = (s * L + start + own_time) * D + d
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
    of_sums = ((block * sequences.to(tl.int64) + s) * L + start) * N + ln * V
    dB += of_sums
    dC += of_sums
    per_tile = sequences.to(tl.int64) * D * N
    kept = checkpoints + (tiles - 1) * per_tile + of_first_state
    for tile in tl.range(0, tiles, num_stages=STAGES):
        left = L - start + tile * T
        if KIND == "taylor":  # loaded once for all TURNS; the other kinds load below, to save registers
            B_t = load_rows(B, there & (time < left), of_n, EVEN and EVEN_L, FAST)
            C_t = load_rows(C, there & (time < left), of_n, EVEN and EVEN_L, FAST)
        all_dB = ()
        all_dC = ()
        next_p = ()
        next_sums = ()
        next_skip = ()
        next_bias = ()
        for r in tl.static_range(TURNS):
            here = (d + r * LD < D) & there
            inside = here & (own_time < left)
            if EVEN and EVEN_L:
                u_t = tl.load(u + r * LD).to(tl.float32)
                x = tl.load(delta + r * LD).to(tl.float32)
                dy = tl.load(grad_y + r * LD).to(tl.float32)
            else:
                u_t = tl.load(u + r * LD, mask=inside, other=0.0).to(tl.float32)
                x = tl.load(delta + r * LD, mask=inside, other=0.0).to(tl.float32)
                dy = tl.load(grad_y + r * LD, mask=inside, other=0.0).to(tl.float32)
            if GATE:
                if EVEN and EVEN_L:
                    z_t = tl.load(z + r * LD).to(tl.float32)
                else:
                    z_t = tl.load(z + r * LD, mask=inside, other=0.0).to(tl.float32)
                z_t = tie(z_t, of_d, FAST)
                open_t = sigmoid(z_t, FAST)
                of_z = dy * open_t * (1.0 + z_t * (1.0 - open_t))
                dy *= z_t * open_t
            if BIAS:
                x += shifts[r]
            x = tie(x, of_d, FAST)
            u_t = tie(u_t, of_d, FAST)
            dy = tie(dy, of_d, FAST)
            step, slope = discretise(x, cs[r], KIND, DEGREE, FAST)
            if not EVEN_L:  # Delta of a masked argument is not 0, and these steps must not add to dA
                step = tl.where(own_time < left, step, 0.0)
            if DELTA_ON_B:
                source = step * u_t
            else:
                source = u_t
            steps = spread(step, ln, T, SHARE, STATES, FAST)
            sources = spread(source, ln, T, SHARE, STATES, FAST)
            dys = spread(dy, ln, T, SHARE, STATES, FAST)
            if EVEN:
                h = tl.load(kept + r * LD * N)
            else:
                h = tl.load(kept + r * LD * N, mask=here, other=0.0)
            if KIND != "taylor":  # loaded again for each channel, because holding B and C would need too many registers
                B_t = load_rows(B, there & (time < left), of_n, EVEN and EVEN_L, FAST)
                C_t = load_rows(C, there & (time < left), of_n, EVEN and EVEN_L, FAST)
            rate = rates[r]
            a = ()
            states = (h,)
            for i in tl.static_range(T):
                a_i = transition(argument(steps[i], rate, KIND, DEGREE, LOWEST), KIND, DEGREE, FAST)
                if not EVEN_L:  # steps beyond the end pass state and adjoint on unchanged
                    a_i = tl.where(lane * 0 + i < left, a_i, 1.0)
                h = a_i * h + sources[i] * row(B_t, time, i)
                a += (a_i,)
                states += (h,)
            carried = p[r]
            dA_r = sums[r]
            dB_r = ()
            dC_r = ()
            by_source = ()
            by_step = ()
            ys = ()
            for i in tl.static_range(T - 1, -1, -1):
                C_i = row(C_t, time, i)
                g = carried + C_i * dys[i]
                carried = a[i] * g
                if KIND == "exact":
                    dv = carried * states[i]
                elif DEGREE <= 1:
                    dv = g * states[i]
                else:
                    dv = g * states[i] * slope_of(argument(steps[i], rate, KIND, DEGREE, LOWEST), DEGREE)
                if LOWEST < 0:
                    dv = within(steps[i], rate, dv, KIND, DEGREE, LOWEST)
                dA_r += dv * steps[i]
                by_source = (tl.sum(g * row(B_t, time, i), 1, keep_dims=True),) + by_source
                by_step = (tl.sum(dv * rate, 1, keep_dims=True),) + by_step
                if GATE:
                    ys = (tl.sum(states[i + 1] * C_i, 1, keep_dims=True),) + ys
                dB_r = (g * sources[i],) + dB_r
                dC_r = (states[i + 1] * dys[i],) + dC_r
            dB_r = fold(dB_r, lane, LD, CHANNELS, FAST)
            dC_r = fold(dC_r, lane, LD, CHANNELS, FAST)
            next_p += (carried,)
            next_sums += (dA_r,)
            if r == 0:
                all_dB = dB_r
                all_dC = dC_r
            else:
                sum_B = ()
                sum_C = ()
                for i in tl.static_range(len(dB_r)):
                    sum_B += (all_dB[i] + dB_r[i],)
                    sum_C += (all_dC[i] + dC_r[i],)
                all_dB = sum_B
                all_dC = sum_C
            dsource = gathered(by_source, ln, T, SHARE, LN, STATES, FAST)
            dstep = gathered(by_step, ln, T, SHARE, LN, STATES, FAST)
            if GATE:
                y_t = gathered(ys, ln, T, SHARE, LN, STATES, FAST)
                if SKIP:
                    y_t += factors[r] * u_t
                if EVEN and EVEN_L:
                    tl.store(dz + r * LD, (of_z * y_t).to(dz.dtype.element_ty))
                else:
                    tl.store(dz + r * LD, (of_z * y_t).to(dz.dtype.element_ty), mask=inside)
            dstep *= gain(KIND, DEGREE) / scale(KIND, DEGREE)
            if DELTA_ON_B:
                dstep += dsource * u_t
                du_t = dsource * step
            else:
                du_t = dsource
            if SKIP:
                du_t += dy * factors[r]
                next_skip += (sums_skip[r] + tl.sum(dy * u_t, 0, keep_dims=True),)
            else:
                next_skip += (sums_skip[r],)
            ddelta_t = dstep * slope
            if not EVEN_L:  # the sum for dbias below must not count steps beyond the end
                ddelta_t = tl.where(own_time < left, ddelta_t, 0.0)
            if BIAS:
                next_bias += (sums_bias[r] + tl.sum(ddelta_t, 0, keep_dims=True),)
            else:
                next_bias += (sums_bias[r],)
            if EVEN and EVEN_L:
                tl.store(du + r * LD, du_t.to(du.dtype.element_ty))
                tl.store(ddelta + r * LD, ddelta_t.to(ddelta.dtype.element_ty))
            else:
                tl.store(du + r * LD, du_t.to(du.dtype.element_ty), mask=inside)
                tl.store(ddelta + r * LD, ddelta_t.to(ddelta.dtype.element_ty), mask=inside)
        store_sums(all_dB, dB, lane, v, left, there, N, T, V, LD, CHANNELS, FAST)
        store_sums(all_dC, dC, lane, v, left, there, N, T, V, LD, CHANNELS, FAST)
        p = next_p
        sums = next_sums
        sums_skip = next_skip
        sums_bias = next_bias
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
    if JOINT:  # the program's sequences belong to one model, so the program writes a single sum for them
        s = (tl.program_id(0) // blocks).to(tl.int64)
    of_channel = s * D + d
    for r in tl.static_range(TURNS):
        inside = (d + r * LD < D) & there
        if STATE:
            tl.store(dstate + of_first_state + r * LD * N, p[r], mask=inside)
        dA_r = sums[r] * gain(KIND, DEGREE)
        # groups of SHARE lanes hold the same steps if LN > T, so a sum over all lanes counts each step LN / SHARE times
        sum_skip = tl.sum(sums_skip[r], 3, keep_dims=True) * (SHARE / LN)
        sum_bias = tl.sum(sums_bias[r], 3, keep_dims=True) * (SHARE / LN)
        if JOINT:
            inside = d + r * LD < D
            dA_r = tl.sum(dA_r, 4, keep_dims=True)
            sum_skip = tl.sum(sum_skip, 4, keep_dims=True)
            sum_bias = tl.sum(sum_bias, 4, keep_dims=True)
        tl.store(dA + of_channel * N + n + r * LD * N, dA_r, mask=inside)
        if SKIP:
            tl.store(dskip + of_channel + r * LD, sum_skip, mask=inside)
        if BIAS:
            tl.store(dbias + of_channel + r * LD, sum_bias, mask=inside)

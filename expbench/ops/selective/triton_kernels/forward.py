"""The forward kernel of the selective scan; the axes of its tiles are those of the package's docstring."""

from __future__ import annotations

import triton
import triton.language as tl

from expbench.ops.selective.triton_kernels.elementwise import argument, discretise, scale, sigmoid, transition
from expbench.ops.selective.triton_kernels.lanes import gathered, load_rows, over, row, spread, stride_of_states, tie


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
    """Compute y (S, batch, L, D), the last state (S, batch, D, N) and, with KEEP, checkpoints before every KEEP-th step.

    checkpoints: (L / KEEP rounded up, S, batch, D, N). `sequences` is S batch, and `blocks` of channels cover D. All
    arithmetic is in float32. EVEN, EVEN_L: whether tiles cover channels and sequences, and steps, exactly, so that loads
    need no mask.
    """
    SHARE: tl.constexpr = min(LN, T)
    STATES: tl.constexpr = stride_of_states(LD, LB, FAST)
    block = tl.program_id(0) % blocks
    time = tl.arange(0, T)[:, None, None, None, None, None]
    ln = tl.arange(0, LN)[None, None, None, :, None, None]
    own_time = tl.arange(0, T // SHARE)[:, None, None, None, None, None] * SHARE + ln % SHARE
    n = ln * V + tl.arange(0, V)[None, :, None, None, None, None]
    n += tl.arange(0, R)[None, None, None, None, None, :] * (LN * V)
    d = block * LD + tl.arange(0, LD)[None, None, :, None, None, None]
    # 64-bit: offsets s L D and s D N may exceed 2^31
    s = (tl.program_id(0) // blocks).to(tl.int64) * LB + tl.arange(0, LB)[None, None, None, None, :, None]
    model = s // batch
    here = (d < D) & (s < sequences)
    there = s < sequences
    if EVEN:
        rate = tl.load(A + model * (D * N) + d * N + n)
    else:
        rate = tl.load(A + model * (D * N) + d * N + n, mask=here, other=0.0)
    rate *= scale(KIND, DEGREE)
    # anchors of `tie`: sums of A keep its layout, with the axes of a channel (of_d) and of a state (of_n)
    of_d = tl.sum(tl.sum(rate, 5, keep_dims=True), 1, keep_dims=True)
    of_n = over(rate, 2, 4, 0)
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
    at = (s * L + own_time) * D + d
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
        else:
            inside = here & (own_time < L - t)
            u_t = tl.load(u, mask=inside, other=0.0).to(tl.float32)
            x = tl.load(delta, mask=inside, other=0.0).to(tl.float32)
        if BIAS:
            x += shift
        x = tie(x, of_d, FAST)
        u_t = tie(u_t, of_d, FAST)
        B_t = load_rows(B, there & (time < L - t), of_n, EVEN and EVEN_L, FAST)
        C_t = load_rows(C, there & (time < L - t), of_n, EVEN and EVEN_L, FAST)
        step, _ = discretise(x, c, KIND, DEGREE, FAST)
        if DELTA_ON_B:
            source = step * u_t
        else:
            source = u_t
        steps = spread(step, ln, T, SHARE, STATES, FAST)
        sources = spread(source, ln, T, SHARE, STATES, FAST)
        ys = ()
        for i in tl.static_range(T):
            if KEEP > 0:
                if i % KEEP == 0:
                    if EVEN and EVEN_L:
                        tl.store(kept, h)
                    else:
                        tl.store(kept, h, mask=here & (d * 0 + (t + i) < L))
                    kept += sequences.to(tl.int64) * D * N
            a = transition(argument(steps[i], rate, KIND, DEGREE, LOWEST), KIND, DEGREE, FAST)
            if not EVEN_L:  # steps beyond the end keep the state (their u and B are 0), so that `last` is right
                a = tl.where(d * 0 + i < L - t, a, 1.0)  # d * 0 gives the condition a layout
            h = a * h + sources[i] * row(B_t, time, i)
            ys += (tl.sum(tl.sum(h * row(C_t, time, i), 1, keep_dims=True), 5, keep_dims=True),)
        y_t = gathered(ys, ln, T, SHARE, LN, STATES, FAST)
        if SKIP:
            y_t += factor * u_t
        if EVEN and EVEN_L:
            if GATE:
                z_t = tl.load(z).to(tl.float32)
                y_t *= z_t * sigmoid(z_t, FAST)
            tl.store(y, y_t.to(y.dtype.element_ty))
        else:
            inside = here & (own_time < L - t)
            if GATE:
                z_t = tl.load(z, mask=inside, other=0.0).to(tl.float32)
                y_t *= z_t * sigmoid(z_t, FAST)
            tl.store(y, y_t.to(y.dtype.element_ty), mask=inside)
        u += T * D
        delta += T * D
        y += T * D
        if GATE:
            z += T * D
        B += T * N
        C += T * N
    tl.store(last + of_state, h, mask=here)

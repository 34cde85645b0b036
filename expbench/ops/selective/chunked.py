"""The selective scan in plain PyTorch, fast on a CPU and right on every device: the backend ``torch``.

A lane is one sequence of one model. The P = S B lanes are innermost in memory: broadcasts run over whole rows, and many tiny
models cost what one large batch does. Lanes are cut into tiles and steps into chunks of n, so that the states (n, N, D, P)
of a chunk stay in the cache. From pass to pass only the states before each chunk are kept; `backward` finds those within it
again. Time runs by `scan.in_place`: a transition may be zero, negative or beyond 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.ops import scan
from expbench.ops.selective.problem import Form, Gradients, Inputs, Outputs
from expbench.ops.taylor import horner

# Numbers in the states of a chunk (1 MB of float32) and of one step. More leave the cache; with fewer, the 2 us that every
# call of torch's takes are felt. A GPU needs so many times more numbers a call.
_CHUNK, _STEP, _CUDA = 1 << 18, 1 << 13, 1 << 6
_LANES, _STEPS = 64, 16  # at least: rows that are long enough for vectors, and states kept of no more than every 16th step
_LOG2E = 1 / math.log(2)


def absent() -> str | None:
    """None: it works everywhere."""
    return None


def unsupported(inputs: Inputs, form: Form) -> str | None:
    """None: it solves every problem."""
    return None


def saved_shapes(inputs: Inputs, form: Form) -> tuple[Sequence[int], Sequence[int]]:
    """y before the gate; the states before each chunk (chunks, N, D, P), of a single one a and all (2, L + 1, N, D, P)."""
    return (0,) if inputs.z is None else inputs.u.shape, _Size.of(inputs).checkpoints


def forward(inputs: Inputs, form: Form, keep: bool) -> Outputs:
    """The outputs, raw in the dtype of u; checkpoints only with `keep`."""
    size = _Size.of(inputs)
    y = torch.empty_like(inputs.u, memory_format=torch.contiguous_format)
    raw = y.new_empty(0 if inputs.z is None else y.shape)
    kept = inputs.A.new_empty(size.checkpoints if keep else 0)
    state = inputs.A.new_zeros(size.N, size.D, size.P)
    with torch.inference_mode():  # a call takes three quarters of the time
        if inputs.state is not None:
            state.copy_(inputs.state.flatten(0, 1).permute(2, 1, 0))
        if keep and size.whole:
            kept[0, 0].zero_()  # there is no a before the first step: what was in memory must not get out
        shared = _Shared.of(inputs, state)
        writes = [y] if inputs.z is None else [y, raw]
        for lanes, i, chunk, tensors, parts in _walk(size, _sequences(inputs), writes, state, kept if keep else None):
            here = shared.among(lanes)
            chunk.start.copy_(here.state)
            if keep and not size.whole:
                kept[i, ..., lanes] = here.state
            _write(parts, _solve(chunk, tensors, form, here))
            here.state.copy_(chunk.end)
    return Outputs(y, size.by_sequence(state), raw, kept)


def backward(
    grad_y: Tensor, grad_last: Tensor | None, inputs: Inputs, form: Form, raw: Tensor, checkpoints: Tensor
) -> Gradients:
    """The gradients of the inputs, from those of y (S, B, L, D) and of the last state (S, B, D, N)."""
    size = _Size.of(inputs)
    sequences = _sequences(inputs)
    grads = [torch.empty_like(x, memory_format=torch.contiguous_format) for x in sequences]
    sums = _Shared.zeros(inputs, size)
    with torch.inference_mode():
        if grad_last is not None:
            sums.state.copy_(grad_last.flatten(0, 1).permute(2, 1, 0))
        shared = _Shared.of(inputs, sums.state)
        reads = [grad_y, *sequences] if inputs.z is None else [grad_y, *sequences, raw]
        for lanes, i, chunk, tensors, parts in _walk(size, reads, grads, sums.state, checkpoints, backwards=True):
            if not size.whole:
                chunk.start.copy_(checkpoints[i, ..., lanes])
            here, growing = shared.among(lanes), sums.among(lanes)
            _write(parts, _differentiate(chunk, tensors, form, here, growing, solved=size.whole))
    u, delta, B, C, *z = grads
    skip, bias = (None if x is None else size.by_model(x) for x in (sums.skip, sums.bias))
    state = None if inputs.state is None else size.by_sequence(sums.state)
    return Gradients(u, delta, size.by_model(sums.A), B, C, skip, z[0] if z else None, bias, state)


def _sequences(inputs: Inputs) -> list[Tensor]:
    return [x for x in (inputs.u, inputs.delta, inputs.B, inputs.C, inputs.z) if x is not None]


class _Size(NamedTuple):
    """The sizes of a problem, and of its tiles and chunks: how many lanes and steps."""

    S: int
    B: int
    L: int
    D: int
    N: int
    lanes: int
    steps: int

    @classmethod
    def of(cls, inputs: Inputs) -> _Size:
        (S, B, L, D), N = inputs.u.shape, inputs.A.shape[-1]
        more = _CUDA if inputs.u.is_cuda else 1
        lanes = _evenly(S * B, max(_LANES, _STEP * more // (D * N)))
        return cls(S, B, L, D, N, lanes, _evenly(L, max(_STEPS, _CHUNK * more // (lanes * D * N))))

    @property
    def P(self) -> int:
        """The number of lanes."""
        return self.S * self.B

    @property
    def chunks(self) -> int:
        """How many follow each other."""
        return -(-self.L // self.steps)

    @property
    def whole(self) -> bool:
        """Whether one chunk is all."""
        return self.lanes == self.P and self.steps == self.L

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Their shape."""
        first = (2, self.L + 1) if self.whole else (self.chunks,)
        return *first, self.N, self.D, self.P

    def tiles(self) -> list[slice]:
        """The lanes of each tile."""
        return [slice(first, first + self.lanes) for first in range(0, self.P, self.lanes)]

    def by_sequence(self, x: Tensor) -> Tensor:
        """(N, D, P) as (S, B, D, N)."""
        return x.view(self.N, self.D, self.S, self.B).permute(2, 3, 1, 0)

    def by_model(self, x: Tensor) -> Tensor:
        """(..., P), summed over the lanes of a model, as (S, ...) with its axes in reverse."""
        return x.view(*x.shape[:-1], self.S, self.B).sum(-1).permute(*reversed(range(x.ndim)))


def _evenly(total: int, most: int) -> int:
    """The size of parts, as equal as can be, of which none is larger than `most`."""
    parts = -(-total // most)
    return -(-total // parts)


class _Shared(NamedTuple):
    """What the steps of a lane share, or the gradients of it, which grow from the last step to the first."""

    A: Tensor  # (N, D, P)
    state: Tensor  # (N, D, P), the present one: it is overwritten
    skip: Tensor | None = None  # (D, P)
    bias: Tensor | None = None  # (D, P)
    coefficients: Sequence[Tensor] = ()  # each (D, P)

    @classmethod
    def of(cls, inputs: Inputs, state: Tensor) -> _Shared:
        S, B = inputs.u.shape[:2]

        def spread(x: Tensor) -> Tensor:  # (..., S), a number a model, to (..., P)
            return x.expand(*x.shape[:-1], B) if S == 1 else x.repeat_interleave(B, -1)

        skip, bias = (None if x is None else spread(x.t()) for x in (inputs.skip, inputs.bias))
        coefficients = () if inputs.coefficients is None else [spread(x.t()) for x in inputs.coefficients.unbind(1)]
        return cls(spread(inputs.A.permute(2, 1, 0)), state, skip, bias, coefficients)

    @classmethod
    def zeros(cls, inputs: Inputs, size: _Size) -> _Shared:
        A, state = (inputs.A.new_zeros(size.N, size.D, size.P) for _ in range(2))
        skip, bias = (None if x is None else x.new_zeros(size.D, size.P) for x in (inputs.skip, inputs.bias))
        return cls(A, state, skip, bias)

    def among(self, lanes: slice) -> _Shared:
        """Those of some lanes, in the same memory."""
        if lanes.stop == self.A.shape[-1] and not lanes.start:
            return self
        skip, bias = (None if x is None else x[:, lanes] for x in (self.skip, self.bias))
        return _Shared(self.A[..., lanes], self.state[..., lanes], skip, bias, [x[:, lanes] for x in self.coefficients])


def _walk(
    size: _Size,
    reads: Sequence[Tensor],
    writes: Sequence[Tensor],
    like: Tensor,
    kept: Tensor | None,
    *,
    backwards: bool = False,
) -> Iterator[tuple[slice, int, _Chunk, list[Tensor], list[Tensor]]]:
    """Each chunk of each tile: its lanes, the number of the chunk, memory, tensors read, and parts (..., n, width) to write.

    Sequences are (S, B, L, ...). like: has the state's dtype. kept: the checkpoints, the memory of a problem of one chunk.
    """
    if size.whole:
        states = like.new_empty(size.checkpoints) if kept is None else kept
        yield slice(size.P), 0, _Chunk(states), [_read(x, size.P, like.dtype) for x in reads], list(writes)
        return
    memory: dict[tuple[int, int], _Chunk] = {}
    sources, targets = ([x.flatten(0, 1) for x in xs] for xs in (reads, writes))
    for lanes in size.tiles():
        given, asked = ([x[lanes].chunk(size.chunks, 1) for x in xs] for xs in (sources, targets))
        for i in range(size.chunks)[:: -1 if backwards else 1]:
            P, n, _ = given[0][i].shape
            if (P, n) not in memory:
                memory[P, n] = _Chunk(like.new_empty(2, n + 1, size.N, size.D, P))
            yield lanes, i, memory[P, n], [_read(x[i], P, like.dtype) for x in given], [x[i] for x in asked]


def _read(part: Tensor, P: int, dtype: torch.dtype) -> Tensor:
    """(..., n, width) of P lanes as (n, width, P), perhaps in the same memory.

    In two moves, each along rows of memory: one would go across, in strides of L, which is too often a power of 2.
    """
    return part.reshape(P, -1).to(dtype).contiguous().t().contiguous().view(*part.shape[-2:], P)


def _write(parts: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Put each (n, width, P) into a part (..., n, width)."""
    for part, x in zip(parts, found, strict=True):
        part.copy_(x.flatten(0, 1).t().contiguous().view(part.shape))


class _Chunk:
    """Memory for the states of n steps, with the views that a pass needs: to make one takes half as long as a small call.

    a, h (n, N, D, P): transitions and states. start, end (N, D, P): the state before the first step and after the last.
    """

    def __init__(self, states: Tensor) -> None:
        self._a, self._h = states.unbind(0)
        self.a, self.h, self.start, self.end = self._a[1:], self._h[1:], self._h[0], self._h[-1]

    @cached_property
    def before(self) -> Tensor:
        """As h: the states a step earlier."""
        return self._h[:-1]

    @cached_property
    def work(self) -> Tensor:
        """As h, for anything."""
        return torch.empty_like(self.h)

    @cached_property
    def slope(self) -> Tensor:
        """As h. a is not to be overwritten by it: it may be a checkpoint."""
        return torch.empty_like(self.h)

    @cached_property
    def adjoint(self) -> Tensor:
        """(n + 1, N, D, P), of start and the states."""
        return torch.empty_like(self._h)

    @cached_property
    def scan(self) -> Callable[[], None]:
        """Make of h the states, where it holds start and the inputs of the steps."""
        return scan.in_place(self._a, self._h)

    @cached_property
    def scan_back(self) -> Callable[[], None]:
        """Make of the adjoint the gradients of start and the states, where it holds what reaches them from outputs."""
        return scan.in_place(self._a, self.adjoint, reverse=True)


def _solve(chunk: _Chunk, tensors: Sequence[Tensor], form: Form, shared: _Shared) -> list[Tensor]:
    """y (n, D, P) and, where there is a gate, raw, from the start and the sequences."""
    u, delta, B, C, *z = tensors
    step = _step(delta if shared.bias is None else delta + shared.bias, form, shared)
    _find_states(chunk, form, shared, step, step * u if form.delta_on_b else u, B)
    raw = torch.mul(chunk.h, C.unsqueeze(2), out=chunk.work).sum(1)
    if shared.skip is not None:
        raw.addcmul_(u, shared.skip)
    return [raw * F.silu(z[0]), raw] if z else [raw]


def _differentiate(
    chunk: _Chunk, tensors: Sequence[Tensor], form: Form, shared: _Shared, sums: _Shared, *, solved: bool
) -> list[Tensor]:
    """The gradients of the sequences, from that of y, the sequences, raw if there is a gate, and that of the end in `sums`.

    What the steps share is added to `sums`. solved: whether the chunk holds a and h, else only the start.
    """
    grad_y, u, delta, B, C, *gate = tensors
    r = delta if shared.bias is None else delta + shared.bias
    step = _step(r, form, shared)
    x = step * u if form.delta_on_b else u
    if not solved:
        _find_states(chunk, form, shared, step, x, B)
    grad_z = []
    if gate:
        z, raw = gate
        s = torch.sigmoid(z)
        grad_z = [grad_y * raw * s * (1 + z * (1 - s))]
        grad_y = grad_y * z * s

    adjoint, work = chunk.adjoint, chunk.work
    g = torch.mul(grad_y.unsqueeze(1), C.unsqueeze(2), out=adjoint[1:])
    adjoint[-1].add_(sums.state)
    start = adjoint[0].zero_()
    chunk.scan_back()
    sums.state.copy_(start)

    grad_C = torch.mul(chunk.h, grad_y.unsqueeze(1), out=work).sum(2)
    grad_B = torch.mul(g, x.unsqueeze(1), out=work).sum(2)
    grad_x = torch.mul(g, B.unsqueeze(2), out=work).sum(1)
    grad_v = g.mul_(chunk.before)  # of Delta A, from here on
    _through_transition(grad_v, chunk, form, shared, step)
    sums.A.add_(torch.mul(grad_v, step.unsqueeze(1), out=work).sum(0))
    grad_step = torch.mul(grad_v, shared.A, out=work).sum(1)

    grad_u = grad_x
    if form.delta_on_b:
        grad_step.addcmul_(grad_x, u)
        grad_u = grad_x.mul_(step)
    if shared.skip is not None and sums.skip is not None:
        grad_u.addcmul_(grad_y, shared.skip)
        sums.skip.add_((grad_y * u).sum(0))
    grad_delta = _through_step(grad_step, form, shared, r)
    if sums.bias is not None:
        sums.bias.add_(grad_delta.sum(0))
    return [grad_u, grad_delta, grad_B, grad_C, *grad_z]


def _find_states(chunk: _Chunk, form: Form, shared: _Shared, step: Tensor, x: Tensor, B: Tensor) -> None:
    """a and h from Delta, the input x (n, D, P) of the states and B (n, N, P)."""
    if form.kind == "taylor":
        _exp_taylor(_exponent(chunk, form, shared, step), form.degree, out=chunk.a)
    elif form.kind == "linear":
        torch.mul(step.unsqueeze(1), shared.A, out=chunk.a)
    else:
        torch.mul((step * _LOG2E).unsqueeze(1), shared.A, out=chunk.a).exp2_()  # takes half as long as exp
    torch.mul(x.unsqueeze(1), B.unsqueeze(2), out=chunk.h)
    chunk.scan()


def _through_transition(grad: Tensor, chunk: _Chunk, form: Form, shared: _Shared, step: Tensor) -> None:
    """Make of the gradient (n, N, D, P) of a that of v = Delta A, in place."""
    if form.kind == "taylor":
        if form.lowest < 0:
            v = torch.mul(step.unsqueeze(1), shared.A, out=chunk.work)
            grad.mul_((v >= form.lowest) & (v <= 0))
        grad.mul_(_exp_taylor(_exponent(chunk, form, shared, step), form.degree - 1, out=chunk.slope))
    elif form.kind == "exact":
        grad.mul_(chunk.a)


def _exponent(chunk: _Chunk, form: Form, shared: _Shared, step: Tensor) -> Tensor:
    """v = Delta A (n, N, D, P), clamped, in the chunk's work."""
    v = torch.mul(step.unsqueeze(1), shared.A, out=chunk.work)
    return v.clamp_(form.lowest, 0) if form.lowest < 0 else v


def _exp_taylor(v: Tensor, degree: int, *, out: Tensor) -> Tensor:
    """The Taylor polynomial of exp, 1 + v (1 + v/2 (1 + v/3 ...)), with one pass over memory for each degree."""
    if degree == 0:
        return out.fill_(1)
    one = v.new_ones(())
    torch.add(one, v, alpha=1 / degree, out=out)
    for k in range(degree - 1, 0, -1):
        torch.addcmul(one, v, out, value=1 / k, out=out)
    return out


def _step(r: Tensor, form: Form, shared: _Shared) -> Tensor:
    """Delta from its argument, both (n, D, P)."""
    if form.kind == "taylor":
        return horner(r, list(shared.coefficients))
    return r if form.kind == "linear" else F.softplus(r)


def _through_step(grad: Tensor, form: Form, shared: _Shared, r: Tensor) -> Tensor:
    """The gradient of Delta's argument r, from that of Delta, all (n, D, P)."""
    if form.kind == "taylor":
        return grad.mul_(horner(r, [k * c for k, c in enumerate(shared.coefficients)][1:]))
    return grad if form.kind == "linear" else grad.mul_(torch.sigmoid(r))

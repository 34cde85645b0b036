"""Tiling and memory layout of the backend ``torch``: lanes are innermost and cut into tiles, steps are cut into chunks.

A lane is one sequence of one model. The P = S B lanes are innermost in memory, so broadcasts run over whole rows, and
many tiny models cost as much as one large batch. Lanes are cut into tiles and steps into chunks of n steps, so that the
states (n, N, D, P) of a chunk stay in the cache. Within a tile, P denotes the number of the tile's lanes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from expbench.ops import scan
from expbench.ops.selective.problem import Inputs

# Numbers in the states of a chunk (1 MB of float32) and of one step. Larger chunks leave the cache; in smaller ones, the
# overhead of 2 us per torch call dominates. A GPU needs _CUDA times as many numbers per call.
_CHUNK, _STEP, _CUDA = 1 << 18, 1 << 13, 1 << 6
_LANES, _STEPS = 64, 16  # least sizes: rows long enough for vector instructions, and a checkpoint at most every 16 steps


class Size(NamedTuple):
    """The sizes of a problem, with the number of `lanes` of its tiles and of `steps` of its chunks."""

    S: int
    B: int
    L: int
    D: int
    N: int
    lanes: int
    steps: int

    @classmethod
    def of(cls, inputs: Inputs) -> Size:
        """Choose tiles and chunks for `inputs`: as equal as possible, within the bounds above."""
        (S, B, L, D), N = inputs.u.shape, inputs.A.shape[-1]
        more = _CUDA if inputs.u.is_cuda else 1
        lanes = _evenly(S * B, max(_LANES, _STEP * more // (D * N)))
        return cls(S, B, L, D, N, lanes, _evenly(L, max(_STEPS, _CHUNK * more // (lanes * D * N))))

    @property
    def P(self) -> int:
        """Number of lanes."""
        return self.S * self.B

    @property
    def chunks(self) -> int:
        """Number of chunks."""
        return -(-self.L // self.steps)

    @property
    def whole(self) -> bool:
        """True if a single chunk covers the problem."""
        return self.lanes == self.P and self.steps == self.L

    @property
    def checkpoints(self) -> tuple[int, ...]:
        """Shape of the checkpoints: (chunks, N, D, P), or (2, L + 1, N, D, P) for a and h of a single chunk."""
        first = (2, self.L + 1) if self.whole else (self.chunks,)
        return *first, self.N, self.D, self.P

    def tiles(self) -> list[slice]:
        """Return the lanes of each tile."""
        return [slice(first, first + self.lanes) for first in range(0, self.P, self.lanes)]

    def by_sequence(self, x: Tensor) -> Tensor:
        """View x (N, D, P) as (S, B, D, N)."""
        return x.view(self.N, self.D, self.S, self.B).permute(2, 3, 1, 0)

    def by_model(self, x: Tensor) -> Tensor:
        """Sum x (..., P) over the lanes of each model; return (S, ...) with the other axes in reverse order."""
        return x.view(*x.shape[:-1], self.S, self.B).sum(-1).permute(*reversed(range(x.ndim)))


def _evenly(total: int, most: int) -> int:
    """Return the size of parts that are as equal as possible and no larger than `most`."""
    parts = -(-total // most)
    return -(-total // parts)


def by_lane(x: Tensor) -> Tensor:
    """View x (S, B, D, N) as (N, D, P)."""
    return x.flatten(0, 1).permute(2, 1, 0)


class Shared(NamedTuple):
    """Parameters that the steps of a lane share, or their gradients, which accumulate from the last step to the first."""

    A: Tensor  # (N, D, P)
    skip: Tensor | None  # (D, P)
    bias: Tensor | None  # (D, P)
    coefficients: list[Tensor]  # each (D, P); they have no gradient

    @classmethod
    def of(cls, inputs: Inputs) -> Shared:
        """Repeat the parameters of each model for its lanes."""
        S, B = inputs.u.shape[:2]

        def spread(x: Tensor) -> Tensor:  # (..., S), one number per model, to (..., P)
            return x.expand(*x.shape[:-1], B) if S == 1 else x.repeat_interleave(B, -1)

        skip, bias = (None if x is None else spread(x.t()) for x in (inputs.skip, inputs.bias))
        coefficients = [] if inputs.coefficients is None else [spread(x.t()) for x in inputs.coefficients.unbind(1)]
        return cls(spread(inputs.A.permute(2, 1, 0)), skip, bias, coefficients)

    @classmethod
    def zeros(cls, inputs: Inputs, size: Size) -> Shared:
        """Return zero gradients, for accumulation."""
        skip, bias = (None if x is None else x.new_zeros(size.D, size.P) for x in (inputs.skip, inputs.bias))
        return cls(inputs.A.new_zeros(size.N, size.D, size.P), skip, bias, [])

    def among(self, lanes: slice) -> Shared:
        """Select some lanes, in the same memory."""
        if lanes == slice(0, self.A.shape[-1]):
            return self
        skip, bias = (None if x is None else x[:, lanes] for x in (self.skip, self.bias))
        return Shared(self.A[..., lanes], skip, bias, [x[:, lanes] for x in self.coefficients])


class Chunk:
    """Memory for the states of n steps, with cached views: creating a view takes half as long as a small operation.

    a, h: (n, N, D, P), transitions and states. start, end: (N, D, P), the states before the first and after the last step.
    """

    def __init__(self, states: Tensor) -> None:
        self._a, self._h = states.unbind(0)
        self.a, self.h, self.start, self.end = self._a[1:], self._h[1:], self._h[0], self._h[-1]

    @cached_property
    def before(self) -> Tensor:
        """States (n, N, D, P) before each step."""
        return self._h[:-1]

    @cached_property
    def work(self) -> Tensor:
        """Scratch memory (n, N, D, P)."""
        return torch.empty_like(self.h)

    @cached_property
    def slope(self) -> Tensor:
        """Scratch memory (n, N, D, P) for the slope of a, separate from a, which may be a checkpoint."""
        return torch.empty_like(self.h)

    @cached_property
    def adjoint(self) -> Tensor:
        """Adjoint (n + 1, N, D, P) of start and the states."""
        return torch.empty_like(self._h)

    @cached_property
    def scan(self) -> Callable[[], None]:
        """Function that turns start and the inputs of the steps, both in h, into the states."""
        return scan.in_place(self._a, self._h)

    @cached_property
    def scan_back(self) -> Callable[[], None]:
        """Function that turns the outputs' contributions, in the adjoint, into the gradients of start and the states."""
        return scan.in_place(self._a, self.adjoint, reverse=True)


def walk(
    size: Size,
    reads: Sequence[Tensor],
    writes: Sequence[Tensor],
    like: Tensor,
    kept: Tensor | None,
    *,
    backwards: bool = False,
) -> Iterator[tuple[slice, int, Chunk, list[Tensor], list[Tensor]]]:
    """Yield for each chunk of each tile its lanes, its index, its memory, the sequences read, and the parts to `write`.

    reads, writes: sequences (S, B, L, ...). like: a tensor of the state's dtype. kept: the checkpoints, which are the
    memory of a problem of one chunk. backwards: start with the last chunk.
    """
    if size.whole:
        states = like.new_empty(size.checkpoints) if kept is None else kept
        yield slice(0, size.P), 0, Chunk(states), [_read(x, size.P, like.dtype) for x in reads], list(writes)
        return
    memory: dict[tuple[int, int], Chunk] = {}
    sources, targets = ([x.flatten(0, 1) for x in xs] for xs in (reads, writes))
    for lanes in size.tiles():
        given, asked = ([x[lanes].chunk(size.chunks, 1) for x in xs] for xs in (sources, targets))
        for i in range(size.chunks)[:: -1 if backwards else 1]:
            P, n, _ = given[0][i].shape
            if (P, n) not in memory:
                memory[P, n] = Chunk(like.new_empty(2, n + 1, size.N, size.D, P))
            yield lanes, i, memory[P, n], [_read(x[i], P, like.dtype) for x in given], [x[i] for x in asked]


def _read(part: Tensor, P: int, dtype: torch.dtype) -> Tensor:
    """Return a part (..., n, width) of P lanes as (n, width, P), possibly in the same memory.

    Two copies, each along rows of memory, are faster than one across rows: its stride L is often a power of 2, and then
    accesses collide in the cache.
    """
    return part.reshape(P, -1).to(dtype).contiguous().t().contiguous().view(*part.shape[-2:], P)


def write(parts: Sequence[Tensor], found: Sequence[Tensor]) -> None:
    """Copy each result (n, width, P) into its part (..., n, width)."""
    for part, x in zip(parts, found, strict=True):
        part.copy_(x.flatten(0, 1).t().contiguous().view(part.shape))

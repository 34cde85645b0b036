"""Counter-based uniform numbers in one GPU kernel: bit for bit the same as `CounterRNG.uniform` with torch's operations."""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

_BLOCK = 1024


class Uniform(torch.autograd.Function):
    """Keys (S,), int64 -> float64 in [0, 1), (S, count), from the counters 1 to count. vmap over keys is supported."""

    @staticmethod
    def forward(keys: Tensor, count: int) -> Tensor:
        found = torch.empty(len(keys), count, dtype=torch.float64, device=keys.device)
        _uniform[(-(-count // _BLOCK), len(keys))](keys.contiguous(), found, count, _BLOCK)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.mark_non_differentiable(output)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], keys: Tensor, count: int) -> tuple[Tensor, int]:
        assert in_dims[0] is not None  # torch calls this only with a mapped input
        found: Tensor = Uniform.apply(keys.movedim(in_dims[0], 0).flatten(), count)
        return found.unflatten(0, (info.batch_size, -1)), 0


@triton.jit
def _uniform(KEYS, FOUND, COUNT, BLOCK: tl.constexpr):
    """Apply SplitMix64's finaliser to key + counter x golden ratio; store its upper 53 bits as a number in [0, 1)."""
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    key = tl.load(KEYS + tl.program_id(1)).to(tl.uint64, bitcast=True)
    golden = tl.full([BLOCK], 0x9E3779B97F4A7C15, tl.uint64)
    z = (place + 1).to(tl.uint64) * golden + key
    z = (z ^ (z >> 30)) * tl.full([BLOCK], 0xBF58476D1CE4E5B9, tl.uint64)
    z = (z ^ (z >> 27)) * tl.full([BLOCK], 0x94D049BB133111EB, tl.uint64)
    z = z ^ (z >> 31)
    number = (z >> 11).to(tl.float64) * (1.0 / (1 << 53))  # exact: 53 bits fit, and the factor is a power of two
    tl.store(FOUND + tl.program_id(1).to(tl.int64) * COUNT + place, number, mask=place < COUNT)

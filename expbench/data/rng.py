"""Counter-based random numbers: equal on a CPU and a GPU, drawn one at a time or a million at once.

A `CounterRNG` is a key. Its n-th call with m elements hashes the counters (n, 0..m-1) under that key with the finaliser of
SplitMix64 (Steele, Lea and Flood 2014), in int64 tensor arithmetic, which wraps identically on every device. There is no
generator state: the key (task settings, instance, split, seed, step) suffices to draw the same batch again. A key may be a
tensor, so that `torch.vmap` over the keys of many runs draws all their batches in one operation.
"""

from __future__ import annotations

import hashlib
import importlib.util
import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

_GOLDEN = 0x9E3779B97F4A7C15
_MIX_1 = 0xBF58476D1CE4E5B9
_MIX_2 = 0x94D049BB133111EB
_MASK = (1 << 64) - 1


def mix(number: int) -> int:
    """Apply SplitMix64's finaliser to a 64-bit number; `_mix_tensor` is the same for tensors."""
    z = number & _MASK
    z = ((z ^ (z >> 30)) * _MIX_1) & _MASK
    z = ((z ^ (z >> 27)) * _MIX_2) & _MASK
    return z ^ (z >> 31)


def fold(text: str, *counters: int) -> int:
    """Derive a 64-bit key from a text (through SHA-256) and a chain of counters."""
    key = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
    for counter in counters:
        key = advance(key, counter)
    return key


def advance(key: int, counter: int) -> int:
    """Derive the key that `fold` returns with one more counter."""
    return mix(key + (counter + 1) * _GOLDEN)


def advance_all(keys: Tensor, counter: int | Tensor) -> Tensor:
    """Apply `advance` to an int64 tensor of keys, as `as_tensor` returns it; the counter may be a tensor too."""
    step = (counter + 1) * _signed(_GOLDEN) if isinstance(counter, Tensor) else _signed((counter + 1) * _GOLDEN)
    return _mix_tensor(keys + step)


def as_tensor(keys: Sequence[int], device: torch.device | str = "cpu") -> Tensor:
    """Convert 64-bit keys to an int64 tensor."""
    return torch.tensor([_signed(key) for key in keys], dtype=torch.int64, device=device)


def _signed(number: int) -> int:
    number &= _MASK
    return number - (1 << 64) if number >> 63 else number


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & ((1 << (64 - bits)) - 1)  # torch's shift extends the sign of int64: mask it away


def _mix_tensor(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _signed(_MIX_1)
    z = (z ^ _shift(z, 27)) * _signed(_MIX_2)
    return z ^ _shift(z, 31)


def _one_kernel(key: Tensor) -> bool:
    """Return whether to draw with one Triton kernel: on a GPU, torch's operations are a third of the launches of a step."""
    return key.is_cuda and _triton()


@cache
def _triton() -> bool:
    return importlib.util.find_spec("triton") is not None


class CounterRNG:
    """The random numbers of one key: an int or an int64 tensor without axes (an element of `as_tensor`).

    Each call draws new numbers, so the numbers depend on the order of the calls.
    """

    def __init__(self, key: int | Tensor, device: torch.device | str = "cpu") -> None:
        self._key = key
        self._calls = 0
        self._device = device

    def _base(self) -> int | Tensor:
        """Return the key of the next call."""
        calls, key = self._calls, self._key
        self._calls += 1
        return advance_all(key, calls) if isinstance(key, Tensor) else _signed(advance(key, calls))

    def _bits(self, shape: tuple[int, ...]) -> Tensor:
        counter = torch.arange(1, math.prod(shape) + 1, device=self._device, dtype=torch.int64)
        return _mix_tensor(counter * _signed(_GOLDEN) + self._base()).view(shape)

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Draw float64 numbers of shape `shape`, uniform in [low, high), with 53 bits each."""
        if isinstance(self._key, Tensor) and _one_kernel(self._key):
            from expbench.data.rng_kernel import Uniform

            base = self._base()
            assert isinstance(base, Tensor)
            number: Tensor = Uniform.apply(base[None], math.prod(shape))[0].view(shape)
        else:
            number = _shift(self._bits(shape), 11).double() * 2.0**-53
        return number if (low, high) == (0, 1) else number * (high - low) + low

    def integers(self, *shape: int, n: int) -> Tensor:
        """Draw int64 numbers of shape `shape`, uniform in 0..n-1 (the bias is below n / 2^53)."""
        return torch.clamp((self.uniform(*shape) * n).long(), max=n - 1)

    def coins(self, *shape: int, p: float = 0.5) -> Tensor:
        """Draw Booleans of shape `shape`, each true with probability p."""
        heads: Tensor = self.uniform(*shape) < p
        return heads

    def normal(self, *shape: int) -> Tensor:
        """Draw float64 standard normal numbers of shape `shape`, by the inverse distribution function."""
        numbers: Tensor = torch.special.ndtri(self.uniform(*shape) + 2.0**-54)
        return numbers

    def subset(self, n: int, k: int) -> list[int]:
        """Draw k distinct members of 0..n-1, in ascending order."""
        return sorted(self.permutation(n)[:k])

    def permutation(self, n: int) -> list[int]:
        """Draw a random permutation of 0..n-1."""
        order: list[int] = torch.argsort(self.uniform(n), stable=True).tolist()
        return order

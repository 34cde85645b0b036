"""Residues: exact evaluation of a network with numbers modulo a prime in place of its activations.

A network that is polynomial in its inputs can run on elements of a prime field: its code stays the same, but every addition
and multiplication is modulo the prime. Real constants (weights, 1/L, Taylor coefficients) become residues. Fractions with
small denominators convert exactly. Every other constant maps to an arbitrary but fixed residue, which is as generic as the
original weight; 0 stays 0. Operations other than addition and multiplication (exp, softmax, normalisation, comparison) raise
`NotPolynomial`, which names the operation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from expbench.data.rng import mix
from expbench.errors import BadInput

PRIMES = (2**31 - 1, 2**31 - 19)  # below 2^31, so that a product of two residues fits into int64
_LARGEST_DENOMINATOR = 5040  # 7!, because the Taylor coefficients of exp must convert exactly
_aten = torch.ops.aten


class NotPolynomial(BadInput):
    """Error for an `operation` on activations that is not polynomial."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation} of activations is not polynomial")
        self.operation = operation


class Residues(torch.Tensor):
    """Integers `values` (int64, 0..p-1) that behave as a float64 tensor whose arithmetic is modulo p."""

    values: Tensor  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, values: Tensor) -> Residues:
        made: Residues = torch.Tensor._make_wrapper_subclass(
            cls, values.shape, strides=values.stride(), storage_offset=values.storage_offset(), dtype=torch.float64
        )
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{function} on residues outside `modulo`")  # pragma: no cover

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Residues({self.values})"


@contextmanager
def modulo(p: int) -> Iterator[Callable[[Tensor], Tensor]]:
    """Enable arithmetic modulo the prime p on residues; yield the function that converts integer or real tensors to them."""
    field = _Field(p)
    with torch.no_grad(), field:
        yield field.lifted


class _Field(TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler and calls it around every operation

    def __init__(self, p: int) -> None:
        super().__init__()
        self.p = p

    def lifted(self, x: Any) -> Any:
        """Convert a number or a tensor of numbers to residues; residues are returned unchanged."""
        if isinstance(x, Residues):
            return x
        if isinstance(x, Tensor):
            with _outside():
                if not x.dtype.is_floating_point:
                    return Residues(x.long() % self.p)
                distinct, where = x.double().unique(return_inverse=True)
                values = torch.tensor([self.number(value) for value in distinct.tolist()], dtype=torch.int64)
                return Residues(values[where].reshape(x.shape))
        return Residues(torch.tensor(self.number(float(x))))

    def number(self, value: float) -> int:
        """Return the residue of a real constant."""
        return _residue(value, self.p)

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        packet = function.overloadpacket
        flat = [*args, *kwargs.values(), *(x for a in args if isinstance(a, list | tuple) for x in a)]
        if not any(isinstance(x, Residues) for x in flat):
            made = function(*args, **kwargs)
            if packet in _BUFFERS and made.dtype.is_floating_point:  # layers allocate such tensors to write states into
                return Residues(torch.zeros(made.shape, dtype=torch.int64))
            return made
        out = kwargs.pop("out", None)
        in_place = function._schema.name.endswith("_") and not function._schema.name.endswith("__")
        result = self._computed(function, packet, args, kwargs, in_place)
        if in_place or out is not None:
            target = args[0] if in_place else out
            if not isinstance(target, Residues):
                raise NotPolynomial(f"writing ({packet.__name__}) into a tensor without activations")
            target.values.copy_(result.values)
            return target
        return result

    def _computed(self, function: Any, packet: Any, args: Any, kwargs: Any, in_place: bool) -> Any:
        if packet in _STRUCTURE:
            if packet is _aten.copy_:
                return self.lifted(args[1])
            if packet is _aten.zero_:
                return Residues(torch.zeros_like(args[0].values))
            if packet in (_aten.cat, _aten.stack):
                args = ([self.lifted(x) for x in args[0]], *args[1:])
            if packet is _aten.where:
                args = (args[0], self.lifted(args[1]), self.lifted(args[2]))
            kwargs.pop("dtype", None)
            found = function(*map(_plain, args), **{key: _plain(value) for key, value in kwargs.items()})
            return Residues(found) if isinstance(found, Tensor) else type(found)(map(Residues, found))
        name = packet.__name__.rstrip("_") if in_place else packet.__name__
        rule = getattr(self, f"_{name}", None)
        if rule is None:
            raise NotPolynomial("softmax attention" if name.startswith("_scaled_dot_product") else name.lstrip("_"))
        kwargs.pop("dtype", None)
        return Residues(rule(*args, **kwargs))

    # Rules, found by name: each takes the arguments of the operation and returns values (int64).

    def _values(self, x: Any) -> Tensor:
        values: Tensor = self.lifted(x).values
        return values

    def _add(self, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
        return (self._values(a) + self._values(b) * self.number(float(alpha)) % self.p) % self.p

    def _sub(self, a: Any, b: Any, *, alpha: float = 1) -> Tensor:
        return (self._values(a) - self._values(b) * self.number(float(alpha)) % self.p) % self.p

    def _rsub(self, a: Any, b: Any, alpha: float = 1) -> Tensor:
        return self._sub(b, a, alpha=alpha)

    def _neg(self, a: Any) -> Tensor:
        return -self._values(a) % self.p

    def _mul(self, a: Any, b: Any) -> Tensor:
        return self._values(a) * self._values(b) % self.p

    def _div(self, a: Any, b: Any) -> Tensor:
        if isinstance(b, Residues):
            raise NotPolynomial("the inverse")
        inverse = 1 / b.double() if isinstance(b, Tensor) else 1 / float(b)
        return self._values(a) * self._values(inverse) % self.p

    def _addcmul(self, a: Any, b: Any, c: Any, *, value: float = 1) -> Tensor:
        return (self._values(a) + self._mul(b, c) * self.number(float(value))) % self.p

    def _pow(self, a: Any, exponent: Any) -> Tensor:
        if not isinstance(exponent, int | float) or exponent != int(exponent) or not 0 <= exponent <= 64:
            raise NotPolynomial(f"the power {exponent}")
        result = torch.ones_like(self._values(a))
        for _ in range(int(exponent)):
            result = result * self._values(a) % self.p
        return result

    def _square(self, a: Any) -> Tensor:
        return self._pow(a, 2)

    def _mm(self, a: Any, b: Any) -> Tensor:
        left, right = self._values(a), self._values(b)
        return (left.unsqueeze(-1) * right.unsqueeze(-3) % self.p).sum(-2) % self.p

    _bmm = _matmul = _mm

    def _mv(self, a: Any, b: Any) -> Tensor:
        return (self._values(a) * self._values(b) % self.p).sum(-1) % self.p

    _dot = _mv

    def _addmm(self, a: Any, b: Any, c: Any) -> Tensor:
        return (self._values(a) + self._mm(b, c)) % self.p

    _baddbmm = _addmm

    def _sum(self, a: Any, dim: Any = None, keepdim: bool = False) -> Tensor:
        values = self._values(a)
        return (values.sum() if dim is None else values.sum(dim, keepdim)) % self.p

    def _mean(self, a: Any, dim: Any = None, keepdim: bool = False) -> Tensor:
        total = self._sum(a, dim, keepdim)
        return total * self.number(total.numel() / max(1, self._values(a).numel())) % self.p

    def _cumsum(self, a: Any, dim: int) -> Tensor:
        return self._values(a).cumsum(dim) % self.p

    def _cumprod(self, a: Any, dim: int) -> Tensor:
        steps = list(self._values(a).unbind(dim))
        for i in range(1, len(steps)):
            steps[i] = steps[i] * steps[i - 1] % self.p
        return torch.stack(steps, dim)

    def _prod(self, a: Any, dim: int | None = None, keepdim: bool = False) -> Tensor:
        values = self._values(a)
        values = self._cumprod(a, dim).select(dim, -1) if dim is not None else self._cumprod(a.flatten(), 0)[-1]
        return values.unsqueeze(dim) if keepdim and dim is not None else values


@lru_cache(maxsize=1 << 16)
def _residue(value: float, p: int) -> int:
    if not math.isfinite(value):
        raise NotPolynomial(f"the constant {value}")
    fraction = Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)
    if float(fraction) == value:
        return fraction.numerator * pow(fraction.denominator, -1, p) % p
    # deterministic and odd in value, so that terms that cancel in real arithmetic also cancel here
    return mix(hash(abs(value))) * (1 if value > 0 else -1) % p


def _plain(x: Any) -> Any:
    """Return the argument with residues replaced by their integer values."""
    if isinstance(x, Residues):
        return x.values
    return [_plain(member) for member in x] if isinstance(x, list | tuple) else x


@contextmanager
def _outside() -> Iterator[None]:
    """Disable the arithmetic modulo p temporarily."""
    with torch.utils._python_dispatch._disable_current_modes():
        yield


_BUFFERS = {_aten.zeros, _aten.empty, _aten.new_zeros, _aten.new_empty}
_STRUCTURE = {
    getattr(_aten, name)
    for name in (
        *("view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze", "select"),
        *("slice", "split", "split_with_sizes", "unbind", "chunk", "unfold", "diagonal", "as_strided", "alias", "detach"),
        *("clone", "contiguous", "_to_copy", "to", "lift_fresh", "cat", "stack", "flip", "roll", "tril", "triu", "where"),
        *("index", "index_select", "gather", "zeros_like", "empty_like", "constant_pad_nd", "repeat", "copy_", "zero_"),
        *("_reshape_alias", "movedim", "new_zeros", "new_empty"),
    )
}

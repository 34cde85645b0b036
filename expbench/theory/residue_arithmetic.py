"""Arithmetic of residues: what each operation of torch computes modulo a prime, for real and for complex numbers.

A complex number is a pair of residues. The rules are exact: Fourier transforms use roots of unity of the field, so that a
transform and its inverse cancel.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.errors import BadInput

# Both are 1 modulo 2^8 3^2 5 7 11 13, so that they have roots of unity of these orders, and below 2^31, so that a product of
# two residues fits into int64.
PRIMES = (2110268161, 1994952961)
Parts = tuple[Tensor, Tensor | None]


class NotPolynomial(BadInput):
    """Error for an `operation` on activations that is not polynomial."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"{operation} of activations is not polynomial")
        self.operation = operation


class NotMeasured(BadInput):
    """Error for an `operation` on activations that the measurement does not know, polynomial or not."""

    def __init__(self, operation: str) -> None:
        super().__init__(f"the degree is not measured through {operation}")
        self.operation = operation


class Constant:
    """A real tensor behind residues that no activation has entered yet, such as a buffer for states or a mask.

    whole: the tensor that views share; None once an activation was written into it.
    """

    def __init__(self, whole: Tensor) -> None:
        self.whole: Tensor | None = whole


class Residues(torch.Tensor):
    """Integers `values` (int64, 0..p-1), and the `imaginary` ones of complex numbers, that behave as a tensor of `dtype`.

    Their arithmetic is modulo p. plain, constant: their real values, as long as they depend on no activation.
    """

    values: Tensor  # type: ignore[assignment]
    imaginary: Tensor | None
    plain: Tensor | None
    constant: Constant | None

    @staticmethod
    def __new__(cls, values: Tensor, imaginary: Tensor | None = None, dtype: torch.dtype = torch.float64) -> Residues:
        made: Residues = torch.Tensor._make_wrapper_subclass(
            cls,
            values.shape,
            strides=values.stride(),
            storage_offset=values.storage_offset(),
            dtype=dtype if imaginary is None else dtype.to_complex(),
        )
        made.values, made.imaginary, made.plain, made.constant = values, imaginary, None, None
        return made

    @property
    def is_known(self) -> bool:
        """Independence of all activations."""
        return self.constant is not None and self.constant.whole is not None

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        raise RuntimeError(f"{function} on residues outside `modulo`")  # pragma: no cover

    def __repr__(self) -> str:  # type: ignore[override]
        return f"Residues({self.values}{'' if self.imaginary is None else f', {self.imaginary} i'})"


class Arithmetic:
    """The rules, found by name: each takes the arguments of an operation of torch and returns residues."""

    p: int
    lifted: Callable[[Any], Residues]
    placed: Callable[[Any], Residues]
    number: Callable[[float], int]
    made: Callable[..., Residues]

    def _parts(self, x: Any) -> Parts:
        residues = self.lifted(x)
        return residues.values, residues.imaginary

    def _linear(self, f: Callable[..., Tensor], *tensors: Any) -> Residues:
        """Apply a real linear function of all tensors together to their real and to their imaginary parts."""
        parts = [self._parts(x) for x in tensors]
        real = f(*(a for a, _ in parts)) % self.p
        if all(b is None for _, b in parts):
            return self.made(real)
        return self.made(real, f(*(torch.zeros_like(a) if b is None else b for a, b in parts)) % self.p)

    def _bilinear(self, f: Callable[[Tensor, Tensor], Tensor], x: Any, y: Any) -> Residues:
        """Apply a real bilinear function of two tensors to complex ones."""
        (a, b), (c, d) = self._parts(x), self._parts(y)
        real, imaginary = f(a, c), [f(u, v) for u, v in ((a, d), (b, c)) if u is not None and v is not None]
        if b is not None and d is not None:
            real = (real - f(b, d)) % self.p
        return self.made(real, sum(imaginary) % self.p) if imaginary else self.made(real)

    def _times(self, x: Any, factor: Any) -> Any:
        return x if isinstance(factor, int | float) and factor == 1 else self._mul(x, factor)

    def _add(self, a: Any, b: Any, *, alpha: Any = 1) -> Residues:
        return self._linear(torch.add, self.placed(a), self.placed(self._times(b, alpha)))  # b may be a mask

    def _sub(self, a: Any, b: Any, *, alpha: Any = 1) -> Residues:
        return self._linear(torch.sub, a, self._times(b, alpha))

    def _rsub(self, a: Any, b: Any, alpha: Any = 1) -> Residues:
        return self._sub(b, a, alpha=alpha)

    def _neg(self, a: Any) -> Residues:
        return self._linear(torch.neg, a)

    __neg_view = _neg

    def _mul(self, a: Any, b: Any) -> Residues:
        return self._bilinear(lambda x, y: x * y % self.p, a, b)

    def _div(self, a: Any, b: Any) -> Residues:
        if isinstance(b, Residues):
            raise NotPolynomial("the inverse")
        wide = (torch.complex128 if b.is_complex() else torch.float64) if isinstance(b, Tensor) else None
        return self._mul(a, 1 / b.to(wide) if isinstance(b, Tensor) else 1 / b)

    def _addcmul(self, a: Any, b: Any, c: Any, *, value: Any = 1) -> Residues:
        return self._add(a, self._mul(b, c), alpha=value)

    def _addcdiv(self, a: Any, b: Any, c: Any, *, value: Any = 1) -> Residues:
        return self._add(a, self._div(b, c), alpha=value)

    def _lerp(self, a: Any, b: Any, weight: Any) -> Residues:
        return self._add(a, self._mul(self._sub(b, a), weight))

    def _pow(self, a: Any, exponent: Any) -> Residues:
        if not isinstance(exponent, int | float) or exponent != int(exponent) or not 0 <= exponent <= 64:
            raise NotPolynomial(f"the power {exponent if isinstance(exponent, int | float) else 'with an exponent'}")
        base = self.lifted(a)
        result = self.made(torch.ones_like(base.values))
        for _ in range(int(exponent)):
            result = self._mul(result, base)
        return result

    def _square(self, a: Any) -> Residues:
        return self._pow(a, 2)

    def _mm(self, a: Any, b: Any) -> Residues:
        return self._bilinear(lambda x, y: (x.unsqueeze(-1) * y.unsqueeze(-3) % self.p).sum(-2) % self.p, a, b)

    _bmm = _matmul = _mm

    def _mv(self, a: Any, b: Any) -> Residues:
        return self._bilinear(lambda x, y: (x * y % self.p).sum(-1) % self.p, a, b)

    _dot = _mv

    def _addmm(self, a: Any, b: Any, c: Any, *, beta: Any = 1, alpha: Any = 1) -> Residues:
        return self._add(self._times(a, beta), self._mm(b, c), alpha=alpha)

    _baddbmm = _addmm

    def _addmv(self, a: Any, b: Any, c: Any, *, beta: Any = 1, alpha: Any = 1) -> Residues:
        return self._add(self._times(a, beta), self._mv(b, c), alpha=alpha)

    def _sum(self, a: Any, dim: Any = None, keepdim: bool = False) -> Residues:
        return self._linear(lambda x: x.sum() if dim is None else x.sum(dim, keepdim), a)

    def _mean(self, a: Any, dim: Any = None, keepdim: bool = False) -> Residues:
        total = self._sum(a, dim, keepdim)
        return self._mul(total, total.values.numel() / max(1, self.lifted(a).values.numel()))

    def _cumsum(self, a: Any, dim: int) -> Residues:
        return self._linear(lambda x: x.cumsum(dim), a)

    def _cumprod(self, a: Any, dim: int) -> Residues:
        real, imaginary = self._parts(a)
        steps = [self.made(part) for part in real.unbind(dim)]
        if imaginary is not None:
            steps = [self.made(step.values, part) for step, part in zip(steps, imaginary.unbind(dim), strict=True)]
        for i in range(1, len(steps)):
            steps[i] = self._mul(steps[i], steps[i - 1])
        return self._linear(lambda *each: torch.stack(each, dim), *steps)

    def _prod(self, a: Any, dim: int | None = None, keepdim: bool = False) -> Residues:
        if dim is None:
            return self._linear(lambda x: x[-1], self._cumprod(self._linear(torch.flatten, a), 0))
        last = self._linear(lambda x: x.select(dim, -1), self._cumprod(a, dim))
        return self._linear(lambda x: x.unsqueeze(dim), last) if keepdim else last

    def _index_add(self, a: Any, dim: int, index: Tensor, source: Any, *, alpha: Any = 1) -> Residues:
        return self._linear(lambda x, y: x.index_add(dim, index, y), a, self._times(source, alpha))

    def _scatter_add(self, a: Any, dim: int, index: Tensor, source: Any) -> Residues:
        return self._linear(lambda x, y: x.scatter_add(dim, index, y), a, source)

    def _convolution(
        self,
        x: Any,
        weight: Any,
        bias: Any,
        stride: list[int],
        padding: list[int],
        dilation: list[int],
        transposed: bool,
        _: list[int],
        groups: int,
    ) -> Residues:
        if transposed:
            raise NotMeasured("a transposed convolution")

        def product(u: Tensor, w: Tensor) -> Tensor:
            """Convolve u (B, C, *sizes) with w (O, C / groups, *taps)."""
            u = F.pad(u, [side for width in reversed(padding) for side in (width, width)])
            taps, total = w.shape[2:], torch.zeros((), dtype=torch.int64)
            sizes = [(n - d * (k - 1) - 1) // s + 1 for n, d, k, s in zip(u.shape[2:], dilation, taps, stride, strict=True)]
            for at in itertools.product(*(range(k) for k in taps)):
                seen, tap = u, w
                for axis, (i, d, s, n) in enumerate(zip(at, dilation, stride, sizes, strict=True), 2):
                    seen = seen[(slice(None),) * axis + (slice(i * d, i * d + s * (n - 1) + 1, s),)]
                    tap = tap.select(2, i)
                seen = seen.unflatten(1, (groups, 1, -1))
                tap = tap.unflatten(0, (groups, -1)).reshape(groups, -1, w.shape[1], *[1] * len(taps))
                total = (total + (seen * tap % self.p).sum(3)) % self.p
            return total.flatten(1, 2)

        result = self._bilinear(product, x, weight)
        return result if bias is None else self._add(result, bias.reshape(-1, *[1] * len(stride)))

    def _view_as_real(self, a: Any) -> Residues:
        real, imaginary = self._parts(a)
        return self.made(torch.stack([real, torch.zeros_like(real) if imaginary is None else imaginary], -1))

    def _view_as_complex(self, a: Any) -> Residues:
        return self.made(*self.lifted(a).values.unbind(-1))

    def _complex(self, real: Any, imaginary: Any) -> Residues:
        return self.made(self.lifted(real).values, self.lifted(imaginary).values)

    def _conj(self, a: Any) -> Residues:
        real, imaginary = self._parts(a)
        return self.made(real, None if imaginary is None else -imaginary % self.p)

    _conj_physical = __conj = _conj

    def _fft(self, a: Any, dim: int, sign: int) -> Residues:
        """Return the transform sum_j a_j exp(sign 2 pi i j k / n) along a dimension, for all k."""
        n = self.lifted(a).values.shape[dim]
        cos, sin = _circle(n, self.p)
        turns = torch.arange(n)[:, None] * torch.arange(n) % n
        matrix = self.made(cos[turns], sign * sin[turns] % self.p)
        moved = self._mm(self._linear(lambda x: x.movedim(dim, -1).reshape(-1, n), a), matrix)
        shape = self.lifted(a).values.movedim(dim, -1).shape
        return self._linear(lambda x: x.reshape(shape).movedim(-1, dim), moved)

    def __fft_c2c(self, a: Any, dims: list[int], normalization: int, forward: bool) -> Residues:
        n = math.prod(self.lifted(a).values.shape[dim] for dim in dims)
        for dim in dims:
            a = self._fft(a, dim, -1 if forward else 1)
        # a division by sqrt(n) in both directions has the same product as one by n in the inverse alone
        divided = normalization == 2 or (normalization == 1 and not forward)
        return self._times(a, 1 / n if divided else 1)  # type: ignore[no-any-return]

    def __fft_r2c(self, a: Any, dims: list[int], normalization: int, onesided: bool) -> Residues:
        n = self.lifted(a).values.shape[dims[-1]]
        whole = self.__fft_c2c(a, dims, normalization, True)
        return self._linear(lambda x: x.narrow(dims[-1], 0, n // 2 + 1), whole) if onesided else whole

    def __fft_c2r(self, a: Any, dims: list[int], normalization: int, n: int) -> Residues:
        if len(dims) > 1:
            raise NotMeasured("a Fourier transform over several dimensions")
        dim = dims[-1]
        half = self._linear(lambda x: x.narrow(dim, 0, n // 2 + 1), a)
        rest = self._linear(lambda x: x.narrow(dim, 1, (n - 1) // 2).flip(dim), self._conj(half))
        whole = self._linear(lambda x, y: torch.cat([x, y], dim), half, rest)
        return self.made(self.__fft_c2c(whole, dims, normalization, False).values)


@lru_cache(maxsize=64)
def _circle(n: int, p: int) -> tuple[Tensor, Tensor]:
    """Return the cosines and sines (n,) of 2 pi k / n for k = 0..n-1, as residues."""
    if (p - 1) % n:
        raise NotMeasured(f"a Fourier transform of {n} numbers")
    quarter, turn = _root(4, p), _root(n, p)
    powers = [pow(turn, k, p) for k in range(n)]
    half, halved = pow(2, -1, p), pow(2 * quarter, -1, p)
    cos = [(powers[k] + powers[-k % n]) * half % p for k in range(n)]
    sin = [(powers[k] - powers[-k % n]) * halved % p for k in range(n)]
    return torch.tensor(cos), torch.tensor(sin)


def _root(n: int, p: int) -> int:
    """Return a primitive n-th root of unity modulo p, for n that divides p - 1."""
    prime = [q for q in range(2, n + 1) if n % q == 0 and all(q % r for r in range(2, q))]
    for base in range(2, p):
        root = pow(base, (p - 1) // n, p)
        if all(pow(root, n // q, p) != 1 for q in prime):
            return root
    raise AssertionError("a prime field has primitive roots")  # pragma: no cover

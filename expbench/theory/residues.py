"""Residues: exact evaluation of a network with numbers modulo a prime in place of its activations.

A network that is polynomial in its inputs can run on elements of a prime field: its code stays the same, but every addition
and multiplication is modulo the prime (`residue_arithmetic.py`). Real constants (weights, 1/L, Taylor coefficients) become
residues. Fractions with small denominators convert exactly. Every other constant maps to an arbitrary but fixed residue,
which is as generic as the original weight; 0 stays 0. Operations that are known not to be polynomial (exp, softmax,
normalisation) raise `NotPolynomial`, all other unknown ones `NotMeasured`; both name the operation. Tensors that a network
makes without its inputs (masks, codes) are computed as they are.
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
from torch.utils._pytree import tree_flatten, tree_map

from expbench.data.rng import mix
from expbench.theory.residue_arithmetic import PRIMES, Arithmetic, Constant, NotMeasured, NotPolynomial, Residues

__all__ = ["PRIMES", "NotMeasured", "NotPolynomial", "Residues", "modulo"]

_LARGEST_DENOMINATOR = 5040  # 7!, because the Taylor coefficients of exp must convert exactly
_aten = torch.ops.aten


@contextmanager
def modulo(p: int, dtype: torch.dtype = torch.float64) -> Iterator[Callable[[Any], Residues]]:
    """Enable arithmetic modulo the prime p on residues; yield the function that converts integer or real tensors to them.

    dtype: the real dtype that residues have for the network. Raise `NotMeasured` at the end if an infinite constant, such as
    that of a mask, stood for a number.
    """
    field = _Field(p, dtype)
    with torch.no_grad(), field:
        yield field.lifted
    if field.infinite is not None:
        raise NotMeasured(f"the constant {field.infinite}")


class _Field(Arithmetic, TorchDispatchMode):
    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # otherwise torch imports its compiler and calls it around every operation

    def __init__(self, p: int, dtype: torch.dtype) -> None:
        super().__init__()
        self.p, self.dtype = p, dtype
        self.infinite: float | None = None

    def made(self, values: Tensor, imaginary: Tensor | None = None) -> Residues:
        return Residues(values, imaginary, self.dtype)

    def lifted(self, x: Any) -> Residues:
        """Convert a number or a tensor of numbers to residues; residues are returned unchanged."""
        if isinstance(x, Residues):
            return x
        with _outside():
            x = _tensor(x)
            if x.is_complex():
                return self.made(self._of_real(x.real), self._of_real(x.imag))
            return self.made(self._of_real(x))

    def _of_real(self, x: Tensor) -> Tensor:
        if not x.dtype.is_floating_point:
            return x.long() % self.p
        distinct, where = x.double().unique(return_inverse=True)
        values = torch.tensor([self.number(value) for value in distinct.tolist()], dtype=torch.int64)
        return values[where].reshape(x.shape)

    def number(self, value: float) -> int:
        """Return the residue of a real constant."""
        return _residue(float(value), self.p)

    def placed(self, x: Any) -> Residues:
        """Convert as `lifted` does what is only put beside activations, where infinite numbers may be hidden later."""
        if isinstance(x, Residues):
            return x
        with _outside():
            x = _tensor(x)
            finite = x.isfinite()
            if not bool(finite.all()):
                self.infinite = float(x[~finite].flatten()[0].real)
                x = torch.where(finite, x, 0)
        return self.lifted(x)

    def constant(self, plain: Tensor) -> Residues:
        """Return residues of a tensor that depends on no activation, which are usable as activations as well."""
        with _outside():
            result = self.lifted(torch.where(plain.isfinite(), plain, 0))
        result.plain, result.constant = plain, Constant(plain)
        return result

    def __torch_dispatch__(self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = function.overloadpacket.__name__
        flat = [*args, *kwargs.values(), *(x for a in args if isinstance(a, list | tuple) for x in a)]
        found = [x for x in flat if isinstance(x, Residues)]
        if not found or name in _MAKES:
            args, kwargs = tree_map(_like, (args, kwargs))
            made = function(*args, **kwargs)
            # layers allocate such tensors to write states into
            return self.constant(made.zero_() if "empty" in name else made) if _is_new(name, made) else made
        in_place = function._schema.name.endswith("_") and not function._schema.name.endswith("__")
        target = args[0] if in_place else kwargs.get("out")
        if all(x.is_known for x in found):
            return self._of_constants(function, name, args, kwargs, target)
        if any(x.is_known for x in found):
            args, kwargs = tree_map(_known, args), tree_map(_known, kwargs)
        if target is None:
            return self._computed(function, name, args, kwargs)
        kwargs.pop("out", None)
        if not isinstance(target, Residues):
            raise NotMeasured(f"writing ({name}) into a tensor without activations")
        self._enter(target)
        if in_place:
            name = name.removesuffix("_")
            function = getattr(getattr(_aten, name, None), function._overloadname, function)
        result = self._computed(function, name, args, kwargs)
        target.values.copy_(result.values)
        if target.imaginary is not None:
            target.imaginary.copy_(torch.zeros_like(result.values) if result.imaginary is None else result.imaginary)
        return target

    def _of_constants(self, function: Any, name: str, args: Any, kwargs: Any, target: Any) -> Any:
        """Compute what depends on no activation; keep views together, since activations may be written into them later."""
        made = function(*tree_map(_known, args), **tree_map(_known, kwargs))
        if target is not None:
            current = self.constant(target.plain)
            target.values.copy_(current.values)
            if target.imaginary is not None and current.imaginary is not None:
                target.imaginary.copy_(current.imaginary)
            return target
        if name in _VIEWS and name != "_to_copy":
            views, whole = self._moved(function, name, args, kwargs), args[0].constant
            for view, plain in zip(*((x,) if isinstance(x, Tensor) else x for x in (views, made)), strict=True):
                view.plain, view.constant = plain, whole
            return views
        return tree_map(lambda x: self.constant(x) if isinstance(x, Tensor) and _is_number(x) else x, made)

    def _enter(self, target: Residues) -> None:
        """Note that an activation enters a tensor that was constant."""
        constant = target.constant
        if constant is not None and constant.whole is not None:
            finite = constant.whole.isfinite()
            if not bool(finite.all()):
                self.infinite = float(constant.whole[~finite].flatten()[0].real)
            constant.whole = None

    def _computed(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        if name in _VIEWS or name in _PLACES:
            return self._moved(function, name, args, kwargs)
        rule = getattr(self, f"_Arithmetic_{name}" if name.startswith("_") else f"_{name}", None)
        if rule is None:
            known = "softmax attention" if name.startswith("_scaled_dot_product") else name.lstrip("_")
            raise (NotPolynomial if known in _NOT_POLYNOMIAL else NotMeasured)(_SAID.get(known, known))
        kwargs.pop("dtype", None)
        return rule(*args, **kwargs)

    def _moved(self, function: Any, name: str, args: Any, kwargs: Any) -> Any:
        """Move residues without computing, the real and the imaginary ones alike."""
        dtype = kwargs.pop("dtype", None)
        if name == "copy":
            return self._linear(lambda x, y: y.expand_as(x), args[0], self.placed(args[1]))
        if name in ("zero", "fill"):
            return self._linear(lambda x, y: y.expand_as(x), args[0], self.placed(0 if name == "zero" else args[1]))
        if name == "masked_fill":
            return self._linear(lambda x, y: torch.where(args[1], y, x), self.placed(args[0]), self.placed(args[2]))
        args = list(args)
        for place in _PLACES.get(name, ()):
            if place < len(args):
                args[place] = tree_map(self.placed, args[place])
        if name in _INDEXED and any(isinstance(index, Residues) for index in tree_flatten(args[1:])[0]):
            raise NotMeasured("an index that depends on activations")
        inside = [x for x in tree_flatten((args, kwargs))[0] if isinstance(x, Residues)]
        complex_ = any(x.imaginary is not None for x in inside) or (dtype is not None and dtype.is_complex)
        real = function(*tree_map(_real, args), **kwargs)
        if not complex_ or (dtype is not None and not dtype.is_complex):
            return tree_map(self.made, real)
        return tree_map(self.made, real, function(*tree_map(_imaginary, args), **kwargs))


@lru_cache(maxsize=1 << 16)
def _residue(value: float, p: int) -> int:
    if not math.isfinite(value):
        raise NotPolynomial(f"the constant {value}")
    fraction = Fraction(value).limit_denominator(_LARGEST_DENOMINATOR)
    if float(fraction) == value:
        return fraction.numerator * pow(fraction.denominator, -1, p) % p
    # deterministic and odd in value, so that terms that cancel in real arithmetic also cancel here
    return mix(hash(abs(value))) * (1 if value > 0 else -1) % p


def _tensor(x: Any) -> Tensor:
    """Return a number as a tensor of double precision; tensors are returned unchanged."""
    wide = {complex: torch.complex128, float: torch.float64}
    return x if isinstance(x, Tensor) else torch.tensor(x, dtype=wide.get(type(x)))


def _real(x: Any) -> Any:
    return x.values if isinstance(x, Residues) else x


def _imaginary(x: Any) -> Any:
    return (torch.zeros_like(x.values) if x.imaginary is None else x.imaginary) if isinstance(x, Residues) else x


def _known(x: Any) -> Any:
    """Return the real tensor behind residues that depend on no activation; all else unchanged."""
    return x.plain if isinstance(x, Residues) and x.is_known else x


def _like(x: Any) -> Any:
    """Return zeros in the shape and dtype of residues, for operations that read nothing else."""
    return torch.zeros(x.shape, dtype=x.dtype) if isinstance(x, Residues) else x


def _is_number(x: Tensor) -> bool:
    return x.dtype.is_floating_point or x.dtype.is_complex


def _is_new(name: str, made: Any) -> bool:
    return name in (*_MAKES, "zeros", "empty", "ones", "full") and isinstance(made, Tensor) and _is_number(made)


@contextmanager
def _outside() -> Iterator[None]:
    """Disable the arithmetic modulo p temporarily."""
    with torch.utils._python_dispatch._disable_current_modes():
        yield


_MAKES = {f"{what}_like" for what in ("zeros", "empty", "ones", "full")} | {
    f"new_{what}" for what in ("zeros", "empty", "ones", "full", "empty_strided")
}
_VIEWS = {
    *("view", "_unsafe_view", "reshape", "expand", "permute", "transpose", "t", "unsqueeze", "squeeze", "select", "slice"),
    *("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk", "unbind", "chunk", "unfold"),
    *("diagonal", "as_strided", "alias", "detach", "clone", "contiguous", "_to_copy", "to", "lift_fresh", "flip", "roll"),
    *("tril", "triu", "index", "index_select", "gather", "repeat", "_reshape_alias", "movedim", "take", "rot90"),
    *("resolve_conj", "resolve_neg", "_conj_copy", "im2col", "pixel_shuffle", "channel_shuffle", "view_copy", "expand_copy"),
}
_INDEXED = {"index", "index_select", "gather", "take"}
# Operations that also place other numbers among residues, with the positions of the arguments that hold these.
_PLACES: dict[str, tuple[int, ...]] = {
    **dict.fromkeys(("cat", "stack"), (0,)),
    **dict.fromkeys(("copy", "zero", "fill", "masked_fill", "slice_scatter", "select_scatter"), (0, 1)),
    "where": (1, 2),
    "constant_pad_nd": (0,),
    "diagonal_scatter": (0, 1),
    "index_put": (0, 2),
    **dict.fromkeys(("scatter", "index_copy"), (0, 3)),
}
_NOT_POLYNOMIAL = {
    *("exp", "exp2", "expm1", "log", "log2", "log10", "log1p", "softplus", "sigmoid", "log_sigmoid_forward", "tanh"),
    *("softmax", "log_softmax", "safe_softmax", "silu", "gelu", "relu", "elu", "leaky_relu", "hardtanh", "hardsigmoid"),
    *("hardswish", "mish", "celu", "selu", "threshold", "prelu_kernel", "softshrink", "hardshrink", "sqrt", "rsqrt"),
    *("reciprocal", "sin", "cos", "tan", "asin", "acos", "atan", "atan2", "sinh", "cosh", "asinh", "acosh", "atanh", "erf"),
    *("erfc", "erfinv", "abs", "sgn", "sign", "clamp", "clamp_min", "clamp_max", "maximum", "minimum", "amax", "amin"),
    *("max", "min", "sort", "topk", "native_layer_norm", "native_group_norm", "fused_rms_norm", "logsumexp"),
    *("logcumsumexp", "cummax", "cummin", "round", "floor", "ceil", "trunc", "frac", "linalg_vector_norm", "norm"),
    *("logaddexp", "angle", "polar", "hypot", "softmax attention", "std", "sinc", "heaviside", "fmod", "remainder"),
}
_SAID = {
    "local_scalar_dense": "a value that is read (a branch or .item())",
    "native_layer_norm": "layer_norm",
    "safe_softmax": "softmax",
}

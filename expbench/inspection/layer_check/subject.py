"""The subject of a check: a layer at some settings, its sizes and number types, and how it is called."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from expbench import contracts
from expbench.errors import first_line
from expbench.mixer import unsupported
from expbench.ops.backends import Unable
from expbench.run import DType
from expbench.settings import Value

Verdict = Literal["pass", "fail", "unsupported", "not stated"]
_USUAL_WIDTH = 4  # of the widths that a layer supports the nearest to this one is checked in full
MOVED = 0.1  # standard deviation of what is added to parameters
_TOKENS = 0.5  # of tokens: at 1 and beyond polynomials of a high degree overflow
USUAL_LENGTH = 16
_NOT_DOUBLE = 1e-8  # rounding relative to the largest output, which float64 stays far below and float32 above
TINY = 1e-30  # in the place of zero, where something is divided by
TORCHS = "torch's generator"


class Answer(NamedTuple):
    verdict: Verdict
    detail: str


class Precision(NamedTuple):
    """What may be asked of a number type, relative to the largest number compared.

    same: between two ways to the same numbers, which may add in another order. Sums of a few dozen terms err by some tens of
    roundings (2e-16, 1e-7); a true difference is a share of the whole. floor: rounding of the largest number around, which
    spills over where sums are taken by Fourier transforms. step: of central differences, about the cube root of a rounding,
    where truncation (step^2 f''') and rounding (eps f / step) are alike: 1e-10 and 1e-4. slope: between such a difference
    and a gradient, leaving room for a large f'''; slope_floor: likewise, relative to f. rank: singular values below are not
    counted: well above the rounding of a Jacobian, so that what is counted is there.
    """

    name: DType
    dtype: torch.dtype
    same: float
    floor: float
    step: float
    slope: float
    slope_floor: float
    rank: float


DOUBLE = Precision("float64", torch.float64, 1e-10, 1e-14, 1e-5, 1e-5, 1e-8, 1e-10)
SINGLE = Precision("float32", torch.float32, 1e-5, 1e-6, 5e-3, 2e-2, 1e-3, 1e-3)


@dataclass(frozen=True)
class Layer:
    """What is checked: a class at some settings, at these widths and lengths (both in float64 or float32)."""

    cls: type[nn.Module]
    values: dict[str, Value]
    widths: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def width(self) -> int:
        return min(self.widths, key=lambda width: abs(width - _USUAL_WIDTH))

    @property
    def longest(self) -> int:
        return self.lengths[-1]

    @property
    def precision(self) -> Precision:
        return DOUBLE if self.double.verdict == "pass" else SINGLE

    @cached_property
    def double(self) -> Answer:
        """Whether float64 is of use: it is not if the layer says so, fails, or has float32 somewhere within."""
        why = unsupported(self.cls, width=self.width, dtype="float64", device="cpu")
        if why is not None:
            return Answer("unsupported", why)
        try:
            module = self.build(dtype=torch.float64)
            length = max([length for length in self.lengths if length <= USUAL_LENGTH], default=self.lengths[0])
            x, along = (self.tokens(2, length, seed=seed, dtype=torch.float64) for seed in (1, 2))
            # Third differences with steps of 1e-5 leave of a smooth function 1e-15 f''', of float32 its rounding of 1e-7
            y = [call(module, x + step * 1e-5 * along) for step in (-1.5, -0.5, 0.5, 1.5)]
            rounding = largest(y[3] - 3 * y[2] + 3 * y[1] - y[0]) / max(largest(y[0]), TINY)
        except Unable as error:
            return Answer("unsupported", str(error))
        except (Exception, SystemExit) as error:  # a plugin is a stranger's code
            return Answer("fail", first_line(error))
        if rounding > _NOT_DOUBLE:
            return Answer("fail", f"results are rounded to {rounding:.0e}: something within is float32")
        return Answer("pass", "computed in float64 throughout")

    @property
    def said(self) -> str:
        """What a detail ends with where float64 could not be had."""
        return "" if self.precision is DOUBLE else " (in float32)"

    def construct(self, width: int | None = None) -> nn.Module:
        """A layer as its constructor leaves it."""
        width = self.width if width is None else width
        return self.cls(width, **contracts.resolved_settings(self.cls, self.values, width))

    def build(
        self,
        width: int | None = None,
        *,
        dtype: torch.dtype | None = None,
        seed: int = 0,
        moved: float = MOVED,
        training: bool = False,
    ) -> nn.Module:
        """A layer with its parameters moved in float32, so that they are alike in every type; any dropout at rest."""
        set_generators()
        torch.manual_seed(seed)
        module = self.construct(width).float()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:  # what is frozen may be a mask
                    parameter.add_(moved * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for part, name in dropouts(module):
            setattr(part, name, 0.0)
        module.train(training)
        return module.double() if (dtype or self.precision.dtype) == torch.float64 else module

    def tokens(self, *shape: int, seed: int = 1, dtype: torch.dtype | None = None, width: int | None = None) -> Tensor:
        """Normal tokens (B, L, D), the same in every type."""
        generator = torch.Generator().manual_seed(seed)
        x = _TOKENS * torch.randn(*shape, self.width if width is None else width, generator=generator)
        return x.to(dtype or self.precision.dtype)


def set_generators() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def generators() -> dict[str, bytes]:
    """The state of every generator that a layer might draw from in secret."""
    numpys: Any = np.random.get_state()
    return {
        TORCHS: torch.get_rng_state().numpy().tobytes(),
        "Python's random": repr(random.getstate()).encode(),
        "numpy's random": numpys[1].tobytes() + repr(numpys[2:]).encode(),
    }


def dropouts(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """The parts that are to draw in training, for all to see, and the name of their probability."""
    names: list[tuple[Any, str]] = [(nn.modules.dropout._DropoutNd, "p"), ((nn.RNNBase, nn.MultiheadAttention), "dropout")]
    return [
        (part, name) for part in module.modules() for kind, name in names if isinstance(part, kind) and getattr(part, name)
    ]


def call(module: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """The layer's output for x (B, L, D), its shape and type checked; generators are set alike before."""
    set_generators()
    return checked_output(module(x), x, dtype or x.dtype)


def checked_output(y: Any, x: Tensor, dtype: torch.dtype) -> Tensor:
    if not isinstance(y, Tensor):
        raise TypeError(f"forward returns {type(y).__name__}, not a tensor")
    if y.shape != x.shape:
        raise ValueError(f"forward maps (B, L, D) = {tuple(x.shape)} to {tuple(y.shape)}")
    if y.dtype != dtype:
        raise TypeError(f"forward maps {x.dtype} to {y.dtype}")
    return y


def largest(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0


def difference(precision: Precision, y: Tensor, expected: Tensor, around: float) -> float | None:
    """How far y is from what it should be, relative to these two; None if no farther than rounding explains.

    around: the largest number that was computed beside them. What is not finite is far from everything.
    """
    scale = max(largest(y), largest(expected))
    apart = largest(y - expected)
    if math.isfinite(apart) and apart <= precision.same * scale + precision.floor * around:
        return None
    return apart / max(scale, TINY)

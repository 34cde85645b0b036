"""The layer under check: a class with settings, its sizes and dtypes, and how to call it."""

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
from expbench.ops.backends import BackendUnsupported
from expbench.run import DType
from expbench.settings import Value

Verdict = Literal["pass", "fail", "unsupported", "not stated"]
_USUAL_WIDTH = 4  # the supported width nearest to this one is checked in full
MOVED = 0.1  # standard deviation of the perturbation of parameters
_TOKENS = 0.5  # standard deviation of tokens; from 1 on, polynomials of high degree overflow
USUAL_LENGTH = 16
_NOT_DOUBLE = 1e-8  # rounding relative to the largest output; float64 is far below, float32 above
TINY = 1e-30  # replaces zero in denominators
TORCHS = "torch's generator"


class CheckResult(NamedTuple):
    verdict: Verdict
    detail: str


class Precision(NamedTuple):
    """Tolerances of a dtype, relative to the largest compared number.

    same: between two computations of the same numbers, which may sum in another order. Sums of a few dozen terms err by tens
    of roundings (2e-16, 1e-7), and true differences are far larger. floor: relative to the largest intermediate number,
    whose rounding spreads if sums are computed by Fourier transforms. step: of central differences, about the cube root of a
    rounding, which balances truncation (step^2 f''') and rounding (eps f / step) at 1e-10 and 1e-4. slope: between a central
    difference and a gradient, with room for a large f'''. slope_floor: likewise, relative to f. rank: singular values below
    it are not counted; it is well above the rounding of a Jacobian.
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
    """The layer under check: a class with settings, at these widths and lengths, in float64 or else float32."""

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
    def double(self) -> CheckResult:
        """Usability of float64; it fails if the layer declares or raises so, or computes partly in float32."""
        why = unsupported(self.cls, width=self.width, dtype="float64", device="cpu")
        if why is not None:
            return CheckResult("unsupported", why)
        try:
            module = self.build(dtype=torch.float64)
            length = max([length for length in self.lengths if length <= USUAL_LENGTH], default=self.lengths[0])
            x, along = (self.tokens(2, length, seed=seed, dtype=torch.float64) for seed in (1, 2))
            # Third differences with step 1e-5 are about 1e-15 f''' for a smooth function, and 1e-7 with float32 rounding
            y = [call(module, x + step * 1e-5 * along) for step in (-1.5, -0.5, 0.5, 1.5)]
            rounding = largest(y[3] - 3 * y[2] + 3 * y[1] - y[0]) / max(largest(y[0]), TINY)
        except BackendUnsupported as error:
            return CheckResult("unsupported", str(error))
        except (Exception, SystemExit) as error:  # a plugin is third-party code
            return CheckResult("fail", first_line(error))
        if rounding > _NOT_DOUBLE:
            return CheckResult("fail", f"results are rounded to {rounding:.0e}: part of the layer computes in float32")
        return CheckResult("pass", "computed in float64 throughout")

    @property
    def said(self) -> str:
        """Suffix of a detail if float64 is not available."""
        return "" if self.precision is DOUBLE else " (in float32)"

    def construct(self, width: int | None = None) -> nn.Module:
        """Construct a layer, with its initial parameters."""
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
        """Build a layer without dropout, its parameters perturbed in float32 so that they are equal in every dtype."""
        set_generators()
        torch.manual_seed(seed)
        module = self.construct(width).float()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:  # a frozen parameter may be a mask
                    parameter.add_(moved * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for part, name in dropouts(module):
            setattr(part, name, 0.0)
        module.train(training)
        return module.double() if (dtype or self.precision.dtype) == torch.float64 else module

    def tokens(self, *shape: int, seed: int = 1, dtype: torch.dtype | None = None, width: int | None = None) -> Tensor:
        """Draw normal tokens (B, L, D), equal in every dtype."""
        generator = torch.Generator().manual_seed(seed)
        x = _TOKENS * torch.randn(*shape, self.width if width is None else width, generator=generator)
        return x.to(dtype or self.precision.dtype)


def set_generators() -> None:
    torch.manual_seed(0)
    random.seed(0)
    np.random.seed(0)


def generators() -> dict[str, bytes]:
    """Return the state of every global random generator that a layer might use."""
    numpys: Any = np.random.get_state()
    return {
        TORCHS: torch.get_rng_state().numpy().tobytes(),
        "Python's random": repr(random.getstate()).encode(),
        "numpy's random": numpys[1].tobytes() + repr(numpys[2:]).encode(),
    }


def dropouts(module: nn.Module) -> list[tuple[nn.Module, str]]:
    """Return the dropout modules within a module, with the names of their probability attributes."""
    names: list[tuple[Any, str]] = [(nn.modules.dropout._DropoutNd, "p"), ((nn.RNNBase, nn.MultiheadAttention), "dropout")]
    return [
        (part, name) for part in module.modules() for kind, name in names if isinstance(part, kind) and getattr(part, name)
    ]


def call(module: nn.Module, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Reset the random generators, call the layer on x (B, L, D), and return its output (B, L, D) after checks."""
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
    """Return the relative difference of y from the expected values (same shape); None if rounding explains it.

    around: the largest number in the same computation. Non-finite numbers always differ.
    """
    scale = max(largest(y), largest(expected))
    apart = largest(y - expected)
    if math.isfinite(apart) and apart <= precision.same * scale + precision.floor * around:
        return None
    return apart / max(scale, TINY)

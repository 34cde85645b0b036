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
from expbench.global_state import seed_generators
from expbench.mixer import declared_lengths, in_precision, unsupported
from expbench.ops.backends import BackendUnsupported
from expbench.run import DType
from expbench.settings import Value

Verdict = Literal["pass", "fail", "unsupported", "not stated", "not measured"]
_USUAL_WIDTH = 4  # the supported width nearest to this one is checked in full
MOVED = 0.1  # standard deviation of the perturbation of parameters
_TOKENS = 0.5  # standard deviation of tokens; from 1 on, polynomials of high degree overflow
USUAL_LENGTH = 16
_STEPS = (1e-5, 3e-6, 1e-6)  # between points; a kink lies between them by chance, and not for all
_NOT_DOUBLE = 1e-8  # rounding relative to the largest output; float64 is far below, float32 above
TINY = 1e-30  # replaces zero in denominators
TORCHS = "torch's generator"


class CheckResult(NamedTuple):
    """Verdict and detail of a check. error: the exception of the layer that led to it."""

    verdict: Verdict
    detail: str
    error: BaseException | None = None


class BadOutput(ValueError):
    """Error for an output of a layer that breaks its contract."""


class Precision(NamedTuple):
    """Tolerances of a dtype, relative to the largest compared number.

    same: between two computations of the same numbers, which may sum in another order. Sums of a few dozen terms err by tens
    of roundings (2e-16, 1e-7), and true differences are far larger. floor: relative to the largest intermediate number,
    whose rounding spreads if sums are computed by Fourier transforms. steps: of differences. The first is about the cube
    root of a rounding, which balances truncation (step^2 f''') and rounding (eps f / step) at 1e-10 and 1e-4; the others
    are for functions that bend more, or have kinks. slope: between a difference and a gradient, with room for a large f'''.
    slope_floor: likewise, relative to f. rank: singular values below it are not counted; it is well above the rounding of a
    Jacobian.
    """

    name: DType
    dtype: torch.dtype
    same: float
    floor: float
    steps: tuple[float, ...]
    slope: float
    slope_floor: float
    rank: float


DOUBLE = Precision("float64", torch.float64, 1e-10, 1e-14, (1e-5, 1e-6, 1e-4, 1e-7), 1e-5, 1e-8, 1e-10)
SINGLE = Precision("float32", torch.float32, 1e-5, 1e-6, (5e-3, 1e-3, 2e-2, 3e-4), 2e-2, 1e-3, 1e-3)
DTYPES = 'dtypes = ("float32", "bfloat16")'


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

    def declares(self, length: int) -> bool:
        """Return whether the layer declares to support a length, or declares none."""
        declared = declared_lengths(self.cls)
        return declared is None or length in declared

    def supports(self, length: int) -> bool:
        """Return whether the layer declares a length, and it is a multiple of the unit of the checked lengths."""
        return length % math.gcd(*self.lengths) == 0 and self.declares(length)

    @property
    def is_double(self) -> bool:
        """Ability of the layer to run in float64, however exactly it computes."""
        return self.double.error is None and unsupported(self.cls, width=self.width, dtype="float64", device="cpu") is None

    @cached_property
    def double(self) -> CheckResult:
        """Usability of float64: unsupported if the layer declares so or computes in float32; a failure if it raises."""
        why = unsupported(self.cls, width=self.width, dtype="float64", device="cpu")
        if why is not None:
            return CheckResult("unsupported", why)
        try:
            module = self.build(dtype=torch.float64)
            length = max([length for length in self.lengths if length <= USUAL_LENGTH], default=self.lengths[0])
            x, *along = (self.tokens(2, length, seed=seed, dtype=torch.float64) for seed in (1, 2, 20, 21))
            rounding = min(_rounding(module, x, step * v) for v, step in zip(along, _STEPS, strict=True))
        except BackendUnsupported as error:
            return CheckResult("unsupported", str(error))
        except BadOutput as error:
            return CheckResult("fail", str(error), error)
        except (Exception, SystemExit) as error:  # a plugin is third-party code
            said = f"{first_line(error)}; a layer for other dtypes declares them: {DTYPES}"
            return CheckResult("fail", said, error)
        if rounding > _NOT_DOUBLE:
            return CheckResult(
                "unsupported", f"part of the layer computes in float32: results are rounded to {rounding:.0e}"
            )
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
        seed_generators(0)
        torch.manual_seed(seed)
        module = in_precision(self.construct(width), torch.float32)
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in module.parameters():
                if parameter.requires_grad:  # a frozen parameter may be a mask
                    parameter.add_(moved * torch.randn(parameter.shape, generator=generator, dtype=parameter.dtype))
        for part, name in dropouts(module):
            setattr(part, name, 0.0)
        module.train(training)
        return in_precision(module, dtype or self.precision.dtype)

    def tokens(self, *shape: int, seed: int = 1, dtype: torch.dtype | None = None, width: int | None = None) -> Tensor:
        """Draw normal tokens (B, L, D), equal in every dtype."""
        generator = torch.Generator().manual_seed(seed)
        x = _TOKENS * torch.randn(*shape, self.width if width is None else width, generator=generator)
        return x.to(dtype or self.precision.dtype)


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


def call(module: nn.Module, x: Tensor, *, finite: bool = True) -> Tensor:
    """Reset the random generators, call the layer on x (B, L, D), and return its output (B, L, D) after checks."""
    seed_generators(0)
    return checked_output(module(x), x, x.dtype, finite=finite)


def checked_output(y: Any, x: Tensor, dtype: torch.dtype, *, finite: bool = True) -> Tensor:
    """Return the output of a layer for x (B, L, D) if it keeps the contract; raise `BadOutput`."""
    if not isinstance(y, Tensor):
        raise BadOutput(f"forward returns {type(y).__name__}, not a tensor")
    if y.shape != x.shape:
        raise BadOutput(f"forward maps (B, L, D) = {tuple(x.shape)} to {tuple(y.shape)}")
    if y.dtype != dtype:
        raise BadOutput(f"forward maps {x.dtype} to {y.dtype}")
    if x.requires_grad and torch.is_grad_enabled() and not y.requires_grad:
        raise BadOutput(
            "forward returns an output without a gradient: it is detached from the input and from the parameters"
        )
    if finite and not bool(y.isfinite().all()):
        at = int((~y.detach().isfinite()).any(-1).any(0).float().argmax()) + 1
        raise BadOutput(f"forward returns numbers that are not finite, first at position {at} of {x.shape[1]}")
    return y


def _rounding(module: nn.Module, x: Tensor, step: Tensor) -> float:
    """Return the third difference along a step (B, L, D), relative to the outputs.

    With steps of 1e-5 it is about 1e-15 f''' for a smooth function, and 1e-7 with float32 rounding.
    """
    y = [call(module, x + at * step) for at in (-1.5, -0.5, 0.5, 1.5)]
    return largest(y[3] - 3 * y[2] + 3 * y[1] - y[0]) / max(largest(y[0]), TINY)


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

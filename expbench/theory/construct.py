"""Layers and networks with constructed (untrained) weights: the expressivity results of arXiv 2502.02209 as modules.

Lemma 2: an S6 layer and a linear map compute a head of linear attention. Theorem 2: four Mamba blocks compute any given
polynomial, without convolution and activation, with one state per channel and Abar linear in the token. Count in row: one
channel is enough. All constructions use the suite's own layers in float64 and draw no random numbers. The code in
`initialisation/` sets their weights.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn

from expbench.algebra.parsing import Parsed
from expbench.algebra.polynomial import Monomials
from expbench.console.formatting import aligned, number
from expbench.data.rng import CounterRNG, fold
from expbench.errors import BadInput
from expbench.initialisation import count_in_row as counting
from expbench.initialisation.lemma2 import sum_up
from expbench.initialisation.theorem2 import Windows, fill, place
from expbench.models.mamba_poly import MambaPoly
from expbench.models.s6 import S6
from expbench.models.s6_bbar_b import S6BbarB
from expbench.models.s6_poly import S6Poly
from expbench.nn.network import Network
from expbench.task import LONGEST, Batch, Score, Task

Form = Literal["s6", "s6-bbar-b", "s6-poly", "s6-poly-linear"]
LIMIT = 2.0  # GB
_Module = TypeVar("_Module", bound=nn.Module)
_AT_ONCE = 1 << 25  # numbers in the activations of one network call; larger inputs are split to bound memory


# --- Lemma 2 ---


@torch.no_grad()
def lemma2(W_Q: Tensor, W_K: Tensor, W_V: Tensor, form: Form = "s6-poly", *, eps: float = 0.0) -> nn.Sequential:
    """Return an S6 layer and a linear map that compute y_t = sum_{j<=t} (W_Q x_t . W_K x_j) x_j W_V.

    W_Q, W_K (N, D) and W_V (D, d). The layer has width D and N states; the module maps (B, L, D) to (B, L, d). S_B = W_K and
    S_C = W_Q. Abar = 1 accumulates B_j x_j, so channel i is sum_j (q_t . k_j) x_ji; the linear map after the layer mixes the
    channels into values.

    form: the kind of layer. ``s6-poly`` (Taylor polynomials; the one of exp is 1 at 0), ``s6-bbar-b`` and ``s6`` (both
    exact; b_Delta = log(e-1) makes Delta 1, which ``s6`` needs because Delta multiplies B) have A = 0. No finite parameter
    gives A = 0, because A = -exp(A_log). With eps = 0, A_log is -inf: the forward pass is exact, and the gradient of A_log
    is 0, so training never changes A. With eps > 0, A_log is log(eps), and the term of x_j in y_t has the factor exp(-eps
    Delta (t - j)). The relative error is at most eps Delta (t - j), where Delta is 1, or log 2 for ``s6-poly`` (to first
    order). ``s6-poly-linear`` (Abar = Delta = b_Delta = 1) has finite parameters and no such error.
    """
    (N, D), (_, d) = W_Q.shape, W_V.shape
    layer = _s6(form, D, N, eps)
    layer.to_b.weight.copy_(W_K)
    layer.to_c.weight.copy_(W_Q)
    out = _zeros(lambda: nn.Linear(D, d, bias=False))
    out.weight.copy_(W_V.mT)
    return nn.Sequential(layer, out)


def _s6(form: Form, width: int, N: int, eps: float = 0.0) -> S6:
    """Return a layer with Abar = 1, B = C = 0 and no skip; for forms that need A = 0, A is -eps."""
    if form == "s6-poly-linear":
        layer: S6 = _zeros(lambda: S6Poly(width, N=N, layout="full_bias", skip=False, transition="linear"))
    else:
        kind = {"s6": S6, "s6-bbar-b": S6BbarB, "s6-poly": S6Poly}[form]
        layer = _zeros(lambda: kind(width, N=N, layout="full_bias", skip=False))
    sum_up(layer, eps)
    return layer


# --- Theorem 2 ---


@dataclass(frozen=True, eq=False)
class Construction:
    """Network that computes a polynomial of x_1..x_L; `theorem2` constructs it.

    padding: number of zeros appended to the input, so T = L + padding. width: width of the residual stream, which carries
    the position code. inner: channels of each block. parameters: parameter count; most parameters are 0.
    """

    parsed: Parsed
    L: int
    padding: int
    width: int
    inner: tuple[int, ...]
    parameters: int
    network: Network = field(repr=False)

    @torch.no_grad()
    def evaluate(self, x: Tensor) -> Tensor:
        """Return the outputs (B,) of the network for inputs x (B, L)."""
        padded = nn.functional.pad(x.double(), (0, self.padding)).unsqueeze(-1)
        size = max(1, _AT_ONCE // _activations(self.L + self.padding, self.width, self.inner))
        return torch.cat([self.network(part).squeeze(-1) for part in padded.split(size)])

    def error(self, x: Tensor) -> Tensor:
        """Return the relative error (B,) for x (B, L): |network - polynomial| / max(1, sum_m |c_m m(x)|).

        The sum includes the constant. The error can exceed the order of rounding: the network computes a monomial as the
        difference of two sums that share the products of the powers of its last variables. These products may exceed the
        monomial where its first variables are near 0, and rounding is relative to the largest product.
        """
        x = x.double()
        coefficients = [self.parsed.constant, *self.parsed.coefficients]
        exponents = [{}, *self.parsed.exponents]
        exact = Monomials(coefficients, exponents).evaluate(x)
        size = Monomials([abs(c) for c in coefficients], exponents).evaluate(x.abs())
        return (self.evaluate(x) - exact).abs() / size.clamp(min=1)


@torch.no_grad()
def theorem2(parsed: Parsed, L: int, *, windows: Windows = "disjoint", limit: float = LIMIT) -> Construction:
    """Construct four Mamba blocks that compute `parsed`: Theorem 2 of arXiv 2502.02209.

    The blocks have N = 1, Bbar = B, Abar linear, no convolution or activation, and a linear gate. `initialisation.theorem2`
    describes the construction, and `place` there describes `windows`. The construction also fills two gaps of the printed
    proof: each power is at one position only, so the product must be kept at all other positions; and a residual connection
    must carry the position code past the first block.

    limit: memory limit in GB for the weights and the activations of one sequence. Raise `BadInput` beyond it, and for a
    variable beyond L.
    """
    used = sorted({variable for exponents in parsed.exponents for variable in exponents})
    if L < 1 or (used and used[-1] >= L):
        raise BadInput(f"theorem 2: L={L} is too small; the polynomial's last variable is x{used[-1] + 1 if used else 1}")
    plan = place(parsed, L, windows)
    T, width, inner = plan.T, plan.width, plan.inner
    need = 8e-9 * (_parameters(T, width, inner) + _activations(T, width, inner))
    if need > limit or T > LONGEST:
        raise BadInput(
            f"theorem 2: {len(plan.monomials)} monomials with {len(plan.pairs)} powers in total over {T} positions need a"
            f" network of width {width} and {need:.3g} GB (the limits are {limit:g} GB and {LONGEST} positions)"
        )
    sizes = iter(inner)
    network = _zeros(
        lambda: Network(
            _Asked(L=T),
            lambda: MambaPoly(width, inner=next(sizes)),
            width=width,
            depth=4,
            norm="none",
            positions="learned",
            residual=True,
        )
    )
    fill(network, plan)
    network.head.bias.fill_(parsed.constant)
    return Construction(parsed, L, T - L, width, inner, network.parameter_count(), network)


def _parameters(T: int, width: int, inner: tuple[int, ...]) -> int:
    """Count the parameters: position code, embedding and read-out; per block three linear maps, S_Delta, S_B, S_C and A."""
    around = T * width + 2 * width + width + 1
    return around + sum(n * (3 * width + n) + width + 2 * n + n + 2 * (n + 1) + n for n in inner)


def _activations(T: int, width: int, inner: tuple[int, ...]) -> int:
    """Estimate how many numbers the forward pass of one sequence keeps in memory."""
    return T * (3 * width + 12 * max(inner))


# --- Count in row ---


@torch.no_grad()
def count_in_row(L: int) -> Network:
    """Construct a network of width 1 over tokens 0 and 1, (B, L) -> (B, L, 1), that counts consecutive 1s.

    The output at each position is the length of the run of 1s that ends there. The single S6 channel with N = 1 (Eq. 5,
    Abar = x_t, B = C = 1) computes h_t = x_t h_{t-1} + x_t; its skip of -1 cancels the residual connection. The result is
    exact because all numbers are integers.
    """
    made = _zeros(
        lambda: Network(
            _Asked(L=L, tokens=2, every=True),
            lambda: S6Poly(1, N=1, layout="full_bias", transition="linear"),
            width=1,
            depth=1,
            norm="none",
            positions="none",
            residual=True,
        )
    )
    counting.start(made)
    return made


# --- Shared helpers ---


@dataclass(frozen=True, kw_only=True)
class _Asked(Task):
    """Placeholder task with the attributes that a `Network` reads; it has no data."""

    tokens: int | None = None
    every: bool = False

    primary_metric = "error"
    higher_is_better = False
    success_threshold = 0.0

    @property
    def vocabulary(self) -> int | None:
        return self.tokens

    @property
    def readout(self) -> Literal["last", "all"]:
        return "all" if self.every else "last"

    def batch(self, rng: CounterRNG, size: int) -> Batch:
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        raise NotImplementedError


@torch.no_grad()
def _zeros(make: Callable[[], _Module]) -> _Module:
    """Return the module of `make` in float64 with all parameters and buffers 0, leaving the global generator unchanged."""
    with torch.random.fork_rng(devices=[]):
        module = make().double()
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.zero_()
    return module


def report(construction: Construction, samples: int = 256, seed: int = 0) -> str:
    """Return the error (maximum over random Gaussian inputs) and the sizes of a construction as an aligned table."""
    x = CounterRNG(fold("theorem 2", seed)).normal(samples, construction.L)
    worst = float(construction.error(x).max())
    lines = [
        ("error", number(worst), f"maximum over {samples} Gaussian inputs, relative to the sum of |terms|"),
        ("positions", str(construction.L + construction.padding), f"{construction.L} + {construction.padding} padding"),
        ("width", str(construction.width), "width of the residual stream"),
        ("inner", "/".join(map(str, construction.inner)), "channels of each block"),
        ("parameters", str(construction.parameters), ""),
    ]
    return aligned(lines)

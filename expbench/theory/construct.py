"""Layers and networks whose weights are set, not trained: what arXiv 2502.02209 says that S6 can express, as modules.

Lemma 2: an S6 layer and a linear map are a head of linear attention. Theorem 2: four Mamba blocks without convolution and
activation, with one state a channel and Abar linear in the token, are any given polynomial. Count in row: one channel is
enough. All are made of the suite's own layers, in float64, and draw no random numbers; `constructions/` sets their weights.
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
from expbench.data.rng import Draws, fold
from expbench.errors import BadInput
from expbench.initialisation import count_in_row as counting
from expbench.initialisation.lemma2 import sum_up
from expbench.initialisation.theorem2 import Windows, fill, place
from expbench.models.linattn import LinAttn
from expbench.models.mamba_poly import MambaPoly
from expbench.models.s6 import S6
from expbench.models.s6_bbar_b import S6BbarB
from expbench.models.s6_poly import S6Poly
from expbench.nn.blocks import MambaBlock
from expbench.nn.network import Network
from expbench.task import LONGEST, Batch, Score, Task

Form = Literal["s6", "s6-bbar-b", "s6-poly", "s6-poly-linear"]
LIMIT = 2.0  # GB
_Module = TypeVar("_Module", bound=nn.Module)
_AT_ONCE = 1 << 25  # numbers that the activations of one call of a network may take


# --- Lemma 2 ---


@torch.no_grad()
def lemma2(W_Q: Tensor, W_K: Tensor, W_V: Tensor, form: Form = "s6-poly", *, eps: float = 0.0) -> nn.Sequential:
    """An S6 layer of width D with N states, then a linear map, that are y_t = sum_{j<=t} (W_Q x_t . W_K x_j) x_j W_V.

    W_Q, W_K (N, D) and W_V (D, d); the module maps (B, L, D) to (B, L, d). S_B = W_K and S_C = W_Q; Abar = 1 sums up what
    B_j x_j brings, so channel i is sum_j (q_t . k_j) x_ji, and only the map after it mixes channels into values.

    form: which layer. ``s6-poly`` (Taylor polynomials; that of exp is 1 at 0), ``s6-bbar-b`` and ``s6`` (exact; b_Delta =
    log(e-1) makes Delta 1, which the last needs on B) have A = 0. No finite parameter of theirs gives it: A = -exp(A_log),
    and A_log is -inf here, where forward is exact and the gradient of A_log is 0, so that training never leaves it. With
    eps > 0 it is log(eps), and the term of x_j in y_t has the factor exp(-eps Delta (t - j)): a relative error of at most
    eps Delta (t - j), where Delta is 1, and log 2 for ``s6-poly`` (to first order). ``s6-poly-linear`` (Abar = Delta =
    b_Delta = 1) has finite parameters and no such error.
    """
    (N, D), (_, d) = W_Q.shape, W_V.shape
    layer = _s6(form, D, N, eps)
    layer.to_b.weight.copy_(W_K)
    layer.to_c.weight.copy_(W_Q)
    out = _zeros(lambda: nn.Linear(D, d, bias=False))
    out.weight.copy_(W_V.mT)
    return nn.Sequential(layer, out)


@torch.no_grad()
def of_linattn(layer: LinAttn, L: int, form: Form = "s6-poly") -> MambaBlock:
    """The suite's linear attention, with its biases and its 1/L, as a Mamba block around one S6 layer of width D + 1.

    The biases of queries and keys are those of C and B, which the layout ``full_bias`` has. A channel carries one coordinate
    of the tokens, so that W_V stands in the block's output map, and b_V sum_j (q_t . k_j) needs a channel that is
    constantly 1, which the bias of its input map makes: a bare S6 of width D has neither. 1/L is a weight: this holds
    at one length.
    """
    D = int(layer.qkv.in_features)
    weights, biases = ([part.detach().double() for part in x.chunk(3)] for x in (layer.qkv.weight, layer.qkv.bias))
    s6 = _s6(form, D + 1, D)
    for linear, weight, bias in zip((s6.to_c, s6.to_b), weights[:2], biases[:2], strict=True):
        linear.weight[:, :D] = weight
        linear.bias.copy_(bias)
    block = _zeros(
        lambda: MambaBlock(D, D + 1, lambda _: nn.Identity(), conv=0, activation="none", gate="linear", bias=True)
    )
    block.mixer = s6
    block.to_x.weight[:D] = torch.eye(D)
    block.to_x.bias[D] = 1
    block.to_z.bias.fill_(1)
    block.to_out.weight.copy_(torch.cat([weights[2], biases[2][:, None]], 1) / L)
    return block


def _s6(form: Form, width: int, N: int, eps: float = 0.0) -> S6:
    """A layer with Abar = 1 (with A = -eps where A = 0 makes it so), B = C = 0 and no skip."""
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
    """A network that is a polynomial of x_1..x_L; made by `theorem2`.

    padding: zeros that are appended, so that T = L + padding. width: of the residual stream, which carries the position
    code. inner: channels of each block. parameters: numbers of the network, most of them 0.
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
        """The network's outputs (B,) for inputs x (B, L)."""
        padded = nn.functional.pad(x.double(), (0, self.padding)).unsqueeze(-1)
        size = max(1, _AT_ONCE // _activations(self.L + self.padding, self.width, self.inner))
        return torch.cat([self.network(part).squeeze(-1) for part in padded.split(size)])

    def error(self, x: Tensor) -> Tensor:
        """|network - polynomial| / max(1, sum_m |c_m m(x)|), the constant among the terms: (B,) for x (B, L).

        It is not always of the order of rounding: a monomial is found as the difference of two sums that share the products
        of its last variables' powers. These may exceed the monomial where its first variables are near 0, and rounding is
        relative to the largest of them.
        """
        x = x.double()
        coefficients = [self.parsed.constant, *self.parsed.coefficients]
        exponents = [{}, *self.parsed.exponents]
        exact = Monomials(coefficients, exponents).evaluate(x)
        size = Monomials([abs(c) for c in coefficients], exponents).evaluate(x.abs())
        return (self.evaluate(x) - exact).abs() / size.clamp(min=1)


@torch.no_grad()
def theorem2(parsed: Parsed, L: int, *, windows: Windows = "disjoint", limit: float = LIMIT) -> Construction:
    """Four Mamba blocks that are `parsed`: S6 with N = 1, Bbar = B, Abar linear; no convolution or activation, linear gate.

    Theorem 2 of arXiv 2502.02209, as `constructions.theorem2` has it, and `windows` as `place` there. The printed proof also
    leaves open that a power stands at one position only, so that the product must be kept at all others, and that a residual
    connection must carry the position code past the first block; both are filled.

    limit: GB that the weights and the activations of one sequence may take. Raises `BadInput` beyond it, and for a variable
    beyond L.
    """
    used = sorted({variable for exponents in parsed.exponents for variable in exponents})
    if L < 1 or (used and used[-1] >= L):
        raise BadInput(f"theorem 2: L={L} is too small, the polynomial's last variable is x{used[-1] + 1 if used else 1}")
    plan = place(parsed, L, windows)
    T, width, inner = plan.T, plan.width, plan.inner
    need = 8e-9 * (_parameters(T, width, inner) + _activations(T, width, inner))
    if need > limit or T > LONGEST:
        raise BadInput(
            f"theorem 2: {len(plan.monomials)} monomials, of {len(plan.pairs)} powers in all, over {T} positions need a"
            f" network of width {width} and {need:.3g} GB (the most is {limit:g} GB and {LONGEST} positions)"
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
    """The position code, the embedding and the read-out; of each block three linear maps, S_Delta, S_B, S_C and A."""
    around = T * width + 2 * width + width + 1
    return around + sum(n * (3 * width + n) + width + 2 * n + n + 2 * (n + 1) + n for n in inner)


def _activations(T: int, width: int, inner: tuple[int, ...]) -> int:
    """About as many numbers as a forward pass of one sequence holds at once."""
    return T * (3 * width + 12 * max(inner))


# --- Count in row ---


@torch.no_grad()
def count_in_row(L: int) -> Network:
    """A network of width 1 over tokens 0 and 1, (B, L) -> (B, L, 1): the length of the run of 1s that ends at each position.

    Its one S6 channel with N = 1 (Eq. 5, Abar = x_t, B = C = 1) is h_t = x_t h_{t-1} + x_t; its skip of -1 takes away what
    the residual connection adds. Exact, as all numbers are whole.
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


# --- What they share ---


@dataclass(frozen=True, kw_only=True)
class _Asked(Task):
    """As much of a task as a `Network` asks for: nothing is drawn from it."""

    tokens: int | None = None
    every: bool = False

    headline = "error"
    higher_is_better = False
    solved_at = 0.0

    @property
    def vocabulary(self) -> int | None:
        return self.tokens

    @property
    def readout(self) -> Literal["last", "all"]:
        return "all" if self.every else "last"

    def batch(self, draws: Draws, size: int) -> Batch:
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        raise NotImplementedError

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        raise NotImplementedError


@torch.no_grad()
def _zeros(make: Callable[[], _Module]) -> _Module:
    """What `make` makes, in float64 with every number 0; no random number is drawn from the global generator."""
    with torch.random.fork_rng(devices=[]):
        module = make().double()
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.zero_()
    return module


def report(construction: Construction, samples: int = 256, seed: int = 0) -> str:
    """Error (the largest over random Gaussian inputs) and size of a construction, in aligned lines."""
    x = Draws(fold("theorem 2", seed)).normal(samples, construction.L)
    worst = float(construction.error(x).max())
    lines = [
        ("error", number(worst), f"the largest of {samples} Gaussian inputs, relative to the sum of |terms|"),
        ("positions", str(construction.L + construction.padding), f"{construction.L} and {construction.padding} of padding"),
        ("width", str(construction.width), "of the residual stream"),
        ("inner", "/".join(map(str, construction.inner)), "channels of each block"),
        ("parameters", str(construction.parameters), ""),
    ]
    return aligned(lines)

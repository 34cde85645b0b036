"""Layers and networks whose weights are set, not trained: what arXiv 2502.02209 says that S6 can express, as modules.

Lemma 2: an S6 layer and a linear map are a head of linear attention. Theorem 2: four Mamba blocks without convolution and
activation, with one state a channel and Abar linear in the token, are any given polynomial. Count in row: one channel is
enough. All are made of the suite's own layers, in float64, and draw no random numbers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from expbench.blocks import MambaBlock
from expbench.draws import Draws, fold
from expbench.errors import BadInput
from expbench.models.linattn import LinAttn
from expbench.models.s6 import S6
from expbench.models.s6_bbar_b import S6BbarB
from expbench.models.s6_poly import S6Poly
from expbench.network import Network
from expbench.polynomial import Monomials
from expbench.polynomial_text import Parsed
from expbench.task import LONGEST, Batch, Measured, Task
from expbench.text import aligned, number

Form = Literal["s6", "s6-bbar-b", "s6-poly", "s6-poly-linear"]
Windows = Literal["disjoint", "printed"]
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


@torch.no_grad()
def _s6(form: Form, width: int, N: int, eps: float = 0.0) -> S6:
    """A layer with Abar = 1 (with A = -eps where A = 0 makes it so), B = C = 0 and no skip."""
    if form == "s6-poly-linear":
        layer: S6 = _zeros(lambda: S6Poly(width, N=N, layout="full_bias", skip=False, transition="linear"))
        layer.to_delta.bias.fill_(1)
        return layer
    kind = {"s6": S6, "s6-bbar-b": S6BbarB, "s6-poly": S6Poly}[form]
    layer = _zeros(lambda: kind(width, N=N, layout="full_bias", skip=False))
    layer.A_log.fill_(math.log(eps) if eps else -math.inf)
    if form != "s6-poly":
        layer.to_delta.bias.fill_(math.log(math.e - 1))
    return layer


# --- Theorem 2 ---


class _Monomial(NamedTuple):
    """A monomial: its coefficient, the numbers of its pairs, and that of the pair whose window ends first."""

    coefficient: float
    pairs: range
    first: int


class _Pair(NamedTuple):
    """A variable of a monomial and the positions (from 0) that hold copies of it, as many as its exponent says."""

    variable: int
    window: range


class _Channel(NamedTuple):
    """A channel of a block: X is a stream, Abar the sum of X over channels, the gate Z a stream (None: 1).

    writes: the weights with which it is added to streams. Channel 0 of every block is constantly 1, and B, C and an Abar of
    1 read it.
    """

    reads: int
    abar: tuple[int, ...]
    gate: int | None
    writes: Mapping[int, float]


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

    Theorem 2 of arXiv 2502.02209. The first block selects each variable; the second copies it to as many positions as its
    exponent says; the third multiplies the copies, sum_{k<=e} x^k - sum_{k<e} x^k, and leaves the power at the last of them;
    the fourth multiplies the powers of a monomial by the same difference over its variables. Everywhere else its Abar
    is 1, which keeps the product until the last position T, where it is read.

    windows: where the copies stand. In the printed proof they begin at the variable's own position (``printed``): there the
    last copies of two variables may coincide, as those of x1^2*x2 do, and the fourth block then takes the sum of their
    powers for one factor. ``disjoint`` windows within each monomial, from position L + 1 on, mend it, with T = L + the
    degree. The printed proof also leaves open that a power stands at one position only, so that the product must be kept
    at all others, and that a residual connection must carry the position code past the first block; both are filled here.

    limit: GB that the weights and the activations of one sequence may take. Raises `BadInput` beyond it, and for a variable
    beyond L.
    """
    used = sorted({variable for exponents in parsed.exponents for variable in exponents})
    if L < 1 or (used and used[-1] >= L):
        raise BadInput(f"theorem 2: L={L} is too small, the polynomial's last variable is x{used[-1] + 1 if used else 1}")
    pairs, monomials, T = _place(parsed, L, windows)
    width = sum(_sizes(len(used), len(pairs), len(monomials)).values())
    inner = (1 + len(used), 1 + 2 * len(pairs), 1 + 2 * len(pairs), 1 + 3 * len(monomials))
    need = 8e-9 * (_parameters(T, width, inner) + _activations(T, width, inner))
    if need > limit or T > LONGEST:
        raise BadInput(
            f"theorem 2: {len(monomials)} monomials, of {len(pairs)} powers in all, over {T} positions need a network of"
            f" width {width} and {need:.3g} GB (the most is {limit:g} GB and {LONGEST} positions)"
        )
    sizes = iter(inner)
    network = _zeros(
        lambda: Network(
            _Asked(L=T),
            lambda: MambaBlock(width, next(sizes), _linear_s6, conv=0, activation="none", gate="linear", bias=True),
            width=width,
            depth=4,
            norm="none",
            positions="learned",
            residual=True,
        )
    )
    code, blocks = _weights(used, pairs, monomials, T)
    embed: Any = network.embed
    embed.weight[0] = 1
    network.code.weight.copy_(code)
    for block, channels in zip(network.mixers, blocks, strict=True):
        assert isinstance(block, MambaBlock)
        _set(block, channels)
    network.head.weight[0, 1] = 1
    network.head.bias.fill_(parsed.constant)
    return Construction(parsed, L, T - L, width, inner, network.parameter_count(), network)


def _place(parsed: Parsed, L: int, windows: Windows) -> tuple[list[_Pair], list[_Monomial], int]:
    """Every variable of every monomial with its window; the monomials; T."""
    pairs: list[_Pair] = []
    monomials = []
    for coefficient, exponents in zip(parsed.coefficients, parsed.exponents, strict=True):
        start, began = L, len(pairs)
        for variable, exponent in sorted(exponents.items()):
            at = variable if windows == "printed" else start
            pairs.append(_Pair(variable, range(at, at + exponent)))
            start += exponent
        members = range(began, len(pairs))
        monomials.append(_Monomial(coefficient, members, min(members, key=lambda p: pairs[p].window[-1])))
    return pairs, monomials, max([L, *(pair.window.stop for pair in pairs)])


def _sizes(variables: int, pairs: int, monomials: int) -> dict[str, int]:
    """The streams of the residual stream, in order.

    x: the input; y: the output. Of each variable, select: 1 at its position; selected: its value there. Of each pair,
    window, tail and end: 1 in its window, in all of it but its first position, in its last; copies and fewer: the value
    in its window, and in its tail. Of each monomial, keep: 0 at the ends of its pairs, else 1; powers: the powers of its
    variables, each at its end; others: the same but for the first. All are 0 where nothing else is said.
    """
    names = {"select": variables, "selected": variables}
    names |= dict.fromkeys(("window", "tail", "end", "copies", "fewer"), pairs)
    return {"x": 1, "y": 1, **names, **dict.fromkeys(("keep", "powers", "others"), monomials)}


def _weights(
    used: list[int], pairs: list[_Pair], monomials: list[_Monomial], T: int
) -> tuple[Tensor, tuple[list[_Channel], ...]]:
    """The position code (T, width), and the channels of the four blocks but for the constant one."""
    streams, start = {}, 0
    for name, size in _sizes(len(used), len(pairs), len(monomials)).items():
        streams[name] = range(start, start + size)
        start += size
    x, y = streams["x"][0], streams["y"][0]
    code = torch.zeros(T, start, dtype=torch.float64)

    selects: list[_Channel] = []
    copies: list[_Channel] = []
    powers: list[_Channel] = []
    products: list[_Channel] = []
    selected = dict(zip(used, streams["selected"], strict=True))
    for v, variable in enumerate(used):
        code[variable, streams["select"][v]] = 1
        selects.append(_Channel(x, (), streams["select"][v], {selected[variable]: 1}))
    for m, (coefficient, members, first) in enumerate(monomials):
        keep, sum_of_all, sum_of_others = (streams[name][m] for name in ("keep", "powers", "others"))
        code[:, keep] = 1
        for p in members:
            variable, window = pairs[p]
            every, tail, end, copied, fewer = (streams[name][p] for name in ("window", "tail", "end", "copies", "fewer"))
            code[window.start : window.stop, every] = 1
            code[window.start + 1 : window.stop, tail] = 1
            code[window[-1], end] = 1
            code[window[-1], keep] = 0
            for where, stream in ((every, copied), (tail, fewer)):
                copies.append(_Channel(selected[variable], (0,), where, {stream: 1}))
            to = (sum_of_all,) if p == first else (sum_of_all, sum_of_others)
            for stream, sign in ((copied, 1.0), (fewer, -1.0)):
                powers.append(_Channel(stream, (len(powers) + 1,), end, dict.fromkeys(to, sign)))
        c = len(products) + 1
        products += [
            _Channel(sum_of_all, (c, c + 2), None, {y: coefficient}),
            _Channel(sum_of_others, (c + 1, c + 2), None, {y: -coefficient}),
            _Channel(keep, (), None, {}),
        ]
    return code, (selects, copies, powers, products)


def _set(block: MambaBlock, channels: list[_Channel]) -> None:
    """Put channels 1.. into a block of zeros; channel 0 is constantly 1, and B and C read it."""
    assert isinstance(block.mixer, S6)
    X, Z, out, abar = (linear.weight for linear in (block.to_x, block.to_z, block.to_out, block.mixer.to_delta))
    block.to_x.bias[0] = 1
    for linear in (block.mixer.to_b, block.mixer.to_c):
        linear.weight[0, 0] = 1
    for c, channel in enumerate(channels, 1):
        X[c, channel.reads] = 1
        abar[c, list(channel.abar)] = 1
        if channel.gate is None:
            block.to_z.bias[c] = 1
        else:
            Z[c, channel.gate] = 1
        for stream, weight in channel.writes.items():
            out[stream, c] = weight


def _linear_s6(inner: int) -> S6Poly:
    """Eq. 5 with N = 1 and Abar = S_Delta x_t: the layer of Theorem 2. Of zeros alone, A = exp(A_log) is 1."""
    return S6Poly(inner, N=1, layout="full_bias", skip=False, transition="linear")


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
    (layer,) = made.mixers
    assert isinstance(layer, S6Poly)
    assert layer.skip is not None
    embed: Any = made.embed
    embed.weight[1] = 1
    layer.to_delta.weight.fill_(1)
    for linear in (layer.to_b, layer.to_c):
        linear.bias.fill_(1)
    layer.skip.fill_(-1)
    made.head.weight.fill_(1)
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

    def summary(self, totals: Mapping[str, Tensor]) -> list[Measured]:
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

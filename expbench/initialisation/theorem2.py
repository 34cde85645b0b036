"""Theorem 2 of arXiv 2502.02209: four Mamba blocks that compute any given polynomial.

The first block selects each variable. The second copies a variable with exponent e to e positions. The third multiplies the
copies, as sum_{k<=e} x^k - sum_{k<e} x^k, and stores the power at the last copy. The fourth multiplies the powers of a
monomial by the same difference over its variables. Its Abar is 1 at all other positions, which keeps the product until it is
read at the last position T. Separate streams of the position code define the role of each position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from expbench.algebra.parsing import Parsed, parse
from expbench.initialisation.need import Need
from expbench.models.mamba_poly import MambaPoly
from expbench.models.s6 import S6
from expbench.nn.blocks import MambaBlock
from expbench.nn.network import Network
from expbench.run import Run
from expbench.task import Task

Windows = Literal["disjoint", "printed", "earliest"]


class _Monomial(NamedTuple):
    """A monomial: its coefficient, the indices of its pairs, and the index of the pair whose window ends first."""

    coefficient: float
    pairs: range
    first: int


class _Pair(NamedTuple):
    """A variable of a monomial and the positions (from 0) of its copies; their number is its exponent."""

    variable: int
    window: range


class _Channel(NamedTuple):
    """A channel of a block. reads: stream of X. abar: channels whose X sum to Abar. gate: stream of Z (None: 1).

    writes: weights with which the channel is added to streams. Channel 0 of every block is constantly 1; B, C and an Abar of
    1 read it.
    """

    reads: int
    abar: tuple[int, ...]
    gate: int | None
    writes: Mapping[int, float]


class Plan(NamedTuple):
    """The layout of the construction.

    used: the variables (from 0). pairs: every variable of every monomial, with its window. T: number of positions.
    """

    used: list[int]
    pairs: list[_Pair]
    monomials: list[_Monomial]
    T: int

    @property
    def width(self) -> int:
        """Number of streams of the residual stream."""
        return sum(_sizes(len(self.used), len(self.pairs), len(self.monomials)).values())

    @property
    def inner(self) -> tuple[int, ...]:
        """Number of channels of each block."""
        pairs = 1 + 2 * len(self.pairs)
        return 1 + len(self.used), pairs, pairs, 1 + 3 * len(self.monomials)


def place(parsed: Parsed, L: int, windows: Windows) -> Plan:
    """Return the plan of a polynomial with variables among the first L positions.

    windows: positions of the copies. In the printed proof they start at the variable's own position (``printed``). The last
    copies of two variables may then coincide, as for x1^2*x2, and the fourth block uses the sum of their powers as a single
    factor. Windows that are disjoint within each monomial correct this. They start at position L + 1 (``disjoint``), with
    T = L + the degree; or each at its variable's own position or after the previous window, whichever is later
    (``earliest``), with T = L unless a power is too close to the end.
    """
    pairs: list[_Pair] = []
    monomials = []
    for coefficient, exponents in zip(parsed.coefficients, parsed.exponents, strict=True):
        free, began = 0, len(pairs)
        for variable, exponent in sorted(exponents.items()):
            at = {"disjoint": max(free, L), "printed": variable, "earliest": max(free, variable)}[windows]
            free = at + exponent
            pairs.append(_Pair(variable, range(at, free)))
        members = range(began, len(pairs))
        monomials.append(_Monomial(coefficient, members, min(members, key=lambda p: pairs[p].window[-1])))
    used = sorted({pair.variable for pair in pairs})
    return Plan(used, pairs, monomials, max([L, *(pair.window.stop for pair in pairs)]))


def needs(run: Run, model: type) -> Iterator[Need]:
    """Yield the needs: a formula, and a network of four Mamba blocks with the required width and length.

    The proof appends positions filled with zeros. Here they are inputs of unused variables, which have no effect.
    """
    formula = run.task_settings.get("formula") if run.task == "polyreg" else None
    yield Need("--task polyreg", run.task == "polyreg")
    yield Need("-t family=given -t formula='x1*x2' (or another)", formula is not None)
    yield Need("--models mamba-poly", issubclass(model, MambaPoly))
    if formula is not None:
        plan, inner = place(parse(str(formula), run.L), run.L, "earliest"), run.model_settings.get("inner")
        width, least = plan.width, max(plan.inner)
        yield Need(f"--L {plan.T}", run.L == plan.T)
        yield Need(f"--D {width}", width == run.D)
        yield Need(f"-m inner={least}", width != run.D or not isinstance(inner, int) or inner >= least)
    yield Need("--depth 4", run.depth == 4)
    yield Need("--norm none", run.norm == "none")
    yield Need("--positions learned", run.positions == "learned")
    yield Need("--residual on", run.residual)


@torch.no_grad()
def start(network: Network, task: Task) -> None:
    """Set the weights so that the network computes the standardised labels of a polyreg task; unused weights are 0."""
    asked: Any = task
    fill(network, place(parse(asked.formula, task.L), task.L, "earliest"))
    standardise(network, task)


@torch.no_grad()
def fill(network: Network, plan: Plan) -> None:
    """Set the weights so that the network computes the polynomial without its constant.

    The network must have the plan's width and four blocks with at least the plan's channels.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        tensor.zero_()  # with A_log = 0, A = exp(A_log) is 1
    code, blocks = _weights(plan)
    embed: Any = network.embed
    embed.weight[0] = 1
    network.code.weight.copy_(code)
    for block, channels in zip(network.mixers, blocks, strict=True):
        assert isinstance(block, MambaBlock)
        _set(block, channels)
    network.head.weight[0, 1] = 1


@torch.no_grad()
def standardise(network: Network, task: Task) -> None:
    """Scale and shift the head from the polynomial to its standardised labels, which do not depend on its constant."""
    asked: Any = task
    shift, there = asked.standardise(torch.tensor([0.0, 1.0], dtype=network.head.weight.dtype)).tolist()
    network.head.weight *= there - shift
    network.head.bias.fill_(shift)


def _sizes(variables: int, pairs: int, monomials: int) -> dict[str, int]:
    """Return the number of streams of each name in the residual stream, in order. All are 0 except as follows.

    x: the input. y: the output.
    Per variable: select is 1 at its position; selected is its value there.
    Per pair: window is 1 in its window, tail in its window except the first position, and end at its last position; copies
    is the variable's value in the window, and fewer its value in the tail.
    Per monomial: keep is 1 except at the ends of its pairs; powers are the powers of its variables, each at its end; others
    are the same without the power of the first pair.
    """
    names = {"select": variables, "selected": variables}
    names |= dict.fromkeys(("window", "tail", "end", "copies", "fewer"), pairs)
    return {"x": 1, "y": 1, **names, **dict.fromkeys(("keep", "powers", "others"), monomials)}


def _weights(plan: Plan) -> tuple[Tensor, tuple[list[_Channel], ...]]:
    """Return the position code (T, width), and the channels of the four blocks except the constant channel."""
    used, pairs, monomials, T = plan
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
    """Write channels 1, 2, ... into a block of zeros; channel 0 is constantly 1, and B and C read it."""
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

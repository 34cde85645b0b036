"""The checks of a layer: what each demands, and what it answers. `check.py` calls them one by one."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from expbench.data.rng import Draws
from expbench.errors import first_line
from expbench.inspection.layer_check.subject import (
    TINY,
    TORCHS,
    Answer,
    Layer,
    call,
    checked_output,
    difference,
    dropouts,
    generators,
    largest,
    set_generators,
)
from expbench.mixer import state_size, unsupported
from expbench.nn.network import Network, stack_reach
from expbench.ops.backends import Unable
from expbench.run import DType
from expbench.task import Batch, Score, Task
from expbench.theory.degree import degree_of, generic, has_degree, order_of
from expbench.theory.residues import NotPolynomial
from expbench.training.ensemble import Ensemble
from expbench.training.precision import TOLERANCE

_EVERY_POSITION = 6  # up to so long a sequence is changed after each of its tokens
_ROUNDINGS = 16  # of one rounding's effect, that a result may be away
_STATE_MOVED = 0.5  # as `MOVED`, for the state: decays that are nearly alike hide some of it from a numerical rank
_STATE_COLUMNS = 64  # numbers of past tokens, at most (unless a layer is wide, or takes only long sequences)
_FUTURES, _SPARE_ROWS = 3, 8  # rows beyond the rank that is looked for: with as many as that, one draw is as good as any
_HIGHEST_DEGREE, _LINE_LENGTH = 1 << 12, 4  # that is measured; and on sequences of which length


def shapes(layer: Layer) -> Answer:
    """(B, L, D) -> (B, L, D) in the type of the input, at every size."""
    wrong, sizes = [], 0
    for width in layer.widths:
        module = layer.build(width)  # one for all lengths: what it keeps of one must not spoil the next
        for length in layer.lengths:
            for batch in (1, 3):
                sizes += 1
                try:
                    call(module, layer.tokens(batch, length, width=width))
                except Unable:
                    raise
                except (Exception, SystemExit) as error:  # a plugin is a stranger's code
                    wrong.append(f"B={batch}, L={length}, D={width}: {first_line(error)}")
    if wrong:
        return Answer("fail", f"{wrong[0]} ({len(wrong)} of {sizes} sizes fail){layer.said}")
    widths, lengths = (", ".join(map(str, some)) for some in (layer.widths, layer.lengths))
    return Answer("pass", f"D {widths}; L {lengths}; B 1, 3{layer.said}")


def layout(layer: Layer) -> Answer:
    """However the numbers lie in memory, the output is the same; and they stay as they are."""
    module, x = layer.build(), layer.tokens(3, layer.longest)
    inputs = {
        "time first": x.transpose(0, 1).contiguous().transpose(0, 1),
        "channels first": x.mT.contiguous().mT,
        "with gaps": torch.stack([x, 9 * x], -1)[..., 0],
        "one sequence expanded": x[:1].expand(3, -1, -1),
    }
    for kind, laid in inputs.items():
        before = laid.clone(memory_format=torch.contiguous_format)
        expected = call(module, before.clone())
        apart = difference(layer.precision, call(module, laid), expected, largest(expected))
        if apart is not None:
            return Answer("fail", f"an input that lies {kind} gives another output, by {apart:.1e}{layer.said}")
        if not torch.equal(laid, before):
            return Answer("fail", "it writes into its input")
    return Answer("pass", f"{', '.join(inputs)}; the input is left as it was{layer.said}")


def causality(layer: Layer) -> Answer:
    """y_1..y_t and the gradient of y_t know nothing of later tokens, one step ahead or many."""
    longer = [length for length in layer.lengths if length > 1]
    if not longer:
        return Answer("unsupported", "a length above 1 is needed")
    checked = 0
    # Normalisation over a batch in training mode reaches into the future as well; one length shows it
    for training, lengths in ((False, longer), (True, longer[-1:])):
        module, mode = layer.build(training=training), " in training mode" if training else ""
        for length in lengths:
            # one sequence by itself: what leaks between sequences is another matter
            x, other = layer.tokens(1, length).requires_grad_(), 3 * layer.tokens(1, length, seed=2)
            y = call(module, x)
            for t in _kept(length):
                leak = _leak(layer, y, x, call(module, torch.cat([x[:, :t].detach(), other[:, t:]], 1)), t)
                if leak is not None:
                    return Answer("fail", f"{leak}{mode}{layer.said}")
                checked += 1
    return Answer("pass", f"outputs and gradients, at {checked} positions, in training mode too{layer.said}")


def _kept(length: int) -> list[int]:
    """How many first tokens are kept while all others change: every number, or powers of 2, where tiles of kernels end."""
    if length <= _EVERY_POSITION:
        return list(range(1, length))
    return sorted({3, length - 1} | {1 << i for i in range(length.bit_length()) if 1 << i < length})


def _leak(layer: Layer, y: Tensor, x: Tensor, changed: Tensor, t: int) -> str | None:
    """How later tokens reach the first t outputs y for x (1, L, D); `changed` are those with other tokens after t."""
    precision, length = layer.precision, x.shape[1]
    apart = difference(precision, changed[:, :t], y[:, :t], max(largest(y), largest(changed)))
    if apart is not None:
        return f"outputs up to position {t} of {length} change by {apart:.1e} with the tokens after it"
    weights = torch.randn(layer.width, generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    (grad,) = torch.autograd.grad((y[:, t - 1] * weights).sum(), x, retain_graph=True)
    if not largest(grad[:, t:]) <= precision.same * largest(grad):
        ahead = int(grad[0, t:].abs().amax(-1).argmax()) + 1
        return f"the output at position {t} of {length} has a gradient in the token {ahead} after it"
    return None


def batch_independence(layer: Layer) -> Answer:
    """A sequence gets the same output alone, with other neighbours, and at another place in the batch."""
    for training in (False, True):
        x, others = layer.tokens(3, layer.longest), 3 * layer.tokens(3, layer.longest, seed=2)
        module = layer.build(training=training)
        y = call(module, x)
        for i in (0, 2):
            among = others.clone()
            among[i] = x[i]
            found = {
                "with its neighbours": call(module, among)[i],
                "with its place": call(module, x.roll(1, 0))[(i + 1) % 3],
                "with the size of the batch": call(module, x[i : i + 1])[0],
            }
            for how, z in found.items():
                apart = difference(layer.precision, z, y[i], largest(y))
                if apart is not None:
                    mode = " in training mode" if training else ""
                    return Answer("fail", f"a sequence's output changes {how} in the batch by {apart:.1e}{mode}{layer.said}")
    return Answer("pass", f"other neighbours, another place, alone; in training mode too{layer.said}")


def gradients(layer: Layer) -> Answer:
    """Of a random functional: autograd's derivative in random directions against central differences, tensor by tensor."""
    precision = layer.precision
    module, x = layer.build(), layer.tokens(2, layer.longest).requires_grad_()
    generator = torch.Generator().manual_seed(4)
    weights = torch.randn(x.shape, generator=generator, dtype=torch.float64)
    named = {"the input": x} | {name: p for name, p in module.named_parameters() if p.requires_grad}

    def value() -> Tensor:
        return (call(module, x).double() * weights).sum()

    scale = float((call(module, x).detach().double() * weights).norm())
    grads = torch.autograd.grad(value(), list(named.values()), allow_unused=True, materialize_grads=True)
    worst = 0.0
    for (name, tensor), grad in zip(named.items(), grads, strict=True):
        for _ in range(2):
            along = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            start, values = tensor.detach().clone(), []
            for sign in (1, -1):
                with torch.no_grad():
                    tensor.copy_(start + sign * precision.step * along)
                    values.append(float(value()))
                    tensor.copy_(start)
            slope = (values[0] - values[1]) / (2 * precision.step)
            stated = float((grad * along.conj()).sum().real)
            larger = max(abs(slope), abs(stated))
            if not abs(slope - stated) <= precision.slope * larger + precision.slope_floor * scale:
                what = f"the gradient of {name} says {stated:.6g}, central differences {slope:.6g}"
                return Answer("fail", f"{what} in a random direction{layer.said}")
            worst = max(worst, abs(slope - stated) / max(larger, scale, TINY))
    return Answer("pass", f"the input and {len(named) - 1} parameters, to {worst:.0e} of central differences{layer.said}")


def determinism(layer: Layer) -> Answer:
    """The same bits twice, forward and backward, without a draw from any generator; the same parameters from one seed.

    Dropout may draw from torch's generator in training, where the same seed then gives the same bits.
    """
    x = layer.tokens(2, layer.longest).requires_grad_()

    def bits(module: nn.Module) -> list[Tensor]:
        y = checked_output(module(x), x, x.dtype)
        leaves = [x, *(p for p in module.parameters() if p.requires_grad)]
        return [y, *torch.autograd.grad(y.sum(), leaves, allow_unused=True, materialize_grads=True)]

    constructed = []
    set_generators()
    for _ in range(2):
        torch.manual_seed(0)  # alone: another generator is not set by the seed of a run
        module = layer.construct()
        constructed.append(module.double() if x.dtype == torch.float64 else module.float())
    states = [module.state_dict() for module in constructed]
    for name, value in states[0].items():
        if isinstance(value, Tensor) and not torch.equal(value, states[1][name]):
            return Answer("fail", f"{name} differs in two layers that are constructed under one seed")
    drops = bool(dropouts(constructed[0]))
    for training in (False, True):
        mode = "in training mode " if training else ""
        module = constructed[0].train(training)
        seen, before = [], generators()
        for _ in range(2):
            if drops and training:
                torch.manual_seed(0)
            seen.append(bits(module))
        drawn = [name for name, state in generators().items() if before[name] != state]
        if drops and training and TORCHS in drawn:
            drawn.remove(TORCHS)
        what = f"{mode}draws from {' and '.join(drawn)}" if drawn else ""
        different = [largest(one - other) for one, other in zip(*seen, strict=True) if not torch.equal(one, other)]
        if different:
            what = f"{mode}the same input gives other bits, by {max(different):.1e}{'; it ' if drawn else ''}{what}"
        if what:
            return Answer("fail", f"{what}{layer.said}")
    how = "the same bits twice, in training mode too"
    return Answer("pass", f"{how}{' if torch is seeded alike (it has dropout)' if drops else ''}{layer.said}")


@dataclass(frozen=True, kw_only=True)
class _Probe(Task):
    """What a network needs of a task: channels as many as the layer is wide, every position read."""

    width: int
    headline = "loss"
    higher_is_better = False
    solved_at = 0.0
    readout = "all"

    @property
    def channels(self) -> int:
        return self.width

    @property
    def outputs(self) -> int:
        return self.width

    def batch(self, draws: Draws, size: int) -> Batch:
        raise NotImplementedError

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return (outputs * targets).sum()

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        raise NotImplementedError


def stacking(layer: Layer) -> Answer:
    """Two networks around the layer called as one, as stacks of runs are: outputs and gradients as by themselves."""
    if dropouts(layer.construct()):
        return Answer("unsupported", "runs one by one: its dropout draws numbers, which a stack has for no run by itself")
    task = _Probe(L=layer.longest, width=layer.width)
    networks = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        made = Network(
            task,
            lambda seed=seed: layer.build(seed=seed, training=True),  # type: ignore[misc]
            width=layer.width,
            depth=1,
            norm="none",
            positions="none",
            residual=True,
        )
        networks.append(made.to(layer.precision.dtype))
    inputs, targets = (torch.stack([layer.tokens(2, layer.longest, seed=seed + i) for i in (0, 1)]) for seed in (5, 7))
    shared = layer.tokens(2, layer.longest, seed=9)
    alone = [_outputs_and_gradients(Ensemble([n]), task, inputs[[i]], targets[[i]], shared) for i, n in enumerate(networks)]
    try:
        together = _outputs_and_gradients(Ensemble(networks), task, inputs, targets, shared)
    except (Exception, SystemExit) as error:  # what cannot be mapped fails in many ways
        return Answer("unsupported", f"runs one by one: it cannot be mapped: {first_line(error)}")
    expected = [torch.cat(own) for own in zip(*alone, strict=True)]
    apart = [largest(x - y) / max(largest(y), TINY) for x, y in zip(together, expected, strict=True)]
    worst = max(apart, key=lambda value: math.inf if math.isnan(value) else value)
    if not worst <= TOLERANCE[layer.precision.name]:  # what training asks of a stack
        return Answer(
            "fail", f"mapped over two sets of parameters, outputs or gradients are others, by {worst:.1e}{layer.said}"
        )
    return Answer("pass", f"outputs and gradients of two together as alone, to {worst:.0e}{layer.said}")


def _outputs_and_gradients(ensemble: Ensemble, task: Task, inputs: Tensor, targets: Tensor, shared: Tensor) -> list[Tensor]:
    """Outputs (S, B, L, D) for inputs (S, B, L, D) of each network's own and for shared ones; the gradient of each leaf."""
    set_generators()
    outputs = [ensemble.outputs(inputs, shared=False), ensemble.outputs(shared, shared=True)]
    losses = ensemble.losses(task, Batch(inputs, targets))
    grads = torch.autograd.grad(losses.sum(), ensemble.leaves, allow_unused=True, materialize_grads=True)
    return [*(y.detach() for y in outputs), *ensemble.stacked(grads)]


def double(layer: Layer) -> Answer:
    """Finite, and not float32 in disguise. A layer that has none says so by its attribute dtypes."""
    if layer.double.verdict != "pass":
        return layer.double
    y, grad = _with_gradient(layer.build(), layer.tokens(2, layer.longest), "float64")
    if not bool((y.isfinite() & grad.isfinite()).all()):
        return Answer("fail", f"outputs or gradients of {layer.longest} tokens are not finite")
    return Answer("pass", f"finite, and {layer.double.detail}")


def narrow(layer: Layer, name: DType) -> Answer:
    """Outputs and gradients of the input are finite, and as far from those in float64 as rounding makes them."""
    why = unsupported(layer.cls, width=layer.width, dtype=name, device="cpu")
    if why is not None:
        return Answer("unsupported", why)
    eps = torch.finfo(getattr(torch, name)).eps
    x = layer.tokens(2, layer.longest, dtype=torch.float32)
    found = _with_gradient(layer.build(dtype=torch.float32), x, name)
    if not all(bool(y.isfinite().all()) for y in found):
        return Answer("fail", f"outputs or gradients of {layer.longest} tokens are not finite")
    if layer.precision.name == name:
        return Answer("pass", "finite; there is no float64 to compare with")
    # What relative errors of one rounding, in every token and parameter, do to outputs and gradients: an implementation
    # without fault rounds more often, but each time by less than half of that.
    reference, wide = layer.build(), x.to(layer.precision.dtype)
    expected = _with_gradient(reference, wide, layer.precision.name)
    generator = torch.Generator().manual_seed(6)

    def jittered(values: Tensor) -> Tensor:
        return values * (1 + eps * torch.randn(values.shape, generator=generator, dtype=torch.float64).to(values.dtype))

    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.copy_(jittered(parameter))
    moved = _with_gradient(reference, jittered(wide), layer.precision.name)
    worst = 0.0
    for what, y, true, near in zip(("outputs", "gradients"), found, expected, moved, strict=True):
        apart, scale = largest(y.to(true.dtype) - true), max(largest(true), TINY)
        allowed = _ROUNDINGS * (eps * scale + largest(near - true))
        if not apart <= allowed:
            bound = f"rounding explains {allowed / scale:.1e}"
            return Answer("fail", f"{what} are {apart / scale:.1e} from those in {layer.precision.name}; {bound}")
        worst = max(worst, apart / scale)
    return Answer("pass", f"finite, outputs and gradients within {worst:.0e} of {layer.precision.name}")


def _with_gradient(module: nn.Module, x: Tensor, name: DType) -> tuple[Tensor, Tensor]:
    """The output for x, and the gradient in x of its product with fixed numbers; bfloat16 is autocast around float32."""
    x = x.detach().requires_grad_()
    weights = torch.randn(x.shape, generator=torch.Generator().manual_seed(8), dtype=torch.float32).to(x.dtype)
    set_generators()
    with torch.autocast("cpu", torch.bfloat16) if name == "bfloat16" else nullcontext():
        y = module(x)
    y = checked_output(y, x, torch.bfloat16 if name == "bfloat16" and y.dtype == torch.bfloat16 else x.dtype)
    (grad,) = torch.autograd.grad((y.to(x.dtype) * weights).sum(), x, allow_unused=True, materialize_grads=True)
    return y.detach(), grad


def state(layer: Layer) -> Answer:
    """What is declared against the rank of the Jacobian of later outputs in earlier tokens.

    If the outputs after position k are a differentiable function of s numbers, themselves one of the first k tokens, its
    rank is at most s, whatever the later tokens are: the rank is a lower bound on the state.
    """
    width, unit = layer.width, math.gcd(*layer.lengths)  # lengths may have to be multiples of something
    module = layer.build(moved=_STATE_MOVED)
    k = max(unit, -(-4 // unit) * unit)
    declared = state_size(module, k)
    # twice as many tokens until their numbers exceed what is declared (keys and values of all tokens they never exceed)
    while width * k <= (width * k if declared is None else declared) and 2 * width * k <= _STATE_COLUMNS:
        k *= 2
        declared = state_size(module, k)
    if declared is not None and (not isinstance(declared, int) or declared < 0):
        return Answer("fail", f"state_size({k}) is {declared!r}, not a number of numbers")
    rank, most = _rank(layer, module, k, _STATE_COLUMNS if declared is None else min(_STATE_COLUMNS, declared))
    seen = ", as many as could be seen" if rank == most else ""
    needed = f"at least {rank} needed to go on after {k} tokens{seen} (D={width}){layer.said}"
    if declared is None:
        return Answer("not stated", needed)
    return Answer("fail" if declared < rank else "pass", f"declares {declared}, {needed}")


def _rank(layer: Layer, module: nn.Module, k: int, expected: int) -> tuple[int, int]:
    """The numerical rank of the derivative of y_{k+1..2k} in x_{1..k}, over some futures; what it could be at most."""
    precision = layer.precision
    past = layer.tokens(1, k, seed=10).requires_grad_()
    each = -(-(min(past.numel(), expected) + _SPARE_ROWS) // _FUTURES)
    generator = torch.Generator().manual_seed(11)
    rows = []
    for future in range(_FUTURES):
        y = call(module, torch.cat([past, layer.tokens(1, k, seed=12 + future)], 1))[:, k:]
        # Random combinations of outputs have their rank, and are fewer; each position counts alike, however large it is
        size = y.detach().abs().amax(-1, keepdim=True).clamp(min=TINY)
        for _ in range(each):
            weights = torch.randn(y.shape, generator=generator, dtype=torch.float32).to(y.dtype) / size
            (row,) = torch.autograd.grad(
                (y * weights).sum(), past, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            rows.append(row.flatten())
    jacobian = torch.stack(rows)
    jacobian = jacobian / jacobian.norm(dim=1, keepdim=True).clamp(min=TINY)
    if not bool(jacobian.isfinite().all()):
        raise ValueError(f"derivatives of outputs after {k} tokens are not finite")
    values = torch.linalg.svdvals(jacobian.double())
    return int((values > precision.rank * values[0]).sum()), len(values)


def reach(layer: Layer) -> Answer:
    """What is declared against degree and interaction order as they are measured, exactly: `expbench.theory.degree`."""
    declared = stack_reach([layer.construct()], _LINE_LENGTH, residual=False)
    module = _AtTheEnd(generic(layer.construct()))
    stated = "" if declared is None else f"declares degree {declared.degree[-1]} and order {declared.order[-1]}"
    try:
        if declared is None or declared.degree[-1] > _HIGHEST_DEGREE:
            degree = degree_of(module, _LINE_LENGTH, layer.width)
        elif has_degree(module, _LINE_LENGTH, layer.width, declared.degree[-1]):
            degree = declared.degree[-1]
        else:
            degree = degree_of(module, _LINE_LENGTH, layer.width, 8 * declared.degree[-1])
        order = order_of(module, _LINE_LENGTH, layer.width)
    except NotPolynomial as why:
        if declared is None:
            return Answer("not stated", f"no polynomial ({why.operation})")
        return Answer("fail", f"{stated}, but is no polynomial ({why.operation})")
    measured = f"has degree {'above any measured' if degree is None else degree} and order {order} (L={_LINE_LENGTH})"
    if declared is None:
        return Answer("not stated", f"it is polynomial: {measured}")
    above = degree is None or degree > declared.degree[-1] or order > declared.order[-1]
    return Answer("fail" if above else "pass", f"{stated}, {measured}")


class _AtTheEnd(nn.Module):
    """A layer whose output at the last position is all that is read."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.layer(x)[:, -1]
        return y

"""Probes: short forward and backward passes of a layer before it is trained, for mistakes that training would hide.

A layer that looks ahead has a low error and learns nothing; one that detaches its input, or returns one channel or whole
numbers, trains the network around it. Random generators are the same before each pass and as before after all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from expbench.global_state import seed_generators, seeded
from expbench.mixer import declared_lengths, in_precision, unsupported
from expbench.run import DType

LONGEST = 64  # tokens in a probe of causality
_COMPARED = 1024  # largest width at which two layers are built and compared
_SHORT, _ODD = 16, 7  # tokens in the other probes, and in a further probe of causality
_NUMBERS = 1 << 18  # tokens times states of a layer whose N is its width, to bound time and memory
_SOLE = 1 << 10  # longest probe of causality of a layer that works at one length only
_TOKENS = 0.5  # standard deviation of tokens; from 1 on, polynomials of high degree overflow
_MOVED = 0.1  # standard deviation of the noise on parameters, as special initial values such as zeros hide a leak
_SAME, _ROUNDING = 1e-5, {torch.float64: 1e-12, torch.float32: 1e-6}  # relative to kept outputs, and to all (Fourier)


class Leak(NamedTuple):
    """The output at position `output` depends on the later input at position `input`, both from 1."""

    output: int
    input: int

    def __str__(self) -> str:
        return f"its output at position {self.output} depends on input {self.input}"


class Probe(NamedTuple):
    """Result of the probes. causal: None if that could not be probed. leak: the first one, if it is not causal."""

    causal: bool | None = None
    leak: Leak | None = None


def lengths(cls: type, L: int) -> list[int]:
    """Return the lengths up to `LONGEST` that a layer supports in runs of length L, as its attribute `lengths` states."""
    supported = declared_lengths(cls)
    return [length for length in range(1, min(L, LONGEST) + 1) if supported is None or length in supported]


def tried(cls: type, L: int) -> list[int]:
    """Return the lengths at which to call a layer for a run of length L: a short one, then L, if it works only there."""
    supported = lengths(cls, L)
    short = [length for length in supported if length <= _SHORT][-1:] or supported[:1]
    return list(dict.fromkeys([*short, L]))


def probe(layer: nn.Module, width: int, length: int, device: str, dtype: DType) -> None:
    """Raise TypeError or ValueError for a layer that does not map (B, L, D) to (B, L, D), or cannot be trained."""
    seed_generators(0)
    precision = torch.float64 if dtype == "float64" else torch.float32
    layer = in_precision(layer, precision).to(device)
    shape = (2, length, width)
    x = (_TOKENS * torch.randn(shape, dtype=precision)).to(device).requires_grad_()
    with torch.autocast(device, torch.bfloat16, enabled=dtype == "bfloat16"):
        y = layer(x)
        _check_output(y, x, shape, dtype)
        _check_gradients(layer, x, y)
        with torch.no_grad():
            evaluated = layer.eval()(x)
    _check_output(evaluated, x, shape, dtype)
    for mode, output in (("training", y), ("evaluation", evaluated)):
        if not bool(torch.isfinite(output).all()):
            raise ValueError(f"forward in {mode} mode returns values that are not finite, for inputs of about {_TOKENS:g}")


def _check_output(y: Any, x: Tensor, shape: tuple[int, ...], dtype: DType) -> None:
    if not isinstance(y, Tensor):
        raise TypeError(f"forward returns {type(y).__name__}, not a tensor")
    if tuple(y.shape) != shape:
        raise ValueError(f"forward maps (B, L, D) = {shape} to {tuple(y.shape)}")
    possible = [x.dtype, torch.bfloat16] if dtype == "bfloat16" else [x.dtype]
    if y.dtype not in possible:
        hint = " (the attribute dtypes states what a layer supports)" if y.is_floating_point() else ""
        raise TypeError(f"forward returns {y.dtype} for inputs in {x.dtype}{hint}")


def _check_gradients(layer: nn.Module, x: Tensor, y: Tensor) -> None:
    """Raise ValueError if no gradient reaches the input, or none of the trainable parameters."""
    trained = [p for p in layer.parameters() if p.requires_grad]
    grads: tuple[Tensor | None, ...] = (None,) * (1 + len(trained))
    if y.requires_grad:
        grads = torch.autograd.grad(y.float().sum(), [x, *trained], allow_unused=True)
    if grads[0] is None:
        raise ValueError("no gradient flows from the output to the input (is it detached, or converted?)")
    if trained and all(grad is None for grad in grads[1:]):
        raise ValueError("no gradient flows from the output to any parameter")


class _Place(NamedTuple):
    device: str
    precision: torch.dtype


def reproduce(build: Callable[[], nn.Module], width: int, length: int) -> None:
    """Raise ValueError if two layers of one seed differ, on the CPU: runs with one key would have different numbers."""
    if width > _COMPARED:
        return
    x = _TOKENS * torch.randn(2, length, width, generator=torch.Generator().manual_seed(0))
    layers = []
    for _ in range(2):
        with seeded(0, "the layer"):
            layers.append(build().eval())
    what = _difference(x, *layers)
    if what is not None:
        raise ValueError(
            f"{what} differs between two layers of one seed; draw random numbers from torch, numpy.random or random, which"
            " are seeded, and from no generator of your own"
        )


def _difference(inputs: Tensor, module: nn.Module, other: nn.Module) -> str | None:
    """Return what differs between two modules: a parameter, by its name, or the output; None if all bits are equal."""
    named = [dict(each.named_parameters()) for each in (module, other)]
    apart = [name for name in named[0] if name not in named[1] or not _same(named[0][name], named[1][name])]
    if apart:
        return apart[0]
    outputs = []
    for each in (module, other):
        try:
            with torch.no_grad(), seeded(0, "the layer"):
                outputs.append(each(inputs))
        except (Exception, SystemExit):  # the contract check reports it
            return None
    return None if _same(*outputs) else "the output"


def _same(one: Any, two: Any) -> bool:
    """Return whether two tensors are equal bit by bit, NaN included; True for what has no numbers yet."""
    if not all(isinstance(each, Tensor) and type(each) in (Tensor, nn.Parameter) for each in (one, two)):
        return True
    one, two = one.detach(), two.detach()
    return one.shape == two.shape and bool(torch.equal(one.isnan(), two.isnan()) and torch.equal(*_finite(one, two)))


def _finite(*tensors: Tensor) -> list[Tensor]:
    return [torch.where(tensor.isnan(), 0, tensor) for tensor in tensors]


def causality(build: Callable[[], nn.Module], cls: type, width: int, L: int, device: str) -> Probe:
    """Probe whether outputs of a layer depend on later inputs, in evaluation mode, at up to `LONGEST` tokens.

    float64 is used where the layer supports it, since there a leak is much larger than rounding.
    """

    def inputs(length: int, precision: torch.dtype) -> tuple[Tensor, Tensor]:
        x, other = (_TOKENS * torch.randn(1, length, width, dtype=precision) for _ in range(2))
        return x, 3 * other

    places = _places(cls, width, device)
    found = _first_leak(build, inputs, _chosen(cls, width, L), places)
    return _first_leak(build, inputs, [L], places) if found.causal is None and 1 < L <= _SOLE else found


def causality_of_tokens(build: Callable[[], nn.Module], cls: type, width: int, L: int, device: str) -> Probe:
    """Probe the same of a model with a vocabulary of two tokens around a layer."""

    def inputs(length: int, precision: torch.dtype) -> tuple[Tensor, Tensor]:
        x = torch.randint(2, (1, length))
        return x, 1 - x

    return _first_leak(build, inputs, _chosen(cls, 1, L), _places(cls, width, device))


def _chosen(cls: type, width: int, L: int) -> list[int]:
    """Return the longest length that is quick to probe, and a short odd one."""
    possible = [length for length in lengths(cls, L) if 1 < length <= max(_ODD, _NUMBERS // width**2)]
    odd = [length for length in possible if length <= _ODD and length % 2]
    return list(dict.fromkeys([*possible[-1:], *odd[-1:]]))


def _places(cls: type, width: int, device: str) -> list[_Place]:
    """Return the places to try, those on a CPU first, since kernels of a GPU would be compiled for the probe alone."""
    both = {"float64": torch.float64, "float32": torch.float32}
    return [
        _Place(place, both[name])
        for place in dict.fromkeys(["cpu", device])
        for name in both
        if unsupported(cls, width=width, dtype=name, device=place) is None
    ]


def _first_leak(
    build: Callable[[], nn.Module],
    inputs: Callable[[int, torch.dtype], tuple[Tensor, Tensor]],
    chosen: Sequence[int],
    places: Sequence[_Place],
) -> Probe:
    """Return the first leak of a module at the `chosen` lengths, at each in the first place in which it works.

    inputs: gives inputs (1, L, ...) of a length and others to replace them by. Parameters are moved a little, unless the
    module's outputs are not finite then.
    """
    causal = None
    for length in chosen:
        for place, moved in [(place, moved) for place in places for moved in (_MOVED, 0.0)]:
            try:
                module = _moved(build, place, moved)
                leak = _leak(module, *(x.to(place.device) for x in inputs(length, place.precision)))
            except (Exception, SystemExit):  # third-party code raises many different exceptions for a dtype or a length
                continue
            if leak is not None:
                return Probe(False, leak)
            causal = True
            break
    return Probe(causal)


@torch.no_grad()
def _moved(build: Callable[[], nn.Module], place: _Place, moved: float) -> nn.Module:
    seed_generators(0)
    module = in_precision(build(), place.precision).eval()
    for p in module.parameters() if moved else ():
        p.add_(torch.randn(p.shape, dtype=p.dtype).to(p.device), alpha=moved)
    return module.to(place.device)


@torch.no_grad()
def _leak(module: nn.Module, x: Tensor, other: Tensor) -> Leak | None:
    """Return a leak of later inputs into outputs, if there is one; raise ValueError if an output is not finite."""
    length = x.shape[1]
    kept = sorted({1, length // 2, length - 1} - {0})
    changed = [torch.cat([x[:, :t], other[:, t:]], 1) for t in kept]
    seed_generators(0)
    y, *others = module(torch.cat([x, *changed])).split(1)
    if not all(bool(torch.isfinite(each).all()) for each in (y, *others)):
        raise ValueError("outputs are not finite")
    for t, z, inputs in zip(kept, others, changed, strict=True):
        if _apart(y, z, t) is None:
            continue
        # once more, one sequence at a time: the difference may come from random numbers or from other sequences
        y_alone, z_alone = _alone(module, x), _alone(module, inputs)
        at = _apart(y_alone, z_alone, t)
        if at is not None:
            each = (torch.cat([x[:, :s], other[:, s : s + 1], x[:, s + 1 :]], 1) for s in range(t, length))
            found = [s for s, one in enumerate(each, t) if _apart(y_alone, _alone(module, one), t) is not None]
            first = found[0] if found else t
            one = torch.cat([x[:, :first], other[:, first : first + 1], x[:, first + 1 :]], 1)
            return Leak(_apart(y_alone, _alone(module, one), t) or at, first + 1)
    return None


def _alone(module: nn.Module, x: Tensor) -> Tensor:
    seed_generators(0)
    y: Tensor = module(x)
    return y


def _apart(y: Tensor, z: Tensor, t: int) -> int | None:
    """Return the last of the first t positions at which y and z (1, L, D) differ by more than rounding, from 1; or None."""
    rounding = _ROUNDING.get(y.dtype, 1e-2)
    limit = _SAME * float(y[:, :t].abs().max()) + rounding * float(torch.maximum(y.abs(), z.abs()).max())
    differ = ((y - z)[0, :t].abs().flatten(1).amax(1) > limit).nonzero()
    return int(differ[-1]) + 1 if len(differ) else None

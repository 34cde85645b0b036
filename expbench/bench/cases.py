"""The cases of `expbench bench scan` (sizes, dtype, gate, transition), their tensors, and the backends that support them."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from expbench.errors import BadInput, unknown
from expbench.ops import backends
from expbench.ops.selective.operator import implementation
from expbench.ops.selective.problem import Form, Inputs, state_dtype
from expbench.ops.taylor import softplus_coefficients
from expbench.settings import split_list

DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32, "float64": torch.float64}
TRANSITIONS = ("exact", "taylor1", "taylor2", "taylor3", "linear")
NATIVE = "mamba-native"  # mamba-ssm in its own layout; the backend "mamba" also pays for transposes
REFERENCE_BYTES = 128  # memory per state element of autograd through the float64 reference; measured: 104 to 120
_DEFAULTS = {
    "cuda": "32x768x1024x16,8x1536x1024x16,8x1536x4096x16,65536x2x20x2,65536x4x32x4,4096x4x256x4,4096x8x1024x8",
    "cpu": "256x4x1024x4,1024x4x256x4",
}
_REFERENCE_MOST = {"cuda": 1 << 27, "cpu": 1 << 25}  # state elements; the plain loop is not timed on larger cases
_LARGEST = {"B": 1 << 24, "D": 1 << 16, "L": 1 << 24, "N": 1 << 10}
# Defaults follow typical uses: small models in float32 without a gate, language models in bfloat16 (on a GPU) with one.
_TINY = 8  # most states per channel for which the default dtype on a GPU is float32
_GATED = 16  # least states per channel for which a gate is the default


class Case(NamedTuple):
    """One problem: batch B, width D, length L, N states per channel; the transition is one of `TRANSITIONS`."""

    B: int
    D: int
    L: int
    N: int
    dtype: str
    gate: bool
    transition: str

    @property
    def elements(self) -> int:
        """Number of elements (batch, time, channel)."""
        return self.B * self.L * self.D

    @property
    def shape(self) -> str:
        """Sizes as written on the command line, BxDxLxN."""
        return f"{self.B}x{self.D}x{self.L}x{self.N}"

    @property
    def form(self) -> Form:
        """Transition as the argument of backends."""
        if self.transition.startswith("taylor"):
            return Form("taylor", int(self.transition.removeprefix("taylor")))
        return Form("linear" if self.transition == "linear" else "exact")

    def title(self) -> str:
        """Return the case as one line of text."""
        return f"{self.shape} {self.dtype} {self.transition}{' gate' if self.gate else ''}"


class Planned(NamedTuple):
    """A case and the backends to measure on it."""

    case: Case
    backends: tuple[str, ...]


def cases(
    shapes: str | None, L: str | None, dtype: str | None, transition: str, gate: bool | None, device: str
) -> list[Case]:
    """Return the cross product of the options' lists; None takes the default for the shape and the device.

    Raises `BadInput` for malformed or unknown values, and for cases that exceed the device's memory.
    """
    sizes = [_sizes(text) for text in split_list(_DEFAULTS[device] if shapes is None else shapes, "--shapes")]
    if L is not None:
        lengths = [_whole(text, "L", f"--L: {text!r}") for text in split_list(L, "--L")]
        sizes = list(dict.fromkeys((B, D, length, N) for B, D, _, N in sizes for length in lengths))
    dtypes = None if dtype is None else _choices(dtype, "--dtype", DTYPES)
    found = [
        Case(*size, name, size[3] >= _GATED if gate is None else gate, kind)
        for size in sizes
        for name in dtypes or ["float32" if device == "cpu" or size[3] <= _TINY else "bfloat16"]
        for kind in _choices(transition, "--transition", TRANSITIONS)
    ]
    for case in found:
        _check_memory(case, device)
    return found


def _sizes(text: str) -> tuple[int, int, int, int]:
    parts = text.lower().split("x")
    if len(parts) != 4:
        raise BadInput(f"--shapes: {text!r} is not BxDxLxN (batch, width, length, states), such as 32x768x1024x16")
    B, D, L, N = (_whole(part, letter, f"--shapes: {text!r}") for part, letter in zip(parts, "BDLN", strict=True))
    return B, D, L, N


def _whole(text: str, letter: str, where: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 19 and int(text) > 0):
        raise BadInput(f"{where}: {letter}={text!r} is not a whole number above 0; shapes are BxDxLxN: 32x768x1024x16")
    if int(text) > _LARGEST[letter]:
        raise BadInput(f"{where}: {letter}={text} is too large, the maximum is {_LARGEST[letter]}")
    return int(text)


def _choices(text: str, option: str, known: Sequence[str] | dict[str, torch.dtype]) -> list[str]:
    names = split_list(text, option)
    for name in names:
        if name not in known:
            raise unknown(f"value of {option}:", name, known)
    return names


def _check_memory(case: Case, device: str) -> None:
    sequences = (3 + case.gate) * case.elements + 2 * case.B * case.L * case.N  # u, delta, grad_y or y, (z), B, C
    need = 2 * sequences * DTYPES[case.dtype].itemsize  # outputs and gradients need as much again
    _, have = memory(device)
    if need > have:
        raise BadInput(
            f"--shapes: {case.shape} in {case.dtype} needs at least {need / 1e9:.1f} GB; the device has {have / 1e9:.1f} GB"
        )


def memory(device: str) -> tuple[int, int]:
    """Return free and total memory of the device in bytes.

    All memory of a CPU counts as free, because the system gives up its file caches on demand.
    """
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated(), total
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return total, total


def plan(found: Sequence[Case], names: str | None, device: str) -> tuple[list[Planned], list[str]]:
    """Return the backends that support each case, and notes on skipped backends.

    names: the option's list; None takes every backend that works on this machine. Raises `BadInput` for unknown or
    unavailable backends, and if nothing is left to measure.
    """
    notes: list[str] = []
    chosen = _available(device, notes) if names is None else split_list(names, "--backend")
    for name in chosen:
        backends.require(name)
    planned = []
    for case in found:
        like = stand_in(case, device)
        fit = []
        for name in chosen:
            reason = _reason_against(name, case, like, device)
            if reason is None:
                fit += [NATIVE, name] if name == "mamba" else [name]
            else:
                notes.append(f"{case.title()}: {name} is skipped: {reason}")
        if fit:
            planned.append(Planned(case, tuple(fit)))
    if not planned:
        raise BadInput(f"nothing to measure: {notes[-1]}" if notes else "nothing to measure")
    return planned, notes


def _available(device: str, notes: list[str]) -> list[str]:
    names = []
    for name in backends.BACKENDS:
        reason = backends.unavailable_reason(name)
        if reason is None and name == "triton" and device == "cpu":
            reason = "on a CPU it needs the interpreter; --backend triton includes it"
        if reason is None:
            names.append(name)
        else:
            notes.append(f"{name} is skipped: {reason}")
    return names


def _reason_against(name: str, case: Case, like: Inputs, device: str) -> str | None:
    if name == "reference":
        many = case.elements * case.N > _REFERENCE_MOST[device]
        return "a plain loop under autograd is too slow and too large at this size" if many else None
    return implementation(name).unsupported(like, case.form)


def stand_in(case: Case, device: str) -> Inputs:
    """Return inputs with the case's shapes and dtypes on the device; they are expanded scalars, which need no memory."""
    dtype = DTYPES[case.dtype]

    def tensor(*shape: int, of: torch.dtype = dtype) -> Tensor:
        return torch.zeros((), dtype=of, device=device).expand(1, *shape)

    B, D, L, N = case[:4]
    state = state_dtype(dtype)
    parts = tensor(B, L, D), tensor(B, L, D), tensor(D, N, of=state), tensor(B, L, N), tensor(B, L, N), tensor(D, of=state)
    coefficients = tensor(case.form.degree + 1, D, of=state) if case.form.kind == "taylor" else None
    z = tensor(B, L, D) if case.gate else None
    return Inputs(*parts, z=z, bias=tensor(D, of=state), coefficients=coefficients)


def tensors(case: Case, device: str) -> tuple[Inputs, Tensor]:
    """Draw inputs with skip and bias (and z with a gate) and the gradient of y (1, B, L, D), always from the same seed.

    Delta is about 1/2 for ``linear`` and about 1 for the other kinds, and A lies in (-1, 0). No transition then exceeds
    1, and some decay slowly.
    """
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0, of: torch.dtype = DTYPES[case.dtype]) -> Tensor:
        return (scale * torch.randn(1, *shape, generator=generator, device=device, dtype=state)).to(of)

    B, D, L, N = case[:4]
    state = state_dtype(DTYPES[case.dtype])
    u, grad_y, delta = normal(B, L, D), normal(B, L, D), normal(B, L, D, scale=0.2)
    A = -0.01 - 0.99 * torch.rand(1, D, N, generator=generator, device=device, dtype=state)
    z = normal(B, L, D) if case.gate else None
    coefficients = None
    if case.form.kind == "taylor":
        coefficients = torch.stack(softplus_coefficients(A.new_zeros(D), case.form.degree)).unsqueeze(0)
    skip, bias = normal(D, of=state), 0.5 + normal(D, scale=0.1, of=state)
    return Inputs(u, delta, A, normal(B, L, N), normal(B, L, N), skip, z, bias, None, coefficients), grad_y

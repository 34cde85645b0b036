"""The selective scan as a function of tensors, which checks them, casts them and calls a backend.

    h_t = a_t h_{t-1} + Delta_t u_t B_t,   y_t = C_t . h_t + D u_t
for each channel and state, with a and Delta as defined by `Transition` (Eq. 3-6 of arXiv 2502.02209). Sequences are
channel-last, (B, L, D); the state is never below float32. Letters: B batch, L length, D width, N state.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, overload

import torch
from torch import Tensor

from expbench.ops import backends
from expbench.ops.selective import operator
from expbench.ops.selective.backend_reference import discretise, reference
from expbench.ops.selective.problem import Form, Inputs, Kind, state_dtype
from expbench.ops.taylor import contraction_range

_SHAPES = {"u": "BLD", "delta": "BLD", "A": "DN", "B": "BLN", "C": "BLN", "D": "D", "z": "BLD", "delta_bias": "D"}
_SHAPES |= {"initial_state": "BDN", "transition.center": "D"}
_LAYOUTS = tuple(dict.fromkeys(_SHAPES.values()))
_SEQUENCES = ("u", "delta", "B", "C", "z")
_DTYPES = (torch.bfloat16, torch.float32, torch.float64)
_HIGHEST_DEGREE = 12
_lowest = backends.constant_when_traced(lambda degree: contraction_range(degree))


@dataclass(frozen=True, eq=False)
class Transition:
    """The map from r = delta + delta_bias to Delta and a, with v = Delta A; create it by `exact`, `taylor` or `linear`.

    kind: see `Form`. degree: that of both Taylor polynomials. center: the point of expansion of softplus, a number or (D,)
    without gradient; exp is expanded about 0. lowest: if negative, v is clamped to [lowest, 0] first.
    """

    kind: Kind = "exact"
    degree: int = 0
    center: float | Tensor = 0.0
    lowest: float = 0.0

    @classmethod
    def exact(cls) -> Transition:
        """Return the transition Delta = softplus(r), a = exp(v)."""
        return cls()

    @classmethod
    def taylor(cls, degree: int, center: float | Tensor = 0.0, clip: bool = False) -> Transition:
        """Return the transition by Taylor polynomials of `degree` of softplus, about `center`, and of exp, about 0.

        clip: clamp v to the interval on which the polynomial of exp stays in [0, 1]. Raises ValueError for a degree out
        of range.
        """
        if not 1 <= degree <= _HIGHEST_DEGREE:
            raise ValueError(f"Transition.taylor: degree is {degree}, expected 1 to {_HIGHEST_DEGREE}")
        return cls("taylor", degree, center, _lowest(degree) if clip else 0.0)

    @classmethod
    def linear(cls) -> Transition:
        """Return the transition Delta = r, a = v."""
        return cls("linear")


_EXACT = Transition()


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    transition: Transition = ...,
    delta_on_b: bool = True,
    return_last_state: Literal[False] = False,
    backend: str | None = None,
) -> Tensor: ...


@overload
def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    transition: Transition = ...,
    delta_on_b: bool = True,
    return_last_state: Literal[True],
    backend: str | None = None,
) -> tuple[Tensor, Tensor]: ...


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    initial_state: Tensor | None = None,
    *,
    transition: Transition = _EXACT,
    delta_on_b: bool = True,
    return_last_state: bool = False,
    backend: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """Return y (B, L, D), and with `return_last_state` also the state after the last step (B, D, N).

    u, delta, gate z: (B, L, D). A: (D, N). B, C: (B, L, N). skip D, delta_bias: (D,). initial_state: (B, D, N).
    delta_on_b: whether the input of the state is Delta B u (else B u). With a gate, the output is y silu(z). backend: one of
    `BACKENDS`; None takes the one that `backends.using` forces, else the best one for the device.

    The sequences u, delta, B, C and z are promoted to a common dtype, or cast to autocast's dtype if it is on; y has this
    dtype. The other tensors are cast to the state's dtype: float64 if the sequences are float64, else float32. All
    tensors but transition.center have gradients. Only the backend ``reference`` supports second derivatives, forward mode
    and torch.func. Raises ValueError or TypeError for tensors of a wrong shape, device or dtype.
    """
    given = {"u": u, "delta": delta, "A": A, "B": B, "C": C, "D": D, "z": z, "delta_bias": delta_bias}
    given |= {"initial_state": initial_state}
    if isinstance(transition.center, Tensor):
        given["transition.center"] = transition.center
    tensors = {name: x for name, x in given.items() if x is not None}
    _check_shapes(tensors)
    tensors = _cast(tensors, u.device.type)
    coefficients = _expand(tensors, transition) if transition.kind == "taylor" else None
    u, delta, A, B, C = (tensors[name] for name in ("u", "delta", "A", "B", "C"))
    D, z, delta_bias, initial_state = map(tensors.get, ("D", "z", "delta_bias", "initial_state"))
    inputs = Inputs(u, delta, A, B, C, D, z, delta_bias, initial_state, coefficients)
    form = Form(transition.kind, transition.degree, transition.lowest, delta_on_b)
    y, last = _solve(inputs, form, backends.requested(backend))
    return (y, last) if return_last_state else y


def _solve(inputs: Inputs, form: Form, backend: str | None) -> tuple[Tensor, Tensor]:
    """Return y (B, L, D) and the last state (B, D, N) for inputs without the axis S."""
    if backend != "reference":
        keep = torch.is_grad_enabled()  # not `requires_grad` of the inputs: vmap hides it
        y, last, _, _ = torch.ops.expbench.selective_scan(*inputs, *form, backend or "auto", keep)
        return y, last
    backends.ran(operator.OPERATION, backend)
    stacked: Any = [None if x is None else x.unsqueeze(0) for x in inputs]
    with operator.without_autocast(inputs.u.device.type):
        y, last = reference(Inputs(*stacked), form)
    return y.squeeze(0), last.squeeze(0)


def discretised(delta: Tensor, A: Tensor, transition: Transition = _EXACT) -> tuple[Tensor, Tensor, Tensor]:
    """Return Delta (B, L, D), v = Delta A and a (both (B, L, D, N)), as the scan computes them from delta and A (D, N)."""
    tensors = {"A": A}
    if isinstance(transition.center, Tensor):
        tensors["transition.center"] = transition.center
    coefficients = _expand(tensors, transition).unsqueeze(0) if transition.kind == "taylor" else None
    argument = delta.to(state_dtype(delta.dtype)) + tensors.get("delta_bias", 0)
    form = Form(transition.kind, transition.degree, transition.lowest)
    step, a = discretise(argument.unsqueeze(0), A.unsqueeze(0), form, coefficients)
    step = step.squeeze(0)
    return step, step.unsqueeze(-1) * A, a.squeeze(0)


def _expand(tensors: dict[str, Tensor], transition: Transition) -> Tensor:
    """Return the coefficients (degree + 1, D) of softplus's Taylor polynomial, and subtract its center from the bias.

    The bias among `tensors` absorbs the center, so that backends evaluate the polynomial at their argument as it is.
    """
    A, bias = tensors["A"], tensors.get("delta_bias")
    point = transition.center
    center = tensors["transition.center"] if isinstance(point, Tensor) else A.new_full(A.shape[:1], point)
    coefficients: Tensor = torch.ops.expbench.softplus_coefficients(center, transition.degree)
    if isinstance(point, Tensor) or point != 0:
        tensors["delta_bias"] = -center if bias is None else bias - center
    return coefficients


def _check_shapes(tensors: Mapping[str, Tensor]) -> None:
    """Raise TypeError for a non-tensor, and ValueError for a shape or device that does not match u and A, or a size of 0."""
    for name in [name for name, x in tensors.items() if not isinstance(x, Tensor)]:
        raise TypeError(f"selective_scan: {name} must be a tensor, not a {type(tensors[name]).__name__}")
    u, A = tensors["u"], tensors["A"]
    sizes = dict(zip("BLD", u.shape, strict=False)) if u.ndim == 3 else {}
    if A.ndim == 2:
        sizes["N"] = A.shape[1]
    expected = {letters: tuple(map(sizes.get, letters)) for letters in _LAYOUTS}
    for name, x in tensors.items():
        if tuple(x.shape) != expected[_SHAPES[name]]:
            wanted = ", ".join(f"{letter}={sizes[letter]}" if letter in sizes else letter for letter in _SHAPES[name])
            raise ValueError(f"selective_scan: {name} has shape {tuple(x.shape)}, expected ({wanted})")
        if x.device != u.device:
            raise ValueError(f"selective_scan: {name} is on {x.device}, but u is on {u.device}")
    for name in ("u", "A"):
        if 0 in tensors[name].shape:
            raise ValueError(f"selective_scan: {name} has shape {tuple(tensors[name].shape)}, but sizes must not be 0")


def _cast(tensors: Mapping[str, Tensor], device: str) -> dict[str, Tensor]:
    """Return all tensors in their canonical dtypes (see `selective_scan`). Raises TypeError for unsupported dtypes."""
    dtypes = {name: x.dtype for name, x in tensors.items()}
    lower = operator.autocast_dtype(device)
    if lower is not None:
        dtypes |= {name: lower for name in _SEQUENCES if dtypes.get(name) in (torch.float16, torch.bfloat16, torch.float32)}
    common = dtypes["u"]
    for name, dtype in dtypes.items():
        if dtype == torch.float16:
            raise TypeError(f"selective_scan: {name} is {dtype}: its range is too small for a scan, use bfloat16")
        if dtype not in _DTYPES:
            raise TypeError(f"selective_scan: {name} is {dtype}: expected bfloat16, float32 or float64")
        if name in _SEQUENCES:
            common = torch.promote_types(common, dtype)
    wanted = {name: common if name in _SEQUENCES else state_dtype(common) for name in tensors}
    return {name: x if x.dtype == wanted[name] else x.to(wanted[name]) for name, x in tensors.items()}

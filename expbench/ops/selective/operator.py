"""The selective scan as torch operators, so that autograd, vmap and torch.compile see forward and backward as single steps.

An operator takes flattened `Inputs` and `Form`; either all tensors have the axis S or none. Its kernel chooses the
implementation from the tensors that finally reach it: under vmap, the mapped models are already folded into S.

Operators are registered by hand, because the first call of a torch.library.custom_op imports the compiler (2 seconds), and
an autograd formula of torch.library.register_autograd doubles the overhead of a call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from importlib import import_module
from typing import Any, ClassVar, NoReturn, Protocol, cast

import torch
from torch import Tensor
from torch.autograd import forward_ad

from expbench.ops import backends
from expbench.ops.selective.problem import Form, Gradients, Inputs, Outputs
from expbench.ops.taylor import softplus_coefficients

OPERATION = "selective scan"
_MODULES = {"torch": "backend_torch", "triton": "backend_triton", "mamba": "backend_mamba"}
_TENSORS = len(Inputs._fields)
_LIBRARY = torch.library.Library("expbench", "FRAGMENT")


class Implementation(Protocol):
    """The functions of a backend module of this package."""

    def unavailable_reason(self) -> str | None:
        """Return why the backend is unavailable on this machine and how to install it, or None; probe once, by a call."""

    def unsupported(self, inputs: Inputs, form: Form) -> str | None:
        """Return why the backend does not support this problem ("it supports no initial state"), or None.

        Only shapes, dtypes and devices may be read, because tensors have no data while torch.compile traces.
        """

    def saved_shapes(self, inputs: Inputs, form: Form) -> tuple[Sequence[int], Sequence[int]]:
        """Return the shapes of `Outputs.raw`, in the dtype of u, and of `Outputs.checkpoints` if gradients are requested."""

    def forward(self, inputs: Inputs, form: Form, keep: bool) -> Outputs:
        """Solve the problem; keep: whether gradients may be requested later.

        Inputs may have any strides. No output may share memory with another tensor.
        """

    def backward(
        self, grad_y: Tensor, grad_last: Tensor | None, inputs: Inputs, form: Form, raw: Tensor, checkpoints: Tensor
    ) -> Gradients:
        """Return the gradients of the inputs from those of y (S, B, L, D) and the last state (S, B, D, N; None if unused).

        It cannot use autograd, which is inactive within operators.
        """


def choose(inputs: Inputs, form: Form, backend: str) -> tuple[str, Implementation]:
    """Return name and module of the implementation: that of `backend`, or for ``auto`` the best one for the inputs.

    Raises `BadInput` if a named backend is unavailable on this machine, and
    `BackendUnsupported` if it does not support this problem.
    """
    if backend == "auto":
        name = "triton" if inputs.u.is_cuda and _suits("triton", inputs, form) else "torch"
        return name, implementation(name)
    backends.require(backend)
    module = implementation(backend)
    reason = module.unsupported(inputs, form)
    if reason is not None:
        raise backends.BackendUnsupported(f"{OPERATION}: backend {backend!r} does not support this problem: {reason}")
    return backend, module


def _suits(name: str, inputs: Inputs, form: Form) -> bool:
    return backends.unavailable_reason(name) is None and implementation(name).unsupported(inputs, form) is None


def implementation(name: str) -> Implementation:
    """Import the module of a backend other than ``reference``."""
    return cast(Implementation, import_module(f"expbench.ops.selective.{_MODULES[name]}"))


def autocast_dtype(device: str) -> torch.dtype | None:
    """Return the dtype to which autocast casts on devices of this type, or None if autocast is off."""
    enabled = device != "meta" and torch.is_autocast_enabled(device)
    return torch.get_autocast_dtype(device) if enabled else None


def without_autocast(device: str) -> AbstractContextManager[object]:
    """Return a context in which autocast is off, so that torch keeps the given dtypes."""
    return nullcontext() if autocast_dtype(device) is None else torch.autocast(device, enabled=False)


class _Operator(torch.autograd.Function):
    """A torch operator: schema, kernel, outputs on fake tensors, vmap rule, and its gradient as an autograd Function."""

    schema: ClassVar[str]
    kernel: ClassVar[Callable[..., Any]]
    fake: ClassVar[Callable[..., Any]]
    call: ClassVar[Callable[..., Any]]

    @classmethod
    def register(cls) -> None:
        """Register the schema and its implementations with torch."""
        name = cls.schema.partition("(")[0]
        _LIBRARY.define(cls.schema, tags=(torch.Tag.pt2_compliant_tag,))
        cls.call = getattr(torch.ops.expbench, name).default
        _LIBRARY.impl(name, cls.kernel, "CompositeExplicitAutograd")
        _LIBRARY.impl(name, cls.differentiable, "Autograd")
        torch.library.register_fake(f"expbench::{name}", cls.fake, lib=_LIBRARY)
        torch.library.register_vmap(f"expbench::{name}", cls.vmap, lib=_LIBRARY)

    @classmethod
    def differentiable(cls, *arguments: Any) -> Any:
        """Run the operator under autograd; raise NotImplementedError within torch.func transforms."""
        if torch._C._are_functorch_transforms_active() or forward_ad._current_level >= 0:
            raise _only_reference("torch.func.grad, vjp, jvp or a dual level is active")
        return cls.apply(*arguments) if torch.is_grad_enabled() else cls.undifferentiated(*arguments)

    @classmethod
    def undifferentiated(cls, *arguments: Any) -> Any:
        """Run the operator below autograd."""
        with torch._C._AutoDispatchBelowAutograd():
            return cls.call(*arguments)


def _only_reference(what: str) -> NotImplementedError:
    return NotImplementedError(f"{OPERATION}: {what}, which only backend='reference' supports")


_INPUTS = "Tensor u, Tensor delta, Tensor A, Tensor B, Tensor C, Tensor? skip, Tensor? z, Tensor? bias, Tensor? state, "
_INPUTS += "Tensor? coefficients"
_FORM = "str kind, int degree, float lowest, bool delta_on_b, str backend"


class _Scan(_Operator):
    schema = f"selective_scan({_INPUTS}, {_FORM}, bool keep) -> (Tensor, Tensor, Tensor, Tensor)"

    @staticmethod
    def kernel(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, keep = arguments
        inputs, form, backend, single = _problem(tensors)
        name, module = choose(inputs, form, backend)
        backends.ran(OPERATION, name)
        with without_autocast(inputs.u.device.type):
            y, last, raw, checkpoints = module.forward(inputs, form, keep)
        if single:
            y, last = y.squeeze(0), last.squeeze(0)
        return y.contiguous(), last.contiguous(), raw.contiguous(), checkpoints.contiguous()

    @staticmethod
    def fake(*arguments: Any) -> tuple[Tensor, ...]:
        *tensors, keep = arguments
        inputs, form, backend, _ = _problem(tensors)
        raw, checkpoints = choose(inputs, form, backend)[1].saved_shapes(inputs, form)
        u, A = tensors[0], tensors[2]
        last = A.new_empty((*u.shape[:-2], *A.shape[-2:]))
        return u.new_empty(u.shape), last, u.new_empty(raw), A.new_empty(checkpoints if keep else (0,))

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        size, tensors = info.batch_size, arguments[:_TENSORS]
        single = arguments[0].ndim - (dims[0] is not None) == 3
        pairs = zip(tensors, dims, strict=False)
        mapped = [x if x is None else x.expand(size, *x.shape) if d is None else x.movedim(d, 0) for x, d in pairs]
        folded = mapped if single else [x if x is None else x.flatten(0, 1) for x in mapped]
        y, last, raw, checkpoints = _Scan.call(*folded, *arguments[_TENSORS:])
        if not single:
            y, last = y.unflatten(0, (size, -1)), last.unflatten(0, (size, -1))
        return (y, last, raw, checkpoints), (0, 0, None, None)  # raw, checkpoints: folded, for the backward only

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = _Scan.undifferentiated(*arguments)
        raw, checkpoints = output[2:]
        ctx.save_for_backward(*arguments[:_TENSORS], raw, checkpoints)
        ctx.form = arguments[_TENSORS:-1]
        ctx.mark_non_differentiable(raw, checkpoints)
        ctx.set_materialize_grads(False)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        *tensors, raw, checkpoints = ctx.saved_tensors
        grad_y = torch.zeros_like(tensors[0]) if grads[0] is None else grads[0]
        found = _ScanBackward.call(grad_y, grads[1], *tensors, *ctx.form, raw, checkpoints)
        needed = ctx.needs_input_grad
        return *(g if n else None for g, n in zip(found, needed, strict=False)), *[None] * (len(needed) - len(found))


class _ScanBackward(_Operator):
    """The gradient of `_Scan`; the gradient of an absent input is an empty tensor."""

    schema = (
        f"selective_scan_backward(Tensor grad_y, Tensor? grad_last, {_INPUTS}, {_FORM}, Tensor raw, Tensor checkpoints)"
        f" -> ({', '.join(['Tensor'] * len(Gradients._fields))})"
    )

    @staticmethod
    def kernel(grad_y: Tensor, grad_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
        *tensors, raw, checkpoints = arguments
        inputs, form, backend, single = _problem(tensors)
        _, module = choose(inputs, form, backend)
        if single:
            grad_y = grad_y.unsqueeze(0)
            grad_last = None if grad_last is None else grad_last.unsqueeze(0)
        with without_autocast(grad_y.device.type):
            found = module.backward(grad_y, grad_last, inputs, form, raw, checkpoints)
        present = [grad_y.new_empty(0) if x is None else x.contiguous() for x in found]
        return tuple(x.squeeze(0) if single and x.ndim > 1 else x for x in present)

    @staticmethod
    def fake(grad_y: Tensor, grad_last: Tensor | None, *arguments: Any) -> tuple[Tensor, ...]:
        inputs = arguments[: len(Gradients._fields)]
        return tuple(grad_y.new_empty(0) if x is None else x.new_empty(x.shape) for x in inputs)

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], *arguments: Any) -> tuple[Any, Any]:
        """Loop over the mapped axis: only gradients are mapped (for a Jacobian), and they share one scan's checkpoints."""
        if any(dim is not None for dim in dims[2:]):
            raise _only_reference("its gradient is taken under vmap")
        grads, each = list(zip(arguments[:2], dims, strict=False)), []
        for i in range(info.batch_size):
            chosen = (x if dim is None else x.select(dim, i) for x, dim in grads)
            each.append(_ScanBackward.call(*chosen, *arguments[2:]))
        return tuple(torch.stack(parts) for parts in zip(*each, strict=True)), (0,) * len(Gradients._fields)

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> tuple[Tensor, ...]:
        output: tuple[Tensor, ...] = _ScanBackward.undifferentiated(*arguments)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> NoReturn:
        raise _only_reference("its gradient is differentiated again")


class _Coefficients(_Operator):
    """Coefficients (degree + 1, D) of softplus's Taylor polynomial about center (D,).

    They are an operator because torch.compile cannot trace the numpy polynomials within.
    """

    schema = "softplus_coefficients(Tensor center, int degree) -> Tensor"

    @staticmethod
    def kernel(center: Tensor, degree: int) -> Tensor:
        return torch.stack(softplus_coefficients(center, degree))

    @staticmethod
    def fake(center: Tensor, degree: int) -> Tensor:
        return center.new_empty((degree + 1, *center.shape))

    @staticmethod
    def vmap(info: Any, dims: Sequence[int | None], *arguments: Any) -> tuple[Tensor, int]:
        center, degree = arguments
        assert dims[0] is not None
        return _Coefficients.call(center.movedim(dims[0], 0), degree), 1

    @staticmethod
    def forward(ctx: Any, *arguments: Any) -> Tensor:
        if ctx.needs_input_grad[0]:
            raise ValueError(f"{OPERATION}: transition.center requires grad, but its gradient is not implemented: detach it")
        coefficients: Tensor = _Coefficients.undifferentiated(*arguments)
        return coefficients


def _problem(arguments: Sequence[Any]) -> tuple[Inputs, Form, str, bool]:
    """Return inputs with the axis S, form, backend, and whether the given tensors lack the axis S."""
    tensors, form, backend = arguments[:_TENSORS], Form(*arguments[_TENSORS:-1]), arguments[-1]
    single = tensors[0].ndim == 3
    if single:
        tensors = [None if x is None else x.unsqueeze(0) for x in tensors]
    return Inputs(*tensors), form, backend, single


for _operator in (_Scan, _ScanBackward, _Coefficients):
    _operator.register()

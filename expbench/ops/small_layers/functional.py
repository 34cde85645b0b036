"""Small layers: linear maps, norms, embeddings, splits and cross-entropy over rows of a few numbers, for stacks on a GPU.

torch's kernels are made for rows of hundreds of numbers: at two channels, its LayerNorm reaches a hundredth of the memory
bandwidth. `Narrow` replaces them by Triton kernels whose values equal torch's up to rounding.
Letters: S stacked runs, R rows, I inputs, O outputs, C classes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from expbench.ops import backends

_NARROW, _WIDEST = 8, 64  # most inputs and most outputs of a linear map; a split row has at most _WIDEST numbers
_WIDEST_ROW = 256  # most channels of a norm, and most classes of a cross-entropy
_MOST_PARTS = 4  # of a split: the kernel has four output pointers, and unused ones are None
_TILE, _WARPS = 1024, 4  # numbers per block of rows, and warps per block
_PROGRAMS = 2048  # enough to fill any GPU; more would only add partial sums


def available() -> bool:
    """Return whether there is a GPU with Triton, and no other backend is forced."""
    return (
        torch.cuda.is_available() and backends.forced() in (None, "triton") and backends.unavailable_reason("triton") is None
    )


class Narrow(TorchFunctionMode):
    """A context in which torch's functions run on the kernels for small layers if the tensors qualify, also under vmap."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        ours = _OURS.get(function)
        answer = ours(*args, **(kwargs or {})) if ours else NotImplemented
        return function(*args, **(kwargs or {})) if answer is NotImplemented else answer


def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return `F.linear` (..., O) of input (..., I), weight (O, I) and bias (O,); NotImplemented unless small and float32."""
    outs, ins = weight.shape
    if ins > _NARROW or outs > _WIDEST or not _ours(input, weight, bias):
        return NotImplemented  # type: ignore[no-any-return]
    y: Tensor = _Linear.apply(input.reshape(1, -1, ins), weight[None], bias if bias is None else bias[None])
    return y.reshape(*input.shape[:-1], outs)


def layer_norm(
    input: Tensor, normalized_shape: Any, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Return `F.layer_norm` of input (..., I) over the last axis, or NotImplemented."""
    return _norm(input, normalized_shape, weight, bias, eps, True)


def rms_norm(input: Tensor, normalized_shape: Any, weight: Tensor | None = None, eps: float | None = None) -> Tensor:
    """Return `F.rms_norm` of input (..., I) over the last axis, or NotImplemented."""
    return _norm(input, normalized_shape, weight, None, torch.finfo(input.dtype).eps if eps is None else eps, False)


def embedding(
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """Return `F.embedding` (..., O) of tokens (...) and weight (I, O) for a small vocabulary I, or NotImplemented.

    It is computed as a linear map of one-hot rows, because the gradient is then a matrix product instead of a scatter.
    """
    tokens = weight.shape[0]
    if padding_idx is not None or max_norm is not None or scale_grad_by_freq or sparse or tokens > _NARROW:
        return NotImplemented  # type: ignore[no-any-return]
    chosen = (input.unsqueeze(-1) == torch.arange(tokens, device=input.device)).to(weight.dtype)
    return linear(chosen, weight.T)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: Any = None,
    ignore_index: int = -100,
    reduce: Any = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the mean `F.cross_entropy`, a scalar, of logits (R, C) and target classes (R,), or NotImplemented."""
    plain = weight is None and size_average is None and reduce is None and reduction == "mean" and label_smoothing == 0
    if not plain or input.ndim != 2 or target.ndim != 1 or input.shape[1] > _WIDEST_ROW or not _ours(input):
        return NotImplemented  # type: ignore[no-any-return]
    loss: Tensor = _CrossEntropy.apply(input[None], target[None], ignore_index)[0]
    return loss.squeeze(0)


def split(input: Tensor, split_size_or_sections: Any = None, dim: int = 0, *, split_size: Any = None) -> tuple[Tensor, ...]:
    """Return `torch.split` of input (..., I) along its last axis into two to four contiguous copies, or NotImplemented."""
    sizes = split_size if split_size_or_sections is None else split_size_or_sections
    if dim not in (-1, input.ndim - 1) or isinstance(sizes, int) or not 2 <= len(sizes) <= _MOST_PARTS:
        return NotImplemented  # type: ignore[no-any-return]
    width = input.shape[-1]
    if sum(sizes) != width or min(sizes) < 1 or width > _WIDEST or not _ours(input):
        return NotImplemented  # type: ignore[no-any-return]
    parts = _Split.apply(input.reshape(1, -1, width), tuple(sizes))
    return tuple(part.reshape(*input.shape[:-1], -1) for part in parts)


def chunk(input: Tensor, chunks: int, dim: int = 0) -> tuple[Tensor, ...]:
    """Return `torch.chunk` of input (..., I) into equal parts, as `split` does, or NotImplemented."""
    if input.ndim == 0 or chunks < 1 or input.shape[-1] % chunks:
        return NotImplemented  # type: ignore[no-any-return]
    return split(input, [input.shape[-1] // chunks] * chunks, dim)


_OURS: dict[Any, Callable[..., Any]] = {
    F.linear: linear,
    F.layer_norm: layer_norm,
    F.rms_norm: rms_norm,
    F.embedding: embedding,
    F.cross_entropy: cross_entropy,
    torch.split: split,
    torch.Tensor.split: split,
    torch.chunk: chunk,
    torch.Tensor.chunk: chunk,
}


def _norm(x: Tensor, shape: Any, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
    if len(shape) != 1 or shape[0] > _WIDEST_ROW or not _ours(x, weight, bias):
        return NotImplemented  # type: ignore[no-any-return]
    parameters = (p if p is None else p[None] for p in (weight, bias))
    y: Tensor = _Norm.apply(x.reshape(1, -1, shape[0]), *parameters, eps, centred)
    return y.reshape(x.shape)


def _ours(*tensors: Tensor | None) -> bool:
    """Return whether the kernels support these tensors (None: absent); if so, record that they run."""
    if torch.is_autocast_enabled("cuda") or not all(x is None or _suits(x) for x in tensors):
        return False
    backends.ran("small layers", "triton")
    return True


def _suits(x: Tensor) -> bool:
    return _on_device(x) and x.dtype == torch.float32


def _on_device(x: Tensor) -> bool:
    return x.is_cuda


class _Linear(torch.autograd.Function):
    """Linear map of x (S, R, I), weight (S, O, I), bias (S, O) or None to (S, R, O); a mapped axis joins S."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        from expbench.ops.small_layers import triton_kernels

        x, weight = x.contiguous(), weight.contiguous()
        (S, R, ins), outs = x.shape, weight.shape[1]
        y = x.new_empty(S, R, outs)
        wide, rows = _tile(outs)
        bias = bias if bias is None else bias.contiguous()
        triton_kernels.linear_forward[(-(-R // rows), S)](x, weight, bias, y, R, ins, outs, wide, rows, num_warps=_WARPS)
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs[:2])
        ctx.biased = inputs[2] is not None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from expbench.ops.small_layers import triton_kernels

        x, weight = (saved.contiguous() for saved in ctx.saved_tensors)
        (S, R, ins), outs = x.shape, weight.shape[1]
        wide, rows = _tile(outs)
        programs, blocks = _parts(S, -(-R // rows))
        dx, dw = torch.empty_like(x), x.new_empty(S, programs, ins, outs)
        db = x.new_empty(S, programs, outs) if ctx.biased else None
        triton_kernels.linear_backward[(programs, S)](
            x, weight, grad.contiguous(), dx, dw, db, R, blocks, ins, outs, wide, rows, num_warps=_WARPS
        )
        return dx, dw.sum(1).mT, db if db is None else db.sum(1)

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *tensors: Tensor | None) -> tuple[Tensor, int]:
        y: Tensor = _Linear.apply(*_joined(info.batch_size, in_dims, tensors))
        return y.unflatten(0, (info.batch_size, -1)), 0


class _Norm(torch.autograd.Function):
    """Layer norm (centred) or RMS norm of x (S, R, I), weight and bias (S, I) or None; a mapped axis joins S."""

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, centred: bool) -> Tensor:
        from expbench.ops.small_layers import triton_kernels

        x = x.contiguous()
        weight, bias = (p if p is None else p.contiguous() for p in (weight, bias))
        S, R, ins = x.shape
        wide, rows = _tile(ins)
        y = torch.empty_like(x)
        triton_kernels.norm_forward[(-(-R // rows), S)](
            x, weight, bias, y, R, eps, ins, wide, rows, centred, num_warps=_WARPS
        )
        return y

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, ctx.eps, ctx.centred = inputs
        ctx.save_for_backward(x, weight)
        ctx.biased = bias is not None

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        from expbench.ops.small_layers import triton_kernels

        x, weight = ctx.saved_tensors
        x, weight = x.contiguous(), weight if weight is None else weight.contiguous()
        S, R, ins = x.shape
        wide, rows = _tile(ins)
        programs, blocks = _parts(S, -(-R // rows))
        dx = torch.empty_like(x)
        dw = x.new_empty(S, programs, ins) if weight is not None else None
        db = x.new_empty(S, programs, ins) if ctx.biased else None
        triton_kernels.norm_backward[(programs, S)](
            x, weight, grad.contiguous(), dx, dw, db, R, blocks, ctx.eps, ins, wide, rows, ctx.centred, num_warps=_WARPS
        )
        return dx, *(part if part is None else part.sum(1) for part in (dw, db)), None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[Tensor, int]:
        y: Tensor = _Norm.apply(*_joined(info.batch_size, in_dims[:3], arguments[:3]), *arguments[3:])
        return y.unflatten(0, (info.batch_size, -1)), 0


class _Split(torch.autograd.Function):
    """Split of x (S, R, I) into parts (S, R, I_k), each contiguous; a mapped axis joins S.

    torch returns views instead, which later operations copy, and it is slow at concatenating their gradients.
    """

    @staticmethod
    def forward(x: Tensor, sizes: tuple[int, ...]) -> tuple[Tensor, ...]:
        from expbench.ops.small_layers import triton_kernels

        parts = tuple(x.new_empty(*x.shape[:2], size) for size in sizes)
        _side_by_side(triton_kernels.split, x.contiguous(), parts)
        return parts

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        pass

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        from expbench.ops.small_layers import triton_kernels

        whole = grads[0].new_empty(*grads[0].shape[:2], sum(grad.shape[2] for grad in grads))
        _side_by_side(triton_kernels.join, whole, tuple(grad.contiguous() for grad in grads))
        return whole, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, ...]]:
        parts = _Split.apply(*_joined(info.batch_size, in_dims[:1], arguments[:1]), arguments[1])
        return tuple(part.unflatten(0, (info.batch_size, -1)) for part in parts), (0,) * len(parts)


def _side_by_side(kernel: Any, whole: Tensor, parts: tuple[Tensor, ...]) -> None:
    """Call `kernel` (`split` or `join`) on the whole rows (S, R, I) and their parts (S, R, I_k)."""
    rows, width = whole.shape[0] * whole.shape[1], whole.shape[2]
    wide, tile = _tile(width)
    missing = _MOST_PARTS - len(parts)
    sizes = (*(part.shape[2] for part in parts), *[0] * missing)
    kernel[(-(-rows // tile),)](whole, *parts, *[None] * missing, rows, *sizes, wide, tile, num_warps=_WARPS)


class _CrossEntropy(torch.autograd.Function):
    """Mean cross-entropy (S,) of x (S, R, C) and target (S, R); a mapped axis joins S."""

    @staticmethod
    def forward(x: Tensor, target: Tensor, ignored: int) -> tuple[Tensor, Tensor]:
        from expbench.ops.small_layers import triton_kernels

        x, target = x.contiguous(), target.contiguous()
        S, R, ins = x.shape
        wide, rows = _tile(ins)
        programs, blocks = _parts(S, -(-R // rows))
        sums = x.new_empty(S, programs, 2)
        triton_kernels.cross_entropy_forward[(programs, S)](
            x, target, sums, R, blocks, ignored, ins, wide, rows, num_warps=_WARPS
        )
        loss, count = sums.sum(1).unbind(1)
        return loss / count, count

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        x, target, ctx.ignored = inputs
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(x, target, output[1])

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        from expbench.ops.small_layers import triton_kernels

        x, target, count = ctx.saved_tensors
        x, target = x.contiguous(), target.contiguous()
        S, R, ins = x.shape
        wide, rows = _tile(ins)
        dx = torch.empty_like(x)
        triton_kernels.cross_entropy_backward[(-(-R // rows), S)](
            x, target, grad / count, dx, R, ctx.ignored, ins, wide, rows, num_warps=_WARPS
        )
        return dx, None, None

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int | None, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
        found = _CrossEntropy.apply(*_joined(info.batch_size, in_dims[:2], arguments[:2]), arguments[2])
        return tuple(x.unflatten(0, (info.batch_size, -1)) for x in found), (0, 0)


def _joined(size: int, dims: tuple[int | None, ...], tensors: tuple[Tensor | None, ...]) -> list[Tensor | None]:
    """Return tensors (S, ...), mapped along `dims`, with the mapped axis of `size` and S merged; None stays None."""
    first = [
        x if x is None else x.movedim(dim, 0) if dim is not None else x.expand(size, *x.shape)
        for x, dim in zip(tensors, dims, strict=True)
    ]
    return [x if x is None else x.flatten(0, 1) for x in first]


def _parts(S: int, blocks: int) -> tuple[int, int]:
    """Return the number of programs that share the `blocks` of rows of one of S models, and the most blocks per program."""
    each = -(-blocks // min(blocks, -(-_PROGRAMS // S)))
    return -(-blocks // each), each


def _tile(size: int) -> tuple[int, int]:
    """Return `size` rounded up to a power of two, and the number of rows of that width in a block."""
    wide = 1 << (size - 1).bit_length()
    return wide, max(1, _TILE // wide)

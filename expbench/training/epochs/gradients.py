"""Gradients: the forward and backward pass of a batch, captured as a CUDA graph on a GPU.

The host takes 35 to 45 ms to launch the thousand kernels of twelve layers. An H200 takes equally long to run them for 32 x
1024 tokens, and half as long if two GPUs share the batch, so that eager launches would be the bottleneck.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from expbench.nn import forward_state
from expbench.training import cuda_graph
from expbench.training.distributed import Group, no_sync
from expbench.training.epochs.recipe import Recipe, TrainerOptions
from expbench.training.epochs.workload import Batch, Workload
from expbench.training.precision import precision_context

_EAGER_BATCHES = 3  # before the capture, because the first batches compile programs and select kernels
# Tolerance of the relative distance, parameter by parameter, between the gradients of a step and of its replay. The kernels
# are the same, but those of attention sum in bfloat16 and in varying order. A gradient that is missing has distance 1.
_ALIKE = 0.05


class _Loss(nn.Module):
    """The loss of a model as a forward pass, because DistributedDataParallel hooks into `forward`."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.model = workload.model  # a submodule, so that DistributedDataParallel sees its parameters
        self._of = workload.loss

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        return self._of(batch)


class GradientAccumulator:
    """A callable that stores the gradients of a batch in the model's parameters, averaged over the process group.

    In eager mode torch's DistributedDataParallel reduces gradients while they are computed. A graph writes its gradients
    into fixed, contiguous memory. They are reduced in one sum after the replay, so that no process waits for another inside
    a graph.

    no_cuda_graph_reason: the reason why the capture failed, if it was tried. memory: the peak memory of the
    GPU in bytes until the capture, because a replay allocates nothing that torch could count.
    """

    def __init__(self, workload: Workload, recipe: Recipe, options: TrainerOptions, group: Group) -> None:
        self._recipe, self._group, self._model = recipe, group, workload.model
        self._loss: nn.Module = _Loss(workload)
        self._parameters = [p for p in workload.model.parameters() if p.requires_grad]
        self._micro_batch_size = options.micro_batch_size or recipe.batch_size
        captured = options.captured and cuda_graph.possible(group.device)
        self._left = _EAGER_BATCHES if captured else None  # None: the capture is done or disabled
        self._replay: Callable[[], Tensor] | None = None
        self._batch: Batch = ()  # the graph's input
        self._beside: list[Tensor] = []  # the graph's gradients, one contiguous tensor per dtype
        self.no_cuda_graph_reason: str | None = None
        self.memory = 0

    def begin(self) -> None:
        """Prepare the model for its first batch; call once, after the initial weights are set."""
        if self._left is None:
            self._loss = self._group.wrapped(self._loss)
        else:
            self._group.share(self._loss)

    def release(self) -> None:
        """Drop the graph and the wrapped loss, which holds the process group and its threads; no call may follow."""
        self._loss, self._replay, self._batch, self._beside = nn.Module(), None, (), []

    @property
    def captured(self) -> bool:
        """True once the passes are replayed as a CUDA graph."""
        return self._replay is not None

    def __call__(self, batch: Batch) -> Tensor:
        """Compute the gradients of this process's share of a batch and return its mean loss.

        The next call may overwrite the returned tensor.
        """
        if self._left == 0:
            self._left = None
            self._capture(batch)
        if self._replay is not None:
            for held, new in zip(self._batch, batch, strict=True):
                held.copy_(new)
            loss = self._replay()
            self._group.average(self._beside)
            return loss
        for p in self._parameters:
            p.grad = None
        before = forward_state.snapshot(self._model) if self._left == 1 else None
        loss = self._eager(batch)
        if self._left is not None:
            self._left -= 1
            if before is not None:
                self._watch(forward_state.changes(before, self._model))
            self._group.average([p.grad for p in self._parameters if p.grad is not None])
        return loss

    def _watch(self, changed: list[str]) -> None:
        """Give up the capture if a pass changes state of the model in any process."""
        if self._group.any(bool(changed)):
            self._left = None
            self.no_cuda_graph_reason = forward_state.reason(changed) or "the state of another process changes"
            self._loss = self._group.wrapped(self._loss)

    def _eager(self, batch: Batch) -> Tensor:
        """Accumulate the gradients of a batch over its micro-batches, adding to the existing gradients; return its loss."""
        whole, device = len(batch[0]), batch[0].device
        loss = torch.zeros((), dtype=torch.float64, device=device)
        pieces = list(zip(*(x.split(self._micro_batch_size) for x in batch), strict=True))
        for i, piece in enumerate(pieces):
            with no_sync(self._loss, last=i == len(pieces) - 1):
                with precision_context(self._recipe.dtype, device.type):
                    part = self._loss(*piece) * (len(piece[0]) / whole)
                part.backward()
            loss += part.detach()
        return loss

    def _capture(self, batch: Batch) -> None:
        """Capture the passes of a batch, or continue eagerly if any process fails to."""
        self._batch = tuple(x.clone() for x in batch)
        with_gradient = [p for p in self._parameters if p.grad is not None]  # the optimizer must skip all others
        self._beside = side_by_side(with_gradient)

        def once() -> Tensor:
            for gradients in self._beside:
                gradients.zero_()
            return self._eager(self._batch)

        try:
            judged = [p.grad[None] for p in with_gradient if p.grad is not None]
            _, self._replay, self.no_cuda_graph_reason = cuda_graph.capture(once, self._beside, judged, _ALIKE)
        except torch.OutOfMemoryError:
            self.no_cuda_graph_reason = "too little memory for a CUDA graph beside the eager passes"
        if self._group.device.type == "cuda":
            self.memory = torch.cuda.max_memory_allocated(self._group.device)
        if self._group.any(self._replay is None):
            self.no_cuda_graph_reason = self.no_cuda_graph_reason or "another process could not capture its passes"
            self._replay, self._beside = None, []
            self._loss = self._group.wrapped(self._loss)


def side_by_side(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Set the parameters' gradients to zeros in contiguous memory, and return that memory: a tensor (n,) per dtype."""
    found = []
    for dtype in dict.fromkeys(p.dtype for p in parameters):
        same_dtype = [p for p in parameters if p.dtype == dtype]
        flat = torch.zeros(sum(p.numel() for p in same_dtype), dtype=dtype, device=same_dtype[0].device)
        for p, gradient in zip(same_dtype, flat.split([p.numel() for p in same_dtype]), strict=True):
            p.grad = gradient.view_as(p)
        found.append(flat)
    return found

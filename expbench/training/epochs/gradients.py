"""Passes: the loss of a batch, forward and backward, and its gradients; on a GPU captured as a CUDA graph.

The host takes 35 to 45 ms to launch the thousand kernels of twelve layers; an H200 takes as long for a batch of 32 x 1024
tokens, and half as long for its share where two have it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from expbench.training import cuda_graph
from expbench.training.distributed import Group, apart
from expbench.training.epochs.recipe import Recipe, TrainerOptions
from expbench.training.epochs.workload import Batch, Workload
from expbench.training.precision import precision_context

_EAGER_BATCHES = 3  # before one is captured: programs are compiled, kernels are chosen
# Relative distance, parameter by parameter, between the gradients of a step and of its replay: the same kernels, of which
# those of attention add up in another order each time, and in bfloat16. What is not computed at all is 1 away.
_ALIKE = 0.05


class _Loss(nn.Module):
    """The loss of a model as a forward pass, which is what DistributedDataParallel hooks into."""

    def __init__(self, workload: Workload) -> None:
        super().__init__()
        self.model = workload.model  # a submodule, so that DistributedDataParallel sees its parameters
        self._of = workload.loss

    def forward(self, *batch: Tensor) -> Tensor:
        """Return the mean loss of a batch, a scalar."""
        return self._of(batch)


class Passes:
    """Called with a batch, they leave its gradients in the model's parameters: the mean over the processes of a group.

    Gradients of eager passes meet while they are computed (torch's DistributedDataParallel). Those of a graph lie where they
    always do, side by side, and meet in one sum after it, so that no process waits for another inside a graph.

    eager_because: why they could not be captured, once that was tried. memory: the most bytes of the GPU in use until they
    were captured, since a replay allocates nothing that could be counted.
    """

    def __init__(self, workload: Workload, recipe: Recipe, options: TrainerOptions, group: Group) -> None:
        self._recipe, self._group = recipe, group
        self._loss: nn.Module = _Loss(workload)
        self._parameters = [p for p in workload.model.parameters() if p.requires_grad]
        self._at_once = options.at_once or recipe.batch_size
        captured = options.captured and cuda_graph.possible(group.device)
        self._left = _EAGER_BATCHES if captured else None  # None: nothing is to be captured any more
        self._replay: Callable[[], Tensor] | None = None
        self._batch: Batch = ()  # of the graph
        self._beside: list[Tensor] = []  # its gradients, side by side, a tensor for each dtype
        self.eager_because: str | None = None
        self.memory = 0

    def begin(self) -> None:
        """To be called once before the first batch, when the weights are what they are to start from."""
        if self._left is None:
            self._loss = self._group.wrapped(self._loss)
        else:
            self._group.share(self._loss)

    @property
    def captured(self) -> bool:
        """Whether they are replayed as a CUDA graph by now."""
        return self._replay is not None

    def __call__(self, batch: Batch) -> Tensor:
        """Return the mean loss of a batch, the share of this process, over which the next one may write."""
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
        loss = self._eager(batch)
        if self._left is not None:
            self._left -= 1
            self._group.average([p.grad for p in self._parameters if p.grad is not None])
        return loss

    def _eager(self, batch: Batch) -> Tensor:
        """Add up the gradients of some examples at a time, on top of what is there."""
        whole, device = len(batch[0]), batch[0].device
        loss = torch.zeros((), dtype=torch.float64, device=device)
        pieces = list(zip(*(x.split(self._at_once) for x in batch), strict=True))
        for i, piece in enumerate(pieces):
            with apart(self._loss, last=i == len(pieces) - 1):
                with precision_context(self._recipe.dtype, device.type):
                    part = self._loss(*piece) * (len(piece[0]) / whole)
                part.backward()
            loss += part.detach()
        return loss

    def _capture(self, batch: Batch) -> None:
        """Capture what is done with a batch, if all processes can."""
        self._batch = tuple(x.clone() for x in batch)
        with_gradient = [p for p in self._parameters if p.grad is not None]  # the others the optimizer is to leave alone
        self._beside = side_by_side(with_gradient)

        def once() -> Tensor:
            for gradients in self._beside:
                gradients.zero_()
            return self._eager(self._batch)

        try:
            judged = [p.grad[None] for p in with_gradient if p.grad is not None]
            _, self._replay, self.eager_because = cuda_graph.capture(once, self._beside, judged, _ALIKE)
        except torch.OutOfMemoryError:
            self.eager_because = "memory does not suffice for a graph and the passes themselves"
        if self._group.device.type == "cuda":
            self.memory = torch.cuda.max_memory_allocated(self._group.device)
        if self._group.any(self._replay is None):
            self.eager_because = self.eager_because or "another process could not capture them"
            self._replay, self._beside = None, []
            self._loss = self._group.wrapped(self._loss)


def side_by_side(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    """Give the parameters gradients of zero that lie side by side, and return these, a tensor (n,) for each dtype."""
    found = []
    for dtype in dict.fromkeys(p.dtype for p in parameters):
        alike = [p for p in parameters if p.dtype == dtype]
        flat = torch.zeros(sum(p.numel() for p in alike), dtype=dtype, device=alike[0].device)
        for p, gradient in zip(alike, flat.split([p.numel() for p in alike]), strict=True):
            p.grad = gradient.view_as(p)
        found.append(flat)
    return found

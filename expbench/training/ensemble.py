"""Ensemble: networks of one architecture as a single network with stacked parameters (S, ...), called under vmap.

`torch.vmap` runs inside autograd, so that the loss of a run equals the loss of its module called alone, up to rounding. A
single network is called directly, without vmap, and may therefore use operations that vmap does not support.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._decomp import decompositions
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from expbench.nn.network import Network
from expbench.ops import attention
from expbench.ops.small_layers import functional
from expbench.task import Batch, Task
from expbench.training.optimizer import decays

_DEFINITIONS = {"gru": "gru_impl", "lstm": "lstm_impl", "rnn_tanh": "rnn_tanh_input", "rnn_relu": "rnn_relu_input"}


class Ensemble:
    """S networks with the first as template; `leaves` are their trainable parameters, each (S, ...).

    decayed: for each leaf, True if weight decay applies to it.
    """

    def __init__(self, networks: Sequence[Network]) -> None:
        self.size = len(networks)
        self.template = networks[0]
        names = [name for name, p in self.template.named_parameters() if p.requires_grad]
        each = [dict(network.named_parameters()) for network in networks]
        if self.size == 1:
            self._parameters: dict[str, Tensor] = {name: each[0][name] for name in names}
            self._rest: dict[str, Tensor] = {}
        else:
            self._parameters = {
                name: torch.stack([parameters[name].detach() for parameters in each]).requires_grad_() for name in names
            }
            frozen = [{n: p.detach() for n, p in parameters.items() if n not in names} for parameters in each]
            buffers = [frozen[i] | dict(network.named_buffers()) for i, network in enumerate(networks)]
            self._rest = {name: torch.stack([values[name] for values in buffers]) for name in buffers[0]}
        self._recurrent = any(isinstance(module, torch.nn.RNNBase) for module in self.template.modules())
        self.decayed = [decays(each[0][name]) for name in names]

    @property
    def leaves(self) -> list[Tensor]:
        """Trainable parameters for autograd: (S, ...), or the parameters (...) of a single network."""
        return list(self._parameters.values())

    def stacked(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors of the leaves' shapes with the axis S, which those of a single network lack."""
        return [x.unsqueeze(0) for x in tensors] if self.size == 1 else list(tensors)

    def losses(self, task: Task, batch: Batch) -> Tensor:
        """Return the loss (S,) of each network on its own batch; inputs and targets (S, B, ...)."""
        losses: Tensor = self._each(lambda network, x, y: task.loss(_floating(network(x)), y), (0, 0), *batch)
        return losses

    def outputs(self, inputs: Tensor, *, shared: bool, some: Sequence[int] | None = None) -> Tensor:
        """Return the outputs (S, B, ...) of the networks, or of `some`, for shared inputs (B, ...) or inputs (S, B, ...)."""
        dims = (None if shared else 0,)
        outputs: Tensor = self._each(lambda network, x: _floating(network(x)), dims, inputs, some=some)
        return outputs

    def statistics(self, inputs: Tensor) -> dict[tuple[int, str], Tensor]:
        """Return `Network.statistics` of each network on inputs (S, B, ...), as tensors (S,)."""
        found: dict[tuple[int, str], Tensor] = self._each(
            lambda network, x: self.template.statistics(x, network), (0,), inputs
        )
        return found

    def state(self, i: int) -> dict[str, Tensor]:
        """Return the state dict of network i."""
        if self.size == 1:
            return self.template.state_dict()
        mine = {name: x[i].detach() for name, x in (self._parameters | self._rest).items()}
        shared = {id(p): name for name, p in self.template.named_parameters()}  # tied parameters have several names
        every = {name: mine[shared[id(p)]] for name, p in self.template.named_parameters(remove_duplicate=False)}
        return {name: x for name, x in (mine | every).items() if name in self.template.state_dict()}

    def _each(
        self,
        function: Callable[..., Any],
        dims: tuple[int | None, ...],
        *tensors: Tensor,
        some: Sequence[int] | None = None,
    ) -> Any:
        """Return function(network, *tensors) of each network, or of `some`, stacked along axis 0; `dims`: as in vmap."""
        if self.size == 1:
            result = function(self.template, *(x if dim is None else x[0] for x, dim in zip(tensors, dims, strict=True)))
            return {k: v.unsqueeze(0) for k, v in result.items()} if isinstance(result, dict) else result.unsqueeze(0)

        def one(parameters: dict[str, Tensor], rest: dict[str, Tensor], *args: Tensor) -> Any:
            return function(lambda x: functional_call(self.template, (parameters, rest), (x,)), *args)

        parameters, rest = self._parameters, self._rest
        if some is not None and len(some) < self.size:
            parameters, rest = ({name: x[some] for name, x in numbers.items()} for numbers in (parameters, rest))
        with _mapped_as_defined(self._recurrent):
            return torch.vmap(one, in_dims=(0, 0, *dims), randomness="error")(parameters, rest, *tensors)


@contextmanager
def _mapped_as_defined(recurrent: bool) -> Iterator[None]:
    """Decompose fused operations of torch whose vmap rule is missing or fails: short softmax attention, recurrent layers.

    Long attention has a rule in `ops.attention`, and small layers have kernels on a GPU (`ops.small_layers`). Other
    operations without a rule run slowly, in a loop; the time estimate includes that.
    """
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message=".*batching rule.*")
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        stack.enter_context(attention.Folded())
        if functional.available():
            stack.enter_context(functional.Narrow())
        if recurrent:
            stack.enter_context(_RecurrenceAsDefined())
        yield


class _RecurrenceAsDefined(TorchFunctionMode):
    """nn.GRU, nn.LSTM and nn.RNN step by step, by torch's decompositions."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = _DEFINITIONS.get(getattr(function, "__name__", ""))
        defined = getattr(decompositions, name, function) if name else function
        return defined(*args, **(kwargs or {}))


def _floating(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype == torch.bfloat16 else outputs

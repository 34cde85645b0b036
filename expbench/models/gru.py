"""The gated recurrent unit (Cho et al. 2014), equal to one layer of `torch.nn.GRU`: a recurrence that is not linear.

r, z = sigmoid(..), n = tanh(x_n + r (W_n h_{t-1} + b_n)), h_t = (1 - z) n + z h_{t-1} (`ops/gru/recurrence.py`). The steps
depend on the state, so that they cannot be computed in parallel; it is a control for layers whose steps can be.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from expbench.algebra.reach import NO_BOUND, NoBound, Reach
from expbench.mixer import Mixer
from expbench.ops.gru.recurrence import gated_recurrence
from expbench.settings import Value

_POINTWISE = 11  # operations per state: two each for r and z, three for n, four for the new state


class GRU(Mixer):
    """Gated recurrent unit. Setting: hidden, the number of states (default: the width).

    If `hidden` is not the width, a linear map follows; else the states are the output, as in `torch.nn.GRU`.
    Initialisation as in `torch.nn.GRU`: weights and biases uniform in +-hidden^-1/2. A linear map that follows has that of
    `torch.nn.Linear`.
    """

    backends = ("reference", "torch", "triton")

    def __init__(self, width: int, *, hidden: int | None = None) -> None:
        super().__init__()
        H = width if hidden is None else hidden
        if H < 1:
            raise ValueError(f"hidden={H} must be 1 or more")
        self.of_input, self.of_state = nn.Linear(width, 3 * H), nn.Linear(H, 3 * H)
        self.out = nn.Linear(H, width) if width != H else None
        with torch.no_grad():
            for parameter in (*self.of_input.parameters(), *self.of_state.parameters()):
                nn.init.uniform_(parameter, -(H**-0.5), H**-0.5)

    @classmethod
    def resolve(cls, width: int, settings: dict[str, Value]) -> dict[str, Value]:
        return {**settings, "hidden": width if settings["hidden"] is None else settings["hidden"]}

    def forward(self, x: Tensor) -> Tensor:
        states = gated_recurrence(self.of_input(x), self.of_state.weight, self.of_state.bias)
        return states if self.out is None else self.out(states)

    def flops(self, L: int) -> float:
        """Count the linear maps, and per state the sums, sigmoids, products and tanh of the gates."""
        maps = sum(2 * m.in_features * m.out_features for m in self.modules() if isinstance(m, nn.Linear))
        return maps + _POINTWISE * self.of_state.in_features

    def state_size(self, L: int) -> int:
        return self.of_state.in_features

    def reach(self, inputs: Reach) -> NoBound:
        """Return no bound, because of the sigmoids and tanh."""
        return NO_BOUND

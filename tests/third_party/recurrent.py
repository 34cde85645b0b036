"""Recurrent layers as their public implementations write them: GRU, LSTM, minGRU, and a recurrence for float32 alone."""

import torch
from torch import nn
from torch.nn import functional as F


class GRU(nn.Module):
    def __init__(self, width: int, layers: int = 1):
        super().__init__()
        self.gru = nn.GRU(width, width, layers, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]


class LSTM(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def forward(self, x):
        return self.lstm(x)[0]


def positive(x):
    """Return g(x) of Feng et al. 2024 (Appendix B): continuous, with slopes 1/4 and 1 at 0."""
    return torch.where(x >= 0, x + 0.5, x.sigmoid())


def log_positive(x):
    return torch.where(x >= 0, (F.relu(x) + 0.5).log(), -F.softplus(-x))


class MinGRU(nn.Module):
    """minGRU in log space (Feng et al. 2024, Algorithm 6)."""

    def __init__(self, width: int):
        super().__init__()
        self.hidden_and_gate = nn.Linear(width, 2 * width, bias=False)

    def forward(self, x):
        hidden, gate = self.hidden_and_gate(x).chunk(2, dim=-1)
        decays, values = -F.softplus(gate), -F.softplus(-gate) + log_positive(hidden)
        decays = decays.cumsum(1)
        return (decays + (values - decays).logcumsumexp(1)).exp()


class MinGRUSteps(MinGRU):
    """The same, step by step, and near the kink."""

    def forward(self, x):
        hidden, gate = self.hidden_and_gate(x).chunk(2, dim=-1)
        z, h, outputs = gate.sigmoid(), torch.zeros_like(x[:, 0]), []
        for t in range(x.shape[1]):
            h = (1 - z[:, t]) * h + z[:, t] * positive(1e-3 * hidden[:, t])
            outputs.append(h)
        return torch.stack(outputs, 1)


class Float32Recurrence(nn.Module):
    """A recurrence whose state is float32, as kernels have it: other inputs are refused by torch."""

    def __init__(self, width: int):
        super().__init__()
        self.to_state, self.decay = nn.Linear(width, width), nn.Parameter(torch.full((width,), 2.0))

    def forward(self, x):
        state, states = torch.zeros(x.shape[0], x.shape[2], device=x.device), []
        for z in self.to_state(x).unbind(1):
            state = torch.addcmul(z, torch.sigmoid(self.decay), state)
            states.append(state.to(torch.float32))
            if z.dtype == torch.float64:
                raise RuntimeError("expected scalar type Float but found Double")
        return torch.stack(states, 1)


class Float32Declared(Float32Recurrence):
    dtypes = ("float32",)


class Float32Inside(nn.Module):
    """A gated recurrence that is computed in float32 whatever its input is, kinks included."""

    def __init__(self, width: int):
        super().__init__()
        self.to_gate, self.to_value = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        gate, value = torch.sigmoid(self.to_gate(x).float()), F.relu(self.to_value(x).float())
        state, states = torch.zeros_like(value[:, 0]), []
        for t in range(x.shape[1]):
            state = torch.lerp(state, value[:, t], gate[:, t])
            states.append(state)
        return torch.stack(states, 1).to(x.dtype)

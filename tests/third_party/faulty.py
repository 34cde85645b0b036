"""Layers with one fault each."""

import torch
from torch import nn


class Mean(nn.Module):
    """The mean of the past behind a linear map; `after` is where a subclass goes wrong."""

    def __init__(self, width: int):
        super().__init__()
        self.linear = nn.Linear(width, width)

    def forward(self, x):
        counts = torch.arange(1, x.shape[1] + 1, device=x.device)[:, None]
        return self.after(torch.tanh(self.linear(x)).cumsum(1) / counts + x, x)

    def after(self, y, x):
        return y


class LooksAhead(Mean):
    def after(self, y, x):
        return y + torch.roll(x, -1, 1)


class LooksAheadLate(Mean):
    """It looks one token ahead in the second half of the sequence."""

    def after(self, y, x):
        late = torch.arange(x.shape[1], device=x.device)[:, None] >= x.shape[1] // 2
        return y + 1e-3 * torch.roll(x, -1, 1).masked_fill(~late, 0)


class Detaches(Mean):
    def after(self, y, x):
        return y.detach()


class DetachesInput(Mean):
    def forward(self, x):
        return super().forward(x.detach())


class IsNaN(Mean):
    def after(self, y, x):
        return y * float("nan")


class IsNaNInEvaluation(Mean):
    def after(self, y, x):
        return y if self.training else y * float("nan")


class DropsAChannel(Mean):
    def after(self, y, x):
        return y[..., :1]


class Flattens(Mean):
    def after(self, y, x):
        return y.mean(1)


class IsATuple(Mean):
    def after(self, y, x):
        return y, None


class IsWhole(Mean):
    def after(self, y, x):
        return y.long()


class DropsInEvaluation(Mean):
    def after(self, y, x):
        return nn.functional.dropout(y, 0.1)


class MixesTheBatch(Mean):
    def __init__(self, width: int):
        super().__init__(width)
        self.norm = nn.BatchNorm1d(width)

    def after(self, y, x):
        return self.norm(y.mT).mT


class RemembersCalls(Mean):
    """The last output is added to the next call."""

    def __init__(self, width: int):
        super().__init__(width)
        self.last = None

    def after(self, y, x):
        before, self.last = self.last, y.detach()
        return y if before is None or before.shape != y.shape else y + 0.1 * before


class RandomAtTheStart(Mean):
    """It draws from a generator of its own when it is built."""

    def __init__(self, width: int):
        super().__init__(width)
        import numpy as np

        self.register_buffer("noise", torch.from_numpy(np.random.default_rng().standard_normal(width)).float())

    def after(self, y, x):
        return y + self.noise


class _WrongBackward(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, w):
        return x * w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return grad * w, 0.95 * (grad * x).sum((0, 1))


class WrongGradient(Mean):
    """The gradient of one parameter is 5 % too small."""

    def __init__(self, width: int):
        super().__init__(width)
        self.scale = nn.Parameter(torch.ones(width))

    def after(self, y, x):
        return _WrongBackward.apply(y, self.scale)


class WrongGradientInFloat32(WrongGradient):
    dtypes = ("float32",)


class ComplexWrongGradient(Mean):
    """The imaginary part of a complex parameter has no gradient."""

    def __init__(self, width: int):
        super().__init__(width)
        self.turn = nn.Parameter(torch.randn(width, dtype=torch.complex64))

    def after(self, y, x):
        turn = torch.complex(self.turn.real, self.turn.imag.detach())
        return (y * turn * turn).real


class Raises(Mean):
    def after(self, y, x):
        raise RuntimeError(f"cannot mix {tuple(x.shape)}")


class NoWidth(nn.Module):
    """Its constructor takes no width."""

    def __init__(self):
        super().__init__()

    def forward(self, x):
        return x

"""Linear layers, with all that linear operations do: convolution, Fourier transforms, masks, pads, shifts, indices."""

import torch
from torch import nn
from torch.nn import functional as F

from expbench.algebra.reach import NO_BOUND
from expbench.mixer import Mixer


class Stated(Mixer):
    """A layer that states the reach of a linear map, and says so truly."""

    def reach(self, inputs):
        return inputs


class CausalConv(Stated):
    def __init__(self, width: int, kernel: int = 3):
        super().__init__()
        self.conv, self.kernel = nn.Conv1d(width, width, kernel), kernel

    def forward(self, x):
        return self.conv(F.pad(x.mT, (self.kernel - 1, 0))).mT


class DilatedConv(Stated):
    """A depthwise convolution that pads on both sides, and cuts."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 2, padding=2, dilation=2, groups=width)

    def forward(self, x):
        return self.conv(x.transpose(1, 2))[..., : x.shape[1]].transpose(1, 2)


class FourierConv(Stated):
    """A convolution with a kernel as long as the sequence, by FFT."""

    def __init__(self, width: int):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(width, 64))

    def forward(self, x):
        n = 2 * x.shape[1]
        kernel = torch.fft.rfft(self.kernel[:, : x.shape[1]], n)
        return torch.fft.irfft(torch.fft.rfft(x.mT, n) * kernel, n)[..., : x.shape[1]].mT


class Masked(Stated):
    """A mixture of positions by a masked matrix, and of channels by masked_fill and split."""

    def __init__(self, width: int):
        super().__init__()
        self.mix, self.both = nn.Parameter(torch.randn(64, 64)), nn.Linear(width, 2 * width)

    def forward(self, x):
        L = x.shape[1]
        a, b = self.both(x).split(x.shape[-1], -1)
        first = torch.arange(L, device=x.device)[:, None] == 0
        return self.mix[:L, :L].tril() @ a + b.masked_fill(first, 0.0).cumsum(1)


class Shifted(Stated):
    """The token before, by roll, by pad and by a constant index."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        L = x.shape[1]
        rolled = x.roll(1, 1).masked_fill(torch.arange(L, device=x.device)[:, None] == 0, 0)
        padded = F.pad(x, (0, 0, 1, 0))[:, :L]
        chosen = x[:, (torch.arange(L, device=x.device) // 2)]
        gathered = x.gather(1, torch.zeros_like(x, dtype=torch.long))
        return self.scale * (rolled + padded + chosen + gathered)


class Silent(nn.Module):
    """A linear layer that states nothing."""

    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 2, padding=1)

    def forward(self, x):
        return self.conv(x.mT)[..., :-1].mT


class Gated(Mixer):
    """The product of a convolution by FFT and a linear gate: degree 2, and it states it."""

    def __init__(self, width: int):
        super().__init__()
        self.conv, self.gate = FourierConv(width), nn.Linear(width, width)

    def forward(self, x):
        return self.conv(x) * self.gate(x)

    def reach(self, inputs):
        return inputs.capped([2 * d for d in inputs.degree], [2 * o for o in inputs.order])


class Swish(Stated):
    """It states the reach of a linear map, and is none."""

    def __init__(self, width: int):
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, x):
        return x * F.silu(self.gate(x))


class SaysNot(Swish):
    """It states that it is not polynomial, which is true."""

    def reach(self, inputs):
        return NO_BOUND


class SaysNotFalsely(CausalConv):
    """It states that it is not polynomial, and is linear."""

    def reach(self, inputs):
        return NO_BOUND


class TooLow(Stated):
    """It states the reach of a linear map, and has degree 2."""

    def __init__(self, width: int):
        super().__init__()
        self.gate = nn.Linear(width, width)

    def forward(self, x):
        return self.gate(x) * x


class Unknown(Stated):
    """An operation that the measurement does not know."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        table = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        return self.scale * torch.linalg.solve_triangular(table, x, upper=False, left=False)


class Tiles(Stated):
    """A layer for lengths that are multiples of 32, which does not say so."""

    def __init__(self, width: int):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))

    def forward(self, x):
        assert x.shape[1] % 32 == 0, "the length must be a multiple of 32"
        return self.scale * x.unflatten(1, (-1, 32)).cumsum(2).flatten(1, 2)


class TilesDeclared(Tiles):
    lengths = range(32, 4097, 32)


class Unrelated(CausalConv):
    """Its attribute of that name is no container of numbers."""

    lengths = "all"

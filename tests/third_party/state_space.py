"""State-space layers as their public implementations write them: Mamba's block and scan, S5, the LRU, S4D by FFT."""

import math

import torch
from torch import nn
from torch.nn import functional as F

from expbench.mixer import Mixer


class MambaBlock(nn.Module):
    """The block of mambapy: A is float32 in every dtype."""

    def __init__(self, width: int, N: int = 4, expand: int = 2, kernel: int = 4):
        super().__init__()
        inner, rank = expand * width, math.ceil(width / 16)
        self.inner, self.rank, self.N = inner, rank, N
        self.in_proj = nn.Linear(width, 2 * inner, bias=False)
        self.conv1d = nn.Conv1d(inner, inner, kernel, groups=inner, padding=kernel - 1)
        self.x_proj, self.dt_proj = nn.Linear(inner, rank + 2 * N, bias=False), nn.Linear(rank, inner)
        self.A_log = nn.Parameter(torch.arange(1, N + 1, dtype=torch.float32).repeat(inner, 1).log())
        self.D = nn.Parameter(torch.ones(inner))
        self.out_proj = nn.Linear(inner, width, bias=False)

    def forward(self, x):
        x, z = self.in_proj(x).chunk(2, dim=-1)
        x = F.silu(self.conv1d(x.transpose(1, 2))[:, :, : x.shape[1]].transpose(1, 2))
        return self.out_proj(self.scan(x) * F.silu(z))

    def scan(self, x):
        A, D = -torch.exp(self.A_log.float()), self.D.float()
        delta, B, C = self.x_proj(x).split([self.rank, self.N, self.N], dim=-1)
        delta = F.softplus(self.dt_proj(delta))
        decay = torch.exp(delta.unsqueeze(-1) * A)
        source = delta.unsqueeze(-1) * B.unsqueeze(2) * x.unsqueeze(-1)
        h, hs = torch.zeros_like(source[:, 0]), []
        for t in range(x.shape[1]):
            h = decay[:, t] * h + source[:, t]
            hs.append(h)
        return (torch.stack(hs, 1) @ C.unsqueeze(-1)).squeeze(3) + D * x


class SelectiveScan(nn.Module):
    """The scan of mamba-ssm's reference: channels first, float32 inside, the dtype of the input outside."""

    def __init__(self, width: int, N: int = 4):
        super().__init__()
        self.A_log = nn.Parameter(torch.arange(1, N + 1, dtype=torch.float32).repeat(width, 1).log())
        self.to_delta, self.to_B, self.to_C = nn.Linear(width, width), nn.Linear(width, N), nn.Linear(width, N)
        self.D = nn.Parameter(torch.ones(width))

    def forward(self, x):
        u, delta = x.transpose(1, 2), self.to_delta(x).transpose(1, 2)
        dtype, u, delta = u.dtype, u.float(), F.softplus(delta.float())
        A, B, C = -self.A_log.exp(), self.to_B(x).transpose(1, 2).float(), self.to_C(x).transpose(1, 2).float()
        decay = torch.exp(torch.einsum("bdl,dn->bdln", delta, A.float()))
        source = torch.einsum("bdl,bnl,bdl->bdln", delta, B, u)
        state, ys = A.new_zeros((x.shape[0], *A.shape)), []
        for i in range(u.shape[2]):
            state = decay[:, :, i] * state + source[:, :, i]
            ys.append(torch.einsum("bdn,bn->bd", state.to(C.dtype), C[:, :, i]))
        return (torch.stack(ys, dim=2) + u * self.D.float()[:, None]).to(dtype).transpose(1, 2)


class S5(nn.Module):
    """S5 with complex parameters: diagonal A of conjugate pairs, B, C, and the zero-order hold."""

    def __init__(self, width: int, N: int = 4):
        super().__init__()
        self.A = nn.Parameter(torch.complex(torch.full((N,), -0.5), math.pi * torch.arange(N)))
        self.B = nn.Parameter(torch.randn(N, width, dtype=torch.complex64) / math.sqrt(2 * width))
        self.C = nn.Parameter(torch.randn(width, N, dtype=torch.complex64) / math.sqrt(2 * N))
        self.D, self.log_step = nn.Parameter(torch.randn(width)), nn.Parameter(torch.full((N,), -3.0))

    def forward(self, x):
        step = self.log_step.exp()
        decay = torch.exp(self.A * step)
        inputs = x.to(self.B.dtype) @ (self.B.mT * ((decay - 1) / self.A))
        h, hs = torch.zeros_like(inputs[:, 0]), []
        for u in inputs.unbind(1):
            h = decay * h + u
            hs.append(h)
        return 2 * (torch.stack(hs, 1) @ self.C.mT).real + self.D * x


class LRU(nn.Module):
    """The linear recurrent unit (Orvieto et al. 2023): polar eigenvalues, complex B and C."""

    def __init__(self, width: int, N: int = 4):
        super().__init__()
        self.nu, self.theta = nn.Parameter(torch.rand(N).log()), nn.Parameter((6 * torch.rand(N)).log())
        self.B = nn.Parameter(torch.randn(N, width, dtype=torch.cfloat) / math.sqrt(2 * width))
        self.C = nn.Parameter(torch.randn(width, N, dtype=torch.cfloat) / math.sqrt(N))
        self.D = nn.Parameter(torch.randn(width))

    def forward(self, x):
        modulus = torch.exp(-torch.exp(self.nu))
        decay = torch.polar(modulus, torch.exp(self.theta))
        inputs = (x.to(self.B.dtype) @ self.B.mT) * torch.sqrt(1 - modulus**2)
        h, hs = torch.zeros_like(inputs[:, 0]), []
        for t in range(x.shape[1]):
            h = decay * h + inputs[:, t]
            hs.append(h)
        return torch.real(torch.stack(hs, 1) @ self.C.mT) + x * self.D


class TooFewStates(LRU, Mixer):
    """It counts complex numbers once."""

    def state_size(self, L):
        return len(self.nu)


class S4D(nn.Module):
    """S4D as a convolution by FFT (Gu et al. 2022), without its activation."""

    def __init__(self, width: int, N: int = 4):
        super().__init__()
        self.log_dt = nn.Parameter(torch.rand(width) - 3)
        self.C = nn.Parameter(torch.view_as_real(torch.randn(width, N, dtype=torch.cfloat)))
        self.log_A_real = nn.Parameter(torch.log(0.5 * torch.ones(width, N)))
        self.A_imag = nn.Parameter(math.pi * torch.arange(N).repeat(width, 1).float())
        self.D = nn.Parameter(torch.randn(width))

    def kernel(self, L):
        dt, C, A = self.log_dt.exp(), torch.view_as_complex(self.C), torch.complex(-self.log_A_real.exp(), self.A_imag)
        scaled = A * dt.unsqueeze(-1)
        powers = torch.exp(scaled.unsqueeze(-1) * torch.arange(L, device=A.device))
        return 2 * torch.einsum("hn,hnl->hl", C * (scaled.exp() - 1) / A, powers).real

    def forward(self, x):
        u, L = x.transpose(-1, -2), x.shape[1]
        k_f, u_f = torch.fft.rfft(self.kernel(L), n=2 * L), torch.fft.rfft(u, n=2 * L)
        y = torch.fft.irfft(u_f * k_f, n=2 * L)[..., :L] + u * self.D.unsqueeze(-1)
        return y.transpose(-1, -2)

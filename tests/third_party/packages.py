"""Layers of packages from PyPI, behind the contract of a layer; each needs its package."""

from torch import nn


class Mambapy(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        from mambapy.mamba import MambaBlock, MambaConfig

        self.block = MambaBlock(MambaConfig(d_model=width, n_layers=1, d_state=4))

    def forward(self, x):
        return self.block(x)


class MambapyScan(nn.Module):
    """The same, step by step instead of by a parallel scan, which pads to powers of two."""

    def __init__(self, width: int):
        super().__init__()
        from mambapy.mamba import MambaBlock, MambaConfig

        self.block = MambaBlock(MambaConfig(d_model=width, n_layers=1, d_state=4, pscan=False))

    def forward(self, x):
        return self.block(x)


class XTransformer(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        from x_transformers import Decoder

        self.decoder = Decoder(dim=width, depth=1, heads=2, attn_dim_head=8, rotary_pos_emb=True)

    def forward(self, x):
        return self.decoder(x)


class Local(nn.Module):
    def __init__(self, width: int, window: int = 4):
        super().__init__()
        from local_attention import LocalAttention

        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.attend = LocalAttention(
            dim=width,
            window_size=window,
            causal=True,
            look_backward=1,
            look_forward=0,
            autopad=True,
            use_rotary_pos_emb=False,
        )

    def forward(self, x):
        return self.attend(*self.qkv(x).chunk(3, -1))

"""Backbones: a language model around any mixer, with the blocks given by the mixer's attribute `backbone`.

tokens -> embedding -> repeated x + block(norm(x)) -> norm -> logits, with tied embedding weights. A layer is
    mamba: one block, the mixer in 2 D channels within Mamba's convolution and gate (mamba_simple.py of mamba-ssm 2);
    transformer: two blocks, the mixer with rotary positions and an output projection, then SwiGLU.
For Wikitext-103, Table 1 of arXiv 2502.02209 uses 12 layers, a context of 1024, GPT-2's 50257 tokens and a width of 386. As
386 = 2 x 193 is not divisible into heads, the width is 384 here.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, cast, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expbench import settings
from expbench.errors import unknown
from expbench.mixer import Backbone, Mixer, logged
from expbench.nn.blocks import AttentionBlock, FeedForward, MambaBlock
from expbench.ops.cross_entropy.linear import linear_cross_entropy, row_cross_entropy
from expbench.run import NO_BASE
from expbench.settings import Value

VOCABULARY, CONTEXT, WIDTH, LAYERS = 50257, 1024, 384, 12
_EXPAND, _STATES, _CONV, _RANK = 2, 16, 4, 16  # Mamba's: inner channels per channel, N, taps, channels per dt_rank
_HEAD = 64  # channels of an attention head
_HIDDEN_STEP = 32  # hidden channels of a feed-forward block are a multiple of this
_EPSILON = 1e-5  # of a norm, as in Mamba; torch's default depends on the dtype
_EMBEDDING_STD = 0.02


class LanguageModel(nn.Module):
    """A language model with `layers` layers of a mixer in its backbone, width D, for up to `context` tokens.

    given: explicit mixer settings; `language_settings` fills in the others. hidden: channels of a Transformer's feed-forward
    block (default: `matched_hidden`). position_base: base of a Transformer's rotary angles.

    The initialisation is Mamba's: a normal embedding with standard deviation 0.02, and the final linear map of each block
    divided by the square root of the number of blocks. All other weights keep the defaults of torch and the mixer.
    """

    def __init__(
        self,
        mixer: type[nn.Module],
        given: Mapping[str, Value] | None = None,
        *,
        vocabulary: int = VOCABULARY,
        width: int = WIDTH,
        layers: int = LAYERS,
        context: int = CONTEXT,
        hidden: int | None = None,
        position_base: float = NO_BASE,
    ) -> None:
        super().__init__()
        for name, size in {"vocabulary": vocabulary, "width": width, "layers": layers, "context": context}.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be 1 or more")
        self.context, self.backbone = context, backbone_of(mixer)
        self.settings = language_settings(mixer, width, given or {})
        self.embed = nn.Embedding(vocabulary, width)
        self.blocks = nn.ModuleList(
            block
            for _ in range(layers)
            for block in self._layer(mixer, width, matched_hidden(width) if hidden is None else hidden, position_base)
        )
        self.norms = nn.ModuleList(nn.RMSNorm(width, _EPSILON) for _ in self.blocks)
        self.norm = nn.RMSNorm(width, _EPSILON)
        self._added = added
        nn.init.normal_(self.embed.weight, std=_EMBEDDING_STD)
        with torch.no_grad():
            for block in self.blocks:
                cast(nn.Linear, block.to_out).weight /= math.sqrt(len(self.blocks))

    def _layer(self, mixer: type[nn.Module], width: int, hidden: int, base: float) -> Iterator[nn.Module]:
        def made(channels: int) -> nn.Module:
            return mixer(channels, **self.settings)

        if self.backbone == "mamba":
            yield MambaBlock(width, _EXPAND * width, made, conv=_CONV)
        else:
            yield AttentionBlock(width, made, context=self.context, base=base)
            yield FeedForward(width, hidden)

    def features(self, tokens: Tensor) -> Tensor:
        """Return the final hidden states (B, L, D), before the head, of tokens (B, L) int64."""
        x = self.embed(tokens)
        for norm, block in zip(self.norms, self.blocks, strict=True):
            x = self._added(x, norm, block)
        features: Tensor = self.norm(x)
        return features

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits (B, L, V) of each next token for tokens (B, L) int64."""
        return F.linear(self.features(tokens), self.embed.weight)

    def loss(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy, in nats, of targets (B, L), the next tokens. Never holds all logits in memory."""
        rows = self.features(tokens).flatten(0, 1)
        return linear_cross_entropy(rows, self.embed.weight, targets.flatten())

    @torch.no_grad()
    def token_losses(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy of each target (B, L), in nats and without gradients."""
        rows = row_cross_entropy(self.features(tokens).flatten(0, 1), self.embed.weight, targets.flatten())
        return rows.view_as(targets)

    def compile_blocks(self, backend: str = "inductor") -> None:
        """Compile a block with its norm and residual connection by torch.compile, for all later calls.

        One program serves all blocks. Earlier programs of the process are reset first, for two reasons: a program keeps the
        backend with which its scan was traced, and torch stops compiling a function after a limited number of programs.
        """
        torch.compiler.reset()
        self._added = torch.compile(added, backend=backend, dynamic=False)

    @torch.no_grad()
    def statistics(self, tokens: Tensor) -> dict[tuple[int, str], Tensor]:
        """Return the statistics that mixers log for tokens (B, L), by (layer, name); empty if they log none."""
        compiled, self._added = self._added, added  # compiled programs ignore hooks
        try:
            with logged(self.mixers) as found:
                self.features(tokens)
        finally:
            self._added = compiled
        return found

    @property
    def mixers(self) -> list[nn.Module]:
        """Mixers, one per layer."""
        return [cast(nn.Module, block.mixer) for block in self.blocks if not isinstance(block, FeedForward)]

    @property
    def mixer_width(self) -> int:
        """Number of channels of a mixer."""
        return cast(nn.Linear, self.blocks[0].to_out).in_features

    def terms(self) -> dict[str, int]:
        """Return the number of parameters by part, over all layers: embed, norms, and the parts of the blocks by name."""
        counts: Counter[str] = Counter()
        for name, parameter in self.named_parameters():
            part, *inside = name.split(".")
            if part == "blocks":
                feed_forward = isinstance(self.blocks[int(inside[0])], FeedForward)
                counts["feed_forward" if feed_forward else inside[1]] += parameter.numel()
            else:
                counts["embed" if part == "embed" else "norms"] += parameter.numel()
        return dict(counts)

    def parameter_count(self) -> int:
        """Return the number of trainable parameters; the embedding, tied to the head, counts once."""
        return sum(p.numel() * (1 + p.is_complex()) for p in self.parameters() if p.requires_grad)


def added(x: Tensor, norm: nn.Module, block: nn.Module) -> Tensor:
    """Return x + block(norm(x)), (B, L, D)."""
    y: Tensor = x + block(norm(x))
    return y


def backbone_of(mixer: type) -> Backbone:
    """Return the backbone of a mixer class, by default Mamba's. Raises `BadInput` for an unknown name."""
    stated: Any = getattr(mixer, "backbone", "mamba")
    if not isinstance(stated, str):  # an unrelated attribute of a third-party class
        return "mamba"
    if stated not in get_args(Backbone):
        raise unknown(f"value of {mixer.__name__}'s attribute backbone:", stated, get_args(Backbone))
    return cast(Backbone, stated)


def language_settings(mixer: type, width: int, given: Mapping[str, Value]) -> dict[str, Value]:
    """Return all settings of a mixer in a language model of a given width.

    A setting that is not `given`, or given as None, has the backbone's default (mamba: N = 16 and dt_rank = D/16, rounded
    up; transformer: heads of 64 channels), or else the mixer's. Raises `BadInput` for an unknown setting.
    """
    declared = settings.declared(mixer)
    for name in given:
        if name not in declared:
            raise unknown(f"setting of {mixer.__name__}:", name, declared)
    mamba = backbone_of(mixer) == "mamba"
    ours = {"N": _STATES, "dt_rank": _rank(width)} if mamba else {"heads": max(1, width // _HEAD)}
    values = {name: setting.default for name, setting in declared.items() if setting.default is not settings.REQUIRED}
    values |= {name: value for name, value in ours.items() if name in declared}
    values |= {name: value for name, value in given.items() if value is not None or name not in ours}
    return mixer.resolve(_EXPAND * width if mamba else width, values) if issubclass(mixer, Mixer) else values


def matched_hidden(width: int) -> int:
    """Return the hidden size of SwiGLU that gives an attention layer as many parameters as a Mamba layer with S6.

    It is 320 for a width of 384. The usual 8/3 D would give 40.5 million parameters at the paper's 12 layers.
    """
    inner, rank = _EXPAND * width, _rank(width)
    s6 = inner * (rank + 2 * _STATES) + (rank + 1) * inner + inner * _STATES + inner  # to_all, to_delta, A, skip
    mamba = 3 * width * inner + (_CONV + 1) * inner + s6
    attention = 4 * width**2 + 3 * width  # qkv with its biases, and the output
    hidden = (mamba - attention - width) / (3 * width)  # - width: a Transformer layer has one more norm
    return max(1, round(hidden / _HIDDEN_STEP)) * _HIDDEN_STEP


def _rank(width: int) -> int:
    return math.ceil(width / _RANK)

"""Floating-point operations of training a language model, for model FLOP/s utilisation (MFU).

The count covers the operations that the model requires, not those that a program executes: causal attention multiplies with
the past only, and recomputation does not count (Chowdhery et al. 2022, arXiv 2204.02311, but they also count attention to
future tokens).
"""

from __future__ import annotations

from torch import nn

from expbench.language.model import LanguageModel
from expbench.mixer import flops


def flops_per_token(model: LanguageModel, context: int) -> float:
    """Return the operations per token of a forward and backward pass, averaged over a sequence: three times the forward.

    Forward pass: 2 m n for a linear map from m to n numbers, 2 per tap and channel for a convolution, the mixer's own count
    (`Mixer.flops`, or else its linear maps), and 2 V D for the head. Norms, gates and the embedding are not counted.
    """
    total = 2.0 * model.embed.weight.numel()
    stated = [(mixer, flops(mixer, context)) for mixer in model.mixers]
    inside = {id(module) for mixer, known in stated if known is not None for module in mixer.modules()}
    total += sum(known for _, known in stated if known is not None)
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear | nn.Conv1d) and id(module) not in inside:
            total += 2 * module.weight.numel()
    return 3 * total

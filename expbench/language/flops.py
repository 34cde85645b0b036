"""Floating-point operations of training a language model, for model FLOP/s utilisation (MFU).

What the model asks for is counted, not what a program does: causal attention multiplies with the past alone, and nothing is
computed twice (Chowdhery et al. 2022, arXiv 2204.02311, who count attention with the future too).
"""

from __future__ import annotations

from torch import nn

from expbench.language.model import LanguageModel
from expbench.mixer import flops


def flops_per_token(model: LanguageModel, context: int) -> float:
    """Operations of forward and backward for one token, on average over a sequence: three times those of the forward.

    Of the forward: a linear map of m to n numbers 2 m n, a convolution 2 for each tap and channel, a mixer what it states of
    itself (`Mixer.flops`, else its linear maps), the head 2 V D. Norms, gates and the embedding's look-up are left out.
    """
    total = 2.0 * model.embed.weight.numel()
    stated = [(mixer, flops(mixer, context)) for mixer in model.mixers]
    inside = {id(module) for mixer, known in stated if known is not None for module in mixer.modules()}
    total += sum(known for _, known in stated if known is not None)
    for module in model.blocks.modules():
        if isinstance(module, nn.Linear | nn.Conv1d) and id(module) not in inside:
            total += 2 * module.weight.numel()
    return 3 * total

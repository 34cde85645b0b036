"""Perplexity of a text under a model that predicts each token from those before it.

A model is a callable `NLL`: inputs (B, L) and targets (B, L), int64 ids, -> (B, L), the negative log-likelihood in nats of
each target given the inputs up to and with its position, no later one. Target t is token t of the text, its input the token
before; before the first stands `before`, the id of a line end. So every token is a target.

The text is read in windows of `context` tokens that overlap: each predicts its last `stride` targets, the first all of its
own, the last what is left. A target of any window but the first thus sees from context-stride+1 to context tokens. At
stride=context every token is read once, and the first of a window sees one token; at stride=1 each sees all that it may.

Token-level perplexity is exp(nll / tokens), and depends on the tokens. Word-level perplexity is exp(nll / words), with the
words of the text whatever its tokens (see `expbench.data.corpus.sources`): it can be compared, where no text becomes <unk>.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from expbench.errors import BadInput

NLL = Callable[[Tensor, Tensor], Tensor]
Ids = NDArray[np.integer[Any]]
_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Perplexity:
    """nll: the sum over targets, in nats. tokens: how many targets. words: how many words they are, None where that is not
    known. context, stride: how they were predicted, 0 of a model that sees nothing.
    """

    nll: float
    tokens: int
    words: int | None
    context: int
    stride: int

    @property
    def per_token(self) -> float:
        """exp(nll / tokens)."""
        return _exp(self.nll / self.tokens)

    @property
    def per_word(self) -> float | None:
        """exp(nll / words), None where words are not known."""
        return None if self.words is None else _exp(self.nll / self.words)


def windows(tokens: int, context: int, stride: int, begin: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Where windows start, and how many targets at the end of each are counted: (W,) each.

    Each is `context` long. Every target of begin..tokens-1 is counted in one of them. Raises BadInput where the context is
    longer than the text or the stride not in 1..context.
    """
    if not 1 <= context <= tokens:
        raise BadInput(f"context={context} must be from 1 to the {tokens} tokens of the text")
    if not 1 <= stride <= context:
        raise BadInput(f"stride={stride} must be from 1 to the context, {context}")
    if not 0 <= begin < tokens:
        raise BadInput(f"the first target {begin} is none of the {tokens} tokens of the text")
    first = min(tokens, max(begin + stride, context))
    ends = np.append(np.arange(first, tokens, stride), tokens)
    return ends - context, np.diff(ends, prepend=begin)


def evaluate(
    nll: NLL,
    ids: Ids,
    *,
    context: int,
    stride: int,
    before: int,
    words: int | None,
    begin: int = 0,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> Perplexity:
    """The perplexity of the tokens ids[begin:], each predicted once, in batches of windows.

    ids: (tokens,). words: how many words the targets are. Raises BadInput as `windows` does, ValueError where `nll` returns
    another shape. Without gradients; that a model is set to evaluation is its owner's task.
    """
    starts, counted = windows(len(ids), context, stride, begin)
    if batch_size < 1:
        raise BadInput(f"batch_size={batch_size} must be above 0")
    total = torch.zeros((), dtype=torch.float64, device=device)
    with torch.no_grad():
        for i in range(0, len(starts), batch_size):
            text = np.stack([_window(ids, start, context, before) for start in starts[i : i + batch_size].tolist()])
            both = torch.from_numpy(text).to(device)
            costs = nll(both[:, :-1], both[:, 1:])
            if costs.shape != (len(both), context):
                raise ValueError(f"nll of targets {(len(both), context)} has shape {tuple(costs.shape)}")
            left_out = context - torch.from_numpy(counted[i : i + batch_size]).to(device)
            count = torch.arange(context, device=device) >= left_out[:, None]
            total += torch.where(count, costs.double(), 0).sum()
    return Perplexity(float(total), len(ids) - begin, words, context, stride)


def evaluate_lengths(
    nll: NLL,
    ids: Ids,
    *,
    contexts: Sequence[int],
    stride: int,
    before: int,
    batch_size: int = 8,
    device: torch.device | str = "cpu",
) -> dict[int, Perplexity]:
    """The perplexity at each context of the same targets: those with at least as many tokens before them as the longest.

    batch_size: of windows of the longest context; of shorter ones as many as have the same tokens. Raises BadInput where the
    longest leaves no target, or the stride is not in 1..shortest. Words are not counted: the first may be begun.
    """
    if not contexts:
        raise BadInput("no context to evaluate at")
    longest = max(contexts)
    if longest >= len(ids):
        raise BadInput(f"context={longest} leaves no target of a text of {len(ids)} tokens")
    if not 1 <= stride <= min(contexts):
        raise BadInput(f"stride={stride} must be from 1 to the shortest context, {min(contexts)}")
    return {
        context: evaluate(
            nll,
            ids,
            context=context,
            stride=stride,
            before=before,
            words=None,
            begin=longest,
            batch_size=batch_size * (longest // context),
            device=device,
        )
        for context in sorted(set(contexts))
    }


def of_logits(logits: Callable[[Tensor], Tensor]) -> NLL:
    """The NLL of a network: inputs (B, L) -> logits (B, L, V). The softmax is of float32 at least."""

    def nll(inputs: Tensor, targets: Tensor) -> Tensor:
        scores = logits(inputs).flatten(0, 1)
        wide = scores if scores.dtype == torch.float64 else scores.float()
        return F.cross_entropy(wide, targets.flatten(), reduction="none").view(targets.shape)

    return nll


def counts(ids: Ids, vocabulary: int) -> NDArray[np.int64]:
    """How often each token stands in a text: (vocabulary,)."""
    total = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, len(ids), _COUNTED_AT_ONCE):  # numpy counts int64, a copy
        total += np.bincount(ids[start : start + _COUNTED_AT_ONCE], minlength=vocabulary)
    return total


def uniform(vocabulary: int) -> NDArray[np.float64]:
    """The nats of each token (vocabulary,) under p = 1 / vocabulary."""
    return np.full(vocabulary, math.log(vocabulary))


def unigram(training: NDArray[np.int64]) -> NDArray[np.float64]:
    """The nats of each token (vocabulary,) under p = (n + 1) / (N + vocabulary): training counts n, add-one smoothed."""
    return np.asarray(math.log(training.sum() + len(training)) - np.log(training + 1))


def without_context(costs: NDArray[np.float64], ids: Ids, *, words: int | None) -> Perplexity:
    """The perplexity, in closed form, of a model whose nats for each token (vocabulary,) are the same everywhere."""
    return Perplexity(float(counts(ids, len(costs)) @ costs), len(ids), words, context=0, stride=0)


def of_costs(costs: NDArray[np.float64]) -> NLL:
    """The same model as an NLL."""
    table = torch.from_numpy(costs)
    return lambda inputs, targets: table.to(targets.device)[targets]


def _window(ids: Ids, start: int, context: int, before: int) -> NDArray[np.int64]:
    """The input before a window's first target, and its targets: (context + 1,)."""
    text = np.empty(context + 1, dtype=np.int64)
    text[0] = ids[start - 1] if start else before
    text[1:] = ids[start : start + context]
    return text


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # beyond, math.exp raises

"""Perplexity of a text under a model that predicts each token from those before it.

A model is a callable `NLL`: inputs (B, L) and targets (B, L), int64 ids, -> (B, L), the negative log-likelihood in nats of
each target, given the inputs up to and including its position. Target t is token t of the text; its input is the preceding
token. The input of the first target is `before`, the id of a line end, so that every token is a target.

The text is read in overlapping windows of `context` tokens. Each window predicts its last `stride` targets, except that the
first predicts all its targets and the last the remaining ones. A target outside the first window thus sees context-stride+1
to context tokens. At stride=context every token is read once, and the first target of a window sees one token; at stride=1
each target sees the longest possible context.

Token-level perplexity is exp(nll / tokens) and depends on the tokenizer. Word-level perplexity is exp(nll / words), with
words counted in the text (see `expbench.data.corpus.sources`): it is comparable across tokenizers without <unk>.
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

from expbench.errors import BadInput

NLL = Callable[[Tensor, Tensor], Tensor]
Ids = NDArray[np.integer[Any]]
_COUNTED_AT_ONCE = 1 << 22


@dataclass(frozen=True)
class Perplexity:
    """The likelihood of a text.

    nll: sum over the targets, in nats. tokens: number of targets. words: number of words in the targets, None if unknown.
    context, stride: of the windows, 0 for a model without context.
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
        """exp(nll / words), None if the number of words is unknown."""
        return None if self.words is None else _exp(self.nll / self.words)


def windows(tokens: int, context: int, stride: int, begin: int = 0) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the starts (W,) of the windows, and the number (W,) of targets that count at the end of each.

    Windows are `context` long. Every target in begin..tokens-1 counts in exactly one window. Raises `BadInput` if the
    context is longer than the text or the stride is not in 1..context.
    """
    if not 1 <= context <= tokens:
        raise BadInput(f"context={context} must be from 1 to {tokens}, the number of tokens in the text")
    if not 1 <= stride <= context:
        raise BadInput(f"stride={stride} must be from 1 to the context, {context}")
    if not 0 <= begin < tokens:
        raise BadInput(f"begin={begin} must be from 0 to below {tokens}, the number of tokens in the text")
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
    """Return the perplexity of the tokens ids[begin:], each predicted once, in batches of windows.

    ids: (tokens,). words: number of words in the targets. Computes no gradients; the caller sets the model to evaluation
    mode. Raises `BadInput` like `windows`, and ValueError if `nll` returns a wrong shape.
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
    """Return the perplexity at each context length, on the same targets: those preceded by at least the longest context.

    batch_size: windows of the longest context per batch; batches of shorter windows have as many tokens. Raises `BadInput`
    if the longest context leaves no target or the stride is not in 1..shortest. Words are not counted, because the first
    target may lie within a word.
    """
    if not contexts:
        raise BadInput("no context to evaluate at")
    longest = max(contexts)
    if longest >= len(ids):
        raise BadInput(f"context={longest} leaves no target in a text of {len(ids)} tokens")
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


def counts(ids: Ids, vocabulary: int) -> NDArray[np.int64]:
    """Return the count of each token in a text: (vocabulary,)."""
    total = np.zeros(vocabulary, dtype=np.int64)
    for start in range(0, len(ids), _COUNTED_AT_ONCE):  # bincount copies to int64, so slice to bound memory
        total += np.bincount(ids[start : start + _COUNTED_AT_ONCE], minlength=vocabulary)
    return total


def uniform(vocabulary: int) -> NDArray[np.float64]:
    """Return the NLL of each token, in nats, (vocabulary,), under p = 1 / vocabulary."""
    return np.full(vocabulary, math.log(vocabulary))


def unigram(training: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the NLL of each token, in nats, (vocabulary,), under p = (n + 1) / (N + vocabulary).

    n are the training counts, N is their sum (add-one smoothing).
    """
    return np.asarray(math.log(training.sum() + len(training)) - np.log(training + 1))


def without_context(costs: NDArray[np.float64], ids: Ids, *, words: int | None) -> Perplexity:
    """Return the perplexity, in closed form, of a model without context, given the NLL of each token (vocabulary,)."""
    return Perplexity(float(counts(ids, len(costs)) @ costs), len(ids), words, context=0, stride=0)


def _window(ids: Ids, start: int, context: int, before: int) -> NDArray[np.int64]:
    """Return the first input of a window, followed by its targets: (context + 1,)."""
    text = np.empty(context + 1, dtype=np.int64)
    text[0] = ids[start - 1] if start else before
    text[1:] = ids[start : start + context]
    return text


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # above 709 math.exp raises OverflowError

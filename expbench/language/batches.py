"""The order of the training data: every batch is a function of its step and the seed, so that no state has to be saved.

Each epoch draws an offset in 0..context-1, cuts the text from there into windows of `context` targets, and shuffles them.
Each token is therefore a target at most once per epoch. The tokens at both ends and those of an incomplete last batch are
dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from expbench.data.rng import CounterRNG, fold
from expbench.language.recipe import Recipe, windows


class TokenBatches:
    """Batches of a training split: ids (tokens,), unsigned integers."""

    def __init__(self, ids: NDArray[np.unsignedinteger[Any]], recipe: Recipe) -> None:
        self._ids, self._recipe = ids, recipe
        self._windows = windows(recipe, len(ids))
        self._steps = self._windows // recipe.batch_size
        self._epoch, self._starts = -1, np.empty(0, dtype=np.int64)

    def starts(self, step: int) -> NDArray[np.int64]:
        """Return the positions (B,) in the text at which the sequences of `step` (from 1) start."""
        epoch, at = divmod(step - 1, self._steps)
        if epoch != self._epoch:
            rng = CounterRNG(fold("language", self._recipe.seed, epoch))
            offset = int(rng.integers(1, n=self._recipe.context))
            order = np.array(rng.permutation(self._windows), dtype=np.int64)
            self._epoch, self._starts = epoch, offset + order * self._recipe.context
        return self._starts[at * self._recipe.batch_size :][: self._recipe.batch_size]

    def batch(self, step: int, device: torch.device, rank: int = 0, ranks: int = 1) -> Tensor:
        """Return a process's share of the batch of a step: (B / ranks, context + 1) int64, one token more than targets."""
        share = self._recipe.batch_size // ranks
        starts = self.starts(step)[rank * share :][:share].tolist()
        text = np.stack([self._ids[start : start + self._recipe.context + 1] for start in starts]).astype(np.int64)
        tokens = torch.from_numpy(text)
        return tokens.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tokens

"""Evaluation of a language model during training: perplexities, statistics of mixers, checksums of data and outputs."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.data.corpus import Corpus, Tokens
from expbench.data.corpus import Split as Part
from expbench.language import perplexity
from expbench.language.model import LanguageModel
from expbench.language.recipe import Recipe
from expbench.run import Score, Split
from expbench.training.family import DivergedError
from expbench.training.monitors import checksum
from expbench.training.precision import precision_context

SPLITS: dict[Split, Part] = {"validation": "validation", "test": "test"}
_PROBE = 4096  # tokens on which mixers log their statistics
_TOLD = 256  # sequences in the checksum of a split


class LanguageEvaluation:
    """The measurements of a model on its device.

    rows: maximum number of sequences that fit into memory. compiled: true if the model's blocks are compiled.
    """

    def __init__(
        self, model: LanguageModel, corpus: Corpus, recipe: Recipe, device: torch.device, rows: int, compiled: bool
    ) -> None:
        self._model, self._corpus, self._recipe, self._device = model, corpus, recipe, device
        self._rows, self._compiled = rows, compiled

    def untrained(self) -> Iterator[Score]:
        """Yield a checksum of the untrained model's outputs in float32: of the losses of the probe's tokens."""
        with self._uncompiled():
            probe = self._probe(ahead=1)
            losses = self._model.token_losses(probe[:, :-1], probe[:, 1:])
        yield Score("outputs_checksum", float(checksum(losses[None])), split="validation")

    def scores(self) -> Iterator[Score]:
        """Yield the perplexities per token and per word of all splits except the training split.

        Raises `DivergedError` if one is not finite.
        """
        for split, tokens in self._splits():
            found = self._perplexity(tokens)
            _require_finite(found, split)
            yield Score("perplexity", found.per_token, split=split, primary=True)
            if found.per_word is not None:
                yield Score("word_perplexity", found.per_word, split=split)

    def at_best(self) -> Iterator[Score]:
        """Yield the perplexity at each of the recipe's lengths, all on the same targets.

        The targets are those with a full window of the longest context. The model runs uncompiled, because compiling a
        program for every length would take longer than it saves.
        """
        recipe, lengths = self._recipe, self._recipe.lengths

        def nll(inputs: Tensor, targets: Tensor) -> Tensor:
            with precision_context(recipe.dtype, self._device.type):
                return self._model.token_losses(inputs, targets)

        for split, tokens in self._splits() if lengths else ():
            with self._uncompiled():
                found = perplexity.evaluate_lengths(
                    nll,
                    tokens.ids,
                    contexts=lengths,
                    stride=min(recipe.stride or recipe.context, *lengths),
                    before=self._corpus.tokenizer.end,
                    batch_size=max(1, self._rows * recipe.context // max(lengths)),
                    device=self._device,
                )
            for length, at_length in found.items():
                _require_finite(at_length, split, f" at context={length}")
                yield Score("perplexity", at_length.per_token, f"context={length}", split)

    def logged(self) -> Iterator[Score]:
        """Yield the statistics that mixers log on the first tokens of the validation split."""
        with precision_context(self._recipe.dtype, self._device.type):
            found = {of: float(value) for of, value in self._model.statistics(self._probe()).items()}
        for (layer, name), value in found.items():
            yield Score(name, value, f"layer={layer}", "validation")
        largest = [value for (_, name), value in found.items() if name == "abar_max"]
        if largest:
            yield Score("k_hat", max(largest), split="validation")

    def data(self) -> Iterator[Score]:
        """Yield checksums of all splits except the training split."""
        for split, tokens in self._splits():
            ids = tokens.ids[: _TOLD * self._recipe.context + 1].astype("int64")
            yield from of_tokens(split, torch.from_numpy(ids)[None])

    def _splits(self) -> Iterator[tuple[Split, Tokens]]:
        for split, part in SPLITS.items():
            if part in self._corpus.splits:
                yield split, self._corpus[part]

    def _perplexity(self, tokens: Tokens) -> perplexity.Perplexity:
        recipe, rows = self._recipe, self._rows

        def nll(inputs: Tensor, targets: Tensor) -> Tensor:
            """Return the NLL, padding the batch to `rows` sequences, because another batch size would recompile."""
            lacking = (0, 0, 0, rows - len(inputs))
            with precision_context(recipe.dtype, self._device.type):
                return self._model.token_losses(F.pad(inputs, lacking), F.pad(targets, lacking))[: len(inputs)]

        return perplexity.evaluate(
            nll,
            tokens.ids,
            context=recipe.context,
            stride=recipe.stride or recipe.context,
            before=self._corpus.tokenizer.end,
            words=tokens.words,
            batch_size=rows,
            device=self._device,
        )

    def _uncompiled(self) -> AbstractContextManager[Any]:
        """Return a context without torch.compile, for measurements that are too rare to pay for compilation."""
        return torch.compiler.set_stance("force_eager") if self._compiled else nullcontext()

    def _probe(self, ahead: int = 0) -> Tensor:
        """Return the first tokens of the validation split, (rows, context + ahead); rows overlap by `ahead` tokens."""
        ids, context = self._corpus["validation"].ids, self._recipe.context
        rows = max(1, min(_PROBE, len(ids) - ahead) // context)
        starts = [ids[i * context : (i + 1) * context + ahead].astype("int64") for i in range(rows)]
        return torch.from_numpy(np.stack(starts)).to(self._device)


def _require_finite(found: perplexity.Perplexity, split: Split, where: str = "") -> None:
    if not math.isfinite(found.nll) or math.isinf(found.per_token):
        raise DivergedError(f"the perplexity of the {SPLITS[split]} split{where} is not finite")


def of_tokens(split: Split, tokens: Tensor) -> Iterator[Score]:
    """Yield checksums of the inputs and the targets in tokens (R, n + 1)."""
    yield Score("inputs_checksum", float(checksum(tokens[None, :, :-1])), split=split)
    yield Score("targets_checksum", float(checksum(tokens[None, :, 1:])), split=split)

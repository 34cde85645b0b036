"""The workload of a language model on a corpus, for the trainer of epochs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from expbench.data.corpus import Corpus
from expbench.errors import BadInput
from expbench.language.batches import TokenBatches
from expbench.language.evaluation import SPLITS, LanguageEvaluation, of_tokens
from expbench.language.flops import flops_per_token
from expbench.language.model import LanguageModel
from expbench.language.recipe import Recipe, windows
from expbench.run import Score, content_key
from expbench.training.epochs.recipe import TrainerOptions
from expbench.training.epochs.trainer import train as train_in_epochs
from expbench.training.epochs.workload import Batch
from expbench.training.family import Event


def train(model: LanguageModel, corpus: Corpus, recipe: Recipe, options: TrainerOptions) -> Iterator[Event]:
    """Train a model on a corpus with `epochs.trainer.train`, yielding these scores:

    Validation split, and test split if there is one: perplexity and word_perplexity; at each lowest validation perplexity so
    far and at the end, also the perplexity at each of the recipe's lengths, with a slice such as ``context=256``, of the
    targets preceded by at least the longest; at the end, checksums of the data. Validation split only: the statistics that
    mixers log on its first tokens, and a checksum of the outputs before the first step.
    """
    return train_in_epochs(LanguageWorkload(model, corpus, recipe), recipe, options)


class LanguageWorkload:
    """A model, a corpus and a recipe. Raises `BadInput` if they do not fit together."""

    stream = "language"  # part of the key of the random numbers, so a new name would change them
    unit = "tokens"
    higher_is_better = False

    def __init__(self, model: LanguageModel, corpus: Corpus, recipe: Recipe) -> None:
        _check_fit(model, corpus, recipe)
        self.model, self._corpus, self._recipe = model, corpus, recipe
        self._order = TokenBatches(corpus["train"].ids, recipe)
        self.epoch = windows(recipe, corpus["train"].tokens) // recipe.batch_size
        self.units = recipe.batch_size * recipe.context

    def identity(self) -> Mapping[str, Any]:
        """Return the values that identify this training, except the initial weights, which follow from the seed."""
        model, mixer = self.model, self.model.mixers[0]
        shapes = {name: list(p.shape) for name, p in model.named_parameters()}
        return {
            "mixer": type(mixer).__qualname__,
            "mixer_version": getattr(mixer, "version", 1),
            "settings": dict(model.settings),
            "backbone": model.backbone,
            "layers": len(model.mixers),
            "parameters": content_key(shapes),
            "tokenizer": self._corpus.tokenizer.sha256[:16],
            "text": content_key({part: tokens.sha256 for part, tokens in self._corpus.splits.items()}),
        }

    def batch(self, step: int, device: torch.device, rank: int = 0, ranks: int = 1) -> Batch:
        """Return a process's share of the tokens of a step, (B / ranks, L + 1) int64."""
        return (self._order.batch(step, device, rank, ranks),)

    def loss(self, batch: Batch) -> Tensor:
        """Return the mean cross-entropy, in nats, of the tokens of a batch (B, L + 1), except the first of each sequence."""
        (tokens,) = batch
        return self.model.loss(tokens[:, :-1], tokens[:, 1:])

    def flops(self) -> float:
        """Return the floating-point operations of one step, forward and backward."""
        return flops_per_token(self.model, self._recipe.context) * self.units

    def compile(self) -> None:
        """Compile the model's blocks with torch.compile."""
        self.model.compile_blocks()

    def evaluation(self, device: torch.device, rows: int, compiled: bool) -> LanguageEvaluation:
        """Return the evaluation of the model. rows: maximum number of sequences that fit into memory."""
        return LanguageEvaluation(self.model, self._corpus, self._recipe, device, rows, compiled)

    def of_batch(self, batch: Batch) -> Iterator[Score]:
        """Yield checksums of a training batch."""
        return of_tokens("train", batch[0])


def _check_fit(model: LanguageModel, corpus: Corpus, recipe: Recipe) -> None:
    """Raise `BadInput` if model, corpus and recipe do not fit together."""
    missing = [part for part in ("train", "validation") if part not in corpus.splits]
    if missing:
        raise BadInput(f"the corpus has no {missing[0]} split (it has {', '.join(corpus.splits)})")
    vocabulary = model.embed.num_embeddings
    if corpus.vocabulary > vocabulary:
        raise BadInput(
            f"the tokenizer has {corpus.vocabulary} tokens but the model {vocabulary}: "
            f"give the model a vocabulary of {corpus.vocabulary} or use a smaller tokenizer"
        )
    longest = max((recipe.context, *recipe.lengths))
    if longest > model.context:
        raise BadInput(f"context={longest} is longer than the model's, {model.context}")
    for part in SPLITS.values():
        if part in corpus.splits and recipe.lengths and corpus[part].tokens <= longest:
            raise BadInput(f"a length of {longest} leaves no target in the {part} split of {corpus[part].tokens} tokens")
    for part, tokens in corpus.splits.items():
        if recipe.context > tokens.tokens:
            raise BadInput(f"context={recipe.context} is longer than the {part} split, which has {tokens.tokens} tokens")

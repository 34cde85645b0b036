"""TextTask: perplexity of a text, for language models around a mixer (`expbench.language`).

Its runs are listed, stored, tuned and reported like those of any task. But its network is a `LanguageModel`, its training
set is finite, and its runs are trained one at a time, in epochs and with checkpoints.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.data.corpus import NAMES, Choice, Corpus, Source, markov, prepare
from expbench.data.corpus.sources import MADE
from expbench.data.rng import CounterRNG
from expbench.language import perplexity
from expbench.run import content_key
from expbench.task import Batch, Score, Task, resolve_setting

_SHOWN = 24  # tokens in the displayed sample


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """Perplexity of a text.

    L: the context in tokens. data: name of the text; with a path it becomes the folder's name, unless the folder has as many
    words as the text of this name. ``markov`` is generated and always available. path: a folder of text; a run is identified
    not by its path but by `text`, a hash of all splits. tokenizer: bpe (trained on the training split, with `pieces`
    tokens), gpt2 (files in `tokenizer_path`, or from the hub), or word. stride: of evaluation, by default the context.
    lengths: further context lengths for evaluation, such as 256+512+1024, used at each best validation score so far and
    after the last step. All lengths share their targets, those preceded by at least the longest context, and a stride of
    at most the shortest. test_size, validation_size: tokens of the test and the validation split.
    """

    L: int = 1024
    data: str = "wikitext-2"
    path: str = ""
    tokenizer: Literal["bpe", "gpt2", "word"] = "bpe"
    pieces: int | None = None
    tokenizer_path: str = ""
    stride: int | None = None
    lengths: str | None = None
    text: str = ""

    trained_as = "language"
    fresh = False
    local = ("path", "tokenizer_path")
    primary_metric = "perplexity"
    higher_is_better = False
    readout = "all"
    success_threshold = 1.0  # only for a memorised text: in practice no perplexity solves the task

    def __post_init__(self) -> None:
        if self.instance:
            raise ValueError(f"instance={self.instance}: a text has seeds but no instances")
        corpus = self.corpus
        if self.path and corpus.as_published() is False:
            resolve_setting(self, "data", Path(self.path).resolve().name)
        resolve_setting(self, "pieces", corpus.choice.size)
        resolve_setting(self, "stride", self.L if self.stride is None else self.stride)
        text = content_key({part: tokens.sha256 for part, tokens in corpus.splits.items()})[:12]
        if self.text not in ("", text):
            raise ValueError(f"text={self.text}: the text with this tokenizer has the hash {text}")
        resolve_setting(self, "text", text)
        if self.test_size not in (None, corpus["test"].tokens):
            raise ValueError(f"test_size={self.test_size}: the test split has {corpus['test'].tokens} tokens, and all count")
        for setting, part in (("test_size", corpus["test"]), ("validation_size", corpus["validation"])):
            resolve_setting(self, setting, part.tokens)
        super().__post_init__()
        shortest = min(tokens.tokens for tokens in corpus.splits.values())
        if shortest < self.L:
            raise ValueError(f"L={self.L} is longer than the shortest split, which has {shortest} tokens")
        if not 1 <= self.stride <= self.L:  # type: ignore[operator]
            raise ValueError(f"stride={self.stride} must be from 1 to the context, {self.L}")
        if self.lengths is not None:
            resolve_setting(self, "lengths", "+".join(map(str, _lengths(self.lengths, shortest))))

    @property
    def contexts(self) -> tuple[int, ...]:
        """`lengths` as numbers, in ascending order."""
        return tuple(map(int, self.lengths.split("+"))) if self.lengths else ()

    @property
    def corpus(self) -> Corpus:
        """The tokenized splits, from the cache if it has them."""
        return _prepared(self.data, self.path, self.tokenizer, self.pieces, self.tokenizer_path)

    @property
    def vocabulary(self) -> int:
        """Tokens are 0..vocabulary-1."""
        return self.corpus.vocabulary

    @property
    def outputs(self) -> int:
        """One logit per token of the vocabulary."""
        return self.vocabulary

    def batch(self, rng: CounterRNG, size: int) -> Batch:
        """Draw windows of the training split at random positions; training reads it in epochs (`language.batches`)."""
        ids = self.corpus["train"].ids
        starts = rng.integers(size, n=len(ids) - self.L).tolist()
        windows = torch.from_numpy(np.stack([ids[start : start + self.L + 1] for start in starts]).astype(np.int64))
        return Batch(windows[:, :-1], windows[:, 1:])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the cross-entropy per token, in nats, of outputs (B, L, V) for targets (B, L)."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the summed NLL of all targets, in nats, and the number of targets."""
        return {"nats": self.loss(outputs, targets).double() * targets.numel(), "tokens": torch.tensor(targets.numel())}

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        """Return the perplexity, exp(nats / tokens)."""
        return [Score("perplexity", float((totals["nats"] / totals["tokens"]).exp()))]

    def chance(self) -> float:
        """Return the perplexity of the uniform distribution over the vocabulary."""
        return float(self.vocabulary)

    def floor_of_all(self) -> float | None:
        """Return the perplexity of a generated text's own source, per token of the test split."""
        if self.data != MADE or self.path:
            return None
        test = self.corpus["test"]
        return float(markov.floor() ** (test.words / test.tokens))

    def measured_controls(self) -> Iterator[tuple[str, str, list[Score]]]:
        """Yield the test scores of a uniform model and of the training split's unigram model."""
        yield "chance", "chance", [Score(self.primary_metric, self.chance())]
        test, training = self.corpus["test"], self.corpus["train"]
        costs = perplexity.unigram(perplexity.counts(training.ids, self.vocabulary))
        found = perplexity.without_context(costs, test.ids, words=test.words)
        scores = [Score("perplexity", found.per_token)]
        if found.per_word is not None:
            scores.append(Score("word_perplexity", found.per_word))
        yield "unigram", "baseline", scores

    @classmethod
    def withheld(cls, given: Container[str]) -> str | None:
        """Return a hint to give a path, without which showing a sample would download the text."""
        return None if "path" in given else "give -t path=FOLDER to see a sample of that text; nothing is downloaded here"

    def control_kinds(self) -> list[tuple[str, str]]:
        """Return the name and kind of each control."""
        return [(name, kind) for name, kind, _ in self.measured_controls()]

    def sample_lines(self) -> list[str]:
        """Return the beginning of the training split, as token ids and as text."""
        tokens = self.corpus["train"].ids[:_SHOWN]
        return [f"{' '.join(map(str, tokens))} ...", f"{self.corpus.tokenizer.decode(tokens)} ..."]

    def describe(self) -> str:
        """Return a description of the text, its tokenizer and its splits."""
        sizes = ", ".join(f"{part} {tokens.tokens}" for part, tokens in self.corpus.splits.items())
        return f"{self.data}, {self.tokenizer} of {self.vocabulary} tokens: {sizes}"


def _lengths(text: str, tokens: int) -> list[int]:
    """Parse ``"512+256"`` to [256, 512], for splits of at least `tokens` tokens. Raises ValueError.

    A single length is an error, because there is nothing to compare it with. The separator is +, because a list with commas
    would mean several values of the setting, each with its own runs.
    """
    written = text.split("+")
    if not all(length.isascii() and length.isdigit() and int(length) for length in written) or len({*written}) < 2:
        raise ValueError(f"lengths={text}: give two or more integers separated by +, such as 256+512+1024")
    lengths = sorted({int(length) for length in written})
    if lengths[-1] >= tokens:
        raise ValueError(f"lengths={text}: {lengths[-1]} leaves no target in a split of {tokens} tokens")
    return lengths


@lru_cache(maxsize=8)
def _prepared(data: str, path: str, tokenizer: str, pieces: int | None, tokenizer_path: str) -> Corpus:
    folder = Path(path).expanduser() if path else None
    name = data if folder is None or data in NAMES else None
    files = Path(tokenizer_path).expanduser() if tokenizer_path else None
    return prepare(Source(name, folder), Choice(tokenizer, pieces, files))

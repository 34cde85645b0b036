"""TextTask: perplexity of a text, for language models around a mixer, trained at size (`expbench.language`).

It is a task like others where runs are listed, stored, tuned and reported. Its network is a `LanguageModel`, its training
set is finite, and it is trained in its own way: in epochs, with checkpoints, alone.
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

from expbench.data.corpus import NAMES, Choice, Corpus, Source, prepare
from expbench.data.rng import Draws
from expbench.language import perplexity
from expbench.run import content_key
from expbench.task import Batch, Score, Task, resolve_setting

_SHOWN = 24  # tokens of the sample that is shown


@dataclass(frozen=True, kw_only=True)
class TextTask(Task):
    """Settings beside L, the context in tokens:

    data: what text, by name; with a path the name of the folder, unless it has as many words as the text of this name;
    ``markov`` is made, and always there. path: a folder of text, which is not part of what a run is known by; `text`, a hash
    of all splits, is. tokenizer: bpe (trained on the training split, of `pieces` tokens), gpt2 (its files in
    `tokenizer_path`, or from the hub), or word. stride: of evaluation, the context unless given. lengths: contexts to
    evaluate at besides, where validation is the best yet and after the last step, as 256+512+1024: all on the same tokens,
    which have at least as many before them as the longest, and at a stride of at most the shortest.
    test_size, selection_size: the tokens of the test and the validation split.
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
    headline = "perplexity"
    higher_is_better = False
    readout = "all"
    solved_at = 1.0  # a text that is known by heart: no perplexity solves the task

    def __post_init__(self) -> None:
        if self.instance:
            raise ValueError(f"instance={self.instance}: a text has no instances, only seeds")
        corpus = self.corpus
        if self.path and corpus.as_published() is False:
            resolve_setting(self, "data", Path(self.path).resolve().name)
        resolve_setting(self, "pieces", corpus.choice.size)
        resolve_setting(self, "stride", self.L if self.stride is None else self.stride)
        text = content_key({part: tokens.sha256 for part, tokens in corpus.splits.items()})[:12]
        if self.text not in ("", text):
            raise ValueError(f"text={self.text}: this text in these tokens is another, {text}")
        resolve_setting(self, "text", text)
        if self.test_size not in (None, corpus["test"].tokens):
            raise ValueError(f"test_size={self.test_size}: all {corpus['test'].tokens} tokens of the test split count")
        for setting, part in (("test_size", corpus["test"]), ("selection_size", corpus["validation"])):
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
        """The `lengths`, ascending."""
        return tuple(map(int, self.lengths.split("+"))) if self.lengths else ()

    @property
    def corpus(self) -> Corpus:
        """The splits in tokens, from the cache where it holds them."""
        return _prepared(self.data, self.path, self.tokenizer, self.pieces, self.tokenizer_path)

    @property
    def vocabulary(self) -> int:
        """Tokens are 0..vocabulary-1."""
        return self.corpus.vocabulary

    @property
    def outputs(self) -> int:
        """A number for each token that may follow."""
        return self.vocabulary

    def batch(self, draws: Draws, size: int) -> Batch:
        """Return windows of the training split, wherever they begin; training reads it in epochs (`language.batches`)."""
        ids = self.corpus["train"].ids
        starts = draws.integers(size, n=len(ids) - self.L).tolist()
        windows = torch.from_numpy(np.stack([ids[start : start + self.L + 1] for start in starts]).astype(np.int64))
        return Batch(windows[:, :-1], windows[:, 1:])

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Nats a token: outputs (B, L, V), targets (B, L)."""
        return F.cross_entropy(outputs.flatten(0, 1), targets.flatten())

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """The nats of all targets, and how many there are."""
        return {"nats": self.loss(outputs, targets).double() * targets.numel(), "tokens": torch.tensor(targets.numel())}

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        """exp(nats / tokens)."""
        return [Score("perplexity", float((totals["nats"] / totals["tokens"]).exp()))]

    def chance(self) -> float:
        """The perplexity of a model that knows nothing."""
        return float(self.vocabulary)

    def measured_controls(self) -> Iterator[tuple[str, str, list[Score]]]:
        """A uniform model, and the unigram model of the training split, on the test split."""
        yield "chance", "chance", [Score(self.headline, self.chance())]
        test, training = self.corpus["test"], self.corpus["train"]
        costs = perplexity.unigram(perplexity.counts(training.ids, self.vocabulary))
        found = perplexity.without_context(costs, test.ids, words=test.words)
        scores = [Score("perplexity", found.per_token)]
        if found.per_word is not None:
            scores.append(Score("word_perplexity", found.per_word))
        yield "unigram", "baseline", scores

    @classmethod
    def withheld(cls, given: Container[str]) -> str | None:
        """Return what is to be given so that it can be shown: without a path its text would be fetched."""
        return None if "path" in given else "with -t path=FOLDER it shows that text; nothing is fetched here"

    def control_kinds(self) -> list[tuple[str, str]]:
        """Return the name and kind of each control."""
        return [(name, kind) for name, kind, _ in self.measured_controls()]

    def sample_lines(self) -> list[str]:
        """Return the beginning of the training split, in tokens and as text."""
        tokens = self.corpus["train"].ids[:_SHOWN]
        return [f"{' '.join(map(str, tokens))} ...", f"{self.corpus.tokenizer.decode(tokens)} ..."]

    def describe(self) -> str:
        """What text it is, in what tokens."""
        sizes = ", ".join(f"{part} {tokens.tokens}" for part, tokens in self.corpus.splits.items())
        return f"{self.data}, {self.tokenizer} of {self.vocabulary} tokens: {sizes}"


def _lengths(text: str, tokens: int) -> list[int]:
    """``"512+256"`` as [256, 512], for splits of at least so many tokens; raises ValueError.

    One alone is refused: it can be held against nothing, and a list with commas would be one of settings, each its own runs.
    """
    written = text.split("+")
    if not all(length.isascii() and length.isdigit() and int(length) for length in written) or len({*written}) < 2:
        raise ValueError(f"lengths={text}: give two or more whole numbers with + between, as 256+512+1024")
    lengths = sorted({int(length) for length in written})
    if lengths[-1] >= tokens:
        raise ValueError(f"lengths={text}: {lengths[-1]} leaves no target of a split of {tokens} tokens")
    return lengths


@lru_cache(maxsize=8)
def _prepared(data: str, path: str, tokenizer: str, pieces: int | None, tokenizer_path: str) -> Corpus:
    folder = Path(path).expanduser() if path else None
    name = data if folder is None or data in NAMES else None
    files = Path(tokenizer_path).expanduser() if tokenizer_path else None
    return prepare(Source(name, folder), Choice(tokenizer, pieces, files))

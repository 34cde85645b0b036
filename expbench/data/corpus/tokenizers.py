"""Tokenizers: conversion between lines of text and token ids.

``bpe``: byte-level BPE, trained on the training split. ``gpt2``: GPT-2's tokenizer. Both can encode every text, so that
perplexities per word are comparable across tokenizers. ``word``: the words of the training split, and ``<unk>`` for all
others; its perplexities are comparable only for the same vocabulary.

Every line is encoded separately, with its ``\\n``. Ids therefore do not depend on the division of a text into chunks, and no
token crosses a line end.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from expbench.errors import BadInput, first_line, unknown

Kind = Literal["bpe", "gpt2", "word"]
KINDS: tuple[Kind, ...] = ("bpe", "gpt2", "word")
BPE_SIZE = 16_384
BYTES, LARGEST = 256, 1 << 20
END, UNKNOWN = "<eos>", "<unk>"
_GPT2 = "openai-community/gpt2"
_LEAST_OFTEN = 2  # minimum frequency of a merged pair: a pair that occurs once does not generalise


class Tokenizer(Protocol):
    """The interface of a tokenizer.

    vocabulary: ids are 0..vocabulary-1. end: id of a line end, also used as input before a text's first token. sha256: hash
    of everything that determines ids.
    """

    @property
    def vocabulary(self) -> int: ...
    @property
    def end(self) -> int: ...
    @property
    def sha256(self) -> str: ...

    def encode(self, lines: Sequence[str]) -> NDArray[np.int64]:
        """Return the concatenated ids (tokens,) of lines, each with its line end."""

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the text of ids. It inverts `encode` exactly, except for ``word``."""

    def written(self) -> str:
        """Return the tokenizer serialised as a string, for `restored`."""


@dataclass(frozen=True)
class Choice:
    """The choice of a tokenizer. Raises `BadInput`.

    size: maximum number of tokens, for ``bpe`` only (None: 16,384). path: folder with vocab.json and merges.txt, for
    ``gpt2`` only (None: from the hub).
    """

    kind: str = "bpe"
    size: int | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise unknown("tokenizer", self.kind, KINDS)
        if self.kind == "bpe" and self.size is None:
            object.__setattr__(self, "size", BPE_SIZE)
        if self.kind != "bpe" and self.size is not None:
            raise BadInput(f"only the tokenizer bpe has a size, not {self.kind}")
        if self.kind != "gpt2" and self.path is not None:
            raise BadInput(
                f"only the tokenizer gpt2 has a path, not {self.kind}, which is made from the training split: {self.path}"
            )
        if self.size is not None and not BYTES <= self.size <= LARGEST:
            raise BadInput(f"size={self.size}: the size of bpe must be from {BYTES}, the number of bytes, to {LARGEST}")


class Words:
    """Words separated by white space, most frequent first; ``<eos>`` ends each line, ``<unk>`` replaces unknown words."""

    def __init__(self, known: Sequence[str]) -> None:
        self._words = list(known)
        self._id = {word: i for i, word in enumerate(known) if word != END}  # a literal <eos> in a text must not end a line
        self.end, self._unknown = known.index(END), self._id[UNKNOWN]
        self.sha256 = hashlib.sha256("\n".join(["word", *known]).encode()).hexdigest()

    @property
    def vocabulary(self) -> int:
        return len(self._words)

    def encode(self, lines: Sequence[str]) -> NDArray[np.int64]:
        ids: list[int] = []
        for line in lines:
            ids += [self._id.get(word, self._unknown) for word in line.split()]
            ids.append(self.end)
        return np.array(ids, dtype=np.int64)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        """Return the words of ids, separated by single spaces, because the original white space is lost."""
        text = " ".join("\n" if i == self.end else self._words[i] for i in ids)
        return text.replace(" \n", "\n").replace("\n ", "\n")

    def written(self) -> str:
        return json.dumps(self._words)


class Pieces:
    """Byte-level BPE, GPT-2's or of the same form. `model` is a tokenizer of the library tokenizers."""

    def __init__(self, model: Any) -> None:
        self._model = model
        table = model.get_vocab(with_added_tokens=True)
        self.vocabulary = max(table.values()) + 1
        lost = set(_library().pre_tokenizers.ByteLevel.alphabet()) - set(table)
        if lost:  # the library would silently drop such bytes from a text
            raise BadInput(f"not a byte-level tokenizer: {len(lost)} of the {BYTES} bytes are not in its vocabulary")
        merges = json.loads(model.to_str())["model"]["merges"]
        pairs = [" ".join(pair) if isinstance(pair, list) else pair for pair in merges]  # strings before tokenizers 0.20
        content = json.dumps(["byte-level BPE", sorted(table.items()), pairs])
        self.sha256 = hashlib.sha256(content.encode()).hexdigest()
        self.end = int(self.encode([""])[-1])

    def encode(self, lines: Sequence[str]) -> NDArray[np.int64]:
        encoded = self._model.encode_batch([f"{line}\n" for line in lines], add_special_tokens=False)
        return np.fromiter((i for line in encoded for i in line.ids), dtype=np.int64)

    def decode(self, ids: Sequence[int] | NDArray[Any]) -> str:
        return str(self._model.decode([int(i) for i in ids], skip_special_tokens=False))

    def written(self) -> str:
        return str(self._model.to_str())


def make(choice: Choice, training: Iterable[str]) -> Tokenizer:
    """Build the tokenizer of a choice, a deterministic function of the training split's lines. Raises `BadInput`."""
    if choice.kind == "word":
        return _words(training)
    return _gpt2(choice.path) if choice.kind == "gpt2" else _trained(training, choice.size or BPE_SIZE)


def restored(choice: Choice, text: str) -> Tokenizer:
    """Rebuild a tokenizer from the string that `written` returned."""
    if choice.kind == "word":
        return Words(json.loads(text))
    return Pieces(_library().Tokenizer.from_str(text))


def _words(lines: Iterable[str]) -> Words:
    """Build the tokenizer of all words in the training split, as published for WikiText: 33,278 words for WikiText-2."""
    count: Counter[str] = Counter()
    for line in lines:
        count.update(line.split())
    del count[END], count[UNKNOWN]
    return Words([END, UNKNOWN, *sorted(count, key=lambda word: (-count[word], word))])


def _library() -> Any:
    try:
        import tokenizers
    except ImportError:
        raise BadInput(
            "the tokenizers bpe and gpt2 need the library tokenizers, which is not installed: "
            "pip install 'expbench[wikitext]'; the tokenizer word needs none"
        ) from None
    return tokenizers


def _around(bpe: Any) -> Any:
    """Build a byte-level tokenizer like GPT-2's around a BPE model."""
    library = _library()
    model = library.Tokenizer(bpe)
    model.pre_tokenizer = library.pre_tokenizers.ByteLevel(add_prefix_space=False)
    model.decoder = library.decoders.ByteLevel()
    return model


def _trained(lines: Iterable[str], size: int) -> Pieces:
    library = _library()
    model = _around(library.models.BPE())
    alphabet = library.pre_tokenizers.ByteLevel.alphabet()
    trainer = library.trainers.BpeTrainer(
        vocab_size=size, min_frequency=_LEAST_OFTEN, initial_alphabet=alphabet, show_progress=False
    )
    model.train_from_iterator((f"{line}\n" for line in lines), trainer)
    return Pieces(model)


def _gpt2(folder: Path | None) -> Pieces:
    library = _library()
    if folder is None:
        try:
            model = library.Tokenizer.from_pretrained(_GPT2)
        except Exception as error:  # the library raises plain exceptions and those of the hub's client
            raise BadInput(
                f"GPT-2's tokenizer cannot be downloaded ({first_line(error)}): check the network connection, "
                "or give the path of a folder with its vocab.json and merges.txt"
            ) from error
        return Pieces(model)
    files = [folder / name for name in ("vocab.json", "merges.txt")]
    for file in files:
        if not file.is_file():
            raise BadInput(f"{folder} has no {file.name}; the tokenizer gpt2 needs vocab.json and merges.txt")
    try:
        model = _around(library.models.BPE.from_file(*map(str, files)))
    except Exception as error:  # the library raises plain exceptions
        raise BadInput(f"{folder}: vocab.json and merges.txt cannot be read ({first_line(error)})") from error
    return Pieces(model)

"""A corpus as token ids: made once, kept in files, and mapped into memory.

The files stand in ``$EXPBENCH_CACHE`` or ``~/.cache/expbench``, below ``corpus``. Each has the hash of what it was made from
in its name, so that other inputs never meet it, and a header that says what must be in it. What does not match its header is
made again: a file is never trusted because it is there.

A tokenizer is ``KEY.tokenizer.json``. A split is ``KEY.ids``, the ids in little-endian uint16 or uint32, with
``KEY.json``, which is written last.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from expbench import files
from expbench.console.progress import counting
from expbench.data.corpus import tokenizers
from expbench.data.corpus.sources import PUBLISHED, SPLITS, Fingerprint, Source, Split, chunks, words
from expbench.data.corpus.tokenizers import Choice, Tokenizer
from expbench.errors import BadInput, first_line
from expbench.results.provenance import installed

VERSION = 1  # raise it when the same inputs would give other ids
_READ = 1 << 24


@dataclass(frozen=True)
class Tokens:
    """A split. ids: (tokens,) uint16 or uint32, read-only, in a file that is mapped into memory. words: how many words it
    has, each line's end among them. lines: how many lines. sha256: of its text.
    """

    ids: NDArray[np.unsignedinteger[Any]]
    words: int
    lines: int
    sha256: str

    @property
    def tokens(self) -> int:
        """How many tokens it has."""
        return len(self.ids)


@dataclass(frozen=True)
class Corpus:
    """Splits of a text, in tokens of one tokenizer."""

    source: Source
    choice: Choice
    tokenizer: Tokenizer
    splits: Mapping[Split, Tokens]

    @property
    def vocabulary(self) -> int:
        """Ids are 0..vocabulary-1."""
        return self.tokenizer.vocabulary

    def __getitem__(self, split: Split) -> Tokens:
        return self.splits[split]

    def as_published(self) -> bool | None:
        """Whether the splits have as many words as those that are published under the source's name; None without a name.

        Those are counted for the tokenised text, where the raw one has none.
        """
        if self.source.name not in PUBLISHED:
            return None
        return all(PUBLISHED[self.source.name][split] == part.words for split, part in self.splits.items())


def folder() -> Path:
    """Where corpora are kept."""
    chosen = os.environ.get("EXPBENCH_CACHE")
    return (Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "expbench") / "corpus"


def prepare(source: Source, choice: Choice, splits: Iterable[Split] = SPLITS) -> Corpus:
    """The splits of a source in tokens, from the cache or made. The text is read each time, to tell whether it is the same.

    Raises BadInput where the text or the tokenizer cannot be had, or the cache cannot be written.
    """
    kept = folder()
    try:
        kept.mkdir(parents=True, exist_ok=True)
        files.sweep_away(kept)
        told = {split: source.fingerprint(split) for split in splits}
        tokenizer = _tokenizer(source, choice, told, kept)
        return Corpus(source, choice, tokenizer, {name: _split(source, name, told[name], tokenizer, kept) for name in told})
    except OSError as error:
        raise BadInput(f"{kept} cannot be used ({first_line(error)}); EXPBENCH_CACHE names another folder") from error


def _tokenizer(source: Source, choice: Choice, told: Mapping[Split, Fingerprint], kept: Path) -> Tokenizer:
    """The tokenizer of a choice: what was made from the training split is kept."""
    if choice.kind == "gpt2":
        return tokenizers.make(choice, ())
    training = told.get("train") or source.fingerprint("train")
    inputs = {
        **_made_by(),
        "training": training.sha256,
        "tokenizer": choice.kind,
        "size": choice.size,
    }
    path = kept / f"{_key(inputs)}.tokenizer.json"
    header = _header(path, inputs)
    if header is not None:
        return tokenizers.restored(choice, header["content"])
    print(f"making the tokenizer {choice.kind} from {training.lines} lines of {source.label}", file=sys.stderr, flush=True)
    tokenizer = tokenizers.make(choice, source.lines("train"))
    _write(path, {"inputs": inputs, "content": tokenizer.written()})
    return tokenizer


def _split(source: Source, split: Split, told: Fingerprint, tokenizer: Tokenizer, kept: Path) -> Tokens:
    """A split, from its files if they are as their header says, else from its text."""
    inputs = {**_made_by(), "text": told.sha256, "tokenizer": tokenizer.sha256}
    key = _key(inputs)
    ids, about = kept / f"{key}.ids", kept / f"{key}.json"
    dtype = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
    header = _header(about, inputs)
    if header is None or not _as_stated(ids, header):
        header = {"inputs": inputs, **_tokenise(source, split, told, tokenizer, dtype, ids)}
        _write(about, header)
    return Tokens(np.memmap(ids, dtype=dtype, mode="r"), header["words"], told.lines, told.sha256)


def _tokenise(
    source: Source, split: Split, told: Fingerprint, tokenizer: Tokenizer, dtype: np.dtype[Any], target: Path
) -> dict[str, Any]:
    """Write the ids of a split; what the header says of them."""
    words_, count, lines = 0, 0, 0
    digest = hashlib.sha256()
    what = f"lines of {source.label}, {split}, in tokens"
    with files.replacing(target) as aside, aside.open("wb") as file, counting(what, told.lines) as done:
        for some in chunks(source.lines(split)):
            ids = tokenizer.encode(some).astype(dtype)
            file.write(ids.tobytes())
            digest.update(ids.tobytes())
            words_ += sum(map(words, some))
            count += len(ids)
            lines += len(some)
            done(lines)
    return {"words": words_, "tokens": count, "sha256": digest.hexdigest()}


def _made_by() -> dict[str, Any]:
    """The versions that ids depend on."""
    return {"version": VERSION, "tokenizers": installed("tokenizers")}


def _key(inputs: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(inputs, sort_keys=True).encode())[:24]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, header: Mapping[str, Any]) -> None:
    with files.replacing(path) as aside:
        aside.write_text(json.dumps({**header, "check": _check(header)}, indent=1))


def _header(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """What stands in a header that is whole and of these inputs; else None."""
    try:
        header = json.loads(path.read_text())
        check = header.pop("check")
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return header if check == _check(header) and header.get("inputs") == inputs else None


def _check(header: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(header, sort_keys=True).encode())


def _as_stated(path: Path, header: Mapping[str, Any]) -> bool:
    """Whether a file of ids has the content, and so the size, that its header says."""
    if not path.is_file():
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ):
            digest.update(part)
    return digest.hexdigest() == str(header["sha256"])

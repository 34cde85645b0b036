"""A corpus as token ids: tokenized once, cached in files and memory-mapped.

The cache is the folder ``corpus`` in ``$EXPBENCH_CACHE`` or ``~/.cache/expbench``. A file's name contains a hash of its
inputs, so that different inputs never share a file, and its header contains a checksum of its contents. Existing files are
always verified; a file that does not match its header is rebuilt.

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
from expbench.data.corpus.sources import PUBLISHED, SPLITS, Checksum, Source, Split, chunks, words
from expbench.data.corpus.tokenizers import Choice, Tokenizer
from expbench.errors import BadInput, first_line
from expbench.results.provenance import installed

VERSION = 1  # increase it when the same inputs yield different ids
_READ = 1 << 24


@dataclass(frozen=True)
class Tokens:
    """A tokenized split.

    ids: (tokens,) uint16 or uint32, read-only and memory-mapped. words: number of words, including one line end per line.
    lines: number of lines. sha256: hash of its text.
    """

    ids: NDArray[np.unsignedinteger[Any]]
    words: int
    lines: int
    sha256: str

    @property
    def tokens(self) -> int:
        """Number of tokens."""
        return len(self.ids)


@dataclass(frozen=True)
class Corpus:
    """The splits of a text, tokenized by one tokenizer."""

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
        """Return whether the splits have the published numbers of words of the source; None if none are published.

        Numbers are published only for the tokenized variants of WikiText, not for the raw ones.
        """
        if self.source.name not in PUBLISHED:
            return None
        return all(PUBLISHED[self.source.name][split] == part.words for split, part in self.splits.items())


def folder() -> Path:
    """Return the cache folder of corpora."""
    chosen = os.environ.get("EXPBENCH_CACHE")
    return (Path(chosen).expanduser() if chosen else Path.home() / ".cache" / "expbench") / "corpus"


def prepare(source: Source, choice: Choice, splits: Iterable[Split] = SPLITS) -> Corpus:
    """Return the tokenized splits of a source, from the cache if possible.

    Every call reads the whole text, to verify that it has not changed. Raises `BadInput` if the text or the tokenizer is not
    available, or if the cache cannot be written.
    """
    kept = folder()
    try:
        kept.mkdir(parents=True, exist_ok=True)
        files.remove_stale(kept)
        checksums = {split: source.checksum(split) for split in splits}
        tokenizer = _tokenizer(source, choice, checksums, kept)
        return Corpus(
            source, choice, tokenizer, {name: _split(source, name, checksums[name], tokenizer, kept) for name in checksums}
        )
    except OSError as error:
        raise BadInput(
            f"the cache {kept} cannot be used ({first_line(error)}); set EXPBENCH_CACHE to another folder"
        ) from error


def _tokenizer(source: Source, choice: Choice, checksums: Mapping[Split, Checksum], kept: Path) -> Tokenizer:
    """Return the tokenizer of a choice; tokenizers trained on the training split are cached."""
    if choice.kind == "gpt2":
        return tokenizers.make(choice, ())
    training = checksums.get("train") or source.checksum("train")
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
    print(f"training the tokenizer {choice.kind} on {training.lines} lines of {source.label}", file=sys.stderr, flush=True)
    tokenizer = tokenizers.make(choice, source.lines("train"))
    _write(path, {"inputs": inputs, "content": tokenizer.written()})
    return tokenizer


def _split(source: Source, split: Split, checksums: Checksum, tokenizer: Tokenizer, kept: Path) -> Tokens:
    """Return a tokenized split, from its cached files if they match their header, else from its text."""
    inputs = {**_made_by(), "text": checksums.sha256, "tokenizer": tokenizer.sha256}
    key = _key(inputs)
    ids, about = kept / f"{key}.ids", kept / f"{key}.json"
    dtype = np.dtype("<u2" if tokenizer.vocabulary <= 1 << 16 else "<u4")
    header = _header(about, inputs)
    if header is None or not _as_stated(ids, header):
        header = {"inputs": inputs, **_tokenise(source, split, checksums, tokenizer, dtype, ids)}
        _write(about, header)
    return Tokens(np.memmap(ids, dtype=dtype, mode="r"), header["words"], checksums.lines, checksums.sha256)


def _tokenise(
    source: Source, split: Split, checksums: Checksum, tokenizer: Tokenizer, dtype: np.dtype[Any], target: Path
) -> dict[str, Any]:
    """Write the ids of a split, and return the entries for its header."""
    words_, count, lines = 0, 0, 0
    digest = hashlib.sha256()
    what = f"lines of {source.label}, {split}, tokenized"
    with files.replacing(target) as aside, aside.open("wb") as file, counting(what, checksums.lines) as done:
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
    """Return the versions on which ids depend."""
    return {"version": VERSION, "tokenizers": installed("tokenizers")}


def _key(inputs: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(inputs, sort_keys=True).encode())[:24]


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _write(path: Path, header: Mapping[str, Any]) -> None:
    with files.replacing(path) as aside:
        aside.write_text(json.dumps({**header, "check": _check(header)}, indent=1))


def _header(path: Path, inputs: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the contents of a header if it is intact and has these inputs, else None."""
    try:
        header = json.loads(path.read_text())
        check = header.pop("check")
    except (FileNotFoundError, ValueError, KeyError, AttributeError, TypeError):
        return None
    return header if check == _check(header) and header.get("inputs") == inputs else None


def _check(header: Mapping[str, Any]) -> str:
    return _sha256(json.dumps(header, sort_keys=True).encode())


def _as_stated(path: Path, header: Mapping[str, Any]) -> bool:
    """Return whether the contents of a file of ids match the checksum in its header."""
    if not path.is_file():
        return False
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while part := file.read(_READ):
            digest.update(part)
    return digest.hexdigest() == str(header["sha256"])

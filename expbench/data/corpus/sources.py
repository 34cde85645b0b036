"""The text of a corpus: the lines of its splits, from a folder or from the Hugging Face hub.

A line is a row of the Parquet files or a line of a text file, without its line end (``\\n`` or ``\\r\\n``) and without the
byte order mark at the beginning of a file. A line of white space counts as empty, because such lines are empty in the hub's
copy of WikiText but have a space in the original. The text consists of the lines, each followed by ``\\n``, independently of
the source format.

Words are separated by white space, and each line, even an empty one, has one more word for its end. Counted so, WikiText-2
has the published 2,088,628 / 217,646 / 245,569 words (Table 1 of Merity et al., arXiv 1609.07843).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expbench.data.corpus import markov
from expbench.errors import BadInput, first_line, unknown

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
MADE = "markov"  # generated, neither downloaded nor read
NAMES = ("wikitext-2", "wikitext-103", "wikitext-2-raw", "wikitext-103-raw", MADE)
# Number of words in each split, including line ends, from Table 1 of arXiv 1609.07843.
PUBLISHED: dict[str, dict[Split, int]] = {
    "wikitext-2": {"train": 2_088_628, "validation": 217_646, "test": 245_569},
    "wikitext-103": {"train": 103_227_021, "validation": 217_646, "test": 245_569},
}
_REPOSITORY = "Salesforce/wikitext"
_CALLED: dict[Split, tuple[str, ...]] = {"train": ("train",), "validation": ("validation", "valid"), "test": ("test",)}
_LINES_AT_ONCE = 1000
FOLDER = (
    "a folder with train-*.parquet, validation-*.parquet and test-*.parquet with a column text, "
    "or train.txt, valid.txt and test.txt, or wiki.train.tokens, wiki.valid.tokens and wiki.test.tokens"
)


class Checksum(NamedTuple):
    """The checksum of a split. sha256: hash of its text in UTF-8. lines: number of lines."""

    sha256: str
    lines: int


@dataclass(frozen=True)
class Source:
    """The source of a text: the folder `path` if given, with `name` as a label only; otherwise the name.

    The text ``markov`` is generated (module `markov`); all others are downloaded from the hub. Raises `BadInput` for an
    unknown name, a path that is not a folder, or if both are None.
    """

    name: str | None = None
    path: Path | None = None

    def __post_init__(self) -> None:
        if self.name is not None and self.name not in NAMES:
            raise unknown("data", self.name, NAMES)
        if self.path is not None and not self.path.is_dir():
            raise BadInput(f"{self.path} is not a folder; give {FOLDER}")
        if self.name is None and self.path is None:
            raise BadInput(f"no data: choose one of {', '.join(NAMES)}, or give the path of {FOLDER}")

    @property
    def label(self) -> str:
        """Name of the folder, or else of the text."""
        return self.path.resolve().name if self.path else self.name or ""

    def lines(self, split: Split) -> Iterator[str]:
        """Yield the lines of a split, without line ends. Raises `BadInput` if they cannot be read."""
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        made = markov.lines(split) if self.name == MADE else None
        rows = _in_folder(self.path, split) if self.path else made or self._fetched(split)
        for row in rows:
            for line in row.removesuffix("\n").split("\n"):
                yield line.removesuffix("\r") if line.strip() else ""

    def checksum(self, split: Split) -> Checksum:
        """Return the checksum of a split's text. Raises `BadInput` if the split has no text."""
        digest, lines, found = hashlib.sha256(), 0, False
        for some in chunks(self.lines(split)):
            digest.update("".join(f"{line}\n" for line in some).encode())
            lines += len(some)
            found = found or any(some)
        if not found:
            raise BadInput(f"the {split} split of {self.path or self.name} has no text")
        return Checksum(digest.hexdigest(), lines)

    def _fetched(self, split: Split) -> Iterator[str]:
        instead = f"or give the path of {FOLDER}"
        try:
            from datasets import load_dataset
        except ImportError:
            raise BadInput(
                f"downloading {self.name} needs the library datasets, which is not installed: "
                f"pip install 'expbench[wikitext]', {instead}"
            ) from None
        try:
            rows: Any = load_dataset(_REPOSITORY, f"{self.name}-v1", split=split)
        except Exception as error:  # requests, the hub's client and datasets raise a dozen types
            raise BadInput(
                f"{self.name} cannot be downloaded ({first_line(error)}): check the network connection, {instead}"
            ) from error
        for batch in rows.iter(batch_size=_LINES_AT_ONCE):
            yield from batch["text"]


def chunks(lines: Iterable[str], size: int = _LINES_AT_ONCE) -> Iterator[list[str]]:
    """Yield lists of `size` lines; the last one may be shorter."""
    rest = iter(lines)
    while some := list(islice(rest, size)):
        yield some


def words(line: str) -> int:
    """Return the number of words in a line, including its end."""
    return len(line.split()) + 1


def _in_folder(folder: Path, split: Split) -> Iterator[str]:
    """Return the rows of a split's Parquet files, in the order of their names, or the lines of its text file.

    Raises `BadInput` if the folder has no such files, or several candidates for the split.
    """
    named = [*folder.glob(f"{split}-*.parquet"), *folder.glob(f"{split}.parquet")]
    parquet = sorted(path for path in named if path.is_file())
    names = [name for n in _CALLED[split] for name in (f"{n}.txt", f"wiki.{n}.tokens", f"wiki.{n}.raw")]
    texts = [folder / name for name in names if (folder / name).is_file()]
    if not parquet and not texts:
        empty = "is empty" if not any(folder.iterdir()) else f"has no {split} split"
        raise BadInput(f"{folder} {empty}; give {FOLDER}")
    if bool(parquet) + len(texts) > 1:
        found = ", ".join(path.name for path in [*parquet[:1], *texts])
        raise BadInput(f"{folder} has the {split} split more than once ({found}); keep only one of them")
    if parquet:
        _all_there(parquet)
        return (row for path in parquet for row in _without_mark(_rows(path)))
    return _without_mark(_read(texts[0]))


def _all_there(paths: list[Path]) -> None:
    """Raise `BadInput` if the number of files differs from that in their names (``train-00000-of-00002.parquet``)."""
    for path in paths:
        counted = re.search(r"-of-(\d+)\.parquet$", path.name)
        if counted and int(counted[1]) != len(paths):
            raise BadInput(f"{path.parent} has {len(paths)} of the {int(counted[1])} files that {path.name} belongs to")


def _without_mark(rows: Iterator[str]) -> Iterator[str]:
    for i, row in enumerate(rows):
        yield row if i else row.removeprefix("\ufeff")


def _rows(path: Path) -> Iterator[str]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        file = parquet.ParquetFile(path)
        if "text" not in file.schema_arrow.names:
            raise BadInput(f"{path} has no column text (it has {', '.join(file.schema_arrow.names)})")
        for batch in file.iter_batches(columns=["text"]):
            for row in batch.column(0).to_pylist():
                if not isinstance(row, str):
                    raise BadInput(f"{path} has a row whose text is {row!r}, not a string")
                yield row
    except (pa.ArrowException, OSError) as error:
        raise BadInput(f"{path} cannot be read ({first_line(error)})") from error


def _read(path: Path) -> Iterator[str]:
    """Yield the lines of a text file, split only at line feeds, not at Python's other line boundaries."""
    try:
        with path.open(encoding="utf-8", newline="\n") as file:
            for line in file:
                yield line.removesuffix("\n")
    except (UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read ({first_line(error)})") from error

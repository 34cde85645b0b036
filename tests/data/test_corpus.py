"""The text of a corpus, its tokenizers, and the cache of its ids."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from expbench.data.corpus import SPLITS, Choice, Source, cache, prepare, sources, tokenizers
from expbench.errors import BadInput

# As the original of WikiText has it: a space before and after each line, blank lines with a space in them.
TEXT = {
    "train": " \n = The lobster = \n \n The lobster has a pair of claws ; the lobster is blue . \n It has <unk> claws . \n",
    "validation": " \n = Claws = \n \n The claws of the crab are red . \n \n",
    "test": " \n = Crab = \n \n The crab has claws , 2 @.@ 5 cm \u2028 long \r — naïve 🦀\x85 . \n",
}
WORDS = {"train": 5 + 4 + 13 + 5, "validation": 5 + 3 + 8, "test": 4 + 3 + 14}  # of which 5, 5 and 4 are ends of lines


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setitem(sys.modules, "datasets", None)  # importing it fails
    return tmp_path / "cache" / "corpus"


def text_folder(folder: Path, names: Sequence[str] = ("wiki.train.tokens", "wiki.valid.tokens", "wiki.test.tokens")) -> Path:
    folder.mkdir()
    for name, text in zip(names, TEXT.values(), strict=True):
        (folder / name).write_bytes(text.encode())
    return folder


def write_rows(path: Path, rows: Sequence[object], column: str = "text") -> None:
    parquet.write_table(pa.table({column: pa.array(rows)}), path)


def parquet_folder(folder: Path) -> Path:
    """As the hub has it: a line a row, blank ones emptied; the training split in two files."""
    folder.mkdir()
    for split in SPLITS:
        rows = ["" if line == " " else f"{line}\n" for line in TEXT[split].removesuffix("\n").split("\n")]
        parts = [rows[:2], rows[2:]] if split == "train" else [rows]
        for i, part in enumerate(parts):
            write_rows(folder / f"{split}-{i:05}-of-{len(parts):05}.parquet", part)
    return folder


def ids_of(folder: Path, choice: Choice) -> dict[str, list[int]]:
    corpus = prepare(Source(path=folder), choice)
    return {split: corpus[split].ids.tolist() for split in SPLITS}


def counting_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[str]:
    """Grows with each call of a function from now on."""
    calls, function = [], getattr(owner, name)

    def counted(*arguments: Any) -> Any:
        calls.append(name)
        return function(*arguments)

    monkeypatch.setattr(owner, name, counted)
    return calls


def test_words_are_those_that_white_space_parts_and_an_end_a_line_blank_lines_too(tmp_path: Path) -> None:
    corpus = prepare(Source(path=text_folder(tmp_path / "text")), Choice("word"))
    for split in SPLITS:
        text = TEXT[split]
        assert corpus[split].words == corpus[split].tokens == len(text.split()) + text.count("\n") == WORDS[split]
        assert corpus[split].lines == text.count("\n")
    bpe = prepare(Source(path=tmp_path / "text"), Choice("bpe", size=260))
    assert {split: bpe[split].words for split in SPLITS} == WORDS  # whatever the tokens
    assert all(bpe[split].tokens > WORDS[split] for split in SPLITS)


@pytest.mark.parametrize("choice", [Choice("word"), Choice("bpe", size=280)])
def test_parquet_and_text_folders_give_the_same_ids(tmp_path: Path, choice: Choice) -> None:
    expected = ids_of(text_folder(tmp_path / "text"), choice)
    others = [
        parquet_folder(tmp_path / "parquet"),
        text_folder(tmp_path / "short", ("train.txt", "valid.txt", "test.txt")),
        text_folder(tmp_path / "raw", ("wiki.train.raw", "validation.txt", "wiki.test.raw")),
    ]
    for i, folder in enumerate(others):
        cache.folder().rename(tmp_path / f"cache-{i}")  # so that each is read, not found
        assert ids_of(folder, choice) == expected
    windows = text_folder(tmp_path / "windows")
    for path in windows.iterdir():
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert ids_of(windows, choice) == expected


def test_the_hub_is_asked_for_a_name_alone_and_gives_the_same_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = {split: list(Source(path=text_folder(tmp_path / "text")).lines(split)) for split in ("test",)}
    asked = []

    class Rows:
        def iter(self, batch_size: int) -> Any:
            rows = ["" if line == " " else f"{line}\n" for line in TEXT["test"].removesuffix("\n").split("\n")]
            for start in range(0, len(rows), 2):
                yield {"text": rows[start : start + 2]}

    def load_dataset(*words: str, split: str) -> Rows:
        asked.append((*words, split))
        return Rows()

    library = ModuleType("datasets")
    monkeypatch.setattr(library, "load_dataset", load_dataset, raising=False)
    monkeypatch.setitem(sys.modules, "datasets", library)
    assert list(Source("wikitext-103").lines("test")) == expected["test"]
    assert asked == [("Salesforce/wikitext", "wikitext-103-v1", "test")]

    def no_network(*words: str, split: str) -> Rows:
        raise ConnectionError("Couldn't reach the hub\nand more")

    monkeypatch.setattr(library, "load_dataset", no_network)
    with pytest.raises(BadInput, match=r"cannot be downloaded \(ConnectionError: Couldn't reach the hub\).*give the path"):
        next(Source("wikitext-2").lines("test"))
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(BadInput, match=r"not installed: pip install 'expbench\[wikitext\]', or give the path of"):
        next(Source("wikitext-2").lines("test"))


def test_bpe_is_exact_deterministic_and_no_larger_than_asked(tmp_path: Path) -> None:
    lines = list(Source(path=text_folder(tmp_path / "text")).lines("train"))
    made = [tokenizers.make(Choice("bpe", size=270), lines) for _ in range(3)]
    assert len({tokenizer.written() for tokenizer in made}) == 1
    assert made[0].vocabulary == 270
    assert tokenizers.make(Choice("bpe", size=256), lines).vocabulary == 256
    hard = ["", " two  spaces\t", "日本 \u2028 \x85 🦀 \x00 <unk> <eos> <|endoftext|>", "don't 12345"]
    for tokenizer in (made[0], tokenizers.restored(Choice("bpe", size=270), made[0].written())):
        ids = tokenizer.encode(hard)
        assert tokenizer.decode(ids) == "".join(f"{line}\n" for line in hard)
        assert ids.max() < tokenizer.vocabulary
        assert np.array_equal(ids, np.concatenate([tokenizer.encode([line]) for line in hard]))  # a line by itself
        assert tokenizer.decode([tokenizer.end]) == "\n"
        assert tokenizer.sha256 == made[0].sha256
    assert tokenizers.make(Choice("bpe"), ["xyz uvw"]).vocabulary == 256  # what is seen once is not joined
    other = tokenizers.make(Choice("bpe", size=270), [*lines, *["lobster claws"] * 9])
    assert other.sha256 != made[0].sha256


def test_a_folder_of_gpt2_form_gives_the_tokenizer_that_wrote_it(tmp_path: Path) -> None:
    lines = list(Source(path=text_folder(tmp_path / "text")).lines("train"))
    trained = tokenizers.make(Choice("bpe", size=300), lines)
    trained._model.model.save(str(tmp_path))  # type: ignore[attr-defined]
    found = tokenizers.make(Choice("gpt2", path=tmp_path), ())
    assert found.sha256 == trained.sha256
    for line in [*lines, " naïve 🦀  don't 12"]:
        assert found.encode([line]).tolist() == trained.encode([line]).tolist()
        assert found.decode(found.encode([line])) == f"{line}\n"
    assert prepare(Source(path=tmp_path / "text"), Choice("gpt2", path=tmp_path), ["test"])["test"].tokens > 0
    trained._model.add_special_tokens(["<|endoftext|>"])  # type: ignore[attr-defined]
    hub = tokenizers.Pieces(trained._model)  # type: ignore[attr-defined]
    assert hub.decode(hub.encode(["a <|endoftext|> b"])) == "a <|endoftext|> b\n"
    assert hub.vocabulary == trained.vocabulary + 1
    (tmp_path / "vocab.json").write_text(json.dumps({"a": 0, "b": 1}))
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    with pytest.raises(BadInput, match="254 of the 256 bytes are not in its vocabulary"):
        tokenizers.make(Choice("gpt2", path=tmp_path), ())
    (tmp_path / "merges.txt").write_text("x y\n")
    with pytest.raises(BadInput, match=r"vocab\.json and merges\.txt cannot be read"):
        tokenizers.make(Choice("gpt2", path=tmp_path), ())
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(BadInput, match=r"has no merges\.txt"):
        tokenizers.make(Choice("gpt2", path=tmp_path), ())


def test_gpt2_without_a_network_is_one_line_that_asks_for_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    class Library:
        class Tokenizer:
            @staticmethod
            def from_pretrained(name: str) -> None:
                raise OSError(f"no route to {name}\nand more")

    monkeypatch.setitem(sys.modules, "tokenizers", Library)
    with pytest.raises(BadInput, match=r"cannot be downloaded \(OSError: no route to .*gpt2\).* give the path of a folder"):
        tokenizers.make(Choice("gpt2"), ())


def test_words_of_the_training_split_are_known_and_no_others() -> None:
    words = tokenizers.make(Choice("word"), ["b a b", "", "<unk> c <eos>"])
    assert words.vocabulary == len(["<eos>", "<unk>", "b", "a", "c"])
    ids = words.encode(["a  b", "", " d <unk> <eos> c "])
    assert words.decode(ids) == "a b\n\n<unk> <unk> <unk> c\n"
    assert (ids == words.end).sum() == 3
    assert words.encode(["b a c"]).tolist() == [2, 3, 4, 0]  # by frequency, then by letters
    assert tokenizers.restored(Choice("word"), words.written()).sha256 == words.sha256


def test_without_the_library_words_can_be_had_and_bpe_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert tokenizers.make(Choice("word"), ["a"]).vocabulary == 3
    with pytest.raises(BadInput, match=r"pip install 'expbench\[wikitext\]'"):
        tokenizers.make(Choice("bpe"), ["a"])


def test_what_is_cached_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    folder = text_folder(tmp_path / "text")
    choice = Choice("bpe", size=270)
    first = ids_of(folder, choice)
    made = counting_calls(monkeypatch, tokenizers, "make")
    encoded = counting_calls(monkeypatch, cache, "_tokenise")
    assert ids_of(folder, choice) == first
    assert ids_of(parquet_folder(tmp_path / "parquet"), choice) == first  # the same text is the same corpus
    assert (made, encoded) == ([], [])
    assert ids_of(folder, Choice("bpe", size=271)) != first
    assert (len(made), len(encoded)) == (1, 3)
    (folder / "wiki.test.tokens").write_text(" another text \n")
    changed = ids_of(folder, choice)
    assert (len(made), len(encoded)) == (1, 4)
    assert changed["train"] == first["train"]
    assert changed["test"] != first["test"]
    ids = prepare(Source(path=folder), choice)["train"].ids
    assert isinstance(ids, np.memmap)
    assert ids.dtype == np.uint16
    assert not ids.flags.writeable
    assert not list(kept.glob(".*"))


@pytest.mark.parametrize(
    "damage", ["cut", "longer", "other ids", "no ids", "no header", "cut header", "other header", "list", "renamed"]
)
def test_a_cache_that_is_not_as_its_header_says_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path, damage: str
) -> None:
    sources = Source(path=text_folder(tmp_path / "text"))
    expected = prepare(sources, Choice("word"))["train"]
    (found,) = [path for path in kept.glob("*.ids") if path.stat().st_size == 2 * WORDS["train"]]
    header, content = found.with_suffix(".json"), found.read_bytes()
    about = header.read_text()
    if damage == "cut":
        found.write_bytes(content[:-2])
    elif damage == "longer":
        found.write_bytes(content + content)
    elif damage == "other ids":
        found.write_bytes(bytes(reversed(content)))
    elif damage == "no ids":
        found.unlink()
    elif damage == "no header":
        header.unlink()
    elif damage == "cut header":
        header.write_text(about[:-20])
    elif damage == "other header":
        header.write_text(about.replace(f'"words": {WORDS["train"]}', '"words": 1'))
    elif damage == "list":
        header.write_text("[]")
    else:  # the files of another split under this one's name
        (other,) = [path for path in kept.glob("*.ids") if path.stat().st_size == 2 * WORDS["test"]]
        other.rename(found)
        other.with_suffix(".json").rename(header)
    encoded = counting_calls(monkeypatch, cache, "_tokenise")
    again = prepare(sources, Choice("word"), ["train"])["train"]
    assert (again.words, again.ids.tolist()) == (expected.words, np.frombuffer(content, "<u2").tolist())
    assert len(encoded) == 1
    prepare(sources, Choice("word"), ["train"])
    assert len(encoded) == 1


def test_a_tokenizer_that_is_damaged_is_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path) -> None:
    sources, choice = Source(path=text_folder(tmp_path / "text")), Choice("bpe", size=270)
    whole = prepare(sources, choice).tokenizer.sha256
    (path,) = kept.glob("*.tokenizer.json")
    content = path.read_text()
    for damaged in (content[:1000], content.replace("lobster", "crab")):
        path.write_text(damaged)
        made = counting_calls(monkeypatch, tokenizers, "make")
        assert prepare(sources, choice).tokenizer.sha256 == whole
        assert made
        assert path.read_text() == content


def test_a_write_that_is_interrupted_leaves_nothing_that_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: Path
) -> None:
    folder = text_folder(tmp_path / "text")
    (folder / "wiki.train.tokens").write_text(TEXT["train"] * 300)  # more lines than are encoded at once
    encode, calls = tokenizers.Words.encode, []

    def stopped(self: tokenizers.Words, lines: Sequence[str]) -> Any:
        calls.append(len(lines))
        if len(calls) == 2:
            raise KeyboardInterrupt
        return encode(self, lines)

    with monkeypatch.context() as patch:
        patch.setattr(tokenizers.Words, "encode", stopped)
        with pytest.raises(KeyboardInterrupt):
            prepare(Source(path=folder), Choice("word"), ["train"])
    assert not [*kept.glob("*.ids"), *kept.glob(".*")]
    with monkeypatch.context() as patch:
        write = cache._write
        patch.setattr(cache, "_write", lambda path, about: write(path, about) if "content" in about else stop())
        with pytest.raises(KeyboardInterrupt):  # between the ids and their header
            prepare(Source(path=folder), Choice("word"), ["train"])
    assert len(list(kept.glob("*.ids"))) == 1
    corpus = prepare(Source(path=folder), Choice("word"), ["train"])
    assert corpus["train"].ids.tolist() == corpus.tokenizer.encode(list(Source(path=folder).lines("train"))).tolist()
    assert corpus["train"].words == 300 * WORDS["train"]


def stop() -> None:
    raise KeyboardInterrupt


def test_ids_that_uint16_cannot_hold_have_32_bits(tmp_path: Path) -> None:
    folder = text_folder(tmp_path / "text")
    many = [f"w{i:05}" for i in range(1 << 16)]
    (folder / "wiki.train.tokens").write_text(" ".join(many))
    train = prepare(Source(path=folder), Choice("word"), ["train"])["train"]
    assert train.ids.dtype == np.uint32
    assert train.ids.tolist() == [*range(2, 2 + len(many)), 0]  # <eos>, <unk>, and the words


def test_as_published_compares_the_words_of_a_named_text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = text_folder(tmp_path / "text")
    assert prepare(Source(path=folder), Choice("word")).as_published() is None
    assert prepare(Source("wikitext-2", folder), Choice("word")).as_published() is False
    monkeypatch.setitem(sources.PUBLISHED, "wikitext-2", {**WORDS})
    assert prepare(Source("wikitext-2", folder), Choice("word")).as_published() is True


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({}, "is empty; give a folder with train-"),
        ({"test.txt": b"a"}, "has no train split"),
        ({"train.txt": b" \n \n"}, "has no text"),
        ({"train.txt": b""}, "has no text"),
        ({"train.txt": b"a \xff b"}, "train.txt cannot be read (UnicodeDecodeError"),
        ({"train.txt": b"a", "wiki.train.tokens": b"a"}, "more than once (train.txt, wiki.train.tokens)"),
        ({"train.txt": b"a", "train-0.parquet": b"a"}, "more than once (train-0.parquet, train.txt)"),
        ({"train-0.parquet": b"no parquet"}, "train-0.parquet cannot be read"),
        ({"train-00000-of-00002.parquet": b""}, "has 1 of the 2 files that train-00000-of-00002.parquet belongs to"),
        ({"train-0.parquet": ("words", ["a"])}, "has no column text (it has words)"),
        ({"train-0.parquet": ("text", ["a", None])}, "has a row whose text is None"),
        ({"train-0.parquet": ("text", [1, 2])}, "has a row whose text is 1"),
    ],
)
def test_a_folder_without_the_text_is_one_line(tmp_path: Path, content: dict[str, Any], said: str) -> None:
    folder = tmp_path / "text"
    folder.mkdir()
    for name, what in content.items():
        if isinstance(what, bytes):
            (folder / name).write_bytes(what)
        else:
            write_rows(folder / name, what[1], what[0])
    with pytest.raises(BadInput) as refused:
        prepare(Source(path=folder), Choice("word"))
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_bad_choices_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for wrong, said in [
        (lambda: Source("wikitext2"), "unknown data 'wikitext2'; did you mean 'wikitext-2'"),
        (lambda: Source(), "no data: choose one of wikitext-2, "),
        (lambda: Source(path=tmp_path / "none"), "none is not a folder; give a folder with"),
        (lambda: next(Source(path=tmp_path).lines("valid")), "did you mean 'validation'"),  # type: ignore[arg-type]
        (lambda: Choice("bep"), "unknown tokenizer 'bep'; did you mean 'bpe'"),
        (lambda: Choice("bpe", size=255), "size=255: the size of bpe must be from 256"),
        (lambda: Choice("word", size=300), "only the tokenizer bpe has a size, not word"),
        (lambda: Choice("gpt2", size=300), "only the tokenizer bpe has a size, not gpt2"),
        (lambda: Choice("bpe", path=tmp_path), "only the tokenizer gpt2 has a path, not bpe"),
    ]:
        with pytest.raises(BadInput) as refused:
            wrong()
        assert said in str(refused.value)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(BadInput, match=r"cannot be used .*set EXPBENCH_CACHE to another folder"):
        prepare(Source(path=text_folder(tmp_path / "text")), Choice("word"))

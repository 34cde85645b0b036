"""C5, C6, C8, C9: a full disk, closed pipes and streams, names that are no text, and folders that do not exist."""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import expbench_tasks
import pytest

import expbench.models as expbench_models
from expbench.cli.main import main
from expbench.results import store
from tests.conftest import TINY, CommandLine, is_bad_input
from tests.processes import Child
from tests.small_language import write_text

RUN = ["run", "--task", "polyreg", "--models", "ssm", *TINY]


@contextmanager
def no_space() -> Iterator[None]:
    """Let the system refuse every byte that is written to a file, as a full disk does."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def contents(folder: str) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def with_streams(out: object, err: object, *words: str) -> int:
    """Call the command line with these standard streams and return its exit code."""
    before = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = out, err  # type: ignore[assignment]
    try:
        with pytest.raises(SystemExit) as ended:
            main(list(words))
    finally:
        sys.stdout, sys.stderr = before
    return int(ended.value.code or 0)


class Refuses(io.StringIO):
    """A stream whose writes fail with an error of the system."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def write(self, text: str) -> int:
        raise OSError(self.number, os.strerror(self.number))


def broken_pipe() -> Refuses:
    return Refuses(errno.EPIPE)


def full() -> Refuses:
    return Refuses(errno.ENOSPC)


def test_c5_a_full_disk_stops_a_sweep_in_one_line_and_loses_nothing(expbench: CommandLine) -> None:
    assert expbench(*RUN).code == 0
    before = contents("results")
    more = ["run", "--task", "polyreg", "--models", "ssm,linattn", *TINY]
    for alone in ([], ["--stack", "1"], ["--save-weights"]):
        with no_space():
            answer = expbench(*more, *alone)
        assert answer.code == 2
        assert [line for line in answer.err.splitlines() if line.startswith("error: ")] == [answer.err.splitlines()[-1]]
        for word in ("results/", "cannot be written (File too large)", "the same command resumes"):
            assert word in answer.err.splitlines()[-1]
        assert "Traceback" not in answer.err
        assert contents("results") == before, "what is finished stays, and nothing half is left"
    assert "2 done, 2 to run" in (answer := expbench(*more)).err
    assert answer.code == 0


@pytest.mark.parametrize(
    "words",
    [
        ["report"],
        ["compact"],
        ["claim", "s6 < linattn", "--task", "polyreg"],
        ["compare", "results", "results", "--markdown", "verdict.md"],
        ["theory", "degree", "--models", "linattn", "--L", "2", "--depth", "1"],
    ],
    ids=" ".join,
)
def test_c5_every_command_that_writes_says_so_in_one_line(expbench: CommandLine, words: list[str]) -> None:
    expbench(*RUN)
    before = contents("results")
    with no_space():
        answer = expbench(*words)
    errors = [line for line in answer.err.splitlines() if "degree" not in words or line.startswith("error")]
    assert (answer.code, len(errors)) == (2, 1), answer
    assert "File too large" in errors[0]
    assert {path: content for path, content in contents("results").items() if path in before} == before


def test_c5_a_checkpoint_that_cannot_be_written_is_no_failed_run(expbench: CommandLine, tmp_path: Path) -> None:
    write_text(tmp_path / "text")
    words = ["run", "--task", "wikitext", "--models", "ssm", "-t", "path=text", "-t", "tokenizer=word", "--L", "16"]
    words += ["--steps", "4", "--seeds", "0"]
    assert expbench(*words, "--dry-run").code == 0  # fills the cache of tokens
    with no_space():
        answer = expbench(*words)
    assert answer.code == 2, answer
    assert "cannot be written (File too large)" in answer.err.splitlines()[-1]
    assert store.statuses(Path("results"))[0] == {}


def test_c5_a_folder_that_is_deleted_under_the_sweep(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    write = store.write

    def deleted(folder: Path, *rest: object) -> Path:
        shutil.rmtree(folder)
        return write(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "write", deleted)
    answer = expbench(*RUN)
    assert answer.code == 2
    assert "cannot be written (No such file or directory)" in answer.err.splitlines()[-1]
    monkeypatch.setattr(store, "write", write)
    assert expbench(*RUN).code == 0


def test_c5_output_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["list"], ["--help"], ["show", "s6"]):
        err = io.StringIO()
        assert with_streams(full(), err, *words) == 2
        assert err.getvalue() == "error: the output cannot be written (No space left on device)\n"
    assert with_streams(full(), full(), *RUN) == 0
    assert len(store.statuses(Path("results"))[0]) == 3


def test_c6_a_closed_pipe_ends_output_and_not_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert with_streams(broken_pipe(), broken_pipe(), *RUN) == 0
    assert len(store.statuses(Path("results"))[0]) == 3, "two runs and their controls"
    for words in (["list"], ["show", "s6"], ["report"], ["--help"]):
        assert with_streams(broken_pipe(), sys.stderr, *words) == 0
    assert with_streams(broken_pipe(), broken_pipe(), "list", "--nonsense") == 2


def _closed(numbers: tuple[int, ...], *words: str) -> None:
    for number in numbers:
        name = ("stdin", "stdout", "stderr")[number]
        setattr(sys, name, None)
        setattr(sys, f"__{name}__", None)
        os.close(number)
    main(list(words))


def test_c6_standard_streams_that_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    others = Child(_closed, (0, 1, 2), "list")
    assert Child(_closed, (2,), *RUN).wait() == others.wait() == 0
    statuses, problems = store.statuses(Path("results"))
    assert (len(statuses), problems) == (3, []), "no message went into a results file that took the stream's number"


def test_c6_a_pipe_that_closes_while_the_process_ends(tmp_path: Path) -> None:
    """A whole process, as Python itself writes once more what is buffered when it exits."""
    command = (
        f"{sys.executable} -m expbench list | true; echo ${{PIPESTATUS[0]}}; {sys.executable} -m expbench list > /dev/full"
    )
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert (ended.stdout, ended.returncode) == ("0\n", 2)
    assert ended.stderr == "error: the output cannot be written (No space left on device)\n"


def test_c6_a_narrow_encoding(tmp_path: Path) -> None:
    narrow = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    assert with_streams(narrow, sys.stderr, "show", "s6-bbar-b") == 0


@pytest.mark.parametrize("name", ["r\udcff", "r\0"], ids=["not UTF-8", "NUL"])
@pytest.mark.parametrize("words", [[*RUN, "--results"], ["report", "--results"], ["show"], ["list", "--models-dir"]])
def test_c8_a_name_that_no_table_can_hold_is_refused_first(expbench: CommandLine, words: list[str], name: str) -> None:
    is_bad_input(expbench(*words, name), repr(name))
    assert list(Path().iterdir()) == []


def test_c8_a_layer_in_a_folder_whose_name_no_table_can_hold(
    expbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The folder is not on the command line, but its name is in the origin of the model."""
    folder = tmp_path / "r\udcff"
    folder.mkdir()
    (folder / "layer.py").write_text(
        "from torch import nn\nclass Layer(nn.Linear):\n    def __init__(self, w): super().__init__(w, w)"
    )
    monkeypatch.chdir(folder)
    words = ["run", "--task", "polyreg", "--models", "layer.py:Layer", *TINY]
    is_bad_input(expbench(*words), "is not UTF-8; rename the folder")
    is_bad_input(expbench(*RUN, "--models-dir", "."), "is not UTF-8; rename the folder")
    assert not Path("results").exists()
    assert expbench(*RUN).code == 0, "a folder for results may be in there"
    assert expbench("report").code == 0


def test_c8_odd_names_work(expbench: CommandLine) -> None:
    name = "-r/two\nlines/Möhre €/'quoted' \"twice\"/a,b=c:d"
    assert expbench(*RUN, f"--results={name}").code == 0
    assert expbench("report", f"--results={name}").code == 0
    assert (Path(name) / "report" / "report.html").is_file()


def test_c8_a_name_that_is_too_long(expbench: CommandLine) -> None:
    long = "n" * 5000
    for words in (
        [*RUN, "--results", long],
        ["report", "--results", long],
        ["list", "--models-dir", long],
        ["compare", long, "r"],
    ):
        is_bad_input(expbench(*words), "File name too long")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("words", [["list"], RUN, ["show", "s6"], ["check", "ssm"]], ids=lambda words: words[0])
@pytest.mark.parametrize("folder", ["nowhere", "", "a-file"])
def test_c9_a_plugin_folder_that_does_not_exist(
    expbench: CommandLine, monkeypatch: pytest.MonkeyPatch, words: list[str], folder: str
) -> None:
    Path("a-file").touch()
    is_bad_input(expbench(*words, "--models-dir", folder), f"--models-dir: {folder!r} is not a folder")
    if words[0] != "check":
        is_bad_input(expbench(*words, "--tasks-dir", folder), f"--tasks-dir: {folder!r} is not a folder")
    assert not Path("results").exists()


@pytest.mark.parametrize("kind", ["TASKS", "MODELS"])
def test_c9_a_plugin_folder_of_the_environment(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    package = {"TASKS": expbench_tasks, "MODELS": expbench_models}[kind]
    monkeypatch.setattr(package, "__path__", [*package.__path__, "/nowhere"])
    for words in (["list"], RUN, ["show", "s6"]):
        is_bad_input(expbench(*words), f"EXPBENCH_{kind}_PATH: '/nowhere' is not a folder")
    assert not Path("results").exists()

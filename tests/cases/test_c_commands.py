"""C7: the command that trace, reports and comparisons print repeats exactly the run it stands beside."""

from __future__ import annotations

import random
import shlex
from pathlib import Path

import pytest

from expbench.cli import run as cli_run
from expbench.errors import BadInput
from expbench.results import store
from expbench.run import command_of
from expbench.settings import quoted, split_list
from expbench.training.job import Job
from tests.conftest import CommandLine, is_bad_input
from tests.small_language import write_text

TASK = """
from dataclasses import dataclass
from typing import Literal
from expbench.task import Batch, Score, Task

@dataclass(frozen=True, kw_only=True)
class Odd(Task):
    L: int = 4
    word: str = "default"
    number: int | None = 3
    ratio: float = 1
    switch: bool = True
    primary_metric = "error"
    higher_is_better = False
    success_threshold = 0.1
    def batch(self, rng, size):
        x = rng.uniform(size, self.L, 1)
        return Batch(x, x[:, -1])
    def loss(self, outputs, targets):
        return ((outputs - targets) ** 2).mean()
    def measure(self, outputs, targets):
        return {"error": self.loss(outputs, targets)}
    def summary(self, totals):
        return [Score("error", float(totals["error"]))]
"""
MODEL = """
from torch import nn

class Layer(nn.Linear):
    def __init__(self, width: int, mark: str = "m", bound: float | None = 2.0, unmarked=None):
        super().__init__(width, width)
"""
WORDS = [
    "my,text",
    '"',
    '""',
    'a"b',
    '"a"',
    "",
    " ",
    " padded ",
    "=",
    "a=b=c",
    ":",
    "0:3",
    "1:2:3",
    "-t",
    "--lr",
    "-1",
    "none",
]
WORDS += [
    "None",
    "true",
    "é€",
    "\u202e",
    "😀",
    "two\nlines",
    "\t",
    "'",
    "$HOME",
    "`ls`",
    "\\",
    "#",
    "*",
    "x" * 3000,
    "1e400",
    "٣",
]


def odd_words(count: int) -> list[str]:
    """Return texts made of what a list, a shell or an option could take for something else."""
    draw = random.Random(7)
    return ["".join(draw.choices(",\"'=: -\n\\$aé0", k=draw.randrange(1, 9))) for _ in range(count)]


def test_c7_a_quoted_member_of_a_list_is_itself() -> None:
    for word in (words := list(dict.fromkeys([*WORDS, *odd_words(500)]))):
        assert split_list(quoted(word), "--it") == [word]
    assert split_list(",".join(map(quoted, words)), "--it") == words
    assert split_list(' a , "b, c" ,0:2', "--it") == ["a", "b, c", "0", "1"]
    for plain in ("a", "x.py:Class", "1e-3", "it's", 'inch"'):
        assert quoted(plain) == plain, "quotes only where they are needed"


@pytest.mark.parametrize("text", ['"', '"a', '"a" b', '"a""', 'x,"a,b', '"a"b,c'])
def test_c7_a_quote_that_is_not_closed(text: str) -> None:
    with pytest.raises(BadInput, match="double quote"):
        split_list(text, "--it")


@pytest.fixture
def expanded(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> list[Job]:
    """The jobs of the commands that are called, which are not run."""
    jobs: list[Job] = []
    monkeypatch.setattr(cli_run, "carry_out", lambda found, *_, **__: jobs.extend(found))
    return jobs


def test_c7_every_printed_command_has_the_same_key(expbench: CommandLine, expanded: list[Job], tmp_path: Path) -> None:
    tasks, models = tmp_path / "my, tasks", tmp_path / 'a=b: "c",d'
    for folder, name, source in ((tasks, "odd", TASK), (models, "lay,er", MODEL)):
        folder.mkdir()
        (folder / f"{name}.py").write_text(source)
    words = list(dict.fromkeys([*WORDS[:14], *odd_words(4)]))
    listed = ",".join(map(quoted, words))
    start = ["run", "--task", "odd", "--tasks-dir", str(tasks), "--seeds", "0"]
    start += ["--models", quoted(f"{models}/lay,er.py:Layer")]
    for settings in (
        ["-t", f"word={listed}"],
        ["-m", f"mark={quoted(WORDS[0])},none"],
        ["-t", "number=none,3,4", "-t", "ratio=1,1e-7,0.1", "-t", "switch=off,on"],
        ["-m", "bound=none,2,0.5", "-m", "unmarked=none,x", "--residual", "off", "--lr", "1e-05", "--init-noise", "0.5"],
    ):
        answer = expbench(*start, *settings)
        assert answer.code == 0, answer.err
    jobs = list(expanded)
    assert len(jobs) > len(words) + 16
    for job in jobs:
        expanded.clear()
        command = job.run.command(job.model_origin, job.task_origin)
        answer = expbench(*shlex.split(command)[1:])
        assert answer.code == 0, (command, answer.err)
        assert [again.run.key for again in expanded] == [job.run.key], command


def test_c7_the_command_of_a_text_in_a_folder(
    expbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "my, text: é"
    write_text(tmp_path / name)
    path = f"path={quoted(name)}"
    words = ["run", "--task", "wikitext", "--models", "linattn", "-t", path, "-t", "tokenizer=word", "--L", "16"]
    assert expbench(*words, "--steps", "2", "--seeds", "0").code == 0
    frame, _ = store.read(Path("results"))
    command = command_of({str(column): value for column, value in frame[frame["kind"] == "run"].iloc[0].items()})
    traced = expbench("trace", frame[frame["kind"] == "run"]["key"].iloc[0])
    assert command in traced.out
    monkeypatch.chdir(tmp_path / name)  # the path is absolute
    answer = expbench(*shlex.split(command)[1:], "--results", "../results")
    assert (answer.code, "1 done, 0 to run" in answer.err) == (0, True), answer


def test_c7_a_table_that_does_not_name_the_folder(expbench: CommandLine, tmp_path: Path) -> None:
    """An older one: trace says what its command lacks."""
    write_text(tmp_path / "text")
    words = ["run", "--task", "wikitext", "--models", "linattn", "-t", "path=text", "-t", "tokenizer=word", "--L", "16"]
    expbench(*words, "--steps", "2", "--seeds", "0")
    frame, _ = store.read(Path("results"))
    rows = frame[frame["kind"] == "run"]
    key = rows["key"].iloc[0]
    assert "add -t path=FOLDER" not in expbench("trace", key).out
    records = rows.assign(local_settings=None).astype(object).where(rows.notna(), None).to_dict("records")
    older = [{**row, "local_settings": None} for row in records]
    store.write(Path("results"), key, older)
    assert "add -t path=FOLDER" in expbench("trace", key).out


def test_c7_the_shell_is_told_of_a_bad_quote(expbench: CommandLine) -> None:
    is_bad_input(expbench("run", "--task", "polyreg", "--models", '"s6'), "--models", "not closed")

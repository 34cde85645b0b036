"""The README's commands, each of them, with fewer steps; and its files."""

import re
import shlex
from pathlib import Path

import pytest

from expbench.results import store
from tests.conftest import CommandLine
from tests.documents import ROOT, blocks, write_files
from tests.small_language import write_text

PAGE = ROOT / "README.md"
README = PAGE.read_text()
COMMANDS = [command for block in blocks(PAGE) for command in block.commands]
SHORT = ["--steps", "3", "--seeds", "0", "-t", "test_size=64", "-t", "selection_size=64"]
SHORTER = {"run": SHORT, "reproduce": ["--shard", "1/9"], "baseline": ["--yes"]}
SHORT_TEXT = ["--steps", "3", "--seeds", "0"]


@pytest.fixture
def files(tmp_path: Path) -> None:
    """The files that the README shows, under the names that it gives them."""
    write_files(PAGE, tmp_path)
    write_text(tmp_path / "wikitext-2")
    cells = tmp_path / "results" / "baselines" / "cpu" / "cells.toml"  # in the place of the one that is committed
    cells.parent.mkdir(parents=True)
    cells.write_text("cells = [{ task = 'polyreg', models = 'ssm', L = 4, steps = 3, seeds = '0:2' }]")


@pytest.mark.usefixtures("files")
def test_every_command(expbench: CommandLine) -> None:
    ran = []
    for command in COMMANDS:
        words = shlex.split(command)
        if words[0] == "expbench":
            fewer = SHORT_TEXT if "wikitext" in words else SHORTER.get(words[1], [])
            answer = expbench(*words[1:], *fewer)
            assert answer.code == 0, (command, answer.err)
            ran.append(words[1])
        else:
            assert words[0] in ("make", "."), f"nothing runs {command}"
            if words[0] == "make":
                assert f"\n{words[1]}: " in (ROOT / "Makefile").read_text()
    known = {
        "run",
        "report",
        "list",
        "show",
        "doctor",
        "bench",
        "check",
        "theory",
        "claim",
        "compact",
        "reproduce",
        "compare",
        "baseline",
    }
    assert set(ran) == known


@pytest.mark.usefixtures("files")
def test_the_query_of_the_schemas_page(expbench: CommandLine) -> None:
    import duckdb

    expbench("run", "--task", "polyreg", "--models", "ssm", "--L", "4", *SHORT)
    page = (ROOT / "results" / "README.md").read_text()
    python, sql = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "sql"))
    assert python
    assert sql
    exec(python[1], {})
    rows = duckdb.sql(sql[1]).fetchall()
    assert [row[:3] for row in rows] == [("polyreg", "ssm", 4)]


def test_defaults_are_those_that_are_documented() -> None:
    from expbench.sweep.expand import expand
    from expbench.sweep.request import Request

    runs = [job.run for job in expand(Request(task="polyreg", models="s6"), "cpu")]
    assert [run.seed for run in runs] == [0, 1, 2]
    run = runs[0]
    assert (run.D, run.model_settings["N"], run.depth, run.norm, run.residual) == (4, 4, 1, "layer", True)
    assert (run.batch_size, run.steps, run.lr, run.warmup, run.clip) == (64, 2000, 0.01, 200, 1.0)


def test_every_plugin_stands_in_the_readme() -> None:
    from expbench.plugins import discover

    for name in (*discover("task"), *discover("model")):
        assert f"| `{name}` |" in README


def test_the_committed_reference_is_readable() -> None:
    frame, problems = store.read(ROOT / "results" / "reference")
    assert problems == []
    assert set(frame.loc[frame["kind"] == "run", "status"]) == {"ok"}
    assert frame["git_commit"].notna().all()

"""README.md and all pages under docs: their commands and programs, one after the other with fewer steps, and their links."""

import shlex
from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.documents import DOCS, PAGES, README, ROOT, blocks, commands, links, missing_links, name, write_files
from tests.small_language import write_text

SHORT = ["--steps", "3", "--seeds", "0", "-t", "test_size=64", "-t", "validation_size=64"]
SHORT_TEXT = SHORT[:4]
SHORTER = {"run": SHORT, "reproduce": ["--shard", "1/9"], "baseline": ["--yes"]}
LINKED = [*PAGES, *(ROOT / page for page in ("CONTRIBUTING.md", "CHANGELOG.md", "results/README.md", "benchmarks/NOTES.md"))]
KNOWN = {
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


@pytest.fixture
def a_text_and_a_baseline(tmp_path: Path) -> None:
    """The text that pages name, and a small baseline where they expect the committed one."""
    write_text(tmp_path / "wikitext-2")
    configurations = tmp_path / "results" / "baselines" / "cpu" / "configurations.toml"
    configurations.parent.mkdir(parents=True)
    configurations.write_text("configurations = [{ task = 'polyreg', models = 'ssm', L = 4, steps = 3, seeds = '0:2' }]")


@pytest.mark.usefixtures("a_text_and_a_baseline")
@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page)], ids=name)
def test_every_command_and_program(page: Path, tmp_path: Path, expbench: CommandLine) -> None:
    write_files(page, tmp_path)
    for block in blocks(page):
        for command in block.commands:
            run(command, expbench)
        if block.kind == "python" and not block.file:
            weights = next(tmp_path.glob("results/weights/*"), None)
            exec(block.text.replace("0123abcd", weights.stem if weights else "0123abcd"), {})


def run(command: str, expbench: CommandLine) -> None:
    """Run a command of a page with fewer steps; of make, only check that the Makefile has the target."""
    words = shlex.split(command)
    if words[0] == "make":
        assert f"\n{words[1]}: " in (ROOT / "Makefile").read_text()
    elif words[0] == "expbench":
        fewer = SHORT_TEXT if "wikitext" in words else SHORTER.get(words[1], [])
        answer = expbench(*words[1:], *fewer)
        assert answer.code == 0, (command, answer.err)
    else:
        assert words == [".", ".venv/bin/activate"], f"nothing runs {command}"


def test_every_command_is_shown_by_a_page() -> None:
    shown = {shlex.split(command)[1] for page in PAGES for command in commands(page) if command.startswith("expbench ")}
    assert shown == KNOWN


@pytest.mark.parametrize("page", LINKED, ids=name)
def test_links(page: Path) -> None:
    assert missing_links(page) == []


@pytest.mark.parametrize("start", [README, ROOT / "docs" / "index.md"], ids=name)
def test_every_page_is_linked_from_the_start(start: Path) -> None:
    linked = {(start.parent / target.partition("#")[0]).resolve() for target in links(start)}
    assert {page for page in DOCS if page not in linked | {start}} == set()

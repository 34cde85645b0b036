"""The pages under docs: their commands and programs, one after the other, with fewer steps; and their links."""

import shlex
from pathlib import Path

import pytest

from tests.conftest import CommandLine
from tests.documents import ROOT, blocks, missing_links, write_files

PAGES = sorted((ROOT / "docs").glob("*.md"))
SHORT = {"run": ["--steps", "3", "-t", "test_size=64", "-t", "selection_size=64"]}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_command_and_program(page: Path, tmp_path: Path, expbench: CommandLine) -> None:
    write_files(page, tmp_path)
    for block in blocks(page):
        for command in block.commands:
            words = shlex.split(command)
            if words[0] == "make":
                assert f"\n{words[1]}: " in (ROOT / "Makefile").read_text()
            elif words[0] != ".":
                assert words[0] == "expbench", f"nothing runs {command}"
                answer = expbench(*words[1:], *SHORT.get(words[1], []))
                assert answer.code == 0, (command, answer.err)
        if block.kind == "python" and not block.file:
            exec(block.text, {})


@pytest.mark.parametrize("page", [*PAGES, *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "results/README.md"))])
def test_links(page: Path) -> None:
    assert missing_links(page) == []


def test_every_page_is_found_from_the_readme() -> None:
    readme = (ROOT / "README.md").read_text()
    assert all(f"(docs/{page.name})" in readme for page in PAGES)

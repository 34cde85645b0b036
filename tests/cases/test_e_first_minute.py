"""E, the first minute: options that contradict, messages that name the way out, the package and its versions."""

from __future__ import annotations

import os
import re
import runpy
import sys
import time
import tomllib
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import typer.core
import typer.main

from expbench.cli.compare import write_page
from expbench.cli.main import app
from expbench.errors import BadInput
from expbench.regression import baseline
from tests import hostile
from tests.conftest import CommandLine, is_bad_input
from tests.documents import README, ROOT, links

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def _options(command: Any, words: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Yield every option of every command that must not repeat, with the words that call the command."""
    for name, below in getattr(command, "commands", {}).items():
        yield from _options(below, (*words, name))
    if not hasattr(command, "commands"):
        options = [parameter for parameter in command.params if isinstance(parameter, typer.core.TyperOption)]
        yield from ((words, option) for option in options if not option.multiple)


def test_e_an_option_that_is_given_twice_is_refused(expbench: CommandLine) -> None:
    command = typer.main.get_command(app)
    found = list(_options(command))
    assert len(found) > 80
    for words, option in found:
        once = [option.opts[0]] if option.is_flag else [option.opts[0], "1"]
        with pytest.raises(BadInput, match=f"{'/'.join(option.opts)} is given 2 times"):
            command.main([*words, *once, *once], standalone_mode=False)
    is_bad_input(expbench("bench", "scan", "--gate", "--no-gate"), "--gate is given 2 times")
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "s6", "--L", "4", "--L=8"), "several values as a list")
    assert list(Path().iterdir()) == []


def test_e_paired_and_instances_contradict(expbench: CommandLine) -> None:
    words = ["run", "--task", "polyreg", "--models", "s6", "--paired"]
    is_bad_input(expbench(*words, "--instances", "0:3"), "--paired and --instances 0:3", "leave out one")
    is_bad_input(expbench(*words, "--instances", "0"), "--paired and --instances 0")
    Path("configurations.toml").write_text(
        "configurations = [{task = 'polyreg', models = 's6', paired = true, instances = '0:2'}]"
    )
    Path("table.parquet").touch()
    is_bad_input(expbench("baseline", "check", "--baseline", "."), "--paired and --instances 0:2")


def test_e_classes_that_do_not_fit_name_the_most_that_do(expbench: CommandLine) -> None:
    words = ["run", "--task", "count-in-row", "--models", "ssm", "--L", "16", "--dry-run", "-t", "test_size=64"]
    is_bad_input(expbench(*words), "classes=20 must be 2 to 17 at L=16", "-t classes=17")
    assert expbench(*words, "-t", "classes=17").code == 0


def test_e_trace_elsewhere_names_the_option(expbench: CommandLine) -> None:
    is_bad_input(expbench("trace", "0123abcd"), "unknown results folder 'results'", "--results FOLDER")
    is_bad_input(expbench("report"), "--results FOLDER")


def test_e_pytest_with_pytest_benchmark_installed() -> None:
    """Its warning beside xdist would be an error of pytest itself, as warnings are errors."""
    assert "-p no:benchmark" in PROJECT["tool"]["pytest"]["ini_options"]["addopts"]


def test_e_no_test_file_needs_an_optional_library_to_be_collected() -> None:
    optional = "duckdb|polars|tokenizers|datasets|triton|mamba_ssm"
    at_the_top = re.compile(rf"^(?:import|from) (?:{optional})\b", re.MULTILINE)
    for path in sorted((ROOT / "tests").rglob("test_*.py")):
        source = path.read_text()
        found = at_the_top.search(source)
        assert found is None or "importorskip" in source[: found.start()], path


def test_e_the_readme_of_a_package_index_has_no_relative_links() -> None:
    description = runpy.run_path(str(ROOT / "setup.py"))["description"]
    readme = README.read_text()
    relative = [target for target in links(README) if not target.startswith(("https:", "#"))]
    assert len(relative) > 20
    linked = description(readme, "https://example.org/expbench", "1.2")
    assert [link for link in re.findall(r"\]\(([^)]*)\)", linked) if not link.startswith("https://")] == []
    assert "[tutorial](https://example.org/expbench/blob/v1.2/docs/tutorial.md)" in linked
    assert "](https://example.org/expbench/raw/v1.2/results/reference/figure.svg)" in linked
    bare = description(readme, None, "1.2")
    assert re.findall(r"\]\((?!https://)", bare) == []
    assert "tutorial (`docs/tutorial.md`)" in bare
    for code in re.findall(r"^```.*?^```$", readme, re.DOTALL | re.MULTILINE):
        assert code in linked
        assert code in bare


def test_e_the_baseline_of_an_installed_package_stays(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baseline, "INSTALLED", ROOT / "results" / "baselines")  # where a wheel has them
    is_bad_input(expbench("baseline", "update", "--yes"), "baseline cpu belongs to the installed expbench; copy")
    is_bad_input(expbench("baseline", "check", "--baseline", "cup"), "did you mean 'cpu'?", "h200")
    assert baseline.load("cpu").table.is_file()


def test_e_ci_tests_the_lowest_and_the_newest_versions() -> None:
    """The lowest are chosen by a resolver from pyproject.toml, so that no second list can drift from it."""
    workflow = (ROOT / ".github" / "workflows" / "ci.yml").read_text()
    job = workflow[workflow.index("  versions:") : workflow.index("  wheel:")]
    for line in ('python: ["3.11", "3.13"]', "target: [test-lowest, test]", "make ${{ matrix.target }}"):
        assert line in job
    assert "TORCH: torch --index-url" in job, "the newest torch"
    makefile = (ROOT / "Makefile").read_text()
    lowest = makefile[makefile.index("\ntest-lowest:") : makefile.index("\ncheck:")]
    assert "--resolution lowest-direct --editable . --group dev" in lowest
    assert "==" not in lowest
    stated = {f"Programming Language :: Python :: {version}" for version in ("3.11", "3.13")}
    assert stated <= set(PROJECT["project"]["classifiers"])


def test_e_every_dependency_declares_its_lowest_version_and_what_may_break() -> None:
    declared = PROJECT["project"]["dependencies"]
    lowest = [re.match(r"[\w-]+>=\d", line) for line in declared]
    assert all(lowest), declared
    bounded = {re.split(r"[><]", line)[0] for line in declared if ",<" in line}
    assert bounded == {re.split(r"[><]", line)[0] for line in declared} - {"pyarrow"}
    newest = [line.partition("<")[2] for line in declared if ",<" in line]
    assert all(bound.isdigit() for bound in newest), "only a major release may break"


def test_e_make_says_what_it_installs_and_how_large_it_is() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in (".venv/installed:", ".venv/developing:"):
        rule = makefile[makefile.index(f"\n{target}") :].partition("\n\n")[0].splitlines()
        for before, line in pairwise(rule):
            if "pip install" in line and "--upgrade" not in line:
                assert "@echo" in before, line
                assert re.search(r"\d+ MB", before), before


def test_e_a_page_for_a_pipe_that_nobody_reads_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for place in (str(tmp_path / "fifo"), str(tmp_path), str(tmp_path / "missing" / "page.md"), ""):
        with pytest.raises(BadInput, match=r"--markdown: .* cannot be written"):
            write_page(place, "page")
    write_page("/dev/null", "page")
    for page in ("a longer page", "page"):
        write_page(str(tmp_path / "page.md"), page)
    assert (tmp_path / "page.md").read_text() == "page"


def test_e_hostile_command_lines_are_answered(expbench: CommandLine, tmp_path: Path) -> None:
    """The same kinds of words as `python -m tests.hostile 400`, which calls more of them."""
    hostile.prepare(tmp_path)
    lines = list(hostile.command_lines(40))
    assert {line[0] for line in lines} == {name[0] for name in hostile.BASES}
    answers = [hostile.here(words) for words in lines]
    assert [(answer.words, answer.wrong) for answer in answers if answer.wrong] == []
    assert sum(answer.code == 2 for answer in answers) > 25, "most are refused"


def test_e_what_is_wrong_with_an_answer_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    def answers(error: BaseException | None, seconds: float = 0) -> str:
        def main(words: list[str]) -> None:
            print("error: one\nand more" if words else "", file=sys.stderr)
            end = time.process_time() + seconds
            while time.process_time() < end:
                pass
            raise error or SystemExit(2)

        monkeypatch.setattr(hostile, "main", main)
        return hostile.here(["x"]).wrong

    assert "KeyError" in answers(KeyError("x"))
    assert "exit code 3" in answers(SystemExit(3))
    assert "an error of several lines" in answers(None)
    monkeypatch.setattr(hostile, "SECONDS", 1)
    assert "no answer in 1 s" in answers(None, 5)

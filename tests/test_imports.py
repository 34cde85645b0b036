"""Imports go down, never up; the commands that must answer at once import nothing heavy; every package is installed."""

import ast
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# The rule: a name may import those before it; names of one group do not import one another.
RULE = (
    "errors files stats console < supervision settings sources global_state < plugins < ops run < results < data < algebra"
    " < task mixer < probes"
    " < contracts nn < models claims < initialisation < training < language sweep < studies regression < report"
    " < theory bench < inspection < cli"
)
FLOOR = {name: floor for floor, group in enumerate(RULE.split(" < ")) for name in group.split()}


def modules(path: Path) -> Iterator[tuple[str, bool]]:
    """The modules of expbench that a file imports, anywhere in it, by their dotted names below expbench; and whether at the
    top level of the file."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "expbench":
            below = str(node.module).split(".")[1:]
            for alias in node.names:
                yield ".".join([*below, alias.name]), node in tree.body
        elif isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("expbench."):
                    yield alias.name.partition(".")[2], node in tree.body


def imports(path: Path) -> set[str]:
    """The first names of `modules`."""
    return {module.split(".")[0] for module, _ in modules(path)}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT / "expbench").parts[0].removesuffix(".py")


SHIMS = ("table", "weights")  # old paths of two public functions
SOURCES = sorted((ROOT / "expbench").rglob("*.py"))


def test_imports_follow_the_rule() -> None:
    broken = []
    for path in SOURCES:
        name = name_of(path)
        if name in ("__init__", "__main__", *SHIMS):
            continue
        assert name in FLOOR, f"{path} has no place in the rule"
        broken += [
            f"{path.relative_to(ROOT)} imports {imported}"
            for imported in sorted(imports(path))
            if imported != name and FLOOR[imported] >= FLOOR[name]
        ]
    assert not broken, "\n".join(broken)


def test_nobody_imports_a_task_or_model_by_name_and_tasks_know_only_what_is_below_the_network() -> None:
    for path in SOURCES:
        if name_of(path) not in ("models", "initialisation", "theory"):  # these set a model's weights, which no loop does
            assert "models" not in imports(path), path
        assert "expbench_tasks." not in path.read_text(), path
    for path in (ROOT / "tasks").glob("*.py"):
        others = {"wikitext": {"language.task.TextTask"}}.get(path.stem, set())
        assert {module for module, _ in modules(path) if FLOOR[module.split(".")[0]] > FLOOR["task"]} <= others, path


def loaded(*words: str) -> set[str]:
    code = """
import sys
from expbench.cli.main import main
try:
    main(sys.argv[1:])
except SystemExit:
    print(*sys.modules)
"""
    answer = subprocess.run([sys.executable, "-c", code, *words], capture_output=True, text=True, check=True)
    return set(answer.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("words", [["--help"], ["list"], ["run", "--help"]])
def test_help_and_list_import_nothing_heavy(words: list[str]) -> None:
    assert not loaded(*words) & {"torch", "pandas", "numpy", "pyarrow", "matplotlib", "scipy"}


def test_report_and_trace_never_import_torch() -> None:
    modules = loaded("report", "--results", str(ROOT / "results"))
    assert "expbench.report" in modules
    assert "torch" not in modules
    assert "torch" not in loaded("trace", "0", "--results", str(ROOT / "results"))


def test_help_takes_at_most_three_times_as_long_as_importing_typer() -> None:
    def seconds(*command: str) -> float:
        began = time.perf_counter()
        subprocess.run([sys.executable, *command], check=True, capture_output=True)
        return time.perf_counter() - began

    rounds = [(seconds("-c", "import typer"), seconds("-m", "expbench", "--help")) for _ in range(5)]
    assert min(b for _, b in rounds) < 3 * min(a for a, _ in rounds)


def test_every_package_is_named_in_the_distribution() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    present = {".".join(path.parent.relative_to(ROOT).parts) for path in (ROOT / "expbench").rglob("__init__.py")}
    baselines = {f"expbench.baselines.{path.parent.name}" for path in (ROOT / "results/baselines").glob("*/table.parquet")}
    assert set(settings["packages"]) == present | baselines | {"expbench_tasks", "expbench.baselines"}
    assert baselines <= set(settings["package-data"])

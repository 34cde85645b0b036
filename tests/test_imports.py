"""Imports go down, never up; the commands that must answer at once import nothing heavy; every package is installed."""

import ast
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
# Each layer may import those above it in this list, and its own members.
LAYERS = [
    ["errors", "published"],
    ["settings", "plugins", "reach", "text", "statistics", "provenance", "files", "graph", "polynomial_text"],
    ["rates", "sharing"],
    ["counting", "corpus", "perplexity"],
    ["run", "draws", "draws_kernel", "resampling"],
    ["ops", "mixer", "polynomial"],
    ["floors"],
    ["task"],
    ["text_task"],
    ["models", "network", "optimizer", "blocks", "backbone"],
    ["constructions"],
    ["ensemble", "stream"],
    ["watch"],
    ["steps"],
    ["training", "matching", "table"],
    ["language"],
    ["grid"],
    ["rows", "progress", "cells", "epochs", "stacks", "weights", "bench_cases", "bench_clock", "bench_exp"],
    [
        "claims",
        "places",
        "verdicts",
        "verdict_text",
        "document",
        "ledger",
        "text_orders",
        "counterparts",
        "differences",
        "recorded",
    ],
    ["outcomes", "comparison", "comparison_text"],
    ["execute"],
    ["sweep", "tuning", "estimate", "plots", "overviews", "texts", "bench_plot", "bench_solvers", "bench_text"],
    ["tables", "latex"],
    ["page"],
    ["preview", "report", "show", "doctor", "trace", "bench", "theory"],
    ["campaign", "presets", "text_presets", "declare"],
    ["baselines", "crew"],
    ["cli_options"],
    ["cli_bench", "cli_compare", "cli_run", "cli_theory"],
    ["cli_baseline"],
    ["cli"],
    ["__main__"],
]
DEPTH = {name: depth for depth, names in enumerate(LAYERS) for name in names}


def imports(path: Path) -> set[str]:
    """The modules of expbench that a file imports, anywhere in it, by their first name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module == "expbench":
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("expbench."):
            found.add(str(node.module).split(".")[1])
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("expbench.")}
    return found


def test_every_module_has_its_layer_and_imports_downwards() -> None:
    for path in (ROOT / "expbench").rglob("*.py"):
        name = path.relative_to(ROOT / "expbench").parts[0].removesuffix(".py")
        if name == "__init__":
            continue
        assert name in DEPTH, f"{path} has no layer"
        for imported in imports(path):
            assert DEPTH[imported] <= DEPTH[name], f"{path} imports {imported}, which stands above it"


def test_nobody_imports_a_task_or_model_by_name_and_tasks_know_only_what_is_below_the_network() -> None:
    for path in (ROOT / "expbench").glob("*.py"):
        assert "models" not in imports(path), path
        assert "expbench_tasks." not in path.read_text(), path
    for path in (ROOT / "tasks").glob("*.py"):
        below = {"task", "text_task", "draws", "polynomial", "floors", "reach", "errors", "polynomial_text"}
        assert imports(path) <= below, path


def loaded(*words: str) -> set[str]:
    code = """
import sys
from expbench.cli import main
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
    assert set(settings["packages"]) == present | {"expbench_tasks"}

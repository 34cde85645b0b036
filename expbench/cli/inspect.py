"""Commands `expbench list`, `show`, `check`, `doctor` and `trace`. Heavy imports happen inside them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from expbench.cli.options import (
    BackendOption,
    ModelsDir,
    ModelSettings,
    ResultsOption,
    TasksDir,
    TaskSettings,
    add_folders,
    bad_files,
    check_choice,
)


def list_plugins(tasks_dir: TasksDir = None, models_dir: ModelsDir = None) -> None:
    """List the tasks and models, without importing any."""
    add_folders(tasks_dir, models_dir)
    from expbench import plugins
    from expbench.console.formatting import visible

    kinds: tuple[plugins.Kind, ...] = ("task", "model")
    found = {kind: plugins.discover(kind) for kind in kinds}
    width = max(len(name) for by_name in found.values() for name in by_name)
    for kind, by_name in found.items():
        print(f"{kind}s:")
        for name, plugin in sorted(by_name.items()):
            origin = "" if plugin.origin == plugins.BUILT_IN else f" [{plugin.origin}]"
            print(visible(f"  {name:{width}}  {plugin.summary()}{origin}"))


def show(
    name: Annotated[str, typer.Argument(help="A task or a model.")],
    L: Annotated[str | None, typer.Option("--L", help="Length.")] = None,
    D: Annotated[str, typer.Option("--D", help="Width.")] = "4",
    depth: Annotated[str, typer.Option(help="Number of layers.")] = "1",
    task_setting: TaskSettings = None,
    model_setting: ModelSettings = None,
    tasks_dir: TasksDir = None,
    models_dir: ModelsDir = None,
) -> None:
    """Show the definition of a task or a model.

    A task has settings, samples and controls; a model has settings, sizes and a degree.
    """
    add_folders(tasks_dir, models_dir)
    from expbench.inspection.show import show_plugin

    print(show_plugin(name, L=L, D=D, depth=depth, task_settings=task_setting or [], model_settings=model_setting or []))


def check(
    layer: Annotated[str, typer.Argument(help="A model name, path/file.py:Class, or module:Class.")],
    D: Annotated[str, typer.Option("--D", metavar="LIST", help="Widths.")] = "1,2,4,7",
    L: Annotated[str, typer.Option("--L", metavar="LIST", help="Lengths.")] = "1,2,5,16",
    backend: BackendOption = "auto",
    traceback: Annotated[bool, typer.Option("--traceback", help="Print the full traceback of each error too.")] = False,
    model_setting: ModelSettings = None,
    models_dir: ModelsDir = None,
) -> None:
    """Check a layer on a CPU: causality, gradients, determinism, stacking, dtypes, and its declared state size and degree.

    An error is reported once, with its place in the code of the layer. The exit code is 1 if a check fails.
    """
    add_folders(None, models_dir)
    from expbench.ops import backends

    check_choice("--backend", backend, ("auto", *backends.BACKENDS))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.inspection.layer_check import run as checking
    from expbench.sweep import spec

    with backends.using(None if backend == "auto" else backend):
        widths, lengths = spec.whole("--D", D, most=256), spec.whole("--L", L, most=512)
        findings = checking.check(layer, widths=widths, lengths=lengths, settings=model_setting or [])
    print(checking.text(findings))
    if traceback and checking.tracebacks(findings):
        print(f"\n{checking.tracebacks(findings)}")
    if any(finding.verdict == "fail" for finding in findings):
        raise SystemExit(1)


def doctor() -> None:
    """Print versions, the device, and the available optional backends.

    For an unavailable backend, print the reason.
    """
    from expbench.inspection.doctor import examine

    print(examine())


def trace(
    key: Annotated[str, typer.Argument(help="Key of a run, or a prefix of it.")],
    results: ResultsOption = "results",
) -> None:
    """Show the origin of a number.

    Print the run and its provenance, its curve, the command to rerun it, and its weights if they were kept.
    """
    from expbench.inspection.trace import trace_key
    from expbench.results import folders

    text, problems = trace_key(folders.existing_folder(results), key)
    print(text)
    bad_files(problems)

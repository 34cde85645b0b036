"""The command line. Heavy imports happen inside the commands, so that --help and list answer at once."""

from __future__ import annotations

import os
import sys
from typing import Annotated

import typer

from expbench.cli_baseline import baseline_app
from expbench.cli_bench import bench_app
from expbench.cli_compare import compare
from expbench.cli_options import (
    BackendOption,
    ModelsDir,
    ModelSettings,
    ResultsOption,
    TasksDir,
    TaskSettings,
    add_folders,
    bad_files,
    check_choice,
    say,
)
from expbench.cli_run import reproduce, run
from expbench.cli_theory import theory_app
from expbench.errors import BadInput

app = typer.Typer(
    name="expbench",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help answers twice as fast as boxes
)

app.add_typer(baseline_app, name="baseline")
app.add_typer(bench_app, name="bench")
app.add_typer(theory_app, name="theory")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """What can a sequence layer express? Runs tasks across models, with controls, intervals and provenance."""
    if version:
        import expbench

        print(expbench.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


app.command()(run)


@app.command()
def claim(
    text: Annotated[str, typer.Argument(help="As 's6 < linattn', or 's6(depth=1) > attn(depth=4)', in the metric.")],
    task: Annotated[str, typer.Option(metavar="NAME", help="The task.")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="NAME=V1,V2", help="Only where a column or a setting of the task is one of these."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="The least difference that matters. (default: a tenth of an error, .05 of an accuracy)"),
    ] = None,
    results: ResultsOption = "results",
    tasks_dir: TasksDir = None,
    models_dir: ModelsDir = None,
) -> None:
    """Write down what is claimed of two models, before they are run: RESULTS/claims/HASH.json. The report judges it."""
    add_folders(tasks_dir, models_dir)
    from expbench import claims, declare, table

    made = claims.write(declare.claim(text, task, where or [], margin), table.open_folder(results))
    print(f"{made.hash}: {made.title}")


app.command()(reproduce)


@app.command()
def report(
    task: Annotated[str | None, typer.Option(metavar="LIST", help="Only these tasks.")] = None,
    models: Annotated[str | None, typer.Option(metavar="LIST", help="Only these models.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare every other model to this one, in paired differences.")
    ] = None,
    results: ResultsOption = "results",
) -> None:
    """Write verdicts, tables and figures of the results: RESULTS/report/report.html, beside it report.md and report.tex."""
    from expbench import table
    from expbench.report import write_report
    from expbench.settings import split_list

    folder = table.existing_folder(results)
    frame, problems = table.read(folder)
    path = write_report(
        frame,
        folder,
        tasks=split_list(task, "--task") if task is not None else None,
        models=split_list(models, "--models") if models is not None else None,
        against=against,
    )
    print(path.with_suffix(".html"))
    bad_files(problems)


app.command()(compare)


@app.command()
def compact(
    results: ResultsOption = "results",
    curves: Annotated[
        bool, typer.Option("--curves/--no-curves", help="Keep what was measured on the way, and by label and layer.")
    ] = True,
) -> None:
    """Put the files of a results folder into one, table.parquet, as for a repository."""
    from expbench import table

    print(table.compact(table.existing_folder(results), curves=curves))


@app.command("list")
def list_plugins(tasks_dir: TasksDir = None, models_dir: ModelsDir = None) -> None:
    """List the tasks and models, without importing any."""
    add_folders(tasks_dir, models_dir)
    from expbench import plugins

    kinds: tuple[plugins.Kind, ...] = ("task", "model")
    found = {kind: plugins.discover(kind) for kind in kinds}
    width = max(len(name) for by_name in found.values() for name in by_name)
    for kind, by_name in found.items():
        print(f"{kind}s:")
        for name, plugin in sorted(by_name.items()):
            origin = "" if plugin.origin == plugins.BUILT_IN else f" [{plugin.origin}]"
            print(f"  {name:{width}}  {plugin.summary()}{origin}")


@app.command()
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
    """Show what a task or a model is.

    Of a task its definition, settings, samples and controls; of a model its definition, settings, sizes and degree.
    """
    add_folders(tasks_dir, models_dir)
    from expbench.show import show_plugin

    print(show_plugin(name, L=L, D=D, depth=depth, task_settings=task_setting or [], model_settings=model_setting or []))


@app.command()
def check(
    layer: Annotated[str, typer.Argument(help="A model by name, or path/file.py:Class, or module:Class.")],
    D: Annotated[str, typer.Option("--D", metavar="LIST", help="Widths.")] = "1,2,4,7",
    L: Annotated[str, typer.Option("--L", metavar="LIST", help="Lengths.")] = "1,2,5,16",
    backend: BackendOption = "auto",
    model_setting: ModelSettings = None,
    models_dir: ModelsDir = None,
) -> None:
    """Check a layer on a CPU: causality, gradients, determinism, stacking, number types, and what it states of itself.

    The exit code is 1 if a check fails.
    """
    add_folders(None, models_dir)
    from expbench.ops import backends

    check_choice("--backend", backend, ("auto", *backends.BACKENDS))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench import grid
    from expbench.theory import check as checking

    with backends.using(None if backend == "auto" else backend):
        widths, lengths = grid.whole("--D", D, most=256), grid.whole("--L", L, most=512)
        findings = checking.check(layer, widths=widths, lengths=lengths, settings=model_setting or [])
    print(checking.text(findings))
    if any(finding.verdict == "fail" for finding in findings):
        raise SystemExit(1)


@app.command()
def doctor() -> None:
    """Print versions, device, and which optional backends work.

    For those that do not, it says how to get them.
    """
    from expbench.doctor import examine

    print(examine())


@app.command()
def trace(
    key: Annotated[str, typer.Argument(help="The key of a run, or its beginning.")],
    results: ResultsOption = "results",
) -> None:
    """Show where a number comes from, and how to run it again.

    The run and its provenance, its curve, the command that runs it again, its weights if they were kept.
    """
    from expbench import table
    from expbench.trace import trace_key

    folder = table.existing_folder(results)
    frame, problems = table.read(folder)
    print(trace_key(frame, folder, key))
    bad_files(problems)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except BadInput as error:
        say(f"error: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except Exception as error:
        # what the command-line parser itself refuses; it knows its nearest options
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        say(f"error: {' '.join(message().split())}")
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)

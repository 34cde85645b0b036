"""Commands `expbench report` and `expbench compact`. Heavy imports happen inside them."""

from __future__ import annotations

from typing import Annotated

import typer

from expbench.cli.options import ResultsOption, bad_files


def report(
    task: Annotated[str | None, typer.Option(metavar="LIST", help="Only these tasks.")] = None,
    models: Annotated[str | None, typer.Option(metavar="LIST", help="Only these models.")] = None,
    against: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Compare every other model with this one, by paired differences.")
    ] = None,
    results: ResultsOption = "results",
    witnesses: Annotated[
        str | None,
        typer.Option(metavar="FOLDER", help="Results with kept weights, which prove what a network can represent."),
    ] = None,
) -> None:
    """Write verdicts, tables and figures of the results to RESULTS/report/report.html, report.md and report.tex."""
    from expbench.report.build import write_report
    from expbench.results import folders, reported, store
    from expbench.settings import split_list

    folder = folders.existing_folder(results)
    frame, problems = store.read(folder, reported.SHOWN_COLUMNS, reported.shown_rows)
    path = write_report(
        frame,
        folder,
        tasks=split_list(task, "--task") if task is not None else None,
        models=split_list(models, "--models") if models is not None else None,
        against=against,
        witnesses=folders.existing_folder(witnesses, "--witnesses") if witnesses is not None else None,
    )
    print(path.with_suffix(".html"))
    bad_files(problems)


def compact(
    results: ResultsOption = "results",
    curves: Annotated[
        bool, typer.Option("--curves/--no-curves", help="Keep training curves and metrics by label and layer.")
    ] = True,
) -> None:
    """Merge the files of a results folder into one, table.parquet, e.g. to commit it to a repository."""
    from expbench.results import compact as results_compact
    from expbench.results import folders

    print(results_compact.compact(folders.existing_folder(results), curves=curves))

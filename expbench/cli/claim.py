"""Command `expbench claim`. Heavy imports happen inside it."""

from __future__ import annotations

from typing import Annotated

import typer

from expbench.cli.options import ModelsDir, ResultsOption, TasksDir, add_folders


def claim(
    text: Annotated[
        str, typer.Argument(help="Order in the primary metric, e.g. 's6 < linattn' or 's6(depth=1) > attn(depth=4)'.")
    ],
    task: Annotated[str, typer.Option(metavar="NAME", help="The task.")],
    where: Annotated[
        list[str] | None,
        typer.Option(
            "--where", metavar="NAME=V1,V2", help="Restrict the claim to these values of a column or task setting."
        ),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="Smallest relevant difference. (default: a tenth of an error, .05 of an accuracy)"),
    ] = None,
    about: Annotated[
        str | None,
        typer.Option(
            metavar="NAME,...",
            help="What the sides are meant to differ in, e.g. model,depth; any other difference confounds. (default: the "
            "model, or the settings if both sides are one model)",
        ),
    ] = None,
    results: ResultsOption = "results",
    tasks_dir: TasksDir = None,
    models_dir: ModelsDir = None,
) -> None:
    """Register a claim about two models before they are run, as RESULTS/claims/HASH.json. The report judges it."""
    add_folders(tasks_dir, models_dir)
    from expbench.claims import declare
    from expbench.claims.claim import write
    from expbench.console.formatting import say
    from expbench.results import folders
    from expbench.settings import split_list

    claimed = declare.claim(text, task, where or [], margin, split_list(about, "--about") if about is not None else [])
    made = write(claimed, folders.open_folder(results))
    for line in declare.warnings(made):
        say(f"warning: {line}")
    print(f"{made.hash}: {made.title}")

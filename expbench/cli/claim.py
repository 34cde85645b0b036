"""Command `expbench claim`. Heavy imports happen inside it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from expbench.cli.options import ModelsDir, ResultsOption, TasksDir, add_folders
from expbench.errors import BadInput

if TYPE_CHECKING:
    from expbench.claims.claim import Claim


def claim(
    text: Annotated[
        str | None,
        typer.Argument(help="Order in the primary metric, e.g. 's6 < linattn' or 's6(depth=1) > attn(depth=4)'."),
    ] = None,
    task: Annotated[str | None, typer.Option(metavar="NAME", help="The task.")] = None,
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
    power: Annotated[
        bool,
        typer.Option(
            "--power",
            help="Register nothing. Print how many instances or seeds the undecided pairs of this claim, or of all "
            "registered ones, need, from the runs in RESULTS.",
        ),
    ] = False,
    results: ResultsOption = "results",
    tasks_dir: TasksDir = None,
    models_dir: ModelsDir = None,
) -> None:
    """Register a claim about two models before they are run, as RESULTS/claims/HASH.json. The report judges it.

    `expbench claim --power` plans instead how many instances or seeds a verdict needs.
    """
    if text is None and not power:
        raise BadInput("expbench claim needs a claim, for example 's6 < linattn', or --power")
    if text is not None and task is None:
        raise BadInput(f"claim {text!r}: --task is missing, for example --task polyreg")
    add_folders(tasks_dir, models_dir)
    from expbench.claims import declare
    from expbench.claims.claim import write
    from expbench.console.formatting import say
    from expbench.results import folders
    from expbench.settings import split_list

    told = split_list(about, "--about") if about is not None else []
    claimed = declare.claim(text, task, where or [], margin, told) if text is not None and task is not None else None
    if claimed is None or power:
        print(_plan(claimed, results))
        return
    made = write(claimed, folders.open_folder(results))
    for line in declare.warnings(made):
        say(f"warning: {line}")
    print(f"{made.hash}: {made.title}")


def _plan(claimed: Claim | None, results: str) -> str:
    """Return how many units the undecided pairs of a claim, or of all registered ones, need; all are corrected together."""
    from expbench.claims import planning
    from expbench.claims.claim import read, standing
    from expbench.claims.verdicts import judge
    from expbench.results import folders, reported, store

    folder = folders.existing_folder(results)
    registered = standing(read(folder))
    if claimed is None and not registered:
        raise BadInput(f"{results} has no registered claims; name one, for example 's6 < linattn' --task polyreg")
    frame, problems = store.read(folder, reported.SHOWN_COLUMNS, reported.shown_rows)
    if problems:
        raise BadInput(problems[0])
    known = registered if claimed is None else [claimed, *(one for one in registered if one != claimed)]
    findings = judge(known, frame)
    return planning.text(findings if claimed is None else findings[:1])

"""The command `expbench compare`: has anything become worse? Heavy imports happen inside it."""

from __future__ import annotations

import math
import shlex
from typing import Annotated

import typer

from expbench.errors import BadInput, unknown

MarkdownOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Write Markdown for a pull request; - prints it in place of the table."),
]


def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A results folder, or one .parquet file: what was.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another: what is.")],
    fail_on: Annotated[
        str,
        typer.Option(metavar="LIST", help="Verdicts that give exit code 1, slower among them; or none."),
    ] = "regressed,missing,failed",
    confidence: Annotated[float, typer.Option(help="Of all verdicts together.")] = 0.95,
    markdown: MarkdownOption = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="Compare times too, where device and stack size are the same.")
    ] = False,
    slower: Annotated[float, typer.Option(metavar="TIMES", help="So many times the seconds of BASE are slower.")] = 1.5,
) -> None:
    """Compare two results tables, cell by cell: has anything become worse?

    Cells are matched by what was run, and each is regressed, failed, missing, undecided, improved, new or unchanged. The
    exit code is 1 if one is what --fail-on names.
    """
    if not 0.5 <= confidence < 1:  # nan is not either
        raise BadInput(f"--confidence: {confidence:g} is not from 0.5 to below 1, as 0.95")
    if not 1 < slower < math.inf:
        raise BadInput(f"--slower: {slower:g} is not above 1 and finite, as 1.5")
    from expbench.regression import comparison, formatting, matching

    fails = verdicts_of(fail_on)
    speed = speed or comparison.SLOWER in fails
    found = comparison.compare(matching.load(base), matching.load(new), (base, new), confidence, slower)
    if markdown is not None:
        words = ["--fail-on", fail_on, "--confidence", f"{confidence:g}"]
        words += ["--speed", "--slower", f"{slower:g}"] if speed else []
        command = shlex.join(["expbench", "compare", base, new, *words])
        write_page(markdown, formatting.markdown(found, fails, speed, command))
    if markdown != "-":
        print(formatting.text(found, fails, speed))
    if found.failing(fails):
        raise SystemExit(1)


def verdicts_of(fail_on: str) -> list[str]:
    """What --fail-on names; raises `BadInput` for what is no verdict."""
    from expbench.regression import comparison
    from expbench.settings import split_list

    fails = [] if fail_on == "none" else split_list(fail_on, "--fail-on")
    for name in fails:
        if name not in (*comparison.VERDICTS, comparison.SLOWER):
            raise unknown("verdict of --fail-on:", name, [*comparison.VERDICTS, comparison.SLOWER, "none"])
    return fails


def write_page(markdown: str, page: str) -> None:
    """Write a page where --markdown says; raises `BadInput` where that cannot be."""
    from pathlib import Path

    if markdown == "-":
        print(page, end="")
        return
    try:
        Path(markdown).write_text(page, encoding="utf-8")
    except OSError as error:
        raise BadInput(
            f"--markdown: {markdown!r} cannot be written ({error.strerror or error}); name a file that can, or -"
        ) from error

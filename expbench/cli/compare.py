"""Command `expbench compare`: has anything become worse? Heavy imports happen inside it."""

from __future__ import annotations

import math
import shlex
from typing import Annotated

import typer

from expbench.errors import BadInput, unknown

MarkdownOption = Annotated[
    str | None,
    typer.Option(metavar="FILE", help="Write Markdown for a pull request; - prints it instead of the table."),
]


def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="Old results: a results folder or a .parquet file.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="New results: a results folder or a .parquet file.")],
    fail_on: Annotated[
        str,
        typer.Option(metavar="LIST", help="Verdicts that set exit code 1, including slower; or none."),
    ] = "regressed,missing,failed",
    confidence: Annotated[float, typer.Option(help="Joint confidence of all verdicts.")] = 0.95,
    markdown: MarkdownOption = None,
    speed: Annotated[
        bool, typer.Option("--speed", help="Also compare times, where device and stack size are equal.")
    ] = False,
    slower: Annotated[
        float, typer.Option(metavar="TIMES", help="Ratio of NEW to BASE seconds that counts as slower.")
    ] = 1.5,
) -> None:
    """Compare two results tables by configuration: has anything become worse?

    Each matched configuration is regressed, failed, missing, undecided, improved, new or unchanged. The exit code is 1 if
    one has a verdict in --fail-on.
    """
    if not 0.5 <= confidence < 1:  # also rejects nan
        raise BadInput(f"--confidence: {confidence:g} must be at least 0.5 and below 1, e.g. 0.95")
    if not 1 < slower < math.inf:
        raise BadInput(f"--slower: {slower:g} must be finite and above 1, e.g. 1.5")
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
    """Return the verdicts in --fail-on; raise `BadInput` for an unknown one."""
    from expbench.regression import comparison
    from expbench.settings import split_list

    fails = [] if fail_on == "none" else split_list(fail_on, "--fail-on")
    for name in fails:
        if name not in (*comparison.VERDICTS, comparison.SLOWER):
            raise unknown("verdict of --fail-on:", name, [*comparison.VERDICTS, comparison.SLOWER, "none"])
    return fails


def write_page(markdown: str, page: str) -> None:
    """Write a page to the file of --markdown; raise `BadInput` if that fails."""
    from pathlib import Path

    from expbench import files

    if markdown == "-":
        print(page, end="")
        return
    try:
        files.write_named(Path(markdown), page)
    except OSError as error:
        raise BadInput(
            f"--markdown: {markdown!r} cannot be written ({error.strerror or error}); name another file, or -"
        ) from error

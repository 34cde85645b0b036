"""The command `expbench compare`: has anything become worse? Heavy imports happen inside it."""

from __future__ import annotations

import math
import shlex
from typing import Annotated

import typer

from expbench.errors import BadInput, unknown


def compare(
    base: Annotated[str, typer.Argument(metavar="BASE", help="A results folder, or one .parquet file: what was.")],
    new: Annotated[str, typer.Argument(metavar="NEW", help="Another: what is.")],
    fail_on: Annotated[
        str,
        typer.Option(metavar="LIST", help="Verdicts that give exit code 1, slower among them; or none."),
    ] = "regressed,missing,failed",
    confidence: Annotated[float, typer.Option(help="Of all verdicts together.")] = 0.95,
    markdown: Annotated[
        str | None,
        typer.Option(metavar="FILE", help="Write Markdown for a pull request; - prints it in place of the table."),
    ] = None,
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
    from pathlib import Path

    from expbench import comparison, comparison_text, counterparts
    from expbench.settings import split_list

    fails = [] if fail_on == "none" else split_list(fail_on, "--fail-on")
    for name in fails:
        if name not in (*comparison.VERDICTS, comparison.SLOWER):
            raise unknown("verdict of --fail-on:", name, [*comparison.VERDICTS, comparison.SLOWER, "none"])
    speed = speed or comparison.SLOWER in fails
    found = comparison.compare(counterparts.load(base), counterparts.load(new), (base, new), confidence, slower)
    if markdown is not None:
        words = ["--fail-on", fail_on, "--confidence", f"{confidence:g}"]
        words += ["--speed", "--slower", f"{slower:g}"] if speed else []
        page = comparison_text.markdown(found, fails, speed, shlex.join(["expbench", "compare", base, new, *words]))
        if markdown == "-":
            print(page, end="")
        else:
            try:
                Path(markdown).write_text(page, encoding="utf-8")
            except OSError as error:
                raise BadInput(
                    f"--markdown: {markdown!r} cannot be written ({error.strerror or error}); name a file that can, or -"
                ) from error
    if markdown != "-":
        print(comparison_text.text(found, fails, speed))
    if found.failing(fails):
        raise SystemExit(1)

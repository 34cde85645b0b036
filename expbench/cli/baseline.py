"""Commands `expbench baseline`: rerun a baseline, compare the results, replace them. Heavy imports happen inside."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from expbench.cli.compare import MarkdownOption, verdicts_of, write_page
from expbench.cli.options import Command
from expbench.console.formatting import say
from expbench.errors import BadInput
from expbench.supervision import once, supervise

if TYPE_CHECKING:
    from pathlib import Path

    from expbench.regression.baseline import Baseline, Checked
    from expbench.training.job import Job

baseline_app = typer.Typer(
    help="Compare new runs with committed results, or update those results.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

_DEFAULT = "cpu"
_FAIL_ON = "regressed,missing,failed"
BaselineOption = Annotated[
    str,
    typer.Option(
        "--baseline",
        metavar="NAME",
        help="A name in results/baselines or in the installed package, or a folder with a configurations.toml.",
    ),
]
FolderOption = Annotated[
    str | None, typer.Option("--results", metavar="FOLDER", help="Folder for the runs. (default: results/regress/NAME)")
]


@baseline_app.command(cls=Command)
def check(
    baseline: BaselineOption = _DEFAULT,
    results: FolderOption = None,
    fail_on: Annotated[str, typer.Option(metavar="LIST", help="Verdicts that set exit code 1; or none.")] = _FAIL_ON,
    markdown: MarkdownOption = None,
) -> None:
    """Rerun all runs of a baseline and compare the results: has anything become worse?

    The exit code is 1 if a configuration has a verdict in --fail-on, or if an invariant is violated: the recorded learning
    rates, clipped gradient norms or data checksums differ from their expected values.
    """
    fails = verdicts_of(fail_on)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    supervise(f"expbench baseline check: rerun {baseline} and compare; loading torch and the plugins")
    from expbench.regression import baseline as regression_baseline

    chosen = regression_baseline.load(baseline)
    if not chosen.table.is_file():
        raise BadInput(f"{chosen.folder} has no {chosen.table.name} to compare with; {_updating(baseline)} creates it")
    jobs, folder = _ran(chosen, results)
    found = regression_baseline.check(chosen, jobs, folder, _updating(baseline))
    _show(found, fails, markdown, shlex.join(["expbench", "compare", str(chosen.folder), str(folder), "--fail-on", fail_on]))
    if found.fails(fails):
        raise SystemExit(1)


@baseline_app.command(cls=Command)
def update(
    baseline: BaselineOption = _DEFAULT,
    results: Annotated[
        str | None, typer.Option("--results", metavar="FOLDER", help="Use the runs of an earlier check. (default: rerun)")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask for confirmation.")] = False,
) -> None:
    """Show the changes to a baseline, as compare does, and then replace it."""
    if not yes and not sys.stdin.isatty():
        raise BadInput("baseline update asks for confirmation, but there is no terminal; give --yes")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    supervise(f"expbench baseline update: {f'rerun {baseline}' if results is None else results}; loading torch")
    from expbench.regression import baseline as regression_baseline
    from expbench.results import folders

    chosen = regression_baseline.load(baseline)
    regression_baseline.require_own(chosen)
    if results is None:
        jobs, folder = _ran(chosen, None)
    else:
        jobs, folder = chosen.jobs(), folders.existing_folder(results)
    if chosen.table.is_file():
        _show(regression_baseline.check(chosen, jobs, folder, _updating(baseline)), verdicts_of(_FAIL_ON), None, "")
    if not yes and not typer.confirm(f"Replace {chosen.table}?"):
        say("the baseline is unchanged")
        return
    rows = regression_baseline.replace(chosen, jobs, folder)
    print(f"{chosen.table}: {len(jobs)} runs, {rows} rows")


def _updating(baseline: str) -> str:
    return f"expbench baseline update --baseline {baseline}"


def _ran(chosen: Baseline, results: str | None) -> tuple[list[Job], Path]:
    """Rerun all jobs of a baseline into an empty folder; return the jobs and the folder."""
    from pathlib import Path

    from expbench.regression import baseline as regression_baseline

    jobs = chosen.jobs()
    folder = Path(results) if results is not None else regression_baseline.CHECKED / chosen.name
    if once("emptied the folder"):
        regression_baseline.fresh(folder, own=results is None)
    try:
        regression_baseline.run(jobs, folder, chosen.device, say)
    except KeyboardInterrupt:
        say("interrupted; a check cannot be resumed, since it always reruns everything")
        raise SystemExit(130) from None
    return jobs, folder


def _show(found: Checked, fails: list[str], markdown: str | None, command: str) -> None:
    """Print the comparison and the violated invariants, and write them as Markdown."""
    from expbench.console.formatting import escaped, visible
    from expbench.regression import formatting

    page = formatting.markdown(found.comparison, fails, False, command)
    if found.broken:
        plain, listed = ("\n".join(f"- {show(str(broken))}" for broken in found.broken) for show in (visible, escaped))
        said = f"FAILS: invariants are violated\n{plain}"
        page = f"### expbench baseline check: fails, invariants are violated\n\n{listed}\n\n{page}"
    else:
        said = "invariants hold: learning rates, clipped gradient norms and data checksums"
        page = f"{page}\nThe {said}.\n"
    if markdown is not None:
        write_page(markdown, page)
    if markdown != "-":
        print(formatting.text(found.comparison, fails, speed=False))
        print(said)

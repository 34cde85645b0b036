"""The command line. Heavy imports happen inside the commands, so that --help and list are fast."""

from __future__ import annotations

import gc
import sys
from typing import Annotated, NoReturn

import typer

from expbench import files, supervision
from expbench.cli.baseline import baseline_app
from expbench.cli.bench import bench_app
from expbench.cli.claim import claim
from expbench.cli.compare import compare
from expbench.cli.inspect import check, doctor, list_plugins, show, trace
from expbench.cli.options import Command, check_text
from expbench.cli.report import compact, report
from expbench.cli.reproduce import reproduce
from expbench.cli.run import run
from expbench.cli.streams import guarded
from expbench.cli.theory import theory_app
from expbench.console.formatting import say
from expbench.errors import BadInput

app = typer.Typer(
    name="expbench",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help is twice as fast as boxes
)

app.add_typer(baseline_app, name="baseline")
app.add_typer(bench_app, name="bench")
app.add_typer(theory_app, name="theory")


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """Measure what sequence layers can express: run tasks across models, with controls, intervals and provenance."""
    if version:
        import expbench

        print(expbench.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


app.command(cls=Command)(run)
app.command(cls=Command)(claim)
app.command(cls=Command)(reproduce)
app.command(cls=Command)(report)
app.command(cls=Command)(compare)
app.command(cls=Command)(compact)
app.command("list", cls=Command)(list_plugins)
app.command(cls=Command)(show)
app.command(cls=Command)(check)
app.command(cls=Command)(doctor)
app.command(cls=Command)(trace)


# objects until the garbage collector looks for cycles: the modules of torch and thousands of planned runs have none, and the
# default visits them again and again
_COLLECTED_AFTER = 100_000


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit with 0 (done), 1 (a run failed), 2 (bad input, or a full disk) or 130 (interrupted).

    arguments: None for those of this process, whose command is then supervised if it trains.
    """
    if arguments is None:
        gc.set_threshold(_COLLECTED_AFTER)
    with supervision.command(of_this_process=arguments is None), guarded():
        _main(sys.argv[1:] if arguments is None else arguments)


def _main(arguments: list[str]) -> NoReturn:
    try:
        for word in arguments:
            check_text(word)
        code = app(args=arguments, standalone_mode=False)
    except BadInput as error:
        say(f"error: {error}")
        raise SystemExit(2) from None
    except (KeyboardInterrupt, typer.Abort):
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno is None:  # raised by a library, not by the system
            raise
        say(f"error: {' '.join(files.reason(error).split())}")
        raise SystemExit(2) from None
    except Exception as error:
        # errors of the command-line parser, which suggests the nearest option itself
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        say(f"error: {' '.join(message().split())}")
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)

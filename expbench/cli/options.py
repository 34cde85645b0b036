"""Options, validation and output shared by the commands. Nothing heavy is imported."""

from __future__ import annotations

import inspect
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_type_hints

import typer
import typer.core

from expbench.console.formatting import say
from expbench.errors import BadInput, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from logging.handlers import MemoryHandler

    from expbench.settings import Option

Called = TypeVar("Called", bound="Callable[..., None]")

DEVICES = ("auto", "cpu", "cuda")

ResultsOption = Annotated[str, typer.Option("--results", metavar="FOLDER", help="Folder of the results table.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda.")]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="Scan backend: auto, reference, torch, triton, mamba.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the planned runs with a time estimate, and run nothing.")]
Shard = Annotated[str, typer.Option(metavar="I/N", help="Run only the I-th of N parts (I from 1).")]
TimeLimit = Annotated[
    float | None, typer.Option(metavar="MINUTES", help="Start no new runs after this many minutes. (default: no limit)")
]
TasksDir = Annotated[
    list[str] | None, typer.Option("--tasks-dir", metavar="FOLDER", help="Folder whose files are tasks; may be repeated.")
]
ModelsDir = Annotated[
    list[str] | None, typer.Option("--models-dir", metavar="FOLDER", help="Folder whose files are models; may be repeated.")
]
TaskSettings = Annotated[
    list[str] | None, typer.Option("-t", "--task-setting", metavar="[TASK:]NAME=V1,V2", help="A setting of a task.")
]
ModelSettings = Annotated[
    list[str] | None, typer.Option("-m", "--model-setting", metavar="[MODEL:]NAME=V1,V2", help="A setting of a model.")
]


class Command(typer.core.TyperCommand):
    """A command that refuses an option given twice, of which the parser would silently take the last."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of a command; raise `BadInput` for a repeated option."""
        _, _, order = self.make_parser(ctx).parse_args(args=list(args))
        given = [
            parameter for parameter in order if isinstance(parameter, typer.core.TyperOption) and not parameter.multiple
        ]
        for option, times in Counter(given).items():
            if times > 1:
                raise BadInput(f"{'/'.join(option.opts)} is given {times} times; give it once, and several values as a list")
        return super().parse_args(ctx, args)


def takes(*groups: Iterable[inspect.Parameter]) -> Callable[[Called], Called]:
    """Return a decorator that gives a function of `**options` these parameters as its signature, for typer to read."""

    def declared(command: Called) -> Called:
        parameters = [parameter for group in groups for parameter in group]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return declared


def of_options(declared: Iterable[Option]) -> Iterable[inspect.Parameter]:
    """Yield a parameter for each option declared by `settings.setting`."""
    for option in declared:
        kind: Any = list[str] if option.repeats else bool if isinstance(option.default, bool) else str
        kind = kind | None if option.default is None else kind
        metavar = None if isinstance(option.default, bool) else option.metavar
        said = typer.Option(*option.flags, metavar=metavar, help=option.help)
        yield _parameter(option.name, option.default, Annotated[kind, said])


def of_fields(declaring: type) -> Iterable[inspect.Parameter]:
    """Yield a parameter for each field of a dataclass with typer annotations."""
    hints = get_type_hints(declaring, include_extras=True)
    for name, parameter in inspect.signature(declaring).parameters.items():
        yield _parameter(name, parameter.default, hints[name])


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def add_folders(tasks_dir: list[str] | None, models_dir: list[str] | None) -> None:
    """Register the files of these folders as plugins."""
    from expbench import plugins

    for folder in tasks_dir or []:
        plugins.add_folder("task", folder)
    for folder in models_dir or []:
        plugins.add_folder("model", folder)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `BadInput` if the value is not one of the choices."""
    if value not in choices:
        raise unknown(f"value of {option}:", value, choices)


def check_text(word: str) -> None:
    """Raise `BadInput` for a word of the command line that is not UTF-8, as no table can hold it, or that holds a NUL."""
    try:
        word.encode()
    except UnicodeEncodeError:
        raise BadInput(f"{word!r} is not UTF-8; rename the file or folder, or write the name in UTF-8") from None
    if "\0" in word:
        raise BadInput(f"{word!r} holds a NUL character, which no name may hold")


def shard_of(text: str) -> tuple[int, int]:
    """Parse ``1/4`` as (1, 4); raise `BadInput` for malformed text."""
    part, _, parts = text.partition("/")
    if not (text.isascii() and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise BadInput(f"--shard: {text!r} is not I/N with I from 1 to N, e.g. 1/4")
    return int(part), int(parts)


def seconds_of(minutes: float | None) -> float | None:
    """Convert a time limit from minutes to seconds; raise `BadInput` if it is out of range."""
    if minutes is None:
        return None
    if not 0 < minutes <= 100_000:  # also rejects nan
        raise BadInput(f"--time-limit: {minutes:g} is not between 0 and 100000 minutes")
    return 60 * minutes


def bad_files(problems: list[str]) -> None:
    """Report unreadable files of the results folder and exit with 2, since the output lacks their rows."""
    for problem in problems:
        say(f"error: {problem}")
    if problems:
        raise SystemExit(2)


def hold_log() -> MemoryHandler:
    """Buffer log messages of the package until the command has been validated."""
    import logging
    from logging.handlers import MemoryHandler

    held = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    logger = logging.getLogger("expbench")
    logger.handlers[:] = [held]
    logger.setLevel(logging.INFO)
    return held


def show_log(held: MemoryHandler) -> None:
    """Print the buffered log messages, such as the chosen backend of an operation, and all later ones."""
    import logging

    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(message)s"))
    held.setTarget(shown)
    held.flush()
    logging.getLogger("expbench").handlers[:] = [shown]

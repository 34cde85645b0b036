"""What the commands share: options, what they check of their words, and what they say. Nothing heavy is imported."""

from __future__ import annotations

import inspect
import sys
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, TypeVar, get_type_hints

import typer

from expbench.errors import BadInput, unknown

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from logging.handlers import MemoryHandler

    from expbench.settings import Option

Command = TypeVar("Command", bound="Callable[..., None]")

DEVICES = ("auto", "cpu", "cuda")

ResultsOption = Annotated[str, typer.Option("--results", metavar="FOLDER", help="Folder of the results table.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda.")]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="Of the scans: auto, reference, torch, triton, mamba.")
]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would be run, with an estimate of the time.")]
Shard = Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts (I from 1).")]
TimeLimit = Annotated[
    float | None, typer.Option(metavar="MINUTES", help="Begin nothing new after so many minutes. (default: no limit)")
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


def takes(*groups: Iterable[inspect.Parameter]) -> Callable[[Command], Command]:
    """Give a function of `**options` the signature of these parameters, which typer reads as it does one that is written."""

    def declared(command: Command) -> Command:
        parameters = [parameter for group in groups for parameter in group]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
        return command

    return declared


def of_options(declared: Iterable[Option]) -> Iterable[inspect.Parameter]:
    """Yield a parameter for each option that is declared by `settings.setting`."""
    for option in declared:
        kind: Any = list[str] if option.repeats else bool if isinstance(option.default, bool) else str
        kind = kind | None if option.default is None else kind
        metavar = None if isinstance(option.default, bool) else option.metavar
        said = typer.Option(*option.flags, metavar=metavar, help=option.help)
        yield _parameter(option.name, option.default, Annotated[kind, said])


def of_fields(declaring: type) -> Iterable[inspect.Parameter]:
    """Yield a parameter for each field of a dataclass whose types are annotated as typer has it."""
    hints = get_type_hints(declaring, include_extras=True)
    for name, parameter in inspect.signature(declaring).parameters.items():
        yield _parameter(name, parameter.default, hints[name])


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def add_folders(tasks_dir: list[str] | None, models_dir: list[str] | None) -> None:
    """Make the files of these folders plugins."""
    from expbench import plugins

    for folder in tasks_dir or []:
        plugins.add_folder("task", folder)
    for folder in models_dir or []:
        plugins.add_folder("model", folder)


def check_choice(option: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise `BadInput` for a value that is none of the choices."""
    if value not in choices:
        raise unknown(f"value of {option}:", value, choices)


def shard_of(text: str) -> tuple[int, int]:
    """``1/4`` as (1, 4)."""
    part, _, parts = text.partition("/")
    if not (text.isascii() and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise BadInput(f"--shard: {text!r} is not I/N with I from 1 to N, as 1/4")
    return int(part), int(parts)


def seconds_of(minutes: float | None) -> float | None:
    """A time limit in seconds; raises `BadInput` for one that makes no sense."""
    if minutes is None:
        return None
    if not 0 < minutes <= 100_000:  # nan is not either
        raise BadInput(f"--time-limit: {minutes:g} is not between 0 and 100000 minutes")
    return 60 * minutes


def bad_files(problems: list[str]) -> None:
    """Files of the results folder that were not read: everything else was, but the answer is not whole."""
    for problem in problems:
        say(f"error: {problem}")
    if problems:
        raise SystemExit(2)


def hold_log() -> MemoryHandler:
    """Keep what the package logs until it is known that nothing is wrong with the command."""
    import logging
    from logging.handlers import MemoryHandler

    held = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    logger = logging.getLogger("expbench")
    logger.handlers[:] = [held]
    logger.setLevel(logging.INFO)
    return held


def show_log(held: MemoryHandler) -> None:
    """Print what was logged, such as which implementation of an operation was chosen, and from now on what will be."""
    import logging

    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(message)s"))
    held.setTarget(shown)
    held.flush()
    logging.getLogger("expbench").handlers[:] = [shown]


def say(line: str) -> None:
    """Print a line to standard error."""
    print(line, file=sys.stderr, flush=True)


def interrupt(*_: object) -> NoReturn:
    """Treat a signal as an interrupt from the keyboard."""
    raise KeyboardInterrupt

"""Write docs/reference/cli.md: a section for each command of expbench, from the same declarations as `--help`.

Run as `python docs/reference/make_cli.py`. tests/test_reference.py fails where the committed page differs.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command

from expbench.cli.main import app

PAGE = Path(__file__).with_name("cli.md")
HEAD = """\
# Commands

This page is generated from the help of the commands by `python docs/reference/make_cli.py`; a test compares the two.
`expbench COMMAND --help` prints the same in a terminal.

**Values.** A `LIST` is `1,2,3`, or a range such as `0:5`, which excludes its end. An option marked *repeatable* may be given
several times. An option without a value is a flag, which is off by default.

**Exit codes.** 0: the command succeeded. 1: a run or check failed, or a comparison found a verdict named by `--fail-on`.
2: the input is invalid; one line names the nearest valid choice. 130: the command was interrupted.
"""
DEFAULT = re.compile(r"\s*\(default: (.*?)\)")  # in the help, where the default is not a fixed value


def commands(command: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Yield each command below `command` and its full name, a group before its members."""
    yield name, command
    for below, member in getattr(command, "commands", {}).items():
        yield from commands(member, f"{name} {below}")


def section(name: str, command: Any) -> str:
    """Return the Markdown of one command: its purpose, its usage, and tables of its arguments and options."""
    options = [parameter for parameter in command.params if parameter.param_type_name == "option"]
    arguments = [parameter for parameter in command.params if parameter.param_type_name == "argument"]
    paragraphs = [" ".join(paragraph.split()) for paragraph in command.help.split("\n\n")]
    parts = [f"## `{name}`", *paragraphs, f"Usage: `{usage(name, command, arguments, options)}`"]
    if arguments:
        rows = [f"| `{placeholder(argument)}` | {cell(argument.help)} |" for argument in arguments]
        parts.append("\n".join(["| argument | meaning |", "| --- | --- |", *rows]))
    if options:
        rows = [f"| {spelling(option)} | {default(option)} | {meaning(option)} |" for option in options]
        parts.append("\n".join(["| option | default | meaning |", "| --- | --- | --- |", *rows]))
    return "\n\n".join(parts)


def purpose(command: Any) -> str:
    """Return the first paragraph of the help of a command, for a table."""
    return cell(command.help.split("\n\n")[0])


def usage(name: str, command: Any, arguments: list[Any], options: list[Any]) -> str:
    """Return the usage line."""
    required = [f"{option.opts[0]} {placeholder(option)}" for option in options if option.required]
    rest = ["[OPTIONS]"] if len(options) > len(required) else []
    below = ["COMMAND"] if hasattr(command, "commands") else []
    return " ".join([name, *rest, *required, *map(placeholder, arguments), *below])


def placeholder(parameter: Any) -> str:
    """Return the word that stands for the value of a parameter."""
    unnamed = parameter.name.upper() if parameter.param_type_name == "argument" else "VALUE"
    return parameter.metavar or unnamed


def spelling(option: Any) -> str:
    """Return an option as it is typed, with the placeholder of its value unless it is a flag."""
    *others, last = [*option.opts, *option.secondary_opts]
    return ", ".join(f"`{name}`" for name in [*others, last if option.is_flag else f"{last} {placeholder(option)}"])


def default(option: Any) -> str:
    """Return the default of an option: a value, or the words of its help."""
    said = DEFAULT.search(option.help)
    if said:
        return cell(said[1])
    if option.required:
        return "required"
    if option.secondary_opts:
        return f"`{option.opts[0] if option.default else option.secondary_opts[0]}`"
    if option.is_flag:
        return "off"
    return "" if option.default is None else f"`{option.default}`"


def meaning(option: Any) -> str:
    """Return the help of an option without its default."""
    text = cell(DEFAULT.sub("", option.help)).replace("; may be repeated", "")
    return f"{text} Repeatable." if option.multiple else text


def cell(text: str) -> str:
    """Return a text as the content of a table cell of Markdown."""
    return " ".join(text.split()).replace("|", r"\|")


def page() -> str:
    """Return the whole page."""
    found = list(commands(get_command(app), "expbench"))
    rows = [f"| [`{name}`](#{name.replace(' ', '-')}) | {purpose(command)} |" for name, command in found]
    table = "\n".join(["| command | purpose |", "| --- | --- |", *rows])
    return "\n\n".join([HEAD.rstrip(), table, *(section(name, command) for name, command in found)]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page())

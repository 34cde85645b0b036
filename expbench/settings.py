"""Settings: NAME=VALUE texts of the command line become typed keyword arguments, and fields of a dataclass options.

The settings of a task are the fields of its dataclass, those of a model the keyword parameters of its constructor; their
annotations and defaults are the only declaration. A name that is not declared, or a value that its annotation does not
admit, is an error: a typo never silently becomes a default. A field that is declared by `setting` is an option of a command.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from expbench.errors import BadInput, unknown

Value = bool | int | float | str | None
Role = Literal["task", "instance", "model", "size", "protocol", "rate", "training", "seed", "version"]
REQUIRED: Any = inspect.Parameter.empty
_LONGEST_LIST = 100_000
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Setting(NamedTuple):
    """One declared setting: its name, its annotation and its default (`REQUIRED` where there is none)."""

    name: str
    annotation: Any
    default: Any

    @property
    def type_name(self) -> str:
        """The annotation as a user reads it: ``int``, ``last|all``, ``float or none``."""
        names = ["|".join(map(str, typing.get_args(a))) if _is_literal(a) else a.__name__ for a in self._alternatives()]
        return " or ".join(["none" if name == "NoneType" else name for name in names])

    def _alternatives(self) -> tuple[Any, ...]:
        if typing.get_origin(self.annotation) in (typing.Union, types.UnionType):
            return typing.get_args(self.annotation)
        return (self.annotation,)

    def parse(self, text: str, owner: str) -> Value:
        """The typed value of `text`; raises `BadInput` that names the owner and what is admitted."""
        for alternative in self._alternatives():
            try:
                return _parse_as(alternative, text)
            except ValueError:
                continue
        literals = [str(value) for a in self._alternatives() if _is_literal(a) for value in typing.get_args(a)]
        if literals:
            raise unknown(f"value of {owner}'s setting {self.name}:", text, literals)
        raise BadInput(f"{owner}: setting {self.name}={text!r} is not {_article(self.type_name)}")


def _article(type_name: str) -> str:
    return {"int": "a whole number", "float": "a finite number", "bool": "true or false"}.get(type_name, type_name)


def _is_literal(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Literal


def _parse_as(annotation: Any, text: str) -> Value:
    if annotation is type(None):
        if text.lower() == "none":
            return None
        raise ValueError
    if annotation is bool:
        if text.lower() in _BOOLEANS:
            return _BOOLEANS[text.lower()]
        raise ValueError
    if annotation is int:
        return int(text)
    if annotation is float:
        number = float(text)
        if not math.isfinite(number):
            raise ValueError
        return number
    if annotation is str:
        return text
    if _is_literal(annotation):
        for value in typing.get_args(annotation):
            if str(value) == text:
                return typing.cast(Value, value)
    raise ValueError


def declared(plugin: type) -> dict[str, Setting]:
    """The settings that a plugin class declares: a dataclass's fields, or a constructor's parameters after the width.

    Raises `BadInput` for a class whose constructor cannot be read.
    """
    if dataclasses.is_dataclass(plugin):
        hints = typing.get_type_hints(plugin)
        fields = [f for f in dataclasses.fields(plugin) if f.init]
        return {
            f.name: Setting(f.name, hints[f.name], REQUIRED if f.default is dataclasses.MISSING else f.default)
            for f in fields
        }
    constructor: Any = plugin.__init__  # type: ignore[misc]
    try:
        hints = typing.get_type_hints(constructor)
    except (NameError, TypeError):  # a stranger's annotations need not resolve: the default's type serves
        hints = {}
    try:
        parameters = list(inspect.signature(constructor).parameters.values())[2:]  # after self and the width
    except (TypeError, ValueError) as error:
        raise BadInput(f"{plugin.__name__}: its constructor cannot be read ({error})") from error
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and _is_plain(p.default)]
    return {p.name: Setting(p.name, _annotation(p, hints), p.default) for p in named}


def _is_plain(default: Any) -> bool:
    """Whether a default can be written down; a parameter whose default cannot (a class, say) is no setting, and keeps it."""
    if isinstance(default, float):
        return math.isfinite(default)
    return default is REQUIRED or default is None or isinstance(default, bool | int | str)


def _annotation(parameter: inspect.Parameter, hints: Mapping[str, Any]) -> Any:
    if parameter.name in hints:
        return hints[parameter.name]
    if parameter.default in (REQUIRED, None):
        return str
    return type(parameter.default)


def resolve(plugin: type, texts: Mapping[str, str], owner: str) -> dict[str, Value]:
    """Every setting of `plugin`, those in `texts` parsed and the others at their defaults."""
    known = declared(plugin)
    for name in texts:
        if name not in known:
            raise unknown(f"setting of {owner}:", name, known)
    values = {name: s.parse(texts[name], owner) if name in texts else s.default for name, s in known.items()}
    for name, value in values.items():
        if value is REQUIRED:
            raise BadInput(f"{owner} needs a value for its setting {name} ({known[name].type_name}): give {name}=VALUE")
    return values


def split_list(text: str, option: str) -> list[str]:
    """``"a,b"`` as ``["a", "b"]`` and the end-exclusive ranges ``"0:3"`` and ``"0:9:3"`` as their members."""
    members: list[str] = []
    for part in text.split(","):
        part = part.strip()
        if not part:
            raise BadInput(f"{option}: {text!r} has an empty member; write a list as 1,2,3 or a range as 0:5")
        members += _range(part, option) if _looks_like_range(part) else [part]
    seen: set[str] = set()
    for member in members:
        if member in seen:
            raise BadInput(f"{option}: {member!r} stands twice in {text[:80]!r}")
        seen.add(member)
    return members


def as_list(numbers: Iterable[int]) -> str:
    """Whole numbers as the text that `split_list` reads: three or more in a row as a range."""
    parts: list[list[int]] = []
    for number in sorted(set(numbers)):
        if parts and number == parts[-1][-1] + 1:
            parts[-1].append(number)
        else:
            parts.append([number])
    texts = [[f"{part[0]}:{part[-1] + 1}"] if len(part) > 2 else map(str, part) for part in parts]
    return ",".join(text for texts_of in texts for text in texts_of)


def _looks_like_range(part: str) -> bool:
    return (":" in part and part.replace(":", "").replace("-", "").strip().isdigit()) or part.strip(":") == ""


def _range(part: str, option: str) -> list[str]:
    try:
        bounds = [int(number) for number in part.split(":")]
        numbers = range(*bounds) if len(bounds) in (2, 3) else range(0)
    except ValueError:  # an empty bound, or a step of zero
        numbers = range(0)
    if numbers[_LONGEST_LIST:]:
        raise BadInput(f"{option}: {part!r} has more than {_LONGEST_LIST} members")
    members = [str(number) for number in numbers]
    if not members:
        raise BadInput(f"{option}: {part!r} is an empty or malformed range; write START:END (END is not included), as 0:5")
    return members


def split_assignment(text: str, option: str) -> tuple[str | None, str, list[str]]:
    """``"s6:N=2,4"`` as ``("s6", "N", ["2", "4"])``; without an owner the first is None.

    The owner may itself hold colons (``file.py:Class:N=2``): the last one before the name counts.
    """
    target, equals, values = text.partition("=")
    owner, _, name = target.rpartition(":")
    if not equals or not name.strip():
        raise BadInput(f"{option}: {text!r} is not NAME=VALUE (or OWNER:NAME=VALUE)")
    return owner.strip() or None, name.strip(), split_list(values, f"{option} {target.strip()}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """A field of a dataclass with what `setting` declares of it. kind: its type. flags: none where it cannot be given.

    name: of the option, as a keyword. default: of the option, None where it follows from others. least, most: of whole
    numbers. above: of real ones. since: the schema that first has it as a column.
    """

    name: str
    kind: Any
    flags: tuple[str, ...]
    role: Role
    help: str
    metavar: str
    default: Any
    least: int
    most: int
    above: float | None
    since: int

    @property
    def flag(self) -> str:
        """The option as it is typed."""
        return self.flags[0]

    @property
    def repeats(self) -> bool:
        """Whether it may be given several times, as settings of plugins are: these alone have a short flag."""
        return not self.flag.startswith("--")


def setting(
    *flags: str,
    role: Role,
    help: str = "",
    metavar: str = "LIST",
    default: Any = REQUIRED,
    least: int = 1,
    most: int = 2**63 - 1,
    above: float | None = None,
    since: int = 1,
    before: Any = dataclasses.MISSING,
) -> Any:
    """Declare a field of a dataclass as an option: see `Option`. before: its value where `since` is later than the table."""
    told = {"flags": flags, "role": role, "help": help, "metavar": metavar, "default": default, "least": least}
    return dataclasses.field(default=before, metadata=told | {"most": most, "above": above, "since": since})


def options(declaring: type) -> dict[str, Option]:
    """Return what the fields of a dataclass declare by `setting`, by the names of the fields.

    An option is called as its flag is; one that may be repeated (`-t`) as its field.
    """
    hints = typing.get_type_hints(declaring)
    found = {f.name: Option(name=f.name, kind=hints[f.name], **f.metadata) for f in dataclasses.fields(declaring)}
    named = {
        name: option.flag[2:].replace("-", "_") for name, option in found.items() if option.flags and not option.repeats
    }
    return {name: dataclasses.replace(option, name=named.get(name, name)) for name, option in found.items()}

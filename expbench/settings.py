"""Settings: convert NAME=VALUE texts to typed keyword arguments, and dataclass fields to command-line options.

The settings of a task are the fields of its dataclass, those of a model are the keyword parameters of its constructor;
annotations and defaults are the only declaration. An undeclared name, or a value that does not match the annotation, is an
error, so a typo never silently becomes a default. A field declared by `setting` is an option of a command.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple

from expbench.errors import BadInput, unknown

Value = bool | int | float | str | None
Role = Literal["task", "instance", "model", "size", "protocol", "rate", "training", "seed", "version"]
REQUIRED: Any = inspect.Parameter.empty
_LONGEST_LIST = 100_000
_MEMBER = re.compile(r'(\s*"(?:[^"]|"")*"\s*|\s*(?!\s*")[^,]*)(?=,|$)', re.DOTALL)
_BOOLEANS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class Setting(NamedTuple):
    """One declared setting: its name, annotation and default (`REQUIRED` if there is none)."""

    name: str
    annotation: Any
    default: Any

    @property
    def type_name(self) -> str:
        """Annotation for display: ``int``, ``last|all``, ``float or none``."""
        names = ["|".join(map(str, typing.get_args(a))) if _is_literal(a) else a.__name__ for a in self._alternatives()]
        return " or ".join(["none" if name == "NoneType" else name for name in names])

    def _alternatives(self) -> tuple[Any, ...]:
        if typing.get_origin(self.annotation) in (typing.Union, types.UnionType):
            return typing.get_args(self.annotation)
        return (self.annotation,)

    def parse(self, text: str, owner: str) -> Value:
        """Parse `text` to a typed value; raise `BadInput` that names the owner and the valid values.

        A number equal to the default is the default, of the type written there, as types enter the key of a run.
        """
        if text.lower() == "none" and (self.default is None or type(None) in self._alternatives()):
            return None
        value = self._parse(text, owner)
        return self.default if value == self.default and not isinstance(value, bool) else value

    def _parse(self, text: str, owner: str) -> Value:
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
    """Return the settings of a plugin class: the fields of a dataclass, or the constructor parameters after the width.

    Raise `BadInput` if the signature of the constructor cannot be inspected.
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
    except (NameError, TypeError):  # annotations of third-party code may not resolve; use the type of the default
        hints = {}
    try:
        parameters = list(inspect.signature(constructor).parameters.values())[2:]  # after self and the width
    except (TypeError, ValueError) as error:
        raise BadInput(f"{plugin.__name__}: its constructor cannot be read ({error})") from error
    named = [p for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY) and _is_plain(p.default)]
    return {p.name: Setting(p.name, _annotation(p, hints), p.default) for p in named}


def _is_plain(default: Any) -> bool:
    """Return whether a default can be written as text; a parameter with any other default, e.g. a class, is no setting."""
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
    """Return all settings of `plugin`: those in `texts` parsed, the others at their defaults.

    Raise `BadInput` for an unknown name, an invalid value or a missing required setting.
    """
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
    """Split ``"a,b"`` into ``["a", "b"]``, and expand end-exclusive ranges such as ``"0:3"`` and ``"0:9:3"``.

    A member in double quotes is taken as it is, with ``""`` for a quote inside; `quoted` is the inverse. Raise `BadInput`
    for empty or repeated members, malformed ranges and a quote that is not closed.
    """
    members: list[str] = []
    for part in _parts(text, option):
        if part.startswith('"'):
            members.append(part[1:-1].replace('""', '"'))
        elif not part:
            raise BadInput(f"{option}: {text!r} has an empty member; write a list as 1,2,3 or a range as 0:5")
        else:
            members += _range(part, option) if _looks_like_range(part) else [part]
    seen: set[str] = set()
    for member in members:
        if member in seen:
            raise BadInput(f"{option}: {member!r} occurs twice in {text[:80]!r}")
        seen.add(member)
    return members


def quoted(text: str) -> str:
    """Return a text as one member of a list, in double quotes if `split_list` would take it for something else."""
    plain = text == text.strip() and text and "," not in text and not text.startswith('"') and not _looks_like_range(text)
    return text if plain else '"' + text.replace('"', '""') + '"'


def _parts(text: str, option: str) -> list[str]:
    """Split a list at the commas outside of double quotes."""
    parts, start = [], 0
    while start <= len(text):
        found = _MEMBER.match(text, start)
        if found is None:
            raise BadInput(
                f"{option}: {text[start:][:80]!r} has a double quote that is not closed or has text after it; "
                'write "" for a quote within quotes, and quote a member as a whole'
            )
        parts.append(found[1].strip())
        start = found.end() + 1
    return parts


def as_list(numbers: Iterable[int]) -> str:
    """Format whole numbers as a list for `split_list`; three or more consecutive ones become a range."""
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
        raise BadInput(f"{option}: {part!r} is an empty or malformed range; write START:END (without END), e.g. 0:5")
    return members


def split_assignment(text: str, option: str) -> tuple[str | None, str, list[str]]:
    """Split ``"s6:N=2,4"`` into ``("s6", "N", ["2", "4"])``; the owner is None if absent.

    The owner may contain colons (``file.py:Class:N=2``): the last one before the name counts. Raise `BadInput` for
    malformed text.
    """
    target, equals, values = text.partition("=")
    owner, _, name = target.rpartition(":")
    if not equals or not name.strip():
        raise BadInput(f"{option}: {text!r} is not NAME=VALUE (or OWNER:NAME=VALUE)")
    return owner.strip() or None, name.strip(), split_list(values, f"{option} {target.strip()}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Option:
    """A dataclass field as declared by `setting`. kind: its type. flags: empty if it is not an option.

    name: the option as a keyword. default: None if it follows from other options. least, most: bounds of whole numbers.
    above: exclusive lower bound of real numbers. since: first schema with this column.
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
        """The option as typed on the command line."""
        return self.flags[0]

    @property
    def repeats(self) -> bool:
        """True if the option may be repeated; only settings of plugins may, and only they have a short flag."""
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
    """Declare a dataclass field as an option, see `Option`. before: its value for tables older than `since`."""
    metadata = {"flags": flags, "role": role, "help": help, "metavar": metavar, "default": default, "least": least}
    return dataclasses.field(default=before, metadata=metadata | {"most": most, "above": above, "since": since})


def options(declaring: type) -> dict[str, Option]:
    """Return the options that a dataclass declares by `setting`, by field name.

    An option is named after its flag, a repeatable one (`-t`) after its field.
    """
    hints = typing.get_type_hints(declaring)
    found = {f.name: Option(name=f.name, kind=hints[f.name], **f.metadata) for f in dataclasses.fields(declaring)}
    named = {
        name: option.flag[2:].replace("-", "_") for name, option in found.items() if option.flags and not option.repeats
    }
    return {name: dataclasses.replace(option, name=named.get(name, name)) for name, option in found.items()}

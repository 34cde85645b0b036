"""Pages whose numbers are bound to computations: find the numbers of a page, compare them, and write the computed ones.

A statement is a piece of a page with `{}` for each number that its computation gives. Every other number of the page must be
a setting (`width {list}`), whose values the tables must have, a name (`Table {}`), or an exception with a reason.
Code, targets of links, numbers of list items, and digits inside words (`S6`, `x_1`) are not numbers.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache
from itertools import pairwise
from typing import Literal, NamedTuple

from expbench.errors import BadInput, first_line
from expbench.studies.verification.tables import Tables

_NUMBER = r"(?:\d+(?:\.\d+){2,}|-?(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)(?:e-?\d+)?)"  # the first is a version
_BOUNDS = r"(?<![\w.^])(?<!\w-)", r"(?![\w^])"
_TOKEN = re.compile(f"{_BOUNDS[0]}{_NUMBER}{_BOUNDS[1]}")
_HOLES = {
    "{}": f"({_BOUNDS[0]}{_NUMBER}{_BOUNDS[1]})",
    "{list}": rf"((?:{_NUMBER})(?:(?:,\s+|\s+and\s+|\s+or\s+|\s+to\s+|,\s+and\s+)(?:{_NUMBER}))*)",
    "{word}": r"\b([A-Za-z-]+)\b",
}
_SKIPPED = re.compile(r"```.*?```|`(?:[^`\n]|\n(?!\n))*`|(?<=\])\([^)\s]+\)|^\s*\d+\. ", re.DOTALL | re.MULTILINE)
Kind = Literal["matched", "setting", "name", "exception"]


class Statement(NamedTuple):
    """A piece of a page, found exactly once in it.

    template: its text with `{}` for a number and `{word}` for a number in words; any white space matches any other.
    values: returns the texts for the holes, in order.
    """

    template: str
    values: Callable[[Tables], Iterable[str]]


class Setting(NamedTuple):
    """Numbers that name settings, wherever the template fits. values: the values that the tables have."""

    template: str
    values: Callable[[Tables], Iterable[object]]


class Unverified(NamedTuple):
    """A text of a page, with its numbers, that no committed table gives, and the reason."""

    text: str
    reason: str


class Page(NamedTuple):
    """A page with all that covers its numbers. names: templates of names, such as `Table {}`."""

    path: str
    statements: Sequence[Statement]
    settings: Sequence[Setting] = ()
    names: Sequence[str] = ()
    exceptions: Sequence[Unverified] = ()


class Place(NamedTuple):
    """A number of a page that is covered. expected: its computed text; None where only its presence is checked."""

    start: int
    end: int
    kind: Kind
    expected: str | None
    source: str


class Problem(NamedTuple):
    """What is wrong on a line of a page, or with the whole page (line 0)."""

    line: int
    message: str
    what: Literal["differs", "unmatched", "other"] = "other"

    def __str__(self) -> str:
        return f"line {self.line}: {self.message}" if self.line else self.message


class Findings(NamedTuple):
    """The covered numbers of a page, in order, and what is wrong with it."""

    places: list[Place]
    problems: list[Problem]

    def count(self, kind: Kind) -> int:
        """Count the numbers that are covered in this way."""
        return sum(place.kind == kind for place in self.places)

    @property
    def differing(self) -> int:
        """Number of texts that differ from the computed ones."""
        return sum(problem.what == "differs" for problem in self.problems)

    @property
    def unmatched(self) -> int:
        """Number of numbers that nothing covers."""
        return sum(problem.what == "unmatched" for problem in self.problems)


class BoundPage:
    """A page with the values of its statements and settings, computed once from the tables."""

    def __init__(self, page: Page, tables: Tables) -> None:
        self.page = page
        self._values = [_computed(statement, tables) for statement in page.statements]
        self._known = [{_size(str(value)) for value in setting.values(tables)} for setting in page.settings]

    def check(self, text: str) -> Findings:
        """Compare the numbers of a text of the page with the computed values."""
        places, problems = self._matched(text)
        computed = {(place.start, place.end) for place in places}
        for setting, known in zip(self.page.settings, self._known, strict=True):
            for at in _numbers_of(setting.template, text):
                if at in computed:
                    continue
                places.append(Place(*at, "setting", None, setting.template))
                if _size(text[slice(*at)]) not in known:
                    said = f"{text[slice(*at)]} is no value of {setting.template!r} in the tables"
                    problems.append(_problem(text, at[0], said))
        for name in self.page.names:
            places += [Place(*at, "name", None, name) for at in _numbers_of(name, text)]
        for exception in self.page.exceptions:
            found = list(_pattern(exception.text).finditer(text))
            if len(found) != 1:
                problems.append(Problem(0, f"the exception {exception.text!r} stands {len(found)} times on the page"))
            places += [
                Place(match.start() + number.start(), match.start() + number.end(), "exception", None, exception.reason)
                for match in found
                for number in _TOKEN.finditer(match[0])
            ]
        return Findings(sorted(set(places)), sorted([*problems, *_uncovered(text, places), *_covered_twice(text, places)]))

    def written(self, text: str) -> str:
        """Return a text of the page with the computed values in the place of its numbers."""
        for place in sorted(self._matched(text)[0], reverse=True):
            text = text[: place.start] + str(place.expected) + text[place.end :]
        return text

    def _matched(self, text: str) -> tuple[list[Place], list[Problem]]:
        places: list[Place] = []
        problems = []
        for statement, values in zip(self.page.statements, self._values, strict=True):
            found = list(_pattern(statement.template).finditer(text))
            if isinstance(values, str):
                problems.append(Problem(0, f"the tables do not give the numbers of {_brief(statement.template)}: {values}"))
            elif len(found) != 1:
                problems.append(
                    Problem(0, f"the statement {_brief(statement.template)} stands {len(found)} times on the page")
                )
            elif (holes := len(found[0].groups())) != len(values):
                said = f"{_brief(statement.template)} has {holes} holes, and the tables give {len(values)} numbers"
                problems.append(Problem(0, said))
            else:
                spans = [found[0].span(group) for group in range(1, len(values) + 1)]
                places += [Place(*at, "matched", v, statement.template) for at, v in zip(spans, values, strict=True)]
        for start, end, _, expected, source in places:
            if text[start:end] != expected:
                said = f"{text[start:end]} differs: the tables give {expected} in {_brief(source)}"
                problems.append(_problem(text, start, said)._replace(what="differs"))
        return places, problems


def _computed(statement: Statement, tables: Tables) -> tuple[str, ...] | str:
    """Return the values of a statement, or the reason why the tables do not give them."""
    try:
        return tuple(statement.values(tables))
    except (ValueError, LookupError, TypeError, ArithmeticError, OSError, BadInput) as error:
        return first_line(error)


@cache
def _pattern(template: str) -> re.Pattern[str]:
    parts = re.split(r"(\{\}|\{list\}|\{word\})", template.strip())
    return re.compile("".join(_HOLES.get(part) or r"\s+".join(map(re.escape, re.split(r"\s+", part))) for part in parts))


def _numbers_of(template: str, text: str) -> Iterator[tuple[int, int]]:
    """Yield the ends of each number in the holes of a template, wherever it fits."""
    for match in _pattern(template).finditer(text):
        for group in range(1, len(match.groups()) + 1):
            for number in _TOKEN.finditer(text, *match.span(group)):
                yield number.span()


def _uncovered(text: str, places: Sequence[Place]) -> Iterator[Problem]:
    """Yield the numbers outside code and targets of links that nothing covers."""
    covered = {(place.start, place.end) for place in places}
    skipped = [match.span() for match in _SKIPPED.finditer(text)]
    for number in _TOKEN.finditer(text):
        if number.span() not in covered and not any(start <= number.start() < end for start, end in skipped):
            around = " ".join(text[max(0, number.start() - 30) : number.end() + 30].split())
            said = f"{number[0]} is matched by no statement: ...{around}..."
            yield _problem(text, number.start(), said)._replace(what="unmatched")


def _covered_twice(text: str, places: Sequence[Place]) -> Iterator[Problem]:
    ordered = sorted(place for place in places if place.kind == "matched")
    for one, other in pairwise(ordered):
        if other.start < one.end:
            said = f"{_brief(one.source)} and {_brief(other.source)} both give {text[other.start : other.end]}"
            yield _problem(text, other.start, said)


def _brief(template: str) -> str:
    """Return the beginning of a template in quotes."""
    return repr(textwrap.shorten(template, 90, placeholder="..."))


def _problem(text: str, at: int, message: str) -> Problem:
    return Problem(text.count("\n", 0, at) + 1, message)


def _size(text: str) -> float | str:
    try:
        return float(text.replace(",", ""))
    except ValueError:
        return text

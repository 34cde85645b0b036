"""Claims: what is said of two models before they are run, as data, fixed by a hash and by when it was first written.

``s6 < linattn`` says that on a task the headline metric of s6 is below that of linattn, ``s6(depth=1) > attn(D=8, depth=4)``
that it is above. A side is a model and those settings that it fixes: columns of the results table, or settings of the model.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from itertools import combinations, groupby, product
from pathlib import Path
from typing import Any, Literal, NamedTuple

from expbench import files
from expbench.cells import Cell
from expbench.errors import BadInput
from expbench.run import content_key

FOLDER = "claims"
Relation = Literal["<", ">"]
_TOKEN = re.compile(r"[<>(),=]|[^\s<>(),=]+")
_EXAMPLE = "a claim reads s6 < linattn, or s6(depth=1) > attn(D=8, depth=4)"
_OF_TASK = ("L", "degree", "test_size", "selection_size")
_MOST_COMPARED = 4  # models, each with each
_TRIED_OVER = ("instance", "seed")
_FIELDS = ("claim", "task", "where", "margin", "created")


def plain(value: object) -> str:
    """The one text of a value, however it is written: ``0.01`` for 1e-2, ``true`` for on, ``none`` for None."""
    text = str(value).strip()
    if text.lower() in ("none", "true", "false"):
        return text.lower()
    if text.lower() in ("yes", "on", "no", "off"):
        return "true" if text.lower() in ("yes", "on") else "false"
    try:
        number = float(text)
    except ValueError:
        return text
    return f"{number:.12g}" if math.isfinite(number) else text


class Side(NamedTuple):
    """A model as the user names it, and the settings that a claim fixes, by name, as `plain` texts."""

    model: str
    settings: dict[str, str]

    @property
    def name(self) -> str:
        """The model as the results table names it: a file without its folder."""
        return self.model.rpartition("/")[2] if ".py:" in self.model else self.model

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.model}({settings})" if settings else self.model


@dataclass(frozen=True)
class Claim:
    """A claim on a task, checked and brought into one form; raises `BadInput`.

    where: the values that are allowed of a column or of a setting of the task; all of them where none are given. margin:
    the smallest difference that matters; None is a tenth of the larger mean for an error, .05 for an accuracy. created: when
    it was first written, None before.
    """

    text: str
    task: str
    where: Mapping[str, Iterable[object]] = field(default_factory=dict)
    margin: float | None = None
    created: datetime | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        left, relation, right = self._parts
        if (left.name, left.settings) == (right.name, right.settings):
            raise BadInput(f"claim {self.text!r}: both sides are {left}")
        for name in (*left.settings, *right.settings):
            if name in _OF_TASK:
                raise BadInput(f"claim {self.text!r}: {name} belongs to the task, not to a side; say where it holds instead")
        for name in (*self.where, *left.settings, *right.settings):
            if name in _TRIED_OVER:
                raise BadInput(f"claim {self.text!r}: {name} cannot be chosen, it is what a claim is tried over")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise BadInput(f"claim {self.text!r}: a margin of {self.margin:g} must be above 0 and finite")
        where = {name: sorted({plain(v) for v in self.where[name]}, key=_by_size) for name in sorted(self.where)}
        object.__setattr__(self, "text", f"{left} {relation} {right}")
        object.__setattr__(self, "where", {name: tuple(values) for name, values in where.items() if values})

    @cached_property
    def _parts(self) -> tuple[Side, Relation, Side]:
        return _Reader(self.text).claim()

    @property
    def left(self) -> Side:
        """What the claim is about."""
        return self._parts[0]

    @property
    def relation(self) -> Relation:
        """Where the headline metric of the left side lies, seen from the right."""
        return self._parts[1]

    @property
    def right(self) -> Side:
        """What it is held against."""
        return self._parts[2]

    @property
    def content(self) -> dict[str, Any]:
        """All that the claim says, without when it was said."""
        where = {name: [str(value) for value in values] for name, values in self.where.items()}
        return {"claim": self.text, "task": self.task, "where": where, "margin": self.margin}

    @property
    def hash(self) -> str:
        """12 hexadecimal digits of what the claim says."""
        return content_key(self.content)[:12]

    @property
    def title(self) -> str:
        """The claim with its task and where it is made."""
        where = [f"{name} {' or '.join(map(str, values))}" for name, values in self.where.items()]
        return ", ".join([f"{self.text} on {self.task}", *where])


def write(claim: Claim, folder: Path) -> Claim:
    """Write the claim as ``claims/HASH.json`` in a results folder; one that stands there keeps the time of its making."""
    path = folder / FOLDER / f"{claim.hash}.json"
    if path.exists():
        return _read_file(path)
    created = datetime.now(UTC)
    made = replace(claim, created=created.replace(microsecond=created.microsecond // 1000 * 1000))  # as runs have it
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as aside:
            text = json.dumps(made.content | {"created": made.created}, indent=2, default=datetime.isoformat)
            aside.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{path} cannot be written ({error.strerror or error}); give another results folder") from error
    return made


def read(folder: Path) -> list[Claim]:
    """The claims of a results folder, in the order in which they were made; raises `BadInput` that names a broken file."""
    claims = [_read_file(path) for path in (folder / FOLDER).glob("*.json")]
    return sorted(claims, key=lambda claim: (str(claim.created), claim.hash))


def of_models(cells: Iterable[Cell]) -> list[Claim]:
    """For each task and each two of its models that the one is better which was so in the mean: nobody has claimed that, and
    none of these is ever written. Each has its own position code; of more than four models there are too many pairs.
    """
    found = []
    for task, of_task in groupby(filter(_can_be_said, cells), key=lambda cell: str(cell["task"])):
        own = list(of_task)
        sides = [(str(cell["model"]), {"positions": str(cell["positions"])}) for cell in own]
        models = _once(sides)
        if len(models) > _MOST_COMPARED or len({model for model, _ in models}) < len(models):
            continue
        better_first = sorted(models, key=lambda side: _mean(own, *side), reverse=own[0].higher_is_better)
        found += [_seen(own, task, a, b) for a, b in combinations(better_first, 2)]
    return found


def against(cells: Iterable[Cell], reference: str) -> list[Claim]:
    """For each task and each of its other models how it stands to one: as it did in the mean, which nobody has claimed.

    They are compared where they agree. Of position codes that they do not share each keeps its own, as of widths where each
    has one, which are those that make them alike in size.
    """
    found = []
    for task, of_task in groupby(filter(_can_be_said, cells), key=lambda cell: str(cell["task"])):
        own = list(of_task)
        for model in sorted({str(cell["model"]) for cell in own} - {reference}):
            sides = [[cell for cell in own if cell["model"] == name] for name in (model, reference)]
            codes, widths = ([{str(cell[c]) for cell in side} for side in sides] for c in ("positions", "D"))
            apart = codes[0].isdisjoint(codes[1])
            matched = widths[0] != widths[1] and all(len(known) == 1 for known in widths)
            for pair in product(*(sorted(known) for known in codes)):
                if apart or pair[0] == pair[1]:
                    fixed = [{"positions": code} for code in pair]
                    if matched:
                        fixed = [one | {"D": next(iter(width))} for one, width in zip(fixed, widths, strict=True)]
                    found.append(_seen(own, task, (model, fixed[0]), (reference, fixed[1])))
    return found


def _can_be_said(cell: Cell) -> bool:
    """Whether a claim can name the model: a table may hold any name."""
    return _TOKEN.fullmatch(str(cell["model"])) is not None and str(cell["model"]) not in "<>(),="


def _once(sides: Iterable[tuple[str, dict[str, str]]]) -> list[tuple[str, dict[str, str]]]:
    return [(model, dict(settings)) for model, settings in sorted({(model, tuple(own.items())) for model, own in sides})]


def _mean(cells: Iterable[Cell], model: str, settings: Mapping[str, str]) -> float:
    """The mean of the cells of a side; the worst there is where none has a result, which for an error is infinite."""
    fitting = [c for c in cells if c["model"] == model and all(str(c[name]) == value for name, value in settings.items())]
    means = [cell.interval.center for cell in fitting if cell.values]
    if means:
        return sum(means) / len(means)
    return -math.inf if fitting[0].higher_is_better else math.inf


def _seen(cells: Sequence[Cell], task: str, left: tuple[str, dict[str, str]], right: tuple[str, dict[str, str]]) -> Claim:
    """The claim that two sides stand to each other as their means do; where these are the same, that the left is better."""
    means = _mean(cells, *left), _mean(cells, *right)
    lower = means[0] < means[1] if means[0] != means[1] else not cells[0].higher_is_better
    relation = "<" if lower else ">"
    one, other = (Side(model, dict(sorted(settings.items()))) for model, settings in (left, right))
    return Claim(f"{one} {relation} {other}", task)


def _read_file(path: Path) -> Claim:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or sorted(content) != sorted(_FIELDS):
            raise BadInput(f"it does not hold {', '.join(_FIELDS)}")
        claim, where, margin = content["claim"], content["where"], content["margin"]
        if not isinstance(where, dict) or not all(isinstance(values, list) for values in where.values()):
            raise BadInput("where is no list of values by name")
        if not (margin is None or isinstance(margin, int | float)):
            raise BadInput("margin is no number")
        created = datetime.fromisoformat(content["created"])
        if created.tzinfo is None:
            raise BadInput("created has no time zone")
        made = Claim(str(claim), str(content["task"]), where, margin, created.astimezone(UTC))
        if made.hash != path.stem:
            raise BadInput(f"it was changed after it was written: what it says is {made.hash}")
    except (OSError, ValueError, TypeError, BadInput) as error:
        raise BadInput(f"{path}: no claim that can be read ({error}); mend it, or move it to another folder") from error
    return made


def _by_size(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text


class _Reader:
    """Reads a claim word by word; an error names the character at which it stands, from 1."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = [(match.group(), match.start() + 1) for match in _TOKEN.finditer(text)]

    def claim(self) -> tuple[Side, Relation, Side]:
        left = self._side()
        relation: Relation = "<" if self._next("< or >", "<>") == "<" else ">"
        right = self._side()
        if self.words:
            raise self._error("nothing more")
        return left, relation, right

    def _side(self) -> Side:
        model = self._next("a model")
        settings: dict[str, str] = {}
        more = self.words and self.words[0][0] == "(" and self._next("(", "(")
        while more != ")" and more:
            if self.words and self.words[0][0] in settings:
                raise self._error("another setting")
            name = self._next("the name of a setting")
            self._next(f"= after {name}", "=")
            settings[name] = plain(self._next(f"a value of {name}"))
            more = self._next(", or )", ",)")
        return Side(model, dict(sorted(settings.items())))

    def _next(self, expected: str, marks: str = "") -> str:
        """The next word: one of those marks, or without them a name or a value."""
        if not self.words or (self.words[0][0] not in list(marks) if marks else self.words[0][0] in list("<>(),=")):
            raise self._error(expected)
        return self.words.pop(0)[0]

    def _error(self, expected: str) -> BadInput:
        found, position = (repr(self.words[0][0]), self.words[0][1]) if self.words else ("its end", len(self.text) + 1)
        return BadInput(f"claim {self.text!r}: {found} at character {position} where {expected} is due; {_EXAMPLE}")

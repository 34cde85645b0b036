"""Claims: what is said of two models before they are run, as data, fixed by a hash and by when it was first written.

``s6 < linattn`` says that on a task the headline metric of s6 is below that of linattn, ``s6(depth=1) > attn(D=8, depth=4)``
that it is above. A side is a model and those settings that it fixes: columns of the results table, or settings of the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from expbench import files
from expbench.claims.parsing import Reader, Relation, Side, plain
from expbench.errors import BadInput
from expbench.run import content_key

FOLDER = "claims"
_OF_TASK = ("L", "degree", "test_size", "selection_size")
_TRIED_OVER = ("instance", "seed")
_FIELDS = ("claim", "task", "where", "margin", "created")


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
        return Reader(self.text).claim()

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

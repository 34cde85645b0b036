"""Claims: statements about two models, registered before the runs, with a content hash and a time of creation.

``s6 < linattn`` states that on a task the primary metric of s6 is below that of linattn; ``s6(depth=1) > attn(D=8,
depth=4)`` states that it is above. A side is a model with fixed settings, which are columns of the results table or settings
of the model. A claim is about the model, or about the settings in which two sides of one model differ, unless it says
otherwise. A withdrawn claim stays readable, with the reason, and gets no verdict.
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
from expbench.errors import BadInput, unknown
from expbench.run import content_key

FOLDER = "claims"
_OF_TASK = ("L", "degree", "test_size", "validation_size")
_TRIED_OVER = ("instance", "seed")
_FIELDS = ("claim", "task", "where", "margin", "created")
_LATER = ("about", "withdrawn")  # absent from most claims
MODEL = "model"  # as what a claim is about


@dataclass(frozen=True)
class Claim:
    """Claim on a task, validated and in canonical form; an invalid claim raises `BadInput`.

    where: allowed values of a column or a task setting; no values means no restriction. margin: smallest relevant
    difference; None means a tenth of the larger mean for an error and .05 for an accuracy. created: time when the claim was
    first written; None before that. about: what the sides are meant to differ in, ``model`` or settings of the sides; empty
    for `subjects`' default. withdrawn: the reason why the claim is no longer judged; not part of its content.
    """

    text: str
    task: str
    where: Mapping[str, Iterable[object]] = field(default_factory=dict)
    margin: float | None = None
    created: datetime | None = field(default=None, compare=False)
    about: Iterable[str] = ()
    withdrawn: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        left, relation, right = self._parts
        if (left.name, left.settings) == (right.name, right.settings):
            raise BadInput(f"claim {self.text!r}: both sides are {left}")
        for name in (*left.settings, *right.settings):
            if name in _OF_TASK:
                raise BadInput(f"claim {self.text!r}: {name} belongs to the task, not to a side; use --where instead")
        for name in (*self.where, *left.settings, *right.settings):
            if name in _TRIED_OVER:
                raise BadInput(f"claim {self.text!r}: {name} cannot be fixed; a claim covers all of its values")
        if self.margin is not None and not 0 < self.margin < math.inf:
            raise BadInput(f"claim {self.text!r}: the margin {self.margin:g} must be above 0 and finite")
        for name in self.about:
            known = {MODEL, *left.settings, *right.settings}
            if name not in known:
                raise unknown(f"setting that the claim {self.text!r} is about:", name, known)
        where = {name: sorted({plain(v) for v in self.where[name]}, key=_by_size) for name in sorted(self.where)}
        object.__setattr__(self, "text", f"{left} {relation} {right}")
        object.__setattr__(self, "where", {name: tuple(values) for name, values in where.items() if values})
        object.__setattr__(self, "about", () if set(self.about) == self._apart else tuple(sorted(set(self.about))))

    @cached_property
    def _parts(self) -> tuple[Side, Relation, Side]:
        return Reader(self.text).claim()

    @property
    def left(self) -> Side:
        """Candidate of the claim."""
        return self._parts[0]

    @property
    def relation(self) -> Relation:
        """Claimed relation of the primary metric of the left side to that of the right side."""
        return self._parts[1]

    @property
    def right(self) -> Side:
        """Reference of the claim."""
        return self._parts[2]

    @property
    def subjects(self) -> frozenset[str]:
        """Subjects of the claim: what its sides may differ in; by default the model, or the settings of one model."""
        return frozenset(self.about) or self._apart

    @property
    def _apart(self) -> frozenset[str]:
        if self.left.name != self.right.name:
            return frozenset([MODEL])
        one, other = self.left.settings, self.right.settings
        return frozenset(name for name in {**one, **other} if one.get(name) != other.get(name))

    @property
    def content(self) -> dict[str, Any]:
        """Contents of the claim without its time of creation."""
        where = {name: [str(value) for value in values] for name, values in self.where.items()}
        stated = {"about": list(self.about)} if self.about else {}  # so that older claims keep their hash
        return {"claim": self.text, "task": self.task, "where": where, "margin": self.margin, **stated}

    @property
    def hash(self) -> str:
        """Hash of the contents, 12 hexadecimal digits."""
        return content_key(self.content)[:12]

    @property
    def title(self) -> str:
        """Text of the claim with its task and its restrictions."""
        where = [f"{name} {' or '.join(map(str, values))}" for name, values in self.where.items()]
        about = [f"about {' and '.join(self.about)}"] if self.about else []
        return ", ".join([f"{self.text} on {self.task}", *where, *about])


def write(claim: Claim, folder: Path) -> Claim:
    """Write the claim to ``claims/HASH.json`` in a results folder; an existing file keeps its time of creation."""
    path = _folder(folder) / f"{claim.hash}.json"
    if path.exists():
        return _read_file(path)
    created = datetime.now(UTC)
    made = replace(claim, created=created.replace(microsecond=created.microsecond // 1000 * 1000))  # milliseconds, as runs
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with files.replacing(path) as aside:
            text = json.dumps(made.content | {"created": made.created}, indent=2, default=datetime.isoformat)
            aside.write_text(text + "\n", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot write {path} ({error.strerror or error}); use another results folder") from error
    return made


def read(folder: Path) -> list[Claim]:
    """Read the claims of a results folder in order of creation; raise `BadInput` with the path of an invalid file."""
    claims = [_read_file(path) for path in _folder(folder).glob("*.json")]
    return sorted(claims, key=lambda claim: (str(claim.created), claim.hash))


def standing(claims: Iterable[Claim]) -> list[Claim]:
    """Return the claims that are judged: all but the withdrawn ones."""
    return [claim for claim in claims if claim.withdrawn is None]


def _folder(results: Path) -> Path:
    """Return the folder of claims; raise `BadInput` if it is a link."""
    folder = results / FOLDER
    if folder.is_symlink():
        raise BadInput(f"{folder} is a link, and links in a results folder are not followed; move the claims here")
    return folder


def _read_file(path: Path) -> Claim:
    try:
        if path.is_symlink() or not path.is_file():
            raise BadInput("it is no regular file")
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not {*_FIELDS} <= content.keys() <= {*_FIELDS, *_LATER}:
            raise BadInput(f"its fields must be {', '.join(_FIELDS)}")
        claim, where, margin = content["claim"], content["where"], content["margin"]
        if not isinstance(where, dict) or not all(isinstance(values, list) for values in where.values()):
            raise BadInput("where must map names to lists of values")
        if not (margin is None or isinstance(margin, int | float)):
            raise BadInput("margin must be a number")
        about, withdrawn = content.get("about", []), content.get("withdrawn")
        if not isinstance(about, list):
            raise BadInput("about must be a list of names")
        if not (withdrawn is None or isinstance(withdrawn, str)):
            raise BadInput("withdrawn must be a reason")
        created = datetime.fromisoformat(content["created"])
        if created.tzinfo is None:
            raise BadInput("created has no time zone")
        made = Claim(str(claim), str(content["task"]), where, margin, created.astimezone(UTC), about, withdrawn)
        if made.hash != path.stem:
            raise BadInput(f"it was changed after it was written: its contents have the hash {made.hash}")
    except (OSError, ValueError, TypeError, BadInput) as error:
        raise BadInput(f"{path} is not a valid claim ({error}); repair it or move it to another folder") from error
    return made


def _by_size(text: str) -> tuple[float, str]:
    try:
        return float(text), text
    except ValueError:
        return math.inf, text

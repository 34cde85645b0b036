"""Parsing: a claim as it is typed, ``s6(depth=1) < attn(depth=4)``, read into its two sides."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from expbench.errors import BadInput

Relation = Literal["<", ">"]
TOKEN = re.compile(r"[<>(),=]|[^\s<>(),=]+")
_EXAMPLE = "a claim reads s6 < linattn, or s6(depth=1) > attn(D=8, depth=4)"


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


class Reader:
    """Reads a claim word by word; an error names the character at which it stands, from 1."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = [(match.group(), match.start() + 1) for match in TOKEN.finditer(text)]

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

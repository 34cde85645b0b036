"""Parser for the text of a claim: two sides and a relation, for example ``s6(depth=1) < attn(depth=4)``."""

from __future__ import annotations

import math
import re
from typing import Literal, NamedTuple

from expbench.errors import BadInput

Relation = Literal["<", ">"]
TOKEN = re.compile(r"[<>(),=]|[^\s<>(),=]+")
_EXAMPLE = "examples: s6 < linattn, s6(depth=1) > attn(D=8, depth=4)"


def plain(value: object) -> str:
    """Return the canonical text of a value: ``0.01`` for 1e-2, ``true`` for on, ``none`` for None."""
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
    """Side of a claim: the model as the user writes it, and the settings that the claim fixes, as `plain` texts by name."""

    model: str
    settings: dict[str, str]

    @property
    def name(self) -> str:
        """Name of the model in the results table, where a file has no folder."""
        return self.model.rpartition("/")[2] if ".py:" in self.model else self.model

    def __str__(self) -> str:
        settings = ", ".join(f"{name}={value}" for name, value in self.settings.items())
        return f"{self.model}({settings})" if settings else self.model


class Reader:
    """Recursive-descent parser of a claim; errors name the position of the character, from 1."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.words = [(match.group(), match.start() + 1) for match in TOKEN.finditer(text)]

    def claim(self) -> tuple[Side, Relation, Side]:
        left = self._side()
        relation: Relation = "<" if self._next("< or >", "<>") == "<" else ">"
        right = self._side()
        if self.words:
            raise self._error("the end")
        return left, relation, right

    def _side(self) -> Side:
        model = self._next("a model")
        settings: dict[str, str] = {}
        more = self.words and self.words[0][0] == "(" and self._next("(", "(")
        while more != ")" and more:
            if self.words and self.words[0][0] in settings:
                raise self._error("a different setting")
            name = self._next("the name of a setting")
            self._next(f"= after {name}", "=")
            settings[name] = plain(self._next(f"a value of {name}"))
            more = self._next(", or )", ",)")
        return Side(model, dict(sorted(settings.items())))

    def _next(self, expected: str, marks: str = "") -> str:
        """Take the next word: one of the given marks or, without marks, a name or a value."""
        if not self.words or (self.words[0][0] not in list(marks) if marks else self.words[0][0] in list("<>(),=")):
            raise self._error(expected)
        return self.words.pop(0)[0]

    def _error(self, expected: str) -> BadInput:
        found, position = (repr(self.words[0][0]), self.words[0][1]) if self.words else ("the end", len(self.text) + 1)
        return BadInput(f"claim {self.text!r}: {found} at character {position}, expected {expected}; {_EXAMPLE}")

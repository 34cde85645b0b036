"""Parser for polynomials in the usual notation: ``2*x1^2*x3 - x2*x4 + 0.5``.

    polynomial = term {("+" | "-") term}      factor = {"+" | "-"} (number | variable [("^" | "**") exponent])
    term = factor {"*" factor}                variable = "x1", "x2", ...
Variables count from 1 in the text and from 0 in the result, as usual in Python.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import NamedTuple, NoReturn

from expbench.errors import BadInput

LARGEST_VARIABLE = 1 << 20  # the longest sequence that a task may have
LARGEST_EXPONENT = 64
_TOKEN = re.compile(
    r"""(?P<number>(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?)
      | (?P<variable>x[0-9]+)
      | (?P<power>\^|\*\*)
      | (?P<operator>[-+*])""",
    re.VERBOSE,
)
_SHOWN = 60  # messages quote at most this many characters of the text


class Parsed(NamedTuple):
    """Polynomial constant + sum_m coefficients[m] prod_i x_i^exponents[m][i], with variables from 0.

    Monomials are distinct, not constant, and in the order of the text. Coefficients are not 0; exponents are 1 to 64.
    """

    constant: float
    coefficients: list[float]
    exponents: list[dict[int, int]]


class _Token(NamedTuple):
    kind: str
    text: str
    at: int  # index of the first character, from 0


def parse(text: str, L: int | None = None) -> Parsed:
    """Parse `text` as a polynomial and merge equal monomials. L: the number of available variables, if known.

    Raise `BadInput`, which names the first invalid character and the expected input.
    """
    return _Parser(text, LARGEST_VARIABLE if L is None else L).polynomial()


class _Parser:
    def __init__(self, text: str, variables: int) -> None:
        self.text, self.variables = text, variables
        self.tokens = self._tokens()
        self.next = 0

    def polynomial(self) -> Parsed:
        total: dict[tuple[tuple[int, int], ...], float] = {}
        sign = 1.0
        while True:
            began = self.tokens[self.next]
            coefficient, powers = self._term()
            monomial = tuple(sorted(powers.items()))
            total[monomial] = total.get(monomial, 0.0) + sign * coefficient
            if not math.isfinite(total[monomial]):
                self._refuse(began, "a finite coefficient")
            token = self._take()
            if token.kind == "end":
                break
            if token.text not in ("+", "-"):
                self._refuse(token, "+, -, * or the end")
            sign = -1.0 if token.text == "-" else 1.0
        constant = total.pop((), 0.0)
        kept = {monomial: c for monomial, c in total.items() if c != 0}
        return Parsed(constant, list(kept.values()), [dict(monomial) for monomial in kept])

    def _term(self) -> tuple[float, Counter[int]]:
        """Parse a product; return its coefficient and its nonzero exponents."""
        coefficient, powers = 1.0, Counter[int]()
        while True:
            token = self._take()
            while token.text in ("+", "-"):
                coefficient = -coefficient if token.text == "-" else coefficient
                token = self._take()
            if token.kind == "number":
                coefficient *= float(token.text)
            elif token.kind == "variable":
                variable, exponent = self._variable(token), self._exponent()
                if exponent:
                    powers[variable] += exponent
                if powers[variable] > LARGEST_EXPONENT:
                    self._refuse(token, f"exponents of at most {LARGEST_EXPONENT} in a monomial")
            else:
                self._refuse(token, "a number or a variable (x1, x2, ...)")
            if self.tokens[self.next].text != "*":
                return coefficient, +powers
            self._take()

    def _variable(self, token: _Token) -> int:
        digits = token.text[1:].lstrip("0")
        if not digits or len(digits) > len(str(self.variables)) or int(digits) > self.variables:
            self._refuse(token, f"a variable from x1 to x{self.variables}")
        return int(digits) - 1

    def _exponent(self) -> int:
        if self.tokens[self.next].kind != "power":
            return 1
        self._take()
        token = self._take()
        if token.kind != "number" or not token.text.isdigit() or len(token.text) > 9 or int(token.text) > LARGEST_EXPONENT:
            self._refuse(token, f"an integer exponent from 0 to {LARGEST_EXPONENT}")
        return int(token.text)

    def _take(self) -> _Token:
        token = self.tokens[self.next]
        self.next += token.kind != "end"
        return token

    def _tokens(self) -> list[_Token]:
        """Split the text into tokens, with a final token for the end."""
        tokens, at = [], 0
        while at < len(self.text):
            if self.text[at].isspace():
                at += 1
                continue
            found = _TOKEN.match(self.text, at)
            if found is None:
                self._refuse(_Token("unknown", self.text[at], at), "a number, a variable (x1, x2, ...), +, -, * or ^")
            tokens.append(_Token(str(found.lastgroup), found.group(), at))
            at = found.end()
        return [*tokens, _Token("end", "", len(self.text))]

    def _refuse(self, token: _Token, expected: str) -> NoReturn:
        found = "the end" if token.kind == "end" else repr(token.text[:_SHOWN])
        shown = self.text if len(self.text) <= _SHOWN else self.text[: _SHOWN - 3] + "..."
        raise BadInput(f"polynomial {shown!r}: {found} at character {token.at + 1}, expected {expected}")

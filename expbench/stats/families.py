"""Correction for many tests in families: a gatekeeper decides which families are opened, and Holm corrects within each.

A family is what one claim asserts, at all its matched pairs. One correction over all pairs of all claims would make each
claim pay for all others. The procedure has two steps.

1. The gatekeeper tests for each family whether any of its null hypotheses is false, by the p-value of Simes (1986), and
   applies Holm's correction (1979) over the families. A family is opened if this p-value is at most .05.
2. Within each opened family, Holm's correction applies at the level .05 R / F, where R of F families are opened
   (Benjamini and Bogomolov, Journal of the Royal Statistical Society B 76, 2014). If all are opened, the level is .05.

If every null hypothesis is true, the probability of any rejection at all is at most .05. Within one family the probability
of a false rejection is at most .05. If some null hypotheses are false, then among the opened families the expected share of
those with a false rejection is at most .05; the probability of a false rejection anywhere may then exceed .05, since it
grows with the number of opened families. Gatekeepers in general: Dmitrienko and Tamhane, Statistics in Medicine 26 (2007).
Simes' p-value needs tests that are independent or positively dependent (Sarkar, Annals of Statistics 26, 1998), such as
those of pairs that share instances.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from expbench.stats.intervals import holm, refuse_nan

SIGNIFICANCE = 0.05


class Gate(NamedTuple):
    """Result of the gatekeeper for one family.

    p: Simes' p-value after Holm's correction over the families. share: R / F, by which the level within the family is
    multiplied; at least 1 / F.
    """

    p: float
    share: float

    @property
    def opened(self) -> bool:
        """True if the hypotheses of the family are tested one by one."""
        return self.p <= SIGNIFICANCE

    def within(self, p_values: Sequence[float]) -> list[float]:
        """Return the adjusted p-values of a family: to be compared to .05, and never below that of the gate."""
        return [max(self.p, min(1.0, adjusted / self.share)) for adjusted in holm(p_values)]


def simes(p_values: Sequence[float]) -> float:
    """Return the p-value of the null that all hypotheses of a family are true (Simes, Biometrika 73, 1986)."""
    refuse_nan(p_values)
    return min(len(p_values) * p / rank for rank, p in enumerate(sorted(p_values), start=1))


def gates(families: Sequence[Sequence[float]]) -> list[Gate]:
    """Return the gate of each family of p-values, none of which is empty."""
    adjusted = holm([simes(p_values) for p_values in families])
    share = max(1, sum(p <= SIGNIFICANCE for p in adjusted)) / max(1, len(families))
    return [Gate(p, share) for p in adjusted]

"""Matched pairs: which position codes and bases the two sides may have."""

import pytest

from expbench.claims.pairing import candidates, matched_pairs, unmatched_reason
from expbench.results.configurations import gather, with_context
from tests.claims.test_verdicts import Rows, claim, runs
from tests.report.test_build import frame_of

MATCHED, FORMER = 2.546, 10000.0  # at L = 8


def pairs(text: str, rows: Rows) -> list[tuple[str, str]]:
    """The bases of the two sides of each matched pair."""
    frame = frame_of(rows)
    return [(p.left.configuration.base, p.right.configuration.base) for p in matched_pairs(claim(text), among(frame))]


def among(frame):  # type: ignore[no-untyped-def]
    return candidates(frame, gather(with_context(frame)))


def coded(model: str, positions: str, base: float, **more: object) -> Rows:
    return runs(model, [0.1, 0.2], positions=positions, position_base=base, **more)


@pytest.mark.parametrize("base", [MATCHED, FORMER])
def test_sides_with_one_code_have_one_base(base: float) -> None:
    rows = coded("s6", "sin", MATCHED) + coded("s6", "sin", FORMER) + coded("linattn", "sin", base)
    shown = "auto" if base == MATCHED else "10000"
    for text in ("s6 < linattn", "s6(positions=sin) < linattn(positions=sin)"):
        assert pairs(text, rows) == [(shown, shown)]


@pytest.mark.parametrize("base", [MATCHED, FORMER])
def test_a_code_without_a_base_is_compared_with_any(base: float) -> None:
    rows = coded("s6", "none", FORMER) + coded("linattn", "sin", base)
    assert pairs("s6(positions=none) < linattn(positions=sin)", rows) == [("auto", "auto" if base == MATCHED else "10000")]


def test_the_matched_base_is_equal_at_every_width() -> None:
    rows = coded("s6", "sin", MATCHED, D=5) + coded("linattn", "sin", MATCHED, D=6)
    assert pairs("s6(D=5) < linattn(D=6)", rows) == [("auto", "auto")]


def test_a_base_can_be_named() -> None:
    rows = coded("s6", "sin", MATCHED) + coded("s6", "sin", FORMER)
    assert pairs("s6(position_base=auto) < s6(position_base=10000)", rows) == [("auto", "10000")]
    apart = frame_of(coded("s6", "sin", MATCHED) + coded("linattn", "sin", FORMER))
    why = unmatched_reason(claim("s6 < linattn"), among(apart))
    assert "the sides have no position_base in common (auto and 10000)" in why

"""Error rates of verdicts: python benchmarks/error_rates.py [SIMULATIONS] writes results/error-rates.

Claims are simulated and judged by the code that judges real ones. The table counts how often the claim that one side is
below the other is `supported`: on the distributions, on the share solved, and on the means. In the exchangeable cases both
sides have the same distribution. In the others only the means are equal, or only the shares solved: there `supported` is an
error on what is equal, and right on what differs.
"""

from __future__ import annotations

import csv
import itertools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtr

from expbench.claims.claim import Claim
from expbench.claims.comparison import Pairs, compared_values
from expbench.claims.pairing import Candidate, MatchedPair
from expbench.claims.verdicts import judged_alone
from expbench.claims.words import Verdict
from expbench.console.formatting import markdown_table, number
from expbench.results.configurations import Configuration
from expbench.stats.families import SIGNIFICANCE, gates
from expbench.stats.means import equal_means_p
from expbench.stats.resampling import sign_flip_p
from expbench.stats.shares import paired_share_p

SIMULATIONS = 4000
TARGET = Path("results/error-rates")
UNITS, UNITS_OF_MEANS = (10, 20, 60), (10, 20, 30, 60)
SOLVED = 0.01  # largest error of a run that solves the task
Values = NDArray[np.float64]
Draw = Callable[[np.random.Generator, int], Values]
CLAIM = Claim("one < other", "polyreg")
PAIR = MatchedPair(
    *(Candidate(Configuration({"model": model}, pd.DataFrame(), "nmse", False, SOLVED), []) for model in ("one", "other")),
    where={},
    rates=(1, 1),
    differences={},
    confounders={},
)
DECIDED = (Verdict.SUPPORTED, Verdict.CONTRADICTED, Verdict.BELOW_MARGIN)


class Rates(NamedTuple):
    """Shares of simulated claims that are supported, and of those that are decided: that name either direction.

    NaN for the share solved if only the means are equal, and for all but the share solved if only this is equal.
    """

    case: str
    equal: str
    units: int
    simulations: int
    distributions: float
    distributions_decided: float
    share_solved: float
    share_solved_decided: float
    means: float
    means_decided: float


def _solves(share: float, failing: float = 1.0) -> Draw:
    """Return draws of a side that has the error 0 in this share of runs, and that of a constant, 1, in the others."""
    return lambda source, n: np.where(source.random(n) < share, 0.0, failing)


def _constant(value: float) -> Draw:
    return lambda source, n: np.full(n, value)


def _lognormal(source: np.random.Generator, n: int) -> Values:
    return 0.3 * source.lognormal(-0.5, 1.0, n)  # mean .3


def _bimodal(source: np.random.Generator, n: int) -> Values:
    return np.where(source.random(n) < 0.5, source.uniform(0, 0.01, n), source.normal(0.5, 0.1, n))


def _normal(mean: float, spread: float) -> Draw:
    return lambda source, n: source.normal(mean, spread, n)


EXCHANGEABLE: Mapping[str, Draw] = {
    "normal": _normal(0.5, 0.1),
    "bimodal": _bimodal,
    "lognormal": _lognormal,
    "ties": lambda source, n: source.integers(1, 4, n) / 4,
}
EQUAL_MEANS: Mapping[str, tuple[Draw, Draw]] = {
    "solves 90 %, constant": (_solves(0.9), _constant(0.1)),
    "solves 97 %, constant": (_solves(0.97), _constant(0.03)),
    "solves 50 %, normal": (_solves(0.5), _normal(0.5, 0.1)),
    "lognormal, constant": (_lognormal, _constant(0.3)),
    "lognormal, normal": (_lognormal, _normal(0.3, 0.05)),
    "exponential, normal": (lambda source, n: source.exponential(0.3, n), _normal(0.3, 0.05)),
    "normal, unlike spreads": (_normal(0.5, 0.02), _normal(0.5, 0.15)),
}

EQUAL_SHARES: Mapping[str, tuple[Draw, Draw]] = {
    f"solve {100 * share:.0f} %, fail unlike": (_solves(share), _solves(share, 0.3)) for share in (0.5, 0.8)
}


def cases() -> Iterator[tuple[str, str, int, Draw, Draw]]:
    """Yield name, what is equal, units and both sides of each case."""
    for n in UNITS:
        for name, draw in EXCHANGEABLE.items():
            yield name, "distributions", n, draw, draw
    for n in UNITS_OF_MEANS:
        for name, (one, other) in EQUAL_MEANS.items():
            yield name, "means", n, one, other
    for n in UNITS:
        for name, (one, other) in EQUAL_SHARES.items():
            yield name, "share solved", n, one, other


def rates(name: str, equal: str, n: int, one: Draw, other: Draw, simulations: int = SIMULATIONS) -> Rates:
    """Simulate a case. The seed follows from the case, so every line can be repeated alone."""
    source = np.random.default_rng([n, *name.encode()])
    drawn = [(one(source, n), other(source, n)) for _ in range(simulations)]
    found = np.zeros(6)
    for sides in _may_be_decided(drawn, equal):
        verdicts = _verdicts(*sides)
        found += [counted for verdict in verdicts for counted in (verdict == Verdict.SUPPORTED, verdict in DECIDED)]
    left_out = {"distributions": [], "means": [2, 3], "share solved": [0, 1, 4, 5]}
    found[left_out[equal]] = math.nan
    return Rates(name, equal, n, simulations, *(round(float(share), 5) for share in found / simulations))


class FamilyRates(NamedTuple):
    """Rates of false verdicts among families of claims.

    differing: pairs of each family that differ, by 6 standard errors. anywhere: share of simulations with a false verdict.
    in_a_family: the largest share over the families. of_opened: mean share of the opened families that have a false verdict.
    """

    families: int
    pairs: int
    differing: str
    simulations: int
    anywhere: float
    in_a_family: float
    of_opened: float


def family_rates(families: int, pairs: int, differing: str, simulations: int = SIMULATIONS) -> FamilyRates:
    """Simulate families of tests: normal statistics, with a correlation of .5 within a family, whose pairs share instances.

    differing: none, "one of each", or "one of half", the families in which one pair differs.
    """
    source = np.random.default_rng([families, pairs, *differing.encode()])
    effects = np.zeros((families, pairs))
    effects[: {"none": 0, "one of half": families // 2, "one of each": families}[differing], 0] = 6
    anywhere, in_a_family, of_opened = 0.0, np.zeros(families), 0.0
    for _ in range(simulations):
        common, own = source.normal(size=(families, 1)), source.normal(size=(families, pairs))
        p_values = 2 * ndtr(-np.abs(effects + math.sqrt(0.5) * (common + own)))
        found = gates(p_values.tolist())
        rejected = np.array([gate.within(own.tolist()) for gate, own in zip(found, p_values, strict=True)]) <= SIGNIFICANCE
        false = (rejected & (effects == 0)).any(axis=1)
        anywhere += false.any()
        in_a_family += false
        of_opened += false.sum() / max(1, sum(gate.opened for gate in found))
    rates = (anywhere, float(in_a_family.max()), of_opened)
    return FamilyRates(families, pairs, differing, simulations, *(round(float(each) / simulations, 5) for each in rates))


def _may_be_decided(drawn: list[tuple[Values, Values]], equal: str) -> Iterator[tuple[Values, Values]]:
    """Yield the pairs of sides of which a counted verdict may name a direction: its own p is at most .05 before correction.

    Most simulations end here. If a tenth of 500 flips are as extreme, p is not near .05, and 10,000 flips are not made.
    """
    sides = np.array(drawn)
    differences = sides[:, 0] - sides[:, 1]
    flips = 1.0 - 2 * np.random.default_rng(1).integers(2, size=(differences.shape[1], 500))
    least = np.abs(differences.sum(axis=1)) - 1e-9 * np.abs(differences).sum(axis=1)
    extreme = (np.abs(differences @ flips) >= least[:, None]).mean(axis=1)
    for (one, other), difference, share in zip(drawn, differences, extreme, strict=True):
        solved = paired_share_p(((one <= SOLVED).astype(float) - (other <= SOLVED)).tolist()) <= SIGNIFICANCE
        means = equal_means_p(difference.tolist(), max(1.0, float(np.ptp([one, other])))) <= SIGNIFICANCE
        if equal == "share solved":
            counted = solved
        else:
            flipped = share < 2 * SIGNIFICANCE and sign_flip_p(difference.tolist()) <= SIGNIFICANCE
            counted = flipped or means or (solved and equal == "distributions")
        if counted:
            yield one, other


def _verdicts(one: Values, other: Values) -> tuple[Verdict, Verdict, Verdict]:
    """Return the verdicts on distributions, share solved and means of a claim on these paired errors."""
    pairs = Pairs(np.zeros(len(one), np.int64), np.stack([one, other], axis=1))
    return judged_alone(compared_values(CLAIM, PAIR, pairs, is_post_hoc=False))


def _numbered(number: int, simulations: int) -> Rates:
    return rates(*list(cases())[number], simulations=simulations)


def main(simulations: int) -> None:
    found = []
    with ProcessPoolExecutor() as pool:
        for rate in pool.map(_numbered, range(len(list(cases()))), itertools.repeat(simulations)):
            found.append(rate)
            print(rate, flush=True)
    shapes = [(families, 5, differing) for families in (1, 5, 15) for differing in ("none", "one of half", "one of each")]
    grouped = [family_rates(*shape, simulations) for shape in shapes if shape[0] > 1 or shape[2] != "one of half"]
    TARGET.mkdir(parents=True, exist_ok=True)
    for name, lines in (("table.csv", [Rates._fields, *found]), ("families.csv", [FamilyRates._fields, *grouped])):
        with (TARGET / name).open("w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(lines)
    (TARGET / "table.md").write_text(_page(found, grouped), encoding="utf-8")


def _page(found: list[Rates], grouped: list[FamilyRates]) -> str:
    kinds = ("distributions", "share solved", "means")
    header = ["equal", "case", "units", *(f"{kind}: {word}" for kind in kinds for word in ("supported", "decided"))]
    lines = [[r.equal, r.case, str(r.units), *(number(share) for share in r[4:])] for r in found]
    error = math.sqrt(SIGNIFICANCE * (1 - SIGNIFICANCE) / found[0].simulations)
    said = (
        f"Shares of {found[0].simulations} simulated claims that are `supported`, by what is equal on both sides. If the "
        "distributions are equal, every `supported` is an error. If only the means or only the shares solved are equal, "
        "`supported` is an error on this alone. `decided` also counts `contradicted` and `below the margin`. The standard "
        f"error of a share of .05 is {error:.4f}. Made by `python benchmarks/error_rates.py`."
    )
    of_families = [[str(r.families), str(r.pairs), r.differing, *(number(share) for share in r[4:])] for r in grouped]
    titles = ["claims", "pairs each", "pairs that differ", "any false verdict", "in one claim, the most", "of opened claims"]
    explained = (
        "False verdicts in claims of several pairs behind the gatekeeper. If nothing differs, the probability of any is at "
        "most .05. If pairs differ, it is at most .05 in each claim, and on average over the opened claims; not over all "
        "claims together."
    )
    tables = [said, markdown_table(header, lines), explained, markdown_table(titles, of_families)]
    return "\n\n".join(["# Error rates of verdicts", *tables]) + "\n"


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else SIMULATIONS)

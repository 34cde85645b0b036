"""Verdicts of three kinds, on distributions, shares solved and means, and the words beside supported and contradicted."""

import csv
import runpy
from pathlib import Path

import numpy as np
import pytest

from expbench.claims.formatting import markdown, sentence
from expbench.claims.planning import summary
from expbench.claims.planning import text as plan
from expbench.claims.verdicts import judge
from expbench.claims.words import Verdict
from expbench.stats.shares import unpaired_share_p
from tests.claims.test_verdicts import Rows, around, claim, in_protocols, one, runs
from tests.report.test_build import frame_of

ACCURACY = {"metric": "accuracy", "higher_is_better": True, "success_threshold": 0.95}


def solving(count: int, n: int, failing: float = 0.5, seed: int = 0) -> list[float]:
    """n errors, of which the first are below the success threshold of .01."""
    source = np.random.default_rng(seed)
    return [*source.uniform(0.001, 0.005, count), *(failing + 0.01 * source.normal(size=n - count))]


def test_the_text_states_the_null_that_was_tested() -> None:
    rows = [*runs("s6", around(0.2)), *runs("linattn", around(0.7, seed=1))]
    page = " ".join(markdown(judge([claim()], frame_of(rows))).split())
    assert "The null is that both sides have the same distribution" in page
    assert "they do not say that the means differ" in page
    assert "the distributions differ, in this direction" in page
    assert "has a lower" not in page


def test_a_ceiling_is_no_failure() -> None:
    both = [*runs("s6", solving(20, 20)), *runs("linattn", solving(19, 20, seed=1))]
    judgement = one(both)
    assert (judgement.verdict, judgement.failed) == (Verdict.CEILING, False)
    assert judgement.share.verdict == "ceiling"
    assert sentence(judgement).startswith("s6 and linattn are both near the best possible value in nmse: ")
    strict = ACCURACY | {"success_threshold": 0.999}
    high = [*runs("s6", around(0.97, spread=0.01), **strict), *runs("linattn", around(0.98, spread=0.01), **strict)]
    assert one(high).reason == "both means are within the margin of 0.05 of the best value"
    far = [*runs("s6", around(0.97, spread=0.01), **strict), *runs("linattn", around(0.9, spread=0.01), **strict)]
    assert one(far).verdict == "contradicted"


def test_a_summary_counts_each_word() -> None:
    crossed = [(norm, code) for norm in ("layer", "rms", "none") for code in ("none", "sin")]
    means = {("layer", "none"): 0.9, ("layer", "sin"): 0.1, ("rms", "none"): 0.1, ("rms", "sin"): None}
    finding = in_protocols(*(({"norm": n, "positions": p}, means.get((n, p), 0.1)) for n, p in crossed))
    assert finding.summary == "holds in 4 of 6 protocols; contradicted in 1, undecided in 1"
    rows: Rows = []
    for norm, left, right in (("layer", 20, 0), ("rms", 20, 19), ("none", 0, 20)):
        rows += [*runs("s6", solving(left, 20), norm=norm), *runs("linattn", solving(right, 20, seed=1), norm=norm)]
    (finding,) = judge([claim()], frame_of(rows))
    assert finding.summary == "holds in 1 of 3 protocols; contradicted with norm none, ceiling in 1"
    assert {str(v) for v in Verdict} >= {"confounded", "below the margin", "undecided on means"}


def test_the_share_solved_is_judged_beside_the_distributions() -> None:
    judgement = one([*runs("s6", solving(16, 20)), *runs("linattn", solving(2, 20, seed=1))])
    assert (judgement.verdict, judgement.share.verdict) == ("supported", "supported")
    assert judgement.share.p == pytest.approx(2 / 2**14), "McNemar's, of 14 discordant pairs"
    assert "share solved: s6 solves more (16/20 against 2/20, Holm p = " in sentence(judgement)
    worse = one([*runs("s6", solving(2, 20)), *runs("linattn", solving(16, 20, seed=1))])
    assert worse.share.verdict == "contradicted"
    assert "share solved: s6 solves fewer (2/20 against 16/20" in sentence(worse)
    scores = [
        r | {"value": 1 - r["value"]} for r in [*runs("s6", solving(16, 20)), *runs("linattn", solving(2, 20, seed=1))]
    ]
    scores = [r | ACCURACY for r in scores]
    assert one(scores, claim("s6 > linattn")).share.verdict == "supported", "of accuracies the higher solves"
    equal = one([*runs("s6", around(0.2)), *runs("linattn", around(0.7, seed=1))])
    assert (equal.verdict, equal.share.verdict, equal.share.p) == ("supported", "undecided", 1)


def test_equal_means_do_not_hide_that_one_side_solves_the_task() -> None:
    """18 of 20 runs solve the task and two fail badly; the other side fails a little in all: the means are equal."""
    left = [0.0] * 18 + [1.0] * 2
    judgement = one([*runs("s6", left), *runs("linattn", [0.1] * 20)])
    assert judgement.p > 0.5
    assert (judgement.verdict, judgement.share.verdict) == ("undecided", "supported")


def test_diverged_runs_solve_nothing() -> None:
    gone = one([*runs("s6", [None] * 20), *runs("linattn", solving(20, 20))], claim("linattn < s6"))
    assert (gone.verdict, gone.pairs) == ("undecided", 0)
    assert (gone.share.verdict, gone.share.p) == ("supported", pytest.approx(2 / 2**20))


def test_runs_without_common_seeds_are_compared_by_fishers_test() -> None:
    others = [r | {"seed": r["seed"] + 20} for r in runs("linattn", solving(3, 20, seed=1))]
    judgement = one([*runs("s6", solving(15, 20)), *others])
    assert (judgement.pairs, judgement.verdict) == (0, "undecided")
    assert judgement.share.verdict == "supported"
    assert judgement.share.p == pytest.approx(unpaired_share_p((15, 3), (20, 20)))


def test_means_need_thirty_units_that_are_not_bimodal() -> None:
    def means(left: list[float | None], right: list[float | None], **changes: object) -> tuple[str, str]:
        judgement = one([*runs("s6", left, **changes), *runs("linattn", right, **changes)])
        return judgement.means.verdict, judgement.means.reason

    left, right = [[*around(mean, 40, seed=s, spread=0.1)] for s, mean in enumerate((0.3, 0.6))]
    assert means(left, right)[0] == "supported"
    assert means(right, left)[0] == "contradicted"
    assert means(left[:29], right[:29]) == ("undecided on means", "29 of 30 units")
    assert means([*solving(20, 40)], right) == ("undecided on means", "s6 is bimodal or skewed")
    assert means([None, *left[1:]], right) == ("undecided on means", "runs diverged")
    assert means(left, right, metric="perplexity") == ("undecided on means", "the range of perplexity is unknown")
    judgement = one([*runs("s6", left), *runs("linattn", right)])
    assert "; its mean is lower (Holm p = " in sentence(judgement)


@pytest.fixture(scope="module")
def script() -> dict[str, object]:
    return runpy.run_path(str(Path(__file__).parents[2] / "benchmarks" / "error_rates.py"))


def test_simulated_error_rates(script: dict[str, object]) -> None:
    """A small version of results/error-rates; three standard errors above .05 are allowed."""
    rates, cases = script["rates"], script["cases"]
    assert callable(rates)
    assert callable(cases)
    chosen = {("bimodal", 20): 300, ("ties", 10): 300, ("solves 97 %, constant", 30): 40}
    found = [rates(*case, simulations=chosen[case[0], case[2]]) for case in cases() if (case[0], case[2]) in chosen]
    assert len(found) == len(chosen)
    for rate in found:
        ours = [
            rate.means_decided,
            *([rate.distributions_decided, rate.share_solved_decided] if rate.equal != "means" else []),
        ]
        assert max(ours) <= 0.05 + 3 * (0.05 * 0.95 / rate.simulations) ** 0.5, rate
    assert max(r.distributions for r in found if r.equal == "means") > 0.2, "which is right there: the distributions differ"


def test_power_of_undecided_pairs() -> None:
    finding = in_protocols(({"steps": 500}, 0.1), ({"steps": 2000}, None))
    (open_,) = [j for j in finding.judgements if j.verdict == "undecided"]
    assert open_.needed is None or open_.needed > 14
    planned = plan([finding])
    count = f"about {open_.needed} pairs" if open_.needed else "more than 200 pairs"
    assert f"{count} for 80 % power" in planned
    assert planned.startswith("s6 < linattn on polyreg holds in 1 of 2 protocols; undecided in 1.")
    assert summary([finding]).startswith(
        "1 pair is undecided. For 80 % power, with differences distributed as those observed: 1 "
    )
    assert f"a verdict needs {count}" in sentence(open_)
    decided = in_protocols(({}, 0.1))
    assert summary([decided]) == ""
    assert plan([decided]).endswith("no pair is undecided.")


def test_old_rows_are_read_by_the_present_rule_on_labels() -> None:
    """Rows that a fixed limit on kurtosis called ill-posed, and rows whose test set is too small."""
    task = {"test_size": 65536}
    facts = {"label_kurtosis": 342.6, "effective_sample_size": 260.8, "well_posed": False}
    rows = [r for m, mean in (("s6", 0.2), ("linattn", 0.7)) for r in runs(m, around(mean), task=task, **facts)]
    assert one(rows).verdict == "supported"
    small = {"test_size": 4096}
    rows = [
        r
        for m, mean in (("s6", 0.2), ("linattn", 0.7))
        for r in runs(m, around(mean), task=small, **facts | {"well_posed": True})
    ]
    assert one(rows).reason == "the labels are ill-posed"


def test_the_committed_error_rates() -> None:
    """`supported` at most .05 on what is equal, in every case; both directions together within three standard errors."""
    with (Path(__file__).parents[2] / "results" / "error-rates" / "table.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    assert {(line["case"], line["units"]) for line in lines if line["equal"] == "distributions"} == {
        (case, n) for case in ("normal", "bimodal", "lognormal", "ties") for n in ("10", "20", "60")
    }
    for line in lines:
        assert int(line["simulations"]) >= 4000
        kinds = (
            ["distributions", "share_solved", "means"]
            if line["equal"] == "distributions"
            else [line["equal"].replace(" ", "_")]
        )
        error = (0.05 * 0.95 / int(line["simulations"])) ** 0.5
        for kind in kinds:
            assert float(line[kind]) <= 0.05, line
            assert float(line[f"{kind}_decided"]) <= 0.05 + 3 * error, line

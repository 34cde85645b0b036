"""How a run ended: a run that diverged in its first steps is told from one that diverged later where runs are counted."""

from pathlib import Path

import pytest

from expbench.claims.claim import Claim
from expbench.claims.verdicts import judge
from expbench.report.build import write_report
from expbench.results.configurations import divergence, gather, with_context
from expbench.results.reported import AT_START, FIRST_STEPS, ending, not_finite
from tests.report.test_build import frame_of, row, runs

LATE, EARLY = not_finite(FIRST_STEPS, 2000), not_finite(FIRST_STEPS - 1, 2000)


@pytest.mark.parametrize(
    ("status", "error", "how"),
    [
        ("diverged", EARLY, AT_START),
        ("diverged", "the loss or its gradient is not finite at step 1 of 2000", AT_START),  # as all tables have it
        ("diverged", LATE, "diverged"),
        ("diverged", "a parameter is not finite after step 3, the last", "diverged"),
        ("diverged", None, "diverged"),
        ("diverged", float("nan"), "diverged"),
        ("failed", EARLY, "failed"),
        ("ok", None, "ok"),
    ],
)
def test_a_run_that_diverges_before_step_20_diverges_at_the_start(status: str, error: object, how: str) -> None:
    assert ending(status, error) == how


def test_reports_and_claims_count_runs_that_diverged_at_the_start_apart(tmp_path: Path) -> None:
    errors = [EARLY] * 3 + [LATE] * 2
    rows = runs([0.1 + i / 100 for i in range(12)], model="s6") + [
        row(
            key=f"d{seed}", seed=seed, model="s6-poly", status="diverged", error=error, split="validation", step=5, value=9.0
        )
        for seed, error in enumerate(errors)
    ]
    frame = frame_of(rows)
    s6, poly = gather(with_context(frame))
    assert s6.unfinished == {}
    assert poly.unfinished == {AT_START: 3, "diverged": 2}
    assert (poly.trials, poly.count("diverged")) == (5, 5), "each of them is a trial that did not solve the task"
    assert divergence([s6, poly]) == f"3 of 5 of s6-poly {AT_START}, 2 of 5 of s6-poly diverged"
    text = write_report(frame, tmp_path).read_text(encoding="utf-8")
    assert f"17 runs, 3 {AT_START}, 2 diverged of 2 models" in text
    assert f"3 {AT_START}; 2 diverged" in text
    assert f"0: {AT_START}" in text
    assert "4: diverged" in text
    ((judgement,),) = [found.judgements for found in judge([Claim("s6 < s6-poly", "polyreg")], frame)]
    assert f"3 of 5 of s6-poly {AT_START}, 2 of 5 of s6-poly diverged" in judgement.reason

"""Claims as they are typed: checked against what there is, and judged by the report once there are runs."""

from pathlib import Path

import pytest

from expbench.claims import claim
from tests.conftest import CommandLine, is_bad_input

SMALL = ["--steps", "20", "--seeds", "0:2", "--L", "4"]


def test_a_claim_precedes_its_runs_and_the_report_judges_it(expbench: CommandLine) -> None:
    answer = expbench("claim", "s6-poly < ssm", "--task", "polyreg", "--where", "L=4", "--margin", "0.01")
    (made,) = claim.read(Path("results"))
    assert answer.out.strip() == f"{made.hash}: s6-poly < ssm on polyreg, L 4"
    again = expbench("claim", "s6-poly<ssm", "--task", "polyreg", "--where", "L=4", "--margin", "0.01")
    assert again.out == answer.out
    assert claim.read(Path("results")) == [made]
    assert expbench("run", "--task", "polyreg", "--models", "s6-poly,ssm", *SMALL).code == 0
    report = Path(expbench("report").out.strip()).with_suffix(".md").read_text()
    assert "## Claims" in report
    assert "s6-poly < ssm on polyreg, L 4 is undecided" in report
    assert "; post hoc" not in report.partition("## How to read")[0].replace("`post hoc`", "")
    late = expbench("claim", "ssm < s6-poly", "--task", "polyreg")
    assert late.code == 0
    assert "; post hoc" in Path(expbench("report").out.strip()).with_suffix(".md").read_text().partition("## How to read")[0]


def test_each_model_has_the_position_code_that_it_asks_for(expbench: CommandLine) -> None:
    assert "s6(positions=none) < attn(positions=sin) on" in expbench("claim", "s6 < attn", "--task", "polyreg").out
    assert "s6(depth=1, positions=none) < attn(" in expbench("claim", "s6(depth=1) < attn", "--task", "polyreg").out
    given = expbench("claim", "s6(positions=sin) < attn", "--task", "polyreg").out
    assert "s6(positions=sin) < attn on" in given
    assert "s6 < attn on" in expbench("claim", "s6 < attn", "--task", "polyreg", "--where", "positions=sin").out


def test_without_claims_models_are_compared_and_it_is_said_that_nobody_claimed_it(expbench: CommandLine) -> None:
    assert expbench("run", "--task", "polyreg", "--models", "s6,attn", *SMALL).code == 0
    report = Path(expbench("report").out.strip()).with_suffix(".md").read_text()
    assert "## Comparisons that were not claimed beforehand" in report
    sides = ("attn(positions=sin)", "s6(positions=none)")
    assert any(f"{one} < {other} on polyreg is undecided" in report for one, other in (sides, sides[::-1]))
    assert "; post hoc" in report
    assert not Path("results/claims").exists()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (["s6 < linatn", "--task", "polyreg"], "linattn"),
        (["s6 < attn", "--task", "polyrge"], "polyreg"),
        (["s6 < attn", "--task", "polyreg", "--where", "famly=suffix"], "family"),
        (["s6 < attn", "--task", "polyreg", "--where", "instance=1"], "--where"),
        (["s6 < attn", "--task", "polyreg", "--where", "L"], "NAME=VALUE"),
        (["s6 < attn", "--task", "polyreg", "--where", "L=4", "--where", "L=5"], "twice"),
        (["s6(dpth=1) < attn", "--task", "polyreg"], "depth"),
        (["s6 attn", "--task", "polyreg"], "character 4"),
        (["s6 < attn", "--task", "polyreg", "--margin", "0"], "margin"),
        (["s6 < s6", "--task", "polyreg"], "both sides"),
    ],
)
def test_bad_input(expbench: CommandLine, words: list[str], named: str) -> None:
    is_bad_input(expbench("claim", *words), named)
    assert not Path("results").exists()

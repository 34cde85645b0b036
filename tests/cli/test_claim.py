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


def test_a_claim_is_left_as_it_is_and_a_warning_names_what_will_confound_it(expbench: CommandLine) -> None:
    plain = expbench("claim", "s6 < attn", "--task", "polyreg")
    assert "s6 < attn on polyreg" in plain.out
    assert "warning: by default s6 has positions none and attn has sin" in plain.err
    assert "run both with --positions sin" in plain.err
    for words in (["s6(positions=sin) < attn"], ["s6 < attn", "--where", "positions=sin"], ["s6(N=2) < s6(N=4)"]):
        assert "warning" not in expbench("claim", *words, "--task", "polyreg").err
    apart = expbench("claim", "s6(depth=1, positions=sin) < attn(depth=4, positions=sin)", "--task", "polyreg")
    assert "the sides differ in depth (1 against 4): its verdicts will be confounded; if this is what" in apart.err
    assert "add --about depth,model" in apart.err
    words = ["s6(depth=1, positions=sin) < attn(depth=4, positions=sin)", "--task", "polyreg", "--about", "depth,model"]
    told = expbench("claim", *words)
    assert "warning" not in told.err
    assert "on polyreg, about depth and model" in told.out
    assert {made.about for made in claim.read(Path("results"))} == {(), ("depth", "model")}
    sizes = expbench("claim", "s6(D=5, positions=sin) < attn(D=6, positions=sin)", "--task", "polyreg")
    assert "confounded, unless both have the same size (--match)" in sizes.err


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
        (["s6(depth=1) < attn(depth=2)", "--task", "polyreg", "--about", "dept"], "'depth'"),
    ],
)
def test_bad_input(expbench: CommandLine, words: list[str], named: str) -> None:
    is_bad_input(expbench("claim", *words), named)
    assert not Path("results").exists()

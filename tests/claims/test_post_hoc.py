"""`expbench report --against`: each model's paired differences to one, in the words and by the tests of claims."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from expbench.claims import post_hoc
from expbench.claims.claim import Claim, write
from expbench.errors import BadInput
from expbench.report.build import write_report
from expbench.report.latex import escaped
from expbench.results.configurations import gather, with_context
from tests.conftest import TINY, CommandLine, is_bad_input
from tests.report.test_build import frame_of, runs


def study(**models: float) -> list[dict[str, Any]]:
    """Twelve seeds of each model, whose errors lie around these; the pairs differ by little more than the means do."""
    return [r for model, mean in models.items() for r in runs([mean + seed / 100 for seed in range(12)], model=model)]


def made(rows: list[dict[str, Any]], reference: str) -> list[str]:
    return [claim.text for claim in post_hoc.against(gather(with_context(frame_of(rows))), reference)]


def test_each_other_model_is_held_against_one(tmp_path: Path) -> None:
    rows = study(s6=0.3, attn=0.6, linattn=0.2, ssm=0.3001)
    assert made(rows, "s6") == [
        "attn(positions=none) > s6(positions=none)",
        "linattn(positions=none) < s6(positions=none)",
        "ssm(positions=none) > s6(positions=none)",
    ]
    text = write_report(frame_of(rows), tmp_path, against="s6").read_text().partition("## How to read")[0]
    assert "## Each model against s6" in text
    assert "attn(positions=none) > s6(positions=none) on polyreg is supported" in text
    assert "difference 0.3 (" in text
    assert "linattn(positions=none) < s6(positions=none) on polyreg is supported" in text
    assert "difference -0.1 (" in text
    assert "ssm(positions=none) > s6(positions=none) on polyreg is below the margin" in text
    assert "post hoc" in text
    assert "not claimed beforehand" not in text, "the models are compared once"


def test_models_are_compared_where_they_agree_and_keep_what_is_their_own() -> None:
    both = [*runs([0.1], model="s6"), *runs([0.1], model="s6", positions="sin")]
    assert made([*both, *runs([0.2], model="attn", positions="sin")], "s6") == ["attn(positions=sin) > s6(positions=sin)"]
    assert made([*both, *runs([0.2], model="attn", positions="index")], "s6") == [
        "attn(positions=index) > s6(positions=none)",
        "attn(positions=index) > s6(positions=sin)",
    ]
    matched = [*runs([0.1], model="s6", D=4), *runs([0.2], model="attn", D=6)]
    assert made(matched, "s6") == ["attn(D=6, positions=none) > s6(D=4, positions=none)"]
    assert made(both, "s6") == []
    better = runs([0.9], model="attn", higher_is_better=True), runs([0.5], model="s6", higher_is_better=True)
    assert made([*better[0], *better[1]], "s6") == ["attn(positions=none) > s6(positions=none)"]


def test_claims_of_what_is_not_shown_are_judged_with_the_others_and_left_out(tmp_path: Path) -> None:
    for text in ("s6 < attn", "s6 < linattn"):
        write(Claim(text, "polyreg"), tmp_path)
    rows = study(s6=0.3, attn=0.6, linattn=0.5)
    whole = write_report(frame_of(rows), tmp_path).read_text()
    part = write_report(frame_of(rows), tmp_path, models=["s6", "attn"]).read_text()
    assert "s6 < linattn on polyreg" in whole
    assert "s6 < linattn" not in part
    assert "1 more, on other tasks and models" in part
    sentence = next(line for line in whole.splitlines() if line.startswith("s6 < attn on polyreg"))
    assert sentence in part, "with the same correction"


def test_a_model_that_no_claim_can_name_is_left_out(tmp_path: Path) -> None:
    rows = study(s6=0.3, attn=0.6) + runs([0.1] * 12, model="my model")
    assert made(rows, "s6") == ["attn(positions=none) > s6(positions=none)"]
    write_report(frame_of(rows), tmp_path)
    with pytest.raises(BadInput, match="no other model in this report"):
        write_report(frame_of(rows), tmp_path, models=["my model", "s6"], against="s6")


def test_from_the_command_line(expbench: CommandLine) -> None:
    expbench("run", "--task", "polyreg", "--models", "s6,linattn,ssm", *TINY)
    expbench("run", "--task", "count-in-row", "--models", "ssm", "-t", "classes=3", *TINY)
    answer = expbench("report", "--task", "polyreg", "--models", "linattn", "--against", "s6")
    assert (answer.code, answer.out.strip()) == (0, str(Path("results/report/report.html")))
    text = Path("results/report/report.md").read_text()
    assert "linattn(positions=" in text
    assert "ssm" not in text
    assert "expbench report --results results --task polyreg --models linattn,s6 --against s6" in (
        Path("results/report/report.html").read_text()
    )
    is_bad_input(expbench("report", "--against", "s7"), "did you mean 's6'?")
    is_bad_input(expbench("report", "--task", "count-in-row", "--models", "linattn"), "on count-in-row", "ssm")
    is_bad_input(expbench("report", "--task", "count-in-row", "--against", "s6"), "on count-in-row", "ssm")
    is_bad_input(expbench("report", "--against", "s6", "--models", "s6"), "--against s6")


def is_latex(text: str) -> list[list[str]]:
    """The lines of its tables; every brace and environment is closed, and no character stands that LaTeX would take ill."""
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    opened: list[str] = []
    for kind, environment in re.findall(r"\\(begin|end)\{(\w+)\}", body):
        if kind == "begin":
            opened.append(environment)
        else:
            assert opened.pop() == environment
    assert opened == []
    bare = re.sub(r"\\.", "", body)
    depth = 0
    for character in bare:
        depth += {"{": 1, "}": -1}.get(character, 0)
        assert depth >= 0
    assert depth == 0
    assert bare.count("$") % 2 == 0
    assert set(re.sub(r"\$[^$]*\$", "", bare)) & set("#^_~%") == set()
    lines = []
    for columns, table in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", body, re.DOTALL):
        rows = [line.removesuffix(r" \\").split(" & ") for line in table.splitlines() if line.endswith(r"\\")]
        assert {len(row) for row in rows} == {len(columns)}
        lines += rows
    return lines


def test_the_table_for_a_paper(tmp_path: Path) -> None:
    rows = []
    for L in (8, 16):
        settings = json.dumps({"L": L, "degree": L, "family": "suffix", "formula": "50%_x^2 {a} & ~b #1 \\c", "instance": 0})
        rows += runs([L / 1e5, L / 1e5], L=L, degree=L, task_settings=settings, floor=0.0)
        rows += runs([0.5, None], L=L, degree=L, task_settings=settings, model='odd_"name"$')
    write_report(frame_of(rows), tmp_path)
    text = (tmp_path / "report/report.tex").read_text()
    header, *lines = is_latex(text)
    assert header[:2] == ["model", "L"], "degree follows from L"
    assert {"nmse", "solved", "floor"} <= set(header)
    assert lines[0][:2] == ["s6", "$8$"], "the best first, of each length"
    assert "$8.00 \\times 10^{-5}$" in lines[0]
    assert lines[1][0] == 'odd\\_"name"\\$'
    assert "50\\%\\_x\\textasciicircum{}2 \\{a\\} \\& \\textasciitilde{}b \\#1 \\textbackslash{}c" in text
    assert "expbench report --results" in text.splitlines()[0]


def test_letters_that_latex_has_not() -> None:
    assert escaped("naïve") == "na?ve"

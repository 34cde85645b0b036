"""Claims in a report: what is confounded says so, and what was withdrawn is shown without a verdict."""

import json
from pathlib import Path

import pytest

from expbench.claims.claim import Claim, write
from expbench.report.build import write_report
from tests.report.test_build import frame_of, runs

REASON = "the sides differ in positions; see <b>polynomials</b>"


def folder_of(path: Path, withdrawn: str | None) -> Path:
    """A results folder with two claims, one of them withdrawn."""
    rows = [
        *runs([0.1 + i / 1e3 for i in range(12)], model="s6"),
        *runs([0.5 + i / 1e3 for i in range(12)], model="linattn", model_settings="{}"),
        *runs([0.7 + i / 1e3 for i in range(12)], model="attn", model_settings="{}", positions="sin"),
    ]
    write(Claim("s6 < linattn", "polyreg"), path)
    other = write(Claim("s6(positions=none) < attn(positions=sin)", "polyreg"), path)
    if withdrawn is not None:
        file = path / "claims" / f"{other.hash}.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | {"withdrawn": withdrawn}))
    write_report(frame_of(rows), path)
    return path / "report"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return folder_of(tmp_path_factory.mktemp("withdrawn"), REASON)


def test_a_withdrawn_claim_has_a_section_of_its_own_and_no_verdict(report: Path) -> None:
    text = (report / "report.md").read_text()
    claims, _, rest = text.partition("## Withdrawn claims")
    aside = rest.partition("\n## ")[0]
    assert "s6 < linattn on polyreg is supported" in claims
    assert "attn(positions=sin)" not in claims
    assert "- ~~s6(positions=none) < attn(positions=sin) on polyreg~~ Withdrawn: the sides differ in positions" in aside
    assert "supported" not in aside
    assert "confounded" not in aside


def test_it_is_struck_out_on_the_page_and_its_reason_is_escaped(report: Path) -> None:
    page = (report / "report.html").read_text()
    assert "<s>s6(positions=none) &lt; attn(positions=sin) on polyreg</s> Withdrawn: the sides differ in positions" in page
    assert "<b>polynomials" not in page
    assert page.count("attn(positions=sin)") == 1


def test_a_claim_that_stands_is_judged_and_its_confounders_are_named(tmp_path: Path) -> None:
    report = folder_of(tmp_path, None)
    for name in ("report.md", "report.html"):
        text = (report / name).read_text()
        assert "Withdrawn" not in text
        assert "the sides also differ in positions (none against sin)" in text
    assert "s6(positions=none) &lt; attn(positions=sin)" in text
    assert '<span class="v unsure">confounded</span>' in text
    assert "attn(positions=sin) on polyreg is confounded: " in (report / "report.md").read_text()

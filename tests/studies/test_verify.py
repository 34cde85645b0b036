"""Every number of README.md and docs/studies follows from the committed tables, and a changed number is found."""

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from expbench.errors import BadInput
from expbench.studies.verification.formatting import at_most, ends, fixed, percent, probability, significant, whole
from expbench.studies.verification.page import BoundPage, Page, Place, Setting, Statement, Unverified
from expbench.studies.verification.tables import Tables
from expbench.studies.verify import PAGES, ROOT, main, verify
from tests.conftest import CommandResult, is_bad_input

TABLES = Tables(ROOT)  # read when they are needed, each once


def altered(number: str) -> str:
    """The number with another last digit before its exponent, or another word."""
    digits = re.fullmatch(r"(.*)(\d)((?:e-?\d+)?)", number)
    if digits is None:
        return "seven" if number.lower() != "seven" else "eight"
    return f"{digits[1]}{(int(digits[2]) + 1) % 10}{digits[3]}"


def changes(text: str, places: Sequence[Place]) -> Iterator[tuple[int, str]]:
    """Each text with one changed number, and its line."""
    for place in places:
        changed = text[: place.start] + altered(text[place.start : place.end]) + text[place.end :]
        yield text.count("\n", 0, place.start) + 1, changed


# One test for each page, as its numbers take seconds to compute and workers share nothing.
@pytest.mark.parametrize("page", PAGES, ids=[page.path for page in PAGES])
def test_every_number_of_a_page_follows_from_the_tables_and_a_changed_one_is_found(page: Page) -> None:
    bound, text = BoundPage(page, TABLES), (ROOT / page.path).read_text(encoding="utf-8")
    findings = bound.check(text)
    assert [str(problem) for problem in findings.problems] == []

    matched = [place for place in findings.places if place.kind == "matched"]
    for line, changed in changes(text, matched):  # exactly the changed number is reported
        assert [(problem.line, problem.what) for problem in bound.check(changed).problems] == [(line, "differs")]

    every = text
    for place in reversed(matched):
        every = every[: place.start] + altered(text[place.start : place.end]) + every[place.end :]
    assert bound.check(every).differing == len(matched)
    assert bound.written(every) == text

    exceptions = [place for place in findings.places if place.kind == "exception"]
    assert all(bound.check(changed).problems for _, changed in changes(text, exceptions))
    assert len(exceptions) <= max(5, 0.1 * len(findings.places))
    assert all(len(place.source.split()) >= 3 for place in exceptions)  # a reason

    (new,) = bound.check(text + "\nThe error is .0123.\n").problems
    assert new.what == "unmatched"


def test_every_page_with_results_is_checked() -> None:
    pages = {"README.md", *(f"docs/studies/{path.name}" for path in (ROOT / "docs/studies").glob("*.md"))}
    assert {page.path for page in PAGES} == pages


SMALL = Page(
    "page.md",
    (Statement("an error of {} in {word} runs", lambda _: (".25", "three")),),
    (Setting("width {list}", lambda _: [4, 8]),),
    ("Table {}",),
    (Unverified("after 5 minutes", "measured with a clock"),),
)
TEXT = "Table 2: an error\nof .25 in three runs of `x=7`, S6 and [a](b-9.md) at width 4 or 8 after 5 minutes.\n"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (".25", ".26", "line 2: .26 differs: the tables give .25"),
        ("three", "Three", "line 2: Three differs"),
        ("width 4 or 8", "width 4 or 6", "line 2: 6 is no value of 'width {list}'"),
        ("width", "depth", "line 2: 4 is matched by no statement"),
        ("Table 2", "Table of 2", "line 1: 2 is matched by no statement"),
        ("5 minutes", "6 minutes", "line 2: 6 is matched by no statement"),
        ("an error", "the error", "the statement 'an error of {} in {word} runs' stands 0 times"),
        ("Table 2", "Table 2 has an error of .25 in three runs", "stands 2 times"),
        ("`x=7`", "x = 7", "line 2: 7 is matched by no statement"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(old: str, new: str, message: str) -> None:
    small = BoundPage(SMALL, Tables(ROOT))
    assert small.check(TEXT).problems == []
    assert any(message in str(problem) for problem in small.check(TEXT.replace(old, new)).problems)


def test_two_statements_may_not_give_the_same_number() -> None:
    twice = SMALL._replace(statements=(*SMALL.statements, Statement("{} in three runs", lambda _: (".25",))))
    assert any("both give .25" in str(problem) for problem in BoundPage(twice, Tables(ROOT)).check(TEXT).problems)


def test_a_statement_that_cannot_be_computed_is_a_problem_of_its_own(tmp_path: Path) -> None:
    lost = SMALL._replace(statements=(Statement("an error of {} in {word} runs", lambda t: [t.study("lost").runs]),))
    (problem, *_) = BoundPage(lost, Tables(tmp_path)).check(TEXT).problems
    assert "the tables do not give the numbers" in str(problem)


def test_the_numbers_of_a_page_are_written_in_place(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text(TEXT.replace(".25", ".7"))
    assert verify([SMALL], tmp_path)["page.md"].differing == 1
    assert verify([SMALL], tmp_path, write=True)["page.md"].problems == []
    assert (tmp_path / "page.md").read_text() == TEXT


def test_a_page_that_is_not_there_is_bad_input(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="run this in a checkout"):
        verify([SMALL], tmp_path)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (fixed(0.825, 2), ".83"),  # a little less in binary
        (fixed(-0.114, 2), "-.11"),
        (fixed(12.0, 1), "12.0"),
        (significant(1.9e-6), "2e-6"),
        (significant(0.0341, 2), ".034"),
        (at_most(0.00031), ".0004"),
        (at_most(2.41e-7, 2), "2.5e-7"),
        (at_most(0.002), ".002"),
        (probability(0.352), ".35"),
        (probability(0.00342), ".0034"),
        (probability(1.9e-6), "2e-6"),
        (percent(0.825), "83"),
        (whole(11390), "11,390"),
        (" ".join(ends([0.5, 0.25, 0.31], 1)), ".3 .5"),
    ],
)
def test_numbers_are_written_as_on_the_pages(text: str, expected: str) -> None:
    assert text == expected


def test_only_the_floors_of_the_degree_study_load_torch() -> None:
    program = "import sys, expbench.studies.verify; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_an_unknown_page_is_answered_with_the_nearest() -> None:
    with pytest.raises(BadInput, match=r"did you mean 'docs/studies/table2.md'"):
        main(["docs/studies/table.md"])
    command = [sys.executable, "-m", "expbench.studies.verify", "README"]
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    is_bad_input(CommandResult(answer.returncode, answer.stdout, answer.stderr), "README")

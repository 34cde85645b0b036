"""Check of README.md and docs/studies: every number must follow from the committed tables.

    python -m expbench.studies.verify [--write] [PAGE...]

compares each number with its computation, and exits with 1 if one differs or is matched by no statement. --write replaces
the numbers that differ by the computed ones. It runs in a checkout of the repository.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from expbench.console.formatting import say
from expbench.errors import BadInput, unknown
from expbench.studies.verification import degree, language, others, polynomials, readme, table2
from expbench.studies.verification.page import BoundPage, Findings, Kind, Page
from expbench.studies.verification.tables import Tables

ROOT = Path(__file__).parents[2]
PAGES = (table2.PAGE, polynomials.PAGE, degree.PAGE, language.PAGE, others.PAGE, readme.PAGE)
_WORDS: dict[Kind, str] = {"matched": "matched", "setting": "settings", "name": "in names", "exception": "exceptions"}


def verify(pages: Sequence[Page], root: Path = ROOT, *, write: bool = False) -> dict[str, Findings]:
    """Return the findings on each page, by its path. write: first replace the numbers of the pages that differ."""
    tables = Tables(root)
    found = {}
    for page in pages:
        path = root / page.path
        if not path.is_file():
            raise BadInput(f"{path} is not there; run this in a checkout of the repository")
        bound, text = BoundPage(page, tables), path.read_text(encoding="utf-8")
        if write:
            text = bound.written(text)
            path.write_text(text, encoding="utf-8")
        found[page.path] = bound.check(text)
    return found


def report(pages: Sequence[Page], found: dict[str, Findings]) -> str:
    """Return the counts of each page, its problems, and the exceptions with their reasons."""
    lines = []
    for page in pages:
        findings = found[page.path]
        counts = [f"{findings.count(kind)} {words}" for kind, words in _WORDS.items()]
        counts += [f"{findings.unmatched} unmatched", f"{findings.differing} differ"]
        lines += [f"{page.path}: {', '.join(counts)}", *(f"  {p}" for p in findings.problems)]
    lines += ["Exceptions:"]
    lines += [f"  {page.path}: {exception.text!r}: {exception.reason}" for page in pages for exception in page.exceptions]
    return "\n".join(lines)


def main(arguments: Sequence[str]) -> int:
    """Print the findings; return 1 if there is a problem."""
    known = {page.path: page for page in PAGES}
    names = [argument for argument in arguments if argument != "--write"]
    for name in names:
        if name not in known:
            raise unknown("page or option", name, [*known, "--write"])
    pages = [known[name] for name in names] or PAGES
    found = verify(pages, write="--write" in arguments)
    print(report(pages, found))
    return int(any(findings.problems for findings in found.values()))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except BadInput as error:
        say(f"error: {error}")
        sys.exit(2)

"""Computations of docs/studies/table2.md from results/table2: the study itself."""

from __future__ import annotations

from collections.abc import Sequence

from expbench.claims.claim import read
from expbench.stats.power import POWER
from expbench.studies.verification import table2_counting, table2_regression
from expbench.studies.verification.formatting import percent, whole
from expbench.studies.verification.page import Page, Setting, Statement, Unverified
from expbench.studies.verification.tables import Tables, settings_of

_COUNT = "count-in-row"


def _size(t: Tables) -> Sequence[str]:
    keys = t.study("table2").keys
    return whole(len(keys)), whole(keys["device_name"].str.contains("CPU").sum())


def _unknown(t: Tables) -> Sequence[str]:
    s = t.study("table2")
    counting = s.having(task=_COUNT)
    lengths, steps, batches = ({c[name] for c in counting} for name in ("L", "steps", "batch_size"))
    (length,), (batch,), (labels,) = lengths, batches, {settings_of(c)["classes"] for c in counting}
    rates = min(c.tuning.runs for c in s.configurations if c.tuning is not None)
    return str(length), str(labels), whole(min(steps)), str(batch), str(rates)


def _seeds(t: Tables) -> Sequence[str]:
    (seeds,) = {len(set(c.each("seed"))) for c in t.study("table2").configurations}
    return (str(seeds),)


def _steps_of_codes(t: Tables) -> Sequence[str]:
    (steps,) = {c["steps"] for c in t.study("table2").having(model="s6", positions="sin")}
    return (whole(steps),)


def _withdrawn(t: Tables) -> Sequence[str]:
    claims = read(t.study("table2").folder)
    withdrawn = [claim for claim in claims if claim.withdrawn]
    if not all("differ in positions" in (claim.withdrawn or "") for claim in withdrawn):
        raise ValueError("claims are withdrawn for other reasons")
    return str(len(withdrawn)), str(len(claims))


def _power(t: Tables) -> Sequence[str]:
    """Return the numbers of seeds that the undecided pairs of the claims that stand need."""
    found = [j for f in t.study("table2").findings if not f.claim.withdrawn for j in f.judgements]
    needed = [j.needed for j in found if j.verdict == "undecided"]
    known = [units for units in needed if units is not None]
    few = [units for units in known if units <= 60]
    more = str(len(known) - len(few)), str(max(known))
    return (
        str(len(needed)),
        percent(POWER),
        str(len(few)),
        str(min(few)),
        str(max(few)),
        *more,
        str(len(needed) - len(known)),
    )


PAGE = Page(
    "docs/studies/table2.md",
    (
        Statement("- **Size**: {} runs, about 31 minutes of one H200. {} of the runs were made on a CPU.", _size),
        Statement(
            """the length (here {}, the least for its {} labels), the number of steps (here {} at batch {}), or the
            learning rates (here chosen for each configuration from a grid of at least {} runs on other seeds)""",
            _unknown,
        ),
        Statement("- **Seeds**: {} seeds are reported.", _seeds),
        Statement("**Withdrawn claims.** {} of the {} registered claims compare", _withdrawn),
        Statement("They are post hoc, use {} steps", _steps_of_codes),
        Statement(
            """{} pairs of the claims that stand are undecided. For {} % power {} of them need {} to {} seeds, {} more need
            up to {}, and the differences of the other {} are too small for that.""",
            _power,
        ),
        *table2_counting.STATEMENTS,
        *table2_regression.STATEMENTS,
    ),
    settings=(
        Setting("width {list}", lambda t: [c["D"] for c in t.study("table2").configurations]),
        Setting("widths {list}", lambda t: [c["D"] for c in t.study("table2").configurations]),
    ),
    names=("Table {}", "arXiv {}"),
    exceptions=(Unverified("about 31 minutes of one H200", "many processes shared the GPU; the table has seconds per run"),),
)

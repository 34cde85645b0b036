"""Claims that are false by construction: python benchmarks/null_claims.py RESULTS. How many of twenty are supported?

Of twenty cells of twenty seeds, evenly spaced over the table, the second ten seeds are given another name. Between a model
and itself there is no difference, so that a claim of one is supported by chance alone.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from expbench.claims.claim import Claim
from expbench.claims.verdicts import judge
from expbench.console.formatting import aligned, number
from expbench.results import store
from expbench.results.cells import gather, with_context

CLAIMS, SEEDS = 20, 20


def main(folder: Path) -> None:
    frame, problems = store.read(folder)
    if problems:
        raise SystemExit(problems[0])
    cells = [cell for cell in gather(with_context(frame)) if set(cell.runs["seed"]) == set(range(SEEDS)) and cell.values]
    cells = [cell for cell in cells if cell["well_posed"] is not False and cell.runs["instance"].nunique() == 1]
    if len(cells) < CLAIMS:
        raise SystemExit(
            f"{folder} has {len(cells)} well-posed cells of {SEEDS} seeds and one instance, and {CLAIMS} are needed"
        )
    parts, claims = [], []
    for i in np.linspace(0, len(cells) - 1, CLAIMS).round().astype(int):
        cell = cells[i]
        own = frame[frame["key"].isin(cell.runs["key"])]
        again = own[own["seed"] >= SEEDS // 2]
        name, other = f"{cell['model']}-{i}", f"{cell['model']}-{i}-again"
        parts += [own[own["seed"] < SEEDS // 2].assign(model=name)]
        parts += [again.assign(model=other, seed=again["seed"] - SEEDS // 2)]
        claims.append(Claim(f"{name} {'>' if cell.higher_is_better else '<'} {other}", str(cell["task"])))
    findings = judge(claims, pd.concat(parts))
    lines = [["claim", "difference", "95 % interval", "p", "Holm's p", "verdict"]]
    for finding in findings:
        (j,) = finding.judgements
        spread = f"{number(j.difference.low)} to {number(j.difference.high)}"
        lines.append(
            [finding.claim.text, *map(str, (number(j.difference.center), spread, number(j.p), number(j.holm), j.verdict))]
        )
    print(aligned(lines))
    decided = [j for finding in findings for j in finding.judgements]
    print(
        f"{sum(j.verdict in ('supported', 'contradicted') for j in decided)} of {len(decided)} null claims are decided, "
        f"{sum(j.p <= 0.05 for j in decided)} would without Holm's correction"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

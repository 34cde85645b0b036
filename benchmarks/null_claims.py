"""False positives of claims: python benchmarks/null_claims.py RESULTS counts how many of twenty null claims are supported.

The script takes twenty configurations with twenty seeds, evenly spaced over the table, and renames the second ten seeds to
another model. Both are the same model, so a claim of a difference can be supported only by chance.
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
from expbench.results.configurations import gather, with_context

CLAIMS, SEEDS = 20, 20


def main(folder: Path) -> None:
    frame, problems = store.read(folder)
    if problems:
        raise SystemExit(problems[0])
    configurations = [
        configuration
        for configuration in gather(with_context(frame))
        if set(configuration.runs["seed"]) == set(range(SEEDS)) and configuration.values
    ]
    configurations = [
        configuration
        for configuration in configurations
        if configuration["well_posed"] is not False and configuration.runs["instance"].nunique() == 1
    ]
    if len(configurations) < CLAIMS:
        raise SystemExit(
            f"{folder} has {len(configurations)} well-posed configurations with {SEEDS} seeds and one instance, not {CLAIMS}"
        )
    parts, claims = [], []
    for i in np.linspace(0, len(configurations) - 1, CLAIMS).round().astype(int):
        configuration = configurations[i]
        own = frame[frame["key"].isin(configuration.runs["key"])]
        again = own[own["seed"] >= SEEDS // 2]
        name, other = f"{configuration['model']}-{i}", f"{configuration['model']}-{i}-again"
        parts += [own[own["seed"] < SEEDS // 2].assign(model=name)]
        parts += [again.assign(model=other, seed=again["seed"] - SEEDS // 2)]
        claims.append(Claim(f"{name} {'>' if configuration.higher_is_better else '<'} {other}", str(configuration["task"])))
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
        f"{sum(j.p <= 0.05 for j in decided)} would be without Holm's correction"
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]))

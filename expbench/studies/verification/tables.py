"""The committed tables: rows, configurations and judged claims of each study, read once."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from expbench.claims.claim import Claim, read
from expbench.claims.judgement import ClaimResult, Judgement
from expbench.claims.verdicts import judge
from expbench.errors import BadInput
from expbench.results import store
from expbench.results.configurations import Configuration, gather, with_context
from expbench.results.histories import Trained, of_texts
from expbench.results.reported import reported
from expbench.studies.published.numbers import table2


class Study:
    """A folder with a committed results table and, perhaps, claims."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @cached_property
    def frame(self) -> pd.DataFrame:
        """All rows, with a `context`."""
        frame, problems = store.read(self.folder)
        if problems or frame.empty:
            raise BadInput(problems[0] if problems else f"{self.folder} has no table; run this in a checkout")
        return with_context(frame)

    @cached_property
    def keys(self) -> pd.DataFrame:
        """One row for each run and each tuning run."""
        trained = self.frame[self.frame["kind"].isin(["run", "tuning"])]
        return trained.drop_duplicates("key")

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row for each run that is no tuning run."""
        return self.keys[self.keys["kind"] == "run"]

    @cached_property
    def final(self) -> pd.DataFrame:
        """The reported rows of the runs on the validation and test splits."""
        return self.frame[reported(self.frame) & (self.frame["kind"] == "run")]

    @cached_property
    def configurations(self) -> list[Configuration]:
        """All configurations of the table."""
        return gather(self.frame)

    @cached_property
    def _settings(self) -> list[tuple[Configuration, dict[str, Any]]]:
        return [(c, settings_of(c)) for c in self.configurations]

    @cached_property
    def trained(self) -> list[Trained]:
        """The configurations that were trained in epochs."""
        return [trained for own in of_texts(self.frame, self.configurations).values() for trained in own]

    def having(self, **wanted: object) -> list[Configuration]:
        """Return the configurations with these columns or settings; a tuple or set allows several values."""
        return [c for c, known in self._settings if all(_fits(known.get(name), value) for name, value in wanted.items())]

    def only(self, **wanted: object) -> Configuration:
        """Return the only configuration with these columns or settings."""
        (found,) = self.having(**wanted)
        return found

    @cached_property
    def findings(self) -> list[ClaimResult]:
        """The claims of the folder, judged together; the withdrawn ones, which take nothing from the others, come last."""
        claims = read(self.folder)
        parts = ([claim for claim in claims if (claim.withdrawn is not None) == withdrawn] for withdrawn in (False, True))
        return [result for own in parts for result in judge(own, self.frame, self.configurations)]

    def judgements(self, text: str, **where: str) -> list[Judgement]:
        """Return the judgements of a claim of the folder, by its text and restrictions, at all matched pairs."""
        found = [
            f
            for f in self.findings
            if f.claim.text == text and all(tuple(f.claim.where.get(name, ())) == (value,) for name, value in where.items())
        ]
        if len(found) != 1:
            raise BadInput(f"{self.folder} has {len(found)} claims {text!r}")
        return found[0].judgements

    def post_hoc(self, text: str, task: str, about: Sequence[str] = (), **where: str) -> list[Judgement]:
        """Return the judgements of a claim that nobody made; its p-values are not corrected for the others."""
        claim = Claim(text, task, {k: [v] for k, v in where.items()}, about=about)
        (found,) = judge([claim], self.frame, self.configurations)
        return found.judgements


class Tables:
    """The committed tables below `results/` of a checkout."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.study = cache(lambda name: Study(root / "results" / name))  # by the name of the folder

    def parquet(self, path: str) -> pd.DataFrame:
        """Return a table with columns of its own."""
        return pd.read_parquet(self.root / "results" / path)


def settings_of(configuration: Configuration) -> dict[str, Any]:
    """Return the columns of a configuration with the settings of its model and its task; settings do not hide columns."""
    of_task, of_model = (json.loads(configuration.each(f"{side}_settings")[0]) for side in ("task", "model"))
    return {**of_model, **of_task, **configuration.facts}


def _fits(known: object, wanted: object) -> bool:
    return known in wanted if isinstance(wanted, tuple | set | frozenset) else known == wanted


def of_all(judgements: Sequence[Judgement], *named: str) -> Sequence[str]:
    """Return "N of M" for the first verdict, then the numbers of the others; no judgement may have another verdict."""
    counts = Counter(str(j.verdict) for j in judgements)
    if set(counts) - set(named):
        raise ValueError(f"the verdicts {sorted(counts)} are not only {named}")
    first, *others = (str(counts.get(name, 0)) for name in named)
    return first, str(len(judgements)), *others


def published(task: str, model: str, positions: str, *, depth: int, D: int) -> str:
    """Return a number of the paper's Table 2, as printed to four digits."""
    (row,) = [row for row in table2() if row[:5] == (task, model, positions, depth, D)]
    return f"{row.value:.4g}"

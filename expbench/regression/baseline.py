"""Baselines: committed results that later ones are compared with, and what is run for them, declared in one place.

A baseline is a folder: ``cells.toml`` says what is run, a line a set of cells, and ``table.parquet`` holds what came of it.
It is run anew as a whole and compared by metrics, not by bits, so that another machine than the one that measured it can do
so. What is run is known to a key by the code's versions, which an error leaves as they are: so runs are never taken from an
earlier folder, unless it is named.
"""

from __future__ import annotations

import dataclasses
import tomllib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from expbench.errors import BadInput, first_line, unknown
from expbench.regression import comparison, invariants, matching
from expbench.regression.comparison import Comparison
from expbench.regression.invariants import Broken
from expbench.results import compact, folders, reported, schema, store
from expbench.stats.intervals import CONFIDENCE
from expbench.sweep import campaign
from expbench.sweep.expand import expand
from expbench.sweep.request import Request
from expbench.training.device import choose_device
from expbench.training.epochs.checkpoint import FOLDER as CHECKPOINTS
from expbench.training.job import Job

FOLDER = Path("results/baselines")
CHECKED = Path("results/regress")  # what a check ran, by the name of its baseline
_CELLS, _TABLE = "cells.toml", "table"
_FIELDS = {field.name for field in dataclasses.fields(Request)}
_LISTS = ("task_settings", "model_settings")


class Baseline(NamedTuple):
    """device: where it is run. requests: what is run."""

    name: str
    folder: Path
    device: str
    requests: tuple[Request, ...]

    @property
    def table(self) -> Path:
        """The committed results, which need not be there yet."""
        return self.folder / f"{_TABLE}.parquet"

    def jobs(self) -> list[Job]:
        """All its runs; raises `BadInput` for what the command line would not accept either, and without its device."""
        try:
            choose_device(self.device)
        except BadInput as error:
            raise BadInput(f"baseline {self.name} is run on a GPU, and torch finds none here (expbench doctor)") from error
        found: dict[str, Job] = {}
        for request in self.requests:
            found.update((job.run.key, job) for job in expand(request, self.device))
        return list(found.values())


class Checked(NamedTuple):
    """comparison: of what is with the baseline. broken: what rows record that is not as due."""

    comparison: Comparison
    broken: list[Broken]

    def fails(self, verdicts: Sequence[str]) -> bool:
        """Whether a cell has one of these verdicts, or something recorded is not as due."""
        return bool(self.comparison.failing(verdicts) or self.broken)


def load(name: str) -> Baseline:
    """The baseline of that name below results/baselines, or in the folder of that path; raises `BadInput`."""
    folder = Path(name) if (Path(name) / _CELLS).is_file() else FOLDER / name
    path = folder / _CELLS
    if not path.is_file():
        known = sorted(each.parent.name for each in FOLDER.glob(f"*/{_CELLS}"))
        raise unknown("baseline", name, [*known, f"any folder with a {_CELLS}"] if known else [f"a folder with a {_CELLS}"])
    try:
        declared = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read ({first_line(error)})") from error
    for key in declared:
        if key not in ("device", "every", "cells"):
            raise unknown(f"entry of {path}:", key, ("device", "every", "cells"))
    device, every, cells = declared.get("device", "cpu"), declared.get("every", {}), declared.get("cells", [])
    if device not in ("cpu", "cuda"):
        raise unknown(f"device of {path}:", device, ("cpu", "cuda"))
    if not isinstance(every, dict) or not isinstance(cells, list) or not all(isinstance(cell, dict) for cell in cells):
        raise BadInput(f"{path}: every is one table of options and cells a list of such, as cells = [{{ task = ... }}]")
    if not cells:
        raise BadInput(f"{path} declares no cells, as cells = [{{ task = 'polyreg', models = 's6' }}]")
    return Baseline(folder.name, folder, device, tuple(_request({**every, **cell}, path) for cell in cells))


def _request(options: Mapping[str, Any], path: Path) -> Request:
    """The options of `expbench run`, with _ for -; settings are lists of NAME=V."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _FIELDS:
            raise unknown(f"option of a cell in {path}:", name, _FIELDS)
        if name in _LISTS:
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise BadInput(f"{path}: {name} is a list of texts, as {name} = ['classes=4']")
            given[name] = tuple(value)
        elif name == "paired":
            if not isinstance(value, bool):
                raise BadInput(f"{path}: paired is true or false")
            given[name] = value
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadInput(f"{path}: {name} is a text or a number, as {name} = '1,2'")
        else:
            given[name] = str(value)
    for name in ("task", "models"):
        if name not in given:
            raise BadInput(f"{path}: a cell lacks {name} (it has {', '.join(given) or 'nothing'})")
    return Request(**given)


def fresh(folder: Path, own: bool) -> Path:
    """An empty folder for runs. own: it is a check's own, and what an earlier check left there is removed, checkpoints too.

    Raises `BadInput` where another holds results: those would be taken for what is.
    """
    folders.open_folder(str(folder))
    for path in (*folder.glob("*.parquet"), *folder.glob(f"{CHECKPOINTS}/*/*")):
        if not (own and (schema.NAMED.fullmatch(path.stem) or path.suffix == ".safetensors")):
            raise BadInput(f"--results: {folder} holds results ({path.name}), and a check runs all anew: name another")
        path.unlink()
    return folder


def run(jobs: Sequence[Job], folder: Path, device: str, say: Callable[[str], None]) -> None:
    """Run jobs into a folder; what fails is a row there."""
    campaign.run(jobs, campaign.How(folder, device), say)


def check(baseline: Baseline, jobs: Sequence[Job], folder: Path, command: str, confidence: float = CONFIDENCE) -> Checked:
    """Compare what the folder holds of these jobs with what the baseline holds of them; raises `BadInput` without either."""
    if not baseline.table.is_file():
        raise BadInput(f"{baseline.folder} has no {baseline.table.name} to compare with; {command} makes it")
    keys = {job.run.key for job in jobs}
    new = _of(store.read(folder, columns()).frame, keys)
    base, problems = store.read(baseline.table, columns())
    if problems:
        raise BadInput(problems[0])
    names = (str(baseline.folder), str(folder))
    return Checked(comparison.compare(base, new, names, confidence), invariants.broken(new, base))


def replace(baseline: Baseline, jobs: Sequence[Job], folder: Path) -> int:
    """Make what the folder holds of these jobs the baseline, and return how many rows that is; raises `BadInput` if one of
    them is missing or failed."""
    keys = {job.run.key for job in jobs}
    status, problems = store.statuses(folder)
    if problems:
        raise BadInput(problems[0])
    lacks = [job for job in jobs if status.get(job.run.key, "failed") == "failed"]
    if lacks:
        raise BadInput(
            f"{folder} lacks {len(lacks)} of the {len(jobs)} runs that {baseline.folder / _CELLS} declares, or they failed: "
            f"{lacks[0].run.title()}, say"
        )
    return len(compact.collect(folder, baseline.folder, _TABLE, lambda frame: frame["key"].isin(keys) & _kept(frame)))


def _kept(frame: pd.DataFrame) -> pd.Series[bool]:
    """What a check compares: the results, and the fingerprints. Rates and norms are judged by what was declared."""
    results = reported.endings(frame) & ~frame["metric"].isin([invariants.RATE, invariants.NORM])
    return results | frame["metric"].isin(invariants.FINGERPRINTS)


def columns() -> list[str]:
    """Those of the results table that a check reads."""
    return list(dict.fromkeys([*matching.COLUMNS, *invariants.COLUMNS]))


def _of(frame: pd.DataFrame, keys: set[str]) -> pd.DataFrame:
    return frame[frame["key"].isin(keys)]

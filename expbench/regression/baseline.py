"""Baselines: committed results and the runs that produce them, declared in one place.

A baseline is a folder: each line of ``configurations.toml`` declares a set of configurations, and ``table.parquet``
holds their results. A check reruns all of them and compares metrics, not bits, so that it also works on another machine. The
key of a run contains the versions of the code, which do not change when an error slips in. A check therefore never reuses
earlier runs unless their folder is named.
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
from expbench.sweep import sweep
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.device import choose_device
from expbench.training.epochs.checkpoint import FOLDER as CHECKPOINTS
from expbench.training.job import Job

FOLDER = Path("results/baselines")
INSTALLED = Path(__file__).parents[1] / "baselines"  # the same folder in a wheel, for use outside a checkout
CHECKED = Path("results/regress")  # runs of checks, by the name of the baseline
_CONFIGURATIONS, _FORMER, _TABLE = "configurations.toml", "cells.toml", "table"
_FIELDS = {field.name for field in dataclasses.fields(SweepSpec)}
_LISTS = ("task_settings", "model_settings")


class Baseline(NamedTuple):
    """A declared baseline. device: where it runs. requests: the runs that it declares."""

    name: str
    folder: Path
    device: str
    requests: tuple[SweepSpec, ...]

    @property
    def table(self) -> Path:
        """Path of the committed results, which may not exist yet."""
        return self.folder / f"{_TABLE}.parquet"

    def jobs(self) -> list[Job]:
        """Return all its runs; raise `BadInput` for invalid options or if its device is missing."""
        try:
            choose_device(self.device)
        except BadInput as error:
            raise BadInput(f"baseline {self.name} needs a GPU, but torch finds none here (see expbench doctor)") from error
        found: dict[str, Job] = {}
        for request in self.requests:
            found.update((job.run.key, job) for job in expand(request, self.device))
        return list(found.values())


class Checked(NamedTuple):
    """Result of a check: the comparison with the baseline and the violated invariants (`broken`)."""

    comparison: Comparison
    broken: list[Broken]

    def fails(self, verdicts: Sequence[str]) -> bool:
        """Return whether a configuration has one of these verdicts or an invariant is violated."""
        return bool(self.comparison.failing(verdicts) or self.broken)


def load(name: str) -> Baseline:
    """Load a baseline by its folder, or by its name below results/baselines or in the wheel, or raise `BadInput`."""
    places = [Path(name), FOLDER / name, INSTALLED / name]
    folder = next((place for place in places if (place / _CONFIGURATIONS).is_file()), FOLDER / name)
    path = folder / _CONFIGURATIONS
    if not path.is_file():
        for former in (Path(name) / _FORMER, FOLDER / name / _FORMER):
            if former.is_file():
                raise BadInput(f"rename {former} to {_CONFIGURATIONS}, and its entry `cells` to `configurations`")
        known = sorted({each.parent.name for place in (FOLDER, INSTALLED) for each in place.glob(f"*/{_CONFIGURATIONS}")})
        raise unknown("baseline", name, [*known, f"{'any' if known else 'a'} folder with a {_CONFIGURATIONS}"])
    try:
        declared = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadInput(f"{path} cannot be read ({first_line(error)})") from error
    for key in declared:
        if key not in ("device", "every", "configurations"):
            raise unknown(f"entry of {path}:", key, ("device", "every", "configurations"))
    device, every = declared.get("device", "cpu"), declared.get("every", {})
    configurations = declared.get("configurations", [])
    if device not in ("cpu", "cuda"):
        raise unknown(f"device of {path}:", device, ("cpu", "cuda"))
    if (
        not isinstance(every, dict)
        or not isinstance(configurations, list)
        or not all(isinstance(c, dict) for c in configurations)
    ):
        raise BadInput(
            f"{path}: every must be a table of options, and configurations a list of tables, "
            "e.g. configurations = [{ task = ... }]"
        )
    if not configurations:
        raise BadInput(
            f"{path} declares no configurations; write e.g. configurations = [{{ task = 'polyreg', models = 's6' }}]"
        )
    return Baseline(folder.name, folder, device, tuple(_request({**every, **c}, path) for c in configurations))


def _request(options: Mapping[str, Any], path: Path) -> SweepSpec:
    """Build a request from options of `expbench run`, with _ for -; settings are lists of NAME=V."""
    given: dict[str, Any] = {}
    for name, value in options.items():
        if name not in _FIELDS:
            raise unknown(f"option of an entry in {path}:", name, _FIELDS)
        if name in _LISTS:
            if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
                raise BadInput(f"{path}: {name} must be a list of strings, e.g. {name} = ['classes=4']")
            given[name] = tuple(value)
        elif name == "paired":
            if not isinstance(value, bool):
                raise BadInput(f"{path}: paired must be true or false")
            given[name] = value
        elif isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadInput(f"{path}: {name} must be a string or a number, e.g. {name} = '1,2'")
        else:
            given[name] = str(value)
    if given.get("lr") == "auto":
        raise BadInput(
            f"{path}: lr = 'auto' would be tuned anew at every check; write the number that was chosen, e.g. lr = 0.01"
        )
    for name in ("task", "models"):
        if name not in given:
            raise BadInput(f"{path}: an entry lacks {name} (it has {', '.join(given) or 'nothing'})")
    return SweepSpec(**given)


def fresh(folder: Path, own: bool) -> Path:
    """Return an empty folder for runs. own: whether it is the default folder of a check, whose old files are deleted.

    Raise `BadInput` if another folder already holds results, since they would be compared as new ones.
    """
    folders.open_folder(str(folder))
    checkpoints = folder / CHECKPOINTS
    if any(path.is_symlink() for path in (checkpoints, *checkpoints.glob("*"))):
        raise BadInput(f"--results: {checkpoints} is or holds a link, which is not followed; name another folder")
    for path in (*folder.glob("*.parquet"), *checkpoints.glob("*/*")):
        if not (own and (schema.NAMED.fullmatch(path.stem) or path.suffix == ".safetensors")):
            raise BadInput(
                f"--results: {folder} holds results ({path.name}), but a check reruns everything; name another folder"
            )
        path.unlink()
    return folder


def run(jobs: Sequence[Job], folder: Path, device: str, say: Callable[[str], None]) -> None:
    """Run jobs into a folder; a failed run is a row there."""
    sweep.run(jobs, sweep.SweepOptions(folder, device), say)


def check(baseline: Baseline, jobs: Sequence[Job], folder: Path, command: str, confidence: float = CONFIDENCE) -> Checked:
    """Compare the results of these jobs in the folder with the baseline; raise `BadInput` if either has none."""
    if not baseline.table.is_file():
        raise BadInput(f"{baseline.folder} has no {baseline.table.name} to compare with; {command} creates it")
    keys = {job.run.key for job in jobs}
    new = _of(store.read(folder, columns()).frame, keys)
    base, problems = store.read(baseline.table, columns())
    if problems:
        raise BadInput(problems[0])
    names = (str(baseline.folder), str(folder))
    return Checked(comparison.compare(base, new, names, confidence), invariants.broken(new, base))


def require_own(baseline: Baseline) -> None:
    """Raise `BadInput` for a baseline of the installed package, which is compared with and not replaced."""
    if baseline.folder.is_relative_to(INSTALLED):
        raise BadInput(
            f"baseline {baseline.name} belongs to the installed expbench; "
            f"copy {baseline.folder} to {FOLDER / baseline.name} to have one of your own"
        )


def replace(baseline: Baseline, jobs: Sequence[Job], folder: Path) -> int:
    """Replace the baseline by the results of these jobs in the folder, and return the number of rows.

    Raise `BadInput` if a job is missing or failed.
    """
    keys = {job.run.key for job in jobs}
    status, problems = store.statuses(folder)
    if problems:
        raise BadInput(problems[0])
    lacks = [job for job in jobs if status.get(job.run.key, "failed") == "failed"]
    if lacks:
        raise BadInput(
            f"{len(lacks)} of the {len(jobs)} runs in {baseline.folder / _CONFIGURATIONS} are "
            f"missing from {folder} or failed, e.g. {lacks[0].run.title()}"
        )
    return len(compact.collect(folder, baseline.folder, _TABLE, lambda frame: frame["key"].isin(keys) & _kept(frame)))


def _kept(frame: pd.DataFrame) -> pd.Series[bool]:
    """Select the rows that a check compares: results and checksums. Learning rates and norms follow from the declaration."""
    results = reported.endings(frame) & ~frame["metric"].isin([invariants.RATE, invariants.NORM])
    return results | frame["metric"].isin(invariants.CHECKSUMS)


def columns() -> list[str]:
    """Return the columns of the results table that a check reads."""
    return list(dict.fromkeys([*matching.COLUMNS, *invariants.COLUMNS]))


def _of(frame: pd.DataFrame, keys: set[str]) -> pd.DataFrame:
    return frame[frame["key"].isin(keys)]

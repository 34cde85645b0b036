"""The campaign: a sweep whose learning rates are chosen first, where `--lr auto` asks for that.

Each cell is trained at every rate of the grid with reserved seeds; of what it reaches on the selection split its rate is
chosen, and then the runs that are reported are trained at it. Models that are compared share the grid, which is extended
for all of them until every chosen rate lies inside. Tuning runs are rows like others, of kind `tuning`, so that an
interrupted campaign goes on where it was, and anyone can choose again.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from expbench import sweep, table
from expbench.grid import Job
from expbench.preview import preview as what_runs
from expbench.progress import Progress, work
from expbench.rates import LADDER, RESERVED, START, TUNING_RUNS, at_the_cap, choose, extended
from expbench.run import Run
from expbench.sweep import Plan

Key = tuple[object, ...]


class How(NamedTuple):
    """How jobs are run.

    tunes: their rates are chosen first, by so many `tuning_runs` at each. shard: (i, n), the part that is this process's.
    seconds: when they have passed, no further stack is begun. largest: most runs in a stack.
    """

    folder: Path
    device: str
    tunes: bool = False
    shard: tuple[int, int] = (1, 1)
    seconds: float | None = None
    save_weights: bool = False
    fail_fast: bool = False
    largest: int | None = None
    tuning_runs: int = TUNING_RUNS


class Ended(NamedTuple):
    """How runs ended, tuning runs among them; and whether it was stopped before all were run."""

    counts: Counter[str]
    stopped: bool


def run(jobs: Sequence[Job], how: How, say: Callable[[str], None]) -> Ended:
    """Run what the folder lacks of `jobs`; an interrupt passes through, and the same call goes on from there."""
    ends = math.inf if how.seconds is None else time.monotonic() + how.seconds
    counts: Counter[str] = Counter()
    jobs = share(jobs, how.shard, whole_places=how.tunes)
    if how.tunes:
        cells = by_cell(jobs)
        places = {cell: place_of(group[0].run) for cell, group in cells.items()}
        grids: dict[Key, tuple[float, ...]] = dict.fromkeys(places.values(), START)
        while True:
            tuning = {cell: tuning_jobs(group, grids[places[cell]], how.tuning_runs) for cell, group in cells.items()}
            every = [job for group in tuning.values() for job in group]
            if not _sweep(every, how, ends, counts, say, "choosing learning rates, "):
                return Ended(counts, stopped=True)
            chosen = _chosen(tuning, how.folder)
            wider = {p: extended(g, [rate for cell, rate in chosen.items() if places[cell] == p]) for p, g in grids.items()}
            if wider == grids:
                break
            grids = wider
        for line in _summary(chosen, {cell: grids[place] for cell, place in places.items()}, how.tuning_runs):
            say(line)
        jobs = [with_rate(job, chosen.get(cell, START[0])) for cell, group in cells.items() for job in group]
    finished = _sweep(jobs, how, ends, counts, say, "")
    return Ended(counts, stopped=not finished)


def preview(jobs: Sequence[Job], how: How) -> str:
    """What `run` would do, with an estimate of the time."""
    jobs, notes = share(jobs, how.shard, whole_places=how.tunes), []
    if how.tunes:
        tuning = [job for cell in by_cell(jobs).values() for job in tuning_jobs(cell, START, how.tuning_runs)]
        jobs = [*tuning, *jobs]
        rates = ", ".join(f"{rate:g}" for rate in START)
        notes = [f"{len(tuning)} runs choose learning rates, from {rates}, and from more if the best is the first or last"]
    return "\n".join([what_runs(sweep.plan(jobs, how.folder), how.device, how.largest), *notes])


def share(jobs: Sequence[Job], part: tuple[int, int], *, whole_places: bool) -> list[Job]:
    """The part (i, n) of the jobs, such that what is trained together, or has one grid of rates, stays together if it can.

    Groups of jobs that differ in seed, instance, rate and degree alone, or in the model too, go to the part that has the
    least work yet, the largest first; but every n-th job to each where there are fewer than 2 n groups.
    """
    i, n = part
    groups: dict[Key, list[Job]] = {}
    for job in jobs if n > 1 else ():
        alike = dataclasses.replace(job.run, task_settings=job.run.task_settings | {"degree": None})
        groups.setdefault(place_of(alike) if whole_places else cell_of(alike), []).append(job)
    if not groups or (len(groups) < 2 * n and not whole_places):
        return list(jobs)[i - 1 :: n]
    loads, own = [0.0] * n, []
    for group in sorted(groups.values(), key=lambda group: -sum(map(work, group))):
        least = loads.index(min(loads))
        loads[least] += sum(map(work, group))
        if least == i - 1:
            own.append(group)
    return [job for group in own for job in group]


def cell_of(run: Run) -> Key:
    """What a rate is chosen for: all of a run but rate, seed and instance."""
    settings = {k: v for k, v in run.task_settings.items() if k != "instance"}
    return tuple(map(str, vars(dataclasses.replace(run, lr=1.0, seed=0, task_settings=settings)).values()))


def place_of(run: Run) -> Key:
    """What models are compared at: all of a run but rate, seed, instance, and what the model is."""
    anyone = dataclasses.replace(run, model="", model_version="", model_settings={}, D=1, depth=1, positions="none")
    return cell_of(anyone)


def by_cell(jobs: Iterable[Job]) -> dict[Key, list[Job]]:
    """Jobs by the cell that they belong to."""
    cells: dict[Key, list[Job]] = {}
    for job in jobs:
        cells.setdefault(cell_of(job.run), []).append(job)
    return cells


def with_rate(job: Job, rate: float) -> Job:
    """The same job at another learning rate."""
    return job._replace(run=dataclasses.replace(job.run, lr=rate))


def tuning_jobs(cell: Sequence[Job], rates: Sequence[float], runs: int = TUNING_RUNS) -> list[Job]:
    """The runs that choose a cell's rate: reserved seeds; of an instance of its own each where the cell has several."""
    several = len({job.task.instance for job in cell}) > 1
    found = []
    for rate in rates:
        for k in range(runs):
            task = dataclasses.replace(cell[0].task, instance=RESERVED + k) if several else cell[0].task
            settings = {**cell[0].run.task_settings, "instance": task.instance}
            run = dataclasses.replace(cell[0].run, lr=rate, seed=RESERVED + k, task_settings=settings)
            found.append(cell[0]._replace(run=run, task=task))
    return found


def _chosen(tuning: Mapping[Key, Sequence[Job]], folder: Path) -> dict[Key, float]:
    """The rate of each cell, by what its tuning runs reached; none where all failed, or the model is not supported."""
    values = table.selected(folder, {job.run.key for jobs in tuning.values() for job in jobs})
    chosen = {}
    for cell, jobs in tuning.items():
        tried: dict[float, list[float | None]] = {}
        for job in jobs:
            tried.setdefault(job.run.lr, []).append(values.get(job.run.key))
        if any(value is not None for reached in tried.values() for value in reached):
            chosen[cell] = choose(tried, jobs[0].task.higher_is_better)
    return chosen


def _sweep(jobs: Sequence[Job], how: How, ends: float, counts: Counter[str], say: Callable[[str], None], what: str) -> bool:
    """Run what is missing; false if that was stopped before its end, by time or by a failure."""
    plan = sweep.plan(jobs, how.folder)
    say(f"{what}{count(plan)} on {how.device}, into {how.folder}")
    progress = Progress(plan.missing)
    keep = how.save_weights and not what
    try:
        options = sweep.Options(save_weights=keep, fail_fast=how.fail_fast, largest=how.largest, ends=ends)
        ended = sweep.run(plan, how.folder, how.device, progress, options)
    finally:
        progress.close()
    counts.update(ended)
    return sum(ended.values()) == len(plan.missing)


def count(plan: Plan) -> str:
    """How many runs there are, are done and are missing."""
    again = f", {plan.failed_before} of them failed before" if plan.failed_before else ""
    return f"{len(plan.jobs)} runs: {len(plan.jobs) - len(plan.missing)} done, {len(plan.missing)} to run{again}"


def _summary(chosen: Mapping[Key, float], grids: Mapping[Key, tuple[float, ...]], runs: int) -> list[str]:
    """A line for each grid: how many tuning runs each cell had, and which rates were chosen."""
    lines = []
    for grid in sorted(set(grids.values())):
        rates = Counter(rate for cell, rate in chosen.items() if grids[cell] == grid)
        picked = ", ".join(f"{rate:g} ({n} cells)" for rate, n in sorted(rates.items()))
        capped = sum(n for rate, n in rates.items() if at_the_cap(rate))
        end = f"; {capped} at the cap, beyond which nothing is tried ({LADDER[0]:g} to {LADDER[-1]:g})" if capped else ""
        lines.append(f"learning rates from {len(grid)} x {runs} tuning runs a cell: {picked}{end}")
    return lines

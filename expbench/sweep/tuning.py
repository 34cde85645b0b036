"""Tuning: how the learning rate of each cell is chosen, where `--lr auto` asks for that.

Each cell is trained at every rate of the grid with reserved seeds; of what it reaches on the selection split its rate is
chosen, and then the runs that are reported are trained at it. Models that are compared share the grid, which is extended
for all of them until every chosen rate lies inside. Tuning runs are rows like others, of kind `tuning`, so that an
interrupted campaign goes on where it was, and anyone can choose again.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from expbench.results import reported, store
from expbench.results.identity import identity
from expbench.results.learning_rates import LADDER, RESERVED, START, TUNING_RUNS, at_the_cap, choose, extended
from expbench.run import Run
from expbench.training.job import Job

Key = str  # an identity
Grid = tuple[float, ...]


class RateSearch:
    """Which runs are wanted, as far as the tuning runs tell that have ended: grids grow, rates are chosen.

    runs: at each rate of a cell.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path, runs: int) -> None:
        self._folder, self._runs = folder, runs
        self._cells = by_cell(jobs)
        self._places = {cell: place_of(group[0].run) for cell, group in self._cells.items()}
        self._grids: dict[Key, Grid] = dict.fromkeys(self._places.values(), START)
        self._tuning = {cell: tuning_jobs(group, START, runs) for cell, group in self._cells.items()}
        self._rates: dict[Key, float | None] = {}  # of cells whose grid has its final size

    def stages(self, say: Callable[[str], None]) -> Iterator[tuple[str, list[Job]]]:
        """What to run, each stage with its title: the tuning runs of all grids as they stand; then, of cells whose rates are
        known, the others.

        What has been run is looked at between two stages; says which rates were chosen.
        """
        while len(self._rates) < len(self._cells):
            yield "choosing learning rates, ", [job for jobs in self._tuning.values() for job in jobs]
            if not self._look():
                if len(self._rates) == len(self._cells):
                    for line in self._summary():
                        say(line)
                break
        yield "", [with_rate(job, rate or START[0]) for cell, rate in self._rates.items() for job in self._cells[cell]]

    def _look(self) -> bool:
        """Where all tuning runs of a place have ended, let its grid grow or settle its rates; true if a grid has grown."""
        ended, _ = store.statuses(self._folder)
        open_: dict[Key, list[Key]] = {}
        for cell, place in self._places.items():
            if cell not in self._rates:
                open_.setdefault(place, []).append(cell)
        ready = {p: cells for p, cells in open_.items() if all(j.run.key in ended for c in cells for j in self._tuning[c])}
        chosen = _chosen({cell: self._tuning[cell] for cells in ready.values() for cell in cells}, self._folder)
        grown = False
        for place, cells in ready.items():
            grid = self._grids[place]
            self._grids[place] = extended(grid, [chosen[cell] for cell in cells if cell in chosen])
            more = [rate for rate in self._grids[place] if rate not in grid]
            for cell in cells:
                if more:
                    self._tuning[cell] += tuning_jobs(self._cells[cell], more, self._runs)
                else:
                    self._rates[cell] = chosen.get(cell)
            grown = grown or bool(more)
        return grown

    def _summary(self) -> list[str]:
        """A line for each grid: how many tuning runs each cell had, and which rates were chosen."""
        lines = []
        for grid in sorted(set(self._grids.values())):
            rates = Counter(rate for cell, rate in self._rates.items() if rate and self._grids[self._places[cell]] == grid)
            picked = ", ".join(f"{rate:g} ({n} cells)" for rate, n in sorted(rates.items()))
            capped = sum(n for rate, n in rates.items() if at_the_cap(rate))
            end = f"; {capped} at the cap, beyond which nothing is tried ({LADDER[0]:g} to {LADDER[-1]:g})" if capped else ""
            lines.append(f"learning rates from {len(grid)} x {self._runs} tuning runs a cell: {picked}{end}")
        return lines


def cell_of(run: Run, *without: str) -> Key:
    """Return what a rate is chosen for: all of a run but rate, seed and instance, and what else is left out."""
    return identity(run, {"rate", "seed", "instance", *without})


def place_of(run: Run, *without: str) -> Key:
    """Return what models are compared at: all of a run but rate, seed, instance, what the model is, and what is left out."""
    return cell_of(run, "model", "model_version", "size", "positions", *without)


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
    values = reported.selected(folder, {job.run.key for jobs in tuning.values() for job in jobs})
    chosen = {}
    for cell, jobs in tuning.items():
        tried: dict[float, list[float | None]] = {}
        for job in jobs:
            tried.setdefault(job.run.lr, []).append(values.get(job.run.key))
        if any(value is not None for reached in tried.values() for value in reached):
            chosen[cell] = choose(tried, jobs[0].task.higher_is_better)
    return chosen

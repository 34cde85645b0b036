"""Tuning: the choice of a learning rate for each configuration, requested by `--lr auto`.

Each configuration is trained at every rate of the grid with reserved seeds. Its rate is chosen by the results on the
validation split, and the reported runs are then trained at that rate. Models that are compared share one grid, which is
extended for all of them until every chosen rate lies inside it. If the outcomes of one are still bimodal, all of them get
more tuning runs, with further reserved seeds. Tuning runs are ordinary rows of kind `tuning`, so that an interrupted sweep
resumes and the choice can be repeated from the table.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from expbench.results import reported, store
from expbench.results.identity import identity
from expbench.results.learning_rates import (
    BIMODAL_RUNS,
    INITIAL_GRID,
    RATE_GRID,
    RESERVED,
    TUNING_RUNS,
    Criterion,
    Tried,
    at_grid_boundary,
    bimodal,
    choose,
    extended,
    hopeless,
    middle,
)
from expbench.run import Run
from expbench.task import Task
from expbench.training.job import Job

Key = str  # an identity
Grid = tuple[float, ...]


class RateSearch:
    """State of a learning-rate search: grids and numbers of runs grow, and rates are chosen, as tuning runs end.

    runs: number of tuning runs at each rate of a configuration at first. If it is 1, it never grows.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path, runs: int) -> None:
        self._folder = folder
        self._configurations = by_configuration(jobs)
        self._places = {c: pair_of(group[0].run) for c, group in self._configurations.items()}
        self._grids: dict[Key, Grid] = dict.fromkeys(self._places.values(), INITIAL_GRID)
        self._runs: dict[Key, int] = dict.fromkeys(self._places.values(), runs)
        self._tuning = {c: tuning_jobs(group, INITIAL_GRID, runs) for c, group in self._configurations.items()}
        self._rates: dict[Key, float] = {}  # for configurations whose grid is final

    def stages(self, say: Callable[[str], None]) -> Iterator[tuple[str, list[Job]]]:
        """Yield stages (title, jobs): the tuning runs of all current grids, then the reported runs of configurations whose
        rates are known.

        Results are read between two stages. `say` receives the summary of the chosen rates.
        """
        while len(self._rates) < len(self._configurations):
            yield "choosing learning rates, ", [job for jobs in self._tuning.values() for job in jobs]
            if not self._look():
                if len(self._rates) == len(self._configurations):
                    for line in self._summary():
                        say(line)
                break
        yield "", [with_rate(job, rate) for c, rate in self._rates.items() for job in self._configurations[c]]

    def foreseen(self) -> tuple[list[Job], list[Job], list[Job]]:
        """Return the tuning runs that the results so far ask for, the reported runs whose rate is chosen, and the others at
        the middle rate of the initial grid."""
        while self._folder.is_dir() and len(self._rates) < len(self._configurations) and self._look():
            pass  # the runs of a grid that grew may have ended too
        chosen = [with_rate(job, rate) for c, rate in self._rates.items() for job in self._configurations[c]]
        waiting = [
            with_rate(job, middle(INITIAL_GRID))
            for c, jobs in self._configurations.items()
            if c not in self._rates
            for job in jobs
        ]
        return [job for jobs in self._tuning.values() for job in jobs], chosen, waiting

    def _look(self) -> bool:
        """Extend the tuning or fix the rates of each comparison whose tuning runs have ended; return whether one grew."""
        ended, _ = store.statuses(self._folder)
        open_: dict[Key, list[Key]] = {}
        for configuration, place in self._places.items():
            if configuration not in self._rates:
                open_.setdefault(place, []).append(configuration)
        ready = {
            p: configurations
            for p, configurations in open_.items()
            if all(j.run.key in ended for c in configurations for j in self._tuning[c])
        }
        tried = _tried({c: self._tuning[c] for configurations in ready.values() for c in configurations}, self._folder)
        grown = [self._grow(place, {c: tried[c] for c in cs if c in tried}) for place, cs in ready.items()]
        for (place, configurations), more in zip(ready.items(), grown, strict=True):
            for configuration in configurations:
                if more:
                    jobs, runs = self._configurations[configuration], self._runs[place]
                    self._tuning[configuration] = tuning_jobs(jobs, self._grids[place], runs)
                elif configuration in tried:
                    self._rates[configuration] = choose(tried[configuration], self._criterion(configuration))
                else:
                    self._rates[configuration] = middle(self._grids[place])
        return any(grown)

    def _grow(self, place: Key, tried: Mapping[Key, Tried]) -> bool:
        """Extend the grid of a comparison, or else its number of tuning runs; return whether it needed that."""
        grid, runs = self._grids[place], self._runs[place]
        leading = [min(own) if hopeless(own) else choose(own, self._criterion(c)) for c, own in tried.items()]
        self._grids[place] = extended(grid, leading)
        several = runs > 1 and any(bimodal(own, self._criterion(c)) for c, own in tried.items())
        if self._grids[place] == grid and several:
            self._runs[place] = max(runs, BIMODAL_RUNS)
        return (self._grids[place], self._runs[place]) != (grid, runs)

    def _criterion(self, configuration: Key) -> Criterion:
        task = self._configurations[configuration][0].task
        return Criterion(task.higher_is_better, task.success_threshold)

    def _summary(self) -> list[str]:
        """Return one line per grid and number of runs: the tuning runs of each configuration and the chosen rates."""
        lines = []
        of = {c: (self._grids[place], self._runs[place]) for c, place in self._places.items()}
        for grid, runs in sorted(set(of.values())):
            rates = Counter(rate for c, rate in self._rates.items() if of[c] == (grid, runs))
            picked = ", ".join(f"{rate:g} ({n} configuration{'s' * (n != 1)})" for rate, n in sorted(rates.items()))
            capped = sum(n for rate, n in rates.items() if at_grid_boundary(rate))
            limits = f"{RATE_GRID[0]:g} to {RATE_GRID[-1]:g}"
            end = f"; {capped} at the grid boundary, beyond which no rate is tried ({limits})" if capped else ""
            lines.append(f"learning rates from {len(grid)} x {runs} tuning runs per configuration: {picked}{end}")
        return lines


def configuration_of(run: Run, *without: str) -> Key:
    """Return the identity of a run without rate, seed, instance and the fields in `without`: the unit of tuning."""
    return identity(run, {"rate", "seed", "instance", *without})


def pair_of(run: Run, *without: str) -> Key:
    """Return the settings that compared models share: `configuration_of` without the fields that describe the model."""
    return configuration_of(run, "model", "model_version", "size", "positions", "position_base", *without)


def by_configuration(jobs: Iterable[Job]) -> dict[Key, list[Job]]:
    """Group jobs by configuration."""
    configurations: dict[Key, list[Job]] = {}
    for job in jobs:
        configurations.setdefault(configuration_of(job.run), []).append(job)
    return configurations


def with_rate(job: Job, rate: float) -> Job:
    """Return a job with another learning rate."""
    return job._replace(run=dataclasses.replace(job.run, lr=rate))


def tuning_jobs(configuration: Sequence[Job], rates: Sequence[float], runs: int = TUNING_RUNS) -> list[Job]:
    """Return the tuning runs of a configuration, with reserved seeds, and reserved instances if it has several instances."""
    several = len({job.task.instance for job in configuration}) > 1
    found = []
    for rate in rates:
        for k in range(runs):
            task = _reserved(configuration[0].task, k) if several else configuration[0].task
            settings = {**configuration[0].run.task_settings, "instance": task.instance}
            run = dataclasses.replace(configuration[0].run, lr=rate, seed=RESERVED + k, task_settings=settings)
            found.append(configuration[0]._replace(run=run, task=task))
    return found


@cache
def _reserved(task: Task, k: int) -> Task:
    """Return a task on a reserved instance; made once, since many configurations have the same tasks."""
    return dataclasses.replace(task, instance=RESERVED + k)


def _tried(tuning: Mapping[Key, Sequence[Job]], folder: Path) -> dict[Key, Tried]:
    """Return the results of the tuning runs of each configuration; omit those whose runs all failed or are unsupported."""
    values = reported.selected(folder, {job.run.key for jobs in tuning.values() for job in jobs})
    found: dict[Key, Tried] = {}
    for configuration, jobs in tuning.items():
        tried: dict[float, list[float | None]] = {}
        for job in jobs:
            tried.setdefault(job.run.lr, []).append(values.get(job.run.key))
        if any(value is not None for reached in tried.values() for value in reached):
            found[configuration] = tried
    return found

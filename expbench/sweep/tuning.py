"""Tuning: the choice of a learning rate for each configuration, requested by `--lr auto`.

Each configuration is trained at every rate of the grid with reserved seeds. Its rate is chosen by the results on the
validation split, and the reported runs are then trained at that rate. Models that are compared share one grid, which is
extended for all of them until every chosen rate lies inside it. Tuning runs are ordinary rows of kind `tuning`, so that an
interrupted sweep resumes and the choice can be repeated from the table.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from expbench.results import reported, store
from expbench.results.identity import identity
from expbench.results.learning_rates import (
    INITIAL_GRID,
    RATE_GRID,
    RESERVED,
    TUNING_RUNS,
    at_grid_boundary,
    choose,
    extended,
)
from expbench.run import Run
from expbench.training.job import Job

Key = str  # an identity
Grid = tuple[float, ...]


class RateSearch:
    """State of a learning-rate search: grids grow and rates are chosen as tuning runs end.

    runs: number of tuning runs at each rate of a configuration.
    """

    def __init__(self, jobs: Sequence[Job], folder: Path, runs: int) -> None:
        self._folder, self._runs = folder, runs
        self._configurations = by_configuration(jobs)
        self._places = {c: pair_of(group[0].run) for c, group in self._configurations.items()}
        self._grids: dict[Key, Grid] = dict.fromkeys(self._places.values(), INITIAL_GRID)
        self._tuning = {c: tuning_jobs(group, INITIAL_GRID, runs) for c, group in self._configurations.items()}
        self._rates: dict[Key, float | None] = {}  # for configurations whose grid is final

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
        yield (
            "",
            [with_rate(job, rate or INITIAL_GRID[0]) for c, rate in self._rates.items() for job in self._configurations[c]],
        )

    def _look(self) -> bool:
        """Extend the grid or fix the rates of each comparison whose tuning runs have ended; return whether a grid grew."""
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
        chosen = _chosen(
            {c: self._tuning[c] for configurations in ready.values() for c in configurations},
            self._folder,
        )
        grown = False
        for place, configurations in ready.items():
            grid = self._grids[place]
            self._grids[place] = extended(grid, [chosen[c] for c in configurations if c in chosen])
            more = [rate for rate in self._grids[place] if rate not in grid]
            for configuration in configurations:
                if more:
                    self._tuning[configuration] += tuning_jobs(self._configurations[configuration], more, self._runs)
                else:
                    self._rates[configuration] = chosen.get(configuration)
            grown = grown or bool(more)
        return grown

    def _summary(self) -> list[str]:
        """Return one line per grid: the tuning runs of each configuration and the chosen rates."""
        lines = []
        for grid in sorted(set(self._grids.values())):
            rates = Counter(rate for c, rate in self._rates.items() if rate and self._grids[self._places[c]] == grid)
            picked = ", ".join(f"{rate:g} ({n} configuration{'s' * (n != 1)})" for rate, n in sorted(rates.items()))
            capped = sum(n for rate, n in rates.items() if at_grid_boundary(rate))
            limits = f"{RATE_GRID[0]:g} to {RATE_GRID[-1]:g}"
            end = f"; {capped} at the grid boundary, beyond which no rate is tried ({limits})" if capped else ""
            lines.append(f"learning rates from {len(grid)} x {self._runs} tuning runs per configuration: {picked}{end}")
        return lines


def configuration_of(run: Run, *without: str) -> Key:
    """Return the identity of a run without rate, seed, instance and the fields in `without`: the unit of tuning."""
    return identity(run, {"rate", "seed", "instance", *without})


def pair_of(run: Run, *without: str) -> Key:
    """Return the settings that compared models share: `cell_of` without the fields that describe the model."""
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
            task = dataclasses.replace(configuration[0].task, instance=RESERVED + k) if several else configuration[0].task
            settings = {**configuration[0].run.task_settings, "instance": task.instance}
            run = dataclasses.replace(configuration[0].run, lr=rate, seed=RESERVED + k, task_settings=settings)
            found.append(configuration[0]._replace(run=run, task=task))
    return found


def _chosen(tuning: Mapping[Key, Sequence[Job]], folder: Path) -> dict[Key, float]:
    """Return the rate of each configuration chosen by its tuning runs; omit those whose tuning runs have no value."""
    values = reported.selected(folder, {job.run.key for jobs in tuning.values() for job in jobs})
    chosen = {}
    for configuration, jobs in tuning.items():
        tried: dict[float, list[float | None]] = {}
        for job in jobs:
            tried.setdefault(job.run.lr, []).append(values.get(job.run.key))
        if any(value is not None for reached in tried.values() for value in reached):
            chosen[configuration] = choose(tried, jobs[0].task.higher_is_better)
    return chosen

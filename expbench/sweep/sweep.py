"""The sweep: all runs that a command requests, executed by one process or by several that share a folder.

With `--lr auto`, learning rates are chosen first (`tuning`).
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from expbench import supervision
from expbench.results.learning_rates import BIMODAL_RUNS, INITIAL_GRID, RESERVED, TUNING_RUNS
from expbench.sweep import plan as sweep_plan
from expbench.sweep import worker
from expbench.sweep.dry_run import describe
from expbench.sweep.executor import ExecutionSettings, Executor
from expbench.sweep.executors.local import Local
from expbench.sweep.plan import Plan
from expbench.sweep.progress import Progress
from expbench.sweep.sharding import share
from expbench.sweep.tuning import Key, RateSearch, pair_of
from expbench.sweep.worker import WorkerResult
from expbench.training.job import Job

_LOOKS_AGAIN = 2.0  # seconds between checks while other processes hold all remaining runs


class SweepOptions(NamedTuple):
    """Options of a sweep.

    tunes: whether learning rates are chosen first, with `tuning_runs` runs at each rate. shard: (i, n), this process runs
    part i of n. seconds: time limit, after which no further stack starts. largest: maximum number of runs in a stack.
    executor: runs the jobs.
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
    executor: Executor = Local()


class SweepResult(NamedTuple):
    """Result of a sweep: the number of runs by status, including tuning runs, and whether it stopped before all had run."""

    counts: Counter[str]
    stopped: bool


def run(jobs: Sequence[Job], options: SweepOptions, say: Callable[[str], None]) -> SweepResult:
    """Run the jobs without a result in the folder.

    An interrupt propagates, and the same call resumes the sweep. Processes that make the same call on one folder divide the
    work: each takes runs that no other process holds, and waits for the others only when it has nothing else to do.

    The parts of the jobs are run in order. Learning rates of a part are tuned together with those of earlier parts that
    share a grid with it, as compared models do: if a later part extends the grid, earlier parts get the same tuning runs,
    and their reported runs are trained again where the choice changes.
    """
    ends = math.inf if options.seconds is None else time.monotonic() + options.seconds - supervision.elapsed()
    jobs = share(jobs, options.shard, whole_pairs=options.tunes)
    parts = _by_part(jobs, tunes=options.tunes)
    searches = {name: RateSearch(own, options.folder, options.tuning_runs) for name, own in parts.items() if options.tunes}
    before = supervision.ended_before()
    counts = Counter(before.values())
    status = sweep_plan.statuses(options.folder)
    # known before the sweep, so that each is retried only once
    failed = {key for key, how in status.items() if how == "failed"} - before.keys()
    just_read: Mapping[str, str] | None = status
    lost: set[str] = set()  # they have no file in the folder, and this call does not retry them
    said = waiting = False
    while True:
        ran = held = False
        for part, what, wanted in _stages(parts, searches, say):
            plan = sweep_plan.plan([job for job in wanted if job.run.key not in lost], options.folder, failed, just_read)
            just_read = None
            if not waiting and (plan.missing or not (what or said)):
                say(f"{part}{what}{count(plan)} on {options.device}, into {options.folder}")
                said = said or not what
            result = _sweep(plan, options, ends, keep=options.save_weights and not what)
            counts.update(result.ended)
            if result.stopped:
                return SweepResult(counts, stopped=True)
            failed -= result.tried
            lost |= result.lost
            ran, held = bool(result.ended), held or bool(result.held)
            if ran:
                break  # the new results may change the next stage
        if not ran and not held:
            return SweepResult(counts, stopped=False)
        if not ran:
            if time.monotonic() > ends:
                return SweepResult(counts, stopped=True)
            if not waiting:
                say("other processes hold the remaining runs; waiting for them")
            time.sleep(_LOOKS_AGAIN)
        waiting = not ran


def _by_part(jobs: Sequence[Job], *, tunes: bool) -> dict[str, list[Job]]:
    """Return the jobs of each part; if learning rates are tuned, with those of earlier parts that share a grid with it."""
    found: dict[str, list[Job]] = {}
    earlier: dict[Key, list[Job]] = {}
    for name in dict.fromkeys(job.part for job in jobs):
        found[name] = own = [job for job in jobs if job.part == name]
        if tunes:
            by_grid: dict[Key, list[Job]] = {}
            for job in own:
                by_grid.setdefault(pair_of(job.run), []).append(job)
            found[name] = [*(job for grid in by_grid for job in earlier.get(grid, [])), *own]
            for grid, added in by_grid.items():
                earlier.setdefault(grid, []).extend(added)
    return found


def _stages(
    parts: Mapping[str, Sequence[Job]], searches: Mapping[str, RateSearch], say: Callable[[str], None]
) -> Iterator[tuple[str, str, Sequence[Job]]]:
    """Yield the stages of each part in order: the name of the part as a prefix, the title of the stage, its jobs."""
    for name, jobs in parts.items():
        for what, wanted in searches[name].stages(say) if searches else [("", jobs)]:
            yield f"part {name}, " if name else "", what, wanted


def dry_run(jobs: Sequence[Job], options: SweepOptions) -> str:
    """Return a description of the runs that `run` would execute, with a time estimate.

    Runs whose learning rate is not chosen yet stand at a rate of the initial grid.
    """
    parts = _by_part(share(jobs, options.shard, whole_pairs=options.tunes), tunes=options.tunes)
    status, wanted = sweep_plan.statuses(options.folder), dict[str, Job]()
    notes = []
    for name, own in parts.items():
        tuning, reported = list[Job](), own
        if options.tunes:
            tuning, reported, waiting = RateSearch(own, options.folder, options.tuning_runs).foreseen()
            reported += [job for job in waiting if job.part == name]
        wanted |= {job.run.key: job for job in (*tuning, *reported)}
        if name:
            kinds = [[job for job in kind if job.part == name] for kind in (reported, tuning)]
            counts = [count(sweep_plan.plan(kind, options.folder, status=status)) for kind in kinds]
            notes.append(f"part {name}: {counts[0]}" + (f"; to choose their rates {counts[1]}" if options.tunes else ""))
    if options.tunes:
        rates, several = ", ".join(f"{rate:g}" for rate in INITIAL_GRID), options.tuning_runs > 1
        tried = sum(job.run.seed >= RESERVED for job in wanted.values())
        notes.insert(
            0,
            f"{tried} tuning runs choose the learning rates, first from {rates}; "
            "the grid is extended if the best rate is its first or last"
            + (
                f"; where some runs at a rate solve the task and others do not, each rate gets {BIMODAL_RUNS} runs" * several
            ),
        )
    plan = sweep_plan.plan([*wanted.values()], options.folder, status=status)
    return "\n".join([describe(plan, options.device, options.largest), *notes])


def _sweep(plan: Plan, options: SweepOptions, ends: float, *, keep: bool) -> WorkerResult:
    """Run the missing jobs of a plan; keep: whether weights of some runs are saved."""
    progress = Progress(plan.missing)
    settings = ExecutionSettings(options.folder, options.device, save_weights=keep, largest=options.largest, ends=ends)
    try:
        return worker.run(plan, options.executor, settings, progress, fail_fast=options.fail_fast)
    finally:
        progress.close()


def count(plan: Plan) -> str:
    """Return the numbers of all, finished and missing runs as a text."""
    again = f", {plan.failed_before} of them failed before" if plan.failed_before else ""
    return f"{len(plan.jobs)} runs: {len(plan.jobs) - len(plan.missing)} done, {len(plan.missing)} to run{again}"

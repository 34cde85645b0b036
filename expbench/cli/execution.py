"""Execution of jobs, shared by `expbench run` and `expbench reproduce`. Heavy imports happen inside."""

from __future__ import annotations

import signal
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from expbench import files
from expbench.cli.options import (
    BackendOption,
    DeviceOption,
    DryRun,
    ModelsDir,
    ResultsOption,
    Shard,
    TasksDir,
    TimeLimit,
    seconds_of,
    shard_of,
    show_log,
)
from expbench.console.formatting import say
from expbench.errors import BadInput
from expbench.supervision import interrupt

if TYPE_CHECKING:
    from collections.abc import Sequence
    from logging.handlers import MemoryHandler

    from expbench.claims.claim import Claim
    from expbench.sweep.sweep import SweepOptions
    from expbench.training.job import Job


@dataclass(frozen=True, kw_only=True)
class Execution:
    """Execution options of `expbench run`; none enters the key of a run."""

    device: DeviceOption = "auto"
    backend: BackendOption = "auto"
    results: ResultsOption = "results"
    dry_run: DryRun = False
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")] = False
    shard: Shard = "1/1"
    time_limit: TimeLimit = None
    stack: Annotated[
        int | None,
        typer.Option(
            min=1, max=1 << 16, help="Maximum number of runs trained together; 1: one by one. (default: by device)"
        ),
    ] = None
    save_weights: Annotated[
        bool, typer.Option("--save-weights", help="Keep the weights of the best, median and worst seed per configuration.")
    ] = False
    tasks_dir: TasksDir = None
    models_dir: ModelsDir = None

    def sweep_options(self, device: str, *, tunes: bool) -> SweepOptions:
        """Return the options of a sweep on this device; raise `BadInput` for bad values."""
        from expbench.results import folders
        from expbench.sweep import sweep

        return sweep.SweepOptions(
            folders.named_folder(self.results),
            device,
            tunes=tunes,
            shard=shard_of(self.shard),
            seconds=seconds_of(self.time_limit),
            save_weights=self.save_weights,
            fail_fast=self.fail_fast,
            largest=self.stack,
        )


def carry_out(
    jobs: Sequence[Job], options: SweepOptions, held: MemoryHandler, claimed: Sequence[Claim] = (), *, dry_run: bool
) -> bool:
    """Register the claims and run the jobs; or print a dry run; or join the worker loop of another process.

    Return whether this process ran the jobs and has results to report.
    """
    from expbench.claims.claim import write
    from expbench.results import folders
    from expbench.sweep import torchrun
    from expbench.sweep.estimate import bound
    from expbench.sweep.plan import statuses

    if torchrun.takes_part():
        torchrun.worker_loop(jobs, options)
        return False
    for refusal, count in Counter(job.refusal for job in jobs if job.refusal).items():
        say(f"warning: {refusal.reason}; its {count} runs are recorded as failed")
    if dry_run:
        print(torchrun.dry_run(jobs, options))
        return False
    warning = bound(jobs, options.device)
    folders.open_folder(str(options.folder))
    if options.save_weights:
        folders.open_folder(str(options.folder / "weights"))
    statuses(options.folder)  # raises if the folder holds files that are no results table
    for claim in claimed:
        write(claim, options.folder)
    show_log(held)
    if warning is not None:
        say(warning)
    _train(jobs, options)
    return True


def _train(jobs: Sequence[Job], options: SweepOptions) -> None:
    """Run jobs, print a summary, and exit with code 1 if a run failed or was lost, 130 if interrupted."""
    from expbench.results.compact import compact_many
    from expbench.results.reported import AT_START, FIRST_STEPS
    from expbench.sweep import torchrun

    signal.signal(signal.SIGTERM, interrupt)
    try:
        ended = torchrun.run(jobs, options, say)
    except KeyboardInterrupt:
        say("interrupted; the same command resumes")
        raise SystemExit(130) from None
    except OSError as error:
        if error.errno is None:
            raise
        raise BadInput(f"{files.reason(error)}; finished runs are kept, and the same command resumes") from error
    ran = ", ".join(f"{n} {status}" for status, n in sorted(ended.counts.items())) or "none"
    say(f"ran {ended.counts.total()} ({ran}); results in {options.folder}; expbench report plots them")
    if ended.counts.total():
        compact_many(options.folder, say)
    if ended.counts[AT_START]:
        say(
            f"{ended.counts[AT_START]} runs diverged at the start, before step {FIRST_STEPS}; if a lower --lr or a warm-up "
            "does not help, try --norm layer, fewer layers, or -m start=scaled for a polynomial layer"
        )
    if ended.counts["failed"]:
        say("some runs failed: their rows hold the error, and the same command retries them")
    if ended.counts["lost"]:
        say("some runs were lost: the same command retries them")
    if ended.counts["failed"] or ended.counts["lost"]:
        raise SystemExit(1)
    if ended.stopped:
        say("stopped at the time limit; the same command resumes")

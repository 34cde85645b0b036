"""What `expbench run` and `expbench reproduce` share: jobs are run, or previewed. Heavy imports happen inside."""

from __future__ import annotations

import signal
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from expbench.cli.options import (
    BackendOption,
    DeviceOption,
    DryRun,
    ModelsDir,
    ResultsOption,
    Shard,
    TasksDir,
    TimeLimit,
    interrupt,
    say,
    seconds_of,
    shard_of,
    show_log,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from logging.handlers import MemoryHandler

    from expbench.claims.claim import Claim
    from expbench.sweep.campaign import How
    from expbench.training.job import Job


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How `expbench run` trains what it is asked for: no part of what a run is."""

    device: DeviceOption = "auto"
    backend: BackendOption = "auto"
    results: ResultsOption = "results"
    dry_run: DryRun = False
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")] = False
    shard: Shard = "1/1"
    time_limit: TimeLimit = None
    stack: Annotated[
        int | None, typer.Option(min=1, max=1 << 16, help="Most runs trained together, 1: one by one. (default: by device)")
    ] = None
    save_weights: Annotated[
        bool, typer.Option("--save-weights", help="Keep the weights of the best, median and worst seed of each cell.")
    ] = False
    tasks_dir: TasksDir = None
    models_dir: ModelsDir = None

    def how(self, device: str, *, tunes: bool) -> How:
        """Return it as a sweep takes it, on the device that was chosen; raises `BadInput`."""
        from expbench.results import folders
        from expbench.sweep import campaign

        return campaign.How(
            folders.named_folder(self.results),
            device,
            tunes=tunes,
            shard=shard_of(self.shard),
            seconds=seconds_of(self.time_limit),
            save_weights=self.save_weights,
            fail_fast=self.fail_fast,
            largest=self.stack,
        )


def carry_out(jobs: Sequence[Job], how: How, held: MemoryHandler, claimed: Sequence[Claim] = (), *, dry_run: bool) -> bool:
    """Run jobs, what is claimed of them written down before; or preview them, or take part in what another process runs.

    False of the latter two, which leave this process nothing to report.
    """
    from expbench.claims.claim import write
    from expbench.results import folders
    from expbench.sweep import torchrun
    from expbench.sweep.plan import plan

    if torchrun.takes_part():
        torchrun.worker_loop(jobs, how)
        return False
    if dry_run:
        print(torchrun.preview(jobs, how))
        return False
    folders.open_folder(str(how.folder))
    if how.save_weights:
        folders.open_folder(str(how.folder / "weights"))
    plan(jobs, how.folder)  # raises if the folder holds what is no results table
    for claim in claimed:
        write(claim, how.folder)
    show_log(held)
    _train(jobs, how)
    return True


def _train(jobs: Sequence[Job], how: How) -> None:
    """Run jobs, say how they ended, and exit as they did."""
    from expbench.sweep import torchrun

    signal.signal(signal.SIGTERM, interrupt)
    try:
        ended = torchrun.run(jobs, how, say)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        raise SystemExit(130) from None
    ran = ", ".join(f"{n} {status}" for status, n in sorted(ended.counts.items())) or "none"
    say(f"ran {ended.counts.total()} ({ran}); results in {how.folder}; expbench report draws them")
    if ended.counts["failed"]:
        say("some runs failed: their rows hold the error, and the same command tries them again")
    if ended.counts["lost"]:
        say("some runs were lost: the same command tries them again")
    if ended.counts["failed"] or ended.counts["lost"]:
        raise SystemExit(1)
    if ended.stopped:
        say("stopped at the time limit; the same command goes on from here")

"""What `expbench run` and `expbench reproduce` share: jobs are run, or previewed. Heavy imports happen inside."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

from expbench.cli.options import interrupt, say, show_log

if TYPE_CHECKING:
    from collections.abc import Sequence
    from logging.handlers import MemoryHandler

    from expbench.claims.claim import Claim
    from expbench.sweep.campaign import How
    from expbench.training.job import Job


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
        raise SystemExit(1)
    if ended.stopped:
        say("stopped at the time limit; the same command goes on from here")

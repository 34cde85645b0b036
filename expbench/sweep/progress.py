"""Progress of a sweep: a bar with a time estimate on a terminal, one line per run elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expbench.console.progress import duration

if TYPE_CHECKING:
    from expbench.training.job import Job


def work(job: Job, steps: int | None = None) -> float:
    """Return the work of a job up to a factor: tokens times layers, processed in `steps` (default: all)."""
    run = job.run
    return float((run.steps if steps is None else steps) * run.batch_size * run.L * run.depth)


class Progress:
    """Progress of a list of jobs, reported to standard error."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.count = len(jobs)
        self.total = sum(work(job) for job in jobs)
        self.done_work = self.skipped_work = 0.0
        self.done = 0
        self.began: float | None = None
        self.bar: Any = None

    def begin(self) -> None:
        """Start the clock and the bar before the first job of this process."""
        if self.began is not None:
            return
        self.began = time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} to go"
            self.bar = tqdm(total=self.total, bar_format=shape, desc=f"0/{self.count}")

    def step(self, jobs: Sequence[Job], steps: int) -> None:
        """Show that the jobs of a stack have reached the given number of steps."""
        if self.bar is not None:
            self.bar.n = self.done_work + self.skipped_work + sum(work(job, steps) for job in jobs)
            others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
            self.bar.set_description(f"{self.done + 1}/{self.count} {jobs[0].run.title()}{others}")

    def end(self, job: Job, status: str, error: str | None, value: float | None) -> None:
        """Report the end of a job."""
        self.done += 1
        self.done_work += work(job)
        result = f"{job.task.primary_metric} {value:.4g}" if value is not None else f"{status}: {error}"
        self.note(f"[{self.done}/{self.count}] {job.run.title()}: {result}{self._estimate()}")

    def skip(self, job: Job) -> None:
        """Count a job that another process has finished."""
        self.done += 1
        self.skipped_work += work(job)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        if self.bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self.bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Close the bar."""
        if self.bar is not None:
            self.bar.close()

    def _estimate(self) -> str:
        left = self.total - self.done_work - self.skipped_work
        if self.bar is not None or self.began is None or left <= 0:
            return ""
        return f" (about {duration((time.monotonic() - self.began) * left / self.done_work)} left)"

"""Progress: a bar with an estimate on a terminal, a line a run elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from expbench.console.progress import duration

if TYPE_CHECKING:
    from expbench.training.job import Job


def work(job: Job, steps: int | None = None) -> float:
    """How much work a job is, up to a factor: the tokens that go through its layers in `steps` (default all)."""
    run = job.run
    return float((run.steps if steps is None else steps) * run.batch_size * run.L * run.depth)


class Progress:
    """Reports how far a list of jobs has come, to standard error."""

    def __init__(self, jobs: Sequence[Job]) -> None:
        self.count = len(jobs)
        self.total = sum(work(job) for job in jobs)
        self.done_work = self.skipped_work = 0.0
        self.done = 0
        self.began: float | None = None
        self.bar: Any = None

    def begin(self) -> None:
        """The first job is about to be run, of those that another process does not."""
        if self.began is not None:
            return
        self.began = time.monotonic()
        if sys.stderr.isatty():
            from tqdm import tqdm

            shape = "{desc} {percentage:3.0f}%|{bar}| {elapsed} gone, {remaining} to go"
            self.bar = tqdm(total=self.total, bar_format=shape, desc=f"0/{self.count}")

    def step(self, jobs: Sequence[Job], steps: int) -> None:
        """Jobs that are trained together have done so many steps."""
        if self.bar is not None:
            self.bar.n = self.done_work + self.skipped_work + sum(work(job, steps) for job in jobs)
            others = f" and {len(jobs) - 1} more" if len(jobs) > 1 else ""
            self.bar.set_description(f"{self.done + 1}/{self.count} {jobs[0].run.title()}{others}")

    def end(self, job: Job, status: str, error: str | None, value: float | None) -> None:
        """A job has ended."""
        self.done += 1
        self.done_work += work(job)
        result = f"{job.task.headline} {value:.4g}" if value is not None else f"{status}: {error}"
        self.note(f"[{self.done}/{self.count}] {job.run.title()}: {result}{self._estimate()}")

    def skip(self, job: Job) -> None:
        """A job need not be run after all."""
        self.done += 1
        self.skipped_work += work(job)

    def note(self, line: str) -> None:
        """Print a line above the bar."""
        if self.bar is None:
            print(line, file=sys.stderr, flush=True)
        else:
            self.bar.write(line, file=sys.stderr)

    def close(self) -> None:
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()

    def _estimate(self) -> str:
        left = self.total - self.done_work - self.skipped_work
        if self.bar is not None or self.began is None or left <= 0:
            return ""
        return f" (about {duration((time.monotonic() - self.began) * left / self.done_work)} left)"

"""Executor: the interface through which a sweep runs its parts, on this machine or elsewhere.

A finished run is a file. For each job an executor reports the outcome and the files as bytes, or no files if they are
already in the results folder. The sweep writes the files, counts and reports; it does not depend on the machine.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from expbench.sweep.progress import Progress
from expbench.training.job import Job


class Part(NamedTuple):
    """Jobs with one signature, which are trained together, and the jobs whose controls are measured first."""

    jobs: list[Job]
    controls: list[Job]
    signature: tuple[object, ...] = ()


class ExecutionSettings(NamedTuple):
    """Settings of an execution. save_weights: keep the weights of every run. largest: maximum number of runs in a stack.
    ends: the time, by `time.monotonic`, after which no further stack starts."""

    folder: Path
    device: str
    save_weights: bool = False
    largest: int | None = None
    ends: float = math.inf


class Ended(NamedTuple):
    """Event: a job has ended. status: as in the results table, or ``elsewhere`` if another process finished it.

    files: contents to write below the results folder, by name; empty if they are already there.
    """

    job: Job
    status: str
    error: str | None = None
    trace: str | None = None
    value: float | None = None
    files: Mapping[str, bytes] = {}


class Measured(NamedTuple):
    """Event: the controls of a job's task have been measured. files: as in `Ended`."""

    job: Job
    files: Mapping[str, bytes] = {}


class Held(NamedTuple):
    """Event: another process holds this part and will finish it."""

    part: Part


class Lost(NamedTuple):
    """Event: jobs that will return no result, and the reason, such as a lost machine. The same command retries them."""

    jobs: Sequence[Job]
    why: str


Events = Generator[Ended | Measured | Held | Lost, None, None]


class Executor(Protocol):
    """Interface of an executor."""

    def run(self, parts: Sequence[Part], settings: ExecutionSettings, progress: Progress) -> Events:
        """Run parts, the controls of each first, and yield their events.

        A job without an event when the generator ends was not started: time ran out, or the executor could not continue.
        If the consumer closes the generator (`GeneratorExit`), the executor starts nothing more and releases its locks.
        """

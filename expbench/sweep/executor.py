"""Executor: the seam behind which the parts of a sweep run, on this machine or elsewhere.

A finished run is a file, whoever carries it: an executor says of each job how it ended, with its files as bytes, or with
nothing where they lie in the folder already. The sweep writes them, counts, and reports; it knows no machine.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

from expbench.sweep.progress import Progress
from expbench.training.job import Job


class Part(NamedTuple):
    """Jobs with one signature, which are trained together, and the jobs whose controls are measured before them."""

    jobs: list[Job]
    controls: list[Job]
    signature: tuple[object, ...] = ()


class ExecutionSettings(NamedTuple):
    """How parts run. save_weights: keep those of every run. largest: most runs that are trained together. ends: by
    `time.monotonic`, when no further stack is begun."""

    folder: Path
    device: str
    save_weights: bool = False
    largest: int | None = None
    ends: float = math.inf


class Ended(NamedTuple):
    """A job has ended. status: as in the results table, or ``elsewhere`` where another process had finished it.

    files: what is to be written below the results folder, by name; empty where it is there.
    """

    job: Job
    status: str
    error: str | None = None
    trace: str | None = None
    value: float | None = None
    files: Mapping[str, bytes] = {}


class Measured(NamedTuple):
    """The controls of a job's task have been measured. files: as of `Ended`."""

    job: Job
    files: Mapping[str, bytes] = {}


class Held(NamedTuple):
    """Another process is at this part, and will finish it."""

    part: Part


class Lost(NamedTuple):
    """Jobs of which nothing more will come, and why: a machine has gone, say. The same command tries them again."""

    jobs: Sequence[Job]
    why: str


Events = Generator[Ended | Measured | Held | Lost, None, None]


class Executor(Protocol):
    """Where parts run."""

    def run(self, parts: Sequence[Part], settings: ExecutionSettings, progress: Progress) -> Events:
        """Run parts, the controls of each first.

        What it says nothing of when it ends was not begun: time was up, or it could not go on. Where its consumer stops
        listening (`GeneratorExit`), it begins nothing more and lets go of what it holds.
        """

"""Rows of the results table, for a run and its scores and for the controls of a task."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

from expbench.algebra.floors import Floor
from expbench.algebra.reach import NoBound, Reach
from expbench.contracts import local_values
from expbench.results import provenance
from expbench.results.learning_rates import RESERVED, RULE
from expbench.run import Run, Score, canonical, content_key
from expbench.task import LabelFacts, Task
from expbench.training.distributed import processes
from expbench.training.family import Facts
from expbench.training.job import Job

CONTROLS_VERSION = 1  # raised when the measurement of controls changes
_LARGEST = 2**63 - 1  # stands for every larger whole number
_FACTS = {"kurtosis": "label_kurtosis", "interaction_order": "label_interaction_order"}
_SETTINGS = ("task_settings", "model_settings")  # written as JSON
_RUN_FIELDS = [field.name for field in dataclasses.fields(Run) if field.name not in _SETTINGS]

Row = dict[str, Any]


def controls_key(job: Job) -> str:
    """Return the key of the controls of a job's task with its settings."""
    run = job.run
    return content_key(
        {"controls": CONTROLS_VERSION, "task": run.task, "version": run.task_version, "settings": run.task_settings}
    )


def of_network(facts: Facts) -> Row:
    """Return the columns known before training: size, state, FLOPs and reach of the network."""
    reach = facts.reach if isinstance(facts.reach, Reach) else None
    return {
        "parameters": facts.parameters,
        "state_size": facts.state_size,
        "flops_per_token": facts.flops_per_token,
        "network_polynomial": None if facts.reach is None else reach is not None,
        "network_degree": min(reach.degree[-1], _LARGEST) if reach is not None else None,
        "network_order": min(reach.order[-1], _LARGEST) if reach is not None else None,
    }


def of_floor(task: Task, reach: Reach | NoBound | None) -> Row:
    """Return the floors of a task for a given reach, its lowest possible errors; null without a bound."""
    floor = _floor(task, reach) if isinstance(reach, Reach) else None
    if floor is None:
        return {"floor": task.floor_of_all(), "floor_degree": None, "floor_structure": None}
    return {"floor": floor.both, "floor_degree": floor.degree, "floor_structure": floor.structure}


def of_facts(task: Task) -> Row:
    """Return the columns on a task's labels, computed once for each configuration of the task."""
    return {_FACTS.get(name, name): value for name, value in _facts(task)._asdict().items()}


def of_run(job: Job, device: str, known: Row, scores: Sequence[Score], ending: Row) -> list[Row]:
    """Return one row per score of a run, or, without scores, a single row with its outcome.

    known: the columns of `of_network`, `of_floor` and `of_facts` that were determined. ending: status, error and similar.
    """
    run = job.run
    skip = run.model_settings.get("skip")
    constants = {
        **_of_task(job),
        **_provenance(job, device, run.dtype, processes()[1]),
        **{name: getattr(run, name) for name in _RUN_FIELDS},
        "key": run.key,
        "kind": "tuning" if run.seed >= RESERVED else "run",
        "tuning_rule": RULE,
        "model_settings": canonical(run.model_settings),
        "skip": skip if isinstance(skip, bool) else None,
        **known,
        **ending,
    }
    return [constants | score._asdict() for score in scores] or [constants]


def of_controls(job: Job, scores: Sequence[tuple[str, str, Score]], ending: Row) -> list[Row]:
    """Return one row per (name, kind, score) of the controls of a job's task, or a single row with their failure."""
    constants = {
        **_of_task(job),
        **_provenance(job, "cpu", "float64"),
        "key": controls_key(job),
        "dtype": "float64",
        **ending,
    }
    rows = [constants | {"model": name, "kind": kind} | score._asdict() for name, kind, score in scores]
    return rows or [constants | {"model": "controls", "kind": "baseline"}]


@lru_cache(maxsize=64)
def _facts(task: Task) -> LabelFacts:
    return task.facts()


@lru_cache(maxsize=64)
def _floor(task: Task, reach: Reach) -> Floor | None:
    return task.floor(reach)


def _of_task(job: Job) -> Row:
    settings = job.run.task_settings
    return {
        "task": job.run.task,
        "task_version": job.run.task_version,
        "task_settings": canonical(settings),
        "local_settings": canonical(local_values(job.task)),
        "L": settings["L"],
        "degree": settings.get("degree"),
        "instance": settings["instance"],
        "higher_is_better": job.task.higher_is_better,
        "success_threshold": job.task.success_threshold,
        "task_origin": job.task_origin,
        "task_distribution": job.task_distribution,
    }


def _provenance(job: Job, device: str, dtype: str, processes: int = 1) -> Row:
    name = provenance.device_name(device)
    return {
        **provenance.versions(),
        "created": datetime.now(UTC),
        "device": device,
        "device_name": f"{processes} x {name}" if processes > 1 else name,
        "precision": provenance.precision(dtype, device),
        "git_commit": provenance.git_commit(),
        "model_origin": job.model_origin,
        "model_distribution": job.model_distribution,
    }

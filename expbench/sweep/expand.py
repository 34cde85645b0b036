"""The grid: expand a request of the command line into runs, with every setting resolved and checked before training.

Lists form a cross product. Each distinct configuration of a task or model is imported and built here once, so that an
unknown name, a bad value or a plugin that violates its contract is reported before any run starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from expbench import plugins, settings, supervision
from expbench.contracts import build_task, load_model, load_task, task_values
from expbench.initialisation.start import check
from expbench.nn.memory import BUILT, machine
from expbench.nn.size_matching import Target
from expbench.plugins import Plugin
from expbench.run import FIELDS, Run
from expbench.settings import Value
from expbench.sweep.estimate import exceeds
from expbench.sweep.spec import SweepSpec, axes, model_axes, size, task_axes
from expbench.task import Task
from expbench.training.family import Point, family_of
from expbench.training.job import Job


def expand(spec: SweepSpec, device: str) -> list[Job]:
    """Return every distinct run of the cross product, in the order task, model, sizes, seed; raise `BadInput`.

    If learning rates are tuned, each run has the lowest rate of the initial grid.
    """
    size(spec)
    target = None if spec.match is None else Target.parse(spec.match)
    fields = axes(spec)
    task_names = settings.split_list(spec.task, "--task")
    model_names = settings.split_list(spec.models, "--models")
    tasks = [task for name in task_names for task in _tasks(name, spec)]
    models = [model for name in model_names for model in _models(name, spec)]
    jobs: dict[str, Job] = {}
    checked: set[str] = set()
    for task, model, point in itertools.product(tasks, models, itertools.product(*fields.values())):
        asked = dict(zip(fields, point, strict=True)) | {"match": target}
        asked["steps"], asked["epochs"] = asked["steps"]
        if spec.paired and asked["seed"] != task.task.instance:
            continue
        job = _job(task, model, asked)
        family, run = family_of(task.task), job.run
        contract = contract_of(job)
        if job.sizes.layer() > BUILT and exceeds(job, machine("cpu").free, "cpu"):
            checked.add(contract)  # it cannot even be built here
        if contract not in checked and supervision.refusal(contract, run.model) is None and job.unsupported(device) is None:
            with supervision.attempting(f"trying {run.model} on two short sequences", contract, group=run.model):
                family.check(job, device)
            checked.add(contract)
        jobs.setdefault(run.key, job)
    return list(jobs.values())


def contract_of(job: Job) -> str:
    """Return what the check of a model's contract depends on, as a text."""
    run = job.run
    return f"{job.task.trained_as} {run.model} {run.model_version} {run.model_settings} {run.D} {run.dtype}"


def _job(task: _Task, model: _Model, asked: dict[str, Any]) -> Job:
    """Return the job of a grid point, resolved by the task's family; raise `BadInput` for incompatible settings."""
    point = Point(task.plugin.name, model.plugin.name, asked, model.values, model.given)
    resolved = family_of(task.task).resolve(task.task, model.cls, point)
    run = Run(
        task=task.plugin.name,
        task_version=task.version,
        task_settings=task_values(task.task),
        model=model.plugin.name,
        model_version=model.version,
        model_settings=resolved.settings,
        **{name: value for name, value in resolved.fields.items() if name in FIELDS},
    )
    check(run, model.cls)
    return Job(run, task.task, model.cls, task.plugin.origin, model.plugin.origin)


class _Task(NamedTuple):
    plugin: Plugin
    task: Task
    version: str


class _Model(NamedTuple):
    plugin: Plugin
    cls: type
    version: str
    values: dict[str, Value]
    given: tuple[str, ...]


def _tasks(name: str, spec: SweepSpec) -> Iterator[_Task]:
    plugin = plugins.find("task", name)
    given = task_axes(spec, name)
    with supervision.attempting(f"loading the task {name}"):
        cls = load_task(plugin)
        for point in itertools.product(*given.values()):
            yield _Task(plugin, build_task(cls, dict(zip(given, point, strict=True)), name), plugin.version(cls))


def _models(name: str, spec: SweepSpec) -> Iterator[_Model]:
    plugin = plugins.find("model", name)
    with supervision.attempting(f"loading the model {name}"):
        cls = load_model(plugin)
    given = model_axes(spec, name)
    for point in itertools.product(*given.values()):
        texts = dict(zip(given, point, strict=True))
        yield _Model(plugin, cls, plugin.version(cls), settings.resolve(cls, texts, plugin.name), tuple(texts))

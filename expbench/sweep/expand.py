"""The grid: expand a request of the command line into runs, with every setting resolved and checked before training.

Lists form a cross product. Each distinct configuration of a task or model is imported and built here once, so that an
unknown name, a bad value or a plugin that violates its contract is reported before any run starts.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

from expbench import plugins, settings
from expbench.contracts import (
    build_task,
    check_same,
    load_model,
    load_task,
    task_values,
)
from expbench.errors import BadInput
from expbench.global_state import preserved
from expbench.initialisation.start import check
from expbench.nn.size_matching import Target
from expbench.plugins import Plugin
from expbench.results.learning_rates import INITIAL_GRID
from expbench.run import AXES, FIELDS, Run
from expbench.settings import Value
from expbench.sources.version import Code
from expbench.sweep.spec import OWN, SweepSpec, assignments, axis
from expbench.task import Task
from expbench.training.family import Point, family_of
from expbench.training.job import Job

# Order of the cross product, seeds fastest; it determines the runs of a shard. Other fields follow in declaration order.
_SLOWEST = ("D", "depth", "norm", "positions", "residual", "lr", "steps", "batch_size")
_MULTIPLIED = [name for name, field in FIELDS.items() if field.role in ("size", "protocol", "rate", "training")]
_AXES = [*dict.fromkeys([*_SLOWEST, *_MULTIPLIED]), "seed"]


def expand(spec: SweepSpec, device: str) -> list[Job]:
    """Return every distinct run of the cross product, in the order task, model, sizes, seed; raise `BadInput`.

    If learning rates are tuned, each run has the lowest rate of the initial grid.
    """
    target = None if spec.match is None else Target.parse(spec.match)
    if target and spec.D is not None:
        raise BadInput(f"--match {spec.match}: it sets the width; leave out --D")
    special = {
        "D": [None] if target else axis(FIELDS["D"], spec.D or "4"),
        "lr": [INITIAL_GRID[0]] if spec.lr == "auto" else axis(FIELDS["lr"], spec.lr),
        "steps": _lengths(spec),
    }
    axes = {name: special.get(name) or axis(FIELDS[name], getattr(spec, FIELDS[name].name)) for name in _AXES}
    task_names = settings.split_list(spec.task, "--task")
    model_names = settings.split_list(spec.models, "--models")
    tasks = [task for name in task_names for task in _tasks(name, task_names, spec)]
    models = [model for name in model_names for model in _models(name, model_names, spec)]
    jobs: dict[str, Job] = {}
    checked: set[str] = set()
    for task, model, point in itertools.product(tasks, models, itertools.product(*axes.values())):
        asked = dict(zip(axes, point, strict=True)) | {"match": target}
        asked["steps"], asked["epochs"] = asked["steps"]
        if spec.paired and asked["seed"] != task.task.instance:
            continue
        job = _job(task, model, asked)
        family, run = family_of(task.task), job.run
        contract = f"{task.task.trained_as} {run.model} {run.model_version} {run.model_settings} {run.D} {run.dtype}"
        if contract not in checked and job.unsupported(device) is None:
            with preserved(f"model {run.model!r}", functions=True):
                family.check(job, device)
            check_same(job.model, run.model, run.D, run.model_settings, run.L)
            checked.add(contract)
        jobs.setdefault(run.key, job)
    return list(jobs.values())


def _job(task: _Task, model: _Model, asked: dict[str, Any]) -> Job:
    """Return the job of a grid point, resolved by the task's family; raise `BadInput` for incompatible settings."""
    point = Point(task.plugin.name, model.plugin.name, asked, model.values, model.given)
    resolved = family_of(task.task).resolve(task.task, model.cls, point)
    run = Run(
        task=task.plugin.name,
        task_version=task.code.version,
        task_settings=task_values(task.task),
        model=model.plugin.name,
        model_version=model.code.version,
        model_settings=resolved.settings,
        **{name: value for name, value in resolved.fields.items() if name in FIELDS},
    )
    check(run, model.cls)
    origins = task.plugin.origin, model.plugin.origin
    return Job(run, task.task, model.cls, *origins, task.code.distributions, model.code.distributions)


def _lengths(spec: SweepSpec) -> list[tuple[int | None, int | None]]:
    """Return the training lengths as pairs (steps, epochs), one of them None; raise `BadInput` if both are given."""
    if spec.epochs is None:
        return [(steps, None) for steps in axis(FIELDS["steps"], spec.steps or "2000")]
    if spec.steps is not None:
        raise BadInput(f"--steps {spec.steps} and --epochs {spec.epochs}: give one of the two")
    return [(None, epochs) for epochs in axis(OWN["epochs"], spec.epochs)]


class _Task(NamedTuple):
    plugin: Plugin
    task: Task
    code: Code


class _Model(NamedTuple):
    plugin: Plugin
    cls: type
    code: Code
    values: dict[str, Value]
    given: tuple[str, ...]


def _tasks(name: str, all_names: list[str], spec: SweepSpec) -> Iterator[_Task]:
    plugin = plugins.find("task", name)
    cls = load_task(plugin)
    instances = spec.seeds if spec.paired else spec.instances
    axes = {"instance": [str(i) for i in axis(AXES["instance"], instances)]}
    for setting, text in (("L", spec.L), ("degree", spec.degree)):
        if text is not None:
            axes[setting] = settings.split_list(text, f"--{setting}")
    given = assignments(spec.task_settings, "-t", all_names, "task", name)
    for setting, values in given.items():
        if setting == "instance" or setting in axes:
            option = {"instance": "--instances"}.get(setting, f"--{setting}")
            raise BadInput(f"-t {setting}: {option} sets this setting; use that option instead")
        axes[setting] = values
    code = plugin.code(cls)
    for point in itertools.product(*axes.values()):
        yield _Task(plugin, build_task(cls, dict(zip(axes, point, strict=True)), name), code)


def _models(name: str, all_names: list[str], spec: SweepSpec) -> Iterator[_Model]:
    plugin = plugins.find("model", name)
    cls = load_model(plugin)
    code = plugin.code(cls)
    axes = assignments(spec.model_settings, "-m", all_names, "model", name)
    for point in itertools.product(*axes.values()):
        texts = dict(zip(axes, point, strict=True))
        yield _Model(plugin, cls, code, settings.resolve(cls, texts, plugin.name), tuple(texts))

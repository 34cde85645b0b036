"""The grid: expand a request of the command line into runs, with every setting resolved and checked before training.

Lists form a cross product. Each distinct configuration of a task or model is imported and built here once, so that an
unknown name, a bad value or a plugin that violates its contract is reported before any run starts.
"""

from __future__ import annotations

import itertools
import traceback
from collections.abc import Iterator
from typing import Any, NamedTuple

from expbench import plugins, settings, supervision
from expbench.contracts import build_task, load_model, load_task, task_values
from expbench.errors import BrokenContract
from expbench.initialisation.start import check
from expbench.nn.memory import BUILT, machine
from expbench.nn.size_matching import Target
from expbench.plugins import Plugin
from expbench.probes import LONGEST as PROBED
from expbench.probes import Probe
from expbench.run import FIELDS, Run
from expbench.settings import Value
from expbench.sweep.estimate import exceeds
from expbench.sweep.spec import SweepSpec, axes, model_axes, size, task_axes
from expbench.task import Task
from expbench.training.family import Point, family_of
from expbench.training.job import Job, Refusal


def expand(spec: SweepSpec, device: str) -> list[Job]:
    """Return every distinct run of the cross product, in the order task, model, sizes, seed; raise `BadInput`.

    If learning rates are tuned, each run has the lowest rate of the initial grid. The runs of a layer that breaks its
    contract have a `refusal`; if no layer keeps its own, the first `BrokenContract` is raised.
    """
    size(spec)
    target = None if spec.match is None else Target.parse(spec.match)
    fields = axes(spec)
    task_names = settings.split_list(spec.task, "--task")
    model_names = settings.split_list(spec.models, "--models")
    tasks = [task for name in task_names for task in _tasks(name, spec)]
    models = [model for name in model_names for model in _models(name, spec)]
    jobs: dict[str, Job] = {}
    checked: dict[str, Probe | BrokenContract] = {}
    broken: list[BrokenContract] = []
    for task, model, point in itertools.product(tasks, models, itertools.product(*fields.values())):
        asked = dict(zip(fields, point, strict=True)) | {"match": target}
        asked["steps"], asked["epochs"] = asked["steps"]
        if spec.paired and asked["seed"] != task.task.instance:
            continue
        job = _job(task, model, asked)
        run = job.run
        if run.key in jobs:
            continue
        if job.unsupported(device) is None and not _exceeds(job):
            contract = contract_of(job)
            if contract not in checked:
                checked[contract] = _checked(job, contract, device)
            found = checked[contract]
            if isinstance(found, Probe) and found.causal is False and task.task.causal and not spec.allow_noncausal:
                found = BrokenContract(
                    f"model {run.model!r} looks ahead: {found.leak}; --allow-noncausal is for those who mean it"
                )
            if isinstance(found, BrokenContract):
                broken.append(found)
                job = job._replace(refusal=_refusal(found))
            else:
                job = job._replace(causal=found.causal)
        jobs[run.key] = job
    if broken and all(job.refusal for job in jobs.values()):
        raise broken[0]
    return list(jobs.values())


def contract_of(job: Job) -> str:
    """Return what the check of a model's contract depends on, as a text."""
    run = job.run
    of_run = f"{run.model} {run.model_version} {run.model_settings} {run.D} {run.dtype} {min(run.L, PROBED)}"
    return f"{job.task.trained_as} {of_run}"


def _exceeds(job: Job) -> bool:
    """Return whether the layer of a job cannot even be built on this machine."""
    return job.sizes.layer() > BUILT and exceeds(job, machine("cpu").free, "cpu")


def _checked(job: Job, contract: str, device: str) -> Probe | BrokenContract:
    if supervision.refusal(contract, job.run.model) is not None:  # its runs are recorded as failed
        return Probe()
    try:
        with supervision.attempting(f"trying {job.run.model} on two short sequences", contract, group=job.run.model):
            return family_of(job.task).check(job, device)
    except BrokenContract as error:
        return error


def _refusal(error: BrokenContract) -> Refusal:
    trace = "".join(traceback.format_exception(error.__cause__)) if error.__cause__ else None
    return Refusal(str(error), trace)


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

"""The grid: expand a request of the command line into runs, with every setting resolved and checked before training.

Lists form a cross product. Each distinct configuration of a task or model is imported and built here once, so that an
unknown name, a bad value or a plugin that violates its contract is reported before any run starts.
"""

from __future__ import annotations

import gc
import itertools
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from expbench import plugins, settings, supervision
from expbench.contracts import build_task, load_model, load_task, task_values
from expbench.errors import BadInput, BrokenContract
from expbench.initialisation.start import check
from expbench.nn.memory import BUILT, machine
from expbench.nn.size_matching import Sized, SizeMissed, Target, all_missed
from expbench.plugins import Plugin
from expbench.probes import LONGEST as PROBED
from expbench.probes import Probe
from expbench.run import FIELDS, NO_BASE, RELATIVE, WITH_BASE, Run
from expbench.settings import Value
from expbench.sources.version import Code
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
    if spec.within is not None and spec.match is None:
        raise BadInput(f"--within {spec.within}: it belongs to --match; add --match params=N")
    size(spec)
    with _without_collector():
        return _tried(_jobs(spec), device, allow_noncausal=spec.allow_noncausal)


@contextmanager
def _without_collector() -> Iterator[None]:
    """Pause Python's garbage collector, which would go through thousands of jobs again and again: all of them are kept."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _jobs(spec: SweepSpec) -> list[Job]:
    """Return every distinct run of the cross product; raise `BadInput`."""
    target = None if spec.match is None else Target.parse(spec.match, spec.within)
    fields = axes(spec)
    task_names = settings.split_list(spec.task, "--task")
    model_names = settings.split_list(spec.models, "--models")
    tasks = [task for name in task_names for task in _tasks(name, spec)]
    models = [model for name in model_names for model in _models(name, spec)]
    jobs: dict[str, Job] = {}
    points: list[tuple[_Task, _Model, dict[str, Any]]] = []
    missed: list[SizeMissed] = []
    for task, model, point in itertools.product(tasks, models, itertools.product(*fields.values())):
        asked = dict(zip(fields, point, strict=True)) | {"match": target}
        asked["steps"], asked["epochs"] = asked["steps"]
        if spec.paired and asked["seed"] != task.task.instance:
            continue
        points.append((task, model, asked))
        try:
            job = _job(task, model, asked)
        except SizeMissed as miss:
            missed.append(miss)
            continue
        jobs.setdefault(job.run.key, job)
    if missed:
        raise _missed_by(missed, points)
    _refuse_unused_bases(fields["position_base"], [job.run for job in jobs.values()])
    return list(jobs.values())


def _refuse_unused_bases(asked: Sequence[float | None], runs: Sequence[Run]) -> None:
    """Raise `BadInput` if bases of position codes are given and no run has a code with a base; `NO_BASE` is always valid."""
    for base in asked:
        if base not in (None, NO_BASE) and all(run.position_base != base for run in runs):
            codes = ", ".join(dict.fromkeys(run.positions for run in runs))
            raise BadInput(
                f"--position-base {base:g}: positions {codes} have no base; those with one are {' and '.join(WITH_BASE)}"
            )


def _missed_by(missed: Sequence[SizeMissed], points: Sequence[tuple[_Task, _Model, dict[str, Any]]]) -> BadInput:
    """Return the error for all points that miss the size of --match, after listing the sizes of the points that meet it."""
    others: dict[str, Sequence[Sized]] = {}
    names = {miss.name for miss in missed}
    for task, model, asked in points:
        name = model.plugin.name
        if name not in names and name not in others:
            try:
                _job(task, model, asked | {"match": asked["match"]._replace(within=-1.0)})  # no size is so near
            except SizeMissed as listed:
                others[name] = listed.sizes
    return all_missed(missed, list(others.values()), len({model.plugin.name for _, model, _ in points}))


def _tried(jobs: Iterable[Job], device: str, *, allow_noncausal: bool) -> list[Job]:
    """Return the jobs after a check of each contract of a layer; those of a layer that breaks it have a `refusal`.

    Raise the first `BrokenContract` if no layer keeps its own.
    """
    found: dict[str, Probe | BrokenContract] = {}
    tried: list[Job] = []
    broken: list[BrokenContract] = []
    for job in jobs:
        if job.unsupported(device) is not None or _exceeds(job):
            tried.append(job)
            continue
        contract = contract_of(job)
        if contract not in found:
            found[contract] = _checked(job, contract, device)
        probed = found[contract]
        if isinstance(probed, Probe) and probed.causal is False and job.task.causal and not allow_noncausal:
            probed = BrokenContract(
                f"model {job.run.model!r} looks ahead: {probed.leak}; --allow-noncausal trains it anyway"
            )
        if isinstance(probed, BrokenContract):
            broken.append(probed)
            tried.append(job._replace(refusal=_refusal(probed)))
        else:
            tried.append(job._replace(causal=probed.causal))
    if broken and all(job.refusal for job in tried):
        raise broken[0]
    return tried


def contract_of(job: Job) -> str:
    """Return what the check of a model's contract depends on, as a text."""
    run = job.run
    of_run = f"{run.model} {run.model_version} {run.model_settings} {run.D} {run.dtype} {min(run.L, PROBED)}"
    of_run += f" {run.positions} {run.position_base}" if run.positions in RELATIVE else ""
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


def _tasks(name: str, spec: SweepSpec) -> Iterator[_Task]:
    plugin = plugins.find("task", name)
    given = task_axes(spec, name)
    with supervision.attempting(f"loading the task {name}"):
        cls = load_task(plugin)
        code = plugin.code(cls)
        for point in itertools.product(*given.values()):
            yield _Task(plugin, build_task(cls, dict(zip(given, point, strict=True)), name), code)


def _models(name: str, spec: SweepSpec) -> Iterator[_Model]:
    plugin = plugins.find("model", name)
    with supervision.attempting(f"loading the model {name}"):
        cls = load_model(plugin)
        code = plugin.code(cls)
    given = model_axes(spec, name)
    for point in itertools.product(*given.values()):
        texts = dict(zip(given, point, strict=True))
        yield _Model(plugin, cls, code, settings.resolve(cls, texts, plugin.name), tuple(texts))

"""The grid: from what the command line says to the runs of a sweep, every setting resolved and checked before training.

Lists multiply. A task or model is imported and built once here for each distinct setting, so that an unknown name, a bad
value or a plugin that breaks its contract is found before anything runs.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast, get_args

import torch
from torch import nn

from expbench import plugins, settings
from expbench.errors import BadInput, unknown
from expbench.mixer import unsupported
from expbench.plugins import Plugin
from expbench.run import DType, Norm, Positions, Run
from expbench.settings import Value
from expbench.task import Task, total

_CHECKED_LENGTH = 16  # a mixer's contract is checked on sequences of at most this length


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for, as texts; lists and ranges as the user wrote them. None leaves it to task or model."""

    task: str
    models: str
    L: str | None = None
    degree: str | None = None
    instances: str = "0"
    D: str = "4"
    depth: str = "1"
    norm: str = "layer"
    positions: str | None = None
    residual: str = "on"
    lr: str = "0.01"
    seeds: str = "0:3"
    steps: str = "2000"
    batch_size: str = "64"
    warmup: str | None = None
    weight_decay: str = "0"
    clip: str = "1.0"
    dtype: str = "float32"
    task_settings: Sequence[str] = field(default_factory=tuple)
    model_settings: Sequence[str] = field(default_factory=tuple)


class Job(NamedTuple):
    """A run with the objects that it needs. origin: where its model comes from."""

    run: Run
    task: Task
    model: type
    origin: str


def expand(request: Request, device: str) -> list[Job]:
    """Every run of the cross product, each once, in the order task, model, sizes, seed; raises `BadInput`."""
    training = [
        _whole("--D", request.D),
        _whole("--depth", request.depth),
        _choice("--norm", request.norm, get_args(Norm)),
        [None] if request.positions is None else _choice("--positions", request.positions, get_args(Positions)),
        [value == "on" for value in _choice("--residual", request.residual, ("on", "off"))],
        _real("--lr", request.lr, above=0.0),
        _whole("--steps", request.steps),
        _whole("--batch-size", request.batch_size),
        [None] if request.warmup is None else _whole("--warmup", request.warmup, least=0),
        _real("--weight-decay", request.weight_decay),
        _real("--clip", request.clip, above=0.0),
        _choice("--dtype", request.dtype, get_args(DType)),
        _whole("--seeds", request.seeds, least=0),
    ]
    task_names = settings.split_list(request.task, "--task")
    model_names = settings.split_list(request.models, "--models")
    tasks = [task for name in task_names for task in _tasks(name, task_names, request)]
    models = [model for name in model_names for model in _models(name, model_names, request)]
    jobs: dict[str, Job] = {}
    checked: set[str] = set()
    for (task, task_version, task_name), model, point in itertools.product(tasks, models, itertools.product(*training)):
        D, depth, norm, positions, residual, lr, steps, batch_size, warmup, weight_decay, clip, dtype, seed = point
        run = Run(
            task=task_name,
            task_version=task_version,
            task_settings=task_values(task),
            model=model.plugin.name,
            model_version=model.version,
            model_settings=_resolved(model, D),
            D=D,
            depth=depth,
            norm=norm,
            positions=positions or getattr(model.cls, "positions", "none"),
            residual=residual,
            steps=steps,
            warmup=min(200, steps // 10) if warmup is None else min(warmup, steps),
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            clip=clip,
            seed=seed,
            dtype=dtype,
        )
        contract = f"{run.model} {run.model_version} {run.model_settings} {D} {dtype}"
        if contract not in checked and unsupported(model.cls, width=D, dtype=dtype, device=device) is None:
            check_mixer(model.cls, run.model, D, run.model_settings, run.L, device)
            checked.add(contract)
        jobs.setdefault(run.key, Job(run, task, model.cls, model.plugin.origin))
    return list(jobs.values())


def task_values(task: Task) -> dict[str, Value]:
    """The settings of a task as it resolved them."""
    return {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if f.init}


class _Model(NamedTuple):
    plugin: Plugin
    cls: type
    version: str
    values: dict[str, Value]


def _resolved(model: _Model, width: int) -> dict[str, Value]:
    resolve = getattr(model.cls, "resolve", None)
    return cast(dict[str, Value], resolve(width, dict(model.values))) if resolve else dict(model.values)


def _tasks(name: str, all_names: list[str], request: Request) -> Iterator[tuple[Task, str, str]]:
    plugin = plugins.find("task", name)
    cls = load_task(plugin)
    axes = {"instance": settings.split_list(request.instances, "--instances")}
    for setting, text in (("L", request.L), ("degree", request.degree)):
        if text is not None:
            axes[setting] = settings.split_list(text, f"--{setting}")
    for owner, setting, values in _assignments(request.task_settings, "-t", all_names, "task"):
        if setting in axes and owner in (None, name):
            raise BadInput(f"-t {setting}: this setting is given twice; give it once, as --{setting} or with -t")
        if owner in (None, name):
            axes[setting] = values
    for point in itertools.product(*axes.values()):
        yield build_task(cls, dict(zip(axes, point, strict=True)), name), plugin.version(cls), name


def load_task(plugin: Plugin) -> type[Task]:
    """The class of a task plugin; raises `BadInput` if it is no task."""
    cls = plugin.load()
    if not (issubclass(cls, Task) and dataclasses.is_dataclass(cls)):
        raise BadInput(
            f"task {plugin.name!r} ({plugin.origin}) breaks its contract: {cls.__name__} is no expbench.task.Task dataclass"
        )
    missing = sorted(cls.__abstractmethods__) + [
        name for name in ("headline", "higher_is_better", "solved_at") if not hasattr(cls, name)
    ]
    if missing:
        raise BadInput(
            f"task {plugin.name!r} ({plugin.origin}) breaks its contract: {cls.__name__} lacks {', '.join(missing)}"
        )
    return cls


def build_task(cls: type[Task], texts: Mapping[str, str], name: str) -> Task:
    """A task from texts, its settings resolved and its contract checked on one small batch; raises `BadInput`."""
    values: dict[str, Any] = settings.resolve(cls, texts, name)
    try:
        task = cls(**values)
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error
    _check_task(task, name)
    return task


def _check_task(task: Task, name: str) -> None:
    try:
        batch = task.train_batch(2, seed=0, step=0)
        shape = (2, task.L) if task.vocabulary is not None else (2, task.L, task.channels)
        if tuple(batch.inputs.shape) != shape:
            raise ValueError(f"inputs have shape {tuple(batch.inputs.shape)}, not {shape}")
        outputs = torch.zeros(2, *([] if task.readout == "last" else [task.L]), task.outputs, dtype=torch.float64)
        if not bool(torch.isfinite(task.loss(outputs, batch.targets))):
            raise ValueError("the loss of zero outputs is not finite")
        measured = [m.metric for m in task.summary(total([task.measure(outputs, batch.targets)]))]
        if task.headline not in measured:
            raise ValueError(f"summary gives {', '.join(measured) or 'nothing'}, not the headline metric {task.headline}")
    except Exception as error:  # a plugin is a stranger's code
        raise BadInput(f"task {name!r} breaks its contract: {type(error).__name__}: {error}") from error


def _models(name: str, all_names: list[str], request: Request) -> Iterator[_Model]:
    plugin = plugins.find("model", name)
    cls = load_model(plugin)
    axes: dict[str, list[str]] = {}
    for owner, setting, values in _assignments(request.model_settings, "-m", all_names, "model"):
        if owner in (None, name):
            axes[setting] = values
    for point in itertools.product(*axes.values()):
        yield _Model(
            plugin, cls, plugin.version(cls), settings.resolve(cls, dict(zip(axes, point, strict=True)), plugin.name)
        )


def load_model(plugin: Plugin) -> type[nn.Module]:
    """The class of a model plugin; raises `BadInput` if it is no `nn.Module`."""
    cls = plugin.load()
    if not issubclass(cls, nn.Module):
        raise BadInput(f"model {plugin.name!r} ({plugin.origin}) breaks its contract: {cls.__name__} is no torch.nn.Module")
    return cls


def check_mixer(cls: type, name: str, width: int, values: Mapping[str, Value], L: int, device: str) -> None:
    """Build one layer and run it on two short sequences; raises `BadInput` if it does not map (B, L, D) to (B, L, D)."""
    shape = (2, min(L, _CHECKED_LENGTH), width)
    try:
        layer = cls(width, **values)
    except ValueError as error:
        raise BadInput(f"{name}: {error}") from error
    except Exception as error:  # a plugin is a stranger's code
        raise BadInput(f"model {name!r} cannot be built with width {width}: {type(error).__name__}: {error}") from error
    try:
        with torch.no_grad():
            y = layer.to(device)(torch.zeros(shape, device=device))
        if not isinstance(y, torch.Tensor):
            raise TypeError(f"forward returns {type(y).__name__}, not a tensor")
        if tuple(y.shape) != shape:
            raise ValueError(f"forward maps (B, L, D) = {shape} to {tuple(y.shape)}")
    except Exception as error:  # a plugin is a stranger's code
        raise BadInput(f"model {name!r} breaks its contract: {type(error).__name__}: {error}") from error


def _assignments(
    texts: Sequence[str], option: str, names: list[str], kind: str
) -> Iterator[tuple[str | None, str, list[str]]]:
    seen = set()
    for text in texts:
        owner, setting, values = settings.split_assignment(text, option)
        if owner is not None and owner not in names:
            raise unknown(f"{kind} in {option} {text!r}:", owner, names)
        if (owner, setting) in seen:
            raise BadInput(f"{option} {text}: {setting} is given twice; write {setting}=VALUE1,VALUE2")
        seen.add((owner, setting))
        yield owner, setting, values


def _whole(option: str, text: str, least: int = 1) -> list[int]:
    values: list[int] = [_number(option, member, int) for member in settings.split_list(text, option)]
    for value in values:
        if value < least:
            raise BadInput(f"{option}: {value} is too small, the least is {least}")
    return values


def _real(option: str, text: str, above: float | None = None) -> list[float]:
    values: list[float] = [_number(option, member, float) for member in settings.split_list(text, option)]
    for value in values:
        if value < 0 or (above is not None and value <= above):
            raise BadInput(f"{option}: {value:g} must be {'above' if above is not None else 'at least'} 0")
    return values


def _number(option: str, text: str, kind: type) -> Any:
    return settings.Setting(option, kind, None).parse(text, "run")


def _choice(option: str, text: str, choices: Sequence[str]) -> list[Any]:
    values = settings.split_list(text, option)
    for value in values:
        if value not in choices:
            raise unknown(f"value of {option}:", value, choices)
    return values

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
from expbench.backbone import language_settings
from expbench.constructions import initial
from expbench.errors import BadInput, of_plugin, unknown
from expbench.language import job
from expbench.matching import Around, Target, match
from expbench.mixer import Mixer, unsupported
from expbench.ops.backends import Unable
from expbench.plugins import Plugin
from expbench.rates import RESERVED, START
from expbench.run import DType, Init, Norm, Positions, Run
from expbench.settings import Value
from expbench.task import Task, total
from expbench.text_task import TextTask

_LARGEST_RATE = 1e9
_CHECKED_LENGTH = 16  # a mixer's contract is checked on sequences of at most this length


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the command line asks for, as texts; lists and ranges as the user wrote them. None leaves it to task or model."""

    task: str
    models: str
    L: str | None = None
    degree: str | None = None
    instances: str = "0"
    D: str | None = None  # 4, or what `match` comes to
    match: str | None = None
    depth: str = "1"
    norm: str = "layer"
    positions: str | None = None
    residual: str = "on"
    lr: str = "0.01"  # or auto
    seeds: str = "0:3"
    paired: bool = False  # whether seed i is run on instance i alone
    steps: str | None = None  # 2000, unless epochs are given
    epochs: str | None = None
    batch_size: str = "64"
    warmup: str | None = None
    weight_decay: str = "0"
    clip: str = "1.0"
    dtype: str = "float32"
    init: str = "default"
    init_noise: str = "0"
    task_settings: Sequence[str] = field(default_factory=tuple)
    model_settings: Sequence[str] = field(default_factory=tuple)


class Job(NamedTuple):
    """A run with the objects that it needs, and where its task and model come from."""

    run: Run
    task: Task
    model: type
    task_origin: str
    model_origin: str

    def unsupported(self, device: str) -> str | None:
        """Why its model cannot run as asked on that device, in words; None if it can."""
        return unsupported(self.model, width=self.run.D, dtype=self.run.dtype, device=device)


def expand(request: Request, device: str) -> list[Job]:
    """Every run of the cross product, each once, in the order task, model, sizes, seed; raises `BadInput`.

    Where rates are still to be chosen, each run has the lowest that will be tried.
    """
    target = None if request.match is None else Target.parse(request.match)
    if target and request.D is not None:
        raise BadInput(f"--match {request.match}: the width follows from it; leave out --D")
    training = [
        [None] if target else whole("--D", request.D or "4", most=1 << 16),
        whole("--depth", request.depth, most=1 << 12),
        _choice("--norm", request.norm, get_args(Norm)),
        [None] if request.positions is None else _choice("--positions", request.positions, get_args(Positions)),
        [value == "on" for value in _choice("--residual", request.residual, ("on", "off"))],
        [START[0]] if request.lr == "auto" else real("--lr", request.lr, above=0.0),
        _lengths(request),
        whole("--batch-size", request.batch_size, most=1 << 24),
        [None] if request.warmup is None else whole("--warmup", request.warmup, least=0, most=10**9),
        real("--weight-decay", request.weight_decay),
        real("--clip", request.clip, above=0.0),
        _choice("--dtype", request.dtype, get_args(DType)),
        _choice("--init", request.init, get_args(Init)),
        real("--init-noise", request.init_noise),
        whole("--seeds", request.seeds, least=0, most=RESERVED - 1),
    ]
    task_names = settings.split_list(request.task, "--task")
    model_names = settings.split_list(request.models, "--models")
    tasks = [task for name in task_names for task in _tasks(name, task_names, request)]
    models = [model for name in model_names for model in _models(name, model_names, request)]
    for task in tasks:
        _check_request(request, task)
    jobs: dict[str, Job] = {}
    checked: set[str] = set()
    matched: dict[tuple[str, ...], tuple[int, dict[str, Value]]] = {}
    for task, model, point in itertools.product(tasks, models, itertools.product(*training)):
        D, depth, norm, positions, residual, lr, length, batch_size, warmup, weight_decay, clip, dtype, *start, seed = point
        if request.paired and seed != task.task.instance:
            continue
        values = model.values
        if isinstance(task.task, TextTask):
            norm, positions = "rms", "none"  # of the backbone, which has its own positions
            values = language_settings(model.cls, D, {name: values[name] for name in model.given})
            steps, warmup = job.steps_and_warmup(task.task, batch_size, length, warmup)
        else:
            positions = positions or default_positions(model.cls, model.plugin.name)
            steps = length[0]
            warmup = min(200, steps // 10) if warmup is None else min(warmup, steps)
        if target:
            around = Around(depth, norm, positions, residual)
            asked = {name: value for name, value in task_values(task.task).items() if name != "instance"}
            known = (task.plugin.name, model.plugin.name, *map(str, (asked, values, around)))
            if known not in matched:
                matched[known] = match(task.task, model.cls, model.plugin.name, values, around, target)
            D, values = matched[known]
        run = Run(
            task=task.plugin.name,
            task_version=task.version,
            task_settings=task_values(task.task),
            model=model.plugin.name,
            model_version=model.version,
            model_settings=dict(values) if isinstance(task.task, TextTask) else resolved_settings(model.cls, values, D),
            D=D,
            depth=depth,
            norm=norm,
            positions=positions,
            residual=residual,
            steps=steps,
            warmup=warmup,
            batch_size=batch_size,
            lr=lr,
            weight_decay=weight_decay,
            clip=clip,
            seed=seed,
            dtype=dtype,
            init=start[0],
            init_noise=start[1],
        )
        initial.check(run, model.cls)
        contract = f"{run.model} {run.model_version} {run.model_settings} {D} {dtype}"
        if contract not in checked and unsupported(model.cls, width=D, dtype=dtype, device=device) is None:
            if isinstance(task.task, TextTask):
                job.recipe_of(run, task.task)
                job.check(model.cls, run.model, values, D)
            else:
                check_mixer(model.cls, run.model, D, run.model_settings, run.L, device, dtype)
            checked.add(contract)
        jobs.setdefault(run.key, Job(run, task.task, model.cls, task.plugin.origin, model.plugin.origin))
    return list(jobs.values())


def task_values(task: Task) -> dict[str, Value]:
    """The settings of a task as it resolved them."""
    return {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if f.init and f.name not in task.local}


def _lengths(request: Request) -> list[tuple[int | None, int | None]]:
    """How long runs are, as (steps, epochs) of which one is None; raises `BadInput` where both are given."""
    if request.epochs is None:
        return [(steps, None) for steps in whole("--steps", request.steps or "2000", most=10**9)]
    if request.steps is not None:
        raise BadInput(f"--steps {request.steps} and --epochs {request.epochs}: give one of the two")
    return [(None, epochs) for epochs in whole("--epochs", request.epochs, most=10**6)]


def _check_request(request: Request, task: _Task) -> None:
    """Raises `BadInput` for what is asked of a text task that its backbone has, and of another for what texts alone have."""
    name = task.plugin.name
    if not isinstance(task.task, TextTask):
        if request.epochs is not None:
            raise BadInput(f"--epochs {request.epochs}: {name} has fresh data at every step; give --steps")
        return
    fixed = {
        "--norm": (request.norm, ("layer", "rms")),  # what it is by default says nothing
        "--positions": (request.positions, (None, "none")),
        "--residual": (request.residual, ("on",)),
        "--init": (request.init, ("default",)),
        "--init-noise": (request.init_noise, ("0",)),
        "--match": (request.match, (None,)),
    }
    for option, (given, possible) in fixed.items():
        if given not in possible:
            raise BadInput(f"{option} {given}: a language model's backbone has its own; leave the option out for {name}")


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


def resolved_settings(model: type, values: Mapping[str, Value], width: int) -> dict[str, Value]:
    """A model's settings at a width: those that a `Mixer` leaves to the width have their value."""
    return model.resolve(width, dict(values)) if issubclass(model, Mixer) else dict(values)


def default_positions(model: type, name: str) -> Positions:
    """The position code that a model asks for; raises `BadInput` if there is no such code."""
    stated = getattr(model, "positions", "none")
    if not isinstance(stated, str):  # a stranger's attribute that happens to bear this name
        return "none"
    if stated not in get_args(Positions):
        raise unknown(f"value of {name}'s attribute positions:", stated, get_args(Positions))
    return cast(Positions, stated)


def _tasks(name: str, all_names: list[str], request: Request) -> Iterator[_Task]:
    plugin = plugins.find("task", name)
    cls = load_task(plugin)
    instances = request.seeds if request.paired else request.instances
    axes = {"instance": [str(i) for i in whole("--instances", instances, least=0, most=RESERVED - 1)]}
    for setting, text in (("L", request.L), ("degree", request.degree)):
        if text is not None:
            axes[setting] = settings.split_list(text, f"--{setting}")
    given = assignments(request.task_settings, "-t", all_names, "task", name)
    for setting, values in given.items():
        if setting == "instance" or setting in axes:
            option = {"instance": "--instances"}.get(setting, f"--{setting}")
            raise BadInput(f"-t {setting}: this setting is given by {option}; give it once, with that option")
        axes[setting] = values
    for point in itertools.product(*axes.values()):
        yield _Task(plugin, build_task(cls, dict(zip(axes, point, strict=True)), name), plugin.version(cls))


def load_task(plugin: Plugin) -> type[Task]:
    """The class of a task plugin; raises `BadInput` if it is no task."""
    cls = plugin.load()
    if not (issubclass(cls, Task) and "__dataclass_fields__" in vars(cls)):
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
    with of_plugin(name, f"task {name!r} cannot be built"):
        task = cls(**values)
    if not isinstance(task, TextTask):
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
    except (Exception, SystemExit) as error:  # a plugin is a stranger's code
        raise BadInput(f"task {name!r} breaks its contract: {type(error).__name__}: {error}") from error


def _models(name: str, all_names: list[str], request: Request) -> Iterator[_Model]:
    plugin = plugins.find("model", name)
    cls = load_model(plugin)
    axes = assignments(request.model_settings, "-m", all_names, "model", name)
    for point in itertools.product(*axes.values()):
        texts = dict(zip(axes, point, strict=True))
        yield _Model(plugin, cls, plugin.version(cls), settings.resolve(cls, texts, plugin.name), tuple(texts))


def load_model(plugin: Plugin) -> type[nn.Module]:
    """The class of a model plugin; raises `BadInput` if it is no `nn.Module`."""
    cls = plugin.load()
    if not issubclass(cls, nn.Module):
        raise BadInput(f"model {plugin.name!r} ({plugin.origin}) breaks its contract: {cls.__name__} is no torch.nn.Module")
    return cls


def check_mixer(
    cls: type, name: str, width: int, values: Mapping[str, Value], L: int, device: str, dtype: DType = "float32"
) -> None:
    """Build one layer and run it on two short sequences; raises `BadInput` if it does not map (B, L, D) to (B, L, D)."""
    shape = (2, min(L, _CHECKED_LENGTH), width)
    with of_plugin(name, f"model {name!r} cannot be built with width {width}"):
        layer = cls(width, **values)
    try:
        with torch.no_grad():
            precision = torch.float64 if dtype == "float64" else torch.float32
            y = layer.to(device, precision)(torch.zeros(shape, device=device, dtype=precision))
        if not isinstance(y, torch.Tensor):
            raise TypeError(f"forward returns {type(y).__name__}, not a tensor")
        if tuple(y.shape) != shape:
            raise ValueError(f"forward maps (B, L, D) = {shape} to {tuple(y.shape)}")
    except Unable as error:
        raise BadInput(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # a plugin is a stranger's code
        raise BadInput(f"model {name!r} breaks its contract: {type(error).__name__}: {error}") from error


def assignments(texts: Sequence[str], option: str, names: list[str], kind: str, name: str) -> dict[str, list[str]]:
    """The values that -t or -m texts give to each setting of the plugin `name`, one among `names`.

    Raises `BadInput` for an owner that is none of them, and for a setting that is given twice.
    """
    given: dict[str, list[str]] = {}
    for text in texts:
        owner, setting, values = settings.split_assignment(text, option)
        if owner is not None and owner not in names:
            raise unknown(f"{kind} in {option} {text!r}:", owner, names)
        if owner in (None, name):
            if setting in given:
                raise BadInput(f"{option} {text}: {setting} is given twice; write {setting}=VALUE1,VALUE2")
            given[setting] = values
    return given


def whole(option: str, text: str, least: int = 1, most: int = 2**63 - 1) -> list[int]:
    """A list of whole numbers, as the user wrote it; raises `BadInput` for what is none, or not within the bounds."""
    values: list[int] = [_number(option, member, int) for member in settings.split_list(text, option)]
    for value in values:
        if value < least:
            raise BadInput(f"{option}: {value} is too small, the least is {least}")
        if value > most:
            raise BadInput(f"{option}: {value} is too large, the most is {most}")
    return values


def real(option: str, text: str, above: float | None = None) -> list[float]:
    """A list of numbers, as the user wrote it; raises `BadInput` for what is none, is negative, or not above `above`."""
    values: list[float] = [_number(option, member, float) for member in settings.split_list(text, option)]
    for value in values:
        if value < 0 or (above is not None and value <= above):
            raise BadInput(f"{option}: {value:g} must be {'above' if above is not None else 'at least'} 0")
        if value > _LARGEST_RATE:
            raise BadInput(f"{option}: {value:g} is too large, the most is {_LARGEST_RATE:g}")
    return values


def _number(option: str, text: str, kind: type) -> Any:
    return settings.Setting(option, kind, None).parse(text, "run")


def _choice(option: str, text: str, choices: Sequence[str]) -> list[Any]:
    values = settings.split_list(text, option)
    for value in values:
        if value not in choices:
            raise unknown(f"value of {option}:", value, choices)
    return values

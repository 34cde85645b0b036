"""Request: the options of the command line as texts, and their lists of values, whose number is bounded. Without torch."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from expbench import plugins, settings
from expbench.errors import BadInput, unknown
from expbench.results.learning_rates import INITIAL_GRID
from expbench.run import AXES, FIELDS
from expbench.settings import REQUIRED, Option, Role, setting

_LARGEST_RATE = 1e9
_MOST_RUNS = 100_000  # a folder of more files is beyond what file systems and the other commands read in a minute


@dataclass(frozen=True, kw_only=True)
class _Own:
    """Options of a request that are not fields of a run."""

    match: str = setting(
        "--match",
        role="size",
        default=None,
        metavar="WHAT=N",
        help="Instead of --D: match each model to params=N or state=N, within 5 % (--within).",
    )
    within: float = setting(
        "--within",
        role="size",
        default=None,
        metavar="PERCENT",
        help="Largest difference from the size that --match asks for. (default: 5)",
    )
    epochs: int = setting(
        "--epochs",
        role="training",
        default=None,
        most=10**6,
        help="Instead of --steps: number of epochs over the training split of a text.",
    )
    paired: bool = setting("--paired", role="instance", default=False, help="Instead of --instances: seed i on instance i.")
    allow_noncausal: bool = setting(
        "--allow-noncausal",
        role="protocol",
        default=False,
        help="Also train layers that look ahead in tasks whose outputs must not.",
    )


OWN = settings.options(_Own)


def _options() -> Iterator[Option]:
    """Yield the options by role; within a role, alternatives to a field of a run precede the field."""
    given = [option for declared in (OWN, FIELDS, AXES) for option in declared.values() if option.flags]
    for role in get_args(Role):
        yield from (option for option in given if option.role == role)


OPTIONS = {option.name: option for option in _options()}


def _field(option: Option) -> tuple[str, Any, Any]:
    """Return a field of a request in the format of `make_dataclass`."""
    if option.repeats:
        return option.name, Sequence[str], dataclasses.field(default=())
    kind = bool if isinstance(option.default, bool) else str | None
    default = dataclasses.MISSING if option.default is REQUIRED else option.default
    return option.name, kind, dataclasses.field(default=default)


_Texts: Any = dataclasses.make_dataclass("_Texts", map(_field, OPTIONS.values()), frozen=True, kw_only=True)


class SweepSpec(_Texts):
    """Options of the command line by their names in `OPTIONS`: texts, lists and ranges as the user wrote them.

    This is a dataclass. None means the default of the task, the model or another option. paired: whether seed i runs on
    instance i only. allow_noncausal: whether layers that look ahead are trained. task_settings, model_settings: tuples of
    texts.
    """


# Order of the cross product, seeds fastest; it determines the runs of a shard. Other fields follow in declaration order.
_SLOWEST = ("D", "depth", "norm", "positions", "residual", "lr", "steps", "batch_size")
_MULTIPLIED = [name for name, field in FIELDS.items() if field.role in ("size", "protocol", "rate", "training")]
_AXES = [*dict.fromkeys([*_SLOWEST, *_MULTIPLIED]), "seed"]


def axes(spec: SweepSpec) -> dict[str, list[Any]]:
    """Return the values of each field of a run that is no setting of a plugin; raise `BadInput`.

    The width is None if `match` determines it. If learning rates are tuned, the rate is the lowest of the initial grid.
    `steps` holds pairs (steps, epochs), one of them None.
    """
    if spec.match and spec.D is not None:
        raise BadInput(f"--match {spec.match}: it sets the width; leave out --D")
    special = {
        "D": [None] if spec.match else axis(FIELDS["D"], spec.D or "4"),
        "lr": [INITIAL_GRID[0]] if spec.lr == "auto" else axis(FIELDS["lr"], spec.lr),
        "steps": _lengths(spec),
        "position_base": _bases(spec.position_base),
    }
    return {name: special.get(name) or axis(FIELDS[name], getattr(spec, FIELDS[name].name)) for name in _AXES}


def _lengths(spec: SweepSpec) -> list[tuple[int | None, int | None]]:
    """Return the training lengths as pairs (steps, epochs), one of them None; raise `BadInput` if both are given."""
    if spec.epochs is None:
        return [(steps, None) for steps in axis(FIELDS["steps"], spec.steps or "2000")]
    if spec.steps is not None:
        raise BadInput(f"--steps {spec.steps} and --epochs {spec.epochs}: give one of the two")
    return [(None, epochs) for epochs in axis(OWN["epochs"], spec.epochs)]


def _bases(text: str) -> list[float | None]:
    """Return the bases of the position codes, None for auto."""
    option = FIELDS["position_base"]
    return [None if member == "auto" else _base(option, member) for member in settings.split_list(text, option.flag)]


def _base(option: Option, text: str) -> float:
    try:
        return real(option.flag, settings.quoted(text), option.above)[0]
    except BadInput:
        raise BadInput(f"{option.flag}: {text!r} is not a number above {option.above:g}, or auto") from None


def task_axes(spec: SweepSpec, name: str) -> dict[str, list[str]]:
    """Return the texts of each setting of the task `name`, one of the request's; raise `BadInput`."""
    if spec.paired and spec.instances is not None:
        raise BadInput(f"--paired and --instances {spec.instances}: seed i runs on instance i; leave out one of the two")
    instances = spec.seeds if spec.paired else "0" if spec.instances is None else spec.instances
    found = {"instance": [str(i) for i in axis(AXES["instance"], instances)]}
    for own, text in (("L", spec.L), ("degree", spec.degree)):
        if text is not None:
            found[own] = settings.split_list(text, f"--{own}")
    names = settings.split_list(spec.task, "--task")
    for given, values in assignments(spec.task_settings, "-t", names, "task", name).items():
        if given == "instance" or given in found:
            option = {"instance": "--instances"}.get(given, f"--{given}")
            raise BadInput(f"-t {given}: {option} sets this setting; use that option instead")
        found[given] = values
    return found


def model_axes(spec: SweepSpec, name: str) -> dict[str, list[str]]:
    """Return the texts of each setting of the model `name`, one of the request's; raise `BadInput`."""
    return assignments(spec.model_settings, "-m", settings.split_list(spec.models, "--models"), "model", name)


def size(spec: SweepSpec) -> int:
    """Return the number of points of the cross product, without forming it; raise `BadInput` if it is too large."""
    tasks = {name: task_axes(spec, name) for name in settings.split_list(spec.task, "--task")}
    models = {name: model_axes(spec, name) for name in settings.split_list(spec.models, "--models")}
    fields = axes(spec)
    if spec.paired:
        del fields["seed"]
    points = sum(map(_points, tasks.values())) * sum(map(_points, models.values())) * _points(fields)
    if points > _MOST_RUNS:
        lengths = {(FIELDS | AXES)[name].flag: len(values) for name, values in fields.items()}
        for given in (*tasks.values(), *models.values()):
            lengths |= {AXES[name].flag if name in AXES else name: len(values) for name, values in given.items()}
        largest = max(lengths, key=lambda name: lengths[name])
        raise BadInput(
            f"{points:,} runs are too many, the maximum is {_MOST_RUNS:,}; shorten {largest}, which has {lengths[largest]:,}"
            " values"
        )
    return points


def announced(spec: SweepSpec) -> str:
    """Return in a few words what is requested, once its names and numbers are known to be valid; raise `BadInput`."""
    tasks, models = settings.split_list(spec.task, "--task"), settings.split_list(spec.models, "--models")
    for name in tasks:
        plugins.find("task", name)
    for name in models:
        plugins.find("model", name)
    points = size(spec)
    runs = "1 run" if points == 1 else f"up to {points:,} runs"
    return f"{', '.join(tasks)} with {', '.join(models)}, {runs}"


def _points(values: Mapping[str, Sequence[object]]) -> int:
    return math.prod(map(len, values.values()))


def axis(option: Option, text: str | None) -> list[Any]:
    """Return the values that the text of an option lists, converted to the type of its field; [None] if it is absent."""
    if text is None:
        return [None]
    if option.kind is bool:
        return [value == "on" for value in choice(option.flag, text, ("on", "off"))]
    if option.kind is int:
        return whole(option.flag, text, option.least, option.most)
    if option.kind is float:
        return real(option.flag, text, option.above)
    return choice(option.flag, text, get_args(option.kind))


def assignments(texts: Sequence[str], option: str, names: list[str], kind: str, name: str) -> dict[str, list[str]]:
    """Return the values that -t or -m texts assign to each setting of the plugin `name`, one of `names`.

    Raise `BadInput` for an owner that is not among `names`, and for a setting that is given twice.
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
    """Parse a list of integers; raise `BadInput` for a text that is not an integer, or a value outside the bounds."""
    values: list[int] = [_number(option, member, int) for member in settings.split_list(text, option)]
    for value in values:
        if value < least:
            raise BadInput(f"{option}: {value} is too small, the minimum is {least}")
        if value > most:
            raise BadInput(f"{option}: {value} is too large, the maximum is {most}")
    return values


def real(option: str, text: str, above: float | None = None) -> list[float]:
    """Parse a list of numbers; raise `BadInput` for other texts, for negative values and for values not above `above`."""
    values: list[float] = [_number(option, member, float) for member in settings.split_list(text, option)]
    for value in values:
        if value < 0 or (above is not None and value <= above):
            raise BadInput(f"{option}: {value:g} must be {'at least 0' if above is None else f'above {above:g}'}")
        if value > _LARGEST_RATE:
            raise BadInput(f"{option}: {value:g} is too large, the maximum is {_LARGEST_RATE:g}")
    return values


def _number(option: str, text: str, kind: type) -> Any:
    return settings.Setting(option, kind, REQUIRED).parse(text, "run")


def choice(option: str, text: str, choices: Sequence[str]) -> list[Any]:
    """Parse a list of names; raise `BadInput` for one that is not among `choices`."""
    values = settings.split_list(text, option)
    for value in values:
        if value not in choices:
            raise unknown(f"value of {option}:", value, choices)
    return values

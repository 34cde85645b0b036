"""Contracts: load a plugin, build it from texts, and check that it satisfies its contract before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, cast, get_args

import torch
from torch import nn

from expbench import plugins, probes, settings
from expbench.errors import BadInput, BrokenContract, of_plugin, place_of, unknown
from expbench.global_state import preserved
from expbench.mixer import Mixer, RelativeCode, apply_relative, supports
from expbench.ops.backends import BackendUnsupported
from expbench.plugins import Plugin
from expbench.probes import Probe
from expbench.run import DType, Positions
from expbench.settings import Value
from expbench.task import Task, total

_FORMER = {"primary_metric": "headline", "success_threshold": "solved_at"}  # names before schema 6


def task_values(task: Task) -> dict[str, Value]:
    """Return the resolved settings of a task."""
    return {name: getattr(task, name) for name in _settings_of(type(task)) if name not in task.local}


@lru_cache(maxsize=256)
def _settings_of(cls: type[Task]) -> tuple[str, ...]:
    """Return the names of the settings of a class of tasks; a sweep of thousands of runs asks for each of them."""
    return tuple(f.name for f in dataclasses.fields(cls) if f.init)


def local_values(task: Task) -> dict[str, Value]:
    """Return the settings that say where the data of a task are, with absolute paths."""
    given = {name: getattr(task, name) for name in task.local}
    return {name: _located(value) for name, value in given.items() if value not in (None, "")}


def _located(value: Value) -> Value:
    path = Path(str(value)).expanduser()
    return str(path.resolve()) if path.exists() else value


def resolved_settings(model: type, values: Mapping[str, Value], width: int) -> dict[str, Value]:
    """Return the settings of a model, with those of a `Mixer` that default to the width resolved."""
    return model.resolve(width, dict(values)) if issubclass(model, Mixer) else dict(values)


def default_positions(model: type, name: str) -> Positions:
    """Return the position code that a model declares; raise `BadInput` if it is unknown."""
    stated = getattr(model, "positions", "none")
    if not isinstance(stated, str):  # an unrelated attribute of the same name
        return "none"
    if stated not in get_args(Positions):
        raise unknown(f"value of {name}'s attribute positions:", stated, get_args(Positions))
    return cast(Positions, stated)


def not_supported(positions: Positions, name: str) -> BadInput:
    """Return the error for a model that does not apply a relative position code; it names those that do."""
    models = plugins.discover("model")
    able = [m.name for m in models.values() if m.origin == plugins.BUILT_IN and supports(load_model(m), positions)]
    return BadInput(f"--positions {positions}: {name} does not apply this code; models that do: {', '.join(able)}")


def load_task(plugin: Plugin) -> type[Task]:
    """Load the class of a task plugin; raise `BadInput` if it is not a task."""
    cls = plugin.load()
    if not (issubclass(cls, Task) and "__dataclass_fields__" in vars(cls)):
        raise BadInput(
            f"task {plugin.name!r} ({plugin.origin}) breaks its contract: {cls.__name__} is no expbench.task.Task dataclass"
        )
    missing = sorted(cls.__abstractmethods__) + [
        name for name in ("primary_metric", "higher_is_better", "success_threshold") if not hasattr(cls, name)
    ]
    if missing:
        former = [f"{new} was called {old}" for new, old in _FORMER.items() if new in missing and hasattr(cls, old)]
        raise BadInput(
            f"task {plugin.name!r} ({plugin.origin}) breaks its contract: {cls.__name__} lacks {', '.join(missing)}"
            + f" ({', '.join(former)})" * bool(former)
        )
    return cls


def build_task(cls: type[Task], texts: Mapping[str, str], name: str) -> Task:
    """Build a task from texts, resolve its settings and check its contract on a small batch; raise `BadInput` on failure."""
    values: dict[str, Any] = settings.resolve(cls, texts, name)
    with of_plugin(name, f"task {name!r} cannot be built"), preserved(f"task {name!r}", functions=True):
        task = cls(**values)
    if task.fresh:  # the family of a task with a data set checks it instead
        with preserved(f"task {name!r}", functions=True):
            _check_task(task, name)
    return task


def _check_task(task: Task, name: str) -> None:
    try:
        batch = task.train_batch(2, seed=0, step=0)
        shape = (2, task.L) if task.vocabulary is not None else (2, task.L, task.channels)
        if tuple(batch.inputs.shape) != shape:
            raise ValueError(f"inputs have shape {tuple(batch.inputs.shape)}, not {shape}")
        if not all(map(torch.equal, batch, task.train_batch(2, seed=0, step=0))):
            raise ValueError("a second batch of one seed and step differs: all random numbers must come from the given rng")
        outputs = torch.zeros(2, *([] if task.readout == "last" else [task.L]), task.outputs, dtype=torch.float64)
        if not bool(torch.isfinite(task.loss(outputs, batch.targets))):
            raise ValueError("the loss of zero outputs is not finite")
        measured = [m.metric for m in task.summary(total([task.measure(outputs, batch.targets)]))]
        if task.primary_metric not in measured:
            raise ValueError(
                f"summary gives {', '.join(measured) or 'nothing'}, not the primary metric {task.primary_metric}"
            )
    except (Exception, SystemExit) as error:  # a plugin is third-party code
        raise BadInput(f"task {name!r} breaks its contract: {type(error).__name__}: {error}") from error


def load_model(plugin: Plugin) -> type[nn.Module]:
    """Load the class of a model plugin; raise `BadInput` if it is not an `nn.Module`."""
    cls = plugin.load()
    if not issubclass(cls, nn.Module):
        raise BadInput(
            f"model {plugin.name!r} ({plugin.origin}) breaks its contract: {cls.__name__} is not a torch.nn.Module"
        )
    return cls


def check_mixer(
    cls: type,
    name: str,
    width: int,
    values: Mapping[str, Value],
    L: int,
    device: str,
    dtype: DType = "float32",
    code: RelativeCode | None = None,
) -> Probe:
    """Build one layer, run it on short sequences, and return whether it is causal.

    Raises `BadInput` if it cannot be built or a forced backend does not support it, and `BrokenContract` if it does not map
    (B, L, D) to (B, L, D), cannot be trained, or differs between two layers of one seed. code: the relative position code
    that the layer applies, if any.
    """

    def build() -> nn.Module:
        layer: nn.Module = cls(width, **values)
        apply_relative(layer, code)
        return layer

    with preserved(f"model {name!r}", functions=True):
        with of_plugin(name, f"model {name!r} cannot be built with width {width}"):
            layer = build()
        problems: list[Exception | SystemExit] = []
        for length in probes.tried(cls, L):
            try:
                with preserved(f"model {name!r}"):  # each probe begins with the state that a run begins with
                    probes.probe(build() if problems else layer, width, length, device, dtype)
                probes.reproduce(build, width, length)
            except BackendUnsupported as error:
                raise BadInput(f"{name}: {error}") from error
            except (Exception, SystemExit) as error:  # a plugin is third-party code
                problems.append(error)
                continue
            return probes.causality(build, cls, width, L, device)
    first = problems[0]
    at, hint = place_of(first), "a layer for some dtypes or lengths only declares them in its attributes dtypes and lengths"
    where = f" ({at}); {hint}" if at else ""
    raise BrokenContract(f"model {name!r} breaks its contract: {type(first).__name__}: {first}{where}") from first

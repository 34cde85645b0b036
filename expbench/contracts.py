"""Contracts: load a plugin, build it from texts, and check that it satisfies its contract before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, cast, get_args

import torch
from torch import nn

from expbench import settings
from expbench.errors import BadInput, of_plugin, unknown
from expbench.global_state import preserved, seeded
from expbench.mixer import Mixer
from expbench.ops.backends import BackendUnsupported
from expbench.plugins import Plugin
from expbench.run import DType, Positions
from expbench.settings import Value
from expbench.task import Task, total

_FORMER = {"primary_metric": "headline", "success_threshold": "solved_at"}  # names before schema 6
_CHECKED_LENGTH = 16  # maximum sequence length of the contract check of a mixer
_CHECKED_WIDTH = 1024  # maximum width at which two layers are built and compared


def task_values(task: Task) -> dict[str, Value]:
    """Return the resolved settings of a task."""
    return {f.name: getattr(task, f.name) for f in dataclasses.fields(task) if f.init and f.name not in task.local}


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
    cls: type, name: str, width: int, values: Mapping[str, Value], L: int, device: str, dtype: DType = "float32"
) -> None:
    """Build one layer and run it on two short sequences; raise `BadInput` if it does not map (B, L, D) to (B, L, D)."""
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
    except BackendUnsupported as error:
        raise BadInput(f"{name}: {error}") from error
    except (Exception, SystemExit) as error:  # a plugin is third-party code
        raise BadInput(f"model {name!r} breaks its contract: {type(error).__name__}: {error}") from error


def check_same(cls: type, name: str, width: int, values: Mapping[str, Value], L: int) -> None:
    """Build one layer twice from one seed; raise `BadInput` if its parameters, or its outputs for some tokens, differ.

    Two runs with one key would then have different numbers. A layer that cannot be built at this width is not judged.
    """
    if width > _CHECKED_WIDTH:
        return
    tokens = torch.randn(2, min(L, _CHECKED_LENGTH), width, generator=torch.Generator().manual_seed(0))
    layers = []
    for _ in range(2):
        with seeded(0, f"model {name!r}"):
            try:
                layers.append(cls(width, **values).eval())
            except (Exception, SystemExit):
                return
    what = difference(tokens, *layers)
    if what is not None:
        raise BadInput(
            f"model {name!r}: {what} differs between two layers of one seed; draw random numbers from torch, numpy.random"
            " or random, which are seeded, and from no generator of your own"
        )


def difference(inputs: torch.Tensor, module: nn.Module, other: nn.Module) -> str | None:
    """Return what differs between two modules: a parameter, by its name, or the output; None if all bits are equal."""
    named = [dict(each.named_parameters()) for each in (module, other)]
    apart = [name for name in named[0] if name not in named[1] or not _same(named[0][name], named[1][name])]
    if apart:
        return apart[0]
    outputs = []
    for each in (module, other):
        try:
            with torch.no_grad(), seeded(0, "the layer"):
                outputs.append(each(inputs))
        except (Exception, SystemExit):  # the contract check reports it
            return None
    return None if _same(*outputs) else "the output"


def _same(one: Any, two: Any) -> bool:
    """Return whether two tensors are equal bit by bit, NaN included; True for what has no numbers yet."""
    if not all(isinstance(each, torch.Tensor) and type(each) in (torch.Tensor, nn.Parameter) for each in (one, two)):
        return True
    one, two = one.detach(), two.detach()
    return one.shape == two.shape and bool(torch.equal(one.isnan(), two.isnan()) and torch.equal(*_finite(one, two)))


def _finite(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [torch.where(tensor.isnan(), 0, tensor) for tensor in tensors]

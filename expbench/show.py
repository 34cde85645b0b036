"""Show: what exactly a task asks for, or what a model is."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Sequence

import torch

from expbench import grid, plugins, settings
from expbench.errors import BadInput, unknown
from expbench.mixer import state_size
from expbench.network import stack_reach
from expbench.task import Task
from expbench.text import NO_BOUND, aligned, degree_and_order, number

_SAMPLES = 3
_SHOWN = 24  # numbers of a sample


def show_plugin(
    name: str, *, L: str | None, D: str, depth: str, task_settings: Sequence[str], model_settings: Sequence[str]
) -> str:
    """The page of a task or a model; raises `BadInput` for a name that is neither."""
    tasks, models = plugins.discover("task"), plugins.discover("model")
    if name in tasks:
        return _show_task(tasks[name], L, task_settings)
    if name in models or ":" in name:
        return _show_model(plugins.find("model", name), L or "16", D, depth, model_settings)
    raise unknown("task or model", name, [*tasks, *models])


def _show_task(plugin: plugins.Plugin, L: str | None, assignments: Sequence[str]) -> str:
    cls = grid.load_task(plugin)
    texts = _single(assignments, "-t") | ({"L": L} if L is not None else {})
    task = grid.build_task(cls, texts, plugin.name)
    facts = {name: value for name, value in task.facts()._asdict().items() if value is not None}
    better = "at least" if task.higher_is_better else "at most"
    kinds = [f"{control.name} ({control.kind})" for control in task.controls()]
    known = ", ".join(f"{k.replace('_', ' ')} {v if isinstance(v, bool) else number(v)}" for k, v in facts.items())
    return "\n".join(
        [
            f"task {plugin.name} ({plugin.origin}), version {plugin.version(cls)}",
            "",
            _documentation(cls),
            "",
            "settings:",
            _settings_table(cls, grid.task_values(task)),
            "",
            f"judged by: {task.headline}, solved at {better} {task.solved_at:g}; chance {number(task.chance())}",
            f"controls: {', '.join(kinds) or 'none'}",
            *([f"labels: {known}"] if known else []),
            *([f"this instance: {_cut(task.describe())}"] if task.describe() else []),
            "",
            "samples of the training stream:",
            *_samples(task),
        ]
    )


def _samples(task: Task) -> list[str]:
    batch = task.train_batch(_SAMPLES, seed=0, step=0)
    return [f"  {_row(x)}  ->  {_row(y)}" for x, y in zip(batch.inputs, batch.targets, strict=True)]


def _row(tensor: torch.Tensor) -> str:
    values = tensor.flatten().tolist()
    shown = [str(v) if isinstance(v, int) else number(v) for v in values[:_SHOWN]]
    return " ".join(shown) + (" ..." if len(values) > _SHOWN else "")


def _show_model(plugin: plugins.Plugin, L: str, D: str, depth: str, assignments: Sequence[str]) -> str:
    cls = grid.load_model(plugin)
    length, width, layers = (_size(option, text) for option, text in (("--L", L), ("--D", D), ("--depth", depth)))
    values = settings.resolve(cls, _single(assignments, "-m"), plugin.name)
    resolve = getattr(cls, "resolve", None)
    values = resolve(width, values) if resolve else values
    device = "cpu" if getattr(cls, "devices", None) is None or "cpu" in cls.devices else "cuda"  # type: ignore[attr-defined]
    grid.check_mixer(cls, plugin.name, width, values, length, device)
    mixers = [cls(width, **values) for _ in range(layers)]
    state = state_size(mixers[0], length)
    reach = stack_reach(mixers, length, residual=True)
    return "\n".join(
        [
            f"model {plugin.name} ({plugin.origin}), version {plugin.version(cls)}",
            "",
            _documentation(cls),
            "",
            "settings:",
            _settings_table(cls, values),
            "",
            f"at width {width}, length {length}, depth {layers}:",
            f"  parameters of a layer: {sum(p.numel() for p in mixers[0].parameters())} (normalisation not counted)",
            f"  state of a layer: {'not stated' if state is None else f'{state} numbers'}",
            f"  reach with norm none, residual on: {NO_BOUND if reach is None else degree_and_order(reach)}",
            f"  position code unless told otherwise: {getattr(cls, 'positions', 'none')}",
        ]
    )


def _documentation(cls: type) -> str:
    module = inspect.getdoc(sys.modules[cls.__module__]) or ""
    own = inspect.getdoc(cls) or "(no documentation)"
    return f"{module}\n\n{own}" if module else own


def _settings_table(cls: type, values: dict[str, settings.Value]) -> str:
    declared = settings.declared(cls)
    if not declared:
        return "  none"
    lines = [["  name", "type", "default", "here"]]
    for name, setting in declared.items():
        default = "required" if setting.default is settings.REQUIRED else str(setting.default)
        lines.append([f"  {name}", setting.type_name, default, str(values[name])])
    return aligned(lines)


def _single(assignments: Sequence[str], option: str) -> dict[str, str]:
    texts = {}
    for text in assignments:
        _, name, values = settings.split_assignment(text, option)
        if len(values) != 1:
            raise BadInput(f"{option} {text!r}: show takes one value a setting")
        texts[name] = values[0]
    return texts


def _size(option: str, text: str) -> int:
    value = settings.Setting(option, int, None).parse(text, "show")
    if not isinstance(value, int) or value < 1:
        raise BadInput(f"{option}: {text} is too small, the least is 1")
    return value


def _cut(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"

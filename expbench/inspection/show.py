"""Show: the definition of a task or a model."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch

from expbench import contracts, plugins, settings
from expbench.algebra.reach import degree_and_order
from expbench.console.formatting import aligned, number
from expbench.errors import BadInput, unknown
from expbench.global_state import preserved
from expbench.mixer import flops, relative_codes, state_size, supported_length, unsupported
from expbench.nn.network import stack_reach
from expbench.sweep import spec
from expbench.task import LONGEST, Task

T = TypeVar("T")
_SAMPLES = 3
_USUAL_LENGTH = 16
_SHOWN = 24  # numbers shown per sample


def show_plugin(
    name: str, *, L: str | None, D: str, depth: str, task_settings: Sequence[str], model_settings: Sequence[str]
) -> str:
    """Return a description of a task or a model; raise `BadInput` for an unknown name."""
    tasks, models = plugins.discover("task"), plugins.discover("model")
    if name in tasks:
        if model_settings:
            raise BadInput(f"-m {model_settings[0]}: {name} is a task; give its settings by -t")
        return _show_task(tasks[name], L, task_settings)
    if name in models or ":" in name:
        if task_settings:
            raise BadInput(f"-t {task_settings[0]}: {name} is a model; give its settings by -m")
        with preserved(f"model {name!r}", functions=True):
            return _show_model(plugins.find("model", name), L, D, depth, model_settings)
    raise unknown("task or model", name, [*tasks, *models])


def _show_task(plugin: plugins.Plugin, L: str | None, assignments: Sequence[str]) -> str:
    cls = contracts.load_task(plugin)
    texts = _single(assignments, "-t", "task", plugin.name)
    if L is not None:
        if "L" in texts:
            raise BadInput("-t L: this setting is given by --L; give it once")
        texts["L"] = L
    head = [f"task {plugin.name} ({plugin.origin}), version {plugin.version(cls)}", "", _documentation(cls), "", "settings:"]
    withheld = cls.withheld(texts)
    if withheld is not None:
        settings.resolve(cls, texts, plugin.name)
        return "\n".join([*head, _settings_table(cls, {}), "", withheld])
    task = contracts.build_task(cls, texts, plugin.name)
    facts = {name: value for name, value in _guarded(plugin.name, task.facts)._asdict().items() if value is not None}
    better = "at least" if task.higher_is_better else "at most"
    kinds = [f"{name} ({kind})" for name, kind in _guarded(plugin.name, task.control_kinds)]
    known = ", ".join(f"{k.replace('_', ' ')} {v if isinstance(v, bool) else number(v)}" for k, v in facts.items())
    return "\n".join(
        [
            *head,
            _settings_table(cls, contracts.task_values(task)),
            "",
            f"primary metric: {task.primary_metric}, success {better} {task.success_threshold:g}; "
            f"chance {number(task.chance())}",
            f"controls: {', '.join(kinds) or 'none'}",
            *([f"labels: {known}"] if known else []),
            *([f"this instance: {_cut(task.describe())}"] if task.describe() else []),
            "",
            "samples of the training stream:",
            *_samples(task),
        ]
    )


def _samples(task: Task) -> list[str]:
    own = task.sample_lines()
    if own is not None:
        return [f"  {line}" for line in own]
    batch = task.train_batch(_SAMPLES, seed=0, step=0)
    return [f"  {_row(x)}  ->  {_row(y)}" for x, y in zip(batch.inputs, batch.targets, strict=True)]


def _row(tensor: torch.Tensor) -> str:
    values = tensor.flatten().tolist()
    shown = [str(v) if isinstance(v, int) else number(v) for v in values[:_SHOWN]]
    return " ".join(shown) + (" ..." if len(values) > _SHOWN else "")


def _show_model(plugin: plugins.Plugin, L: str | None, D: str, depth: str, assignments: Sequence[str]) -> str:
    cls = contracts.load_model(plugin)
    length = supported_length(cls, _USUAL_LENGTH) if L is None else _size("--L", L)
    width, layers = (_size(option, text) for option, text in (("--D", D), ("--depth", depth)))
    values = settings.resolve(cls, _single(assignments, "-m", "model", plugin.name), plugin.name)
    values = contracts.resolved_settings(cls, values, width)
    sizes: dict[str, Any] = {"width": width, "dtype": "float32", "length": length}
    refused = {device: unsupported(cls, **sizes, device=device) for device in ("cpu", "cuda")}
    if None not in refused.values():
        raise BadInput(f"{plugin.name}: {refused['cpu']}")
    device = next(device for device, why in refused.items() if why is None)
    contracts.check_mixer(cls, plugin.name, width, values, length, device)
    mixers = [cls(width, **values) for _ in range(layers)]
    state, operations = state_size(mixers[0], length), flops(mixers[0], length)
    reach = stack_reach(mixers, length, residual=True)
    applied = relative_codes(cls)
    measure = f" (expbench check {plugin.name} measures it)" if reach is None else ""
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
            f"  parameters per layer: {sum(p.numel() for p in mixers[0].parameters())} (without normalisation)",
            f"  state per layer: {'not declared' if state is None else f'{state} numbers'}",
            f"  FLOPs per layer and token: {'not declared' if operations is None else number(operations)}",
            f"  reach (norm none, residual on): {degree_and_order(reach)}{measure}",
            f"  default position code: {contracts.default_positions(cls, plugin.name)}",
            *([f"  relative position codes: {', '.join(applied)}"] if applied else []),
        ]
    )


def _guarded(name: str, ask: Callable[[], T]) -> T:
    try:
        return ask()
    except (Exception, SystemExit) as error:  # a plugin is third-party code
        raise BadInput(f"task {name!r} breaks its contract: {type(error).__name__}: {error}") from error


def _documentation(cls: type) -> str:
    module = inspect.getdoc(sys.modules[cls.__module__]) or ""
    own = inspect.cleandoc(vars(cls).get("__doc__") or "") or "(no documentation)"  # a base class describes itself
    return f"{module}\n\n{own}" if module else own


def _settings_table(cls: type, values: dict[str, settings.Value]) -> str:
    declared = settings.declared(cls)
    if not declared:
        return "  none"
    lines = [["  name", "type", "default", "here"]]
    for name, setting in declared.items():
        default = "required" if setting.default is settings.REQUIRED else str(setting.default)
        lines.append([f"  {name}", setting.type_name, default, str(values.get(name, "-"))])
    return aligned(lines)


def _single(assignments: Sequence[str], option: str, kind: str, name: str) -> dict[str, str]:
    given = spec.assignments(assignments, option, [name], kind, name)
    for setting, values in given.items():
        if len(values) != 1:
            raise BadInput(f"{option} {setting}={','.join(values)}: show takes one value per setting")
    return {setting: values[0] for setting, values in given.items()}


def _size(option: str, text: str) -> int:
    value = settings.Setting(option, int, settings.REQUIRED).parse(text, "show")
    if not isinstance(value, int) or not 1 <= value <= LONGEST:
        raise BadInput(f"{option}: {text} is not in 1 to {LONGEST}")
    return value


def _cut(text: str, limit: int = 300) -> str:
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text)} characters)"

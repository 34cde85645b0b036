"""Weights of trained networks: saved, pruned to the best, median and worst seed of each configuration, and loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from expbench import files, plugins
from expbench.contracts import build_task, load_model, load_task
from expbench.errors import BadInput
from expbench.results import folders, store
from expbench.results.identity import identity
from expbench.run import Run
from expbench.settings import Value
from expbench.task import Task
from expbench.training.family import family_of
from expbench.training.job import Job
from expbench.training.optimizer import as_real


def save(state: Mapping[str, Tensor], folder: Path, key: str) -> str:
    """Write the weights of a run and return their path below the results folder."""
    from safetensors.torch import save_file

    target = _path(folder, key)
    target.parent.mkdir(exist_ok=True)
    with files.replacing(target) as aside:
        save_file({name: as_real(tensor).contiguous() for name, tensor in state.items()}, aside)
    return str(target.relative_to(folder))


def prune(jobs: Sequence[Job], folder: Path) -> None:
    """Delete all weights but three of each configuration, that is of runs that differ only in their seed.

    Seeds are ordered by the primary metric on the validation split, so that the choice does not depend on the test split.
    """
    configurations: dict[str, list[Job]] = {}
    for job in jobs:
        if _path(folder, job.run.key).exists():
            configurations.setdefault(identity(job.run, without={"seed"}), []).append(job)
    crowded = [c for c in configurations.values() if len(c) > 3]
    if not crowded:
        return
    frame, _ = store.read(folder)
    final = frame[(frame["split"] == "validation") & frame["primary"].eq(True)]
    value = final.sort_values("step").groupby("key")["value"].last()
    for configuration in crowded:
        ordered = sorted((job.run.key for job in configuration), key=lambda key: float(value.get(key, float("nan"))))
        for key in set(ordered) - {ordered[0], ordered[(len(ordered) - 1) // 2], ordered[-1]}:
            _path(folder, key).unlink(missing_ok=True)


def load(
    folder: str | Path,
    key: str,
    *,
    trust: bool = False,
    changed: bool = False,
    model: type[nn.Module] | None = None,
    task: type[Task] | None = None,
) -> nn.Module:
    """Load the trained network of the run whose key starts with `key`, on the CPU and in evaluation mode.

    Loading a plugin runs its code. Built-in plugins, those of installed distributions and of registered folders are found by
    name. A row may also name a file, a module or another folder; such code is run only with trust=True, for results are data
    that may come from anyone. model, task: the classes to use, instead of those that the row names. changed: accept code
    other than that of the run, whose outputs may then be others.

    Raises `BadInput` for a key without a run or saved weights, for code that needs trust, and for code that has changed.
    """
    from safetensors.torch import load_file

    folder = folders.existing_folder(str(folder))
    frame, _ = store.read(folder)
    row = {str(name): value for name, value in store.rows_of_run(frame, key).iloc[0].items()}
    path = _path(folder, row["key"])
    if not path.exists():
        raise BadInput(
            f"{path}: no weights are saved for this run (expbench run --save-weights keeps three per configuration)"
        )
    run = Run.from_row(row)
    origins: dict[plugins.Kind, str] = {"task": str(row["task_origin"]), "model": str(row["model_origin"])}
    task_plugin = None if task else _plugin("task", run.task, origins["task"], trust)
    model_plugin = None if model else _plugin("model", run.model_from(origins["model"]), origins["model"], trust)
    task = task or load_task(cast(plugins.Plugin, task_plugin))
    model = model or load_model(cast(plugins.Plugin, model_plugin))
    if not changed:
        _refuse_changed(f"task {run.task!r} ({origins['task']})", run.task_version, task, task_plugin)
        _refuse_changed(f"model {run.model!r} ({origins['model']})", run.model_version, model, model_plugin)
    settings: dict[str, Value] = json.loads(row["task_settings"])
    texts = {name: str(value) for name, value in settings.items() if value is not None}
    built = build_task(task, texts, run.task)
    network = family_of(built).network(Job(run, built, model, origins["task"], origins["model"]))
    paired = {name for name, x in network.state_dict().items() if x.is_complex()}
    saved = load_file(path).items()
    network.load_state_dict({name: torch.view_as_complex(x) if name in paired else x for name, x in saved})
    return network.eval()


def _plugin(kind: plugins.Kind, name: str, origin: str, trust: bool) -> plugins.Plugin:
    """Return the plugin that a row names; raise `BadInput` if its code is only known from the row, unless it is trusted."""
    if trust and origin.startswith("folder "):
        plugins.add_folder(kind, origin.removeprefix("folder "))
    if not trust and (":" in name or name not in plugins.discover(kind)):
        raise BadInput(
            f"the results name the {kind} {name!r} ({origin}), and loading it runs its code: give trust=True if you trust"
            f" it, or the class as {kind}="
        )
    return plugins.find(kind, name)


def _refuse_changed(what: str, recorded: str, cls: type, plugin: plugins.Plugin | None) -> None:
    """Raise `BadInput` if the code of a class, found as a plugin or given as it is, is not the code of the run."""
    present = plugins.code_version(cls) if plugin is None else plugin.version(cls)
    if present != recorded:
        raise BadInput(
            f"the {what} has changed since this run: its version was {recorded} and is {present}, so the outputs may be"
            " others; changed=True accepts this"
        )


def _path(folder: Path, key: str) -> Path:
    """Return the file of a run's weights; raise `BadInput` if it would lie outside the results folder."""
    weights = folder / "weights"
    path = weights / f"{key}.safetensors"
    if weights.is_symlink() or path.is_symlink() or path.parent != weights:
        raise BadInput(f"{path} is not inside {folder}: links in a results folder are not followed")
    return path

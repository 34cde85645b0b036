"""Weights of trained networks: saved, pruned to the best, median and worst seed of each configuration, and loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from expbench import files, plugins
from expbench.contracts import build_task, load_model, load_task
from expbench.errors import BadInput
from expbench.results import folders, store
from expbench.results.identity import identity
from expbench.run import Run
from expbench.settings import Value
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


def load(folder: str | Path, key: str) -> nn.Module:
    """Load the trained network of the run whose key starts with `key`, on the CPU and in evaluation mode.

    Its model and task are imported from their recorded origins. Raises `BadInput` for a key without a run or saved weights.
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
    for kind, origin in origins.items():
        if origin.startswith("folder "):
            plugins.add_folder(kind, origin.removeprefix("folder "))
    settings: dict[str, Value] = json.loads(row["task_settings"])
    texts = {name: str(value) for name, value in settings.items() if value is not None}
    task = build_task(load_task(plugins.find("task", run.task)), texts, run.task)
    model = load_model(plugins.find("model", run.model_from(origins["model"])))
    network = family_of(task).network(Job(run, task, model, origins["task"], origins["model"]))
    paired = {name for name, x in network.state_dict().items() if x.is_complex()}
    saved = load_file(path).items()
    network.load_state_dict({name: torch.view_as_complex(x) if name in paired else x for name, x in saved})
    return network.eval()


def _path(folder: Path, key: str) -> Path:
    """Return the file of a run's weights; raise `BadInput` if it would lie outside the results folder."""
    weights = folder / "weights"
    path = weights / f"{key}.safetensors"
    if weights.is_symlink() or path.is_symlink() or path.parent != weights:
        raise BadInput(f"{path} is not inside {folder}: links in a results folder are not followed")
    return path

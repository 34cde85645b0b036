"""A run of a text task: its recipe, its model, and how it is trained and measured."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import torch

from expbench.errors import BadInput, of_plugin
from expbench.language.batches import Order
from expbench.language.flops import flops_per_token
from expbench.language.model import LanguageModel
from expbench.language.recipe import How, Recipe, schedule
from expbench.language.step import Steps
from expbench.language.task import TextTask
from expbench.language.trainer import Unfinished, train
from expbench.mixer import state_size
from expbench.run import Run, Score
from expbench.settings import Value
from expbench.training.distributed import joined
from expbench.training.loop import Diverged

FOLDER = "checkpoints"
_TIMED = 3  # steps
_TIMED_TOKENS = 1024  # of a step that is timed on a CPU: enough to keep it busy
_CHECKED = 16  # tokens, on which a model is tried


class OutOfTime(Exception):
    """A training that has ended at a checkpoint; the same call goes on from there."""


def steps_and_warmup(
    task: TextTask, batch_size: int, length: tuple[int | None, int | None], warmup: int | None
) -> tuple[int, int]:
    """How many steps a training has, and in how many of them its rate rises. length: steps, epochs, of which one is None."""
    steps, epochs = length
    recipe = Recipe(lr=1.0, steps=steps, epochs=epochs, batch_size=batch_size, context=task.L, warmup=warmup)
    plan = schedule(recipe, task.corpus["train"].tokens)
    return plan.steps, plan.warmup


def recipe_of(run: Run, task: TextTask) -> Recipe:
    """What decides the numbers of a run. Raises BadInput for a dtype that language models are not trained in."""
    if run.dtype == "float64":
        raise BadInput("--dtype float64: a language model is trained in float32 or bfloat16")
    return Recipe(
        lr=run.lr,
        steps=run.steps,
        batch_size=run.batch_size,
        context=task.L,
        warmup=run.warmup,
        weight_decay=run.weight_decay,
        clip=run.clip,
        seed=run.seed,
        dtype=run.dtype,
        stride=task.stride,
        lengths=task.contexts,
    )


def model_of(run: Run, task: TextTask, mixer: type) -> LanguageModel:
    """The model of a run, its weights drawn from the seed on the CPU, so alike on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        sizes = {"vocabulary": task.vocabulary, "width": run.D, "layers": run.depth}
        context = max((task.L, *task.contexts))
        return LanguageModel(mixer, run.model_settings, **sizes, context=context)


def check(mixer: type, name: str, given: Mapping[str, Value], width: int) -> None:
    """Build a small model around a mixer and run it on a few tokens; raises `BadInput` where that fails."""
    with of_plugin(name, f"model {name!r} cannot be put into a language model"), torch.no_grad():
        model = LanguageModel(mixer, given, vocabulary=2, width=width, layers=1, context=_CHECKED)
        logits = model(torch.zeros(2, _CHECKED, dtype=torch.int64))
        if tuple(logits.shape) != (2, _CHECKED, 2):
            raise ValueError(f"logits have shape {tuple(logits.shape)}")


def facts(model: LanguageModel, context: int) -> dict[str, float | None]:
    """What is known of a model before it is trained: parameters, numbers of state, operations a token (forward)."""
    states = [state_size(mixer, context) for mixer in model.mixers]
    return {
        "parameters": model.parameter_count(),
        "state_size": None if None in states else sum(state for state in states if state is not None),
        "flops_per_token": flops_per_token(model, context) / 3,
    }


def scores(
    run: Run,
    task: TextTask,
    model: LanguageModel,
    device: str,
    results: Path,
    ends: float,
    told: Callable[[int], None],
    eager: Callable[[str], None],
) -> Iterator[Score]:
    """Train a run, its checkpoints in the results folder until it has ended; raises `OutOfTime` at one after `ends`, by
    `time.monotonic`.

    Under torchrun it is the first process that calls this: the others take part in it by `follow`.
    """
    folder = results / FOLDER / run.key
    seconds = None if math.isinf(ends) else max(0.0, ends - time.monotonic())
    how = How(device=device, folder=folder, seconds=seconds)
    joined(device).told(run)
    for found in train(model, task.corpus, recipe_of(run, task), how, told, eager):
        if isinstance(found, Unfinished):
            raise OutOfTime(f"{run.title()} stands at a checkpoint after {found.step} of {found.steps} steps")
        yield found


def follow(find: Callable[[Run], tuple[TextTask, type]], device: str, results: Path) -> None:
    """Take part in each training that torchrun's first process begins, until it calls `dismiss`. find: a run's task and
    mixer."""
    while (run := joined(device).told(None)) is not None:
        task, mixer = find(run)
        how = How(device=device, folder=results / FOLDER / run.key)
        with suppress(Diverged):
            for _ in train(model_of(run, task, mixer), task.corpus, recipe_of(run, task), how):
                pass
    joined(device).part()


def dismiss(device: str) -> None:
    """Let those go that `follow`."""
    joined(device).told(None)
    joined(device).part()


def seconds(run: Run, task: TextTask, mixer: type, device: str) -> float:
    """How long the steps of a run take, from a few of them; evaluations are left out.

    On a CPU, where a step of full size may take minutes, from steps of fewer sequences.
    """
    whole = recipe_of(run, task)
    rows = whole.batch_size if device == "cuda" else min(whole.batch_size, max(1, _TIMED_TOKENS // whole.context))
    recipe = replace(whole, batch_size=rows)
    group = joined(device)
    with torch.random.fork_rng(devices=[group.device] if device == "cuda" else []):
        model = model_of(run, task, mixer).to(group.device)
        plan = schedule(recipe, task.corpus["train"].tokens)
        steps = Steps(model, Order(task.corpus["train"].ids, recipe), recipe, plan, How(device=device), group)
        steps.begin()
        taken = []
        for _ in range(_TIMED):
            began = time.perf_counter()
            steps.take()
            steps.broke_at()  # waits for the device
            taken.append(time.perf_counter() - began)
    return min(taken) * plan.steps * whole.batch_size / rows


def forget(run: Run, results: Path) -> None:
    """Delete the checkpoints of a run that has ended."""
    folder = results / FOLDER / run.key
    for path in folder.glob("step-*.safetensors"):
        path.unlink(missing_ok=True)
    for empty in (folder, folder.parent):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()

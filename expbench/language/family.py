"""The family `language`: language models around a mixer, trained one at a time in epochs on a text, with checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import cast

import torch

from expbench import files, probes
from expbench.algebra.reach import NO_BOUND
from expbench.contracts import check_mixer
from expbench.errors import BadInput, BrokenContract, of_plugin
from expbench.global_state import preserved, seeded
from expbench.language.flops import flops_per_token
from expbench.language.model import LanguageModel, backbone_of, language_settings
from expbench.language.recipe import Recipe, schedule
from expbench.language.task import TextTask
from expbench.language.workload import LanguageWorkload, train
from expbench.mixer import Attention, state_size
from expbench.nn.memory import sketching, step_bytes
from expbench.probes import Probe
from expbench.run import LATER, NO_BASE
from expbench.task import Task
from expbench.training.distributed import joined
from expbench.training.epochs.checkpoint import FOLDER
from expbench.training.epochs.recipe import TrainerOptions, plan
from expbench.training.epochs.step import Steps
from expbench.training.family import Context, Event, Facts, Family, Paused, Point, Resolved, Stack, Trained
from expbench.training.job import Job
from expbench.training.loop import surroundings

_TIMED = 3  # steps; the fastest counts
_TIMED_TOKENS = 1024  # per timed step on a CPU: enough to keep it busy
_HONOURED = {"schedule", "position_base"}  # later-added fields of `Run` that `recipe_of` supports; all others are rejected


class Language:
    """The family of text tasks."""

    distributed = True

    def resolve(self, task: Task, model: type, point: Point) -> Resolved:
        """Return the point with the backbone's fixed settings, and with its epochs converted to steps. Raises `BadInput`."""
        fields = dict(point.fields)
        _refuse_what_the_backbone_has(point)
        fields["norm"], fields["positions"] = "rms", "none"
        fields["position_base"] = _base(point, model)
        settings = language_settings(model, fields["D"], {name: point.settings[name] for name in point.given})
        text = cast(TextTask, task)
        recipe = Recipe(
            lr=1.0,
            steps=fields["steps"],
            epochs=fields["epochs"],
            batch_size=fields["batch_size"],
            context=text.L,
            warmup=fields["warmup"],
        )
        stages = schedule(recipe, text.corpus["train"].tokens)
        return Resolved(fields | {"steps": stages.steps, "warmup": stages.warmup}, dict(settings))

    def check(self, job: Job, device: str) -> Probe:
        """Probe the mixer, at the width that it has in a model, and the causality of a small model around it."""
        recipe_of(job)
        run = job.run

        def build() -> LanguageModel:
            return LanguageModel(
                job.model,
                run.model_settings,
                vocabulary=2,
                width=run.D,
                layers=1,
                context=probes.LONGEST,
                position_base=run.position_base,
            )

        what, length = f"model {run.model!r} does not work in a language model", probes.tried(job.model, job.task.L)[0]
        with of_plugin(run.model, what):
            width = build().mixer_width
        check_mixer(job.model, run.model, width, run.model_settings, job.task.L, device, run.dtype)
        try:
            with torch.no_grad(), preserved(what):
                logits = build().to(device)(torch.zeros(2, length, dtype=torch.int64, device=device))
            if tuple(logits.shape) != (2, length, 2):
                raise ValueError(f"logits have shape {tuple(logits.shape)}")
        except (Exception, SystemExit) as error:  # a plugin is third-party code
            raise BrokenContract(f"{what}: {type(error).__name__}: {error}") from error
        with preserved(what):
            return probes.causality_of_tokens(build, job.model, width, job.task.L, device)

    def describe(self, job: Job) -> Facts:
        """Return parameters, state size and forward operations per token; no bound, as a backbone is not polynomial."""
        model, context = self._sketched(job) if job.sizes.wide() else self.network(job), job.task.L
        states = [state_size(mixer, context) for mixer in model.mixers]
        state = None if None in states else sum(size for size in states if size is not None)
        return Facts(model.parameter_count(), state, flops_per_token(model, context) / 3, NO_BOUND)

    def memory(self, job: Job) -> int | None:
        """Estimate the memory of a step in bytes, with the logits of a part of the tokens at a time."""

        def network(length: int, depth: int) -> LanguageModel:
            return self._model(job, depth, length)

        def inputs(length: int) -> torch.Tensor:
            return torch.zeros(1, length, dtype=torch.int64)

        return step_bytes(network, inputs, lambda model, tokens: model.features(tokens), job.sizes)

    def group(self, jobs: Sequence[Job], device: str, largest: int | None) -> Iterator[Stack]:
        """Divide jobs into stacks of one, because a single language model keeps a device busy."""
        yield from (Stack([job]) for job in jobs)

    def seconds(self, stack: Stack, device: str) -> float:
        """Estimate the seconds that the steps of a run take, from a few steps.

        On a CPU, where a full step may take minutes, the timed steps have fewer sequences.
        """
        (job,) = stack.jobs
        whole, corpus = recipe_of(job), _text(job).corpus
        rows = whole.batch_size if device == "cuda" else min(whole.batch_size, max(1, _TIMED_TOKENS // whole.context))
        recipe = replace(whole, batch_size=rows)
        group = joined(device)
        with (
            torch.random.fork_rng(devices=[group.device] if device == "cuda" else []),
            preserved(f"model {job.run.model!r}"),
        ):
            workload = LanguageWorkload(self.network(job).to(group.device), corpus, recipe)
            stages = plan(recipe, workload.epoch)
            steps = Steps(workload, recipe, stages, TrainerOptions(device=device), group)
            steps.begin()
            taken = []
            for _ in range(_TIMED):
                began = time.perf_counter()
                steps.take()
                steps.broke_at()  # waits for the device
                taken.append(time.perf_counter() - began)
        return min(taken) * stages.steps * whole.batch_size / rows

    def untimed(self, device: str) -> str:
        """Return a description of the work that `seconds` omits."""
        uncompiled = ", and without compilation, which makes them faster" if device == "cuda" else ""
        return f"language models without their evaluations{uncompiled}"

    def train(self, stack: Stack, context: Context) -> Iterator[Event]:
        """Train the only job of a stack, with checkpoints in the results folder until it has finished."""
        (job,) = stack.jobs
        files.make_folder(context.folder / FOLDER)
        folder = context.folder / FOLDER / job.run.key
        seconds = None if math.isinf(context.ends) else max(0.0, context.ends - time.monotonic())
        options = TrainerOptions(device=context.device, folder=folder, seconds=seconds)
        model = self.network(job)
        paused = False
        with surroundings(job.run, context.device):
            for event in train(model, _text(job).corpus, recipe_of(job), options):
                paused = isinstance(event, Paused)
                yield event
        if context.keep_weights and not paused:
            yield Trained(0, model.state_dict())

    def network(self, job: Job) -> LanguageModel:
        """Build the model of a job, with weights drawn from the seed on the CPU, so that they are equal on every device."""
        task = _text(job)
        with seeded(job.run.seed, f"model {job.run.model!r}", functions=True):
            return self._model(job, job.run.depth, max((task.L, *task.contexts)))

    def _sketched(self, job: Job) -> LanguageModel:
        with sketching():
            return self.network(job)

    def _model(self, job: Job, depth: int, context: int) -> LanguageModel:
        run, vocabulary = job.run, _text(job).vocabulary
        return LanguageModel(
            job.model,
            run.model_settings,
            vocabulary=vocabulary,
            width=run.D,
            layers=depth,
            context=context,
            position_base=run.position_base,
        )


FAMILY: Family = Language()


def recipe_of(job: Job) -> Recipe:
    """Return the recipe of a run. Raises `BadInput` for a dtype that language models do not support."""
    run, task = job.run, _text(job)
    if run.dtype == "float64":
        raise BadInput("--dtype float64: language models support float32 and bfloat16")
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
        schedule=run.schedule,
        stride=task.stride,
        lengths=task.contexts,
    )


def _text(job: Job) -> TextTask:
    return cast(TextTask, job.task)  # only text tasks name this family


def _base(point: Point, model: type) -> float:
    """Return the base of the rotary angles, by default the usual one. Raises `BadInput` for a backbone without angles."""
    asked = point.fields["position_base"]
    if asked is None or asked == NO_BASE:
        return NO_BASE
    if backbone_of(model) != "transformer" or not issubclass(model, Attention):
        raise BadInput(f"--position-base {asked:g}: {point.model_name} has no rotary angles in a text model; omit it")
    return float(asked)


def _refuse_what_the_backbone_has(point: Point) -> None:
    fixed = {
        "norm": ("layer", "rms"),  # layer is the default, so it may not have been given
        "positions": (None, "none"),
        "residual": (True,),
        "match": (None,),
    }
    fixed |= {name: (default,) for name, default in LATER.items() if name not in _HONOURED}
    for name, possible in fixed.items():
        given = point.fields[name]
        if given not in possible:
            text = "off" if given is False else given
            option = f"--{name.replace('_', '-')}"
            raise BadInput(
                f"{option} {text}: the backbone of a language model fixes this; omit the option for {point.task_name}"
            )

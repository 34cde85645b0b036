"""Trainer: model and data set -> events, for all trainings in epochs.

The recipe, the workload and the checkpoints determine a training completely. After a crash or a time limit the same call
resumes it. On a CPU the resumed training yields the same bits as an uninterrupted one, including the earlier scores.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict

import torch

from expbench.errors import BadInput
from expbench.results import provenance
from expbench.results.reported import not_finite
from expbench.run import Score
from expbench.training.device import peak
from expbench.training.distributed import Group, joined
from expbench.training.epochs.checkpoint import Checkpoints, State
from expbench.training.epochs.recipe import VERSION, Plan, Recipe, TrainerOptions, plan
from expbench.training.epochs.step import Steps
from expbench.training.epochs.workload import Batch, Workload
from expbench.training.family import Diverged, DivergedError, Event, NoCudaGraph, Paused, Reached, Scored

_LOOK_SECONDS = 2.0  # between two checks for divergence on a GPU, because each check waits for the queued kernels
_WARM_STEPS = 5  # not timed, because they compile programs and allocate memory


def train(workload: Workload, recipe: Recipe, options: TrainerOptions) -> Iterator[Event]:
    """Train a model, yielding the scores of each evaluation, those of earlier calls first, and `Paused` at the time limit.

    Scores on the training split: loss (mean since the last evaluation), epoch (number of passes over the split),
    learning_rate, gradient_norm and checksums of the last step (`regression.invariants`), the speed of this call (such as
    tokens_per_second), mfu (bfloat16 on a known GPU) and peak_memory (bytes of a GPU). The workload defines the scores on
    the other splits.

    Under torchrun every process must exhaust the iterator; only process 0 yields scores. The model stays on the device, with
    the weights of the last step. Raises `BadInput` before training if the arguments do not fit together, and
    `CheckpointError` for a damaged checkpoint or one of another training.
    """
    stages = plan(recipe, workload.epoch)
    group = joined(options.device)
    if recipe.batch_size % group.size:
        near = max(1, round(recipe.batch_size / group.size)) * group.size
        raise BadInput(f"batch_size={recipe.batch_size} is not divisible by the {group.size} processes; {near} is")
    with torch.random.fork_rng(devices=[group.device] if group.device.type == "cuda" else []):
        training = _Training(workload, recipe, options, stages, group)
        try:
            yield from training.events()
        except DivergedError as diverged:
            yield Diverged(0, str(diverged))
        finally:
            training.release()


class _Training:
    """One training: it alternates steps, evaluations and checkpoints."""

    def __init__(self, workload: Workload, recipe: Recipe, options: TrainerOptions, stages: Plan, group: Group) -> None:
        self._began = self._saved = time.monotonic()
        self._workload, self._recipe, self._options, self._plan, self._group = workload, recipe, options, stages, group
        identity = {"version": VERSION, **asdict(recipe), **workload.identity()}
        self._checkpoints = None if options.folder is None else Checkpoints(options.folder, identity)
        before = self._checkpoints.newest(quiet=not group.leads) if self._checkpoints else None
        self._model = workload.model.to(group.device)
        self._steps = Steps(workload, recipe, stages, options, group)
        self._scores: list[Score] = []
        self._spent = 0.0
        if before is not None:
            self._steps.restore(before.step, before.tensors, before.about["since"])
            self._scores = [Score(**values) for values in before.about["scores"]]
            self._spent = before.about["seconds"]
        compiled = options.compiled if options.compiled is not None else group.device.type == "cuda"
        if compiled:
            workload.compile()
        # evaluate as many examples at a time as in a micro-batch of training, for which memory suffices
        rows = min(options.micro_batch_size or recipe.batch_size, recipe.batch_size // group.size)
        self._evaluation = workload.evaluation(group.device, rows, compiled)
        self._steps.begin()
        self._clock = _Clock(self._steps.taken + _WARM_STEPS)
        if group.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(group.device)

    def events(self) -> Iterator[Event]:
        """Train to the end or to the time limit. Raises `DivergedError`."""
        steps, stages, group = self._steps, self._plan, self._group
        if group.leads:
            if steps.taken == 0:
                self._model.eval()
                self._scores = self._scored(self._evaluation.untrained())
                self._model.train()
            yield from (Scored(0, score) for score in self._scores)
        look_at = steps.taken + 1
        while steps.taken < stages.steps:
            steps.take()
            evaluated = stages.evaluated(steps.taken)
            if not evaluated and steps.taken < look_at:
                continue
            broke_at = steps.broke_at()
            if broke_at:
                raise DivergedError(not_finite(broke_at, stages.steps))
            self._clock.lap(steps.taken)
            if evaluated:
                yield from self._evaluated()
                self._clock.start(steps.taken)
            if group.leads:
                yield Reached(steps.taken)
            out_of_time, save, ahead = group.decided(self._due())
            look_at = steps.taken + ahead
            if save:
                self._save()
                self._clock.start(steps.taken)
            if out_of_time:
                yield Paused(steps.taken, stages.steps)
                return

    def release(self) -> None:
        """Release what holds the process group, which must not outlive its threads."""
        self._steps.passes.release()

    def _due(self) -> tuple[int, int, int]:
        """Return whether the time limit is reached, whether to save, and the number of steps until the next check."""
        now = time.monotonic()
        done = self._steps.taken == self._plan.steps
        left = math.inf if self._options.seconds is None else self._options.seconds - (now - self._began)
        to_save = math.inf if self._checkpoints is None else self._options.save_every - (now - self._saved)
        out_of_time = left <= 0 and not done
        save = self._checkpoints is not None and (out_of_time or done or to_save <= 0)
        ahead = 1
        if self._group.device.type == "cuda":
            soon = min(_LOOK_SECONDS, left, self._options.save_every if save else to_save)
            ahead = max(1, int(soon / self._clock.seconds_a_step))
        return int(out_of_time), int(save), ahead

    def _save(self) -> None:
        tensors, since = self._steps.state()
        if self._checkpoints is not None and self._group.leads:
            scores = [score._asdict() for score in self._scores]
            about = {"since": since, "scores": scores, "seconds": self._seconds()}
            self._checkpoints.save(State(self._steps.taken, tensors, about))
        self._saved = time.monotonic()

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._began

    def _evaluated(self) -> Iterator[Event]:
        """Yield the scores of an evaluation and store them. Every process must call it, for the mean loss."""
        loss, batch, found, why = self._steps.mean_loss(), self._steps.batch(), [], ""
        if self._group.leads:
            if self._steps.passes.no_cuda_graph_reason is not None:
                yield NoCudaGraph(self._steps.passes.no_cuda_graph_reason)
            self._model.eval()
            try:
                found = self._scored(self._measured(loss, batch))
            except DivergedError as error:
                why = f"{error} after {self._steps.taken} steps"
            self._model.train()
        if any(self._group.decided([len(why)])):
            raise DivergedError(why or f"process 0 found a non-finite metric after {self._steps.taken} steps")
        if self._group.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._group.device)  # excludes the memory of evaluation
        self._scores += found
        yield from (Scored(0, score) for score in found)

    def _measured(self, loss: float, batch: Batch) -> list[Score]:
        """Return the scores of an evaluation, in the order of measurement."""
        evaluation = self._evaluation
        scores = list(evaluation.scores())
        measured = [*self._of_training(loss, batch), *scores, *evaluation.logged()]
        ends = self._steps.taken == self._plan.steps
        if ends or self._is_best_yet(scores):
            measured += evaluation.at_best()
        if ends:
            measured += evaluation.data()
        return measured

    def _is_best_yet(self, scores: Sequence[Score]) -> bool:
        """Return whether the primary metric on the validation split is better than at every earlier evaluation."""
        higher = self._workload.higher_is_better

        def best(found: Sequence[Score]) -> float:
            values = (each.value for each in found if each.primary and each.split == "validation")
            return min((-value if higher else value for value in values), default=math.inf)

        return best(scores) < best(self._scores)

    def _scored(self, measured: Iterable[Score]) -> list[Score]:
        scores = list(measured)  # a generator: measure before reading the clock
        step, seconds = self._steps.taken, self._seconds()
        return [score._replace(step=step, seconds=seconds) for score in scores]

    def _of_training(self, loss: float, batch: Batch) -> Iterator[Score]:
        """Yield loss, epoch, learning rate, gradient norm, checksums of the last batch, speed and memory."""
        steps, device, workload = self._steps, self._group.device, self._workload
        yield Score("loss", loss, split="train")
        yield Score("epoch", steps.taken / self._plan.epoch, split="train")
        rate, norm = steps.applied()
        yield Score("learning_rate", rate, split="train")
        yield Score("gradient_norm", norm, split="train")
        yield from workload.of_batch(batch)
        speed = self._clock.steps_a_second()
        if speed is not None:
            yield Score(f"{workload.unit}_per_second", speed * workload.units, split="train")
            most = peak(provenance.device_name("cuda")) if device.type == "cuda" else None
            if most is not None and self._recipe.dtype == "bfloat16":
                yield Score("mfu", workload.flops() * speed / (most * self._group.size), split="train")
        if device.type == "cuda":
            memory = max(torch.cuda.max_memory_allocated(device), steps.passes.memory)
            yield Score("peak_memory", memory, split="train")


class _Clock:
    """The speed of training steps without evaluations and saves, timed in laps that end with the device idle.

    Laps that begin before step `first` are not counted.
    """

    def __init__(self, first: int) -> None:
        self._first, self._steps, self._seconds = first, 0, 0.0
        self._since: tuple[int, float] | None = None
        self.seconds_a_step = math.inf

    def start(self, step: int) -> None:
        """Start a lap after `step`."""
        self._since = step, time.perf_counter()

    def lap(self, step: int) -> None:
        """End the lap after `step` and start the next."""
        if self._since is not None:
            began_at, began = self._since
            seconds = time.perf_counter() - began
            self.seconds_a_step = seconds / (step - began_at)
            if began_at >= self._first:
                self._steps += step - began_at
                self._seconds += seconds
        self.start(step)

    def steps_a_second(self) -> float | None:
        """Return the steps per second since the last call, or None if no lap was counted."""
        speed = self._steps / self._seconds if self._steps else None
        self._steps, self._seconds = 0, 0.0
        return speed

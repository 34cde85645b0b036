"""The family `stacked`: networks of a few layers with fresh data at every step; many runs are trained as one program."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import lru_cache, partial
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor

from expbench.contracts import check_mixer, default_positions, not_supported, resolved_settings
from expbench.errors import BadInput
from expbench.global_state import preserved
from expbench.mixer import RelativeCode, supports
from expbench.nn.limits import is_symmetric, spanning_codes
from expbench.nn.memory import BUILT, sketching, step_bytes
from expbench.nn.network import Network, stack_reach
from expbench.nn.size_matching import NetworkConfig, Target, match
from expbench.probes import Probe
from expbench.run import RELATIVE, WITH_BASE, Positions, matched_base
from expbench.settings import Value
from expbench.task import CHUNK, Task
from expbench.training.batches import TaskBatches
from expbench.training.ensemble import Ensemble
from expbench.training.family import Context, DivergedError, Event, Facts, Family, Point, Resolved, Stack, Trained
from expbench.training.job import Job
from expbench.training.loop import CURVE_CHUNKS, build, curve_steps, evaluate_together, surroundings, train_together
from expbench.training.stacking import stacked
from expbench.training.step import Steps

Size = TypeVar("Size", int, float)

_DEEP = 64  # layers up to which a network is built to describe it
_WARMUP, _SHARE = 200, 10  # default warm-up in steps, limited to this fraction (one in ten) of short trainings
# Steps that are timed, and untimed steps before them: on CUDA the first steps run eagerly, then a graph is captured.
_STEPS, _BEFORE = {"cpu": 3, "cuda": 20}, {"cpu": 0, "cuda": 5}


class Stacked:
    """The family of tasks with fresh data."""

    distributed = False

    def resolve(self, task: Task, model: type, point: Point) -> Resolved:
        """Return the point with the model's position code, the default warm-up and the width that `match` determines.

        Raises `BadInput` if the point has epochs.
        """
        fields = dict(point.fields)
        if fields["epochs"] is not None:
            raise BadInput(f"--epochs {fields['epochs']}: {point.task_name} has fresh data at every step; use --steps")
        steps, warmup, settings = fields["steps"], fields["warmup"], dict(point.settings)
        fields["positions"] = fields["positions"] or default_positions(model, point.model_name)
        if not supports(model, fields["positions"]):
            raise not_supported(fields["positions"], point.model_name)
        fields["position_base"] = _base(fields["positions"], fields["position_base"], task.L)
        fields["warmup"] = min(_WARMUP, steps // _SHARE) if warmup is None else min(warmup, steps)
        if fields["match"] is not None:
            around = NetworkConfig(fields["depth"], fields["norm"], fields["positions"], fields["residual"])
            asked = tuple(settings.items())
            anyone = dataclasses.replace(task, instance=0)  # one cache entry, as the network size is equal for all instances
            fields["D"], settings = _matched(anyone, model, point.model_name, asked, around, fields["match"])
        return Resolved(fields, resolved_settings(model, settings, fields["D"]))

    def check(self, job: Job, device: str) -> Probe:
        """Probe a layer, with the relative position code that it applies, as `contracts.check_mixer` does."""
        run = job.run
        code = RelativeCode(run.positions, run.L, run.position_base) if run.positions in RELATIVE else None
        return check_mixer(job.model, run.model, run.D, run.model_settings, run.L, device, run.dtype, code)

    def describe(self, job: Job) -> Facts:
        """Return the facts of a job's network."""
        length, depth = job.task.L, job.run.depth
        if depth <= _DEEP and length * job.run.D <= BUILT and not job.sizes.wide():
            network = self.network(job)
            return Facts(
                network.parameter_count(),
                network.state_size(),
                network.flops(),
                network.reach(),
                spanning_codes(network),
                is_symmetric(network),
            )
        with sketching() if job.sizes.wide() else nullcontext():
            one, two, longer = _network(job, 1, 1), _network(job, 1, 2), _network(job, 2, 1)
        one.length = two.length = length
        reach = stack_reach(depth * [two.mixers[0]], length, residual=two.residual) if two.polynomial else None
        of = partial(_extrapolated, depth=depth)
        positions = (length - 1) * (longer.parameter_count() - one.parameter_count())
        parameters = (of(one.parameter_count(), two.parameter_count()) or 0) + positions
        return Facts(parameters, of(one.state_size(), two.state_size()), of(one.flops(), two.flops()), reach)

    def memory(self, job: Job) -> int | None:
        """Estimate the memory of a step of one run in bytes."""
        task, scale = job.task, 2 if job.run.dtype == "float64" else 1

        def inputs(length: int) -> Tensor:
            return torch.zeros(1, length, task.channels) if task.vocabulary is None else torch.zeros(1, length).long()

        size = step_bytes(partial(_network, job), inputs, lambda network, x: network(x), job.sizes)
        return None if size is None else scale * size

    def group(self, jobs: Sequence[Job], device: str, largest: int | None) -> Iterator[Stack]:
        """Divide jobs with one signature into stacks, after one trial whether they can be stacked."""
        return stacked(jobs, device, largest)

    def seconds(self, stack: Stack, device: str) -> float:
        """Estimate the seconds that a stack takes: its steps, the evaluations of the learning curve and the final ones."""
        jobs = stack.jobs
        run, task = jobs[0].run, jobs[0].task
        ensemble = Ensemble([build(job.run, job.task, job.model, device) for job in jobs])
        short = [replace(job.run, warmup=0) for job in jobs]
        small = [replace(job.task, test_size=CHUNK, validation_size=CHUNK) for job in jobs]
        with surroundings(run, device, len(jobs)):
            batches = TaskBatches(short, small, device)
            steps = Steps(short, small, ensemble, batches, device)
            for taken in range(_BEFORE[device] + _STEPS[device]):
                if taken == _BEFORE[device]:
                    began = time.perf_counter()
                steps.take()
            if not steps.fine():  # synchronises with the device, so that all steps are timed
                raise DivergedError("within a few steps")
            step = (time.perf_counter() - began) / _STEPS[device]
            began = time.perf_counter()
            evaluate_together(short, small, ensemble, batches, device, "validation", range(len(jobs)))
            sequence = (time.perf_counter() - began) / CHUNK
        curve = CHUNK * CURVE_CHUNKS * len(curve_steps(run.steps))
        return step * run.steps + sequence * (curve + task.validation_size + (task.test_size or 0))

    def untimed(self, device: str) -> str:
        """Return an empty string, because evaluations are timed as well."""
        return ""

    def train(self, stack: Stack, context: Context) -> Iterator[Event]:
        """Train the jobs of a stack as one program. Stacks are short, so they never pause."""
        jobs, device = stack.jobs, context.device
        runs = [job.run for job in jobs]
        ensemble = Ensemble([build(job.run, job.task, job.model, device) for job in jobs])
        with surroundings(runs[0], device, len(jobs)):
            yield from train_together(runs, [job.task for job in jobs], ensemble, device)
        if context.keep_weights:
            yield from (Trained(i, ensemble.state(i)) for i in range(len(jobs)))

    def network(self, job: Job) -> Network:
        """Build the network of a job on the CPU, initialised from its seed alone."""
        return build(job.run, job.task, job.model, "cpu")


FAMILY: Family = Stacked()


def _base(positions: Positions, asked: float | None, L: int) -> float:
    """Return the base of a position code: the one asked for, if the code has any, or else the one matched to L."""
    return matched_base(positions, L) if asked is None or positions not in WITH_BASE else asked


def _network(job: Job, length: int, depth: int) -> Network:
    """Build the network of a job at another length and depth, without its seed."""
    run, task = job.run, job.task
    around: Any = _Around(length, task.readout, task.vocabulary, task.channels, task.outputs)
    layer = partial(job.model, run.D, **run.model_settings)
    return Network(
        around,
        layer,
        width=run.D,
        depth=depth,
        norm=run.norm,
        positions=run.positions,
        residual=run.residual,
        position_base=run.position_base,
    )


def _extrapolated(one: Size | None, two: Size | None, *, depth: int) -> Size | None:
    """Return a size that is linear in the depth, from those of depth 1 and 2."""
    return None if one is None or two is None else one + (depth - 1) * (two - one)


class _Around(NamedTuple):
    """The attributes of a task on which a network depends."""

    L: int
    readout: str
    vocabulary: int | None
    channels: int
    outputs: int


@lru_cache(maxsize=1024)
def _matched(
    task: Task, model: type, name: str, settings: tuple[tuple[str, Value], ...], around: NetworkConfig, target: Target
) -> tuple[int, dict[str, Value]]:
    """Return the width at which a model meets the target size, and its settings at that width."""
    with preserved(f"model {name!r}", functions=True):
        return match(task, model, name, dict(settings), around, target)

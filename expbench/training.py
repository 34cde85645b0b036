"""Run -> Scores: one loop for every task and every model.

Fresh data at every step, AdamW, linear warm-up and cosine decay, gradients clipped in norm. The loop yields what it
measures: a few dozen points of the curve on the selection split, and at the end the test split, which nothing is chosen on.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from expbench.network import Network
from expbench.optimizer import AdamW, clipped
from expbench.run import Run, Score, Split
from expbench.task import Batch, Measured, Task, total

CURVE_POINTS, STEPS_BETWEEN_POINTS = 24, 25  # at most so many points, and at least so many steps from one to the next
CURVE_CHUNKS = 1  # chunks of the selection split that a point of the curve looks at; the last point sees them all
PROBE = 64  # sequences on which mixers log their statistics
_WORTH_SHARING = 1 << 14  # numbers in one layer's input
_EVALUATED_TOKENS = 1 << 16  # tokens that go through a network at once when it is evaluated


@contextmanager
def surroundings(run: Run, device: str) -> Iterator[None]:
    """What a run needs of the process: its own random state (a layer may have dropout), and as many threads as pay.

    One thread where a step is so small that to share it costs more than to do it; torch's own number elsewhere.
    """
    threads = torch.get_num_threads()
    if run.batch_size * run.L * run.D < _WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
            torch.manual_seed(run.seed)
            yield
    finally:
        torch.set_num_threads(threads)


class Diverged(Exception):
    """The loss or its gradient is no longer finite; says at which step."""


def build(run: Run, task: Task, model: type, device: str) -> Network:
    """The network of a run, initialised from its seed alone: drawn on the CPU, so alike on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        network = Network(
            task,
            lambda: model(run.D, **run.model_settings),
            width=run.D,
            depth=run.depth,
            norm=run.norm,
            positions=run.positions,
            residual=run.residual,
        )
    network = network.to(device)
    return network.double() if run.dtype == "float64" else network.float()  # bfloat16 is autocast around float32


def train(run: Run, task: Task, network: Network, device: str) -> Iterator[Score]:
    """Train, yielding the curve and at the end the test metrics; raises `Diverged` where training breaks down."""
    began = time.perf_counter()
    optimizer = AdamW(list(network.parameters()), run.weight_decay)
    points = curve_steps(run.steps)
    probe = _cast(next(task.split("selection", device)), run)
    watch = _TransitionWatch(network)
    losses: list[Tensor] = []
    seen = _SeenInputs(run, task)

    def scores(split: Split, step: int, measured: list[Measured]) -> Iterator[Score]:
        seconds = time.perf_counter() - began
        for metric, value, part in measured:
            headline = metric == task.headline and not part
            yield Score(split, step, metric, float(value), part, seconds, headline)

    network.train()
    for step in range(1, run.steps + 1):
        batch = _cast(task.train_batch(run.batch_size, seed=run.seed, step=step, device=device), run)
        seen.add(batch.inputs)
        with precision_context(run, device):
            loss = task.loss(_floating(network(batch.inputs)), batch.targets)
        raw = torch.autograd.grad(loss, optimizer.leaves, allow_unused=True, materialize_grads=True)
        loss = loss.detach()
        grads, norm = clipped(raw, run.clip)
        if not math.isfinite(norm + loss):
            raise Diverged(f"the loss or its gradient is not finite at step {step} of {run.steps}")
        optimizer.step(grads, run.lr * learning_rate_factor(run, step - 1))
        losses.append(loss)
        if step in points:
            yield from scores("train", step, [Measured("loss", float(torch.stack(losses).mean()))])
            losses.clear()
            if step < run.steps:
                curve = evaluate(run, task, network, device, "selection", chunks=CURVE_CHUNKS)
                yield from scores("selection", step, [m for m in curve if not m.slice])
            yield from scores("selection", step, watch.probe(probe.inputs[:PROBE]))
            yield from scores("train", step, watch.running(batch.inputs[:PROBE]))

    if not all(bool(torch.isfinite(p).all()) for p in network.parameters()):
        raise Diverged(f"a parameter is not finite after step {run.steps}, the last")
    yield from scores("test", run.steps, seen.measure(task.split("test", device)))
    splits: tuple[Split, ...] = ("selection", "test")
    for split in splits:
        measured = evaluate(run, task, network, device, split)
        yield from scores(split, run.steps, measured)
        value = next(m.value for m in measured if m.metric == task.headline and not m.slice)
        if not math.isfinite(value):
            raise Diverged(f"{task.headline} of the {split} split is not finite after {run.steps} steps")
        yield from scores(split, run.steps, [Measured("solved", float(task.solved(value)))])


def learning_rate_factor(run: Run, step: int) -> float:
    """The share of the peak learning rate used for update `step` (from 0): linear warm-up, then a half cosine to 0."""
    if step < run.warmup:
        return (step + 1) / run.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - run.warmup) / max(1, run.steps - run.warmup))


def curve_steps(steps: int) -> set[int]:
    """The steps at which the curve is measured: evenly spaced, the last among them."""
    count = max(1, min(CURVE_POINTS, steps // STEPS_BETWEEN_POINTS))
    return {round(steps * (i + 1) / count) for i in range(count)}


@torch.no_grad()
def evaluate(run: Run, task: Task, network: Network, device: str, split: Split, chunks: int | None = None) -> list[Measured]:
    """The metrics of the selection or test split, or of its first `chunks` chunks."""
    sequences = max(1, _EVALUATED_TOKENS // task.L)
    parts = []
    network.eval()
    for batch in islice(task.split(split, device), chunks):
        batch = _cast(batch, run)
        with precision_context(run, device):
            outputs = torch.cat([_floating(network(inputs)) for inputs in batch.inputs.split(sequences)])
        parts.append(task.measure(outputs, batch.targets))
    network.train()
    return task.summary(total(parts))


def precision_context(run: Run, device: str) -> AbstractContextManager[Any]:
    """Autocast for bfloat16, nothing otherwise."""
    return torch.autocast(device, torch.bfloat16) if run.dtype == "bfloat16" else nullcontext()


def _cast(batch: Batch, run: Run) -> Batch:
    dtype = torch.float64 if run.dtype == "float64" else torch.float32
    return Batch(*(x.to(dtype) if x.is_floating_point() else x for x in batch))


def _floating(outputs: Tensor) -> Tensor:
    return outputs.float() if outputs.dtype == torch.bfloat16 else outputs


class _SeenInputs:
    """The share of test inputs that training has seen, where there are so few inputs that it must happen.

    Streams of random inputs are as good as disjoint where the space of inputs exceeds 100 times the sample.
    """

    def __init__(self, run: Run, task: Task) -> None:
        base = task.vocabulary
        small = base is not None and base**task.L <= 100 * run.steps * run.batch_size
        self.powers = torch.tensor([base**i for i in range(task.L)]) if small and base is not None else None
        self.codes: list[Tensor] = []

    def add(self, inputs: Tensor) -> None:
        """Remember the inputs (B, L) of a training batch."""
        if self.powers is not None:
            self.codes.append((inputs.cpu() * self.powers).sum(1))

    def measure(self, batches: Iterator[Batch]) -> list[Measured]:
        """The share among these batches' inputs of those that were remembered."""
        if self.powers is None:
            return []
        codes = torch.cat([(batch.inputs.cpu() * self.powers).sum(1) for batch in batches])
        return [Measured("seen_in_training", float(torch.isin(codes, torch.cat(self.codes)).double().mean()))]


class _TransitionWatch:
    """The statistics that mixers log: on a fixed probe, and their running extreme over the training batches looked at."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.extreme: dict[str, float] = {}

    def probe(self, inputs: Tensor) -> list[Measured]:
        values = self.network.statistics(inputs)
        measured = [Measured(name, value, f"layer={layer}") for (layer, name), value in values.items()]
        largest = [value for (_, name), value in values.items() if name == "abar_max"]
        return [*measured, Measured("k_hat", max(largest))] if largest else measured

    def running(self, inputs: Tensor) -> list[Measured]:
        for (layer, name), value in self.network.statistics(inputs).items():
            if name == "abar_max":
                part = f"layer={layer}"
                self.extreme[part] = max(value, self.extreme.get(part, value))
        return [Measured("abar_max_running", value, part) for part, value in self.extreme.items()]

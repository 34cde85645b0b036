"""Runs -> Scores: one loop for every task and every model, and for as many runs at once as differ in numbers alone.

Fresh data at every step, AdamW, linear warm-up and cosine decay, gradients clipped in norm. The loop yields what it
measures: a few dozen points of the curve on the selection split, and at the end the test split, which nothing is chosen on.
Runs that are trained together share nothing but the operations: each has its data, rates, clipping, and may diverge.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from itertools import islice
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expbench.ensemble import Ensemble
from expbench.network import Network
from expbench.optimizer import AdamW, clipped, rows
from expbench.run import Run, Score, Split
from expbench.stream import Stream
from expbench.task import Batch, Measured, Task, total

CURVE_POINTS, STEPS_BETWEEN_POINTS = 24, 25  # at most so many points, and at least so many steps from one to the next
CURVE_CHUNKS = 1  # chunks of the selection split that a point of the curve looks at; the last point sees them all
PROBE = 64  # sequences on which mixers log their statistics
_WORTH_SHARING = 1 << 14  # numbers in one layer's input
_EVALUATED_TOKENS = 1 << 16  # tokens that go through a network at once when it is evaluated


@contextmanager
def surroundings(run: Run, device: str, size: int = 1) -> Iterator[None]:
    """What `size` runs like this need of the process: a random state (a layer may have dropout), and as many threads as pay.

    One thread where a step is so small that to share it costs more than to do it; torch's own number elsewhere.
    """
    threads = torch.get_num_threads()
    if size * run.batch_size * run.L * run.D < _WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []):
            torch.manual_seed(run.seed)
            yield
    finally:
        torch.set_num_threads(threads)


class Diverged(Exception):
    """The loss or its gradient is no longer finite; says at which step."""


class Item(NamedTuple):
    """What the loop tells of run number `member`: a score, or that it has diverged, after which nothing more comes of it."""

    member: int
    what: Score | Diverged


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
    """Train one network, yielding the curve and at the end the test metrics; raises `Diverged` where it breaks down."""
    for item in train_together([run], [task], Ensemble([network]), device):
        if isinstance(item.what, Diverged):
            raise item.what
        yield item.what


def train_together(runs: Sequence[Run], tasks: Sequence[Task], ensemble: Ensemble, device: str) -> Iterator[Item]:
    """Train S networks, run i on task i; they have the same number of steps, batch size and shapes."""
    began = time.perf_counter()
    first = runs[0]
    alive = list(range(len(runs)))
    stream = Stream(runs, tasks, device)
    steps = Steps(runs, tasks, ensemble, stream, device)
    points = curve_steps(first.steps)
    probe = Batch(*(x[:, :PROBE] for x in _each_own(next(stream.split("selection")), len(runs))))
    watch = _TransitionWatch(ensemble)
    seen = _SeenInputs(runs, tasks, stream)

    def scores(i: int, split: Split, step: int, measured: Iterable[Measured]) -> Iterator[Item]:
        seconds = time.perf_counter() - began
        for metric, value, part in measured:
            headline = metric == tasks[i].headline and not part
            yield Item(i, Score(split, step, metric, float(value), part, seconds, headline))

    ensemble.template.train()
    for step in range(1, first.steps + 1):
        batch = steps.take(step)
        seen.add(batch.inputs)
        if step in points or (len(runs) == 1 and not steps.fine()):
            for i, broke_at in steps.broken(alive):
                alive.remove(i)
                yield Item(i, Diverged(f"the loss or its gradient is not finite at step {broke_at} of {first.steps}"))
            if not alive:
                return
            mean = steps.mean_loss()
            at_rest, moving = watch.probe(probe.inputs), watch.running(batch.inputs[:, :PROBE])
            curve = evaluate_together(runs, tasks, ensemble, stream, device, "selection", alive, CURVE_CHUNKS)
            for i in alive:
                yield from scores(i, "train", step, [Measured("loss", mean[i])])
                if step < first.steps:
                    yield from scores(i, "selection", step, (m for m in curve[i] if not m.slice))
                yield from scores(i, "selection", step, at_rest[i])
                yield from scores(i, "train", step, moving[i])

    finite = torch.stack([torch.isfinite(p).flatten(1).all(1) for p in ensemble.stacked(ensemble.leaves)]).all(0).tolist()
    for i in [i for i in alive if not finite[i]]:
        alive.remove(i)
        yield Item(i, Diverged(f"a parameter is not finite after step {first.steps}, the last"))
    for i, share in seen.measure():
        if i in alive:
            yield from scores(i, "test", first.steps, [Measured("seen_in_training", share)])
    splits: tuple[Split, ...] = ("selection", "test")
    for split in splits:
        found = evaluate_together(runs, tasks, ensemble, stream, device, split, alive)
        for i in list(alive):
            task = tasks[i]
            yield from scores(i, split, first.steps, found[i])
            value = next(m.value for m in found[i] if m.metric == task.headline and not m.slice)
            if math.isfinite(value):
                yield from scores(i, split, first.steps, [Measured("solved", float(task.solved(value)))])
            else:
                alive.remove(i)
                yield Item(i, Diverged(f"{task.headline} of the {split} split is not finite after {first.steps} steps"))


class Steps:
    """The optimizer steps of runs that are trained together, and what is to be known of them, kept on the device.

    Nothing here waits for the device, so that steps follow each other without a pause, until something is asked for.
    """

    def __init__(self, runs: Sequence[Run], tasks: Sequence[Task], ensemble: Ensemble, stream: Stream, device: str) -> None:
        self._run, self._task, self._ensemble, self._stream, self._device = runs[0], tasks[0], ensemble, stream, device
        self._rates = _Rates(runs, device)
        decay = torch.tensor([run.weight_decay for run in runs], dtype=torch.float64, device=device)
        self._optimizer = AdamW(ensemble.stacked(ensemble.leaves), ensemble.decayed, decay)
        self._step = torch.zeros((), dtype=torch.int64, device=device)
        self._broke_at = torch.zeros(len(runs), dtype=torch.int64, device=device)
        dtype = torch.float64 if runs[0].dtype == "float64" else torch.float32
        self._total, self._since = torch.zeros(len(runs), dtype=dtype, device=device), 0

    def take(self, step: int) -> Batch:
        """Step number `step`, from 1; the batch that it was taken on, (S, B, ...)."""
        self._step.fill_(step)
        batch = self._stream.train(step, self._step)
        with precision_context(self._run, self._device):
            losses = self._ensemble.losses(self._task, batch)
        raw = torch.autograd.grad(losses.sum(), self._ensemble.leaves, allow_unused=True, materialize_grads=True)
        grads, norms = clipped(rows(self._ensemble.stacked(raw)), self._rates.clip)
        losses = losses.detach()
        broke = (self._broke_at == 0) & ~torch.isfinite(norms + losses)
        self._broke_at.copy_(torch.where(broke, self._step, self._broke_at))
        self._optimizer.step(grads, self._rates.at(self._step - 1))
        self._total += losses
        self._since += 1
        return batch

    def fine(self) -> bool:
        """Whether all losses and gradients were finite so far."""
        return not bool(self._broke_at.any())

    def broken(self, alive: Sequence[int]) -> list[tuple[int, int]]:
        """Those among `alive` whose loss or gradient was not, and at which step for the first time."""
        at = self._broke_at.tolist()
        return [(i, at[i]) for i in alive if at[i]]

    def mean_loss(self) -> list[float]:
        """Of each run the mean over the steps since this was last asked."""
        mean: list[float] = (self._total / self._since).tolist()
        self._total.zero_()
        self._since = 0
        return mean


class _Rates:
    """Learning rate and clipping of each run, in tensors (S,): the rate is `learning_rate_factor` times its peak."""

    def __init__(self, runs: Sequence[Run], device: str) -> None:
        def each(values: Iterable[float], dtype: torch.dtype = torch.float64) -> Tensor:
            return torch.tensor(list(values), dtype=dtype, device=device)

        self._peak = each(run.lr for run in runs)
        self._warmup = each(run.warmup for run in runs)
        self._decay = each(max(1, run.steps - run.warmup) for run in runs)
        self.clip = each((run.clip for run in runs), torch.float64 if runs[0].dtype == "float64" else torch.float32)

    def at(self, step: Tensor) -> Tensor:
        """The learning rates of update `step` (from 0), float64."""
        rising = (step + 1) / self._warmup.clamp(min=1)
        falling = 0.5 + 0.5 * torch.cos(math.pi * (step - self._warmup) / self._decay)
        return self._peak * torch.where(step < self._warmup, rising, falling)


def learning_rate_factor(run: Run, step: int) -> float:
    """The share of the peak learning rate used for update `step` (from 0): linear warm-up, then a half cosine to 0."""
    if step < run.warmup:
        return (step + 1) / run.warmup
    return 0.5 + 0.5 * math.cos(math.pi * (step - run.warmup) / max(1, run.steps - run.warmup))


def curve_steps(steps: int) -> set[int]:
    """The steps at which the curve is measured: evenly spaced, the last among them."""
    count = max(1, min(CURVE_POINTS, steps // STEPS_BETWEEN_POINTS))
    return {round(steps * (i + 1) / count) for i in range(count)}


def evaluate(run: Run, task: Task, network: Network, device: str, split: Split, chunks: int | None = None) -> list[Measured]:
    """The metrics of the selection or test split, or of its first `chunks` chunks."""
    stream = Stream([run], [task], device)
    return evaluate_together([run], [task], Ensemble([network]), stream, device, split, [0], chunks)[0]


@torch.no_grad()
def evaluate_together(
    runs: Sequence[Run],
    tasks: Sequence[Task],
    ensemble: Ensemble,
    stream: Stream,
    device: str,
    split: Split,
    alive: Sequence[int],
    chunks: int | None = None,
) -> dict[int, list[Measured]]:
    """The metrics of each run in `alive`, by its index."""
    sequences = max(1, _EVALUATED_TOKENS // (tasks[0].L * len(runs)))
    parts: dict[int, list[Mapping[str, Tensor]]] = {i: [] for i in alive}
    ensemble.template.eval()
    for batch, shared in islice(stream.split(split), chunks):
        with precision_context(runs[0], device):
            along = 0 if shared else 1
            pieces = [ensemble.outputs(x, shared=shared) for x in batch.inputs.split(sequences, along)]
        outputs = torch.cat(pieces, 1)
        for i in alive:
            parts[i].append(tasks[i].measure(outputs[i], batch.targets if shared else batch.targets[i]))
    ensemble.template.train()
    return {i: tasks[i].summary(total(parts[i])) for i in alive}


def _each_own(chunk: tuple[Batch, bool], size: int) -> Batch:
    batch, shared = chunk
    return Batch(*(x.expand(size, *x.shape) for x in batch)) if shared else batch


def precision_context(run: Run, device: str) -> AbstractContextManager[Any]:
    """Autocast for bfloat16, nothing otherwise."""
    return torch.autocast(device, torch.bfloat16) if run.dtype == "bfloat16" else nullcontext()


class _SeenInputs:
    """The share of test inputs that training has seen, where there are so few inputs that it must happen.

    Streams of random inputs are as good as disjoint where the space of inputs exceeds 100 times the sample. Test inputs are
    kept in order, and a batch leaves its mark on those that it holds.
    """

    def __init__(self, runs: Sequence[Run], tasks: Sequence[Task], stream: Stream) -> None:
        base, run = tasks[0].vocabulary, runs[0]
        self.small = base is not None and base ** tasks[0].L <= 100 * run.steps * run.batch_size
        if not self.small or base is None:
            return
        chunks = [_each_own(chunk, len(runs)).inputs for chunk in stream.split("test")]
        self.powers = torch.tensor([base**i for i in range(tasks[0].L)], device=chunks[0].device)
        self.codes = (torch.cat(chunks, 1) * self.powers).sum(-1).sort(1).values
        self.hits = torch.zeros(len(runs), self.codes.shape[1] + 1, dtype=torch.bool, device=self.codes.device)

    def add(self, inputs: Tensor) -> None:
        """Remember the inputs (S, B, L) of a training batch."""
        if self.small:
            codes = (inputs * self.powers).sum(-1)
            at = torch.searchsorted(self.codes, codes)
            last = self.codes.shape[1]
            found = self.codes.gather(1, at.clamp(max=last - 1)) == codes
            self.hits.scatter_(1, torch.where(found, at, last), True)  # the last column is for those that are not there

    def measure(self) -> Iterator[tuple[int, float]]:
        """For each run the share of its test inputs that were in its training batches."""
        if self.small:
            first = torch.searchsorted(self.codes, self.codes)  # of equal inputs the first has the mark
            yield from enumerate(self.hits.gather(1, first).double().mean(1).tolist())


class _TransitionWatch:
    """The statistics that mixers log: on a fixed probe, and their running extreme over the training batches looked at."""

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.extremes: dict[int, Tensor] = {}

    def probe(self, inputs: Tensor) -> list[list[Measured]]:
        """What each network's mixers log about inputs (S, B, ...)."""
        values = {key: x.double().tolist() for key, x in self.ensemble.statistics(inputs).items()}
        found = []
        for i in range(self.ensemble.size):
            measured = [Measured(name, of_each[i], f"layer={layer}") for (layer, name), of_each in values.items()]
            largest = [of_each[i] for (_, name), of_each in values.items() if name == "abar_max"]
            found.append([*measured, Measured("k_hat", max(largest))] if largest else measured)
        return found

    def running(self, inputs: Tensor) -> list[list[Measured]]:
        """The largest |Abar| of each network so far, these inputs (S, B, ...) among them."""
        for (layer, name), values in self.ensemble.statistics(inputs).items():
            if name == "abar_max":
                before = self.extremes.get(layer)
                self.extremes[layer] = values if before is None else torch.maximum(values, before)
        extremes = {layer: x.double().tolist() for layer, x in self.extremes.items()}
        return [
            [Measured("abar_max_running", of_each[i], f"layer={layer}") for layer, of_each in extremes.items()]
            for i in range(self.ensemble.size)
        ]

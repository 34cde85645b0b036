"""Training loop: runs -> events, one loop for every task and model, which trains all runs of a stack at once.

Fresh data at every step, AdamW, linear warm-up and a schedule such as cosine decay, gradient clipping by norm. The loop
yields a few dozen points of the learning curve on the validation split and, at the end, scores on the test split, which no
choice depends on. Runs of a stack share only the operations: each has its own data, learning rate and clipping, and each may
diverge alone.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from expbench.global_state import seeded
from expbench.initialisation.start import start
from expbench.mixer import in_precision
from expbench.nn.network import Network
from expbench.results.reported import not_finite
from expbench.run import Run, Score, Split
from expbench.task import Batch, Task, scores_of, total
from expbench.training.batches import Chunk, TaskBatches
from expbench.training.ensemble import Ensemble
from expbench.training.family import Diverged, DivergedError, Event, NoCudaGraph, Reached, Scored
from expbench.training.monitors import TransitionMonitor, checksum
from expbench.training.precision import precision_context
from expbench.training.step import Steps

CURVE_POINTS, STEPS_BETWEEN_POINTS = 24, 25  # maximum number of points on a curve, minimum distance between two
CURVE_CHUNKS = 1  # chunks of the validation split per point of the curve, to save time; the last point uses all chunks
PROBE = 64  # sequences on which mixers log their statistics
_WORTH_SHARING = 1 << 14  # numbers in one layer's input, below which threads cost more than they save
_EVALUATED_TOKENS = {"cpu": 1 << 16, "cuda": 1 << 22}  # tokens per forward pass in evaluation, to bound its memory
_MEASURED_TOKENS = 1 << 16  # tokens per run in one call of `Task.measure`: few calls, as each has a fixed cost


@contextmanager
def surroundings(run: Run, device: str, size: int = 1) -> Iterator[None]:
    """Set the process's random state and number of threads for training `size` runs like this, and restore them after.

    All other global state that the model changes is restored too. The seed matters for layers that draw random numbers, such
    as dropout. Small steps run on one thread, because splitting them costs more than it saves; larger steps use torch's
    number of threads.
    """
    threads = torch.get_num_threads()
    if size * run.batch_size * run.L * run.D < _WORTH_SHARING:
        torch.set_num_threads(1)
    try:
        with (
            torch.random.fork_rng(devices=[torch.cuda.current_device()] if device == "cuda" else []),
            seeded(run.seed, f"model {run.model!r}"),
        ):
            yield
    finally:
        torch.set_num_threads(threads)


def build(run: Run, task: Task, model: type, device: str) -> Network:
    """Build the network of a run. Its weights depend on the seed alone: drawn on the CPU, they are equal on every device.

    The seed also holds for layers that draw from numpy or `random`.
    """
    with seeded(run.seed, f"model {run.model!r}", functions=True):
        network = Network(
            task,
            lambda: model(run.D, **run.model_settings),
            width=run.D,
            depth=run.depth,
            norm=run.norm,
            positions=run.positions,
            residual=run.residual,
            position_base=run.position_base,
        )
        in_precision(
            network, torch.float64 if run.dtype == "float64" else torch.float32
        )  # bfloat16 is autocast over float32
        start(network, run, task)
    return network.to(device)


def train(run: Run, task: Task, network: Network, device: str) -> Iterator[Score]:
    """Train one network, yielding its learning curve and finally its test metrics; raises `DivergedError`."""
    for event in train_together([run], [task], Ensemble([network]), device):
        if isinstance(event, Diverged):
            raise DivergedError(event.reason)
        if isinstance(event, Scored):
            yield event.score


def train_together(runs: Sequence[Run], tasks: Sequence[Task], ensemble: Ensemble, device: str) -> Iterator[Event]:
    """Train S networks together, run i on task i; all have the same number of steps, batch size and shapes."""
    began = time.perf_counter()
    first = runs[0]
    alive = list(range(len(runs)))
    batches = TaskBatches(runs, tasks, device)
    steps = Steps(runs, tasks, ensemble, batches, device)
    points = curve_steps(first.steps)
    probe = Batch(*(x[:, :PROBE] for x in next(batches.split("validation")).each()))
    monitor = TransitionMonitor(ensemble)
    untrained = _untrained(first, ensemble, probe.inputs, device)

    def scores(i: int, split: Split, step: int, measured: Iterable[Score]) -> Iterator[Event]:
        seconds = time.perf_counter() - began
        for score in measured:
            primary = score.metric == tasks[i].primary_metric and not score.slice
            yield Scored(i, Score(score.metric, float(score.value), score.slice, split, step, seconds, primary))

    for i in alive:
        yield from scores(i, "validation", 0, [Score("outputs_checksum", untrained[i])])
    ensemble.template.train()
    for step in range(1, first.steps + 1):
        batch = steps.take()
        if step in points and steps.no_cuda_graph_reason is not None:
            yield NoCudaGraph(steps.no_cuda_graph_reason)
        if step in points or (len(runs) == 1 and device == "cpu" and not steps.fine()):
            for i, broke_at in steps.broken(alive):
                alive.remove(i)
                yield Diverged(i, not_finite(broke_at, first.steps))
            if not alive:
                return
            mean = steps.mean_loss()
            rates, norms = steps.applied()
            drawn = _checksums(batch)
            at_rest, moving = monitor.probe(probe.inputs), monitor.running(batch.inputs[:, :PROBE])
            curve = evaluate_together(runs, tasks, ensemble, batches, device, "validation", alive, CURVE_CHUNKS)
            for i in alive:
                of_step = [Score("learning_rate", rates[i]), Score("gradient_norm", norms[i]), *drawn[i]]
                yield from scores(i, "train", step, [Score("loss", mean[i]), *of_step])
                if step < first.steps:
                    yield from scores(i, "validation", step, (m for m in curve[i] if not m.slice))
                yield from scores(i, "validation", step, at_rest[i])
                yield from scores(i, "train", step, moving[i])
            yield Reached(step)

    finite = torch.stack([torch.isfinite(p).flatten(1).all(1) for p in ensemble.stacked(ensemble.leaves)]).all(0).tolist()
    for i in [i for i in alive if not finite[i]]:
        alive.remove(i)
        yield Diverged(i, f"a parameter is not finite after step {first.steps}, the last")
    for i, share in steps.seen.measure():
        if i in alive:
            yield from scores(i, "test", first.steps, [Score("train_test_overlap", share)])
    splits: tuple[Split, ...] = ("validation", "test")
    for split in splits:
        found = evaluate_together(runs, tasks, ensemble, batches, device, split, alive)
        data = _data_of(batches, split)
        for i in list(alive):
            task = tasks[i]
            yield from scores(i, split, first.steps, [*found[i], *data[i]])
            value = next(m.value for m in found[i] if m.metric == task.primary_metric and not m.slice)
            if math.isfinite(value):
                yield from scores(i, split, first.steps, [Score("solved", float(task.solved(value)))])
            else:
                alive.remove(i)
                yield Diverged(i, f"{task.primary_metric} of the {split} split is not finite after {first.steps} steps")


@torch.no_grad()
def _untrained(run: Run, ensemble: Ensemble, inputs: Tensor, device: str) -> list[float]:
    """Return a checksum of each network's outputs for inputs (S, B, ...) before the first step.

    The outputs depend only on the seed and the code, so the checksum reveals a change in a layer even if training
    compensates for it.
    """
    ensemble.template.eval()
    with precision_context(run.dtype, device):
        checksums: list[float] = checksum(ensemble.outputs(inputs, shared=False)).tolist()
    ensemble.template.train()
    return checksums


def _checksums(batch: Batch) -> list[list[Score]]:
    """Return the checksums of each run's inputs and targets in a batch (S, B, ...)."""
    names = [f"{name}_checksum" for name in Batch._fields]
    rows = zip(*(checksum(x).tolist() for x in batch), strict=True)
    return [[Score(name, value) for name, value in zip(names, row, strict=True)] for row in rows]


def _data_of(batches: TaskBatches, split: Split) -> dict[int, list[Score]]:
    """Return the data checksums of each run in a split, from its first chunk only, to avoid drawing the split again."""
    found: dict[int, list[Score]] = {}
    for chunk in batches.split(split, 1):
        found.update(zip(chunk.runs, _checksums(chunk.each()), strict=True))
    return found


def curve_steps(steps: int) -> set[int]:
    """Return the steps at which the learning curve is measured: evenly spaced, including the last step."""
    count = max(1, min(CURVE_POINTS, steps // STEPS_BETWEEN_POINTS))
    return {round(steps * (i + 1) / count) for i in range(count)}


def evaluate(run: Run, task: Task, network: Network, device: str, split: Split, chunks: int | None = None) -> list[Score]:
    """Return the metrics of a network on the validation or test split, or on its first `chunks` chunks."""
    batches = TaskBatches([run], [task], device)
    return evaluate_together([run], [task], Ensemble([network]), batches, device, split, [0], chunks)[0]


@torch.no_grad()
def evaluate_together(
    runs: Sequence[Run],
    tasks: Sequence[Task],
    ensemble: Ensemble,
    batches: TaskBatches,
    device: str,
    split: Split,
    alive: Sequence[int],
    chunks: int | None = None,
) -> dict[int, list[Score]]:
    """Return the metrics of the runs in `alive` on a split, or on its first `chunks` chunks, by index of the run.

    The metrics of a run with an output that is not finite are not finite either.
    """
    finite = torch.ones(len(runs), dtype=torch.bool, device=device)
    sequences = max(1, _EVALUATED_TOKENS[device] // (tasks[0].L * len(runs)))
    parts: dict[int, list[Mapping[str, Tensor]]] = {i: [] for i in alive}
    ensemble.template.eval()
    for batch, some, shared in _joined(batches.split(split, chunks), max(1, _MEASURED_TOKENS // tasks[0].L)):
        with precision_context(runs[0].dtype, device):
            along = 0 if shared else 1
            pieces = [ensemble.outputs(x, shared=shared, some=some) for x in batch.inputs.split(sequences, along)]
        outputs = torch.cat(pieces, 1)
        finite[some] &= torch.isfinite(outputs).flatten(1).all(1)
        for k, i in enumerate(some):
            if i in parts:
                parts[i].append(tasks[i].measure(outputs[k], batch.targets if shared else batch.targets[k]))
    ensemble.template.train()
    fine = finite.tolist()
    return {i: scores_of(tasks[i], total(parts[i]), fine[i]) for i in alive}


def _joined(chunks: Iterable[Chunk], most: int) -> Iterator[Chunk]:
    """Yield consecutive chunks of the same runs joined, up to `most` sequences per run."""
    held: list[Chunk] = []
    for chunk in chunks:
        sizes = [len(x.batch.targets if x.shared else x.batch.targets[0]) for x in (*held, chunk)]
        if held and (held[0].runs != chunk.runs or sum(sizes) > most):
            yield _one(held)
            held = []
        held.append(chunk)
    if held:
        yield _one(held)


def _one(chunks: Sequence[Chunk]) -> Chunk:
    first = chunks[0]
    along = 0 if first.shared else 1
    parts = zip(*(chunk.batch for chunk in chunks), strict=True)
    return first if len(chunks) == 1 else first._replace(batch=Batch(*(torch.cat(tensors, along) for tensors in parts)))

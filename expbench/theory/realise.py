"""Realisability versus learnability: train a perturbed construction of a polynomial, and the same blocks from scratch.

Four Mamba blocks can represent a polynomial (Theorem 2 of arXiv 2502.02209), but gradient descent need not find it. The
experiment adds normal noise of several sizes to the constructed weights and trains them. As a baseline, it trains the same
blocks from torch's initialisation. All networks train in one stack. The construction proves that the polynomial is
representable; the experiment measures whether training finds it.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expbench import files
from expbench.algebra.parsing import parse
from expbench.console.formatting import aligned, number
from expbench.data.rng import CounterRNG
from expbench.initialisation.start import disturb
from expbench.initialisation.theorem2 import standardise
from expbench.nn.network import Network
from expbench.report import drawing
from expbench.results import provenance
from expbench.run import Run, Split
from expbench.stats.intervals import share_interval
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.task import Batch, Score, Task
from expbench.theory.construct import Construction, theorem2
from expbench.training.batches import TaskBatches
from expbench.training.ensemble import Ensemble
from expbench.training.family import Reached, Scored
from expbench.training.loop import evaluate_together, surroundings, train_together

RECOVERED = 1e-3  # a run with at most this NMSE has found the polynomial
SCRATCH = "scratch"


class Trained(NamedTuple):
    """Result of one run.

    start: noise size, or ``scratch``. before, after: NMSE on the test split before and after training; after is None if the
    run diverged.
    """

    start: str
    seed: int
    before: float
    after: float | None


@dataclass(frozen=True, kw_only=True)
class Padded(Task):
    """Task that appends zeros to the inputs of `inner`, because a construction needs the padding."""

    inner: Task
    primary_metric = "nmse"
    higher_is_better = False
    success_threshold = RECOVERED

    @property
    def channels(self) -> int:
        return self.inner.channels

    @property
    def readout(self) -> Literal["last", "all"]:
        return self.inner.readout

    def stream(self, split: Split, seed: int = 0) -> int:
        return self.inner.stream(split, seed)

    def batch(self, rng: CounterRNG, size: int) -> Batch:
        inputs, targets = self.inner.batch(rng, size)
        return Batch(F.pad(inputs, (0, 0, 0, self.L - self.inner.L)), targets)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.inner.loss(outputs, targets)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return self.inner.measure(outputs, targets)

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        return self.inner.summary(totals)


def realise(
    formula: str,
    L: int | None,
    sigmas: Sequence[float],
    seeds: Sequence[int],
    *,
    steps: int,
    lr: float,
    batch_size: int,
    device: str,
    on_step: Callable[[int], None] = lambda step: None,
) -> list[Trained]:
    """Train the construction of `formula` for each noise size and seed, and the same blocks from scratch, all in one stack.

    on_step: callback that receives the number of completed steps now and then. Raise `BadInput` for an invalid formula or
    size.
    """
    parsed = parse(formula, L)
    used = max((variable + 1 for exponents in parsed.exponents for variable in exponents), default=1)
    construction = theorem2(parsed, L or used)
    request = SweepSpec(
        task="polyreg",
        models="s6-poly",
        L=str(construction.L),
        norm="none",
        seeds=",".join(map(str, seeds)),
        steps=str(steps),
        lr=str(lr),
        batch_size=str(batch_size),
        task_settings=("family=given", f"formula={formula}", "test_size=4096"),
    )
    jobs = expand(request, device)
    task = Padded(L=construction.L + construction.padding, inner=jobs[0].task, test_size=4096)
    starts = [*(f"{sigma:g}" for sigma in sigmas), SCRATCH]
    members = [(start, job.run) for start in starts for job in jobs]
    networks = [_started(construction, task, start, run).to(device) for start, run in members]
    before, after = _trained([run for _, run in members], task, Ensemble(networks), device, on_step)
    return [Trained(start, run.seed, before[i], after.get(i)) for i, (start, run) in enumerate(members)]


def _started(construction: Construction, task: Padded, start: str, run: Run) -> Network:
    """Return the construction for standardised labels with noise of size `start`, or its blocks as initialised by torch."""
    network = copy.deepcopy(construction.network).float()
    network.requires_grad_()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed)
        if start == SCRATCH:
            for module in network.modules():
                if isinstance(module, nn.Linear):
                    module.reset_parameters()
            network.code.weight.normal_(std=0.02)
            return network
        standardise(network, task.inner)
        disturb(network, float(start))
    return network


def _trained(
    runs: Sequence[Run], task: Padded, ensemble: Ensemble, device: str, on_step: Callable[[int], None]
) -> tuple[list[float], dict[int, float]]:
    """Train the networks; return the NMSE of each before training, and after training of those that did not diverge."""
    tasks: list[Task] = [task] * len(runs)
    with surroundings(runs[0], device, len(runs)):
        batches = TaskBatches(runs, tasks, device)
        found = evaluate_together(runs, tasks, ensemble, batches, device, "test", range(len(runs)))
        before = [next(m.value for m in found[i] if m.metric == task.primary_metric) for i in range(len(runs))]
        after = {}
        for event in train_together(runs, tasks, ensemble, device):
            if isinstance(event, Reached):
                on_step(event.step)
            elif isinstance(event, Scored) and event.score.primary and event.score.split == "test":
                after[event.member] = event.score.value
    return before, after


def text(found: Sequence[Trained], formula: str) -> str:
    """Return a table with one line per start: the errors, and how many runs found the polynomial."""
    lines = [["noise", "before", "after: median", "best", "worst", f"found (at most {RECOVERED:g})"]]
    for start, runs in _by_start(found).items():
        ended = sorted(math.inf if run.after is None else run.after for run in runs)
        before = sorted(run.before for run in runs)
        share = share_interval(sum(value <= RECOVERED for value in ended), len(ended))
        wilson = f"{sum(value <= RECOVERED for value in ended)}/{len(ended)} ({number(share.low)} to {number(share.high)})"
        middle = len(runs) // 2
        lines.append([start, number(before[middle]), *map(number, (ended[middle], ended[0], ended[-1])), wilson])
    return f"{formula}, as four Mamba blocks; NMSE on the test split\n{aligned(lines)}\n{reading(found)}"


def reading(found: Sequence[Trained]) -> str:
    """Return the conclusion: the polynomial is representable, and whether training from scratch found it."""
    scratch = [run for run in found if run.start == SCRATCH]
    if any(run.after is not None and run.after <= RECOVERED for run in scratch):
        return f"representable, and found from scratch by the best of {len(scratch)}"
    return f"representable, but not found from scratch by the best of {len(scratch)} (no proof that training cannot find it)"


def write(found: Sequence[Trained], formula: str, folder: Path) -> list[Path]:
    """Write realise.parquet and realise.svg into the folder."""
    paths = [folder / "realise.parquet", folder / "realise.svg"]
    known = {"formula": formula, **provenance.versions(), "git_commit": provenance.git_commit()}
    with files.replacing(paths[0]) as aside, aside.open("wb") as file:
        pq.write_table(pa.Table.from_pylist([run._asdict() | known for run in found]), file, compression="zstd")
    with files.replacing(paths[1]) as aside:
        drawing.save(_figure(found, formula), aside)
    return paths


@drawing.styled(math=True)  # for the powers of ten
def _figure(found: Sequence[Trained], formula: str) -> drawing.Figure:
    """Plot the error of every run before and after training against the initial noise."""
    figure = drawing.make_figure(5.5, 3.4)
    axes = figure.subplots()
    starts = list(_by_start(found))
    for values, marker, colour, name in (("before", "_", "0.6", "before"), ("after", "o", "tab:blue", "after")):
        drawn = [(starts.index(run.start), getattr(run, values)) for run in found if getattr(run, values) is not None]
        x, y = zip(*((place, max(value, 1e-14)) for place, value in drawn), strict=True)
        axes.plot(x, y, marker, color=colour, alpha=0.7, label=f"{name} training")
    axes.axhline(RECOVERED, color="0.8", linewidth=0.8, zorder=0)
    axes.set_yscale("log")
    axes.set_xticks(range(len(starts)), starts)
    axes.set_xlabel("noise on the construction's weights")
    axes.set_ylabel("nmse (test)")
    axes.set_title(f"{formula}, four Mamba blocks", fontsize=9)
    axes.legend(frameon=False, fontsize=8)
    return figure


def _by_start(found: Sequence[Trained]) -> dict[str, list[Trained]]:
    groups: dict[str, list[Trained]] = {}
    for run in found:
        groups.setdefault(run.start, []).append(run)
    return groups

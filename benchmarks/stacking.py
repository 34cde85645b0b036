"""Speedup of stacked training: python benchmarks/stacking.py [--device cuda]

The script times training steps only (data, loss, gradient, clipping, AdamW), of stacks and of single runs; on a GPU as a
CUDA graph, and for single runs also in eager mode. For each model and size it prints milliseconds per step, the speedup of
the stack in runs per second, and an analysis of the time of a stack:

kernels, busy: number of kernels per step, and their time in ms (the rest are gaps between kernels);
kept, copy: MB that autograd saves for the backward pass, and the ms to copy as much (it is written once and read once).
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from expbench.console.formatting import aligned, number
from expbench.results import provenance
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.batches import TaskBatches
from expbench.training.ensemble import Ensemble
from expbench.training.job import Job
from expbench.training.loop import build, surroundings
from expbench.training.step import Steps

ENOUGH = 5  # warm-up steps: some are eager, then one is captured
GRAPHS_BEFORE = 4  # graphs captured before timing, since the first ones in a process replay an eighth faster than later ones
TIMED = {"cpu": 5, "cuda": 25}  # steps per timing; on a GPU as many as between points of the curve


@contextmanager
def training(jobs: Sequence[Job], device: str, captured: bool = True) -> Iterator[Steps]:
    runs, tasks = [job.run for job in jobs], [job.task for job in jobs]
    with surroundings(runs[0], device, len(jobs)):
        ensemble = Ensemble([build(job.run, job.task, job.model, device) for job in jobs])
        steps = Steps(runs, tasks, ensemble, TaskBatches(runs, tasks, device), device, captured=captured)
        for _ in range(ENOUGH):
            steps.take()
        if device == "cuda" and captured and not steps.captured:
            raise SystemExit(f"{runs[0].model}: {steps.no_cuda_graph_reason}")
        yield steps


def milliseconds(steps: Steps, device: str, seconds: float) -> float:
    """Return milliseconds per step, the median of several timings."""
    times: list[float] = []
    ends = time.perf_counter() + seconds
    while len(times) < 4 or time.perf_counter() < ends:
        began = time.perf_counter()
        for _ in range(TIMED[device]):
            steps.take()
        if device == "cuda":
            torch.cuda.synchronize()
        times.append((time.perf_counter() - began) / TIMED[device])
    return 1e3 * sorted(times[1:])[len(times[1:]) // 2]


def kernels(steps: Steps, largest: int) -> tuple[float, float]:
    """Return the number of kernels per step and their time in ms; print the `largest` ones."""
    with profile(activities=[ProfilerActivity.CUDA]) as found:
        for _ in range(3):
            steps.take()
        torch.cuda.synchronize()
    events = sorted(found.key_averages(), key=lambda event: -event.self_device_time_total)
    for event in events[:largest]:
        print(f"  {event.self_device_time_total / 3e3:8.3f} ms {event.count // 3:4d} x {event.key[:150]}")
    return sum(event.count for event in events) / 3, sum(event.self_device_time_total for event in events) / 3e3


def kept_bytes(jobs: Sequence[Job], device: str) -> int:
    """Return the bytes that autograd saves for the backward pass of a step."""
    runs, tasks = [job.run for job in jobs], [job.task for job in jobs]
    ensemble = Ensemble([build(job.run, job.task, job.model, device) for job in jobs])
    storages: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storages[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        losses = ensemble.losses(tasks[0], TaskBatches(runs, tasks, device).train(1))
        assert losses.requires_grad  # keep saved tensors alive until here
    return sum(storages.values())


def copy_ms(size: int) -> float:
    a = torch.empty(max(1, size), dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    began, ended = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    b.copy_(a)
    began.record()
    for _ in range(10):
        b.copy_(a)
    ended.record()
    torch.cuda.synchronize()
    return float(began.elapsed_time(ended)) / 10


def measured(jobs: Sequence[Job], device: str, seconds: float) -> dict[str, Any]:
    """Measure milliseconds per step of a stack, and its peak memory."""
    row: dict[str, Any] = {"runs": len(jobs)}
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    with training(jobs, device) as steps:
        row["stack_ms"] = milliseconds(steps, device, seconds)
    if device == "cuda":
        row["peak_mb"] = torch.cuda.max_memory_allocated() / 1e6
    return row


def explained(jobs: Sequence[Job], device: str, largest: int) -> dict[str, Any]:
    """Analyse the time of a step on a GPU."""
    with training(jobs, device) as steps:
        count, busy = kernels(steps, largest)
    kept = kept_bytes(jobs, device)
    return {"kernels": count, "busy_ms": busy, "kept_mb": kept / 1e6, "copy_ms": copy_ms(kept)}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", default="s6,s6-bbar-b,s6-poly,s6-poly-disc,ssm,linattn,polyattn,attn")
    parser.add_argument("--task", default="count-in-row")
    parser.add_argument("-t", action="append", default=[], help="task setting, name=value")
    parser.add_argument("--instances", default="0")
    parser.add_argument("--sizes", default="32x20x2", help="comma-separated list of BxLxD")
    parser.add_argument("--stacks", default="16")
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--kernels", type=int, default=0, help="print this many of the longest kernels of each stack")
    parser.add_argument("--out", type=Path, help="Parquet file for the table")
    options = parser.parse_args()
    device, rows, stacks = options.device, [], []
    for size in options.sizes.split(","):
        B, L, D = size.split("x")
        for model in options.models.split(","):
            single: dict[str, float] = {}
            for count in map(int, options.stacks.split(",")):
                request = SweepSpec(
                    task=options.task,
                    models=model,
                    L=L,
                    D=D,
                    seeds=f"0:{count}",
                    batch_size=B,
                    steps="1000000",
                    task_settings=tuple(options.t),
                    instances=options.instances,
                )
                jobs = expand(request, device)[:count]
                if device == "cuda" and not stacks:
                    for _ in range(GRAPHS_BEFORE):
                        with training(jobs, device):
                            pass
                if not single:
                    for captured in (False, True) if device == "cuda" else (False,):
                        with training(jobs[:1], device, captured) as steps:
                            name = "single_graph_ms" if captured else "single_ms"
                            single[name] = milliseconds(steps, device, options.seconds)
                row = {"model": model, "size": size, **single, **measured(jobs, device, options.seconds)}
                for name in single:
                    row[f"times_{name.removesuffix('_ms')}"] = single[name] * count / row["stack_ms"]
                rows.append(row)
                stacks.append(jobs)
    if device == "cuda":  # last, since a profiler slows down later steps
        rows = [row | explained(jobs, device, options.kernels) for row, jobs in zip(rows, stacks, strict=True)]
    columns = list(rows[0])
    print(aligned([columns, *([v if isinstance(v, str) else number(v) for v in row.values()] for row in rows)]))
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        known = {"task": options.task, "settings": " ".join(options.t), "device_name": provenance.device_name(device)}
        known |= {**provenance.versions(), "git_commit": provenance.git_commit()}
        pd.DataFrame(rows).assign(**known).to_parquet(options.out)


if __name__ == "__main__":
    main()

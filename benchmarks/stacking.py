"""How much faster runs are when they are trained together: python benchmarks/stacking.py [--device cuda]

Times training steps alone (data, loss, gradient, clipping, AdamW), of a stack and of one run by itself, and prints for each
model and size milliseconds a step, and how many times as many runs a second the stack trains.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence

import torch

from expbench.ensemble import Ensemble
from expbench.grid import Job, Request, expand
from expbench.steps import Steps
from expbench.stream import Stream
from expbench.text import aligned
from expbench.training import build, surroundings


def milliseconds(jobs: Sequence[Job], device: str, seconds: float) -> float:
    """Of a step of these jobs together: the median of several timings."""
    runs, tasks = [job.run for job in jobs], [job.task for job in jobs]
    with surroundings(runs[0], device, len(jobs)):
        ensemble = Ensemble([build(job.run, job.task, job.model, device) for job in jobs])
        steps = Steps(runs, tasks, ensemble, Stream(runs, tasks, device), device)
        taken, times, ends = 0, [], time.perf_counter() + seconds
        while len(times) < 3 or time.perf_counter() < ends:
            began = time.perf_counter()
            for _ in range(5):
                taken += 1
                steps.take(taken)
            if device == "cuda":
                torch.cuda.synchronize()
            times.append((time.perf_counter() - began) / 5)
        return 1e3 * sorted(times[1:])[len(times[1:]) // 2]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--models", default="s6,s6-bbar-b,s6-poly,s6-poly-disc,ssm,linattn,polyattn,attn")
    parser.add_argument("--task", default="count-in-row")
    parser.add_argument("--sizes", default="32x20x2", help="BxLxD, several parted by commas")
    parser.add_argument("--stacks", default="16")
    parser.add_argument("--seconds", type=float, default=2.0)
    options = parser.parse_args()
    lines = [["model", "BxLxD", "runs", "stack ms", "single ms", "runs a second, times single"]]
    for size in options.sizes.split(","):
        B, L, D = size.split("x")
        for model in options.models.split(","):
            alone = 0.0
            for count in map(int, options.stacks.split(",")):
                request = Request(
                    task=options.task, models=model, L=L, D=D, seeds=f"0:{count}", batch_size=B, steps="1000000"
                )
                jobs = expand(request, options.device)
                alone = alone or milliseconds(jobs[:1], options.device, options.seconds)
                stack = milliseconds(jobs, options.device, options.seconds)
                lines.append([model, size, str(count), f"{stack:.2f}", f"{alone:.2f}", f"{alone * count / stack:.1f}"])
    print(aligned(lines))


if __name__ == "__main__":
    main()

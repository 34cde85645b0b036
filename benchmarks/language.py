"""Training speed of language models, and the time of a step by operation: python benchmarks/language.py [--device cuda]

The script times steps of the trainer (`expbench.language`: data, loss, gradient, clipping, AdamW) on random tokens. The
variants run one after the other in one process, in several rounds:

ours: the baseline (S6 in Mamba's block), compiled blocks, gradients captured as a CUDA graph, our scan;
launched: the same without the graph;
mamba scan: as ours, with the scan of mamba-ssm;
plain: the same block in eager mode, without a graph, with the scan of mamba-ssm;
transformer: attention and SwiGLU, otherwise as ours.

It prints milliseconds per step (median over rounds), tokens per second, MFU and peak memory, and the device time of a step
by kind of operation. A variant that cannot run here is skipped, with the reason. The defaults are the size in the paper: 12
layers of width 384 at a context of 1024, in batches of 32 and in bfloat16. To try it on a CPU, where nothing is compiled:
--layers 2 --width 32 --context 64 --batch-size 4 --vocabulary 500 --steps 3 --rounds 1 --dtype float32

On several GPUs of one host, compared with one GPU (the batch is shared among them):
python benchmarks/language.py --device cuda --out alone
torchrun --standalone --nproc-per-node 2 benchmarks/language.py --device cuda --against alone/language.parquet --out both
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch.profiler import ProfilerActivity, profile

from expbench import contracts, plugins
from expbench.console.formatting import aligned, number
from expbench.errors import BadInput
from expbench.language import Recipe, flops_per_token
from expbench.language.batches import TokenBatches
from expbench.language.model import LanguageModel
from expbench.language.workload import LanguageWorkload
from expbench.ops import backends
from expbench.results import provenance
from expbench.training.device import peak
from expbench.training.distributed import joined, processes
from expbench.training.epochs.recipe import Plan, TrainerOptions
from expbench.training.epochs.step import Steps

ENOUGH = 8  # warm-up steps, for compilation and memory allocation
PROFILED = 3
# Substrings of kernel names; the first match counts. Kernels of torch.compile are elementwise or the cross-entropy.
KINDS = {
    "scan": ("selective_scan", "forward_kernel", "backward_kernel", "widen_kernel"),
    "attention": ("flash", "fmha", "sdpa", "attention"),
    "optimizer": ("adam", "multi_tensor", "foreach", "norm_kernel"),
    "convolution": ("conv",),
    "matrix products": ("gemm", "nvjet", "cutlass", "splitk", "xmma", "aten::mm", "aten::addmm", "aten::bmm"),
    "cross-entropy": ("softmax",),
    "embedding": ("embedding", "index"),
    "copies": ("memcpy", "memset", "copy"),
}


class Variant(NamedTuple):
    name: str
    model: str
    compiled: bool
    captured: bool
    backend: str | None


VARIANTS = (
    Variant("ours", "s6", True, True, None),
    Variant("launched", "s6", True, False, None),
    Variant("mamba scan", "s6", True, True, "mamba"),
    Variant("plain", "s6", False, False, "mamba"),
    Variant("transformer", "attn", True, True, None),
)


class Random(LanguageWorkload):
    """A model on random tokens, without a corpus."""

    def __init__(self, model: LanguageModel, ids: np.ndarray, recipe: Recipe) -> None:
        self.model, self._order = model, TokenBatches(ids, recipe)


@contextmanager
def training(variant: Variant, options: argparse.Namespace) -> Iterator[tuple[Steps, LanguageModel]]:
    """Yield the steps of a variant on random tokens, after warm-up, and its model."""
    torch.manual_seed(0)
    model = LanguageModel(
        contracts.load_model(plugins.find("model", variant.model)),
        vocabulary=options.vocabulary,
        width=options.width,
        layers=options.layers,
        context=options.context,
    )
    tokens = (options.batch_size + 8) * options.context
    ids = np.random.default_rng(0).integers(options.vocabulary, size=tokens).astype(np.uint32)
    recipe = Recipe(
        lr=1e-3, steps=1 << 30, batch_size=options.batch_size, context=options.context, dtype=options.dtype, warmup=1000
    )
    how = TrainerOptions(device=options.device, micro_batch_size=options.micro_batch_size, captured=variant.captured)
    with backends.using(variant.backend):
        group = joined(options.device)
        model.to(group.device)
        if variant.compiled and options.device == "cuda":
            model.compile_blocks()
        steps = Steps(Random(model, ids, recipe), recipe, Plan(1 << 30, 1000, 1, 1 << 30), how, group)
        steps.begin()
        for _ in range(ENOUGH):
            steps.take()
        yield steps, model


def wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def milliseconds(steps: Steps, options: argparse.Namespace) -> float:
    """Return milliseconds per step, averaged over `--steps` steps."""
    wait(options.device)
    began = time.perf_counter()
    for _ in range(options.steps):
        steps.take()
    wait(options.device)
    return 1e3 * (time.perf_counter() - began) / options.steps


def kind_of(name: str) -> str:
    """Return the kind of a kernel (on a CPU: an operation) by its name; torch.compile names kernels by their operations."""
    lower = name.lower()
    if lower.startswith("triton_"):
        return "cross-entropy" if "softmax" in lower else "elementwise"
    return next((kind for kind, parts in KINDS.items() if any(part in lower for part in parts)), "elementwise")


def breakdown(steps: Steps, options: argparse.Namespace) -> tuple[dict[str, float], list[tuple[float, int, str]]]:
    """Return milliseconds per step by kind of operation, and the longest kernels: milliseconds, calls per step, name."""
    cuda = options.device == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if cuda else ProfilerActivity.CPU]) as found:
        for _ in range(PROFILED):
            steps.take()
        wait(options.device)
    kinds: Counter[str] = Counter()
    longest = []
    for event in found.key_averages():
        spent = (event.self_device_time_total if cuda else event.self_cpu_time_total) / 1e3 / PROFILED
        kinds[kind_of(event.key)] += spent
        longest.append((spent, event.count // PROFILED, event.key))
    return dict(kinds), sorted(longest, reverse=True)[: options.kernels]


def measured(variant: Variant, options: argparse.Namespace) -> dict[str, Any]:
    """Measure one round of a variant."""
    if options.device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    with training(variant, options) as (steps, model):
        row = {"ms": milliseconds(steps, options), "parameters": model.parameter_count(), "captured": steps.passes.captured}
        row["flops_per_token"] = flops_per_token(model, options.context)
    if options.device == "cuda":
        row["peak_mb"] = max(torch.cuda.max_memory_allocated(), steps.passes.memory) / 1e6
    return row


def reason_against(variant: Variant) -> str | None:
    if variant.backend is not None:
        try:
            backends.require(variant.backend)
        except BadInput as error:
            return str(error)
    return None


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--variants", default=",".join(variant.name for variant in VARIANTS))
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--width", type=int, default=384)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--micro-batch-size", type=int, help="sequences per micro-batch")
    parser.add_argument("--vocabulary", type=int, default=50257)
    parser.add_argument("--dtype", default="bfloat16")
    parser.add_argument("--steps", type=int, default=20, help="timed steps per round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--kernels", type=int, default=0, help="print this many of the longest kernels of each variant")
    parser.add_argument("--out", type=Path, help="output folder for language.parquet and language.md")
    parser.add_argument("--against", type=Path, help="language.parquet of one process, to compute the speedup")
    options = parser.parse_args()
    rank, size = processes()
    chosen = [variant for variant in VARIANTS if variant.name in options.variants.split(",")]
    reasons = {variant.name: reason_against(variant) for variant in chosen}
    for name, reason in reasons.items():
        if reason:
            print(f"{name}: skipped, {reason}")
    chosen = [variant for variant in chosen if reasons[variant.name] is None]
    rounds = [{variant.name: measured(variant, options) for variant in chosen} for _ in range(options.rounds)]
    most = peak(provenance.device_name("cuda")) if options.device == "cuda" else None
    rows = []
    for variant in chosen:
        each = [found[variant.name]["ms"] for found in rounds]
        ms = statistics.median(each)
        speed = options.batch_size * options.context / ms * 1e3
        row = {"variant": variant.name, **rounds[-1][variant.name], "ms": ms, "ms_least": min(each), "ms_most": max(each)}
        row |= {"processes": size, "tokens_per_second": speed}
        row["mfu"] = row["flops_per_token"] * speed / (most * size) if most else float("nan")
        if options.against:
            alone = pd.read_parquet(options.against).set_index("variant")["tokens_per_second"]
            row["times_one_process"] = speed / alone.get(variant.name, float("nan"))
        rows.append(row)
    for row in rows:  # speedup over the other variants
        row |= {f"times_{other['variant'].replace(' ', '_')}": other["ms"] / row["ms"] for other in rows}
    for variant, row in zip(chosen, rows, strict=True):  # last, since a profiler slows down later steps
        with training(variant, options) as (steps, _):
            kinds, longest = breakdown(steps, options)
        row |= {f"ms_{kind.replace(' ', '_').replace('-', '_')}": spent for kind, spent in sorted(kinds.items())}
        for spent, count, name in longest if rank == 0 else ():
            print(f"  {variant.name}: {spent:8.3f} ms {count:4d} x {name[:150]}")
    if rank > 0:
        return
    columns = list(dict.fromkeys(column for row in rows for column in row))
    configurations = [[v if isinstance(v := row.get(c, float("nan")), str) else number(v) for row in rows] for c in columns]
    table = aligned([[column, *line] for column, line in zip(columns, configurations, strict=True)])
    print(table)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        size = f"{options.layers} x {options.width}, L={options.context}, batch {options.batch_size}, {options.dtype}"
        known = {"size": size, "device_name": provenance.device_name(options.device), **provenance.versions()}
        known |= {"git_commit": provenance.git_commit()}
        pd.DataFrame(rows).assign(**known).to_parquet(options.out / "language.parquet")
        (options.out / "language.md").write_text(f"{size}, {known['device_name']}\n\n```\n{table}\n```\n")


if __name__ == "__main__":
    main()

"""False alarm rate, power and run time of `expbench compare`.

python benchmarks/comparing.py alarms | committed | power | time
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from expbench.console.formatting import aligned
from expbench.regression.comparison import compare, corrected
from expbench.regression.matching import load, match
from expbench.results import schema

CONFIGURATIONS = 20  # configurations per comparison
_WORSE, _OTHER = ["regressed"], ["regressed", "improved"]
RESULTS = Path(__file__).parent.parent / "results"
Values = NDArray[np.float64]


def frame(values: Values, *, higher: bool = False, first_seed: int = 0, rows_a_run: int = 1) -> pd.DataFrame:
    """Return a results table of synthetic runs.

    values: one row per configuration, one column per seed. rows_a_run: rows per run; all but the first are its curve.
    """
    configurations, seeds = values.shape
    configuration = np.repeat(np.arange(configurations), seeds)
    seed = np.tile(np.arange(first_seed, first_seed + seeds), configurations)
    made: dict[str, object] = dict.fromkeys(schema.COLUMNS)
    made |= {
        "key": [f"{c:08x}{s:08x}" for c, s in zip(configuration, seed, strict=True)],
        "kind": "run", "status": "ok", "task": "polyreg", "task_version": "1", "model_version": "1", "model": "s6",
        "task_settings": '{"L":16,"degree":8,"family":"suffix","instance":0}', "L": 16, "degree": 8, "instance": 0,
        "model_settings": [f'{{"N":{c}}}' for c in configuration], "D": 4, "depth": 1, "norm": "layer", "positions": "none",
        "residual": True, "steps": 2000, "warmup": 200, "batch_size": 64, "lr": 0.01, "weight_decay": 0.0, "clip": 1.0,
        "seed": seed, "dtype": "float32", "init": "default", "init_noise": 0.0, "split": "test", "slice": "", "step": 2000,
        "metric": "balanced_accuracy" if higher else "nmse", "value": values.ravel(), "primary": True,
        "higher_is_better": higher, "success_threshold": 0.95 if higher else 0.01, "well_posed": True, "run_seconds": 1.0,
        "created": pd.Timestamp("2026-01-01", tz="UTC"), "device": "cpu", "device_name": "a CPU", "stack_size": seeds,
        "expbench": "0.1.0", "python": "3.11", "torch": "2.13", "git_commit": "0123abcd", "task_origin": "built-in",
        "model_origin": "built-in",
    }  # fmt: skip
    runs = pd.DataFrame(made, index=range(configurations * seeds))
    curve = [runs.assign(split="validation", step=step) for step in range(2000, 2000 - rows_a_run + 1, -1)]
    return pd.concat([runs, *curve], ignore_index=True)


def kinds(source: np.random.Generator, shape: tuple[int, int]) -> dict[str, tuple[Values, bool]]:
    """Draw results from several distributions, each with whether higher is better."""
    spread = np.exp(source.uniform(np.log(0.003), np.log(1.0), size=(shape[0], 1)))
    found: dict[str, tuple[Values, bool]] = {
        "normal on the log scale": (0.1 * np.exp(spread * source.normal(size=shape)), False),
        "heavy tails (t of 3)": (0.1 * np.exp(spread * source.standard_t(3, size=shape)), False),
        "normal, not on the log scale": (0.1 * np.abs(1 + 0.5 * spread * source.normal(size=shape)) + 1e-6, False),
        "accuracy, near 1": (1 - source.beta(1, 30, size=shape), True),
    }
    for share in (0.5, 0.8, 0.95):
        solves = source.random(shape) < share
        errors = np.where(solves, 1e-3, 0.9) * np.exp(0.1 * source.normal(size=shape))
        found[f"{share:.0%} of runs solve, in every cell"] = errors, False
    few = source.random(shape) < np.where(np.arange(shape[0]) % 5 == 0, 0.5, 2.0)[:, None]
    found["half of runs solve, in a fifth of cells"] = (
        np.where(few, 1e-3, 0.9) * np.exp(0.1 * source.normal(size=shape)),
        False,
    )
    return found


def called(configurations: pd.DataFrame, groups: NDArray[np.int64]) -> pd.DataFrame:
    """Return, for each group of configurations compared separately, whether any regressed, and any regressed or improved."""
    rows = []
    configurations = configurations.assign(group=groups[configurations.index])
    for _, group in configurations.groupby("group"):
        known = group[group["p"].notna()]
        ratio = known["difference"].where(known["ratio"], 1.0)
        change = np.log(ratio).where(known["ratio"], known["difference"]).abs()
        hit = (corrected(known) <= 0.05) & (change >= known["margin"])
        worse = np.where(known["ratio"], known["difference"] > 1, known["difference"] < 0)
        rows.append((bool((hit & worse).any()), bool(hit.any()), float((hit & worse).sum() / len(group))))
    return pd.DataFrame(rows, columns=["regressed", "any", "share"])


def alarms(repeats: int = 1000) -> None:
    """Measure false alarms on synthetic results."""
    sizes = [(2, 2), (3, 3), (4, 4), (5, 5), (8, 8), (16, 16), (20, 3)]
    lines = [["runs of BASE and NEW", *(f"{a} {b}" for a, b in sizes)]]
    found: dict[str, list[str]] = {}
    for base, new in sizes:
        source = np.random.default_rng(base * 100 + new)
        for name, (values, higher) in kinds(source, (CONFIGURATIONS * repeats, base + new)).items():
            # settings are numbered in order, so consecutive 20 form a group
            both = frame(values[:, :base], higher=higher), frame(values[:, base:], higher=higher, first_seed=100)
            configurations = compare(*both).configurations
            number = configurations["model_settings_matched"].str.extract(r"(\d+)")[0].astype(int)
            got = called(configurations, pd.Series(number // CONFIGURATIONS).sort_index().to_numpy())
            found.setdefault(name, []).append(f"{got['regressed'].mean():.3f} ({got['any'].mean():.3f})")
    print(
        f"Share of {repeats} comparisons of {CONFIGURATIONS} unchanged configurations "
        "that report one as regressed (or improved):"
    )
    print(aligned([*lines, *([name, *shares] for name, shares in found.items())]))


def committed(repeats: int = 200) -> None:
    """Measure false alarms on the runs of committed tables, split at random into two sides."""
    lines = [["table", "configurations", "runs a side", "comparisons", "call one regressed", "or improved"]]
    for path in sorted(RESULTS.glob("*/table.parquet")):
        every = load(str(path))
        final = every[(every["kind"] == "run") & (every["split"] == "test") & every["primary"].fillna(False).astype(bool)]
        final = final.merge(match(final, final).runs.query("side == 0")[["key", "configuration"]], on="key")
        for runs in (2, 3, 5, 10):
            source = np.random.default_rng(0)
            counts = []
            for _ in range(repeats):
                rank = pd.Series(source.random(len(final))).groupby([final["configuration"], final["instance"]]).rank()
                base, new = final[rank <= runs], final[(rank > runs) & (rank <= 2 * runs)]
                if len(new) < len(base):  # too few runs of an instance
                    break
                counts.append(compare(base.drop(columns="configuration"), new.drop(columns="configuration")).counts)
            if counts:
                worse, other = (np.mean([bool({*names} & {*c}) for c in counts]) for names in (_WORSE, _OTHER))
                configurations = str(final["configuration"].nunique())
                lines.append([path.parent.name, configurations, str(runs), str(len(counts)), f"{worse:.3f}", f"{other:.3f}"])
    print(aligned(lines))


def power(repeats: int = 300) -> None:
    """Measure the power: the share of comparisons that report a change in one configuration of 20."""
    sizes = [(2, 2), (3, 3), (5, 5), (8, 8), (16, 16), (20, 3)]
    lines = [["spread of log error", "error times", "pairs alike", *(f"{a} {b}" for a, b in sizes)]]
    for spread, factor, alike in [
        (0.1, 1.2, 0.0), (0.1, 1.5, 0.0), (0.1, 2, 0.0), (0.3, 1.5, 0.0), (0.3, 2, 0.0), (0.3, 5, 0.0), (0.3, 50, 0.0),
        (1.0, 1.2, 0.99), (1.0, 2, 0.99), (1.0, 100, 0.0),
    ]:  # fmt: skip
        shares = []
        for base, new in sizes:
            source = np.random.default_rng(0)
            shape = (CONFIGURATIONS * repeats, base)
            common, own = source.normal(size=shape), source.normal(size=(2, *shape))
            logs = spread * (np.sqrt(alike) * common + np.sqrt(1 - alike) * own)
            logs[1, ::CONFIGURATIONS] += np.log(factor)
            configurations = compare(frame(0.01 * np.exp(logs[0])), frame(0.01 * np.exp(logs[1][:, :new]))).configurations
            number = configurations["model_settings_matched"].str.extract(r"(\d+)")[0].astype(int)
            configurations = configurations.assign(number=number, repeat=number // CONFIGURATIONS)
            hits = 0
            for _, group in configurations.groupby("repeat"):
                planted = group["number"] % CONFIGURATIONS == 0
                changed = np.log(group["difference"]) >= group["margin"]
                hits += bool(((corrected(group) <= 0.05) & planted & changed).any())
            shares.append(f"{hits / repeats:.2f}")
        lines.append([f"{spread:g}", f"{factor:g}", f"{alike:g}", *shares])
    print(
        f"Share of {repeats} comparisons of {CONFIGURATIONS} configurations "
        "that report the one with a larger error as regressed:"
    )
    print(aligned(lines))


def timed() -> None:
    """Measure time and memory to compare two tables of 100,000 rows on one core, for runs with many and few rows."""
    lines = [["rows a run", "runs", "configurations", "changed", "files", "seconds", "of a core", "MiB"]]
    for rows, seeds, changed, split in [
        (100, 5, False, 1),
        (10, 3, True, 1),
        (1, 3, True, 1),
        (1, 20, True, 1),
        (100, 5, True, 1000),
    ]:
        configurations = 100_000 // rows // seeds
        source = np.random.default_rng(0)
        with tempfile.TemporaryDirectory() as folder:
            for side in ("base", "new"):
                values = 0.01 * np.exp(0.3 * source.normal(size=(configurations, seeds)) + (changed and side == "new") * 2)
                rows_of = frame(values, rows_a_run=rows).sort_values("key", kind="stable")
                made = pa.Table.from_pandas(rows_of, schema=schema.SCHEMA, preserve_index=False)
                (Path(folder) / side).mkdir()
                size = -(-len(made) // split)
                for part in range(split):
                    pq.write_table(made.slice(part * size, size), Path(folder) / side / f"{part}.parquet")
            command = [sys.executable, "-m", "expbench", "compare", f"{folder}/base", f"{folder}/new", "--fail-on", "none"]
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            began = time.perf_counter()
            subprocess.run([*command, "--markdown", f"{folder}/out.md"], check=True, stdout=subprocess.DEVNULL)
            seconds = time.perf_counter() - began
            after = resource.getrusage(resource.RUSAGE_CHILDREN)
            busy = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
            peak = after.ru_maxrss // 1024  # maximum so far
        lines.append(
            [
                str(rows),
                str(configurations * seeds),
                str(configurations),
                str(changed),
                str(split),
                f"{seconds:.1f}",
                f"{busy:.1f}",
                f"<= {peak}",
            ]
        )
    print(aligned(lines))


if __name__ == "__main__":
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {0})  # one core
    {"alarms": alarms, "committed": committed, "power": power, "time": timed}[sys.argv[1]]()

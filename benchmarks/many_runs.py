"""Times of commands on a folder of many runs, one file each, that were not trained: their rows are made up.

    python benchmarks/many_runs.py FOLDER [RUNS]

makes the folder, unless it exists, and prints the seconds (wall clock, and of the processor) and the peak memory of
`expbench run` again, `trace` and `report`. The command line of the runs is printed first.
"""

from __future__ import annotations

import math
import os
import random
import resource
import shlex
import subprocess
import sys
import time
from pathlib import Path

MODELS, LENGTHS, STEPS = "s6,ssm,attn,linattn", "4,8,16,32,64", 200
LIMITS = {"run": (5.0, math.inf), "trace": (2.0, math.inf), "report": (30.0, 1.5)}  # seconds, GiB


def arguments(count: int) -> list[str]:
    """Return the options of `expbench run` for this many runs."""
    seeds = max(1, count // (len(MODELS.split(",")) * len(LENGTHS.split(","))))
    return ["--task", "polyreg", "--models", MODELS, "--L", LENGTHS, "--steps", str(STEPS), "--seeds", f"0:{seeds}"]


def make(folder: Path, count: int) -> None:
    """Write a file for each run, and for each set of controls, with the scores that such a run has."""
    from expbench.results import store
    from expbench.run import Score
    from expbench.sweep import rows
    from expbench.sweep.expand import expand
    from expbench.sweep.spec import SweepSpec

    options = dict(zip(*[iter(arguments(count))] * 2, strict=True))
    names = {"--task": "task", "--models": "models", "--L": "L", "--steps": "steps", "--seeds": "seeds"}
    jobs = expand(SweepSpec(**{names[option]: value for option, value in options.items()}), "cpu")
    folder.mkdir(parents=True)
    chance = random.Random(0)
    began = time.monotonic()
    for i, job in enumerate(jobs):
        good = chance.uniform(0.001, 0.1)
        scores = list(scores_of(good, chance))
        known = {"parameters": 100, "state_size": 16, "flops_per_token": 170.0, "well_posed": True, "stack_size": 64}
        ending = {"status": "ok", "run_seconds": 3.0}
        store.write(folder, job.run.key, rows.of_run(job, "cpu", known, scores, ending))
        controls = rows.controls_key(job)
        if not (folder / f"{controls}.parquet").exists():
            value = Score("nmse", 1.0, primary=True)
            store.write(folder, controls, rows.of_controls(job, [("zero", "baseline", value)], {"status": "ok"}))
        if i % 2000 == 1999:
            print(f"{i + 1} of {len(jobs)} files, {time.monotonic() - began:.0f} s", file=sys.stderr)


def scores_of(value: float, chance: random.Random) -> list[object]:
    """Return the scores of a run that reaches `value`."""
    from expbench.run import Score

    found: list[object] = []
    for step in range(0, STEPS + 1, STEPS // 10):
        now = value + math.exp(-step / 50) * chance.random()
        at = {"step": step, "seconds": step / 100 + chance.random()}
        found += [
            Score(name, now * chance.random(), split="train", **at) for name in ("loss", "learning_rate", "gradient_norm")
        ]
        found += [Score(f"{name}_checksum", chance.random(), split="train", **at) for name in ("inputs", "targets")]
        found.append(Score("nmse", now, split="validation", primary=True, **at))
        found += [Score(name, chance.random(), "layer=0", "validation", **at) for name in ("abar_max", "abar_p99", "k_hat")]
    for split in ("validation", "test"):
        last = {"step": STEPS, "seconds": 2.0}
        found += [Score(name, chance.random(), split=split, **last) for name in ("mse", "r2", "solved", "inputs_checksum")]
    found.append(Score("nmse", value, split="test", primary=True, step=STEPS, seconds=2.0))
    return found


def timed(name: str, words: list[str]) -> bool:
    """Run a command, print what it took, and return whether that is within the limits."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    pid = os.posix_spawn(sys.executable, [sys.executable, "-m", "expbench", *words], os.environ)
    _, status, used = os.wait4(pid, 0)
    wall, memory = time.monotonic() - began, used.ru_maxrss / 2**20
    seconds, gib = LIMITS[name]
    print(
        f"{name}: exit code {os.waitstatus_to_exitcode(status)}, {wall:.1f} s (at most {seconds:g}), processor "
        f"{used.ru_utime:.1f} s + {used.ru_stime:.1f} s, peak memory {memory:.2f} GiB (at most {gib:g})",
        flush=True,
    )
    del before
    return wall <= seconds and memory <= gib


def main() -> None:
    """Make the folder if necessary, and time the commands on it."""
    folder, count = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    os.environ["OMP_NUM_THREADS"] = "1"
    run = ["run", *arguments(count), "--device", "cpu", "--results", str(folder)]
    print(shlex.join(["expbench", *run]))
    if not folder.exists():
        subprocess.run(
            [
                sys.executable,
                "-c",
                f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); "
                f"import many_runs, pathlib; many_runs.make(pathlib.Path({str(folder)!r}), {count})",
            ],
            check=True,
        )
    key = sorted(path.stem for path in folder.glob("*.parquet"))[count // 2]
    within = [
        timed("run", run),
        timed("trace", ["trace", key, "--results", str(folder)]),
        timed("report", ["report", "--results", str(folder)]),
    ]
    sys.exit(not all(within))


if __name__ == "__main__":
    main()

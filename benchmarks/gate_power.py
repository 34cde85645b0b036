"""Power and false alarms of the regression gate: plant defects one at a time, and rerun unchanged code.

python benchmarks/gate_power.py [--only NAME,honest] [--repeats 20] [--baseline cpu]

Each defect is planted in its own process, which runs only the baseline configurations that it affects; on the machine that
measured the baseline, all others have unchanged numbers. The runs are compared with the committed baseline as in `expbench
baseline check`, by metrics and by invariants. The metrics are compared twice: alone, as on that machine; and beside all
other synthetic configurations with other seeds (of the first honest repeat), as on another machine, where all numbers
differ and p is corrected for all of them.

An honest repeat runs unchanged code on every synthetic configuration with its own seeds. The same command resumes. Results
are written to results/gate/power.csv and results/gate/power.md, and the runs to results/regress/gate.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import hashlib
import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.console.formatting import markdown_table, number
from expbench.models.attn import Attn
from expbench.models.s6 import S6
from expbench.nn import network
from expbench.ops import Transition, selective_scan
from expbench.ops.selective import backend_torch, discretisation
from expbench.plugins import discover
from expbench.regression import baseline as regression_baseline
from expbench.regression import invariants
from expbench.regression.comparison import Comparison, compare
from expbench.results import folders, provenance, store
from expbench.sweep.expand import expand
from expbench.task import Batch
from expbench.training import schedule, step
from expbench.training.batches import TaskBatches
from expbench.training.job import Job

RUNS = Path("results/regress/gate")
TARGET = Path("results/gate")
FAILS = ["regressed", "missing", "failed"]
TEXT = "wikitext"
FIRST_SEED = 1000  # of honest repeats, disjoint from those of a baseline
COLUMNS = [
    "name", "planted", "runs", "configurations",
    "regressed", "improved", "other_verdicts", "largest_change", "holm", "alone_fails",
    "regressed_beside_all", "cells_beside_all", "broken", "what_is_broken", "caught_by", "seconds", "baseline", "commit",
    "device",
]  # fmt: skip


def without_discretisation() -> None:
    """Use Abar = exp(A) instead of exp(Delta A); Bbar keeps Delta."""
    whole = S6.forward

    def forward(self: S6, x: Tensor) -> Tensor:
        transition, A = self.transition()
        if transition.kind != "exact":
            return whole(self, x)
        z, B, C = self.project(x)
        delta = F.softplus(self.argument(z))
        one = torch.full_like(delta, math.log(math.e - 1))  # softplus of it is 1
        u = delta * x if self.discretise_b else x
        y = selective_scan(u, one, A, B, C, transition=Transition.exact(), delta_on_b=False)
        return y if self.skip is None else y + self.skip * x

    S6.forward = forward


def state_kept() -> None:
    """Start each sequence in the final state of the previous sequence at the same batch index."""
    whole, last = backend_torch.forward, {}

    def forward(inputs: Any, form: Any, keep: bool) -> Any:
        place = (inputs.u.shape, form)
        found = whole(inputs._replace(state=last.get(place)), form, keep)
        last[place] = found.last.detach().clone()
        return found

    backend_torch.forward = forward


def mask_off_by_one() -> None:
    """Let softmax attention see the next token."""

    def mix(self: Attn, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        mask = torch.ones(q.shape[-2], q.shape[-2], dtype=torch.bool).tril(1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).flatten(2)

    Attn.mix = mix


def positions_forgotten() -> None:
    """Omit the position code."""
    network.PositionCode.forward = lambda self, x: x


def schedule_ignored() -> None:
    """Use the peak learning rate at every step."""
    schedule.Rates.at = lambda self, step: self._peak.clone()


def not_clipped() -> None:
    """Do not clip gradients."""
    step.clipped = lambda grads, largest: (grads, torch.linalg.vector_norm(grads, dim=1))


def wrong_coefficient() -> None:
    """Use v^2 for v^2 / 2 in the polynomial of degree 3 for exp and in its derivative, so that training can adapt."""
    whole = discretisation._exp_taylor

    def exp_taylor(v: Tensor, degree: int, *, out: Tensor) -> Tensor:
        whole(v, degree, out=out)
        return out.addcmul_(v, v, value=0.5) if degree == 3 else out.add_(v) if degree == 2 else out

    discretisation._exp_taylor = exp_taylor


def labels_shifted() -> None:
    """Give each sequence of a batch the label of the previous one."""
    for name in ("polyreg", "count-in-row"):
        cls = discover("task")[name].load()
        whole = cls.batch

        def batch(self: Any, rng: Any, size: int, whole: Callable[..., Batch] = whole) -> Batch:
            found = whole(self, rng, size)
            return Batch(found.inputs, found.targets.roll(1, 0))

        cls.batch = batch


def stale_kernel() -> None:
    """Return from the scan the result of the previous call with the same shape."""
    whole, held = backend_torch.forward, {}

    def forward(inputs: Any, form: Any, keep: bool) -> Any:
        place = (inputs.u.shape, inputs.state is None, form, keep)
        found = whole(inputs, form, keep)
        before, held[place] = held.get(place, found), found
        return before

    backend_torch.forward = forward


def stale_data() -> None:
    """Take each step on the batch of the previous step."""
    mapped, own = TaskBatches.train_at, TaskBatches._own
    TaskBatches.train_at = lambda self, step: mapped(
        self, (step - 1).clamp(min=1) if isinstance(step, Tensor) else max(1, step - 1)
    )
    TaskBatches._own = lambda self, i, step: own(self, i, max(1, step - 1))


class Defect(NamedTuple):
    """A defect. models: models whose baseline configurations to run. texts: whether to include language modelling."""

    plant: Callable[[], None]
    models: tuple[str, ...]
    texts: bool = False


DEFECTS = {
    "discretisation dropped": Defect(without_discretisation, ("s6", "s6-bbar-b"), texts=True),
    "state not reset": Defect(state_kept, ("s6", "s6-poly"), texts=True),
    "causal mask off by one": Defect(mask_off_by_one, ("attn",), texts=True),
    "positions forgotten": Defect(positions_forgotten, ("linattn", "attn")),
    "schedule ignored": Defect(schedule_ignored, ("s6", "linattn")),
    "gradient not clipped": Defect(not_clipped, ("s6", "s6-poly")),
    "wrong Taylor coefficient": Defect(wrong_coefficient, ("s6-poly-disc", "s6-poly")),
    "labels shifted by one": Defect(labels_shifted, ("s6", "attn")),
    "stale kernel cache": Defect(stale_kernel, ("s6", "s6-poly"), texts=True),
    "stale batch": Defect(stale_data, ("s6", "linattn")),
}


def planned(baseline: regression_baseline.Baseline, name: str) -> list[Job]:
    """Return the jobs of a defect or of an honest repeat."""
    if name in DEFECTS:
        defect = DEFECTS[name]
        every = [job for job in baseline.jobs() if job.run.model in defect.models]
        return [job for job in every if defect.texts or job.run.task != TEXT]
    repeat = int(name.removeprefix("honest "))
    jobs = []
    for request in baseline.requests:
        if request.task != TEXT:
            seeds = len({job.run.seed for job in expand(request, baseline.device)})
            first = FIRST_SEED + 100 * repeat
            jobs += expand(dataclasses.replace(request, seeds=f"{first}:{first + seeds}"), baseline.device)
    return jobs


def run_planted(baseline: regression_baseline.Baseline, name: str) -> None:
    """Plant a defect in this process, and run its configurations."""
    if name in DEFECTS:
        DEFECTS[name].plant()
    jobs, folder = planned(baseline, name), RUNS / slug(name)
    folders.open_folder(str(folder))
    regression_baseline.run(jobs, folder, baseline.device, lambda line: print(f"{name}: {line}", file=sys.stderr))


def slug(name: str) -> str:
    """Return the folder name for a defect or repeat."""
    return name.replace(" ", "-")


def rows_of(path: Path) -> pd.DataFrame:
    """Read the runs of a folder or a table."""
    frame, problems = store.read(path, regression_baseline.columns())
    if problems:
        raise SystemExit(problems[0])
    return frame[frame["kind"] == "run"]


def pair_of(frame: pd.DataFrame) -> pd.Series:
    """Return the settings that identify a configuration within the baseline, as text."""
    return frame[["task", "model", "task_settings", "positions"]].astype(str).agg(" ".join, axis=1)


def judged(baseline: regression_baseline.Baseline, name: str, seconds: float) -> dict[str, Any]:
    """Judge the runs of a defect or a repeat by the gate."""
    base, new = rows_of(baseline.table), rows_of(RUNS / slug(name))
    mine = set(pair_of(new))
    alone = compare(base[pair_of(base).isin(mine)], new)
    broken = invariants.broken(new, base)
    found: dict[str, Any] = {
        "name": name,
        "planted": (DEFECTS[name].plant.__doc__ or "").strip() if name in DEFECTS else "nothing (other seeds)",
        "runs": new["key"].nunique(),
        "configurations": len(alone.configurations),
        **{verdict: alone.counts.get(verdict, 0) for verdict in ("regressed", "improved")},
        "other_verdicts": ", ".join(f"{n} {verdict}" for verdict, n in alone.counts.items() if verdict not in COLUMNS),
        "largest_change": worst(alone),
        "holm": number(alone.configurations["holm"].min()),
        "alone_fails": bool(alone.failing(FAILS)),
        "broken": len(broken),
        "what_is_broken": "; ".join(sorted({each.metric for each in broken})),
        "regressed_beside_all": "",
        "cells_beside_all": "",
        "seconds": round(seconds),
        "baseline": checksum(baseline),
        "commit": provenance.git_commit(),
        "device": provenance.device_name(baseline.device),
    }
    others = RUNS / slug("honest 1")
    by_metric = found["alone_fails"]
    if name in DEFECTS and done(others):
        rest = rows_of(others)
        whole = pd.concat([new, rest[~pair_of(rest).isin(mine)]])
        beside = compare(base[pair_of(base).isin(set(pair_of(whole)))], whole)
        hit = beside.configurations["verdict"].isin(FAILS)
        own = beside.configurations["model"].isin(DEFECTS[name].models)
        found |= {"regressed_beside_all": int((hit & own).sum()), "cells_beside_all": len(beside.configurations)}
    ways = [way for way, caught in (("a metric", by_metric), ("an invariant", bool(broken))) if caught]
    return found | {"caught_by": " and ".join(ways) or "nothing"}


def worst(found: Comparison) -> str:
    """Describe the first configuration of a comparison."""
    configuration = found.configurations.iloc[0]
    values = f"{number(configuration['base'])} -> {number(configuration['new'])}"
    family = json.loads(configuration["task_settings_matched"]).get("family", "")
    task = " ".join([configuration["task"], family]).strip()
    return f"{configuration['verdict']}: {configuration['model']} on {task}, {configuration['metric']} {values}"


def checksum(baseline: regression_baseline.Baseline) -> str:
    """Return a checksum of the committed table of a baseline."""
    return hashlib.sha256(baseline.table.read_bytes()).hexdigest()[:12]


def done(folder: Path) -> bool:
    """Return whether all runs of a defect or repeat are done."""
    return (folder / "done").exists()


def kept() -> list[dict[str, str]]:
    """Read the results so far."""
    path = TARGET / "power.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(rows: Sequence[dict[str, Any]]) -> None:
    """Write the results as CSV and Markdown."""
    TARGET.mkdir(parents=True, exist_ok=True)
    with (TARGET / "power.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)
    (TARGET / "power.md").write_text(page(rows))


def page(rows: Sequence[dict[str, Any]]) -> str:
    """Return the results as Markdown."""
    planted = [row for row in rows if row["name"] in DEFECTS]
    honest = [row for row in rows if row["name"] not in DEFECTS]
    header = [
        "defect",
        "what was planted",
        "runs",
        "regressed",
        "beside all",
        "violated invariants",
        "largest change",
        "caught by",
    ]
    lines = [
        [
            *(row["name"], row["planted"], str(row["runs"]), f"{row['regressed']} of {row['configurations']}", _beside(row)),
            *(row["what_is_broken"] or "none", row["largest_change"], row["caught_by"]),
        ]
        for row in planted
    ]
    columns = ["runs", "configurations", "regressed", "improved", "holm", "other_verdicts", "caught_by"]
    repeats = [[row["name"], *(str(row[column]) for column in columns)] for row in honest]
    caught = sum(row["caught_by"] != "nothing" for row in planted)
    alarms = sum(row["caught_by"] != "nothing" for row in honest)
    better = sum(int(row["improved"]) > 0 for row in honest)
    configurations = " or ".join(sorted({str(row["configurations"]) for row in honest}))
    parts = [
        "# Power of the regression gate",
        f"{caught} of {len(planted)} planted defects are caught. Of {len(honest)} honest repeats with other seeds, of "
        f"{configurations} configurations each, {alarms} fail, and {better} report an improvement, which is no failure. "
        "Measured "
        "and described by `python benchmarks/gate_power.py`.",
        markdown_table(header, lines),
        "`regressed`: configurations that regressed when compared alone, with the seeds of the baseline. `beside all`: how "
        "many of them fail if all other synthetic configurations have other seeds, as on a machine with other numbers. "
        "Invariants: learning rates and clipped gradient norms, checked against the settings, and checksums of the data and "
        "of the outputs of the untrained network, compared with the run of the same key in the baseline.",
        markdown_table(["repeat", *columns[:4], "least Holm's p", "others", "caught by"], repeats),
    ]
    return "\n\n".join(parts) + "\n"


def _beside(row: Mapping[str, Any]) -> str:
    of = [str(row[column]) for column in ("regressed_beside_all", "cells_beside_all")]
    return " of ".join(of) if all(of) else "-"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="comma-separated names of defects, or honest")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--baseline", default="cpu")
    parser.add_argument("--planted", help=argparse.SUPPRESS)
    given = parser.parse_args()
    baseline = regression_baseline.load(given.baseline)
    if given.planted:
        run_planted(baseline, given.planted)
        return
    every = ["honest 1", *DEFECTS, *(f"honest {i}" for i in range(2, given.repeats + 1))]
    only = [name for name in given.only.split(",") if name]
    for name in only:
        if name not in (*DEFECTS, "honest"):
            parser.error(f"--only {name!r} is none of {', '.join([*DEFECTS, 'honest'])}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    now = checksum(baseline)
    for name in every:
        if only and not any(name.startswith(each) for each in only):
            continue
        rows = {row["name"]: row for row in kept() if row["baseline"] == now}
        if name in rows and (name not in DEFECTS or rows[name]["regressed_beside_all"] != ""):
            continue
        folder, began = RUNS / slug(name), time.perf_counter()
        if not done(folder):
            subprocess.run([sys.executable, __file__, "--baseline", given.baseline, "--planted", name], check=True)
            (folder / "done").touch()
        rows[name] = judged(baseline, name, time.perf_counter() - began)
        write([rows[each] for each in every if each in rows])
        print(f"{name}: caught by {rows[name]['caught_by']}; {rows[name]['largest_change']}", flush=True)
    rows = {row["name"]: row for row in kept() if row["baseline"] == now}
    write([rows[each] for each in every if each in rows])
    print(f"{TARGET / 'power.md'}")


if __name__ == "__main__":
    main()

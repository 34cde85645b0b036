"""Turn the runs of starts.sh into the committed results/starts, and measure which starts have a finite loss and gradient."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd

from expbench.console.formatting import aligned, markdown_table, number
from expbench.results import compact
from expbench.results.configurations import gather, with_context
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.ensemble import Ensemble
from expbench.training.family import Diverged
from expbench.training.loop import build, train_together

TARGET = Path(__file__).parent.parent / "results" / "starts"
LENGTHS = {"s6-poly": (8, 16, 32), "s6-poly-disc": (32,), "mamba-poly": (32,)}
DEPTHS, STARTS = (1, 2, 3, 4), ("literal", "scaled")
SEEDS, LEARNED = 20, 0.5  # a network below this error has learned something


def finite(model: str, start: str, L: int, depth: int) -> int:
    """Return how many of `SEEDS` networks of width 8 have a finite loss and gradient on their first batch of training."""
    settings = ("family=suffix", "inputs=signs", "test_size=64", "validation_size=64")
    request = SweepSpec(task="polyreg", models=model, L=str(L), D="8", depth=str(depth), norm="none", seeds=f"0:{SEEDS}")
    jobs = expand(replace(request, task_settings=settings, model_settings=(f"start={start}",), steps="1"), "cpu")
    ensemble = Ensemble([build(job.run, job.task, job.model, "cpu") for job in jobs])
    events = train_together([job.run for job in jobs], [job.task for job in jobs], ensemble, "cpu")
    return SEEDS - sum(isinstance(event, Diverged) for event in events)


def last_losses(frame: pd.DataFrame) -> pd.Series[float]:
    """Return the mean training loss over the last point of each run's curve, by key; the variance of the labels is 1."""
    rows = frame[(frame["kind"] == "run") & (frame["metric"] == "loss") & (frame["split"] == "train")]
    return rows[rows["step"] == rows["steps"]].set_index("key")["value"]


def shown(frame: pd.DataFrame) -> pd.Series[bool]:
    """Select the rows that choose rates, the last training losses, and the metrics of whole splits at the end."""
    whole = frame["step"].isna() | (frame["step"] == frame.groupby("key")["step"].transform("max"))
    return whole & (frame["slice"].fillna("") == "")


def write_finite(target: Path) -> None:
    """Write finite.md: of how many seeds the first loss and gradient are finite."""
    header = ["model", "L", *(f"{start}, {depth} layers" for depth in DEPTHS for start in STARTS)]
    lines = [
        [model, str(L), *(f"{finite(model, start, L, depth)}/{SEEDS}" for depth in DEPTHS for start in STARTS)]
        for model, lengths in LENGTHS.items()
        for L in lengths
    ]
    print(aligned([header, *lines]), end="\n\n")
    said = f"Networks of width 8 without normalisation whose first loss and gradient are finite, of {SEEDS} seeds"
    table = markdown_table(header, lines)
    (target / "finite.md").write_text(f"{said} (polyreg, suffix, signs, 64 sequences):\n\n{table}\n", encoding="utf-8")


def write_trained(runs: Path, target: Path) -> None:
    """Write table.parquet and trained.md: how many runs learned something at the chosen rate."""
    frame = with_context(compact.collect(runs, target, "table", shown))
    losses, lines = last_losses(frame), []
    for configuration in gather(frame):
        assert configuration.tuning is not None
        own = sorted(losses.reindex(configuration.each("key")).dropna())
        tried = f"{len(configuration.tuning.rates)} rates, {configuration.tuning.runs} runs"
        learned = f"{sum(loss < LEARNED for loss in own)}/{configuration.trials}"
        ended = ", ".join(f"{count} {how}" for how, count in configuration.unfinished.items()) or "-"
        lines.append([f"{configuration['lr']:g}", tried, learned, number(own[len(own) // 2]), number(own[-1]), ended])
    header = ["rate", "chosen from", f"training loss below {LEARNED:g}", "median", "largest", "without a result"]
    print(aligned([header, *lines]))
    said = (
        "Four layers of s6-poly after 2,000 steps from the scaled start (suffix, signs, L = 8, degree 8, width 8, no norm)."
    )
    said += " Labels\nhave variance 1, so that the loss is the normalised error:"
    (target / "trained.md").write_text(f"{said}\n\n{markdown_table(header, lines)}\n", encoding="utf-8")


if __name__ == "__main__":
    TARGET.mkdir(parents=True, exist_ok=True)
    write_finite(TARGET)
    write_trained(Path(sys.argv[1]), TARGET)

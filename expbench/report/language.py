"""Report sections on language models: perplexity against epochs, as in Figure 3 of arXiv 2502.02209.

Tables give the perplexity of each model at the epoch chosen on the validation split, at the end and at other lengths.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from expbench.console.formatting import number
from expbench.report import drawing
from expbench.report.document import Block, FigureBlock, Section, Table
from expbench.report.labels import labels
from expbench.report.language_orders import ends, orders, perplexity, published, with_ends
from expbench.results.configurations import SIZES, Configuration
from expbench.results.histories import Epoch, Trained, of_texts
from expbench.stats.intervals import Interval, mean_interval

_PREFACE = """\
The epoch of each run is chosen by validation perplexity, never by test perplexity. The table gives the test perplexity at
that epoch and at the end of training. `gap` is the test loss minus the training loss, in nats per token; the training loss
is the mean over that epoch, during which the model was still changing. A run that diverged is marked and is not part of a
mean. Intervals are Student's 95 % intervals over seeds; with one seed there is no interval. `floor` is the perplexity of a
generated text's own source; a model below it knows what it should predict."""
_MOST_EPOCHS = 24  # lines of a table
_BELOW = 0.98  # of the floor: on a finite test split a model may be a little better than the source is on average
_TICKS = (1, 1.5, 2, 3, 4, 5, 7)  # multiples of each power of ten


def sections(frame: pd.DataFrame, configurations: Sequence[Configuration], target: Path) -> list[Section]:
    """Return the sections on runs trained in epochs, one per text, and write their figures below `target`."""
    found = []
    for index, (text, trained) in enumerate(of_texts(frame, configurations).items(), start=1):
        names = _names(trained)
        path = target / "figures" / f"epochs-{index}.svg"
        figure = against_epochs(trained, names)
        reached, blocks = table(trained, names), list[Block]()
        if figure is not None:
            drawing.save(figure, path)
            blocks += [FigureBlock("perplexity against epochs", path, [reached]), _CAPTION]
        else:
            blocks.append("No run has evaluations at more than one epoch, or its curve was not kept.")
        blocks += [_PREFACE, reached, *_largest(trained, names)]
        blocks += [*_lengths(frame, trained, names), *orders(frame, trained, names), *published(trained, names)]
        found.append(Section("Perplexity over epochs", blocks, ", ".join(text), results=True))
    return found


_CAPTION = """\
Lines: means over seeds of the runs that ended well; shaded: their range. Circles: the chosen epoch of each run. Thin lines:
runs that diverged, with a cross at their last evaluation."""


def _names(trained: Sequence[Trained]) -> dict[int, str]:
    """Return a name for each configuration (by its `id`), without the settings that follow from L if L suffices."""
    configurations = [each.configuration for each in trained]
    names = labels(configurations, also=["L"], without=["steps", "warmup", "batch_size", *SIZES])
    return names if len(set(names.values())) == len(configurations) else labels(configurations, also=["L"], without=SIZES)


@drawing.styled()
def against_epochs(trained: Sequence[Trained], names: Mapping[int, str]) -> drawing.Figure | None:
    """Draw test and validation perplexity against epochs, one line per configuration; None if no run has two epochs."""
    if all(len(run.table) < 2 for each in trained for run in each.runs):
        return None
    figure = drawing.make_figure(9.0, 4.0)
    panels = figure.subplots(1, 2, sharey=True)
    named: dict[str, Any] = {}
    for axes, split in zip(panels, ("test", "validation"), strict=True):
        for colour, each in zip(drawing.COLOURS, trained, strict=False):
            ended = [run for run in each.runs if run.chosen is not None]
            if ended:
                runs = pd.concat([run.table.set_index("epoch")[split] for run in ended], axis=1).sort_index()
                drawn = axes.plot(runs.index, runs.mean(axis=1), color=colour, linewidth=1.5)
                named.setdefault(names[id(each.configuration)], drawn[0])
                axes.fill_between(runs.index, runs.min(axis=1), runs.max(axis=1), color=colour, alpha=0.15, linewidth=0)
            for epoch in each.of_ended("chosen").values():
                axes.plot([epoch.number], [getattr(epoch, split)], "o", color=colour, markersize=4, markerfacecolor="none")
            for run in each.runs:
                if run.status == "diverged" and len(run.table):
                    x, y = run.table["epoch"], run.table[split]
                    drawn = axes.plot(x, y, color=colour, linewidth=0.7, alpha=0.7)
                    named.setdefault(names[id(each.configuration)], drawn[0])
                    axes.plot(x.iloc[-1:], y.iloc[-1:], "x", color=colour, markersize=7)
        for floor in {each.configuration.floor for each in trained if each.configuration.floor is not None}:
            named.setdefault("floor", axes.axhline(floor, color="0.35", linewidth=1, linestyle="--"))
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(drawing.LogLocator(subs=_TICKS))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.minorticks_off()
        axes.set_title(split, fontsize=9)
        axes.set_xlabel("epoch")
    panels[0].set_ylabel("perplexity")
    figure.legend(
        list(named.values()), list(map(drawing.shortened, named)), loc="outside right upper", fontsize=8, frameon=False
    )
    return figure


def table(trained: Sequence[Trained], names: Mapping[int, str]) -> Table:
    """Return the table of perplexities, one line per configuration, sorted by test perplexity at the chosen epochs."""
    header = [
        "model",
        "chosen epoch (seed: epoch)",
        "validation at chosen epoch",
        "test at chosen epoch",
        "95 %",
        "gap at chosen epoch",
        "test at the end",
    ]
    header += ["95 %", "gap at the end", "largest abs. Abar at chosen epoch", "tokens per second", "parameters"]
    floors = any(each.configuration.floor is not None for each in trained)
    header += ["floor"] * floors
    best_first = sorted(trained, key=lambda each: _mean(each, "chosen", "test", nan=math.inf))
    lines = []
    for each in best_first:
        epochs = [f"{run.seed}: {run.chosen.number:.3g}" if run.chosen else f"{run.seed}: {run.ended}" for run in each.runs]
        there, at_end = (_interval(each, what, lambda epoch: epoch.test) for what in ("chosen", "last"))
        line = [names[id(each.configuration)], ", ".join(epochs), perplexity(_mean(each, "chosen", "validation"))]
        line += [perplexity(there.center), ends(there), number(_mean(each, "chosen", "gap"))]
        line += [perplexity(at_end.center), ends(at_end), number(_mean(each, "last", "gap"))]
        abar = [epoch.abar for epoch in each.of_ended("chosen").values()]
        speeds = [run.table["speed"].median() for run in each.runs if run.table["speed"].notna().any()]
        line += [number(max(abar, default=math.nan)), _rounded(speeds), str(each.configuration["parameters"] or "-")]
        lines.append(line + [_floor(each.configuration, there)] * floors)
    return Table("perplexity over epochs", header, lines, [[each.configuration] for each in best_first])


def _floor(configuration: Configuration, test: Interval) -> str:
    """Return the perplexity of the text's own source, and whether the test perplexity is below it by more than sampling."""
    floor = configuration.floor
    if floor is None:
        return "-"
    return perplexity(floor) + " (the test perplexity is BELOW its floor)" * (test.center < _BELOW * floor)


def _largest(trained: Sequence[Trained], names: Mapping[int, str]) -> Iterator[Block]:
    """Yield the table of the largest |Abar| over layers and runs after each epoch, one column per configuration."""
    columns = {}
    for each in trained:
        runs = [run.table.set_index("epoch")["abar"].dropna() for run in each.runs]
        runs = [run for run in runs if len(run)]
        if runs:
            columns[names[id(each.configuration)]] = pd.concat(runs, axis=1).max(axis=1)
    if not columns:
        return
    wide = pd.DataFrame(columns).sort_index()
    every = -(-len(wide) // _MOST_EPOCHS)
    kept = wide.iloc[(len(wide) - 1) % every :: every]  # includes the last epoch
    lines = [[f"{epoch:.3g}", *map(number, values)] for epoch, *values in kept.itertuples(name=None)]
    yield (
        "Largest |Abar| after each epoch, over layers and runs (including those that diverged), on the first tokens of the "
        "validation split. Above 1 a state can grow."
    )
    yield Table("largest |Abar|", ["epoch", *columns], lines)


def _lengths(frame: pd.DataFrame, trained: Sequence[Trained], names: Mapping[int, str]) -> Iterator[Block]:
    """Yield the table of test perplexity at other context lengths, if it was evaluated, one line per configuration."""
    rows = frame[(frame["split"] == "test") & (frame["metric"] == "perplexity") & (frame["status"] == "ok")]
    rows = rows[rows["slice"].fillna("").str.startswith("context=")]
    rows = rows.assign(length=rows["slice"].str.removeprefix("context=").astype(int))
    chosen = {run.key: run.step for each in trained for run in each.runs}
    rows = rows[rows["key"].isin(chosen)]
    if rows.empty:
        return
    there = rows["step"] == rows["key"].map(chosen)
    at = "at the chosen epochs"
    if set(rows["key"]) != set(rows.loc[there, "key"]):  # older versions evaluated other lengths only at the end
        there, at = rows["step"] == rows["steps"], "at the end"
    rows = rows[there]
    values = {
        (str(key), int(length)): float(v) for key, length, v in rows[["key", "length", "value"]].itertuples(index=False)
    }
    lengths = sorted({length for _, length in values})
    lines, about = [], []
    for each in trained:
        found = ([values[run.key, L] for run in each.runs if (run.key, L) in values] for L in lengths)
        shown = [mean_interval(own) for own in found]
        if any(not math.isnan(interval.center) for interval in shown):
            lines.append([names[id(each.configuration)], str(each.configuration["L"]), *map(with_ends, shown)])
            about.append([each.configuration])
    yield (
        f"Test perplexity {at} when the same model reads contexts of other lengths. The columns are comparable, since all "
        "lengths predict the same tokens: those preceded by at least the longest context. The perplexities above differ, "
        "since they are over the whole split."
    )
    yield Table("other lengths", ["model", "trained at", *(f"context {length}" for length in lengths)], lines, about)


def _mean(each: Trained, what: str, name: str, nan: float = math.nan) -> float:
    values = [getattr(epoch, name) for epoch in each.of_ended(what).values()]
    return sum(values) / len(values) if values else nan


def _interval(each: Trained, what: str, value: Callable[[Epoch], float]) -> Interval:
    return mean_interval([value(epoch) for epoch in each.of_ended(what).values()])


def _rounded(values: Sequence[float]) -> str:
    return f"{sum(values) / len(values):.0f}" if values else "-"

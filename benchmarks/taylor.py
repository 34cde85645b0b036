"""Turn the runs of taylor.sh into the committed results/taylor: the rows, a table and a figure."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from drawing import COLOURS, legend, line, panels, spread
from matplotlib.axes import Axes

from expbench.console.formatting import aligned, markdown_table, number, whole
from expbench.report import drawing
from expbench.results import compact
from expbench.results.configurations import Configuration, gather, with_context

TARGET = Path(__file__).parent.parent / "results" / "taylor"
EXACT = {"s6-poly-disc": "s6", "s6-poly": "s6-bbar-b"}  # exact layer for each polynomial layer
FAMILY = {name: colour for pair, colour in zip(EXACT.items(), COLOURS, strict=False) for name in pair}
CENTERS: dict[str, dict[str, Any]] = {"zero": {"linestyle": "-", "marker": "o"}, "bias": {"linestyle": ":", "marker": "s"}}
HEADER = ["task", "norm", "model", "center", "taylor", "metric", "mean", "95 % interval", "solved"]
HEADER += ["diverged", "network degree", "largest |Abar|", "share of |Abar| > 1"]


def settings(configuration: Configuration) -> tuple[int | None, str | None]:
    """Return degree and expansion point of the Taylor polynomials of a configuration; None for an exact layer."""
    given = json.loads(configuration["model_settings"])
    return given.get("taylor"), given.get("center")


def place(configuration: Configuration) -> tuple[Any, ...]:
    """Return the sort key of a configuration in the table."""
    taylor, center = settings(configuration)
    return configuration["task"], configuration["norm"], configuration["model"], center or "", taylor or 0


def at_the_end(frame: pd.DataFrame, metric: str) -> pd.Series[float]:
    """Return the statistic that each run logged at the last point of its curve, by key (before divergence, if any)."""
    rows = frame[(frame["kind"] == "run") & (frame["metric"] == metric) & (frame["split"] == "validation")]
    last = rows[rows["step"] == rows.groupby("key")["step"].transform("max")]
    return last.groupby("key")["value"].max()


def of_configuration(configuration: Configuration, abar_max: pd.Series[float], outside: pd.Series[float]) -> list[str]:
    """Return a row of the table."""
    taylor, center = settings(configuration)
    interval, keys, degree = configuration.interval, configuration.runs["key"], configuration["network_degree"]
    diverged = number(configuration.count("diverged") / configuration.trials) if configuration.trials else "-"
    return [
        *(
            configuration["task"],
            configuration["norm"],
            configuration["model"],
            center or "-",
            "exact" if taylor is None else str(taylor),
        ),
        *(
            configuration.metric or "-",
            number(interval.center),
            spread(interval),
            f"{configuration.solved}/{configuration.trials}",
            diverged,
        ),
        *("-" if degree is None else whole(degree), number(keys.map(abar_max).max()), number(keys.map(outside).mean())),
    ]


def draw(axes: Axes, configurations: Sequence[Configuration]) -> None:
    """Draw the metric against the Taylor degree, with a line per model and center, and exact layers dashed.

    Diverged runs have no metric. A hollow marker is a mean over the remaining runs; a cross at the top means that all runs
    diverged.
    """
    degrees: set[int] = set()
    more, values = (
        configurations[0].higher_is_better,
        [value for configuration in configurations for value in configuration.values],
    )
    least, most = (0.0, 1.0) if more else (0.5 * min(values, default=1.0), math.inf)
    for model, exact in EXACT.items():
        for center, style in CENTERS.items():
            mine = {
                settings(configuration)[0] or 0: configuration
                for configuration in configurations
                if configuration["model"] == model and settings(configuration)[1] == center
            }
            degrees |= mine.keys()
            points = [(n, c.interval) for n, c in mine.items()]
            line(axes, points, least, most, color=FAMILY[model], label=f"{model}, {center}", **style)
            colour: dict[str, Any] = {"color": FAMILY[model], "markersize": 4}
            left = [(n, c.interval.center) for n, c in mine.items() if c.count("diverged") and c.values]
            axes.plot([n for n, _ in left], [y for _, y in left], style["marker"], markerfacecolor="white", **colour)
            none = [n for n, c in mine.items() if c.count("diverged") and not c.values]
            axes.plot(none, [0.98] * len(none), "x", transform=axes.get_xaxis_transform(), **colour)
        for configuration in configurations:
            if configuration["model"] == exact and configuration.values:
                axes.axhline(configuration.interval.center, linestyle="--", color=FAMILY[exact], linewidth=1, label=exact)
    axes.set_xticks(sorted(degrees))
    axes.set_xlabel("degree of the Taylor polynomials")
    axes.set_ylabel(f"{next((configuration.metric for configuration in configurations if configuration.metric), '')} (test)")
    if values and not more:
        axes.set_yscale("log")
        axes.set_ylim(bottom=least)


def last_points(frame: pd.DataFrame) -> pd.Series[bool]:
    """Select rows at the last point of each run's curve, later ones, and those without a step."""
    return frame["step"].isna() | (frame["step"] == frame.groupby("key")["step"].transform("max"))


def main(runs: Path, target: Path) -> None:
    frame = with_context(compact.collect(runs, target, "table", last_points))
    configurations = sorted(gather(frame), key=place)
    abar_max, outside = at_the_end(frame, "abar_max"), at_the_end(frame, "frac_abs_gt_1")
    lines = [of_configuration(configuration, abar_max, outside) for configuration in configurations]
    print(aligned([HEADER, *lines]))
    (target / "table.md").write_text(markdown_table(HEADER, lines) + "\n", encoding="utf-8")
    places = sorted({(configuration["task"], configuration["norm"]) for configuration in configurations})
    figure, grid = panels(max(1, -(-len(places) // 2)), 2)
    for axes, (task, norm) in zip(grid, places, strict=False):
        draw(
            axes,
            [
                configuration
                for configuration in configurations
                if (configuration["task"], configuration["norm"]) == (task, norm)
            ],
        )
        axes.set_title(f"{task}, norm {norm}", fontsize=9)
    for unused in grid[len(places) :]:
        unused.remove()
    legend(figure)
    drawing.save(figure, target / "figure.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else TARGET)

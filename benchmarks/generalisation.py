"""Turn the runs of generalisation.sh into the committed results/generalisation: the rows, a table and a figure.

All runs of one length share one training set (instance 0), so the intervals cover only the variation over seeds.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from drawing import COLOURS, legend, line, mean, panels, spread
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expbench.console.formatting import aligned, markdown_table, number
from expbench.report import drawing
from expbench.results import compact, reported
from expbench.results.configurations import Configuration, gather, with_context

TARGET = Path(__file__).parent.parent / "results" / "generalisation"
METRICS = ("fit", "accuracy", "gap")
COLOUR = dict(zip(("s6-bbar-b", "s6", "linattn", "attn"), COLOURS, strict=False))
DASHES = {256: "-", 32: ":"}
DEPTHS_AT = 64  # length at which depth varies
COLUMNS = ("model", "L", "depth", "D", "parameters")
HEADER = ["labels", "samples", *COLUMNS, "runs", *(name for metric in METRICS for name in (metric, "95 % interval"))]


def setting(configuration: Configuration, name: str) -> str:
    """Return a setting of the task."""
    return str(dict(part.split("=") for part in configuration["context"].split(", "))[name])


def samples(configuration: Configuration) -> int:
    """Return the size of the training set."""
    return int(setting(configuration, "samples"))


def place(configuration: Configuration) -> tuple[Any, ...]:
    """Return the sort key of a configuration in the table."""
    return (
        setting(configuration, "labels"),
        samples(configuration),
        configuration["model"],
        configuration["depth"],
        configuration["L"],
    )


def dashes(size: int) -> str:
    """Return the line style for a size of the training set."""
    return DASHES.get(size, "-.")


def draw(axes: Axes, configurations: Sequence[Configuration], metric: str, values: pd.Series[float], column: str) -> None:
    """Draw a metric, given in `values` by run key, against a column, with a line per model and training set size."""
    for size in sorted({samples(configuration) for configuration in configurations}, reverse=True):
        for model, colour in COLOUR.items():
            mine = [
                configuration
                for configuration in configurations
                if (configuration["model"], samples(configuration)) == (model, size)
            ]
            points = [(configuration[column], mean(configuration, values)) for configuration in mine]
            style = {"color": colour, "linestyle": dashes(size), "label": f"{model}, {size} sequences"}
            line(axes, points, -1.0 if metric == "gap" else 0.0, 1.0, **style)
    ticks = sorted({configuration[column] for configuration in configurations})
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel(column)


def draw_majority(by_length: Axes, by_depth: Axes, frame: pd.DataFrame) -> None:
    """Draw the fit of the majority label on random labels, a control that ignores the sequence."""
    random = frame[frame["context"].str.contains("labels=random") & (frame["metric"] == "fit")]
    random = random[random["model"] == "majority"]
    for size, rows in random.groupby(random["task_settings"].map(lambda text: json.loads(text)["samples"])):
        fit = rows.groupby("L")["value"].mean()
        style: dict[str, Any] = {"color": "0.55", "linewidth": 1, "linestyle": dashes(size)}
        by_length.plot(fit.index, fit, label=f"majority, {size} sequences", **style)
        if DEPTHS_AT in fit.index:
            by_depth.axhline(float(fit[DEPTHS_AT]), **style)


def draw_all(configurations: Sequence[Configuration], frame: pd.DataFrame, values: Mapping[str, pd.Series[float]]) -> Figure:
    """Draw the fit of random labels (top) and the gap of true labels (bottom), against L (left) and depth (right)."""
    figure, grid = panels(2, 2)
    for which, metric, (by_length, by_depth) in (("random", "fit", grid[:2]), ("true", "gap", grid[2:])):
        mine = [configuration for configuration in configurations if setting(configuration, "labels") == which]
        draw(
            by_length, [configuration for configuration in mine if configuration["depth"] == 1], metric, values[metric], "L"
        )
        draw(
            by_depth,
            [configuration for configuration in mine if configuration["L"] == DEPTHS_AT],
            metric,
            values[metric],
            "depth",
        )
        by_length.set_title(f"{which} labels, depth 1", fontsize=9)
        by_depth.set_title(f"{which} labels, L={DEPTHS_AT}, equal parameters", fontsize=9)
        for axes in (by_length, by_depth):
            axes.set_ylabel({"fit": "fit of the training set", "gap": "fit - accuracy on fresh sequences"}[metric])
            if metric == "gap":
                axes.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    draw_majority(grid[0], grid[1], frame)
    legend(figure)
    return figure


def main(runs: Path, target: Path) -> None:
    frame = with_context(compact.collect(runs, target, "table", reported.endings))
    configurations = sorted(gather(frame), key=place)
    test = frame[(frame["kind"] == "run") & (frame["split"] == "test") & (frame["slice"] == "")]
    values = {metric: test[test["metric"] == metric].set_index("key")["value"] for metric in METRICS}
    lines = []
    for configuration in configurations:
        written = [
            setting(configuration, "labels"),
            str(samples(configuration)),
            *(str(configuration[column]) for column in COLUMNS),
        ]
        written.append(f"{len(configuration.values)}/{len(configuration.runs)}")
        for metric in METRICS:
            interval = mean(configuration, values[metric])
            written += [number(interval.center), spread(interval)]
        lines.append(written)
    print(aligned([HEADER, *lines]))
    (target / "table.md").write_text(markdown_table(HEADER, lines) + "\n", encoding="utf-8")
    drawing.save(draw_all(configurations, frame, values), target / "figure.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else TARGET)

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
from expbench.results.cells import Cell, gather, with_context

TARGET = Path(__file__).parent.parent / "results" / "generalisation"
METRICS = ("fit", "accuracy", "gap")
COLOUR = dict(zip(("s6-bbar-b", "s6", "linattn", "attn"), COLOURS, strict=False))
DASHES = {256: "-", 32: ":"}
DEPTHS_AT = 64  # length at which depth varies
COLUMNS = ("model", "L", "depth", "D", "parameters")
HEADER = ["labels", "samples", *COLUMNS, "runs", *(name for metric in METRICS for name in (metric, "95 % interval"))]


def setting(cell: Cell, name: str) -> str:
    """Return a setting of the task."""
    return str(dict(part.split("=") for part in cell["context"].split(", "))[name])


def samples(cell: Cell) -> int:
    """Return the size of the training set."""
    return int(setting(cell, "samples"))


def place(cell: Cell) -> tuple[Any, ...]:
    """Return the sort key of a configuration in the table."""
    return setting(cell, "labels"), samples(cell), cell["model"], cell["depth"], cell["L"]


def dashes(size: int) -> str:
    """Return the line style for a size of the training set."""
    return DASHES.get(size, "-.")


def draw(axes: Axes, cells: Sequence[Cell], metric: str, values: pd.Series[float], column: str) -> None:
    """Draw a metric, given in `values` by run key, against a column, with a line per model and training set size."""
    for size in sorted({samples(cell) for cell in cells}, reverse=True):
        for model, colour in COLOUR.items():
            mine = [cell for cell in cells if (cell["model"], samples(cell)) == (model, size)]
            points = [(cell[column], mean(cell, values)) for cell in mine]
            style = {"color": colour, "linestyle": dashes(size), "label": f"{model}, {size} sequences"}
            line(axes, points, -1.0 if metric == "gap" else 0.0, 1.0, **style)
    ticks = sorted({cell[column] for cell in cells})
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


def draw_all(cells: Sequence[Cell], frame: pd.DataFrame, values: Mapping[str, pd.Series[float]]) -> Figure:
    """Draw the fit of random labels (top) and the gap of true labels (bottom), against L (left) and depth (right)."""
    figure, grid = panels(2, 2)
    for which, metric, (by_length, by_depth) in (("random", "fit", grid[:2]), ("true", "gap", grid[2:])):
        mine = [cell for cell in cells if setting(cell, "labels") == which]
        draw(by_length, [cell for cell in mine if cell["depth"] == 1], metric, values[metric], "L")
        draw(by_depth, [cell for cell in mine if cell["L"] == DEPTHS_AT], metric, values[metric], "depth")
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
    cells = sorted(gather(frame), key=place)
    test = frame[(frame["kind"] == "run") & (frame["split"] == "test") & (frame["slice"] == "")]
    values = {metric: test[test["metric"] == metric].set_index("key")["value"] for metric in METRICS}
    lines = []
    for cell in cells:
        written = [setting(cell, "labels"), str(samples(cell)), *(str(cell[column]) for column in COLUMNS)]
        written.append(f"{len(cell.values)}/{len(cell.runs)}")
        for metric in METRICS:
            interval = mean(cell, values[metric])
            written += [number(interval.center), spread(interval)]
        lines.append(written)
    print(aligned([HEADER, *lines]))
    (target / "table.md").write_text(markdown_table(HEADER, lines) + "\n", encoding="utf-8")
    drawing.save(draw_all(cells, frame, values), target / "figure.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]) if len(sys.argv) > 2 else TARGET)

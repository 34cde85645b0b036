"""From the runs of generalisation.sh to what is committed under results/generalisation: the rows, a table and its figure.

All runs of one length share one training set (instance 0): the intervals are over seeds, and say nothing of another set.
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
DEPTHS_AT = 64  # the length at which depth is varied
COLUMNS = ("model", "L", "depth", "D", "parameters")
HEADER = ["labels", "samples", *COLUMNS, "runs", *(name for metric in METRICS for name in (metric, "95 % interval"))]


def setting(cell: Cell, name: str) -> str:
    """A setting of the task."""
    return str(dict(part.split("=") for part in cell["context"].split(", "))[name])


def samples(cell: Cell) -> int:
    """How large the training set is."""
    return int(setting(cell, "samples"))


def place(cell: Cell) -> tuple[Any, ...]:
    """Where a cell stands in the table."""
    return setting(cell, "labels"), samples(cell), cell["model"], cell["depth"], cell["L"]


def dashes(size: int) -> str:
    """The style of the lines of a size of the set."""
    return DASHES.get(size, "-.")


def draw(axes: Axes, cells: Sequence[Cell], metric: str, values: pd.Series[float], column: str) -> None:
    """A metric, which `values` has by the runs' keys, against a column: a line a model and size of the set."""
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
    """What the most frequent of the random labels fits: the control that knows nothing of a sequence."""
    by_lot = frame[frame["context"].str.contains("labels=random") & (frame["metric"] == "fit")]
    by_lot = by_lot[by_lot["model"] == "majority"]
    for size, rows in by_lot.groupby(by_lot["task_settings"].map(lambda text: json.loads(text)["samples"])):
        fit = rows.groupby("L")["value"].mean()
        style: dict[str, Any] = {"color": "0.55", "linewidth": 1, "linestyle": dashes(size)}
        by_length.plot(fit.index, fit, label=f"majority, {size} sequences", **style)
        if DEPTHS_AT in fit.index:
            by_depth.axhline(float(fit[DEPTHS_AT]), **style)


def draw_all(cells: Sequence[Cell], frame: pd.DataFrame, values: Mapping[str, pd.Series[float]]) -> Figure:
    """The fit of random labels above, the gap of true ones below; against L to the left, against depth to the right."""
    figure, grid = panels(2, 2)
    for which, metric, (by_length, by_depth) in (("random", "fit", grid[:2]), ("true", "gap", grid[2:])):
        mine = [cell for cell in cells if setting(cell, "labels") == which]
        draw(by_length, [cell for cell in mine if cell["depth"] == 1], metric, values[metric], "L")
        draw(by_depth, [cell for cell in mine if cell["L"] == DEPTHS_AT], metric, values[metric], "depth")
        by_length.set_title(f"{which} labels, depth 1", fontsize=9)
        by_depth.set_title(f"{which} labels, L={DEPTHS_AT}, as many parameters", fontsize=9)
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

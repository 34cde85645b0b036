"""Turn the runs of reference.sh into the committed table and the README figure with the known floor."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from expbench.report import drawing, figures
from expbench.results import compact
from expbench.results.configurations import gather, with_context

TARGET = Path(__file__).parent.parent / "results" / "reference"


def pair_floor(L: int, r: float = 1 / 3) -> float:
    """Return the least normalised error of a sum of functions of pairs (x_j, x_L) on the product of L independent inputs.

    r: variance / squared mean of an input, 1/3 for uniform on [0, 1]. One layer of linear attention is such a sum.
    """
    return 1 - (L * r + (L - 1) * r**2) / ((1 + r) ** L - 1)


def main(runs: Path) -> None:
    frame = with_context(compact.collect(runs, TARGET, "table"))
    product = frame[frame["context"].str.contains("family=product")]
    controls = product[(product["kind"] == "baseline") & product["primary"]]
    figure = figures.metric_against(gather(product), controls, "L")
    (axes,) = figure.axes
    lengths = np.arange(3, 9)
    axes.plot(lengths, [pair_floor(L) for L in lengths], "x", color="black", markersize=6, label="floor of linattn depth=1")
    axes.set_title("product of L inputs on [0, 1], one layer unless stated", fontsize=9)
    axes.set_xlabel("L: number of factors")
    figure.legends[0].remove()
    figure.legend(*axes.get_legend_handles_labels(), loc="outside right upper", fontsize=8, frameon=False)
    drawing.save(figure, TARGET / "figure.svg")
    test = frame[(frame["kind"] == "run") & frame["primary"].fillna(False) & (frame["split"] == "test")]
    print(test.groupby(["task", "L", "D", "norm", "depth", "model"])["value"].describe()[["count", "mean", "min", "max"]])


if __name__ == "__main__":
    main(Path(sys.argv[1]))

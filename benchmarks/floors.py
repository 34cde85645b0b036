"""Turn the runs of floors.sh into the committed results/floors: a table, a figure, and the number of runs below floors."""

from __future__ import annotations

import sys
from pathlib import Path

from expbench.console.formatting import aligned, number
from expbench.report import drawing, figures
from expbench.results import compact
from expbench.results.configurations import gather, with_context

TARGET = Path(__file__).parent.parent / "results" / "floors"


def main(runs: Path) -> None:
    frame = with_context(compact.collect(runs, TARGET, "table"))
    test = frame[(frame["kind"] == "run") & (frame["split"] == "test")]
    error = test[test["metric"] == "nmse_standard_error"].set_index("key")["value"]
    nmse = test[test["primary"].fillna(False).astype(bool)].set_index("key")
    low = nmse[nmse["value"] + 2 * error.reindex(nmse.index) < nmse["floor"]]
    header = ["task", "L", "model", "depth", "floor", "by degree", "by structure", "mean", "interval", "best", "reading"]
    lines = [header]
    for configuration in gather(frame):
        first, interval = configuration.runs.iloc[0], configuration.interval
        spread = f"{number(interval.low)} to {number(interval.high)}"
        floors = [number(first[name]) for name in ("floor", "floor_degree", "floor_structure")]
        place = [
            configuration["context"],
            str(configuration["L"]),
            configuration["model"],
            str(configuration["depth"]),
            *floors,
        ]
        lines.append([*place, number(interval.center), spread, number(configuration.best), configuration.reading])
    print(aligned(lines))
    print(f"{len(nmse)} runs; {len(low)} lie below their floor by more than two standard errors of their test set")
    product = frame[frame["context"].str.contains("family=product") & frame["context"].str.contains("inputs=unit")]
    controls = product[(product["kind"] == "baseline") & product["primary"].fillna(False).astype(bool)]
    figure = figures.metric_against(gather(product), controls, "L")
    figure.axes[0].set_title("product of L inputs on [0, 1], no normalisation; bars are floors", fontsize=9)
    drawing.save(figure, TARGET / "figure.svg")


if __name__ == "__main__":
    main(Path(sys.argv[1]))

"""Turn the runs of alignment.sh into the committed results/alignment: the rows, and a comparison of S6 with attention."""

from __future__ import annotations

import sys
from pathlib import Path

from drawing import COLOURS, legend, panels
from matplotlib.figure import Figure

from expbench.console.formatting import aligned, number
from expbench.report import drawing
from expbench.results import compact
from expbench.results.configurations import gather, with_context
from expbench.stats.intervals import mean_interval

TARGET = Path(__file__).parent.parent / "results" / "alignment"


def main(runs: Path) -> None:
    frame = with_context(compact.collect(runs, TARGET, "table"))
    places: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    orders: dict[tuple[str, int], float] = {}
    for configuration in gather(frame):
        family = next(part for part in configuration["context"].split(", ") if part.startswith("family="))
        place = family.removeprefix("family="), int(configuration["degree"])
        places.setdefault(place, {})[configuration["model"]] = dict(
            zip(configuration.runs["seed"], configuration.runs["value"], strict=True)
        )
        orders[place] = configuration["label_interaction_order"]
    lines = [["family", "degree", "mean interaction order", "s6", "attn", "linattn", "attn - s6, paired", "95 % interval"]]
    for place, models in sorted(places.items(), key=lambda item: (item[0][1], item[0][0])):
        means = [number(mean_interval(list(models[name].values())).center) for name in ("s6", "attn", "linattn")]
        gap = mean_interval([models["attn"][seed] - value for seed, value in models["s6"].items()])
        interval = f"{number(gap.low)} to {number(gap.high)}"
        lines.append([place[0], str(place[1]), number(orders[place]), *means, number(gap.center), interval])
    print(aligned(lines))
    drawing.save(draw(places), TARGET / "figure.svg")


def draw(places: dict[tuple[str, int], dict[str, dict[int, float]]]) -> Figure:
    """Draw each run as a dot and each mean as a bar, with a line per family and degree."""
    names = sorted(places, key=lambda place: (place[1], place[0]))
    figure, (axes,) = panels(1, 1)
    figure.set_size_inches(7.0, 0.9 + 0.5 * len(names))
    for offset, (model, colour) in enumerate(zip(("s6", "attn", "linattn"), COLOURS, strict=False)):
        for row, name in enumerate(names):
            y, values = row + 0.25 * (offset - 1), list(places[name][model].values())
            axes.plot(values, [y] * len(values), ".", color=colour, alpha=0.5, markersize=4)
            label = model if row == 0 else "_"
            axes.plot([mean_interval(values).center], [y], "|", color=colour, markersize=11, markeredgewidth=2, label=label)
    axes.set_yticks(range(len(names)), [f"{family}, degree {degree}" for family, degree in names], fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_xscale("log")
    axes.set_xlabel("nmse (test); bars are means of ten seeds")
    legend(figure)
    return figure


if __name__ == "__main__":
    main(Path(sys.argv[1]))

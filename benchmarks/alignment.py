"""From the runs of alignment.sh to what is committed under results/alignment: a table, and S6's advantage on each family."""

from __future__ import annotations

import sys
from pathlib import Path

from expbench import table
from expbench.cells import gather, with_context
from expbench.statistics import mean_interval
from expbench.text import aligned, number

TARGET = Path(__file__).parent.parent / "results" / "alignment"


def main(runs: Path) -> None:
    frame = with_context(table.collect(runs, TARGET, "table"))
    places: dict[tuple[str, int], dict[str, dict[int, float]]] = {}
    orders: dict[tuple[str, int], float] = {}
    for cell in gather(frame):
        family = next(part for part in cell["context"].split(", ") if part.startswith("family="))
        place = family.removeprefix("family="), int(cell["degree"])
        places.setdefault(place, {})[cell["model"]] = dict(zip(cell.runs["seed"], cell.runs["value"], strict=True))
        orders[place] = cell["label_interaction_order"]
    lines = [["family", "degree", "mean interaction order", "s6", "attn", "linattn", "attn - s6, paired", "95 % interval"]]
    for place, models in sorted(places.items(), key=lambda item: (item[0][1], item[0][0])):
        means = [number(mean_interval(list(models[name].values())).center) for name in ("s6", "attn", "linattn")]
        gap = mean_interval([models["attn"][seed] - value for seed, value in models["s6"].items()])
        interval = f"{number(gap.low)} to {number(gap.high)}"
        lines.append([place[0], str(place[1]), number(orders[place]), *means, number(gap.center), interval])
    print(aligned(lines))


if __name__ == "__main__":
    main(Path(sys.argv[1]))

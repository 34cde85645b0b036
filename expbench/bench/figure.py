"""The figure of `expbench bench scan`: time per element against L, with a line for each backend and each hardware limit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from expbench.report.drawing import COLOURS, Axes, Figure, make_figure, styled

Row = Mapping[str, Any]
_SAME = ("B", "D", "N", "dtype", "gate", "transition")
_LIMITS = {"copy": "--", "exp": ":"}
_MOST = 12  # pairs of panels; more would not be legible


@styled(math=True)  # for the powers of ten
def scan(rows: Sequence[Row]) -> Figure:
    """Plot `rows`: a panel each for forward and backward of each group of cases that differ only in L."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in sorted(rows, key=lambda row: int(row["L"])):
        groups.setdefault(tuple(row[column] for column in _SAME), []).append(row)
    names = list(dict.fromkeys(row["backend"] for row in rows))
    colours = dict(zip(names, COLOURS, strict=False))
    shown = list(groups.items())[:_MOST]
    figure = make_figure(9.0, 2.8 * len(shown))
    panels = figure.subplots(len(shown), 2, squeeze=False, sharex="row")
    for pair, (_, group) in zip(panels, shown, strict=True):
        for axes, way in zip(pair, ("forward", "backward"), strict=True):
            _panel(axes, group, way, colours)
    handles: dict[str, Any] = {}
    for axes in panels.flat:
        for handle, name in zip(*axes.get_legend_handles_labels(), strict=True):
            handles.setdefault(name, handle)
    order = sorted(handles, key=[*names, *(f"{limit} limit" for limit in _LIMITS)].index)
    figure.legend([handles[name] for name in order], order, loc="outside right upper", fontsize=8, frameon=False)
    return figure


def _panel(axes: Axes, group: Sequence[Row], way: str, colours: Mapping[str, Any]) -> None:
    for name, colour in colours.items():
        points = [(row["L"], row[f"{way}_ps"]) for row in group if row["backend"] == name and row["status"] == "ok"]
        if points:
            axes.plot(*zip(*points, strict=True), "o-", color=colour, label=name, markersize=4)
    for limit, style in _LIMITS.items():
        column = f"{limit}_{way}_ms"
        bounds = {
            row["L"]: row[column] * 1e9 / (row["B"] * row["L"] * row["D"]) for row in group if row.get(column) is not None
        }
        if len(bounds) > 1:
            axes.plot(list(bounds), list(bounds.values()), linestyle=style, color="0.4", label=f"{limit} limit")
        elif bounds:
            axes.axhline(*bounds.values(), linestyle=style, color="0.4", label=f"{limit} limit")
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    ticks = sorted({row["L"] for row in group})
    axes.set_xticks(ticks, [str(tick) for tick in ticks])
    axes.minorticks_off()
    axes.set_xlabel("L")
    axes.set_ylabel("ps per element")
    first = group[0]
    gate = ", gate" if first["gate"] else ""
    axes.set_title(
        f"{way}: B={first['B']} D={first['D']} N={first['N']}, {first['dtype']}, {first['transition']}{gate}", fontsize=8
    )

"""Figures: pure functions of the cells of a results table. Controls are drawn into every one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from expbench.cells import Cell, varying
from expbench.text import number

_COLOURS = list(mpl.color_sequences["tab10"])
_PANELS = 6
_TRAINING = ["D", "depth", "norm", "positions", "residual", "steps", "batch_size", "lr", "weight_decay", "clip", "dtype"]
_STYLE: Any = {"svg.hashsalt": "expbench", "svg.fonttype": "none", "axes.spines.top": False, "axes.spines.right": False}


def save(figure: Figure, path: Any) -> None:
    """Write an SVG that is the same bytes for the same figure."""
    with mpl.rc_context(_STYLE):
        figure.savefig(path, format="svg", metadata={"Date": None}, bbox_inches="tight")


def labels(cells: Sequence[Cell], without: Sequence[str] = ()) -> dict[int, str]:
    """A name for each cell (by its `id`): the model, and the settings in which the cells differ except `without`."""
    cells = list(cells)
    shared = [column for column in varying(cells, _TRAINING) if column not in without]
    by_model: dict[str, set[str]] = {}
    for cell in cells:
        by_model.setdefault(cell["model"], set()).add(cell["model_settings"])
    names = {}
    for cell in cells:
        parts = [f"{column}={cell[column]}" for column in shared]
        if len(by_model[cell["model"]]) > 1:
            parts.insert(0, cell["model_settings"].strip("{}").replace('"', "").replace(":", "="))
        names[id(cell)] = " ".join([cell["model"], *parts])
    return names


def metric_against(cells: Sequence[Cell], controls: pd.DataFrame, axis: str) -> Figure:
    """The headline metric against ``L`` or ``degree``: mean, interval and every run; controls dashed."""
    figure, (axes,) = _panels(1, width=6.5, height=4.2)
    names = labels(cells)
    for colour, (name, group) in zip(_cycle(), _by_name(cells, names).items(), strict=False):
        group = sorted((cell for cell in group if cell.values), key=lambda cell: cell[axis])
        if not group:
            continue
        x = [cell[axis] for cell in group]
        centers = [cell.interval.center for cell in group]
        axes.plot(x, centers, "o-", color=colour, label=name, markersize=4)
        bars = [(cell.interval.low, cell.interval.high) for cell in group]
        low, high = ([_visible(bar[i], cell) for bar, cell in zip(bars, group, strict=True)] for i in (0, 1))
        axes.fill_between(x, low, high, color=colour, alpha=0.12, linewidth=0)
        for cell in group:
            axes.plot([cell[axis]] * len(cell.values), cell.values, ".", color=colour, alpha=0.4, markersize=4)
    _draw_controls(axes, controls, axis)
    if all(cell[axis] > 0 for cell in cells) and max(c[axis] for c in cells) >= 8 * min(c[axis] for c in cells):
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter("{x:g}")
    _finish(axes, cells[0], axis)
    return figure


def depth_against_degree(cells: Sequence[Cell]) -> Figure:
    """A map for each model: depth upwards, degree to the right, the mean headline metric in each field."""
    names = labels(cells, without=["depth"])
    groups = _by_name(cells, names)
    degrees = sorted({cell["degree"] if pd.notna(cell["degree"]) else cell["L"] for cell in cells})
    depths = sorted({cell["depth"] for cell in cells})
    figure, panels = _panels(len(groups), width=1.6 + 0.62 * len(degrees), height=1.3 + 0.5 * len(depths), limit=len(groups))
    for axes, (name, group) in zip(panels, groups.items(), strict=True):
        field = np.full((len(depths), len(degrees)), np.nan)
        for cell in group:
            degree = cell["degree"] if pd.notna(cell["degree"]) else cell["L"]
            field[depths.index(cell["depth"]), degrees.index(degree)] = cell.interval.center
        colours = "viridis" if cells[0].higher_is_better else "viridis_r"
        axes.imshow(_shade(field, cells[0]), origin="lower", aspect="auto", cmap=colours, vmin=0, vmax=1)
        for (row, column), value in np.ndenumerate(field):
            if not np.isnan(value):
                axes.text(column, row, number(value), ha="center", va="center", fontsize=7, color="black", bbox=_BADGE)
        axes.set_xticks(range(len(degrees)), [str(int(d)) for d in degrees])
        axes.set_yticks(range(len(depths)), [str(int(d)) for d in depths])
        axes.set_title(name, fontsize=9)
        axes.set_xlabel("degree" if pd.notna(cells[0]["degree"]) else "L")
        axes.set_ylabel("depth")
        axes.spines[:].set_visible(False)
    figure.suptitle(f"{cells[0].metric}, mean", fontsize=9)
    return figure


def curves(cells: Sequence[Cell], points: pd.DataFrame) -> Figure:
    """The headline metric on the selection split while training, a line a run; `points` has key, step and value."""
    by_key = {str(key): group.sort_values("step") for key, group in points.groupby("key")}
    places = sorted({(cell["L"], cell["degree"]) for cell in cells}, key=str)
    places = [places[round(i)] for i in np.linspace(0, len(places) - 1, min(_PANELS, len(places)))]
    figure, panels = _panels(len(places), width=4.2, height=3.2)
    names = labels(cells)
    colours = dict(zip(dict.fromkeys(names.values()), _cycle(), strict=False))
    for axes, place in zip(panels, places, strict=True):
        for cell in cells:
            if str((cell["L"], cell["degree"])) != str(place):
                continue
            name = names[id(cell)]
            for i, key in enumerate(key for key in cell.runs["key"] if key in by_key):
                line = by_key[key]
                axes.plot(
                    line["step"], line["value"], color=colours[name], alpha=0.7, linewidth=1, label=None if i else name
                )
        _finish(axes, cells[0], "step")
        axes.set_title(_place(*place), fontsize=9)
        axes.set_ylabel(f"{cells[0].metric} (selection)")
    return figure


def beside_controls(cells: Sequence[Cell], controls: pd.DataFrame) -> Figure:
    """Every run of each model as a dot, with the controls of the same cell below; one panel for each L and degree."""
    places = sorted({(cell["L"], cell["degree"]) for cell in cells}, key=str)[-_PANELS:]
    names = labels(cells)
    models = list(dict.fromkeys(names.values()))
    kept = controls.drop_duplicates("model")["model"].tolist()
    figure, panels = _panels(len(places), width=4.6, height=0.9 + 0.24 * (len(models) + len(kept)))
    for axes, place in zip(panels, places, strict=True):
        rows = [*models, *kept]
        for colour, model in zip(_cycle(), models, strict=False):
            values = [
                v for c in cells if names[id(c)] == model and str((c["L"], c["degree"])) == str(place) for v in c.values
            ]
            axes.plot(values, [rows.index(model)] * len(values), "o", color=colour, alpha=0.6, markersize=5)
        here = controls[controls["L"] == place[0]]
        here = here if pd.isna(place[1]) else here[here["degree"] == place[1]]
        for name, value in zip(here["model"], here["value"], strict=True):
            axes.plot([value], [rows.index(name)], "D", color="0.35", markersize=4)
        axes.axvline(cells[0].solved_at, color="0.7", linewidth=0.8, linestyle=":")
        axes.set_yticks(range(len(rows)), rows, fontsize=8)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.set_title(_place(*place), fontsize=9)
        axes.set_xlabel(cells[0].metric)
        if not cells[0].higher_is_better:
            axes.set_xscale("symlog", linthresh=1e-4)
    return figure


_BADGE = {"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1.2}


def _panels(count: int, width: float, height: float, limit: int = _PANELS) -> tuple[Figure, list[Axes]]:
    count = min(count, limit)
    columns = min(count, 3)
    lines = -(-count // columns)
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(width * columns, height * lines), layout="constrained")
        grid = figure.subplots(lines, columns, squeeze=False)
    axes = list(grid.flat)
    for unused in axes[count:]:
        unused.remove()
    return figure, axes[:count]


def _cycle() -> list[Any]:
    return _COLOURS * 10


def _by_name(cells: Sequence[Cell], names: dict[int, str]) -> dict[str, list[Cell]]:
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(names[id(cell)], []).append(cell)
    return groups


def _place(L: Any, degree: Any) -> str:
    return f"L={L}" if pd.isna(degree) else f"L={L}, degree {int(degree)}"


def _visible(bound: float, cell: Cell) -> float:
    """An interval's end as it can be drawn: an unknown one at the center, one below 0 at the least value seen."""
    if np.isnan(bound):
        return cell.interval.center
    return max(bound, 0.0) if cell.higher_is_better else max(bound, 0.5 * min(cell.values))


def _shade(field: Any, cell: Cell) -> Any:
    """The field on 0..1: as it is where more is better, else on a logarithm from 1e-4 to 1."""
    if cell.higher_is_better:
        return field
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.clip(1 + np.log10(np.maximum(field, 1e-4)) / 4, 0, 1)


def _draw_controls(axes: Axes, controls: pd.DataFrame, axis: str) -> None:
    shown = controls[(controls["kind"] != "positive") & controls[axis].notna()]
    for style, (name, group) in zip(["--", ":", "-.", (0, (5, 1)), (0, (1, 1))] * 3, shown.groupby("model"), strict=False):
        means = group.groupby(axis)["value"].mean().sort_index()
        axes.plot(means.index, means, linestyle=style, color="0.55", linewidth=1, label=str(name))


def _finish(axes: Axes, cell: Cell, axis: str) -> None:
    if not cell.higher_is_better:
        axes.set_yscale("log")
    axes.axhline(cell.solved_at, color="0.8", linewidth=0.8, zorder=0)
    axes.set_xlabel(axis)
    axes.set_ylabel(f"{cell.metric} (test)")
    axes.legend(fontsize=7, frameon=False)

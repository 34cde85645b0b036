"""Survey of degrees: formulas compared with measurements over models, lengths and depths, as a table and a figure.

The measurement (`degree.py`) is exact, so any difference is an error in the formula or in the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from expbench import files
from expbench.algebra.reach import NoBound, Reach
from expbench.console.formatting import aligned, markdown_table, whole
from expbench.report import drawing
from expbench.results import provenance
from expbench.run import canonical
from expbench.settings import Value
from expbench.theory.degree import MOST_POSITIONS, Extent, degree_of, generic, has_degree, order_of
from expbench.theory.residues import NotMeasured, NotPolynomial
from expbench.training.job import Job
from expbench.training.loop import build

_UNKNOWN_UP_TO = 1 << 10  # limit of the search for the degree of a model without a formula
_HEADER = ["model", "settings", "L", "depth", "degree", "measured", "order", "measured", "linear attention needs", "verdict"]


class Line(NamedTuple):
    """Result for one network.

    formula: its extent by the formula; None if the model has none. measured: its measured extent; None if it is not
    polynomial or too large to measure. linear_depth: number of linear-attention layers that reach this degree. verdict:
    ``agrees``, ``degree agrees`` (too many positions to measure the order), ``DIFFERS`` (with the reason), ``not stated``,
    ``not measured``, ``not polynomial``.
    """

    model: str
    settings: dict[str, Value]
    L: int
    depth: int
    formula: Extent | None
    measured: Extent | None
    linear_depth: int | None
    verdict: str


def survey(jobs: Sequence[Job], limit: int) -> Iterator[Line]:
    """Yield a line for each network; degrees above `limit` are not measured, because the cost grows with the degree."""
    for job in jobs:
        run = job.run
        network = build(run, job.task, job.model, "cpu")
        formula = _last(network.reach())
        measured, verdict = _judged(generic(network), run.L, job.task.channels, formula, limit)
        known = formula or measured
        depth = None if known is None else _linear_depth(known.degree)
        yield Line(run.model, run.model_settings, run.L, run.depth, formula, measured, depth, verdict)


def _last(reach: Reach | NoBound | None) -> Extent | None:
    return None if not isinstance(reach, Reach) else Extent(reach.degree[-1], reach.order[-1])


def _judged(network: Any, length: int, channels: int, formula: Extent | None, limit: int) -> tuple[Extent | None, str]:
    """Return the measured extent and the verdict on the formula."""
    if formula is not None and formula.degree > limit:
        return None, "not measured"
    stated = "" if formula is None else "DIFFERS: "
    try:
        most = min(limit, _UNKNOWN_UP_TO) if formula is None else 4 * formula.degree
        as_stated = formula is not None and has_degree(network, length, channels, formula.degree)
        degree = formula.degree if formula and as_stated else degree_of(network, length, channels, most)
        if degree is None:
            return None, f"{stated}above degree {most}"
        order = order_of(network, length, channels) if length <= MOST_POSITIONS else None
    except NotPolynomial as why:
        return None, f"{stated}not polynomial ({why.operation})"
    except NotMeasured as why:
        return None, f"not measured ({why.operation})"
    measured = Extent(degree, order)
    if formula is None:
        return measured, "not stated"
    if formula.degree != degree or order not in (None, formula.order):
        return measured, "DIFFERS"
    return measured, "agrees" if order is not None else "degree agrees"


def _linear_depth(degree: int) -> int:
    """Return ceil(log_3 degree), because N layers of linear attention have degree 3^N."""
    depth, reached = 0, 1
    while reached < degree:
        depth, reached = depth + 1, 3 * reached
    return depth


def text(lines: Sequence[Line]) -> str:
    """Return the table and the number of networks that agree."""
    agree, differ = (sum(verdict in line.verdict for line in lines) for verdict in ("agrees", "DIFFERS"))
    counted = f"{len(lines)} networks: {agree} agree with their formula, {differ} differ"
    return "\n".join([aligned([_HEADER, *_table(lines)]), "", counted])


def _table(lines: Sequence[Line]) -> list[list[str]]:
    return [_cells(line, name) for line, name in zip(lines, _settings(lines), strict=True)]


def _settings(lines: Sequence[Line]) -> list[str]:
    """Return for each line, as text, the settings that vary between the lines of its model."""
    values: dict[tuple[str, str], set[Value]] = {}
    for line in lines:
        for name, value in line.settings.items():
            values.setdefault((line.model, name), set()).add(value)
    return [
        " ".join(f"{name}={value}" for name, value in line.settings.items() if len(values[line.model, name]) > 1)
        for line in lines
    ]


def _cells(line: Line, settings: str) -> list[str]:
    formula, measured = (("-", "-") if e is None else tuple(map(_short, e)) for e in (line.formula, line.measured))
    depth = "-" if line.linear_depth is None else str(line.linear_depth)
    sizes = [str(line.L), str(line.depth), formula[0], measured[0], formula[1], measured[1], depth]
    return [line.model, settings, *sizes, line.verdict]


def _short(value: int | None) -> str:
    return "-" if value is None else whole(value)


def write(lines: Sequence[Line], folder: Path) -> list[Path]:
    """Write degree.parquet, degree.md and degree.svg into the folder."""
    paths = [folder / f"degree.{kind}" for kind in ("parquet", "md", "svg")]
    rows = []
    for line in lines:
        row = (
            line._asdict()
            | {"settings": canonical(line.settings)}
            | provenance.versions()
            | {"git_commit": provenance.git_commit()}
        )
        for name in ("formula", "measured"):
            extent = row.pop(name)
            for part in ("degree", "order"):
                value = None if extent is None else getattr(extent, part)
                row[f"{name}_{part}"] = None if value is None else float(value)
        rows.append(row)
    with files.replacing(paths[0]) as aside, aside.open("wb") as file:
        pq.write_table(pa.Table.from_pylist(rows), file, compression="zstd")
    with files.replacing(paths[1]) as aside:
        aside.write_text(f"# Degree and interaction order\n\n{markdown_table(_HEADER, _table(lines))}\n", "utf-8")
    drawn = [line for line in lines if line.formula or line.measured]
    with files.replacing(paths[2]) as aside:
        drawing.save(_figure(drawn), aside)
    return paths


@drawing.styled(math=True)  # for the powers of ten
def _figure(lines: Sequence[Line]) -> drawing.Figure:
    """Plot degree, order and equivalent linear-attention depth against L, with one curve per model and depth."""
    figure = drawing.make_figure(11, 3.4)
    panels = figure.subplots(1, 3)
    groups: dict[tuple[str, str, int], list[Line]] = {}
    for line, settings in zip(lines, _settings(lines), strict=True):
        groups.setdefault((line.model, settings, line.depth), []).append(line)
    colours = dict(zip(dict.fromkeys((m, s) for m, s, _ in groups), drawing.COLOURS * 2, strict=False))
    titles = ("total degree", "positions in one term", "linear-attention layers for the same degree")
    for (model, settings, depth), group in groups.items():
        name = f"{model}{' ' if settings else ''}{settings}, depth {depth}".replace("$", r"\$")
        for axes, title in zip(panels, titles, strict=True):
            extents = [(line, line.formula or line.measured) for line in sorted(group, key=lambda line: line.L)]
            y = {
                titles[0]: [e.degree for _, e in extents if e],
                titles[1]: [e.order for _, e in extents if e],
                titles[2]: [line.linear_depth for line, _ in extents],
            }[title]
            style = {1: "-", 2: "--", 3: "-.", 4: ":"}.get(depth, (0, (depth, 1)))
            x = [line.L for line, _ in extents]
            axes.plot(x, y, "o", linestyle=style, color=colours[model, settings], markersize=3, label=name)
            axes.set_title(title, fontsize=9)
            axes.set_xlabel("L")
    for axes in panels[:2]:
        axes.set_yscale("log")
    lengths = sorted({line.L for line in lines})
    for axes in panels:
        axes.set_xscale("log", base=2)
        axes.set_xticks(lengths, [str(length) for length in lengths])
        axes.minorticks_off()
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles[:24], names[:24], loc="outside right upper", fontsize=7, frameon=False)
    return figure

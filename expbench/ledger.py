"""The ledger: what was published beside what was measured here. Published numbers are data with a source, in `published/`.

A published number is the mean of three seeds, in a setting that the paper's text leaves open in part. It is held against
every cell of ours that may be meant: it reproduces where it lies in the interval that holds the mean of three further seeds
of ours in 95 of 100 cases, and differs elsewhere. Errors on labels that the text does not define are not comparable.
"""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import Literal, NamedTuple

import pandas as pd

from expbench.cells import Cell
from expbench.claims import Claim
from expbench.document import Table
from expbench.resampling import further_mean_interval
from expbench.statistics import Interval, further_interval
from expbench.text import number

SOURCE = "arXiv 2502.02209v1, Table 2, means of three seeds"
TEXT_SOURCE = "arXiv 2502.02209v1, Table 1 (right), WikiText-103, means of three seeds"
Verdict = Literal["reproduces", "differs", "not comparable", "not run"]
_MODELS = {"S6": "s6", "Self-Attention": "attn"}
# The widths of the counting rows are not printed. These are the only ones at which embedding, head and layers come to the
# printed parameters: 2 with a scalar head, 4 with one of 20 classes.
_IMPLIED = dict.fromkeys((35, 63, 29, 51, 95), (2, "scalar")) | dict.fromkeys((176, 244, 380), (4, "classes"))
# What the paper's text does not say, and is not varied either: cells with other settings are other experiments.
_RECONSTRUCTED: dict[str, dict[str, float]] = {
    "count-in-row": {"L": 20, "classes": 20},
    "polyreg": {"L": 10, "label_var": 20.0},
}

# What a perplexity of Table 1 is of. The text names no tokens: GPT-2's come nearest to the printed numbers of parameters.
_OF_TABLE1: dict[str, object] = {"data": "wikitext-103", "tokenizer": "gpt2", "L": 1024, "D": 384, "depth": 12}


class Published(NamedTuple):
    """A printed number. D, head: as printed, or as the number of parameters implies (None: neither)."""

    task: str
    model: str
    positions: str
    depth: int
    D: int
    head: str | None
    metric: str
    value: float
    parameters: int

    @property
    def row(self) -> str:
        """The row of the paper's table."""
        with_code = "with" if self.positions == "sin" else "without"
        layers = "layer" if self.depth == 1 else "layers"
        return f"{self.task}: {self.model}, {with_code} position code, {self.depth} {layers}, D={self.D}"


class Entry(NamedTuple):
    """A published number and one cell of ours that may be meant; or none, where it was not run.

    ours: the mean of three seeds, on average, and the interval of such means, in the units of the published number.
    """

    published: Published
    cell: Cell | None
    ours: Interval | None
    verdict: Verdict


class Perplexity(NamedTuple):
    """A printed perplexity. row, parameters: as printed, "Mamba (S., Eq. 5)" and "30.1M"."""

    model: str
    row: str
    value: float
    parameters: str


@cache
def table1() -> tuple[Perplexity, ...]:
    """The rows of Table 1 (right), the lowest perplexity first."""
    text = files("expbench.published").joinpath("table1.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["metric"] == "perplexity"]
    found = (Perplexity(row["our_name"], row["model"], float(row["value"]), row["parameters"]) for row in rows)
    return tuple(sorted(found, key=lambda row: row.value))


def orders(task: str) -> tuple[Claim, ...]:
    """Of each two models of Table 1 (right), that the one has the lower perplexity on a task which has it there."""
    return tuple(Claim(f"{low.model} < {high.model}", task) for low, high in combinations(table1(), 2))


def beside_table1(published: Perplexity, cell: Cell, values: Sequence[float]) -> tuple[Interval, str]:
    """Where the mean of three further seeds lies, by the `values` of ours, and whether the printed number is there.

    A perplexity is comparable to one of the same text in the same tokens, of a model of the same size; else it is said what
    differs. Of one seed alone nothing is known of further ones.
    """
    ours = further_interval(values)  # of the few seeds that texts have, a bootstrap is too narrow
    known = json.loads(cell.each("task_settings")[0]) | {name: cell[name] for name in ("L", "D", "depth")}
    apart = [f"{name}={known.get(name)}" for name, meant in _OF_TABLE1.items() if known.get(name) != meant]
    if apart:
        return ours, f"not comparable ({', '.join(apart)})"
    if len(values) < 2:
        return ours, "not comparable (one seed)"
    return ours, "reproduces" if ours.low <= published.value <= ours.high else "differs"


@cache
def table2() -> tuple[Published, ...]:
    """The rows of Table 2."""
    text = files("expbench.published").joinpath("table2.csv").read_text(encoding="utf-8")
    return tuple(_published(row) for row in csv.DictReader(text.splitlines()))


def _published(row: dict[str, str]) -> Published:
    parameters = int(row["parameters"])
    D, head = (int(row["D"]), None) if row["D"] else _IMPLIED[parameters]
    positions = "sin" if row["positions"] == "yes" else "none"
    where = (_MODELS[row["model"]], positions, int(row["layers"]), D, head)
    return Published(row["task"], *where, row["metric"], float(row["value"]), parameters)


def entries(frame: pd.DataFrame, cells: Sequence[Cell]) -> list[Entry]:
    """Each published number with each of our cells that may be meant; `frame`: the rows that the cells are of."""
    runs = (frame["kind"] == "run") & (frame["status"] == "ok")
    test = frame[runs & (frame["split"] == "test") & (frame["slice"] == "")]
    by_metric = {str(metric): dict(zip(own["key"], own["value"], strict=True)) for metric, own in test.groupby("metric")}
    return [entry for published in table2() for entry in _entries(published, cells, by_metric)]


def _entries(published: Published, cells: Sequence[Cell], values: dict[str, dict[str, float]]) -> Iterator[Entry]:
    meant = [cell for cell in cells if _may_be(published, cell)]
    if not meant:
        yield Entry(published, None, None, "not run")
    percent = published.metric == "accuracy_percent"
    for cell in meant:
        mine = values.get("accuracy" if percent else "mse", {})
        by_instance: dict[int, list[float]] = {}
        for instance, key in zip(cell.each("instance"), cell.each("key"), strict=True):
            own = by_instance.setdefault(instance, [])
            own += [mine[key] * (100 if percent else 1)] if key in mine else []
        ours = further_mean_interval(list(by_instance.values()))
        verdict: Verdict = "not comparable" if not percent else "differs"
        if percent and ours.low <= published.value <= ours.high:
            verdict = "reproduces"
        yield Entry(published, cell, ours, verdict)


def _may_be(published: Published, cell: Cell) -> bool:
    fixed = ("task", "model", "positions", "depth", "D")
    if not cell.values or any(cell[name] != getattr(published, name) for name in fixed):
        return False
    task = json.loads(cell.each("task_settings")[0])
    return all(task.get(name) == value for name, value in _RECONSTRUCTED[published.task].items())


def table(found: Sequence[Entry]) -> Table:
    """A line for each published number and each setting of ours."""
    header = ["published row", "verdict", "published", "ours: mean of 3 seeds", "95 % of such means"]
    header += ["parameters", "parameters here", "setting here"]
    lines = []
    for entry in found:
        row = [entry.published.row, entry.verdict, number(entry.published.value)]
        printed = str(entry.published.parameters)
        if entry.cell is None or entry.ours is None:
            lines.append([*row, "-", "-", printed, "-", "-"])
            continue
        spread = f"{number(entry.ours.low)} to {number(entry.ours.high)}"
        parts = [str(entry.cell["context"]), *around(entry.cell, found), *_layout(entry.cell)]
        setting = ", ".join(part for part in parts if part)
        lines.append([*row, number(entry.ours.center), spread, printed, str(entry.cell["parameters"]), setting])
    cells = [[entry.cell] if entry.cell else [] for entry in found]
    return Table("Published numbers and ours", header, lines, cells)


def summary(found: Sequence[Entry]) -> str:
    """Where the numbers come from, and how many have which verdict."""
    counts = Counter(str(entry.verdict) for entry in found)
    return f"Published: {SOURCE}. {', '.join(f'{verdict}: {n}' for verdict, n in sorted(counts.items()))}."


def around(cell: Cell, found: Sequence[Entry]) -> list[str]:
    """The norm of a cell; and its steps, where entries differ in them."""
    lengths = {entry.cell["steps"] for entry in found if entry.cell}
    return [f"norm={cell['norm']}", *([f"steps={cell['steps']}"] if len(lengths) > 1 else [])]


def _layout(cell: Cell) -> list[str]:
    layout = json.loads(cell["model_settings"]).get("layout")
    return [f"layout={layout}"] if layout else []

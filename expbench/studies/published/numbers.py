"""Published numbers: Tables 1 and 2 of arXiv 2502.02209v1, as printed, and what they imply."""

from __future__ import annotations

import csv
from functools import cache
from importlib.resources import files
from itertools import combinations
from typing import NamedTuple

from expbench.claims.claim import Claim

SOURCE = "arXiv 2502.02209v1, Table 2, means of three seeds"
TEXT_SOURCE = "arXiv 2502.02209v1, Table 1 (right), WikiText-103, means of three seeds"
_MODELS = {"S6": "s6", "Self-Attention": "attn"}
# The paper does not print the widths of the counting rows. Only these widths give the printed parameter counts of embedding,
# head and layers: 2 with a scalar head, 4 with a head of 20 classes.
_IMPLIED = dict.fromkeys((35, 63, 29, 51, 95), (2, "scalar")) | dict.fromkeys((176, 244, 380), (4, "classes"))


class Published(NamedTuple):
    """A printed number. D, head: as printed, or implied by the number of parameters (None: neither)."""

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
        """Label of the row in the paper's table."""
        with_code = "with" if self.positions == "sin" else "without"
        layers = "layer" if self.depth == 1 else "layers"
        return f"{self.task}: {self.model}, {with_code} position code, {self.depth} {layers}, D={self.D}"


class Perplexity(NamedTuple):
    """A printed perplexity. row, parameters: as printed, "Mamba (S., Eq. 5)" and "30.1M"."""

    model: str
    row: str
    value: float
    parameters: str


@cache
def table1() -> tuple[Perplexity, ...]:
    """Return the rows of Table 1 (right), lowest perplexity first."""
    text = files("expbench.studies.published").joinpath("table1.csv").read_text(encoding="utf-8")
    rows = [row for row in csv.DictReader(text.splitlines()) if row["metric"] == "perplexity"]
    found = (Perplexity(row["our_name"], row["model"], float(row["value"]), row["parameters"]) for row in rows)
    return tuple(sorted(found, key=lambda row: row.value))


def orders(task: str) -> tuple[Claim, ...]:
    """Return a claim for each pair of models in Table 1 (right): the printed order of perplexities holds on a task."""
    return tuple(Claim(f"{low.model} < {high.model}", task) for low, high in combinations(table1(), 2))


@cache
def table2() -> tuple[Published, ...]:
    """Return the rows of Table 2."""
    text = files("expbench.studies.published").joinpath("table2.csv").read_text(encoding="utf-8")
    return tuple(_published(row) for row in csv.DictReader(text.splitlines()))


def _published(row: dict[str, str]) -> Published:
    parameters = int(row["parameters"])
    D, head = (int(row["D"]), None) if row["D"] else _IMPLIED[parameters]
    positions = "sin" if row["positions"] == "yes" else "none"
    where = (_MODELS[row["model"]], positions, int(row["layers"]), D, head)
    return Published(row["task"], *where, row["metric"], float(row["value"]), parameters)

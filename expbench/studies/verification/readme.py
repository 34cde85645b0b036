"""Computations of README.md: the degrees of the layers, measured in results/theory, and what the project requires."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence

import pandas as pd

from expbench.studies.verification.page import Page, Statement, Unverified
from expbench.studies.verification.tables import Tables

_SIZES = "measured with du after an installation"


def _one_layer(t: Tables, model: str) -> pd.DataFrame:
    """Return the measured degrees and orders of one layer, by length."""
    every = t.parquet("theory/degree.parquet")
    own = every[(every["model"] == model) & (every["depth"] == 1)].sort_values("L")
    known = own.dropna(subset=["measured_degree"])
    if known["measured_degree"].ne(known["formula_degree"]).any():
        raise ValueError(f"a measured degree of {model} differs from its formula")
    return own


def _constant(t: Tables, model: str) -> tuple[str, str]:
    """Return the degree of a layer and the positions that it combines, if they are the same at all lengths."""
    (degree,), (order,) = (
        set(_one_layer(t, model)[f"measured_{name}"].dropna().astype(int)) for name in ("degree", "order")
    )
    return str(degree), str(order)


def _beyond(t: Tables, model: str) -> int:
    """Return the degree beyond a p for each position before the last: what the measured line gives at L = 1."""
    degrees = _one_layer(t, model).set_index("L")["measured_degree"].astype(int)
    slope = (degrees[4] - degrees[2]) // 2
    if any(degrees[length] - degrees[2] != slope * (length - 2) for length in degrees.index):
        raise ValueError(f"the degree of {model} is not a line in L")
    return int(degrees[2] - slope)


def _polynomial_s6(t: Tables) -> Sequence[str]:
    p = 2  # the cubic coefficient of softplus about 0 is 0
    return str(_beyond(t, "s6-poly-disc") - p), str(_beyond(t, "s6-poly"))


def _polyattn(t: Tables) -> Sequence[str]:
    degree, order = _constant(t, "polyattn")
    (settings,) = set(_one_layer(t, "polyattn")["settings"])
    return str(int(degree) - 2 * json.loads(settings)["taylor"]), order


def _python(t: Tables) -> Sequence[str]:
    project = tomllib.loads((t.root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return (project["requires-python"].removeprefix(">="),)


PAGE = Page(
    "README.md",
    (
        Statement("linear attention computes polynomials of degree {} that", lambda t: _constant(t, "linattn")[:1]),
        Statement("You need Python {} or newer", _python),
        Statement("exp | (L-1)ap + p + {}, all |", lambda t: _polynomial_s6(t)[:1]),
        Statement("(Eq. 5) | (L-1)ap + {}, all |", lambda t: _polynomial_s6(t)[1:]),
        Statement("| `ssm` | a time-invariant diagonal state-space layer | {}, {} |", lambda t: _constant(t, "ssm")),
        Statement("| `linattn` | linear attention | {}, {} |", lambda t: _constant(t, "linattn")),
        Statement("of degree P for exp | 2P+{}, {} |", _polyattn),
    ),
    names=("arXiv {}", "Table {}", "Theorem {}", "Eq. {}"),
    exceptions=(
        Unverified("about 190 MB", _SIZES),
        Unverified("about 1.5 GB", _SIZES),
        Unverified("about 2.9 GB", _SIZES),
        Unverified("(1 GB of this is Triton)", _SIZES),
        Unverified("L + 3, all |", "the formula of Theorem 2, checked in tests/theory; the table lacks this model"),
    ),
)

"""The rows of `expbench bench scan` as text: a line of progress per case, and a table at the end."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from expbench.bench.cases import Case
from expbench.console.formatting import aligned, number

Row = Mapping[str, Any]


def title(row: Row) -> str:
    """Return the case of a row as one line of text."""
    return Case(**{name: row[name] for name in Case._fields}).title()


def progress(rows: Sequence[Row]) -> str:
    """Return one line with the times of a measured case, whose rows are given."""
    parts = []
    for row in rows:
        said = f"{number(row['forward_ms'])} + {number(row['backward_ms'])} ms" if row["status"] == "ok" else row["status"]
        parts.append(f"{row['backend']} {said}")
    return f"{title(rows[0])}: {', '.join(parts)}"


def text(rows: Sequence[Row]) -> str:
    """Return the table as text, followed by errors and by the speed-up of torch over the plain loop."""
    exp = any("share_of_exp_forward" in row for row in rows)
    mamba = any("times_mamba_forward" in row for row in rows)
    peak = any(row.get("peak_bytes") is not None for row in rows)
    header = ["case", "dtype", "gate", "transition", "backend", "fwd ms", "+-", "bwd ms", "+-", "fwd ps", "bwd ps"]
    header += ["of copy fwd", "bwd", *(["of exp fwd", "bwd"] if exp else []), *(["x mamba fwd", "bwd"] if mamba else [])]
    header += ["peak MB"] if peak else []
    lines = [[*header, "error", "same bits"]]
    for row in rows:
        line = [row["case"], row["dtype"], "yes" if row["gate"] else "no", row["transition"], row["backend"]]
        line += [number(row.get(f"{way}_{unit}")) for way in ("forward", "backward") for unit in ("ms", "iqr_ms")]
        line += [number(row.get(f"{way}_ps")) for way in ("forward", "backward")]
        for limit in ("copy", *(["exp"] if exp else [])):
            line += [_percent(row.get(f"share_of_{limit}_{way}")) for way in ("forward", "backward")]
        line += [number(row.get(f"times_mamba_{way}")) for way in ("forward", "backward") if mamba]
        line += [number(row["peak_bytes"] / 1e6) if row.get("peak_bytes") else "-"] if peak else []
        wrong = "" if row["status"] == "ok" else f" {row['status']}"
        bits = row.get("same_bits")
        lines.append([*line, number(row.get("worst_error")) + wrong, "-" if bits is None else "yes" if bits else "no"])
    return "\n".join([aligned(lines), *_remarks(rows)])


def _percent(share: float | None) -> str:
    return "-" if share is None or math.isnan(share) else f"{100 * share:.3g} %"


def _remarks(rows: Sequence[Row]) -> Iterator[str]:
    for row in rows:
        if row["status"] != "ok":
            yield f"{title(row)}: {row['backend']} is {row['status']}: {row['error']}"
        elif row["backend"] == "torch" and "times_reference" in row:
            times = row["times_reference"]
            yield f"{title(row)}: torch is {number(times)} times as fast as reference, forward and backward together"

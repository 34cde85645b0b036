"""Trace: look up a run by its key, with its curve and the command to rerun it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from expbench.console.formatting import aligned, number, visible
from expbench.results.reported import ending
from expbench.results.schema import PROVENANCE
from expbench.results.store import read_run
from expbench.run import Run, command_of

if TYPE_CHECKING:
    from typing import Any


def trace_key(folder: Path, key: str) -> tuple[str, list[str]]:
    """Return a description of the run whose key begins with `key`, and one line for each unreadable file of the folder.

    Raise `BadInput` unless there is exactly one run.
    """
    rows, problems = read_run(folder, key)
    first = rows.iloc[0]
    row = {str(name): value for name, value in first.items()}
    run = Run.from_row(row)
    lines = [["key", first["key"]], ["run", run.title()], ["status", ending(str(first["status"]), first["error"])]]
    if pd.notna(first["error"]):
        lines.append(["error", str(first["error"])])
    lines += [["task settings", str(first["task_settings"])], ["model settings", str(first["model_settings"])]]
    lines += [[name.replace("_", " "), _shown(first[name])] for name in PROVENANCE if name not in ("seconds", "traceback")]
    lines += [["command", command_of(row)]]
    if "text" in run.task_settings and pd.isna(first["local_settings"]):
        lines += [["", "add -t path=FOLDER if the text is in a folder of yours: tables before schema 7 do not name it"]]
    parts = [aligned(lines)]
    if pd.notna(first["traceback"]):
        parts.append(str(first["traceback"]))
    parts += [_curve(rows), _final(rows)]
    if pd.notna(first["weights"]):
        path = folder / str(first["weights"])
        parts.append(
            f"weights: {path}" if path.exists() else "weights: not kept (the seed is neither best, median nor worst)"
        )
    return visible("\n\n".join(part for part in parts if part), keep="\n\t"), problems


def _shown(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return "-" if pd.isna(value) else str(value)


def _curve(rows: pd.DataFrame) -> str:
    """Return a table of the training loss and the primary metric on the validation split by step."""
    whole = rows[rows["slice"].fillna("") == ""]
    whole = whole.drop_duplicates(["split", "metric", "step"])
    loss = whole[(whole["split"] == "train") & (whole["metric"] == "loss")].set_index("step")["value"]
    primary = whole[(whole["split"] == "validation") & whole["primary"].eq(True)]
    if loss.empty:
        return ""
    metric = primary["metric"].iloc[0] if not primary.empty else "metric"
    values = primary.drop_duplicates("step").set_index("step")["value"]
    lines = [["step", "train loss", f"validation {metric}"]]
    lines += [[str(step), number(loss.get(step)), number(values.get(step))] for step in sorted({*loss.index, *values.index})]
    return aligned(lines)


def _final(rows: pd.DataFrame) -> str:
    test = rows[rows["split"] == "test"]
    if test.empty:
        return ""
    names = (test["metric"] + " " + test["slice"].fillna("")).str.strip()
    return "test: " + ", ".join(f"{name} {number(value)}" for name, value in zip(names, test["value"], strict=True))

"""Compact: merge the files of a results folder into one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from expbench.errors import BadInput
from expbench.results.reported import endings
from expbench.results.schema import SCHEMA
from expbench.results.store import read, write_table

if TYPE_CHECKING:
    import pandas as pd


def collect(
    runs: Path, folder: Path, name: str, keep: Callable[[pd.DataFrame], pd.Series[bool]] | None = None
) -> pd.DataFrame:
    """Write the rows of the folder `runs`, or those that `keep` marks, into one file ``folder/name.parquet``; return them.

    Times are rounded to milliseconds, since finer digits are noise. Raise `BadInput` for an unreadable file.
    """
    frame, problems = read(runs)
    if problems:
        raise BadInput(problems[0])
    if keep is not None:
        frame = frame[keep(frame)]
    frame = frame.round({"seconds": 3, "run_seconds": 3})
    frame = frame.sort_values(["task", "kind", "key", "model", "split", "step", "metric", "slice"], kind="stable")
    folder.mkdir(parents=True, exist_ok=True)
    write_table(folder, name, pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False))
    return frame


def compact(folder: Path, *, curves: bool = True) -> Path:
    """Merge a folder into ``table.parquet``, without curves only its `endings`; remove the merged files; return the path."""
    before = [path for path in folder.glob("*.parquet") if path.stem != "table"]
    collect(folder, folder, "table", None if curves else endings)
    for path in before:  # files written in the meantime stay
        path.unlink(missing_ok=True)
    return folder / "table.parquet"

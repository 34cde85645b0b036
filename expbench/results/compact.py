"""Compact: the files of a results folder in one."""

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
    """Write every row set in the folder `runs`, or those rows that `keep` marks, into the one file ``folder/name.parquet``.

    Times are kept to the millisecond, for what lies below is noise. Returns the rows that were written.
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
    """Put all that a folder holds, or without curves its `endings`, into ``table.parquet``; remove the files it was in."""
    before = [path for path in folder.glob("*.parquet") if path.stem != "table"]
    collect(folder, folder, "table", None if curves else endings)
    for path in before:  # what was written meanwhile stays
        path.unlink(missing_ok=True)
    return folder / "table.parquet"

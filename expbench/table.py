"""The results table: one fixed, versioned Parquet schema, one row a measured number, one file a finished unit of work.

A file is replaced, never appended to. Processes may share a folder and may even finish the same run twice: a reader keeps
one row set a key. results/README.md explains the columns.
"""

from __future__ import annotations

import math
import os
import re
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from expbench import files
from expbench.errors import BadInput, unknown
from expbench.run import LATER

if TYPE_CHECKING:
    import pandas as pd

VERSION = 4
_READ = (1, 2, 3, 4)  # of an older schema, columns that it lacks are null, or as `LATER` has them
_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
COLUMNS: dict[str, pa.DataType] = {
    # what was run; `kind` is run, tuning (chose a learning rate), or baseline, oracle, positive or chance for a control
    "key": _TEXT,
    "kind": _TEXT,
    "status": _TEXT,
    "error": _TEXT,
    "traceback": _TEXT,
    "task": _TEXT,
    "task_version": _TEXT,
    "task_settings": _TEXT,
    "L": _WHOLE,
    "degree": _WHOLE,
    "instance": _WHOLE,
    "model": _TEXT,
    "model_version": _TEXT,
    "model_settings": _TEXT,
    "D": _WHOLE,
    "depth": _WHOLE,
    "norm": _TEXT,
    "positions": _TEXT,
    "residual": _FLAG,
    "skip": _FLAG,
    "steps": _WHOLE,
    "warmup": _WHOLE,
    "batch_size": _WHOLE,
    "lr": _REAL,
    "weight_decay": _REAL,
    "clip": _REAL,
    "seed": _WHOLE,
    "dtype": _TEXT,
    "init": _TEXT,
    "init_noise": _REAL,
    # what was measured
    "split": _TEXT,
    "slice": _TEXT,
    "step": _WHOLE,
    "metric": _TEXT,
    "value": _REAL,
    "headline": _FLAG,
    "higher_is_better": _FLAG,
    "solved_at": _REAL,
    "seconds": _REAL,
    # what is known of the network and of the labels
    "parameters": _WHOLE,
    "state_size": _WHOLE,
    "flops_per_token": _REAL,
    "network_degree": _WHOLE,
    "network_order": _WHOLE,
    "floor": _REAL,
    "floor_degree": _REAL,
    "floor_structure": _REAL,
    "label_kurtosis": _REAL,
    "label_interaction_order": _REAL,
    "effective_sample_size": _REAL,
    "well_posed": _FLAG,
    # where it comes from
    "run_seconds": _REAL,
    "created": pa.timestamp("ms", tz="UTC"),
    "device": _TEXT,
    "device_name": _TEXT,
    "precision": _TEXT,
    "backend": _TEXT,
    "stack_size": _WHOLE,
    "alone_because": _TEXT,
    "eager_because": _TEXT,
    "expbench": _TEXT,
    "python": _TEXT,
    "torch": _TEXT,
    "git_commit": _TEXT,
    "task_origin": _TEXT,
    "model_origin": _TEXT,
    "weights": _TEXT,
}
SCHEMA = pa.schema(list(COLUMNS.items()), metadata={"expbench_schema": str(VERSION)})
PROVENANCE = [*list(COLUMNS)[list(COLUMNS).index("run_seconds") :], "seconds", "traceback"]  # not part of the result


TRAINED = ("run", "tuning")  # kinds of rows that a network was trained for; the others are of controls
NAMED = re.compile("[0-9a-f]{16}")  # a file of one run, by its key


class Results(NamedTuple):
    """The rows of a folder, one row set a key, and one line for each file that could not be read."""

    frame: pd.DataFrame
    problems: list[str]


def write(folder: Path, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
    """Write rows as ``folder/name.parquet``, replacing such a file in one stroke; columns not given are null."""
    return _write(folder, name, pa.Table.from_pylist([dict(row) for row in rows], schema=SCHEMA))


def _write(folder: Path, name: str, table: pa.Table) -> Path:
    target = folder / f"{name}.parquet"
    with files.replacing(target) as aside, aside.open("wb") as file:  # closed before it is renamed
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    return target


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
    _write(folder, name, pa.Table.from_pandas(frame, schema=SCHEMA, preserve_index=False))
    return frame


def reported(frame: pd.DataFrame) -> pd.Series[bool]:
    """Marks the headline metric on the selection and test splits as a run is reported by it: as it was measured last.

    Of a run that was trained in epochs as it was after the one with the best value on the selection split, the first of
    equals.
    """
    shown = frame["headline"].fillna(False).astype(bool) & frame["split"].isin(["selection", "test"])
    rows = frame.loc[shown, ["key", "split", "step", "value", "higher_is_better"]]
    at = rows.groupby(["key", "split"])["step"].transform("max")
    epochs = rows[(rows["split"] == "selection") & rows["key"].isin(_in_epochs(frame)) & rows["value"].notna()]
    if len(epochs):
        loss = epochs["value"].where(~epochs["higher_is_better"].astype(bool), -epochs["value"])
        best = epochs.assign(loss=loss).sort_values(["loss", "step"], kind="stable").drop_duplicates("key")
        at = rows["key"].map(best.set_index("key")["step"]).fillna(at)
    shown[shown] = (rows["step"] == at).to_numpy()
    return shown


def _in_epochs(frame: pd.DataFrame) -> pd.Series[str]:
    """The keys of the runs that were trained in epochs."""
    return frame.loc[frame["metric"] == "epoch", "key"]


def choosing(frame: pd.DataFrame) -> pd.Series[bool]:
    """Marks what a learning rate is chosen by: the headline metric on the selection split, as a run is reported by it."""
    return reported(frame) & (frame["split"] == "selection")


def endings(frame: pd.DataFrame) -> pd.Series[bool]:
    """Marks what whole splits gave after the last step; of a run that chose a learning rate only what it was chosen by, and
    that it was trained in epochs.

    Of a run that ended before its last step, what was measured last. Of one that was trained in epochs what whole splits and
    models gave after each: one of these is chosen where it is reported.
    """
    whole = frame["slice"] == ""
    unmeasured = frame["metric"].isna()
    broken_off = whole & (frame["status"] != "ok") & (frame["step"] == frame.groupby("key")["step"].transform("max"))
    last = whole & (frame["step"] == frame["steps"]) & frame["split"].isin(["selection", "test"])
    run = (frame["kind"] == "run") & last
    in_epochs = (frame["kind"] == "run") & frame["key"].isin(_in_epochs(frame))
    epochs = in_epochs & ~frame["slice"].fillna("").str.startswith("layer=")
    control = whole & ~frame["kind"].isin(TRAINED)
    tuning = (frame["kind"] == "tuning") & (choosing(frame) | (frame["metric"] == "epoch"))
    return unmeasured | broken_off | run | epochs | control | tuning


def compact(folder: Path, *, curves: bool = True) -> Path:
    """Put all that a folder holds, or without curves its `endings`, into ``table.parquet``; remove the files it was in."""
    before = [path for path in folder.glob("*.parquet") if path.stem != "table"]
    collect(folder, folder, "table", None if curves else endings)
    for path in before:  # what was written meanwhile stays
        path.unlink(missing_ok=True)
    return folder / "table.parquet"


def named_folder(path: str, option: str = "--results", example: str = "results") -> Path:
    """The folder that `option` names, there or not; raises `BadInput` if the name is empty, which is no folder's."""
    if not path:
        raise BadInput(f"{option}: the name of the folder is empty; name one, as {option} {example}")
    return Path(path)


def open_folder(path: str, option: str = "--results", example: str = "results") -> Path:
    """Create the folder that `option` names if need be and make sure that it can be written; raises `BadInput` otherwise."""
    folder = named_folder(path, option, example)
    probe = folder / f".{uuid.uuid4().hex[:8]}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        files.sweep_away(folder)
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(
            f"{option}: {path!r} cannot be written ({reason}); name a folder that can, as {option} {example}"
        ) from error
    return folder


def existing_folder(path: str) -> Path:
    """The results folder; raises `BadInput`, naming the nearest folder beside it, if there is none."""
    folder = Path(path)
    if not folder.is_dir():
        parent = folder.parent
        beside = [str(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        raise unknown("results folder", path, [name for name in beside if not Path(name).name.startswith((".", "_"))])
    return folder


def existing(path: str) -> Path:
    """A results folder, or one file of such; raises `BadInput`, naming the nearest of either kind, if it is neither."""
    found = Path(path)
    if path and (found.is_dir() or (found.is_file() and found.suffix == ".parquet")):
        return found
    if path and found.is_file():
        raise BadInput(f"{path} is no .parquet file; name a results folder, or one .parquet file of such")
    beside = list(found.parent.iterdir()) if found.parent.is_dir() else []
    known = [p for p in beside if p.is_dir() or p.suffix == ".parquet"]
    raise unknown("results folder or file", path, [str(p) for p in known if not p.name.startswith((".", "_"))])


def read(source: Path, columns: Sequence[str] = SCHEMA.names) -> Results:
    """The rows of every results file in a folder, or of one file; those not ours or not whole are named and left alone.

    Where a key has several row sets, one that is not a failure is kept before one that is, then the latest. columns: what
    is read; key, status and created among it.
    """
    tables, problems = _read_files(source, list(columns))
    sets = [t.append_column("file", pa.repeat(pa.scalar(i, pa.int64()), len(t))) for i, t in enumerate(tables)]
    empty = SCHEMA.empty_table().select(list(columns)).append_column("file", pa.array([], pa.int64()))
    frame = pa.concat_tables([empty, *sets]).to_pandas()
    kept = frame[["key", "file", "status", "created"]].drop_duplicates(["key", "file"])
    kept = kept.assign(finished=kept["status"] != "failed").sort_values(["finished", "created", "file"])
    kept = kept.drop_duplicates("key", keep="last")[["key", "file"]]
    return Results(frame.merge(kept, on=["key", "file"], how="inner").drop(columns="file"), problems)


def rows_of_run(frame: pd.DataFrame, key: str) -> pd.DataFrame:
    """The rows of the one run whose key begins with `key`; raises `BadInput` if there is none or more than one."""
    runs = frame[frame["kind"] == "run"]
    keys = sorted(k for k in runs["key"].unique() if k.startswith(key)) if key else []
    if len(keys) != 1:
        raise unknown("run" if not keys else "single run (several begin so)", key, keys or list(runs["key"].unique())[:20])
    rows: pd.DataFrame = runs[runs["key"] == keys[0]]
    return rows


_ended: dict[Path, tuple[tuple[int, int, int], dict[str, str]]] = {}  # of each file that was read, while it stays the same


def statuses(folder: Path) -> tuple[dict[str, str], list[str]]:
    """How the unit of each key in the folder ended, and one line for each file that could not be read. Without pandas.

    A file is read again only when it has been replaced: those who share a folder look often.
    """
    stamps = {}
    for entry in os.scandir(folder):
        if entry.name.endswith(".parquet"):
            with suppress(FileNotFoundError):  # gone since: it was compacted
                about = entry.stat()
                stamps[folder / entry.name] = (about.st_mtime_ns, about.st_size, about.st_ino)
    changed = sorted(path for path, stamp in stamps.items() if path not in _ended or _ended[path][0] != stamp)
    problems = []
    for path, found in zip(changed, _map_files(changed, ["key", "status"]), strict=True):
        _ended.pop(path, None)
        if isinstance(found, str):
            problems.append(found)
        else:
            ended = set(zip(found["key"].to_pylist(), found["status"].to_pylist(), strict=True))
            _ended[path] = stamps[path], dict(sorted(ended, key=lambda e: e[1] != "failed"))
    status: dict[str, str] = {}
    for path in sorted(stamps):
        for key, how in _ended.get(path, (None, {}))[1].items():
            if status.get(key, "failed") == "failed":
                status[key] = how
    return status, problems


def selected(folder: Path, keys: Set[str]) -> dict[str, float]:
    """Of these runs the headline metric on the selection split, as `choosing` marks it. Without pandas.

    NaN of one that diverged; one that failed, or whose model is not supported, is left out.
    """
    names = ["key", "status", "split", "step", "steps", "metric", "headline", "higher_is_better", "value"]
    found: dict[str, float] = {}
    for path in sorted(folder.glob("*.parquet")):
        own = path.stem in keys
        if not own and NAMED.fullmatch(path.stem):  # another run's
            continue
        part = _read_file(path, names)
        if isinstance(part, str):
            continue
        diverged = part.filter(pc.equal(part["status"], "diverged"))["key"].to_pylist()
        found |= {key: math.nan for key in diverged if key in keys}
        in_epochs = pc.is_in(part["key"], part.filter(pc.equal(part["metric"], "epoch"))["key"].combine_chunks())
        last = pc.or_(in_epochs, pc.equal(part["step"], part["steps"]))
        ended = pc.and_(pc.equal(part["split"], "selection"), pc.equal(part["status"], "ok"))
        part = part.filter(pc.and_(pc.and_(last, part["headline"]), ended))
        best: dict[str, float] = {}  # of its epochs
        for key, value, higher in zip(*(part[n].to_pylist() for n in ("key", "value", "higher_is_better")), strict=True):
            best[key] = (max if higher else min)(value, best.get(key, value))
        found |= {key: value for key, value in best.items() if key in keys}
    return found


def _map_files(paths: Sequence[Path], columns: list[str]) -> list[pa.Table | str]:
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda path: _read_file(path, columns), paths))


def _read_files(source: Path, columns: list[str]) -> tuple[list[pa.Table], list[str]]:
    answers = _map_files([source] if source.is_file() else sorted(source.glob("*.parquet")), columns)
    return [a for a in answers if isinstance(a, pa.Table)], [a for a in answers if isinstance(a, str)]


def _read_file(path: Path, columns: list[str]) -> pa.Table | str:
    try:
        file = pq.ParquetFile(path)
        stored = file.schema_arrow  # which is made anew each time that it is asked for
        version = (stored.metadata or {}).get(b"expbench_schema")
        if version is None:
            return f"{path}: not an expbench results table; it is left alone, move it to another folder"
        if int(version) not in _READ:
            return f"{path}: schema {int(version)}, and this expbench reads up to schema {VERSION}; it is left alone"
        present = set(stored.names)
        found = file.read([name for name in columns if name in present], use_threads=False)  # files are read side by side
        for name in columns:
            if name not in present and int(version) < VERSION:
                meant = pa.scalar(LATER.get(name), SCHEMA.field(name).type)
                found = found.append_column(name, pa.repeat(meant, len(found)))
        found, wanted = found.select(columns), _schema(tuple(columns))
        return found if found.schema.equals(wanted) else found.cast(wanted)
    except (pa.ArrowException, OSError, ValueError, KeyError) as error:
        reason = str(error).partition("\n")[0][:120]
        return f"{path}: corrupt ({reason}); it is left alone, move it to another folder"


@lru_cache(maxsize=8)
def _schema(columns: tuple[str, ...]) -> pa.Schema:
    return pa.schema([SCHEMA.field(name) for name in columns])


def finished(folder: Path, key: str) -> bool:
    """Whether the unit of that key has a file of its own with a result that is no failure, written by any process."""
    path = folder / f"{key}.parquet"
    if not path.exists():
        return False
    answer = _read_file(path, ["key", "status"])
    return isinstance(answer, pa.Table) and "failed" not in answer["status"].to_pylist()

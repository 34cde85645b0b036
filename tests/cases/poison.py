"""Results folders with a damaged or poisoned file beside whole ones, and what the commands that read them do.

    python -m tests.cases.poison [EVERY]

makes more than 200 such folders (or every EVERY-th) and runs report, trace, compare and compact on each: none may end with a
traceback, take long, or write outside the folder.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from expbench.cli.main import main as command_line
from expbench.results import store
from expbench.results.schema import COLUMNS, SCHEMA
from tests.results.rows import SETTINGS, control, trained

LONGEST = 60  # seconds of one command
KEY, WHOLE = "0123456789abcdef", ("aaaaaaaaaaaaaaaa", "bbbbbbbbbbbbbbbb")
NAMES = [
    "../x",
    "../../x",
    "a/b",
    "/etc/x",
    "a\\b",
    "\x1b[31mred",
    "two\nlines",
    "\x00",
    r"$\frac{",
    "$",
    "<script>",
    "..",
    "",
    "x" * 100_000,
]
SETTINGS_TEXTS = [
    *("", "null", "1", "[]", "{", '"text"', "{}", '{"L":[1]}', '{"L":null}', '{"L":"four"}', '{"L":NaN}', '{"L":1e400}'),
    *('{"L":{"a":1}}', "[" * 100_000, '{"L":4,"x\\n":1}', json.dumps({"L": 10**30})),
    json.dumps({"L": 4, "a": "x" * 200_000}), SETTINGS.replace('"test_size":64', '"test_size":"many"'),
    SETTINGS.replace('"instance":0', '"instance":0.5'),
]  # fmt: skip
NUMBERS = {
    "lr": [float("nan"), float("inf"), -1.0, 0.0, 1e308],
    "weight_decay": [float("nan")], "clip": [float("inf"), -1.0], "init_noise": [float("nan")],
    "value": [float("nan"), float("inf"), -float("inf"), 1e308, -1e308, 5e-324],
    "success_threshold": [float("nan"), float("inf"), 1e308], "floor": [float("nan"), float("inf"), -1.0, 1e308],
    "label_kurtosis": [float("nan"), float("inf")], "flops_per_token": [float("nan"), float("inf"), -1.0],
    "seconds": [float("nan"), float("inf")], "run_seconds": [float("inf"), -1.0],
    "D": [-5, 0, 2**62], "depth": [-1, 0, 2**62], "steps": [-1, 0, 2**62], "step": [-1, 2**62], "seed": [-1, 2**60],
    "L": [-1, 0, 2**62], "degree": [-1, 2**62], "instance": [-1, 2**62], "batch_size": [-1, 2**62], "warmup": [-1],
    "parameters": [-1, 2**62], "state_size": [-1], "network_degree": [-1, 2**63 - 1], "network_order": [2**63 - 1],
    "stack_size": [-1],
}  # fmt: skip


class Poison(NamedTuple):
    """A way to spoil a folder: its name, and what writes the file."""

    name: str
    spoil: Callable[[Path], object]


def rows(key: str, model: str, **columns: Any) -> list[dict[str, Any]]:
    """The rows of a run: a curve, a validation and a test split."""
    scores = [
        ("train", 0, "loss", 1.0),
        ("validation", 0, "nmse", 0.9),
        ("train", 1, "loss", 0.5),
        ("validation", 1, "nmse", 0.5),
    ]
    scores += [("test", 1, "nmse", 0.4), ("test", 1, "mse", 0.3)]
    return [
        trained(key=key, model=model, seed=0, metric=metric, split=split, step=step, value=value, slice="", **origin())
        | {"primary": metric == "nmse", "created": 1_700_000_000_000, "seconds": 1.0, "run_seconds": 2.0}
        | columns
        for split, step, metric, value in scores
    ]


def origin() -> dict[str, Any]:
    """The provenance of a run."""
    return {"device": "cpu", "device_name": "a CPU", "precision": "float32", "expbench": "0.1.0", "torch": "2",
            "python": "3", "task_origin": "built-in", "model_origin": "built-in", "parameters": 10, "degree": 2}  # fmt: skip


def unsealed(path: Path, table: pa.Table, version: object = 6) -> None:
    """Write a table as an expbench without digests did."""
    pq.write_table(table.replace_schema_metadata({"expbench_schema": str(version)}), path)


def healthy(folder: Path) -> None:
    """Write two whole runs and a control."""
    for key, model in zip(WHOLE, ("s6", "attn"), strict=True):
        store.write(folder, key, rows(key, model))
    store.write(folder, "c" * 16, [control(key="c" * 16, metric="nmse", value=1.0, split="test", slice="", primary=True)])


def poisons() -> Iterator[Poison]:
    """Yield every poison."""
    table = pa.Table.from_pylist(rows(KEY, "linattn"), schema=SCHEMA)
    yield from _types(table)
    yield from _values(table)
    yield from _files(table)


def _types(table: pa.Table) -> Iterator[Poison]:
    others = [pa.array([["a"]] * len(table)), pa.array([{"a": 1}] * len(table)), pa.array(["x"] * len(table)),
              pa.array([1.5] * len(table)), pa.array([2**62] * len(table)), pa.array([b"\xff\xfe"] * len(table)),
              pa.nulls(len(table))]  # fmt: skip
    for i, name in enumerate(COLUMNS):
        other = others[i % len(others)]
        changed = table.set_column(i, name, other)
        yield Poison(f"{name} as {other.type}", lambda f, t=changed: unsealed(f / f"{KEY}.parquet", t))
        empty = table.set_column(i, name, pa.nulls(len(table), COLUMNS[name]))
        yield Poison(f"{name} is null", lambda f, t=empty: unsealed(f / f"{KEY}.parquet", t))


def _values(table: pa.Table) -> Iterator[Poison]:
    texts = dict.fromkeys(("task", "model"), NAMES)
    texts |= {name: NAMES[i::5] for i, name in enumerate(n for n, kind in COLUMNS.items() if kind == pa.string())} | texts
    texts |= {"task_settings": SETTINGS_TEXTS, "model_settings": SETTINGS_TEXTS[::3], "weights": ["../../x", "weights/../x"]}
    for name, values in [*texts.items(), *NUMBERS.items()]:
        for value in values:
            yield Poison(f"{name} = {ascii(value)[:40]}", lambda f, n=name, v=value: _write(f, table, n, v))


def _write(folder: Path, table: pa.Table, name: str, value: Any) -> None:
    """Write the table with one value in a whole column, with a digest, as a foreign program with our code could."""
    column = pa.array([value] * len(table), COLUMNS[name])
    store.write_table(folder, KEY, table.set_column(table.column_names.index(name), name, column))


def _files(table: pa.Table) -> Iterator[Poison]:
    other = table.set_column(0, "key", pa.array(["f" * 16] * len(table)))
    whole = io.BytesIO()
    pq.write_table(table.replace_schema_metadata({"expbench_schema": "6"}), whole)
    data, name = whole.getvalue(), f"{KEY}.parquet"
    for share in range(0, 100, 10):
        yield Poison(f"truncated to {share} %", lambda f, n=share: (f / name).write_bytes(data[: len(data) * n // 100]))
    for version in (0, -1, 99, "x", "", "6.0", 10**30):
        yield Poison(f"schema {version}", lambda f, v=version: unsealed(f / name, table, v))
    yield Poison("no schema", lambda f: pq.write_table(table.replace_schema_metadata(None), f / name))
    yield Poison("no digest", lambda f: unsealed(f / name, table, SCHEMA.metadata[b"expbench_schema"].decode()))
    yield Poison("random bytes", lambda f: (f / name).write_bytes(b"PAR1" + bytes(range(256)) * 40 + b"PAR1"))
    yield Poison("no columns", lambda f: unsealed(f / name, table.select(["key"])))
    yield Poison("no rows", lambda f: unsealed(f / name, table.slice(0, 0)))
    yield Poison("every row twice", lambda f: unsealed(f / name, pa.concat_tables([table, table])))
    yield Poison("two keys", lambda f: unsealed(f / f"{WHOLE[0]}.parquet", pa.concat_tables([table, other])))
    yield Poison("the file of another key", lambda f: store.write_table(f, "d" * 16, table))
    yield Poison("a pipe", lambda f: os.mkfifo(f / name))
    yield Poison("a folder", lambda f: (f / name).mkdir())
    yield Poison("a link outside", lambda f: (f / name).symlink_to(f.parent / "outside.parquet"))
    yield Poison("a link to nothing", lambda f: (f / name).symlink_to(f / "nothing.parquet"))
    yield Poison("a link to itself", lambda f: (f / name).symlink_to(f / name))
    yield Poison("a link to /dev/zero", lambda f: (f / name).symlink_to("/dev/zero"))
    yield Poison("100 million null rows", lambda f: nulls(f / name, 100_000_000))
    yield Poison("20 million null rows", lambda f: nulls(f / name, 20_000_000))
    yield Poison("a long text often", lambda f: unsealed(f / name, often(table, "x" * 1_000_000, 20_000)))
    yield Poison("a table that is no table", lambda f: (f / "table.parquet").write_text("no table"))
    yield Poison("a name of two lines", lambda f: (f / "two\nlines\x1b[31m.parquet").write_text("no table"))


def nulls(path: Path, count: int) -> None:
    """Write a short file of many rows without a value."""
    part = pa.table({name: pa.nulls(1_000_000, kind) for name, kind in COLUMNS.items()})
    with pq.ParquetWriter(path, part.schema.with_metadata({"expbench_schema": "6"}), compression="zstd") as writer:
        for _ in range(count // 1_000_000):
            writer.write_table(part, row_group_size=1_000_000)


def often(table: pa.Table, text: str, count: int) -> pa.Table:
    """Return many rows of a run with one long text, which takes little room in a file."""
    columns = {name: pa.repeat(table[name][0], count) for name in table.column_names}
    column = pa.DictionaryArray.from_arrays(pa.repeat(pa.scalar(0, pa.int32()), count), pa.array([text]))
    return pa.table(columns | {"error": column})


def commands(folder: Path) -> list[list[str]]:
    """Return the commands that read a results folder; `compact` is the last."""
    good = str(folder.parent / "good")
    return [["report", "--results", str(folder)], ["trace", KEY, "--results", str(folder)],
            ["trace", WHOLE[0][:6], "--results", str(folder)], ["compare", good, str(folder)],
            ["compact", "--results", str(folder)]]  # fmt: skip


def attempt(words: list[str]) -> tuple[int, str]:
    """Run a command in this process; return its exit code and what it printed, or -1 and the traceback."""
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(out):
            command_line(words)
    except SystemExit as ended:
        return int(ended.code or 0), out.getvalue()
    except BaseException:
        return -1, out.getvalue() + traceback.format_exc()
    return 0, out.getvalue()


def outside(folder: Path) -> dict[str, tuple[int, int]]:
    """Return what stands beside a folder, with times of change and sizes."""
    found = (path for path in folder.parent.rglob("*") if not path.is_relative_to(folder))
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_size) for path in found}


def faults(poison: Poison, base: Path) -> list[str]:
    """Spoil a new folder below `base`, run the commands on it, and return what they did wrong."""
    (base / "good").mkdir()
    healthy(base / "good")
    (base / "outside.parquet").write_bytes((base / "good" / f"{WHOLE[0]}.parquet").read_bytes())
    folder = base / "results"
    folder.mkdir()
    healthy(folder)
    poison.spoil(folder)
    before, wrong = outside(folder), []
    for words in commands(folder):
        began = time.monotonic()
        code, said = attempt(words)
        if code not in (0, 1, 2) or "Traceback" in said:
            wrong.append(f"{words[0]}: exit code {code}: {said[-2000:]}")
        if time.monotonic() - began > LONGEST:
            wrong.append(f"{words[0]}: {time.monotonic() - began:.0f} s")
        if outside(folder) != before:
            wrong.append(f"{words[0]}: wrote outside the folder: {set(outside(folder).items()) ^ set(before.items())}")
    return wrong


def _too_long(*_: object) -> None:
    raise TimeoutError("it hangs")


def main() -> None:
    """Try the poisons and print the faults."""
    every, start, found = int(sys.argv[1]) if len(sys.argv) > 1 else 1, int(sys.argv[2]) if len(sys.argv) > 2 else 0, 0
    chosen = list(poisons())[start::every]
    signal.signal(signal.SIGALRM, _too_long)
    for i, poison in enumerate(chosen, start=1):
        with tempfile.TemporaryDirectory() as base:
            signal.alarm(5 * LONGEST)
            began = time.monotonic()
            for wrong in faults(poison, Path(base)):
                found += 1
                print(f"{poison.name}: {wrong}", flush=True)
            signal.alarm(0)
            print(f"[{i}/{len(chosen)}] {poison.name} {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    print(f"{len(chosen)} folders: {found} faults")
    sys.exit(bool(found))


if __name__ == "__main__":
    main()

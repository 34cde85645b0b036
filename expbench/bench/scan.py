"""`expbench bench scan`: every backend of the selective scan on every case, checked, timed and held against its limits.

A row is one backend on one case, and its time is put beside what no implementation can undercut: a copy of the bytes that
must move, and the exponentials of an exact transition, both measured in the same run. Times are comparable within a table.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from expbench import files
from expbench.bench.cases import DTYPES, NATIVE, Case, Planned, tensors
from expbench.bench.formatting import progress, text, title
from expbench.bench.solvers import LIMITS, expected, part, same_bits, solver, worst_error
from expbench.bench.timing import Clock, Times, copy_time, exp_rate, peak_bytes
from expbench.console.formatting import number
from expbench.errors import first_line
from expbench.ops import backends
from expbench.ops.selective.problem import Inputs
from expbench.results import provenance

_TEXT, _WHOLE, _REAL, _FLAG = pa.string(), pa.int64(), pa.float64(), pa.bool_()
COLUMNS: dict[str, pa.DataType] = {
    # what was run; an element is one (batch, time, channel)
    "case": _TEXT,
    "B": _WHOLE,
    "D": _WHOLE,
    "L": _WHOLE,
    "N": _WHOLE,
    "dtype": _TEXT,
    "gate": _FLAG,
    "transition": _TEXT,
    "backend": _TEXT,
    # ok; wrong: beyond the limit, not timed; failed: `error` says why
    "status": _TEXT,
    "error": _TEXT,
    # against float64: the largest relative error in norm over outputs and gradients, and on how much of the problem
    "worst_error": _REAL,
    "checked": _TEXT,
    "same_bits": _FLAG,
    # median and range of the middle half
    "forward_ms": _REAL,
    "forward_iqr_ms": _REAL,
    "backward_ms": _REAL,
    "backward_iqr_ms": _REAL,
    "forward_ps": _REAL,  # an element
    "backward_ps": _REAL,
    # the limits, and the shares of them that were reached (1 cannot be exceeded, but by what the caches keep)
    "copy_forward_ms": _REAL,
    "copy_backward_ms": _REAL,
    "exp_forward_ms": _REAL,
    "exp_backward_ms": _REAL,
    "share_of_copy_forward": _REAL,
    "share_of_copy_backward": _REAL,
    "share_of_exp_forward": _REAL,
    "share_of_exp_backward": _REAL,
    # how many times as fast as another backend on the same case: mamba-native, and both passes of reference and torch
    "times_mamba_forward": _REAL,
    "times_mamba_backward": _REAL,
    "times_reference": _REAL,
    "times_torch": _REAL,
    "peak_bytes": _WHOLE,  # of forward and backward, the inputs included
    # where it comes from
    "flushed": _FLAG,  # whether the caches were emptied before each repeat
    "device_name": _TEXT,
    "expbench": _TEXT,
    "torch": _TEXT,
    "triton": _TEXT,
    "mamba_ssm": _TEXT,
    "git_commit": _TEXT,
    "created": pa.timestamp("ms", tz="UTC"),
}
SCHEMA = pa.schema(list(COLUMNS.items()), metadata={"expbench_bench": "1"})
Row = dict[str, Any]


class Options(NamedTuple):
    """How every case is measured: on which device, for how many seconds a number, whether it is checked first; on a CPU
    with so many threads."""

    device: str
    seconds: float
    check: bool = True
    threads: int = 1


def run(planned: Sequence[Planned], options: Options, notes: list[str], folder: Path, say: Callable[[str], None]) -> int:
    """Measure, write table and figure, print; the exit code. After each case the table on disk holds all that is known."""
    rows: list[Row] = []
    code = 0
    try:
        for i, found in enumerate(measure(planned, options, notes), 1):
            rows += found
            write(rows, folder)
            say(f"[{i}/{len(planned)}] {progress(found)}")
    except KeyboardInterrupt:
        done = len({title(row) for row in rows})
        say(f"interrupted after {done} of {len(planned)} cases; {'they are' if done else 'nothing is'} in {folder}")
        code = 130
    if rows:
        from expbench.bench.figure import scan
        from expbench.report import drawing

        figure, picture = scan(rows), folder / "scan.svg"
        with files.replacing(picture) as aside:
            drawing.save(figure, aside)
        print("\n".join([text(rows), *(f"note: {note}" for note in notes), f"{folder / 'scan.parquet'}, {picture}"]))
    return code or int(any(row["status"] != "ok" for row in rows))


def measure(planned: Sequence[Planned], options: Options, notes: list[str]) -> Iterator[list[Row]]:
    """The rows of one case after the other; to `notes` it adds what a reader of the table should know."""
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    clock = Clock(options.device, options.seconds)
    if not clock.flushed:
        notes.append("caches were not emptied between repeats: that would have taken most of the time (--seconds)")
    with torch.no_grad():
        rate = exp_rate(clock)
        for case, names in planned:
            yield _measure_case(case, names, options, clock, rate, notes)


def _measure_case(
    case: Case, names: Sequence[str], options: Options, clock: Clock, rate: float | None, notes: list[str]
) -> list[Row]:
    inputs, grad_y = tensors(case, options.device)
    known = _provenance(options.device) | {"case": case.shape, **case._asdict(), "flushed": clock.flushed}
    rows = [known | {"backend": name, "status": "ok"} for name in names]
    if options.check:
        _check(case, inputs, grad_y, rows, notes)
    limits = _limits(case, inputs, clock, rate)
    for row in rows:
        row |= limits
        if row["status"] == "ok":
            _guarded(row, partial(_time, case, inputs, grad_y, row, clock))
    _compare(rows)
    return rows


def _check(case: Case, inputs: Inputs, grad_y: torch.Tensor, rows: Sequence[Row], notes: list[str]) -> None:
    """Fill in the error of each row, whether its bits repeat, and its status."""
    count, steps = part(inputs)
    checked = "all" if (count, steps) == (case.B, case.L) else f"{count} of {case.B} sequences, {steps} of {case.L} steps"
    if checked != "all":
        notes.append(f"{case.title()}: the float64 reference needs too much memory for all of it: it checks {checked}")
    wanted = expected(inputs, case.form, grad_y, count, steps)
    limit = LIMITS[DTYPES[case.dtype]]
    for row in rows:

        def check(row: Row = row) -> None:
            row["worst_error"] = worst_error(solver(row["backend"], inputs, case.form, wanted.grad_y), wanted)
            row["checked"] = checked
            row["same_bits"] = same_bits(solver(row["backend"], inputs, case.form, grad_y))
            if not row["worst_error"] <= limit:
                row |= {"status": "wrong", "error": f"relative error {number(row['worst_error'])}, the limit is {limit:g}"}

        _guarded(row, check)


def _guarded(row: Row, act: Callable[[], None]) -> None:
    """Have one backend's failure end nothing but its row."""
    try:
        act()
    except Exception as error:  # out of memory, a kernel that does not compile: each raises its own
        row |= {"status": "failed", "error": first_line(error)}


def _limits(case: Case, inputs: Inputs, clock: Clock, rate: float | None) -> Row:
    """The time of a copy of what each pass must read and write, and of the exponentials that it must take."""
    read = sum(x.nbytes for x in inputs[:8] if x is not None)
    found: Row = {
        "copy_forward_ms": copy_time(clock, read + inputs.u.nbytes) * 1e3,
        "copy_backward_ms": copy_time(clock, 2 * read + inputs.u.nbytes) * 1e3,
    }
    if rate is not None and case.transition == "exact":  # N for a, the rest for softplus and its derivative
        found |= {"exp_forward_ms": case.elements * (case.N + 2) / rate * 1e3}
        found |= {"exp_backward_ms": case.elements * (case.N + 3) / rate * 1e3}
    return found


def _time(case: Case, inputs: Inputs, grad_y: torch.Tensor, row: Row, clock: Clock) -> None:
    solved = solver(row["backend"], inputs, case.form, grad_y)
    if row["backend"] != NATIVE:  # it holds every sequence twice, in both layouts
        row["peak_bytes"] = peak_bytes(clock.device, lambda: solved.backward(solved.forward()))
    passes = {"forward": clock.time(solved.forward)}
    kept = solved.forward()
    passes["backward"] = clock.time(lambda: solved.backward(kept))
    for name, times in passes.items():
        row |= _figures(name, times, case, row)


def _figures(name: str, times: Times, case: Case, row: Row) -> Row:
    ms = times.median * 1e3
    found = {f"{name}_ms": ms, f"{name}_iqr_ms": times.iqr * 1e3, f"{name}_ps": times.median * 1e12 / case.elements}
    shares = {f"share_of_{limit}_{name}": row.get(f"{limit}_{name}_ms") for limit in ("copy", "exp")}
    return found | {column: limit / ms for column, limit in shares.items() if limit is not None}


def _compare(rows: Sequence[Row]) -> None:
    timed = {row["backend"]: row for row in rows if row["status"] == "ok"}
    for row in timed.values():
        for name, column in ((NATIVE, "times_mamba"), ("reference", "times_reference"), ("torch", "times_torch")):
            other = timed.get(name)
            if other is None:
                continue
            if name == NATIVE:
                row |= {f"{column}_{way}": other[f"{way}_ms"] / row[f"{way}_ms"] for way in ("forward", "backward")}
            else:
                row[column] = _both(other) / _both(row)


def _both(row: Row) -> float:
    return float(row["forward_ms"] + row["backward_ms"])


def _provenance(device: str) -> Row:
    mamba = provenance.installed("mamba-ssm")
    if mamba is None and device == "cuda" and backends.absent("mamba") is None:
        mamba = "its extension alone"
    return {
        "device_name": provenance.device_name(device),
        "expbench": provenance.versions()["expbench"],
        "torch": torch.__version__,
        "triton": provenance.installed("triton"),
        "mamba_ssm": mamba,
        "git_commit": provenance.git_commit(),
        "created": datetime.now(UTC),
    }


def write(rows: Sequence[Row], folder: Path) -> None:
    """Write ``folder/scan.parquet``, in place of one that is there."""
    table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows], schema=SCHEMA)
    with files.replacing(folder / "scan.parquet") as aside:
        pq.write_table(table, aside, compression="zstd")

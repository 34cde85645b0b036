"""`expbench bench scan`: check and time every backend of the selective scan on every case, and compare with hardware limits.

A row is one backend on one case. Two lower bounds of its time are measured in the same run: a copy of the bytes that must
move, and the exponentials of an exact transition. Times are comparable only within a table.
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
    # the case and the backend; an element is one (batch, time, channel)
    "case": _TEXT,
    "B": _WHOLE,
    "D": _WHOLE,
    "L": _WHOLE,
    "N": _WHOLE,
    "dtype": _TEXT,
    "gate": _FLAG,
    "transition": _TEXT,
    "backend": _TEXT,
    # ok; wrong: error above the limit, not timed; failed: `error` gives the reason
    "status": _TEXT,
    "error": _TEXT,
    # largest relative error in norm over outputs and gradients against float64, and the part of the problem it covers
    "worst_error": _REAL,
    "checked": _TEXT,
    "same_bits": _FLAG,
    # median and interquartile range
    "forward_ms": _REAL,
    "forward_iqr_ms": _REAL,
    "backward_ms": _REAL,
    "backward_iqr_ms": _REAL,
    "forward_ps": _REAL,  # per element
    "backward_ps": _REAL,
    # hardware limits, and limit / time (at most 1, unless data stay in the caches)
    "copy_forward_ms": _REAL,
    "copy_backward_ms": _REAL,
    "exp_forward_ms": _REAL,
    "exp_backward_ms": _REAL,
    "share_of_copy_forward": _REAL,
    "share_of_copy_backward": _REAL,
    "share_of_exp_forward": _REAL,
    "share_of_exp_backward": _REAL,
    # speed-up over another backend on the same case: mamba-native by pass, reference and torch for both passes together
    "times_mamba_forward": _REAL,
    "times_mamba_backward": _REAL,
    "times_reference": _REAL,
    "times_torch": _REAL,
    "peak_bytes": _WHOLE,  # of forward and backward, including the inputs
    # provenance
    "flushed": _FLAG,  # whether the caches were flushed before each repeat
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
    """Options of the measurement: device, seconds per time, whether to check results first, and threads on a CPU."""

    device: str
    seconds: float
    check: bool = True
    threads: int = 1


def run(planned: Sequence[Planned], options: Options, notes: list[str], folder: Path, say: Callable[[str], None]) -> int:
    """Measure the cases, write table and figure, print the table, and return the exit code.

    The table on disk is rewritten after each case, so an interrupted run keeps its results.
    """
    rows: list[Row] = []
    code = 0
    try:
        for i, found in enumerate(measure(planned, options, notes), 1):
            rows += found
            write(rows, folder)
            say(f"[{i}/{len(planned)}] {progress(found)}")
    except KeyboardInterrupt:
        done = len({title(row) for row in rows})
        kept = f"their results are in {folder}" if done else "there are no results"
        say(f"interrupted after {done} of {len(planned)} cases; {kept}")
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
    """Yield the rows of each case; append remarks for readers of the table to `notes`."""
    if options.device == "cpu":
        torch.set_num_threads(options.threads)
    clock = Clock(options.device, options.seconds)
    if not clock.flushed:
        notes.append("caches were not flushed between repeats, because this would take most of the time (--seconds)")
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
    """Set error, bitwise reproducibility and status of each row."""
    count, steps = part(inputs)
    checked = "all" if (count, steps) == (case.B, case.L) else f"{count} of {case.B} sequences, {steps} of {case.L} steps"
    if checked != "all":
        notes.append(f"{case.title()}: the float64 reference is too large for the whole case, it checks {checked}")
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
    """Run `act`; if it fails, mark the row as failed, so that the other backends are still measured."""
    try:
        act()
    except Exception as error:  # lack of memory and failed compilation raise different types
        row |= {"status": "failed", "error": first_line(error)}


def _limits(case: Case, inputs: Inputs, clock: Clock, rate: float | None) -> Row:
    """Return the time of copying the bytes that each pass must read and write, and of computing its exponentials."""
    read = sum(x.nbytes for x in inputs[:8] if x is not None)
    found: Row = {
        "copy_forward_ms": copy_time(clock, read + inputs.u.nbytes) * 1e3,
        "copy_backward_ms": copy_time(clock, 2 * read + inputs.u.nbytes) * 1e3,
    }
    if rate is not None and case.transition == "exact":  # N for a, the others for softplus and its derivative
        found |= {"exp_forward_ms": case.elements * (case.N + 2) / rate * 1e3}
        found |= {"exp_backward_ms": case.elements * (case.N + 3) / rate * 1e3}
    return found


def _time(case: Case, inputs: Inputs, grad_y: torch.Tensor, row: Row, clock: Clock) -> None:
    solved = solver(row["backend"], inputs, case.form, grad_y)
    if row["backend"] != NATIVE:  # NATIVE holds all sequences in both layouts, so its peak would mislead
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
    if mamba is None and device == "cuda" and backends.unavailable_reason("mamba") is None:
        mamba = "extension only"
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
    """Write ``folder/scan.parquet`` and replace an existing file."""
    table = pa.Table.from_pylist([{name: row.get(name) for name in COLUMNS} for row in rows], schema=SCHEMA)
    with files.replacing(folder / "scan.parquet") as aside, aside.open("wb") as file:
        pq.write_table(table, file, compression="zstd")

"""`expbench bench scan`: its table, file and figure, what it refuses, and that it does not time what is wrong."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

from expbench.bench import scan, solvers, timing
from expbench.bench.cases import DTYPES, TRANSITIONS, Case, cases, plan, stand_in, tensors
from expbench.ops import backends
from expbench.ops.selective import backend_mamba, backend_torch
from tests.conftest import CommandLine, is_bad_input
from tests.ops.selective.test_backend_mamba import Extension

SCAN = ["bench", "scan", "--device", "cpu", "--seconds", "0.001", "--backend", "reference,torch"]
TINY = [*SCAN, "--shapes", "4x2x6x2"]


@pytest.fixture(autouse=True)
def _small_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "_last_level_cache", lambda: 1 << 12)


def read(folder: str = "results/bench") -> pd.DataFrame:
    return pd.read_parquet(Path(folder) / "scan.parquet")


def test_the_table_the_file_and_the_figure(expbench: CommandLine) -> None:
    answer = expbench(*SCAN, "--shapes", "4x2x6x2,2x4x3x16", "--L", "3,8")
    assert answer.code == 0, answer.err
    frame = read()
    assert list(frame.columns) == list(scan.COLUMNS)
    assert len(frame) == 2 * 2 * 2
    assert set(frame["status"]) == {"ok"}
    assert set(frame["backend"]) == {"reference", "torch"}
    assert set(frame["case"]) == {"4x2x3x2", "4x2x8x2", "2x4x3x16", "2x4x8x16"}
    assert frame["gate"].tolist() == (frame["N"] == 16).tolist()
    assert frame["same_bits"].all()
    assert (frame["checked"] == "all").all()
    for way in ("forward", "backward"):
        picoseconds = frame[f"{way}_ms"] * 1e9 / (frame["B"] * frame["L"] * frame["D"])
        pd.testing.assert_series_equal(frame[f"{way}_ps"], picoseconds, check_names=False)
        shares = frame[f"copy_{way}_ms"] / frame[f"{way}_ms"]
        pd.testing.assert_series_equal(frame[f"share_of_copy_{way}"], shares, check_names=False)
    for column in ("share_of_exp_forward", "times_mamba_forward", "peak_bytes", "error"):
        assert frame[column].isna().all(), column
    assert (frame.loc[frame["backend"] == "reference", "times_reference"] == 1).all()
    header, *lines = answer.out.splitlines()
    assert header.split()[:5] == ["case", "dtype", "gate", "transition", "backend"]
    assert lines[0].split()[:5] == ["4x2x3x2", "float32", "no", "exact", "reference"]
    assert sum("torch is" in line and "times as fast as reference" in line for line in lines) == 4
    assert "[4/4] 2x4x8x16 float32 exact gate: reference " in answer.err
    figure = Path("results/bench/scan.svg").read_text()
    for words in ("forward: B=4 D=2 N=2, float32, exact", "ps per element", "copy limit", "torch"):
        assert words in figure, words
    assert {path.name for path in Path("results/bench").iterdir()} == {"scan.parquet", "scan.svg"}


def test_every_transition_and_dtype_agrees_with_float64() -> None:
    found = cases("4x2x6x2", None, ",".join(DTYPES), ",".join(TRANSITIONS), True, "cpu")
    planned, _ = plan(found, "reference,torch", "cpu")
    rows = [row for some in scan.measure(planned, scan.Options("cpu", 0.0), []) for row in some]
    assert len(rows) == 2 * 5 * 3
    smallest = {"bfloat16": 1e-4, "float32": 1e-9, "float64": 0}
    largest = {"bfloat16": 1e-2, "float32": 2e-6, "float64": 1e-12}
    for row in rows:
        assert (row["status"], row["gate"], row["same_bits"]) == ("ok", True, True), row
        assert smallest[row["dtype"]] <= row["worst_error"] <= largest[row["dtype"]], row


def test_unchecked(expbench: CommandLine) -> None:
    assert expbench(*TINY, "--no-check", "--out", "here", "--threads", "2").code == 0
    frame = read("here")
    assert frame[["worst_error", "checked", "same_bits"]].isna().all(axis=None)
    assert frame["forward_ms"].notna().all()
    assert frame["device_name"].str.endswith("2 threads").all()


def test_a_wrong_backend_is_not_timed(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    forward, backward = backend_torch.forward, backend_torch.backward

    def off_by_one(*arguments: Any) -> Any:
        outputs = forward(*arguments)
        return outputs._replace(y=outputs.y + 1)

    def without_a_number(*arguments: Any) -> Any:
        found = backward(*arguments)
        return found._replace(skip=torch.full_like(found.skip, math.nan))

    for name, function in (("forward", off_by_one), ("backward", without_a_number)):
        with monkeypatch.context() as patch:
            patch.setattr(backend_torch, name, function)
            answer = expbench(*TINY)
        assert answer.code == 1
        assert "torch is wrong: relative error" in answer.out
        rows = read().set_index("backend")
        assert rows["status"].to_dict() == {"reference": "ok", "torch": "wrong"}
        assert math.isnan(rows.loc["torch", "forward_ms"])
        assert rows.loc["reference", "forward_ms"] > 0
        assert rows.loc["torch", "worst_error"] > 0.1


def test_a_backend_that_raises_ends_only_its_own_row(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of registers\nand more")

    monkeypatch.setattr(backend_torch, "backward", fail)
    answer = expbench(*TINY)
    assert answer.code == 1
    rows = read().set_index("backend")
    assert rows.loc["torch", "error"] == "RuntimeError: out of registers"
    assert rows.loc["reference", "status"] == "ok"


def test_an_interrupt_keeps_what_was_measured(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    forward = backend_torch.forward

    def interrupted(inputs: Any, *rest: Any) -> Any:
        if inputs.u.shape[2] == 8:
            raise KeyboardInterrupt
        return forward(inputs, *rest)

    monkeypatch.setattr(backend_torch, "forward", interrupted)
    answer = expbench(*TINY, "--L", "3,8,9")
    assert answer.code == 130
    assert "interrupted after 1 of 3 cases" in answer.err
    assert read()["L"].tolist() == [3, 3]
    assert Path("results/bench/scan.svg").exists()
    monkeypatch.setattr(scan, "measure", interrupted_at_once)
    answer = expbench(*TINY, "--out", "other")
    assert (answer.code, list(Path("other").iterdir())) == (130, [])


def interrupted_at_once(*_: Any) -> Any:
    raise KeyboardInterrupt


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--shapes", "4x2x6"], "--shapes: '4x2x6' is not BxDxLxN"),
        (["--shapes", "4x2x6x"], "N='' is not a whole number above 0"),
        (["--shapes", "4x2x-6x2"], "L='-6'"),
        (["--shapes", "4x0x6x2"], "D='0' is not a whole number above 0"),
        (["--shapes", "4x2x²x2"], "L='²'"),
        (["--shapes", "4x2x6x99999"], "N=99999 is too large, the maximum is 1024"),
        (["--shapes", "16777216x65536x4x2"], "GB; the device has"),
        (["--shapes", ""], "--shapes: '' has an empty member"),
        (["--shapes", "4x2x6x2,4x2x6x2"], "occurs twice"),
        (["--L", "3,x"], "--L: 'x': L='x' is not a whole number above 0"),
        (["--backend", "tritn"], "did you mean 'triton'?"),
        (["--dtype", "float16"], "--dtype: 'float16'"),
        (["--transition", "taylor4"], "did you mean 'taylor"),
        (["--device", "gpu"], "--device"),
        (["--device", "cuda"], "finds no CUDA device; use --device cpu"),
        (["--threads", "0"], "--threads"),
        (["--seconds", "-1"], "--seconds: -1 is not between"),
        (["--seconds", "nan"], "--seconds: nan is not between 0 and 60"),
        (["--out", "file"], "--out: 'file' cannot be written"),
        (["--shapes", "65536x64x64x64", "--backend", "reference"], "nothing to measure: 65536x64x64x64"),
        (["--outt", "x"], "--out"),
    ],
)
def test_bad_input(expbench: CommandLine, words: list[str], expected: str) -> None:
    if "cuda" in words and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    Path("file").touch()
    is_bad_input(expbench(*TINY, *words), expected)
    assert not Path("results").exists()


def test_without_a_command_it_helps(expbench: CommandLine) -> None:
    answer = expbench("bench")
    assert (answer.code, answer.err) == (0, "")
    assert "scan" in answer.out


def test_an_absent_backend(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        backends, "unavailable_reason", lambda name: "no such thing" if name in ("mamba", "triton") else None
    )
    is_bad_input(expbench(*TINY, "--backend", "mamba"), "backend mamba does not work here: no such thing")
    answer = expbench(*TINY[:6], "--shapes", "2x1x2x1")
    assert answer.code == 0
    assert "note: mamba is skipped: no such thing" in answer.out
    assert set(read()["backend"]) == {"reference", "torch"}


def test_mamba_is_timed_in_its_own_layout_and_through_transposes(
    expbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    extension = Extension()
    monkeypatch.setitem(sys.modules, "selective_scan_cuda", extension)
    monkeypatch.setattr(backend_mamba, "unavailable_reason", lambda: None)
    monkeypatch.setattr(backend_mamba, "unsupported", lambda inputs, form: None if form.kind == "exact" else "exact only")
    for gate in ("--gate", "--no-gate"):
        answer = expbench(*TINY, "--backend", "torch,mamba", "--transition", "exact,linear", gate)
        assert answer.code == 0, answer.out
        rows = read()
        assert rows["backend"].tolist() == ["torch", "mamba-native", "mamba", "torch"]
        assert (rows["worst_error"] < 1e-6).all()
        assert rows["times_mamba_forward"].notna().tolist() == [True, True, True, False]
        assert rows["times_mamba_backward"][1] == 1
        assert "note: 4x2x6x2 float32 linear" in answer.out
        assert "mamba is skipped: exact only" in answer.out
    assert extension.forwards > extension.backwards > 0


def test_where_the_reference_would_not_fit_a_part_is_checked(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(solvers, "_MOST", {"cpu": 2 * 3 * 6 * 2})
    assert expbench(*TINY).code == 0
    answer = expbench(*SCAN, "--shapes", "5x3x6x2,5x3x99x2")
    assert answer.code == 0, answer.out
    assert "is too large for the whole case, it checks 2 of 5 sequences, 6 of 6 steps" in answer.out
    assert "it checks 1 of 5 sequences, 12 of 99 steps" in answer.out
    assert set(read()["checked"]) == {"2 of 5 sequences, 6 of 6 steps", "1 of 5 sequences, 12 of 99 steps"}


@pytest.mark.parametrize("place", [("u", 0, 2), ("B", 4, 5), ("z", 2, 0), ("delta", 0, 0)])
def test_a_part_is_of_the_whole_problem(place: tuple[str, int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sequences 0 and 4 the first 3 steps are known: an error there is seen, and so is a gradient anywhere else."""
    case = Case(5, 3, 6, 2, "float64", True, "exact")
    inputs, grad_y = tensors(case, "cpu")
    wanted = solvers.expected(inputs, case.form, grad_y, 2, 3)
    assert wanted.sequences.tolist() == [4, 0]
    solved = solvers.solver("torch", inputs, case.form, wanted.grad_y)
    assert solvers.worst_error(solved, wanted) < 1e-12
    name, sequence, step = place
    backward = backend_torch.backward

    def disturbed(*arguments: Any) -> Any:
        found = backward(*arguments)
        getattr(found, name)[0, sequence, step] += 0.01
        return found

    monkeypatch.setattr(backend_torch, "backward", disturbed)
    assert solvers.worst_error(solved, wanted) > 1e-4


def test_bits_that_change_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(2, 2, 3, 2, "float32", False, "taylor2")
    inputs, grad_y = tensors(case, "cpu")
    solved = solvers.solver("torch", inputs, case.form, grad_y)
    assert solvers.same_bits(solved)
    forward, calls = backend_torch.forward, []

    def drifting(*arguments: Any) -> Any:
        calls.append(1)
        outputs = forward(*arguments)
        return outputs._replace(last=outputs.last * (1 + 1e-6 * len(calls)))

    monkeypatch.setattr(backend_torch, "forward", drifting)
    assert not solvers.same_bits(solved)


@pytest.mark.parametrize("transition", TRANSITIONS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_stand_in_is_like_the_inputs(transition: str, dtype: str) -> None:
    case = Case(3, 2, 5, 4, dtype, True, transition)
    inputs, grad_y = tensors(case, "cpu")
    assert grad_y.shape == inputs.u.shape

    def described(x: Tensor | None) -> Any:
        return None if x is None else (x.shape, x.dtype)

    assert [described(x) for x in stand_in(case, "cpu")] == [described(x) for x in inputs]


def test_the_clock_takes_the_median(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = timing.Clock("cpu", 0.0)
    monkeypatch.setattr(clock, "_on_cpu", lambda call, buffer, count: [5.0, 1.0, 2.0, 4.0, 3.0][:count])
    assert clock.time(lambda: None) == timing.Times(3.0, 2.0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu(expbench: CommandLine) -> None:
    answer = expbench("bench", "scan", "--shapes", "64x32x128x16,256x4x64x4", "--seconds", "0.01")
    assert answer.code == 0, (answer.out, answer.err)
    rows = read()
    assert {"torch", "triton"} <= set(rows["backend"])
    assert rows[["peak_bytes", "share_of_exp_forward", "share_of_copy_backward"]].notna().any().all()

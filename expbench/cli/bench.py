"""Command `expbench bench`: benchmark the operations. Heavy imports happen inside it."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from expbench.cli.options import DEVICES, Command, DeviceOption, check_choice
from expbench.console.formatting import say
from expbench.errors import BadInput
from expbench.supervision import interrupt

bench_app = typer.Typer(rich_markup_mode=None)


@bench_app.callback(invoke_without_command=True)
def bench_root(context: typer.Context) -> None:
    """Benchmark the operations."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@bench_app.command("scan", cls=Command)
def bench_scan(
    shapes: Annotated[
        str | None, typer.Option(metavar="LIST", help="Shapes BxDxLxN, e.g. 32x768x1024x16. (default: by device)")
    ] = None,
    L: Annotated[str | None, typer.Option("--L", metavar="LIST", help="Lengths that replace those in --shapes.")] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="LIST", help="reference, torch, triton, mamba. (default: all available)")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="LIST", help="bfloat16, float32, float64. (default: by N on a GPU, else float32)")
    ] = None,
    transition: Annotated[str, typer.Option(metavar="LIST", help="exact, taylor1, taylor2, taylor3, linear.")] = "exact",
    gate: Annotated[
        bool | None,
        typer.Option("--gate/--no-gate", help="Multiply the output y by silu(z). (default: where N is 16 or more)"),
    ] = None,
    device: DeviceOption = "auto",
    threads: Annotated[int, typer.Option(min=1, max=4096, help="Threads on a CPU.")] = 1,
    seconds: Annotated[float, typer.Option(help="Measuring time for each number.")] = 0.3,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Compare results with float64 first.")] = True,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Output folder for scan.parquet and scan.svg.")
    ] = "results/bench",
) -> None:
    """Check and time the backends of the selective scan; print a table and write FOLDER/scan.parquet and FOLDER/scan.svg.

    Lists are written 1,2,3. A backend that is wrong or fails is reported and not timed, and the exit code is then 1.
    """
    check_choice("--device", device, DEVICES)
    if not 0 <= seconds <= 60:  # also rejects nan
        raise BadInput(f"--seconds: {seconds:g} is not between 0 and 60")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.bench import cases as bench_cases
    from expbench.bench import scan
    from expbench.results import folders
    from expbench.training.device import choose_device

    chosen = choose_device(device)
    cases = bench_cases.cases(shapes, L, dtype, transition, gate, chosen)
    planned, notes = bench_cases.plan(cases, backend, chosen)
    options = scan.Options(chosen, seconds, check, threads)
    signal.signal(signal.SIGTERM, interrupt)
    raise SystemExit(scan.run(planned, options, notes, folders.open_folder(out, "--out", "results/bench"), say))

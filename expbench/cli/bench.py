"""The command `expbench bench`: how fast the operations are. Heavy imports happen inside it."""

from __future__ import annotations

import os
import signal
from typing import Annotated

import typer

from expbench.cli.options import DEVICES, DeviceOption, check_choice, interrupt, say
from expbench.errors import BadInput

bench_app = typer.Typer(rich_markup_mode=None)


@bench_app.callback(invoke_without_command=True)
def bench_root(context: typer.Context) -> None:
    """Measure how fast the operations are."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@bench_app.command("scan")
def bench_scan(
    shapes: Annotated[
        str | None, typer.Option(metavar="LIST", help="Sizes BxDxLxN, as 32x768x1024x16. (default: some for the device)")
    ] = None,
    L: Annotated[str | None, typer.Option("--L", metavar="LIST", help="Lengths in place of those of the shapes.")] = None,
    backend: Annotated[
        str | None, typer.Option(metavar="LIST", help="reference, torch, triton, mamba. (default: all that work here)")
    ] = None,
    dtype: Annotated[
        str | None, typer.Option(metavar="LIST", help="bfloat16, float32, float64. (default: by N on a GPU, else float32)")
    ] = None,
    transition: Annotated[str, typer.Option(metavar="LIST", help="exact, taylor1, taylor2, taylor3, linear.")] = "exact",
    gate: Annotated[
        bool | None, typer.Option("--gate/--no-gate", help="y silu(z). (default: where N is 16 or more)")
    ] = None,
    device: DeviceOption = "auto",
    threads: Annotated[int, typer.Option(min=1, max=4096, help="Threads on a CPU.")] = 1,
    seconds: Annotated[float, typer.Option(help="How long each number is measured.")] = 0.3,
    check: Annotated[bool, typer.Option("--check/--no-check", help="Hold results against float64 first.")] = True,
    out: Annotated[str, typer.Option(metavar="FOLDER", help="Where scan.parquet and scan.svg are put.")] = "results/bench",
) -> None:
    """Check and time the backends of the selective scan: FOLDER/scan.parquet, FOLDER/scan.svg and a table.

    Lists are 1,2,3. What is wrong or fails is said and not timed, and the exit code is then 1.
    """
    check_choice("--device", device, DEVICES)
    if not 0 <= seconds <= 3600:  # nan is not either
        raise BadInput(f"--seconds: {seconds:g} is not between 0 and 3600")
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

"""Command `expbench reproduce`. Heavy imports happen inside it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from expbench.cli.execution import carry_out
from expbench.cli.options import (
    DEVICES,
    DeviceOption,
    DryRun,
    Shard,
    TimeLimit,
    bad_files,
    check_choice,
    hold_log,
    seconds_of,
    shard_of,
)
from expbench.errors import unknown
from expbench.supervision import supervise

# those of `studies.synthetic`, which imports torch
PRESETS = ("table2", "degree", "polynomials", "positions", "counting", "table1-nlp", "context")


def reproduce(
    preset: Annotated[str, typer.Argument(help=f"{', '.join(PRESETS)}.")],
    data: Annotated[str | None, typer.Option("--data", metavar="NAME", help="Text: wikitext-2, wikitext-103.")] = None,
    path: Annotated[
        str | None,
        typer.Option("--path", metavar="FOLDER", help="Read the text from this folder instead of downloading it."),
    ] = None,
    results: Annotated[
        str | None,
        typer.Option("--results", metavar="FOLDER", help="Folder of the results. (default: results/PRESET, or PRESET-TEXT)"),
    ] = None,
    device: DeviceOption = "auto",
    smoke: Annotated[bool, typer.Option("--smoke", help="Smoke test: a few steps of every row.")] = False,
    shard: Shard = "1/1",
    time_limit: TimeLimit = None,
    until: Annotated[
        str | None,
        typer.Option("--until", metavar="PART", help="Run the parts of the study up to this one. (default: all)"),
    ] = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Run without writing a report.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Reproduce a study of the paper with preregistered claims; judge them, and report beside the published numbers.

    The same command resumes an interrupted or time-limited study. Several processes started on one folder share the work.
    The parts of a study are run in order; each dry run lists them.
    """
    # Set before torch is loaded, as in run. A smoke test is too small to gain from several threads.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if smoke:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    check_choice("--device", device, DEVICES)
    share, seconds = shard_of(shard), seconds_of(time_limit)
    supervise(f"expbench reproduce: {preset}{' as a smoke test' * smoke}; loading torch and the plugins")
    from pathlib import Path

    from expbench.report.build import write_report
    from expbench.results import reported, store
    from expbench.studies.synthetic import called, chosen
    from expbench.sweep import sweep, torchrun
    from expbench.training.device import choose_device

    study = chosen(preset, data, path, small=smoke, until=until)
    where = choose_device(device)
    held = hold_log()
    jobs = [job._replace(part=part.name) for part in study.parts for job in torchrun.expand(part.requests, where)]
    folder = Path(results or f"results/{called(preset, study, jobs, small=smoke)}")
    options = sweep.SweepOptions(
        folder, where, tunes=study.tunes, shard=share, seconds=seconds, tuning_runs=study.tuning_runs
    )
    trained = carry_out(jobs, options, held, study.claims, dry_run=dry_run)
    if not trained or no_report or share != (1, 1):
        return
    frame, problems = store.read(folder, reported.SHOWN_COLUMNS, reported.shown_rows)
    print(write_report(frame, folder).with_suffix(".html"))
    bad_files(problems)

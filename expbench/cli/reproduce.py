"""`expbench reproduce`. Heavy imports happen inside it."""

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


def reproduce(
    preset: Annotated[str, typer.Argument(help="table2, degree, table1-nlp, context.")],
    data: Annotated[str | None, typer.Option("--data", metavar="NAME", help="The text: wikitext-2, wikitext-103.")] = None,
    path: Annotated[
        str | None, typer.Option("--path", metavar="FOLDER", help="A folder that the text is read from, not the network.")
    ] = None,
    results: Annotated[
        str | None,
        typer.Option("--results", metavar="FOLDER", help="Folder of the results. (default: results/PRESET, or PRESET-TEXT)"),
    ] = None,
    device: DeviceOption = "auto",
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of every row: does everything run?")] = False,
    shard: Shard = "1/1",
    time_limit: TimeLimit = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Only run; expbench report draws what there is.")] = False,
    dry_run: DryRun = False,
) -> None:
    """Run a study of the paper again, its claims fixed beforehand; judge them, and report beside the published numbers.

    It can be interrupted, and limited in time; the same command goes on from there. Started several times on one folder, it
    divides the work.
    """
    # Before torch is loaded, as in run; what is tried is too small for several threads, which would wait for each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if smoke:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    from expbench.studies.synthetic import PRESETS, called, chosen

    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    check_choice("--device", device, DEVICES)
    part, seconds = shard_of(shard), seconds_of(time_limit)
    from pathlib import Path

    from expbench.report.build import write_report
    from expbench.results import store
    from expbench.sweep import campaign, torchrun
    from expbench.training.device import choose_device

    study = chosen(preset, data, path, small=smoke)
    where = choose_device(device)
    held = hold_log()
    jobs = torchrun.expand(study.requests, where)
    folder = Path(results or f"results/{called(preset, study, jobs, small=smoke)}")
    how = campaign.How(folder, where, tunes=study.tunes, shard=part, seconds=seconds, tuning_runs=study.tuning_runs)
    trained = carry_out(jobs, how, held, study.claims, dry_run=dry_run)
    if not trained or no_report or part != (1, 1):
        return
    frame, problems = store.read(folder)
    print(write_report(frame, folder).with_suffix(".html"))
    bad_files(problems)

"""The commands that train, `expbench run` and `expbench reproduce`. Heavy imports happen inside them."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from expbench.cli_options import (
    DEVICES,
    BackendOption,
    DeviceOption,
    ModelsDir,
    ModelSettings,
    ResultsOption,
    TasksDir,
    TaskSettings,
    TimeLimit,
    add_folders,
    bad_files,
    check_choice,
    hold_log,
    interrupt,
    say,
    seconds_of,
    shard_of,
    show_log,
)
from expbench.errors import unknown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from logging.handlers import MemoryHandler

    from expbench.campaign import How
    from expbench.claims import Claim
    from expbench.grid import Job


def run(
    task: Annotated[str, typer.Option(metavar="LIST", help="Tasks, as polyreg or count-in-row,polyreg.")],
    models: Annotated[str, typer.Option(metavar="LIST", help="Models by name, or path/file.py:Class, or module:Class.")],
    L: Annotated[str | None, typer.Option("--L", metavar="LIST", help="Lengths. (default: the task's)")] = None,
    degree: Annotated[str | None, typer.Option(metavar="LIST", help="Degrees of the task. (default: the task's)")] = None,
    D: Annotated[str | None, typer.Option("--D", metavar="LIST", help="Widths. (default: 4)")] = None,
    match: Annotated[
        str | None, typer.Option(metavar="WHAT=N", help="In place of --D: params=N, or state=N, within 5 % for each model.")
    ] = None,
    depth: Annotated[str, typer.Option(metavar="LIST", help="Numbers of layers.")] = "1",
    norm: Annotated[str, typer.Option(metavar="LIST", help="Before each mixer: layer, rms, none.")] = "layer",
    positions: Annotated[
        str | None, typer.Option(metavar="LIST", help="Position codes: none, sin, learned, index. (default: the model's)")
    ] = None,
    residual: Annotated[str, typer.Option(metavar="LIST", help="Residual connections: on, off.")] = "on",
    lr: Annotated[
        str, typer.Option(metavar="LIST", help="Peak learning rates; or auto, which chooses one for each cell.")
    ] = "0.01",
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Seeds of weights and of the order of the data.")] = "0:3",
    instances: Annotated[str, typer.Option(metavar="LIST", help="Members of a random family (which polynomial).")] = "0",
    paired: Annotated[bool, typer.Option("--paired", help="Seed i on instance i, in place of --instances.")] = False,
    task_setting: TaskSettings = None,
    model_setting: ModelSettings = None,
    steps: Annotated[str | None, typer.Option(metavar="LIST", help="Optimizer steps. (default: 2000)")] = None,
    epochs: Annotated[
        str | None, typer.Option(metavar="LIST", help="In place of --steps: passes over the training set, of a text.")
    ] = None,
    batch_size: Annotated[str, typer.Option(metavar="LIST", help="Sequences in a step.")] = "64",
    warmup: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Warm-up steps. (default: a tenth, at most 200, or an epoch)"),
    ] = None,
    weight_decay: Annotated[str, typer.Option(metavar="LIST", help="Weight decay of AdamW.")] = "0",
    clip: Annotated[str, typer.Option(metavar="LIST", help="Largest norm of the gradient.")] = "1.0",
    dtype: Annotated[str, typer.Option(metavar="LIST", help="float32, float64, bfloat16 (autocast).")] = "float32",
    init: Annotated[
        str, typer.Option(metavar="LIST", help="default, construct:lemma2, construct:count-in-row, construct:theorem2.")
    ] = "default",
    init_noise: Annotated[str, typer.Option(metavar="LIST", help="Sizes of normal noise on the first weights.")] = "0",
    device: DeviceOption = "auto",
    backend: BackendOption = "auto",
    results: ResultsOption = "results",
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, with an estimate of the time.")
    ] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first run that fails.")] = False,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts (I from 1).")] = "1/1",
    time_limit: TimeLimit = None,
    stack: Annotated[
        int | None, typer.Option(min=1, max=1 << 16, help="Most runs trained together, 1: one by one. (default: by device)")
    ] = None,
    save_weights: Annotated[
        bool,
        typer.Option("--save-weights", help="Keep the weights of the best, median and worst seed of each cell."),
    ] = False,
    tasks_dir: TasksDir = None,
    models_dir: ModelsDir = None,
) -> None:
    """Run every combination that the results do not hold yet.

    Lists are 1,2,3 and ranges 0:5 (the end is not included). The same command continues an interrupted sweep.
    """
    add_folders(tasks_dir, models_dir)
    part = shard_of(shard)
    from expbench.ops import backends

    check_choice("--device", device, DEVICES)
    check_choice("--backend", backend, ("auto", *backends.BACKENDS))
    # Read when torch is loaded: threads that wait without spinning are as fast alone, and twice as fast on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench import campaign, crew, grid, sweep, table

    chosen = sweep.choose_device(device)
    request = grid.Request(
        task=task,
        models=models,
        L=L,
        degree=degree,
        instances=instances,
        D=D,
        match=match,
        depth=depth,
        norm=norm,
        positions=positions,
        residual=residual,
        lr=lr,
        seeds=seeds,
        paired=paired,
        steps=steps,
        epochs=epochs,
        batch_size=batch_size,
        warmup=warmup,
        weight_decay=weight_decay,
        clip=clip,
        dtype=dtype,
        init=init,
        init_noise=init_noise,
        task_settings=tuple(task_setting or ()),
        model_settings=tuple(model_setting or ()),
    )
    held = hold_log()
    with backends.using(None if backend == "auto" else backend):
        jobs = crew.expand([request], chosen)
        how = campaign.How(
            table.named_folder(results),
            chosen,
            tunes=lr == "auto",
            shard=part,
            seconds=seconds_of(time_limit),
            save_weights=save_weights,
            fail_fast=fail_fast,
            largest=stack,
        )
        _carry_out(jobs, how, held, dry_run=dry_run)


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
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts (I from 1).")] = "1/1",
    time_limit: TimeLimit = None,
    no_report: Annotated[bool, typer.Option("--no-report", help="Only run; expbench report draws what there is.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, with an estimate of the time.")
    ] = False,
) -> None:
    """Run a study of the paper again, its claims fixed beforehand; judge them, and report beside the published numbers.

    It can be interrupted, and limited in time; the same command goes on from there. Started several times on one folder, it
    divides the work.
    """
    # Before torch is loaded, as in run; what is tried is too small for several threads, which would wait for each other.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    if smoke:
        os.environ.setdefault("OMP_NUM_THREADS", "1")
    from expbench.presets import PRESETS, called, chosen

    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    check_choice("--device", device, DEVICES)
    part, seconds = shard_of(shard), seconds_of(time_limit)
    from pathlib import Path

    from expbench import campaign, crew, sweep, table
    from expbench.report import write_report

    study = chosen(preset, data, path, small=smoke)
    where = sweep.choose_device(device)
    held = hold_log()
    jobs = crew.expand(study.requests, where)
    folder = Path(results or f"results/{called(preset, study, jobs, small=smoke)}")
    how = campaign.How(folder, where, tunes=study.tunes, shard=part, seconds=seconds, tuning_runs=study.tuning_runs)
    trained = _carry_out(jobs, how, held, study.claims, dry_run=dry_run)
    if not trained or no_report or part != (1, 1):
        return
    frame, problems = table.read(folder)
    print(write_report(frame, folder).with_suffix(".html"))
    bad_files(problems)


def _carry_out(jobs: Sequence[Job], how: How, held: MemoryHandler, claimed: Sequence[Claim] = (), *, dry_run: bool) -> bool:
    """Run jobs, what is claimed of them written down before; or preview them, or take part in what another process runs.

    False of the latter two, which leave this process nothing to report.
    """
    from expbench import claims, crew, sweep, table

    if crew.follows():
        crew.follow(jobs, how)
        return False
    if dry_run:
        print(crew.preview(jobs, how))
        return False
    table.open_folder(str(how.folder))
    if how.save_weights:
        table.open_folder(str(how.folder / "weights"))
    sweep.plan(jobs, how.folder)  # raises if the folder holds what is no results table
    for claim in claimed:
        claims.write(claim, how.folder)
    show_log(held)
    _train(jobs, how)
    return True


def _train(jobs: Sequence[Job], how: How) -> None:
    """Run jobs, say how they ended, and exit as they did."""
    from expbench import crew

    signal.signal(signal.SIGTERM, interrupt)
    try:
        ended = crew.run(jobs, how, say)
    except KeyboardInterrupt:
        say("interrupted; the same command goes on from here")
        raise SystemExit(130) from None
    ran = ", ".join(f"{n} {status}" for status, n in sorted(ended.counts.items())) or "none"
    say(f"ran {ended.counts.total()} ({ran}); results in {how.folder}; expbench report draws them")
    if ended.counts["failed"]:
        say("some runs failed: their rows hold the error, and the same command tries them again")
        raise SystemExit(1)
    if ended.stopped:
        say("stopped at the time limit; the same command goes on from here")

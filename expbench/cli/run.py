"""`expbench run`. Heavy imports happen inside it."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from expbench.cli.execution import carry_out
from expbench.cli.options import (
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
    check_choice,
    hold_log,
    seconds_of,
    shard_of,
)


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
    from expbench.results import folders
    from expbench.sweep import campaign, torchrun
    from expbench.sweep.request import Request
    from expbench.training.device import choose_device

    chosen = choose_device(device)
    request = Request(
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
        jobs = torchrun.expand([request], chosen)
        how = campaign.How(
            folders.named_folder(results),
            chosen,
            tunes=lr == "auto",
            shard=part,
            seconds=seconds_of(time_limit),
            save_weights=save_weights,
            fail_fast=fail_fast,
            largest=stack,
        )
        carry_out(jobs, how, held, dry_run=dry_run)

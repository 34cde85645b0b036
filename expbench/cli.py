"""The command line. Heavy imports happen inside the commands, so that --help and list answer at once."""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from expbench.errors import BadInput, unknown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from logging.handlers import MemoryHandler

    from expbench.campaign import How
    from expbench.grid import Job

app = typer.Typer(
    name="expbench",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # plain help answers twice as fast as boxes
)

_DEVICES = ("auto", "cpu", "cuda")

bench_app = typer.Typer(rich_markup_mode=None)
app.add_typer(bench_app, name="bench")
theory_app = typer.Typer(rich_markup_mode=None)
app.add_typer(theory_app, name="theory")

ResultsOption = Annotated[str, typer.Option("--results", metavar="FOLDER", help="Folder of the results table.")]
DeviceOption = Annotated[str, typer.Option("--device", metavar="NAME", help="auto, cpu, cuda.")]
BackendOption = Annotated[
    str, typer.Option("--backend", metavar="NAME", help="Of the scans: auto, reference, torch, triton, mamba.")
]
TimeLimit = Annotated[
    float | None, typer.Option(metavar="MINUTES", help="Begin nothing new after so many minutes. (default: no limit)")
]
TasksDir = Annotated[
    list[str] | None, typer.Option("--tasks-dir", metavar="FOLDER", help="Folder whose files are tasks; may be repeated.")
]
ModelsDir = Annotated[
    list[str] | None, typer.Option("--models-dir", metavar="FOLDER", help="Folder whose files are models; may be repeated.")
]
TaskSettings = Annotated[
    list[str] | None, typer.Option("-t", "--task-setting", metavar="[TASK:]NAME=V1,V2", help="A setting of a task.")
]
ModelSettings = Annotated[
    list[str] | None, typer.Option("-m", "--model-setting", metavar="[MODEL:]NAME=V1,V2", help="A setting of a model.")
]


@app.callback(invoke_without_command=True)
def root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    """What can a sequence layer express? Runs tasks across models, with controls, intervals and provenance."""
    if version:
        import expbench

        print(expbench.__version__)
    elif context.invoked_subcommand is None:
        print(context.get_help())


@app.command()
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
    steps: Annotated[str, typer.Option(metavar="LIST", help="Optimizer steps.")] = "2000",
    batch_size: Annotated[str, typer.Option(metavar="LIST", help="Sequences in a step.")] = "64",
    warmup: Annotated[
        str | None, typer.Option(metavar="LIST", help="Warm-up steps. (default: a tenth of the steps, at most 200)")
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
    _add_folders(tasks_dir, models_dir)
    part = _shard(shard)
    from expbench.ops import backends

    _check("--device", device, _DEVICES)
    _check("--backend", backend, ("auto", *backends.BACKENDS))
    # Read when torch is loaded: threads that wait without spinning are as fast alone, and twice as fast on a busy machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pathlib import Path

    from expbench import campaign, grid, sweep, table

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
    held = _hold_log()
    with backends.using(None if backend == "auto" else backend):
        jobs = grid.expand(request, chosen)
        how = campaign.How(
            Path(results), chosen, lr == "auto", part, _seconds(time_limit), save_weights, fail_fast, largest=stack
        )
        if dry_run:
            print(campaign.preview(jobs, how))
            return
        table.open_folder(results)
        if save_weights:
            table.open_folder(str(how.folder / "weights"))
        sweep.plan(jobs, how.folder)  # raises if the folder holds what is no results table
        _show_log(held)
        _campaign(jobs, how)


def _campaign(jobs: Sequence[Job], how: How) -> None:
    """Run jobs, say how they ended, and exit as they did."""
    from expbench import campaign

    signal.signal(signal.SIGTERM, _interrupt)
    try:
        ended = campaign.run(jobs, how, _say)
    except KeyboardInterrupt:
        _say("interrupted; the same command goes on from here")
        raise SystemExit(130) from None
    ran = ", ".join(f"{n} {status}" for status, n in sorted(ended.counts.items())) or "none"
    _say(f"ran {ended.counts.total()} ({ran}); results in {how.folder}; expbench report draws them")
    if ended.counts["failed"]:
        _say("some runs failed: their rows hold the error, and the same command tries them again")
        raise SystemExit(1)
    if ended.stopped:
        _say("stopped at the time limit; the same command goes on from here")


@app.command()
def claim(
    text: Annotated[str, typer.Argument(help="As 's6 < linattn', or 's6(depth=1) > attn(depth=4)', in the metric.")],
    task: Annotated[str, typer.Option(metavar="NAME", help="The task.")],
    where: Annotated[
        list[str] | None,
        typer.Option("--where", metavar="NAME=V1,V2", help="Only where a column or a setting of the task is one of these."),
    ] = None,
    margin: Annotated[
        float | None,
        typer.Option(help="The least difference that matters. (default: a tenth of an error, .05 of an accuracy)"),
    ] = None,
    results: ResultsOption = "results",
    tasks_dir: TasksDir = None,
    models_dir: ModelsDir = None,
) -> None:
    """Write down what is claimed of two models, before they are run: RESULTS/claims/HASH.json. The report judges it."""
    _add_folders(tasks_dir, models_dir)
    from expbench import claims, declare, table

    made = claims.write(declare.claim(text, task, where or [], margin), table.open_folder(results))
    print(f"{made.hash}: {made.title}")


@app.command()
def reproduce(
    preset: Annotated[str, typer.Argument(help="table2, degree.")],
    results: Annotated[
        str | None, typer.Option("--results", metavar="FOLDER", help="Folder of the results. (default: results/PRESET)")
    ] = None,
    device: DeviceOption = "auto",
    smoke: Annotated[bool, typer.Option("--smoke", help="A few steps of every row: does everything run?")] = False,
    shard: Annotated[str, typer.Option(metavar="I/N", help="Only the I-th of N parts (I from 1).")] = "1/1",
    time_limit: TimeLimit = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be run, with an estimate of the time.")
    ] = False,
) -> None:
    """Run a study of the paper again, its claims fixed beforehand; judge them, and report beside the published numbers.

    It can be interrupted, and limited in time; the same command goes on from there.
    """
    from expbench.presets import PRESETS
    from expbench.presets import smoke as smaller

    if preset not in PRESETS:
        raise unknown("preset", preset, PRESETS)
    _check("--device", device, _DEVICES)
    part, seconds = _shard(shard), _seconds(time_limit)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from pathlib import Path

    from expbench import campaign, claims, grid, sweep, table
    from expbench.report import write_report

    study = smaller(PRESETS[preset]()) if smoke else PRESETS[preset]()
    chosen = sweep.choose_device(device)
    folder = Path(results or f"results/{preset}")
    held = _hold_log()
    jobs = [job for request in study.requests for job in grid.expand(request, chosen)]
    how = campaign.How(folder, chosen, tunes=True, shard=part, seconds=seconds, tuning_runs=study.tuning_runs)
    if dry_run:
        print(campaign.preview(jobs, how))
        return
    table.open_folder(str(folder))
    sweep.plan(jobs, folder)  # raises if the folder holds what is no results table
    for claim in study.claims:
        claims.write(claim, folder)
    _show_log(held)
    _campaign(jobs, how)
    if part != (1, 1):
        return  # the others are not done; expbench report draws what there is
    frame, problems = table.read(folder)
    print(write_report(frame, folder))
    _bad_files(problems)


@app.command()
def report(
    task: Annotated[str | None, typer.Option(help="Only these tasks.")] = None,
    models: Annotated[str | None, typer.Option(help="Only these models.")] = None,
    results: ResultsOption = "results",
) -> None:
    """Write tables and figures of the results: RESULTS/report/report.md."""
    from expbench import table
    from expbench.report import write_report
    from expbench.settings import split_list

    folder = table.existing_folder(results)
    frame, problems = table.read(folder)
    path = write_report(
        frame,
        folder,
        tasks=split_list(task, "--task") if task is not None else None,
        models=split_list(models, "--models") if models is not None else None,
    )
    print(path)
    _bad_files(problems)


@app.command()
def compact(
    results: ResultsOption = "results",
    curves: Annotated[
        bool, typer.Option("--curves/--no-curves", help="Keep what was measured on the way, and by label and layer.")
    ] = True,
) -> None:
    """Put the files of a results folder into one, table.parquet, as for a repository."""
    from expbench import table

    print(table.compact(table.existing_folder(results), curves=curves))


@app.command("list")
def list_plugins(tasks_dir: TasksDir = None, models_dir: ModelsDir = None) -> None:
    """List the tasks and models, without importing any."""
    _add_folders(tasks_dir, models_dir)
    from expbench import plugins

    kinds: tuple[plugins.Kind, ...] = ("task", "model")
    found = {kind: plugins.discover(kind) for kind in kinds}
    width = max(len(name) for by_name in found.values() for name in by_name)
    for kind, by_name in found.items():
        print(f"{kind}s:")
        for name, plugin in sorted(by_name.items()):
            origin = "" if plugin.origin == plugins.BUILT_IN else f" [{plugin.origin}]"
            print(f"  {name:{width}}  {plugin.summary()}{origin}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A task or a model.")],
    L: Annotated[str | None, typer.Option("--L", help="Length.")] = None,
    D: Annotated[str, typer.Option("--D", help="Width.")] = "4",
    depth: Annotated[str, typer.Option(help="Number of layers.")] = "1",
    task_setting: TaskSettings = None,
    model_setting: ModelSettings = None,
    tasks_dir: TasksDir = None,
    models_dir: ModelsDir = None,
) -> None:
    """Show what a task or a model is.

    Of a task its definition, settings, samples and controls; of a model its definition, settings, sizes and degree.
    """
    _add_folders(tasks_dir, models_dir)
    from expbench.show import show_plugin

    print(show_plugin(name, L=L, D=D, depth=depth, task_settings=task_setting or [], model_settings=model_setting or []))


@app.command()
def check(
    layer: Annotated[str, typer.Argument(help="A model by name, or path/file.py:Class, or module:Class.")],
    D: Annotated[str, typer.Option("--D", metavar="LIST", help="Widths.")] = "1,2,4,7",
    L: Annotated[str, typer.Option("--L", metavar="LIST", help="Lengths.")] = "1,2,5,16",
    backend: BackendOption = "auto",
    model_setting: ModelSettings = None,
    models_dir: ModelsDir = None,
) -> None:
    """Check a layer on a CPU: causality, gradients, determinism, stacking, number types, and what it states of itself.

    The exit code is 1 if a check fails.
    """
    _add_folders(None, models_dir)
    from expbench.ops import backends

    _check("--backend", backend, ("auto", *backends.BACKENDS))
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench import grid
    from expbench.theory import check as checking

    with backends.using(None if backend == "auto" else backend):
        widths, lengths = grid.whole("--D", D, most=256), grid.whole("--L", L, most=512)
        findings = checking.check(layer, widths=widths, lengths=lengths, settings=model_setting or [])
    print(checking.text(findings))
    if any(finding.verdict == "fail" for finding in findings):
        raise SystemExit(1)


@app.command()
def doctor() -> None:
    """Print versions, device, and which optional backends work.

    For those that do not, it says how to get them.
    """
    from expbench.doctor import examine

    print(examine())


@app.command()
def trace(
    key: Annotated[str, typer.Argument(help="The key of a run, or its beginning.")],
    results: ResultsOption = "results",
) -> None:
    """Show where a number comes from, and how to run it again.

    The run and its provenance, its curve, the command that runs it again, its weights if they were kept.
    """
    from expbench import table
    from expbench.trace import trace_key

    folder = table.existing_folder(results)
    frame, problems = table.read(folder)
    print(trace_key(frame, folder, key))
    _bad_files(problems)


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
    _check("--device", device, _DEVICES)
    if not 0 <= seconds <= 3600:  # nan is not either
        raise BadInput(f"--seconds: {seconds:g} is not between 0 and 3600")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench import bench, bench_cases, sweep, table

    chosen = sweep.choose_device(device)
    cases = bench_cases.cases(shapes, L, dtype, transition, gate, chosen)
    planned, notes = bench_cases.plan(cases, backend, chosen)
    options = bench.Options(chosen, seconds, check, threads)
    signal.signal(signal.SIGTERM, _interrupt)
    raise SystemExit(bench.run(planned, options, notes, table.open_folder(out, "--out", "results/bench"), _say))


@theory_app.callback(invoke_without_command=True)
def theory_root(context: typer.Context) -> None:
    """What layers can compute, by theorem: degrees measured beside formulas, and weights that are set."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@theory_app.command("degree")
def theory_degree(
    models: Annotated[
        str, typer.Option(metavar="LIST", help="Models by name, or path/file.py:Class, or module:Class.")
    ] = "s6-poly,s6-poly-disc,ssm,linattn,polyattn,s6,attn",
    L: Annotated[str, typer.Option("--L", metavar="LIST", help="Lengths.")] = "2,4,6,8,10,12",
    D: Annotated[str, typer.Option("--D", metavar="LIST", help="Widths.")] = "2",
    depth: Annotated[str, typer.Option(metavar="LIST", help="Numbers of layers.")] = "1,2",
    residual: Annotated[str, typer.Option(metavar="LIST", help="Residual connections: on, off.")] = "on",
    model_setting: ModelSettings = None,
    limit: Annotated[int, typer.Option(min=1, max=1 << 22, help="Largest degree that is measured.")] = 1 << 15,
    models_dir: ModelsDir = None,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where degree.parquet, degree.md and degree.svg are put.")
    ] = "results/theory",
) -> None:
    """Measure degree and interaction order exactly, beside the formulas that the models state.

    Networks have no normalisation. The exit code is 1 if one differs from its formula.
    """
    _add_folders(None, models_dir)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench import grid, table
    from expbench.theory import survey

    request = grid.Request(
        task="polyreg",
        models=models,
        L=L,
        D=D,
        depth=depth,
        residual=residual,
        norm="none",
        seeds="0",
        dtype="float64",
        model_settings=tuple(model_setting or ()),
    )
    jobs = grid.expand(request, "cpu")
    folder = table.open_folder(out, "--out", "results/theory")
    lines = []
    for line in survey.survey(jobs, limit):
        lines.append(line)
        _say(f"[{len(lines)}/{len(jobs)}] {line.model} L={line.L} depth={line.depth}: {line.verdict}")
    print(survey.text(lines))
    print(", ".join(map(str, survey.write(lines, folder))))
    if any(line.verdict.startswith("DIFFERS") for line in lines):
        raise SystemExit(1)


@theory_app.command("construct")
def theory_construct(
    what: Annotated[str, typer.Argument(help="lemma2, count-in-row, or a polynomial, as '2*x1^2*x3 - x2*x4 + 0.5'.")],
    L: Annotated[
        int | None, typer.Option("--L", help="Length. (default: of a polynomial its last variable, else 16 or 64)")
    ] = None,
    D: Annotated[int, typer.Option("--D", min=1, max=256, help="Width of the head of lemma2.")] = 4,
    N: Annotated[int, typer.Option("--N", min=1, max=256, help="States of the head of lemma2.")] = 4,
) -> None:
    """Set the weights of the suite's own layers so that they compute something, and say how exactly they do.

    A polynomial becomes four Mamba blocks (Theorem 2), a head of linear attention one S6 layer (Lemma 2).
    """
    from expbench.theory.demonstrate import demonstrate

    print(demonstrate(what, L, D, N))


@theory_app.command("realise")
def theory_realise(
    formula: Annotated[str, typer.Argument(help="A polynomial, as 'x1*x2*x3'.")],
    L: Annotated[int | None, typer.Option("--L", min=1, max=4096, help="Length. (default: the last variable)")] = None,
    noise: Annotated[str, typer.Option(metavar="LIST", help="Sizes of the noise.")] = "0,0.001,0.01,0.03,0.1,0.3",
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Seeds of noise and data.")] = "0:10",
    steps: Annotated[int, typer.Option(min=1, max=10**6, help="Optimizer steps.")] = 1000,
    lr: Annotated[float, typer.Option(min=1e-9, max=10.0, help="Peak learning rate.")] = 0.003,
    batch_size: Annotated[int, typer.Option(min=1, max=1 << 16, help="Sequences in a step.")] = 64,
    device: DeviceOption = "auto",
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Where realise.parquet and realise.svg are put.")
    ] = "results/theory",
) -> None:
    """Start training at a construction plus noise, and from scratch: what can be represented, and what is found."""
    _check("--device", device, _DEVICES)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench import grid, sweep, table
    from expbench.progress import counting
    from expbench.theory import realise

    sizes, numbers = grid.real("--noise", noise), grid.whole("--seeds", seeds, least=0)
    chosen = sweep.choose_device(device)
    folder = table.open_folder(out, "--out", "results/theory")
    with counting("steps", steps) as told:
        found = realise.realise(
            formula, L, sizes, numbers, steps=steps, lr=lr, batch_size=batch_size, device=chosen, told=told
        )
    print(realise.text(found, formula))
    print(", ".join(map(str, realise.write(found, formula, folder))))


@theory_app.command("bound")
def theory_bound(
    L: Annotated[int, typer.Option("--L", help="Length.")] = 8,
    D: Annotated[int, typer.Option("--D", help="Width.")] = 4,
    N: Annotated[int, typer.Option("--N", help="States of a channel.")] = 4,
    classes: Annotated[int, typer.Option(help="Classes: counts of a run of 1s, cut at the last.")] = 4,
    samples: Annotated[int, typer.Option(help="Sequences that are trained on.")] = 512,
    seed: Annotated[int, typer.Option(help="Of data and weights.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 300,
) -> None:
    """Train one bare layer of Eq. 6, and set the bound of Theorem 3 beside its true gap; vacuous is called vacuous."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.theory.bound_example import demonstrate_bound

    print(demonstrate_bound(L=L, D=D, N=N, classes=classes, samples=samples, seed=seed, steps=steps))


@theory_app.command("correlation")
def theory_correlation(
    statistic: Annotated[str, typer.Option(metavar="NAME", help="k_hat, abar_max, frac_abs_gt_1.")] = "k_hat",
    results: ResultsOption = "results",
) -> None:
    """Rank correlation of the largest |Abar| with the loss over training, over the runs of each cell."""
    _check("--statistic", statistic, ("k_hat", "abar_max", "frac_abs_gt_1"))
    from expbench import table
    from expbench.theory import correlation

    frame, problems = table.read(table.existing_folder(results))
    found = correlation.correlations(frame, statistic)
    if not found:
        raise BadInput(f"{results} holds no run that logs {statistic}; expbench run --task polyreg --models s6 makes some")
    print(correlation.text(found))
    _bad_files(problems)


def _add_folders(tasks_dir: list[str] | None, models_dir: list[str] | None) -> None:
    from expbench import plugins

    for folder in tasks_dir or []:
        plugins.add_folder("task", folder)
    for folder in models_dir or []:
        plugins.add_folder("model", folder)


def _check(option: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise unknown(f"value of {option}:", value, choices)


def _shard(text: str) -> tuple[int, int]:
    part, _, parts = text.partition("/")
    if not (text.isascii() and part.isdigit() and parts.isdigit() and 1 <= int(part) <= int(parts)):
        raise BadInput(f"--shard: {text!r} is not I/N with I from 1 to N, as 1/4")
    return int(part), int(parts)


def _seconds(minutes: float | None) -> float | None:
    if minutes is None:
        return None
    if not 0 < minutes <= 100_000:  # nan is not either
        raise BadInput(f"--time-limit: {minutes:g} is not between 0 and 100000 minutes")
    return 60 * minutes


def _bad_files(problems: list[str]) -> None:
    """Files of the results folder that were not read: everything else was, but the answer is not whole."""
    for problem in problems:
        _say(f"error: {problem}")
    if problems:
        raise SystemExit(2)


def _hold_log() -> MemoryHandler:
    """Keep what the package logs until it is known that nothing is wrong with the command."""
    import logging
    from logging.handlers import MemoryHandler

    held = MemoryHandler(1000, flushLevel=logging.CRITICAL + 1, flushOnClose=False)
    logger = logging.getLogger("expbench")
    logger.handlers[:] = [held]
    logger.setLevel(logging.INFO)
    return held


def _show_log(held: MemoryHandler) -> None:
    """Print what was logged, such as which implementation of an operation was chosen, and from now on what will be."""
    import logging

    shown = logging.StreamHandler()
    shown.setFormatter(logging.Formatter("%(message)s"))
    held.setTarget(shown)
    held.flush()
    logging.getLogger("expbench").handlers[:] = [shown]


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main(arguments: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 a run failed, 2 bad input, 130 interrupted."""
    try:
        code = app(args=arguments, standalone_mode=False)
    except BadInput as error:
        _say(f"error: {error}")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        sys.stderr.close()
        raise SystemExit(0) from None
    except Exception as error:
        # what the command-line parser itself refuses; it knows its nearest options
        message = getattr(error, "format_message", None)
        if message is None:
            raise
        _say(f"error: {' '.join(message().split())}")
        raise SystemExit(2) from None
    raise SystemExit(code if isinstance(code, int) else 0)

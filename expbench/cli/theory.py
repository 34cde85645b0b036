"""Commands of `expbench theory`: the expressivity of layers. Heavy imports happen inside them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from expbench.cli.options import (
    DEVICES,
    Command,
    DeviceOption,
    ModelsDir,
    ModelSettings,
    ResultsOption,
    add_folders,
    bad_files,
    check_choice,
)
from expbench.console.formatting import say
from expbench.errors import BadInput

theory_app = typer.Typer(rich_markup_mode=None)


@theory_app.callback(invoke_without_command=True)
def theory_root(context: typer.Context) -> None:
    """Study the expressivity of layers: measure degrees against formulas, and test the constructions of theorems."""
    if context.invoked_subcommand is None:
        print(context.get_help())


@theory_app.command("degree", cls=Command)
def theory_degree(
    models: Annotated[
        str, typer.Option(metavar="LIST", help="Model names, path/file.py:Class, or module:Class.")
    ] = "s6-poly,s6-poly-disc,ssm,linattn,polyattn,s6,attn",
    L: Annotated[str, typer.Option("--L", metavar="LIST", help="Lengths.")] = "2,4,6,8,10,12",
    D: Annotated[str, typer.Option("--D", metavar="LIST", help="Widths.")] = "2",
    depth: Annotated[str, typer.Option(metavar="LIST", help="Numbers of layers.")] = "1,2",
    residual: Annotated[str, typer.Option(metavar="LIST", help="Residual connections: on, off.")] = "on",
    model_setting: ModelSettings = None,
    limit: Annotated[int, typer.Option(min=1, max=1 << 22, help="Largest degree to measure.")] = 1 << 15,
    models_dir: ModelsDir = None,
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Output folder for degree.parquet, degree.md and degree.svg.")
    ] = "results/theory",
) -> None:
    """Measure degree and interaction order exactly, and compare them with the formulas of the models.

    The networks have no normalisation. The exit code is 1 if one differs from its formula.
    """
    add_folders(None, models_dir)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.results import folders
    from expbench.sweep.expand import expand
    from expbench.sweep.spec import SweepSpec
    from expbench.theory.survey import survey, text, write

    spec = SweepSpec(
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
    jobs = expand(spec, "cpu")
    folder = folders.open_folder(out, "--out", "results/theory")
    lines = []
    for line in survey(jobs, limit):
        lines.append(line)
        say(f"[{len(lines)}/{len(jobs)}] {line.model} L={line.L} depth={line.depth}: {line.verdict}")
    print(text(lines))
    print(", ".join(map(str, write(lines, folder))))
    if any(line.verdict.startswith("DIFFERS") for line in lines):
        raise SystemExit(1)


@theory_app.command("construct", cls=Command)
def theory_construct(
    what: Annotated[str, typer.Argument(help="lemma2, count-in-row, or a polynomial, e.g. '2*x1^2*x3 - x2*x4 + 0.5'.")],
    L: Annotated[
        int | None, typer.Option("--L", help="Length. (default: the last variable of a polynomial, else 16 or 64)")
    ] = None,
    D: Annotated[int, typer.Option("--D", min=1, max=256, help="Width of the head of lemma2.")] = 4,
    N: Annotated[int, typer.Option("--N", min=1, max=256, help="States of the head of lemma2.")] = 4,
) -> None:
    """Construct weights with which built-in layers compute a function, and print the error.

    A polynomial becomes four Mamba blocks (Theorem 2), a head of linear attention becomes one S6 layer (Lemma 2).
    """
    from expbench.theory.demonstrate import demonstrate

    print(demonstrate(what, L, D, N))


@theory_app.command("realise", cls=Command)
def theory_realise(
    formula: Annotated[str, typer.Argument(help="A polynomial, e.g. 'x1*x2*x3'.")],
    L: Annotated[int | None, typer.Option("--L", min=1, max=4096, help="Length. (default: the last variable)")] = None,
    noise: Annotated[
        str, typer.Option(metavar="LIST", help="Standard deviations of the noise.")
    ] = "0,0.001,0.01,0.03,0.1,0.3",
    seeds: Annotated[str, typer.Option(metavar="LIST", help="Seeds of the noise and the data.")] = "0:10",
    steps: Annotated[int, typer.Option(min=1, max=10**6, help="Optimizer steps.")] = 1000,
    lr: Annotated[float, typer.Option(min=1e-9, max=10.0, help="Peak learning rate.")] = 0.003,
    batch_size: Annotated[int, typer.Option(min=1, max=1 << 16, help="Sequences per step.")] = 64,
    device: DeviceOption = "auto",
    out: Annotated[
        str, typer.Option(metavar="FOLDER", help="Output folder for realise.parquet and realise.svg.")
    ] = "results/theory",
) -> None:
    """Train from a construction plus noise and from scratch, to compare what is representable with what is learned."""
    check_choice("--device", device, DEVICES)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.console.progress import counting
    from expbench.results import folders
    from expbench.sweep.spec import real, whole
    from expbench.theory.realise import realise, text, write
    from expbench.training.device import choose_device

    sizes, numbers = real("--noise", noise), whole("--seeds", seeds, least=0)
    chosen = choose_device(device)
    folder = folders.open_folder(out, "--out", "results/theory")
    with counting("steps", steps) as on_step:
        found = realise(
            formula, L, sizes, numbers, steps=steps, lr=lr, batch_size=batch_size, device=chosen, on_step=on_step
        )
    print(text(found, formula))
    print(", ".join(map(str, write(found, formula, folder))))


@theory_app.command("floor", cls=Command)
def theory_floor(
    L: Annotated[str, typer.Option("--L", metavar="LIST", help="Lengths.")] = "16,32",
    degree: Annotated[str | None, typer.Option(metavar="LIST", help="Degrees of the task. (default: the task's)")] = None,
    task_setting: Annotated[
        list[str] | None,
        typer.Option("-t", "--task-setting", metavar="NAME=VALUE", help="A setting; repeatable."),
    ] = None,
    D: Annotated[int, typer.Option("--D", min=1, max=64, help="Width.")] = 8,
    positions: Annotated[str, typer.Option(metavar="NAME", help="none, sin, learned, onehot, index.")] = "sin",
    position_base: Annotated[float, typer.Option(min=1.0, help="Base of the sinusoids.")] = 10000.0,
    largest: Annotated[
        list[float] | None,
        typer.Option(min=0.0, help="Also the floor for coefficients up to this size, for labels of variance 1; repeatable."),
    ] = None,
) -> None:
    """Compute the floors of one layer of linear attention on polyreg: by degree and structure, by span, and by symmetry.

    Codes enter as a network stores them, in float32.
    """
    check_choice("--positions", positions, ("none", "sin", "learned", "onehot", "index"))
    from expbench.settings import split_assignment
    from expbench.sweep.spec import whole
    from expbench.theory import floors

    given = [split_assignment(text, "-t")[1:] for text in task_setting or []]
    for name, values in given:
        if len(values) > 1:
            raise BadInput(f"-t {name}: this table has one value of each setting, e.g. -t {name}={values[0]}")
    degrees = [None] if degree is None else whole("--degree", degree)
    print(
        floors.text(
            {name: values[0] for name, values in given},
            whole("--L", L, most=1024),
            degrees,
            width=D,
            positions=positions,
            base=position_base,
            largest=largest or [],
        )
    )


@theory_app.command("witnesses", cls=Command)
def theory_witnesses(
    results: ResultsOption = "results",
    sequences: Annotated[int, typer.Option(min=256, max=1 << 20, help="Number of fresh sequences.")] = 1 << 14,
) -> None:
    """Evaluate the networks with kept weights that solved their task on fresh data; exit with 1 if one does not solve it."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.results import folders
    from expbench.theory import witnesses

    found = list(witnesses.check(folders.existing_folder(results), sequences))
    print(witnesses.text(found))
    if not all(each.holds for each in found):
        raise typer.Exit(1)


@theory_app.command("bound", cls=Command)
def theory_bound(
    L: Annotated[int, typer.Option("--L", help="Length.")] = 8,
    D: Annotated[int, typer.Option("--D", help="Width.")] = 4,
    N: Annotated[int, typer.Option("--N", help="States per channel.")] = 4,
    classes: Annotated[int, typer.Option(help="Number of classes: the length of a run of 1s, capped.")] = 4,
    samples: Annotated[int, typer.Option(help="Number of training sequences.")] = 512,
    seed: Annotated[int, typer.Option(min=0, max=10**6, help="Seed of the data and the weights.")] = 0,
    steps: Annotated[int, typer.Option(help="Optimizer steps.")] = 300,
) -> None:
    """Train one bare layer of Eq. 6, compare the bound of Theorem 3 with the true gap, and report whether it is vacuous."""
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.theory.bound_example import demonstrate_bound

    print(demonstrate_bound(L=L, D=D, N=N, classes=classes, samples=samples, seed=seed, steps=steps))


@theory_app.command("correlation", cls=Command)
def theory_correlation(
    statistic: Annotated[str, typer.Option(metavar="NAME", help="k_hat, abar_max, frac_abs_gt_1.")] = "k_hat",
    results: ResultsOption = "results",
) -> None:
    """Compute the rank correlation of the largest |Abar| with the training loss, over the runs of each configuration."""
    check_choice("--statistic", statistic, ("k_hat", "abar_max", "frac_abs_gt_1"))
    from expbench.results import folders, store
    from expbench.theory import correlation

    frame, problems = store.read(folders.existing_folder(results))
    found = correlation.correlations(frame, statistic)
    if not found:
        raise BadInput(f"{results} has no run that logs {statistic}; expbench run --task polyreg --models s6 creates some")
    print(correlation.text(found))
    bad_files(problems)

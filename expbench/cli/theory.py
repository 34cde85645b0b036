"""The commands of `expbench theory`: what layers can compute. Heavy imports happen inside them."""

from __future__ import annotations

import os
from typing import Annotated

import typer

from expbench.cli.options import (
    DEVICES,
    DeviceOption,
    ModelsDir,
    ModelSettings,
    ResultsOption,
    add_folders,
    bad_files,
    check_choice,
    say,
)
from expbench.errors import BadInput

theory_app = typer.Typer(rich_markup_mode=None)


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
    add_folders(None, models_dir)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.results import folders
    from expbench.sweep.expand import expand
    from expbench.sweep.request import Request
    from expbench.theory.survey import survey, text, write

    request = Request(
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
    jobs = expand(request, "cpu")
    folder = folders.open_folder(out, "--out", "results/theory")
    lines = []
    for line in survey(jobs, limit):
        lines.append(line)
        say(f"[{len(lines)}/{len(jobs)}] {line.model} L={line.L} depth={line.depth}: {line.verdict}")
    print(text(lines))
    print(", ".join(map(str, write(lines, folder))))
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
    check_choice("--device", device, DEVICES)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    from expbench.console.progress import counting
    from expbench.results import folders
    from expbench.sweep.request import real, whole
    from expbench.theory.realise import realise, text, write
    from expbench.training.device import choose_device

    sizes, numbers = real("--noise", noise), whole("--seeds", seeds, least=0)
    chosen = choose_device(device)
    folder = folders.open_folder(out, "--out", "results/theory")
    with counting("steps", steps) as told:
        found = realise(formula, L, sizes, numbers, steps=steps, lr=lr, batch_size=batch_size, device=chosen, told=told)
    print(text(found, formula))
    print(", ".join(map(str, write(found, formula, folder))))


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
    check_choice("--statistic", statistic, ("k_hat", "abar_max", "frac_abs_gt_1"))
    from expbench.results import folders, store
    from expbench.theory import correlation

    frame, problems = store.read(folders.existing_folder(results))
    found = correlation.correlations(frame, statistic)
    if not found:
        raise BadInput(f"{results} holds no run that logs {statistic}; expbench run --task polyreg --models s6 makes some")
    print(correlation.text(found))
    bad_files(problems)

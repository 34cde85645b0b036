"""Runs that start from a construction, with noise or without: what they start from, what it asks for, and their keys."""

import math
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from expbench.models.s6 import S6
from expbench.nn.network import Network
from expbench.results import store
from expbench.run import LATER, Run
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.ensemble import Ensemble
from expbench.training.family import Scored
from expbench.training.job import Job
from expbench.training.loop import build, evaluate, train, train_together
from expbench.training.weights import load
from tests.conftest import CommandLine, is_bad_input

ROOT = Path(__file__).parents[2]
FORMULA = "2*x1^2*x3 - x2*x4 + 0.5"


def jobs(**request: Any) -> list[Job]:
    small: dict[str, Any] = {"seeds": "0", "steps": "2", "lr": "1e-12", "batch_size": "4", "norm": "none"}
    return expand(SweepSpec(**(small | request)), "cpu")


def built(job: Job) -> Network:
    return build(job.run, job.task, job.model, "cpu")


def metric(job: Job) -> float:
    """The headline metric on the test split before training."""
    found = evaluate(job.run, job.task, built(job), "cpu", "test")
    return next(m.value for m in found if m.metric == job.task.primary_metric)


def results() -> pd.DataFrame:
    """A row for each run: its columns, and the value that it ended with."""
    frame = store.read(Path("results")).frame
    return frame[(frame["kind"] == "run") & (frame["split"] == "test") & frame["primary"].fillna(False).astype(bool)]


# --- Keys and rows ---


OLD = Run(
    task="polyreg", task_version="2", model="linattn", model_version="1", model_settings={}, D=8, depth=1,
    task_settings={
        "L": 4, "instance": 0, "test_size": 1024, "validation_size": 1024, "family": "product", "degree": 4,
        "inputs": "signs", "lo": 0.0, "hi": 1.0, "eps": 0.5, "terms": None, "max_exponent": 2, "label_var": 1.0,
        "formula": None,
    },
    norm="none", positions="sin", residual=True, steps=2000, warmup=200, batch_size=64, lr=0.03, weight_decay=0.0,
    clip=1.0, seed=9, dtype="float32",
)  # fmt: skip


def test_the_key_of_a_run_from_before_is_what_it_was() -> None:
    assert OLD.key == "020e24ea9df14c65", "a run of results/floors"
    others = [replace(OLD, init="construct:lemma2"), replace(OLD, init_noise=0.1), replace(OLD, init_noise=0.2)]
    assert len({run.key for run in (OLD, *others)}) == 4


def test_rows_of_older_tables_are_runs_with_their_keys() -> None:
    rows = store.read(ROOT / "results" / "floors").frame.query("kind == 'run'").drop_duplicates("key").head(20)
    for row in rows.to_dict("records"):
        assert Run.from_row({str(name): value for name, value in row.items()}).key == row["key"]
        for nothing in (None, math.nan):
            later = dict.fromkeys(LATER, nothing)
            assert Run.from_row({str(name): value for name, value in row.items()} | later).key == row["key"]
        without = {str(name): value for name, value in row.items() if name not in LATER}
        assert Run.from_row(without).key == row["key"]


def test_the_command_of_a_run_says_where_it_starts_only_if_it_is_not_the_default() -> None:
    assert "init" not in OLD.command()
    words = shlex.split(replace(OLD, init="construct:lemma2", init_noise=0.25).command())
    assert words[words.index("--init") + 1] == "construct:lemma2"
    assert words[words.index("--init-noise") + 1] == "0.25"


# --- Lemma 2 ---


def head(layer: S6, x: Tensor, delta: float, decay: float) -> Tensor:
    """The definition: sum_{j<=t} (W_Q x_t . W_K x_j) x_j, the term of x_j with the factor exp(-decay (t - j))."""
    t = torch.arange(x.shape[1], dtype=x.dtype)
    W_Q, W_K = layer.to_c.weight, layer.to_b.weight * (delta if layer.discretise_b else 1)
    return (((x @ W_Q.mT) @ (x @ W_K.mT).mT).tril() * torch.exp(-decay * (t[:, None] - t))) @ x


@pytest.mark.parametrize(
    ("model", "settings", "delta"),
    [
        ("s6", [], 1.0),
        ("s6-bbar-b", ["N=2", "skip=false"], 1.0),
        ("s6-poly", ["taylor=2", "arg_scale=0.5"], math.log(2)),
        ("s6-poly", ["center=bias", "guard=clip"], math.log(2)),
        ("s6-poly", ["transition=linear"], 1.0),
        ("s6-poly-disc", ["center=bias"], math.log(2)),
        ("s6-poly-disc", ["transition=linear", "skip=false"], 1.0),
    ],
)
def test_every_layer_of_the_family_starts_as_linear_attention(model: str, settings: list[str], delta: float) -> None:
    request = {"model_settings": ("layout=full_bias", *settings), "depth": "2", "dtype": "float64", "norm": "layer"}
    one, two = jobs(task="polyreg", models=model, init="construct:lemma2", seeds="0:2", **request)
    network, plain = built(one), built(replace_init(one, "default"))
    x = torch.randn(2, 40, 4, dtype=torch.float64)
    eps = 0.0 if "transition=linear" in settings else 1e-6
    for layer, drawn in zip(network.mixers, plain.mixers, strict=True):
        assert isinstance(layer, S6)
        assert isinstance(drawn, S6)
        assert torch.equal(layer.to_b.weight, drawn.to_b.weight), "keys and queries are as torch has drawn them"
        assert torch.equal(layer.to_c.weight, drawn.to_c.weight)
        with torch.no_grad():
            y, exact, decayed = layer(x), head(layer, x, delta, 0.0), head(layer, x, delta, eps * delta)
        assert (y - decayed).abs().max() < 1e-12 * exact.abs().max()
        assert (y - exact).abs().max() <= (eps * delta * 39 + 1e-12) * exact.abs().max(), "the error that is stated"
    assert torch.equal(network.head.weight, plain.head.weight)
    assert not torch.equal(network.head.weight, built(two).head.weight)
    assert all(p.isfinite().all() for p in network.parameters())
    network(one.task.train_batch(4, seed=0, step=0).inputs).square().sum().backward()
    moved = [p.grad for layer in network.mixers for p in layer.parameters()]
    assert all(grad is not None and grad.isfinite().all() and grad.any() for grad in moved), "training can leave it"


def replace_init(job: Job, init: Any) -> Job:
    return job._replace(run=replace(job.run, init=init))


# --- Count in row ---


@pytest.mark.parametrize("head", ["scalar", "classes"])
@pytest.mark.parametrize("supervise", ["all", "last"])
@pytest.mark.parametrize(("D", "settings"), [("1", []), ("3", []), ("5", ["N=2", "arg_scale=0.3"])])
def test_a_network_starts_as_the_count_whatever_its_width(head: str, supervise: str, D: str, settings: list[str]) -> None:
    request: dict[str, Any] = {"task": "count-in-row", "models": "s6-poly", "init": "construct:count-in-row", "D": D}
    request |= {"task_settings": ("classes=30", f"head={head}", f"supervise={supervise}", "test_size=256")}
    request |= {"model_settings": ("layout=full_bias", "transition=linear", *settings), "lr": "0.01", "steps": "20"}
    for L in ("500", "64"):
        (job,) = jobs(L=L, **request)
        assert metric(job) == 1.0
        usual = metric(replace_init(job, "default"))
        assert usual < 0.5 or math.isnan(usual), "NaN: its outputs are not finite"
    if head == "classes":  # the count itself has no loss, and nothing to be trained
        before, network = built(job), built(job)
        list(train(job.run, job.task, network, "cpu"))
        for (name, a), b in zip(before.named_parameters(), network.parameters(), strict=True):
            assert not torch.equal(a, b), f"training moves {name}"


# --- Theorem 2 ---


def fitting(formula: str) -> dict[str, Any]:
    """What the construction of a formula needs, as its own error tells it, asked until it is content."""
    request: dict[str, Any] = {"task": "polyreg", "models": "mamba-poly", "init": "construct:theorem2", "L": "3"}
    request |= {"task_settings": ("family=given", f"formula={formula}", "test_size=256"), "dtype": "float64"}
    request |= {"depth": "4", "positions": "learned"}
    with pytest.raises(Exception, match="--init construct:theorem2 needs") as refused:
        jobs(**request)
    return request | dict(re.findall(r"--(L|D) (\d+)", str(refused.value)))


@pytest.mark.parametrize(
    ("formula", "L"),
    [("x1*x2*x3", "3"), ("x1", "3"), ("2*x1^2*x3 - x2 + 7", "3"), ("x1^2*x2", "3"), ("x1^2*x3^3 + x2*x3", "5")],
)
def test_a_network_starts_as_the_formula_and_its_error_says_how_to_make_room(formula: str, L: str) -> None:
    request = fitting(formula)
    assert request["L"] == L, "no longer than it must be"
    (job,) = jobs(**request)
    assert metric(job) < 1e-20
    assert job.task.solved(metric(jobs(**(request | {"dtype": "float32"}))[0]))
    narrow = jobs(**request, model_settings=("inner=9", "N=2"))[0]
    assert metric(narrow) < 1e-20
    standardised = jobs(**(request | {"task_settings": (*request["task_settings"], "label_var=20", "lo=-1")}))[0]
    assert metric(standardised) < 1e-20


# --- Noise ---


@pytest.mark.parametrize("init", ["default", "construct:count-in-row"])
def test_noise_is_of_its_size_on_every_parameter_and_of_the_seed(init: str) -> None:
    request = {"model_settings": ("layout=full_bias", "transition=linear"), "D": "40", "init_noise": "0,0.25,0.5"}
    request |= {"task_settings": ("classes=8",), "seeds": "0:2"}
    found = jobs(task="count-in-row", models="s6-poly", init=init, **request)
    made = {(job.run.init_noise, job.run.seed): job for job in found}
    network = {key: dict(built(job).named_parameters()) for key, job in made.items()}
    drawn = []
    for name in network[0.0, 0]:
        noise = {key: (p[name] - network[0.0, key[1]][name]).detach() for key, p in network.items()}
        torch.testing.assert_close(noise[0.5, 0], 2 * noise[0.25, 0], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(noise[0.5, 0], noise[0.5, 1])
        assert bool((noise[0.5, 0] != 0).all()), name
        drawn.append(noise[0.5, 0].flatten())
    sample = torch.cat(drawn)
    assert sample.std().item() == pytest.approx(0.5, rel=0.05)
    assert abs(sample.mean().item()) < 0.02
    if init == "default":
        embed = network[0.0, 0]["embed.weight"].detach().flatten()
        shared = torch.corrcoef(torch.stack([embed, sample[: len(embed)]]))[0, 1]
        assert abs(shared.item()) < 0.5, "it is not what the weights were drawn from"
    before = torch.get_rng_state()
    again = dict(built(made[0.5, 0]).named_parameters())
    assert all(torch.equal(again[name], p) for name, p in network[0.5, 0].items())
    assert torch.equal(torch.get_rng_state(), before)


def test_what_does_not_train_has_no_noise() -> None:
    class Frozen(nn.Module):
        def __init__(self, width: int, **settings: Any) -> None:
            super().__init__()
            self.scale = nn.Parameter(torch.ones(width), requires_grad=False)

        def forward(self, x: Tensor) -> Tensor:
            return x * self.scale

    (job,) = jobs(task="polyreg", models="ssm", init_noise="0.5")
    network = build(job.run, job.task, Frozen, "cpu")
    assert torch.equal(network.mixers[0].scale, torch.ones(4))  # type: ignore[arg-type]


def test_starts_of_all_kinds_are_one_stack_with_the_numbers_that_each_has_alone() -> None:
    request = {"model_settings": ("layout=full_bias", "center=bias"), "init": "default,construct:lemma2"}
    stack = jobs(task="polyreg", models="s6-poly-disc", L="5", init_noise="0,0.01", dtype="float64", lr="0.01", **request)
    assert len(stack) == 4
    runs, tasks = [job.run for job in stack], [job.task for job in stack]
    together = list(train_together(runs, tasks, Ensemble([built(job) for job in stack]), "cpu"))
    alone = [[score.value for score in train(job.run, job.task, built(job), "cpu")] for job in stack]
    for i, values in enumerate(alone):
        mine = [event.score.value for event in together if isinstance(event, Scored) and event.member == i]
        assert mine == pytest.approx(values, rel=1e-9, abs=1e-12)
    assert len(set(map(tuple, alone))) == 4


# --- On the command line ---


COUNT = ["--task", "count-in-row", "--models", "s6-poly", "-m", "layout=full_bias", "-m", "transition=linear"]
COUNT += ["--norm", "none", "--L", "12", "-t", "classes=8", "-t", "head=scalar,classes"]
COUNT += ["--init", "default,construct:count-in-row", "--init-noise", "0,0.3"]
ROOM = f"--models mamba-poly --L 4 --D 36 --depth 4 --norm none --positions learned -t family=given -t 'formula={FORMULA}'"
STILL = ["--steps", "2", "--lr", "1e-12", "--batch-size", "4", "-t", "test_size=256", "-t", "validation_size=64"]


def sweep(*words: str) -> list[str]:
    return ["run", *words, *STILL, "--seeds", "0:2"]


def test_count_in_row_on_the_command_line(expbench: CommandLine) -> None:
    words = sweep(*COUNT)
    before = expbench(*words, "--dry-run")
    assert (before.code, Path("results").exists()) == (0, False), before
    assert "16 runs: 0 done, 16 to run" in before.out
    answer = expbench(*words, "--save-weights")
    assert answer.code == 0, answer.err
    frame = results()
    assert set(frame["stack_size"]) == {8}, "of either head"
    exact = (frame["init"] == "construct:count-in-row") & (frame["init_noise"] == 0)
    assert frame.loc[exact, "value"].tolist() == [1.0] * 4
    assert (frame.loc[~exact, "value"] < 1).all()
    assert "16 runs: 16 done, 0 to run" in expbench(*words).err
    for key, noise in frame.drop_duplicates(["init", "init_noise"])[["key", "init_noise"]].itertuples(index=False):
        out = expbench("trace", key).out
        assert ("--init-noise" in out) == (noise != 0)
        command = re.search(r"^command +expbench (.*)$", out, re.MULTILINE)
        assert command
        assert "1 runs: 1 done, 0 to run" in expbench(*shlex.split(command[1])).err
    key = frame.loc[exact & frame["task_settings"].str.contains("scalar"), "key"].iloc[0]
    bits = torch.tensor([[0, 1, 1, 0, 1, 1, 1, 0, 0, 1, 1, 1]])
    assert load("results", key)(bits).squeeze(-1).round().tolist() == [[0, 1, 2, 0, 1, 2, 3, 0, 0, 1, 2, 3]]
    report = Path(expbench("report").out.strip()).with_suffix(".md").read_text()
    assert "representable, not found" in report
    assert "construct:count-in-row" in report


@pytest.mark.parametrize("stack", ["1", "4"])
def test_a_formula_on_the_command_line(expbench: CommandLine, stack: str) -> None:
    starts = ["--init", "construct:theorem2", "--init-noise", "0,0.01", "--stack", stack, "--dtype", "float64"]
    answer = expbench(*sweep("--task", "polyreg", *shlex.split(ROOM)), *starts)
    assert answer.code == 0, answer.err
    frame = results()
    assert set(frame["stack_size"]) == {int(stack)}
    exact = frame["init_noise"] == 0
    assert (frame.loc[exact, "value"] < 1e-8).all()
    assert (frame.loc[~exact, "value"] > 1e-6).all()
    assert set(frame["floor"]) == {0.0}


def test_lemma_2_on_the_command_line(expbench: CommandLine) -> None:
    words = ["--task", "polyreg", "--models", "s6,s6-bbar-b,s6-poly,s6-poly-disc", "-m", "layout=full_bias", "--L", "6"]
    answer = expbench(*sweep(*words), "--init", "default,construct:lemma2")
    assert answer.code == 0, answer.err
    frame = results()
    for _, runs in frame.groupby(["model", "seed"]):
        assert runs["value"].nunique() == len(runs) == 2


@pytest.mark.parametrize(
    ("task", "init", "words", "needs"),
    [
        ("polyreg", "lemma2", "--models s6", "-m layout=full_bias"),
        ("polyreg", "lemma2", "--models attn", "--models s6 (or s6-bbar-b, s6-poly, s6-poly-disc) -m layout=full_bias"),
        ("count-in-row", "count-in-row", "--models s6-poly --norm none,rms", "-m layout=full_bias -m transition=linear"),
        (
            *("polyreg", "count-in-row", "--models s6 --depth 2 --positions sin --residual off -m skip=false"),
            "--task count-in-row --models s6-poly -m layout=full_bias -m transition=linear -m skip=true"
            " --depth 1 --norm none --positions none --residual on",
        ),
        (
            *("polyreg", "theorem2", "--models s6"),
            "-t family=given -t formula='x1*x2' (or another) --models mamba-poly --depth 4 --norm none --positions learned",
        ),
        (
            *("count-in-row", "theorem2", "--models mamba-poly --norm none --positions learned"),
            "--task polyreg -t family=given -t formula='x1*x2' (or another) --depth 4",
        ),
        ("polyreg", "theorem2", f"{ROOM} --D 35", "--D 36"),
        ("polyreg", "theorem2", f"{ROOM} --D 36,37", "--D 36"),
        ("polyreg", "theorem2", f"{ROOM} --depth 3 --norm rms", "--depth 4 --norm none"),
        ("polyreg", "theorem2", f"{ROOM} -m inner=8", "-m inner=9"),
        ("polyreg", "theorem2", f"{ROOM} --residual on,off", "--residual on"),
        ("polyreg", "theorem2", f"{ROOM} --models mamba-poly,s6-poly", "--models mamba-poly"),
        ("polyreg", "theorem2", ROOM.replace(FORMULA, "x4^3"), "--L 6 --D 12"),
    ],
)
def test_what_a_construction_needs_is_one_line_before_anything_is_trained(
    expbench: CommandLine, task: str, init: str, words: str, needs: str
) -> None:
    for dry in ([], ["--dry-run"]):
        answer = expbench("run", "--task", task, *shlex.split(words), "--init", f"default,construct:{init}", *dry)
        is_bad_input(answer)
        assert answer.err.strip() == f"error: --init construct:{init} needs {needs}"
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--init", "construct:lemma"], "did you mean 'construct:lemma2'?"),
        (["--init", "theorem2"], "did you mean 'construct:theorem2'?"),
        (["--init", "default,default"], "--init: 'default' occurs twice"),
        (["--init", ""], "--init: '' has an empty member"),
        (["--init-noise", "-0.1"], "--init-noise: -0.1 must be at least 0"),
        (["--init-noise", "small"], "--init-noise='small' is not a finite number"),
        (["--init-noise", "1e30"], "--init-noise: 1e+30 is too large"),
    ],
)
def test_starts_that_make_no_sense(expbench: CommandLine, words: list[str], expected: str) -> None:
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "s6", *words), expected)
    assert not Path("results").exists()

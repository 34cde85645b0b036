"""What list, show, doctor, trace and the dry run print."""

import re
import shlex
from pathlib import Path

import pytest

from expbench import plugins
from expbench.results import store
from tests.conftest import TINY, CommandLine


def test_list_names_every_plugin_with_its_summary(expbench: CommandLine) -> None:
    out = expbench("list").out
    for name in (
        "count-in-row",
        "finite",
        "polyreg",
        "s6",
        "s6-bbar-b",
        "s6-poly-disc",
        "s6-poly",
        "ssm",
        "gru",
        "linattn",
        "polyattn",
        "attn",
    ):
        assert re.search(rf"^  {name} +\S", out, re.MULTILINE), name


@pytest.mark.parametrize("name", [*plugins.discover("task"), *plugins.discover("model")])
def test_show_works_for_every_plugin(expbench: CommandLine, name: str) -> None:
    answer = expbench("show", name)
    assert answer.code == 0
    assert "settings:" in answer.out
    assert "(no documentation)" not in answer.out


def test_show_of_a_task(expbench: CommandLine) -> None:
    out = expbench("show", "polyreg", "--L", "4", "-t", "family=product").out
    assert re.search(r"family +suffix\|product\|sparse\|distant\|pairwise\|random\|given +suffix +product", out)
    assert re.search(r"degree +int or none +None +4", out)
    assert "y = x1*x2*x3*x4" in out
    assert "primary metric: nmse, success at most 0.01; chance 1" in out
    assert "generator (positive)" in out
    samples = out.split("samples of the training stream:\n")[1].splitlines()
    assert len(samples) == 3
    x, y = samples[0].split("->")
    assert (len(x.split()), len(y.split())) == (4, 1)


def test_show_of_a_model(expbench: CommandLine) -> None:
    out = expbench("show", "s6-poly", "--L", "16", "--D", "8", "-m", "taylor=2").out
    assert "parameters per layer: 336" in out  # 5 * 8^2 + 4 * 8 - 2 * 8: without the LayerNorm
    assert "state per layer: 64 numbers" in out
    assert "FLOPs per layer and token: 1184" in out
    assert "degree 63, order 16" in out  # (L - 1) * 2 * 2 + 3
    assert "no polynomial bound" in expbench("show", "attn").out
    assert "degree 27, order 14" in expbench("show", "linattn", "--depth", "3").out


def test_doctor(expbench: CommandLine) -> None:
    answer = expbench("doctor")
    assert answer.code == 0
    for name in ("expbench", "python", "torch", "device", "triton", "mamba-ssm"):
        assert re.search(rf"^{name} +\S", answer.out, re.MULTILINE), name


def test_trace_gives_the_curve_and_a_command_that_is_the_same_run(expbench: CommandLine) -> None:
    words = [
        "--models",
        "s6-poly,attn",
        "--norm",
        "rms",
        "-m",
        "s6-poly:taylor=2,3",
        "-t",
        "family=distant",
        "--lr",
        "0.003",
    ]
    expbench("run", "--task", "polyreg", *words, *TINY)
    frame, _ = store.read(Path("results"))
    keys = sorted(frame.loc[frame["kind"] == "run", "key"].unique())
    assert len(keys) == 6
    for key in keys:
        out = expbench("trace", key[:10]).out
        assert re.search(r"^20 +\S+ +\S+$", out, re.MULTILINE), "the last point of the curve"
        assert "test: nmse" in out
        command = re.search(r"^command +expbench (.*)$", out, re.MULTILINE)
        assert command
        assert "1 runs: 1 done, 0 to run" in expbench(*shlex.split(command[1])).err


def test_dry_run_prints_the_plan_and_changes_nothing(expbench: CommandLine) -> None:
    words = ["run", "--task", "polyreg", "--models", "linattn,s6", "--norm", "none", *TINY]
    out = expbench(*words, "--dry-run").out
    assert not Path("results").exists()
    header, *lines = out.splitlines()
    assert header.split()[:3] == ["task", "model", "L"]
    assert re.search(r"polyreg +linattn +4 +4 +4 +1 +none +sin +73 +16 +degree 3, order 2 +0 +2", lines[0])
    assert re.search(r"polyreg +s6 +4 +4 +4 +1 +none +none +101 +16 +no polynomial bound +0 +2", lines[1])
    assert "4 runs: 0 done, 4 to run; 1 sets of controls to measure" in out
    assert re.search(r"estimated time on cpu: \d+ s", out)
    expbench(*words, "--shard", "1/2")
    out = expbench(*words, "--dry-run").out
    assert "4 runs: 2 done, 2 to run; 0 sets of controls" in out


def test_without_a_command_it_helps_and_it_knows_its_version(expbench: CommandLine) -> None:
    from expbench import __version__

    assert expbench("--version").out.strip() == __version__
    answer = expbench()
    assert (answer.code, "Usage" in answer.out, answer.err) == (0, True, "")
    for command in ("run", "report", "list", "show", "doctor", "trace"):
        assert command in answer.out

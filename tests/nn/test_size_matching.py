"""Matching: widths, or numbers of states, at which models are as large as each other."""

import re

import pytest

from expbench.errors import BadInput
from expbench.nn.size_matching import WITHIN, Target
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.loop import build
from tests.conftest import CommandLine, is_bad_input

MODELS = ("s6", "s6-poly", "linattn", "attn", "polyattn", "ssm", "gru")


@pytest.mark.parametrize("what", ["params", "state"])
@pytest.mark.parametrize("depth", ["1", "2"])
@pytest.mark.parametrize("model", MODELS)
def test_a_model_is_within_five_percent_or_refused_with_its_nearest_sizes(model: str, depth: str, what: str) -> None:
    def sizes(match: str | None = None, D: str | None = None, settings: tuple[str, ...] = ()) -> int:
        request = SweepSpec(
            task="polyreg", models=model, L="8", D=D, depth=depth, match=match, seeds="0", model_settings=settings
        )
        (job,) = expand(request, "cpu")
        network = build(job.run, job.task, job.model, "cpu")
        found = network.parameter_count() if what == "params" else network.state_size()
        assert found is not None
        return found

    for target in (90, 300, 2000):
        try:
            assert abs(sizes(f"{what}={target}") - target) <= WITHIN * target
        except BadInput as refused:
            nearest = re.findall(r"(\d+) \(D=(\d+)(?:, N=(\d+))?\)", str(refused))
            assert nearest
            for size, D, N in nearest:
                assert abs(int(size) - target) > WITHIN * target
                assert sizes(D=D, settings=(f"N={N}",) if N else ()) == int(size)
            if len(nearest) == 2 and not any(N for _, _, N in nearest):
                assert int(nearest[1][1]) == int(nearest[0][1]) + 1, "no width lies between them"


def test_what_the_issue_of_a_few_hundred_parameters_comes_to(expbench: CommandLine) -> None:
    answer = expbench("run", "--task", "polyreg", "--models", "s6,s6-poly", "--match", "params=300", "--L", "8", "--dry-run")
    assert answer.code == 0
    assert re.findall(r" (\d+) +\d+ +no polynomial bound", answer.out) == ["295", "295"]


def test_states_are_matched_by_N_where_no_width_is_near() -> None:
    request = SweepSpec(task="polyreg", models="s6", L="8", match="state=7", seeds="0")
    (job,) = expand(request, "cpu")
    assert job.run.D * int(str(job.run.model_settings["N"])) == 7


def test_heads_that_do_not_divide_a_width_are_passed_over() -> None:
    request = SweepSpec(task="polyreg", models="attn", L="8", match="params=3300", seeds="0", model_settings=("heads=4",))
    (job,) = expand(request, "cpu")
    assert job.run.D % 4 == 0


@pytest.mark.parametrize("text", ["params", "params=", "params=-3", "params=0", "params=x", "params=1e3"])
def test_malformed_targets(text: str, expbench: CommandLine) -> None:
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "s6", "--match", text), "--match", "params=300")


def test_bad_input(expbench: CommandLine, tmp_path) -> None:  # type: ignore[no-untyped-def]
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "s6", "--match", "parms=9"), "params")
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "s6", "--match", "params=300", "--D", "4"), "--D")
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "attn", "--match", "params=300"), "257 (D=8)", "316 (D=9)")
    silent = tmp_path / "silent.py"
    silent.write_text(
        "from torch import nn\n\n\nclass Silent(nn.Identity):\n    def __init__(self, width):\n        super().__init__()\n"
    )
    answer = expbench("run", "--task", "polyreg", "--models", f"{silent}:Silent", "--match", "state=9")
    is_bad_input(answer, "does not declare its state size")
    assert Target.parse("state=64") == ("state", 64, WITHIN)

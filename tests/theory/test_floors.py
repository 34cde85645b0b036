"""The table of floors: the study's codes, and bad input."""

import pytest
from expbench_tasks.polyreg import PolyReg

from expbench.models.linattn import LinAttn
from expbench.nn.limits import spanning_codes
from expbench.nn.network import Network
from expbench.run import Positions
from expbench.theory.floors import codes
from tests.conftest import CommandLine


def column(text: str, start: str) -> list[str]:
    header, *lines = text.strip().splitlines()
    at = header.index(start)
    return [line[at:].split()[0] for line in lines]


@pytest.mark.parametrize(
    ("words", "floors"),
    [
        (["--L", "16,32", "-t", "family=sparse", "--degree", "1"], ["0.44", "0.737"]),
        (["--L", "32", "--degree", "2,3,4"], ["0.046", "0.032", "0.021"]),
        (["--L", "32", "--degree", "2", "-t", "inputs=signs"], ["0.0646"]),
        (["--L", "256", "--degree", "8,32"], ["0.331", "0.3"]),
    ],
)
def test_the_degree_study(expbench: CommandLine, words: list[str], floors: list[str]) -> None:
    """Width 8, sinusoids of base 10,000, instance 0."""
    answer = expbench("theory", "floor", *words)
    assert column(answer.out, "span, sin") == floors
    assert all(float(text) < 0.03 for text in column(answer.out, "by degree"))


def test_columns(expbench: CommandLine) -> None:
    one = ["theory", "floor", "--L", "16", "-t", "family=sparse", "--degree", "1"]
    out = expbench(*one, "--largest", "1e5").out
    assert column(out, "coefficients to 100000") == ["0.595"]
    assert column(out, "symmetry") == ["0.933"], "1 - 1/15"
    assert column(expbench(*one, "--positions", "learned").out, "span, learned") == ["0"]
    matched = expbench(*one, "--position-base", "5.093").out
    assert float(column(matched, "span, sin")[0]) < 0.6


def test_bad_input(expbench: CommandLine) -> None:
    for words, line in (
        (["--positions", "sine"], "did you mean 'sin'?"),
        (["-t", "famly=sparse"], "family"),
        (["-t", "family=sparse,suffix"], "e.g. -t family=sparse"),
        (["--L", "4", "--degree", "5"], "can have 1 to 4"),
    ):
        answer = expbench("theory", "floor", *words)
        assert answer.code == 2
        assert line in answer.err


@pytest.mark.parametrize("positions", ["none", "sin", "index", "learned"])
def test_the_codes_are_those_of_a_network(positions: Positions) -> None:
    task = PolyReg(L=12, degree=2, test_size=8)
    settings = {"width": 6, "depth": 1, "norm": "none", "positions": positions, "residual": True}
    network = Network(task, lambda: LinAttn(6), **settings)  # type: ignore[arg-type]
    assert spanning_codes(network) == codes(positions, 12, 6, 10000.0)

"""Constructions plus noise, trained: what is representable, and what is found."""

from pathlib import Path

import pyarrow.parquet as pq

from expbench.theory.realise import SCRATCH, Trained, reading, realise
from tests.conftest import CommandLine


def test_a_construction_begins_at_its_polynomial() -> None:
    found = realise("2*x1*x2 - 1", 3, (0.0, 0.1), (0, 1), steps=2, lr=1e-9, batch_size=4, device="cpu")
    assert [run.start for run in found] == ["0", "0", "0.1", "0.1", SCRATCH, SCRATCH]
    assert [run.seed for run in found] == [0, 1] * 3
    for run in found:
        assert run.after is not None
        if run.start == "0":
            assert run.before < 1e-10, "though labels are standardised, and inputs padded"
            assert run.after < 1e-8
        else:
            assert run.before > 0.01
            assert run.before != found[-1 if run.seed == 0 else -2].before


def test_training_repairs_a_little_noise() -> None:
    (run, *_) = realise("x1*x2", None, (0.003,), (0,), steps=150, lr=0.003, batch_size=32, device="cpu")
    assert run.after is not None
    assert run.after < run.before / 10


def test_what_it_says() -> None:
    assert reading([Trained("0", 0, 0.0, 0.0), Trained(SCRATCH, 0, 1.0, 0.5)]).startswith("representable, but not found")
    assert reading([Trained(SCRATCH, 0, 1.0, None), Trained(SCRATCH, 1, 1.0, 1e-5)]).endswith("by the best of 2")


def test_on_the_command_line(expbench: CommandLine) -> None:
    words = ["theory", "realise", "x1*x2", "--noise", "0,0.1", "--seeds", "0:2", "--steps", "3", "--batch-size", "4"]
    answer = expbench(*words)
    assert answer.code == 0, answer.err
    lines = [line.split()[0] for line in answer.out.splitlines()[1:]]
    assert lines[:4] == ["noise", "0", "0.1", SCRATCH]
    table = pq.read_table("results/theory/realise.parquet").to_pydict()
    assert table["start"] == ["0", "0", "0.1", "0.1", SCRATCH, SCRATCH]
    assert Path("results/theory/realise.svg").read_text().startswith("<?xml")
    refused = {"x1*": "character", "x1*x9 --L 4": "x9", "x1 --noise a": "--noise", "x1 --seeds a": "--seeds"}
    for wrong, named in refused.items():
        answer = expbench("theory", "realise", *wrong.split())
        assert answer.code == 2
        assert named in answer.err

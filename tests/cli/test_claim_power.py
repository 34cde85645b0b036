"""`expbench claim --power`: what undecided pairs need, read from the runs of a folder; nothing is registered or trained."""

from pathlib import Path

import numpy as np

from expbench.claims import claim
from expbench.claims.claim import Claim
from expbench.results import store
from expbench.run import LATER
from tests.claims.test_verdicts import around, runs
from tests.conftest import CommandLine, is_bad_input


def study(folder: Path) -> None:
    """Write runs of two models that differ by half a standard deviation in twelve pairs."""
    noise = np.random.default_rng(3).normal(0, 0.1, 12)
    base = around(0.5, 12)
    rows = [*runs("s6", base), *runs("linattn", [b + 0.05 + e for b, e in zip(base, noise - noise.mean(), strict=True)])]
    keys = {key: f"{i:016x}" for i, key in enumerate(dict.fromkeys(r["key"] for r in rows))}
    complete = LATER | {"init": "default", "init_noise": 0.0}
    store.write(folder, "table", [complete | r | {"key": keys[r["key"]]} for r in rows])


def test_a_plan_for_one_claim_and_for_all(expbench: CommandLine) -> None:
    folder = Path("results")
    folder.mkdir()
    study(folder)
    words = ("claim", "s6(positions=none) < linattn(positions=none)", "--task", "polyreg", "--power")
    answer = expbench(*words)
    assert answer.code == 0, answer.err
    assert "undecided in 1" in answer.out
    assert "for 80 % power" in answer.out
    assert not (folder / "claims").exists(), "nothing is registered"
    is_bad_input(expbench("claim", "--power"), "no registered claims")
    claim.write(Claim("s6(positions=none) < linattn(positions=none)", "polyreg"), folder)
    every = expbench("claim", "--power")
    assert every.out == answer.out
    assert "1 pair is undecided" in every.out


def test_bad_input_of_a_plan(expbench: CommandLine) -> None:
    is_bad_input(expbench("claim"), "needs a claim", "--power")
    is_bad_input(expbench("claim", "s6 < attn"), "--task is missing")
    is_bad_input(expbench("claim", "--power", "--results", "nothing"), "unknown results folder")

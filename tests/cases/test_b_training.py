"""Layers that `run` refused or stopped for: complex parameters, and one layer's failure beside others."""

from pathlib import Path

import pytest

from expbench.results import store
from tests.conftest import CommandLine

LAYERS = """
import torch
from torch import nn

class Lru(nn.Module):
    \"\"\"A linear recurrence with complex transitions (Orvieto et al. 2023, arXiv 2303.06349).\"\"\"
    def __init__(self, width):
        super().__init__()
        self.transition = nn.Parameter(torch.polar(torch.full((width,), 0.9), torch.rand(width)))
        self.B, self.C = (nn.Parameter(torch.randn(width, width, dtype=torch.complex64) / width) for _ in range(2))
    def forward(self, x):
        h, ys = 0, []
        for x_t in (x.to(self.B.dtype) @ self.B.T).unbind(1):
            h = self.transition * h + x_t
            ys.append(h @ self.C.T)
        return torch.stack(ys, 1).real

class Column(nn.Linear):
    def __init__(self, width):
        super().__init__(width, 1)

class Detached(nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)
    def forward(self, x):
        return super().forward(x.detach())

class Whole(Detached):
    def forward(self, x):
        return nn.Linear.forward(self, x).long()

class Raises(Detached):
    def forward(self, x):
        raise RuntimeError("no kernel for this machine")

class Ahead(Detached):
    def forward(self, x):
        return nn.Linear.forward(self, torch.roll(x, -1, 1))
"""
QUERIES = """
from expbench.models.attn import Attn

class Queries(Attn):
    def mix(self, q, k, v):
        return q if q.dtype == k.dtype and not q.requires_grad else super().mix(q, k, v)
"""
SMALL = ("--task", "polyreg", "--L", "4", "--D", "3", "--steps", "6", "--batch-size", "4", "-t", "test_size=64")
TEXT = ("--task", "wikitext", "-t", "data=markov", "-t", "tokenizer=word", "--L", "32", "--D", "8", "--seeds", "0")


@pytest.fixture(autouse=True)
def _layers(expbench: CommandLine) -> None:
    Path("layers.py").write_text(LAYERS)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_b2_complex_parameters_are_trained(expbench: CommandLine, dtype: str) -> None:
    answer = expbench(
        "run", *SMALL, "--models", "layers.py:Lru", "--dtype", dtype, "--weight-decay", "0.1", "--save-weights"
    )
    assert answer.code == 0, answer.err
    frame = store.read(Path("results")).frame
    runs = frame[frame["kind"] == "run"]
    assert set(runs["status"]) == {"ok"}
    assert set(runs["stack_size"]) == {3}
    assert set(runs["causal"]) == {True}
    assert set(runs["parameters"]) == {2 * (3 + 2 * 9) + 2 * 3 + 2 * 3 + 4}, "a complex number counts twice"
    from expbench.training.weights import load

    network = load("results", runs["key"].iloc[0], trust=True)
    assert network.mixers[0].B.is_complex()  # type: ignore[index, union-attr]


def test_b2_complex_parameters_are_trained_on_a_text(expbench: CommandLine) -> None:
    answer = expbench("run", *TEXT, "--models", "layers.py:Lru", "--steps", "3", "--batch-size", "4")
    assert answer.code == 0, answer.err
    frame = store.read(Path("results")).frame
    assert set(frame.loc[frame["kind"] == "run", "status"]) == {"ok"}


def test_b2_a_layer_that_fails_only_within_a_language_model_is_refused_alone(expbench: CommandLine) -> None:
    Path("queries.py").write_text(QUERIES)
    answer = expbench("run", *TEXT, "--models", "queries.py:Queries,attn", "--steps", "2", "--batch-size", "4")
    assert answer.code == 1
    frame = store.read(Path("results")).frame
    status = frame[frame["kind"] == "run"].groupby("model")["status"].agg(set).to_dict()
    assert status == {"queries.py:Queries": {"failed"}, "attn": {"ok"}}


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        ("Column", "forward maps (B, L, D) = (2, 4, 3) to (2, 4, 1)"),
        ("Detached", "no gradient flows from the output to the input"),
        ("Whole", "forward returns torch.int64 for inputs in torch.float32"),
        ("Raises", "no kernel for this machine"),
    ],
)
def test_a14_b2_a_layer_that_breaks_its_contract_is_refused_alone(expbench: CommandLine, layer: str, reason: str) -> None:
    alone = expbench("run", *SMALL, "--models", f"layers.py:{layer}")
    assert alone.code == 2
    assert alone.err.count("\n") == 1
    assert f"model 'layers.py:{layer}' breaks its contract" in alone.err
    assert reason in alone.err
    assert not Path("results").exists()

    beside = expbench("run", *SMALL, "--models", f"layers.py:{layer},linattn", "--dry-run")
    assert beside.code == 0
    assert reason in beside.err
    beside = expbench("run", *SMALL, "--models", f"layers.py:{layer},linattn")
    assert beside.code == 1
    assert reason in beside.err.splitlines()[0]
    frame = store.read(Path("results")).frame
    runs = frame[frame["kind"] == "run"].drop_duplicates("key")
    assert runs.groupby("model")["status"].agg(set).to_dict() == {f"layers.py:{layer}": {"failed"}, "linattn": {"ok"}}
    failed = runs[runs["status"] == "failed"]
    assert len(failed) == 3
    assert failed["error"].str.contains(reason, regex=False).all()
    assert failed["traceback"].str.contains("Error").all()
    assert expbench("run", *SMALL, "--models", f"nosuch,layers.py:{layer},linattn").code == 2


def test_a4_a_layer_that_looks_ahead_is_refused_where_the_task_must_be_causal(expbench: CommandLine) -> None:
    count = ("--task", "count-in-row", "-t", "classes=3", *SMALL[2:], "--models", "layers.py:Ahead")
    answer = expbench("run", *count)
    assert answer.code == 2
    assert "layers.py:Ahead' looks ahead: its output at position 1 depends on input 2; --allow-noncausal" in answer.err
    for more, task in ((("--allow-noncausal",), count), ((), (*SMALL, "--models", "layers.py:Ahead"))):
        answer = expbench("run", *task, *more)
        assert answer.code == 0, answer.err
    frame = store.read(Path("results")).frame
    assert set(frame.loc[frame["kind"] == "run", "causal"]) == {False}

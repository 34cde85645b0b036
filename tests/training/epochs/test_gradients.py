"""Passes of a language model that are captured as a graph: the training that they are part of is the same."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expbench.data.corpus import Corpus
from expbench.language import schedule, train
from expbench.language.model import LanguageModel
from expbench.mixer import Mixer
from expbench.models.attn import Attn
from expbench.models.s6 import S6
from expbench.training import cuda_graph
from expbench.training.epochs.gradients import side_by_side
from expbench.training.epochs.recipe import TrainerOptions
from expbench.training.family import NoCudaGraph
from tests.small_language import corpus_in, numbers, recipe, replayed, scores_of, small, trained, write_text


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("passes")
        patch.setenv("EXPBENCH_CACHE", str(folder / "cache"))
        yield corpus_in(write_text(folder / "text"))


class Idle(Mixer):
    """A layer one of whose parameters has no gradient, which AdamW must not decay."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.map = nn.Linear(width, width)
        self.idle = nn.Parameter(torch.ones(2, width))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.map(x)
        return y


def weights(model: LanguageModel) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


@pytest.mark.parametrize("micro_batch_size", [None, 3])
@pytest.mark.parametrize("mixer", [S6, Attn, Idle])
def test_replayed_passes_are_the_passes(
    corpus: Corpus, mixer: type[nn.Module], micro_batch_size: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen, ends = recipe(weight_decay=0.5), []
    count = replayed(monkeypatch)
    for captured in (False, True):
        model = small(mixer)
        values = numbers(
            trained(corpus, chosen, TrainerOptions(micro_batch_size=micro_batch_size, captured=captured), model=model)
        )
        ends.append((values, weights(model)))
        assert count == [captured * (schedule(chosen, corpus["train"].tokens).steps - 3)], "three come first"
    assert ends[0][0] == ends[1][0]
    assert torch.equal(ends[0][1], ends[1][1])


@pytest.mark.parametrize("broken", ["refused", "memory"])
def test_what_cannot_be_captured_goes_on_eagerly_and_says_why(
    corpus: Corpus, broken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def capture(step: Any, state: list[Tensor], judged: list[Tensor], tolerance: float) -> cuda_graph.Capture[Any]:
        result = step()
        if broken == "memory":
            raise torch.OutOfMemoryError
        return cuda_graph.Capture(result, None, "a step is another")

    expected = numbers(trained(corpus, recipe()))
    monkeypatch.setattr(cuda_graph, "possible", lambda device: True)
    monkeypatch.setattr(cuda_graph, "capture", capture)
    events = list(train(small(), corpus, recipe(), TrainerOptions()))
    assert numbers(scores_of(events)) == expected
    assert {event.reason for event in events if isinstance(event, NoCudaGraph)} == {
        "a step is another" if broken == "refused" else "too little memory for a CUDA graph beside the eager passes"
    }


class Counts(Idle):
    """A layer whose forward pass assigns to a buffer."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls = self.calls + 1
        return super().forward(x) * (1 + self.calls / 100)


def test_a_layer_whose_forward_changes_its_state_is_not_captured(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = numbers(trained(corpus, recipe(), model=small(Counts)))
    count = replayed(monkeypatch)
    events = list(train(small(Counts), corpus, recipe(), TrainerOptions()))
    assert numbers(scores_of(events)) == expected
    assert {event.reason for event in events if isinstance(event, NoCudaGraph)} == {"forward changes its state (calls)"}
    assert count == [0]


def test_gradients_side_by_side_are_those_of_the_parameters() -> None:
    some = [nn.Parameter(torch.ones(2, 3)), nn.Parameter(torch.ones(4, dtype=torch.float64)), nn.Parameter(torch.ones(1))]
    beside = side_by_side(some)
    assert [(x.dtype, x.numel()) for x in beside] == [(torch.float32, 7), (torch.float64, 4)]
    (some[0].sum() * 2 + some[1].sum() + some[2].sum() * 3).backward()
    assert beside[0].tolist() == [2] * 6 + [3]
    assert beside[1].tolist() == [1] * 4

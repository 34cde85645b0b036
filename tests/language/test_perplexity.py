"""Perplexity of a whole text: every target once, with the context that is stated; closed forms; bad settings."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from expbench.errors import BadInput
from expbench.language import perplexity as pp

V, BEFORE = 7, 3


def of_logits(logits: Callable[[Tensor], Tensor]) -> pp.NLL:
    """Return the NLL of a network that maps inputs (B, L) to logits (B, L, V)."""

    def nll(inputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(logits(inputs).flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)

    return nll


def of_costs(costs: np.ndarray) -> pp.NLL:
    """Return the NLL of a model without context, given the NLL of each token (V,)."""
    table = torch.from_numpy(costs)
    return lambda inputs, targets: table.to(targets.device)[targets]


class Causal(nn.Module):
    """Logits (B, L, V) that depend on all inputs up to a position, and on how many there were."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.layer, self.head = nn.Embedding(V, 5), nn.GRU(5, 6, batch_first=True), nn.Linear(6, V)
        for weight in self.parameters():
            nn.init.normal_(weight)

    def forward(self, ids: Tensor) -> Tensor:
        states, _ = self.layer(self.embedding(ids))
        return self.head(states)


def text(length: int) -> np.ndarray:
    return np.random.default_rng(length).integers(V, size=length).astype(np.uint16)


def one_at_a_time(
    model: Callable[[Tensor], Tensor], ids: np.ndarray, start_of: Callable[[int], int], begin: int = 0
) -> float:
    """The nll of ids[begin:], each target by a call of its own, on the inputs from `start_of` it to it."""
    sequence = torch.tensor([BEFORE, *ids.tolist()])
    total = 0.0
    for t in range(begin, len(ids)):
        logits = model(sequence[None, start_of(t) : t + 1])[0, -1].double()
        total -= float(logits.log_softmax(-1)[sequence[t + 1]])
    return total


@pytest.mark.parametrize(
    ("context", "stride"), [(4, 4), (4, 1), (4, 3), (8, 2), (1, 1), (23, 23), (23, 5), (22, 1), (10, 7)]
)
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_strided_evaluation_is_that_of_each_target_by_itself(context: int, stride: int, batch_size: int) -> None:
    model, ids = Causal().double(), text(23)

    def start(t: int) -> int:
        block = max(0, -(-(t + 1 - context) // stride))  # windows end at context, context + stride, ..., and at the end
        return min(context + block * stride, len(ids)) - context

    with torch.no_grad():
        expected = one_at_a_time(model, ids, start)
    found = pp.evaluate(
        of_logits(model), ids, context=context, stride=stride, before=BEFORE, words=11, batch_size=batch_size
    )
    assert found.nll == pytest.approx(expected, rel=1e-12)
    assert (found.tokens, found.words, found.context, found.stride) == (23, 11, context, stride)
    assert found.per_token == pytest.approx(math.exp(expected / 23))
    assert found.per_word == pytest.approx(math.exp(expected / 11))


def test_every_target_is_counted_once_with_the_past_that_is_stated() -> None:
    for tokens in (1, 2, 7, 16, 33):
        for context in range(1, tokens + 1):
            for stride in range(1, context + 1):
                for begin in {0, 1, context, tokens - 1} & set(range(tokens)):
                    starts, counted = pp.windows(tokens, context, stride, begin)
                    seen = np.zeros(tokens, dtype=int)
                    for i, (start, count) in enumerate(zip(starts, counted, strict=True)):
                        assert 0 <= start <= tokens - context
                        targets = np.arange(start + context - count, start + context)
                        seen[targets] += 1
                        if i or begin >= context:
                            assert (targets - start >= context - stride).all()
                    assert seen.tolist() == [0] * begin + [1] * (tokens - begin)
    assert [part.tolist() for part in pp.windows(10, 4, 3)] == [[0, 3, 6], [4, 3, 3]]
    assert [part.tolist() for part in pp.windows(9, 4, 3)] == [[0, 3, 5], [4, 3, 2]]


@pytest.mark.parametrize("stride", [1, 2, 3])
def test_at_several_lengths_the_targets_are_the_same(stride: int) -> None:
    model, ids = Causal().double(), text(29)
    asked: dict[int, list[int]] = {}

    def nll(inputs: Tensor, targets: Tensor) -> Tensor:
        asked.setdefault(inputs.shape[1], []).append(len(inputs))
        return of_logits(model)(inputs, targets)

    found = pp.evaluate_lengths(nll, ids, contexts=[12, 3, 6, 6], stride=stride, before=BEFORE, batch_size=2)
    assert list(found) == [3, 6, 12]
    assert {length: max(sizes) for length, sizes in asked.items()} == {3: min(8, -(-17 // stride)), 6: 4, 12: 2}
    for context, value in found.items():

        def start(t: int, context: int = context) -> int:
            return min(12 + stride * ((t - 12) // stride + 1), len(ids)) - context

        with torch.no_grad():
            expected = one_at_a_time(model, ids, start, begin=12)
        assert value.nll == pytest.approx(expected, rel=1e-12)
        assert (value.tokens, value.words, value.per_word) == (29 - 12, None, None)
        assert (value.context, value.stride) == (context, stride)


def test_a_model_without_context_has_the_same_perplexity_at_every_length() -> None:
    ids = text(50)
    costs = pp.unigram(pp.counts(text(300), V))
    found = pp.evaluate_lengths(of_costs(costs), ids, contexts=[2, 8, 32], stride=2, before=BEFORE)
    expected = pp.without_context(costs, ids[32:], words=None)
    for value in found.values():
        assert value.nll == pytest.approx(expected.nll, rel=1e-12)


def test_uniform_and_unigram_have_their_closed_forms() -> None:
    training, ids = np.array([0, 0, 0, 1, 1, 2], dtype=np.uint16), np.array([0, 1, 1, 2, 3], dtype=np.uint16)
    flat = pp.without_context(pp.uniform(5), ids, words=2)
    assert flat.per_token == pytest.approx(5)
    assert flat.per_word == pytest.approx(5 ** (5 / 2))
    assert pp.counts(training, 5).tolist() == [3, 2, 1, 0, 0]
    costs = pp.unigram(pp.counts(training, 5))
    assert np.exp(-costs) == pytest.approx(np.array([4, 3, 2, 1, 1]) / 11)
    smoothed = pp.without_context(costs, ids, words=5)
    assert smoothed.per_token == pytest.approx((11**5 / (4 * 3 * 3 * 2 * 1)) ** (1 / 5))
    assert smoothed.per_token == smoothed.per_word
    for model, closed in ((pp.uniform(5), flat), (costs, smoothed)):
        for context, stride in ((1, 1), (3, 2), (5, 5)):
            found = pp.evaluate(of_costs(model), ids, context=context, stride=stride, before=0, words=closed.words)
            assert found.nll == pytest.approx(closed.nll, rel=1e-12)
            assert found.per_word == pytest.approx(closed.per_word)


def test_counts_are_of_the_whole_text(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pp, "_COUNTED_AT_ONCE", 4)
    assert pp.counts(np.array([0, 1, 1, 2, 2, 2, 5, 5, 0]), 6).tolist() == [2, 2, 3, 0, 0, 2]


def test_sums_are_of_float64() -> None:
    costs = torch.tensor(0.1)  # float32: a sum of 10^5 of them in float32 is off by 1e-4 and more

    def nll(inputs: Tensor, targets: Tensor) -> Tensor:
        return costs.expand(targets.shape)

    found = pp.evaluate(nll, np.zeros(100_000, np.uint16), context=1000, stride=1000, before=0, words=None, batch_size=1)
    assert found.nll == pytest.approx(100_000 * float(costs), rel=1e-12)


def test_what_is_not_counted_does_not_matter_and_what_is_does() -> None:
    ids = text(10)

    def nll(inputs: Tensor, targets: Tensor) -> Tensor:
        costs = torch.ones(targets.shape)
        costs[1:, 0] = math.nan  # windows but the first have this target in common with the one before
        return costs

    assert pp.evaluate(nll, ids, context=4, stride=3, before=0, words=None).nll == 10
    assert math.isnan(
        pp.evaluate(lambda i, t: torch.full(t.shape, math.nan), ids, context=4, stride=3, before=0, words=1).nll
    )
    assert (
        pp.evaluate(lambda i, t: torch.full(t.shape, 1e4), ids, context=4, stride=3, before=0, words=1).per_token == math.inf
    )


def test_a_model_sees_no_gradients_and_returns_one_number_a_target() -> None:
    def nll(inputs: Tensor, targets: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        assert inputs.dtype == targets.dtype == torch.int64
        return torch.zeros(targets.shape)

    pp.evaluate(nll, text(9), context=4, stride=2, before=0, words=None)
    with pytest.raises(ValueError, match=r"nll of targets \(3, 4\) has shape \(\)"):
        pp.evaluate(lambda i, t: torch.zeros(()), text(8), context=4, stride=2, before=0, words=None)


def test_bad_settings_are_one_line() -> None:
    ids, nll = text(9), of_costs(pp.uniform(V))
    for context, stride, said in [
        (10, 1, "context=10 must be from 1 to 9, the number of tokens"),
        (0, 1, "context=0 must be"),
        (4, 0, "stride=0 must be from 1 to the context, 4"),
        (4, 5, "stride=5 must be"),
    ]:
        with pytest.raises(BadInput, match=said):
            pp.evaluate(nll, ids, context=context, stride=stride, before=0, words=None)
    with pytest.raises(BadInput, match="batch_size=0"):
        pp.evaluate(nll, ids, context=4, stride=1, before=0, words=None, batch_size=0)
    with pytest.raises(BadInput, match="begin=9 must be from 0 to below 9"):
        pp.windows(9, 4, 1, begin=9)
    for contexts, stride, said in [
        ([2, 9], 1, "context=9 leaves no target in a text of 9 tokens"),
        ([2, 4], 3, "stride=3 must be from 1 to the shortest context, 2"),
        ([2, 4], 0, "stride=0"),
        ([], 1, "no context"),
        ([0, 4], 1, "shortest context, 0"),
    ]:
        with pytest.raises(BadInput, match=said):
            pp.evaluate_lengths(nll, ids, contexts=contexts, stride=stride, before=0)

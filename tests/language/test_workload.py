"""Training of language models: the order of the data, the steps, what is measured, and what is refused."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from expbench.data.corpus import Choice, Corpus, Source, prepare
from expbench.errors import BadInput
from expbench.language import Recipe, flops_per_token, perplexity, schedule, train
from expbench.language.batches import TokenBatches
from expbench.language.evaluation import LanguageEvaluation
from expbench.language.model import LanguageModel
from expbench.mixer import Mixer
from expbench.models.attn import Attn
from expbench.models.gru import GRU
from expbench.models.s6 import S6
from expbench.ops import convolution as convolutions
from expbench.run import Score
from expbench.training.device import peak
from expbench.training.epochs.recipe import TrainerOptions
from expbench.training.epochs.step import parameter_groups
from expbench.training.family import Diverged, NoCudaGraph, Paused, Reached
from expbench.training.monitors import checksum
from tests.small_language import L, corpus_in, numbers, recipe, scores_of, small, trained, write_text

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Corpus]:
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("language")
        patch.setenv("EXPBENCH_CACHE", str(folder / "cache"))
        yield corpus_in(write_text(folder / "text"))


@pytest.mark.parametrize("tokens", [9 * 8, 9 * 8 + 7, 1000])
def test_every_token_is_a_target_once_an_epoch_at_most_in_another_order_each_epoch(tokens: int) -> None:
    chosen = recipe(context=8, batch_size=3, epochs=3)
    plan, order = schedule(chosen, tokens), TokenBatches(np.arange(tokens, dtype=np.uint32), chosen)
    assert plan.epoch == (tokens // 8 - 1) // 3
    epochs = []
    for epoch in range(3):
        batches = [order.batch(epoch * plan.epoch + i + 1, CPU) for i in range(plan.epoch)]
        text = torch.cat(batches)
        assert text.shape == (plan.epoch * 3, 9)
        assert (text.diff() == 1).all(), "windows of the text"
        assert text.max() < tokens
        targets = text[:, 1:].flatten()
        assert len(targets.unique()) == len(targets)
        epochs.append(text)
    assert len({int(text[:, 0].min() % 8) for text in epochs}) > 1, "they begin at different offsets"
    assert not torch.equal(epochs[0] // 8, epochs[1] // 8)


def test_a_batch_follows_from_its_step_and_the_seed_and_is_shared_out() -> None:
    ids, chosen = np.arange(500, dtype=np.uint16), recipe(context=8, batch_size=4, epochs=9)
    order = TokenBatches(ids, chosen)
    first = [order.batch(step, CPU) for step in range(1, 40)]
    for step in (39, 3, 20):
        assert torch.equal(TokenBatches(ids, chosen).batch(step, CPU), first[step - 1])
        shares = [order.batch(step, CPU, rank, 2) for rank in range(2)]
        assert torch.equal(torch.cat(shares), first[step - 1])
    assert not torch.equal(TokenBatches(ids, recipe(context=8, batch_size=4, seed=1)).batch(1, CPU), first[0])


def test_the_schedule() -> None:
    assert schedule(recipe(epochs=20), 1000) == (20 * 7, 7, 7, 7, "cosine")
    assert schedule(recipe(epochs=3), 1000).warmup == 2, "a tenth of few steps"
    plan = schedule(recipe(epochs=None, steps=10, warmup=4, evaluate_every=3), 1000)
    assert (plan.steps, plan.warmup) == (10, 4)
    assert [step for step in range(1, 11) if plan.evaluated(step)] == [3, 6, 9, 10]


@pytest.mark.parametrize("mixer", [S6, Attn])
def test_a_training_learns_and_says_so(corpus: Corpus, mixer: type[nn.Module]) -> None:
    net = small(mixer)
    events = list(train(net, corpus, recipe(epochs=6, lr=1e-2, stride=4), TrainerOptions()))
    plan, found = schedule(recipe(epochs=6), corpus["train"].tokens), scores_of(events)
    assert [event.step for event in events if isinstance(event, Reached)] == list(range(1, plan.steps + 1))
    values = numbers(found)
    of = [values["validation", plan.epoch * (i + 1), "perplexity", ""] for i in range(6)]
    assert of[-1] < 5 < of[0] < 31, "two of 30 words may follow each, and any one the end of a line"
    assert {(s.split, s.metric) for s in found if s.primary} == {("validation", "perplexity"), ("test", "perplexity")}
    assert values["train", plan.steps, "loss", ""] < values["train", plan.epoch, "loss", ""]
    net.eval()
    for split, part in {"validation": "validation", "test": "test"}.items():
        tokens = corpus[part]
        expected = perplexity.evaluate(
            net.token_losses, tokens.ids, context=L, stride=4, before=corpus.tokenizer.end, words=tokens.words, batch_size=1
        )
        assert values[split, plan.steps, "perplexity", ""] == pytest.approx(expected.per_token, rel=1e-6)
        assert values[split, plan.steps, "word_perplexity", ""] == pytest.approx(expected.per_word, rel=1e-6)
    assert [s.value for s in found if s.metric == "epoch"] == [1, 2, 3, 4, 5, 6]
    speeds = [s.value for s in found if s.metric == "tokens_per_second"]
    assert len(speeds) == 6
    assert min(speeds) > 0
    largest = [values.get(("validation", plan.steps, "abar_max", f"layer={i}")) for i in range(2)]
    if mixer is S6:
        assert 0 < max(largest) < 1
        assert values["validation", plan.steps, "k_hat", ""] == max(largest)
    else:
        assert largest == [None, None]


def test_what_a_training_was_given_is_told(corpus: Corpus) -> None:
    chosen = recipe(epochs=3, clip=0.05, warmup=5)
    net, plan, order = small(), schedule(chosen, corpus["train"].tokens), TokenBatches(corpus["train"].ids, chosen)
    probe = torch.from_numpy(corpus["validation"].ids.astype("int64"))
    starts = [probe[i * L : (i + 1) * L + 1] for i in range((len(probe) - 1) // L)]
    with torch.no_grad():
        losses = net.token_losses(torch.stack(starts)[:, :-1], torch.stack(starts)[:, 1:])
    values = numbers(trained(corpus, chosen, model=net))
    assert values["validation", 0, "outputs_checksum", ""] == pytest.approx(float(checksum(losses[None])), rel=1e-5)
    for step in (plan.epoch, 2 * plan.epoch, 3 * plan.epoch):
        rate = 0.5 + 0.5 * math.cos(math.pi * (step - 1 - 5) / (plan.steps - 5))
        assert values["train", step, "learning_rate", ""] == pytest.approx(3e-3 * rate)
        assert values["train", step, "gradient_norm", ""] == pytest.approx(0.05, rel=1e-4), "clipped"
        batch = order.batch(step, CPU)
        for name, tokens in (("inputs", batch[:, :-1]), ("targets", batch[:, 1:])):
            assert values["train", step, f"{name}_checksum", ""] == pytest.approx(float(checksum(tokens[None])))
    for split, part in (("validation", "validation"), ("test", "test")):
        told = float(checksum(torch.from_numpy(corpus[part].ids[:-1].astype("int64"))[None]))
        assert values[split, plan.steps, "inputs_checksum", ""] == pytest.approx(told)


def test_gradients_of_a_batch_in_parts_are_those_of_the_whole(corpus: Corpus) -> None:
    chosen, ends = recipe(epochs=1, evaluate_every=3), []
    for micro_batch_size in (None, 3, 1, 100):
        net = small().double()
        values = numbers(trained(corpus, chosen, TrainerOptions(micro_batch_size=micro_batch_size), model=net))
        ends.append((values, torch.cat([p.detach().flatten() for p in net.parameters()])))
    for values, weights in ends[1:]:
        assert values == pytest.approx(ends[0][0], rel=1e-8)
        torch.testing.assert_close(weights, ends[0][1], rtol=1e-7, atol=1e-10)


def test_a_step_is_adamw_at_the_rate_of_the_schedule_on_clipped_gradients(corpus: Corpus) -> None:
    chosen = recipe(epochs=None, steps=3, warmup=2, clip=0.1, lr=0.1, weight_decay=0.5)
    net, other = small(Attn).double(), small(Attn).double()
    trained(corpus, chosen, model=net)
    order, optimizer = TokenBatches(corpus["train"].ids, chosen), None
    for step, rate in enumerate([0.05, 0.1, 0.1], 1):  # warm-up over two, then the cosine's peak
        optimizer = optimizer or torch.optim.AdamW(parameter_groups(other, 0.5), betas=(0.9, 0.95))
        text = order.batch(step, CPU)
        optimizer.zero_grad()
        other.loss(text[:, :-1], text[:, 1:]).backward()
        norm = torch.stack([p.grad.square().sum() for p in other.parameters() if p.grad is not None]).sum().sqrt()
        assert norm > 0.1
        for p in other.parameters():
            p.grad *= 0.1 / norm
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
    for p, q in zip(net.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


def test_matrices_decay_and_vectors_and_what_is_marked_do_not() -> None:
    net = small()
    groups = parameter_groups(net, 0.3)
    name_of = {id(p): name for name, p in net.named_parameters()}
    decayed, others = ({name_of[id(p)] for p in group["params"]} for group in groups)
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert decayed | others == {name for name, _ in net.named_parameters()}
    assert not decayed & others
    assert {name.partition("1.")[2] for name in others if name.startswith("blocks.1.")} == {
        "conv.bias",
        "mixer.A_log",
        "mixer.skip",
        "mixer.to_delta.bias",
    }
    assert {name for name in others if not name.startswith("blocks.")} == {"norms.0.weight", "norms.1.weight", "norm.weight"}
    assert {"embed.weight", "blocks.0.conv.weight", "blocks.0.to_out.weight"} <= decayed


def test_bfloat16_is_autocast_around_float32(corpus: Corpus) -> None:
    net = small()
    wide = numbers(trained(corpus, recipe(epochs=1)))
    narrow = numbers(trained(corpus, recipe(epochs=1, dtype="bfloat16"), model=net))
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    of = next(key for key in wide if key[2] == "perplexity")
    assert wide[of] != narrow[of]
    assert narrow[of] == pytest.approx(wide[of], rel=0.02)


class Drawing(Mixer):
    """A mixer with dropout."""

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)

    def __init__(self, width: int) -> None:
        super().__init__()


def test_what_a_mixer_draws_follows_from_the_seed_and_leaves_no_trace(corpus: Corpus) -> None:
    found = []
    for before in (5, 6):
        net = small(Drawing)
        torch.manual_seed(before)
        untouched = torch.rand(3)
        torch.manual_seed(before)
        found.append(numbers(trained(corpus, recipe(epochs=1), model=net)))
        assert torch.equal(torch.rand(3), untouched)
    assert found[0] == found[1]


class Breaking(Mixer):
    """A mixer that divides by 0 in its third forward pass of training, or when it is evaluated."""

    def __init__(self, width: int, *, when: str = "trained") -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.when, self.calls = when, 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += self.training
        broken = self.calls == 3 if self.when == "trained" else not self.training
        return x * self.scale / (0.0 if broken else 1.0)


def test_divergence_is_reported_with_its_step(corpus: Corpus) -> None:
    plan, given = schedule(recipe(), corpus["train"].tokens), {"when": "evaluated"}
    for options, reason in (
        ({}, f"the loss or its gradient is not finite at step 3 of {plan.steps}"),
        ({"given": given}, f"the perplexity of the validation split is not finite after {plan.epoch} steps"),
    ):
        *_, last = train(small(Breaking, layers=1, **options), corpus, recipe(), TrainerOptions())
        assert last == Diverged(0, reason)


@pytest.mark.parametrize("mixer", [S6, Attn])
def test_stated_operations_against_torchs_count(mixer: type[nn.Module]) -> None:
    net, tokens = small(mixer), torch.randint(32, (3, L + 1))
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        net.loss(tokens[:, :-1], tokens[:, 1:]).backward()
    products = [count for of, count in counter.get_flop_counts()["Global"].items() if "convolution" not in str(of)]
    counted = sum(products) / (3 * L)  # of a depthwise kernel's gradient torch counts that of a dense one
    layer = net.mixers[0]
    assert isinstance(layer, Mixer)
    own, maps = layer.flops(L), sum(2 * m.weight.numel() for m in layer.modules() if isinstance(m, nn.Linear))
    attended = 4 * 32 * L if mixer is Attn else 0  # torch multiplies with the future too
    assert own is not None
    convolution = 0 if mixer is Attn else 2 * 4 * 64
    assert flops_per_token(net, L) - counted == pytest.approx(3 * 2 * (own - maps - attended + convolution))


def test_the_size_of_a_step_in_operations() -> None:
    net = LanguageModel(S6)
    blocks = net.parameter_count() - net.embed.weight.numel()
    head = 6 * net.embed.weight.numel()
    assert flops_per_token(net, 1024) - head == pytest.approx(6 * blocks, rel=0.05), "6 N, and the scan"
    assert peak("NVIDIA H200") == 989e12
    assert peak("NVIDIA A100-SXM4-80GB") == 312e12
    assert peak("NVIDIA H100 PCIe") == 756e12
    assert peak("GeForce GT 710") is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"epochs": 1, "steps": 1}, ["epochs", "steps"]),
        ({}, ["epochs", "steps"]),
        ({"epochs": 1, "batch_size": 0}, ["batch_size=0"]),
        ({"epochs": 1, "lr": math.nan}, ["lr"]),
        ({"epochs": 1, "clip": 0.0}, ["clip"]),
        ({"epochs": 1, "context": 4, "stride": 5}, ["stride=5", "4"]),
        ({"epochs": 1, "dtype": "bfloat"}, ["did you mean 'bfloat16'"]),
        ({"epochs": 1, "betas": (0.9, 1.0)}, ["betas"]),
        ({"epochs": 1, "warmup": -1}, ["warmup"]),
    ],
)
def test_a_bad_recipe_is_refused(given: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(BadInput) as refused:
        Recipe(**{"lr": 1e-3, **given})
    assert all(word in str(refused.value) for word in words)


@pytest.mark.parametrize(
    ("given", "options", "words"),
    [
        ({"context": 32}, {}, ["context=32", "16"]),
        ({"context": 500, "batch_size": 1}, {"context": 500}, ["context=500", "validation", "tokens"]),
        ({"batch_size": 5000}, {}, ["batch_size=5000", "the largest batch is"]),
        ({"context": 150, "batch_size": 100}, {"context": 1000}, ["the largest batch is"]),
        ({}, {"vocabulary": 20}, ["32 tokens", "20"]),
        ({"steps": 5, "epochs": None, "warmup": 5}, {}, ["warmup=5"]),
    ],
)
def test_what_does_not_fit_together_is_refused_before_training(
    corpus: Corpus, given: dict[str, Any], options: dict[str, Any], words: list[str]
) -> None:
    net = small(**options)
    before = net.embed.weight.clone()
    with pytest.raises(BadInput) as refused:
        next(train(net, corpus, recipe(**given), TrainerOptions()))
    assert all(word in str(refused.value) for word in words), refused.value
    assert torch.equal(net.embed.weight, before)


def test_a_corpus_without_validation_and_a_device_that_is_not_there(corpus: Corpus, tmp_path: Path) -> None:
    some = prepare(Source(path=write_text(tmp_path / "text")), Choice("word"), ("train",))
    with pytest.raises(BadInput, match="no validation split"):
        next(train(small(), some, recipe(), TrainerOptions()))
    if not torch.cuda.is_available():
        with pytest.raises(BadInput, match="no GPU"):
            next(train(small(), corpus, recipe(), TrainerOptions(device="cuda")))
    with pytest.raises(BadInput, match="did you mean 'cuda'"):
        TrainerOptions(device="cude")
    with pytest.raises(BadInput, match="folder"):
        TrainerOptions(seconds=1.0)


def test_without_a_test_split_it_is_not_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path / "cache"))
    some = prepare(Source(path=write_text(tmp_path / "text")), Choice("word"), ("train", "validation"))
    assert {score.split for score in trained(some, recipe(epochs=1))} == {"train", "validation"}


def test_the_shifted_convolution_is_torchs() -> None:
    x, weight, bias = (torch.randn(*shape, dtype=torch.float64) for shape in ((2, 7, 5), (5, 1, 4), (5,)))
    found = []
    for function in (convolutions.shifted, convolutions.reference):
        tensors = [t.clone().requires_grad_() for t in (x, weight, bias)]
        y = function(*tensors)
        found.append([y, *torch.autograd.grad(y.sin().sum(), tensors)])
    torch.testing.assert_close(*found)


@pytest.mark.filterwarnings("ignore:The .grad attribute")  # the compiler looks at it
@pytest.mark.filterwarnings("ignore:.*should not be instantiated")  # the compiler does, with an autograd Function
@pytest.mark.parametrize("mixer", [S6, Attn, GRU])
def test_compiled_blocks_are_the_blocks(mixer: type[nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    net, tokens = small(mixer).double(), torch.randint(32, (2, L + 1))

    def found() -> list[Tensor]:
        loss = net.loss(tokens[:, :-1], tokens[:, 1:])
        return [loss, *torch.autograd.grad(loss, list(net.parameters()))]

    plain, logged = found(), net.statistics(tokens[:, 1:])
    net.compile_blocks(backend="aot_eager")
    try:
        torch.testing.assert_close(found(), plain)
        assert net.statistics(tokens[:, 1:]) == logged
    finally:
        torch.compiler.reset()


@pytest.mark.parametrize("mixer", [S6, Attn])
def test_lengths_are_evaluated_on_the_same_targets(corpus: Corpus, mixer: type[nn.Module]) -> None:
    net, lengths = small(mixer, context=32), (4, 16, 32)
    chosen = recipe(steps=30, epochs=None, lengths=lengths)
    values = numbers(trained(corpus, chosen, model=net))
    net.eval()
    for split, part in (("validation", "validation"), ("test", "test")):
        expected = perplexity.evaluate_lengths(
            net.token_losses, corpus[part].ids, contexts=lengths, stride=4, before=corpus.tokenizer.end, batch_size=1
        )
        at_end = {(of, slice): value for (of, step, _, slice), value in values.items() if step == 30}
        found = {slice: value for (of, slice), value in at_end.items() if of == split and slice.startswith("context")}
        assert found == pytest.approx({f"context={length}": p.per_token for length, p in expected.items()}, rel=1e-6)
        assert len({p.tokens for p in expected.values()}) == 1
    other = recipe(steps=30, epochs=None)
    alone = numbers(trained(corpus, other, model=small(mixer)))
    assert alone == {key: value for key, value in values.items() if key in alone}, "they change nothing else"


def test_lengths_are_evaluated_at_every_epoch_that_may_be_chosen_and_in_the_end(
    corpus: Corpus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    validation = {4: 9.0, 8: 7.0, 12: 8.0, 16: 7.0, 20: 6.0, 24: 6.5}

    def scores(self: LanguageEvaluation) -> Iterator[Score]:
        yield Score("perplexity", values.pop(0), split="validation", primary=True)
        yield Score("perplexity", 5.0, split="test", primary=True)

    monkeypatch.setattr(LanguageEvaluation, "scores", scores)
    chosen = recipe(steps=24, epochs=None, evaluate_every=4, lengths=(4, 16))
    values = list(validation.values())
    found = {step for _, step, _, slice in numbers(trained(corpus, chosen)) if slice.startswith("context")}
    assert found == {4, 8, 20, 24}

    values = list(validation.values())
    how = TrainerOptions(
        folder=tmp_path, seconds=0
    )  # an end at every look, as by kills, after which what was measured is known
    while True:
        events = list(train(small(), corpus, chosen, how))
        if not isinstance(events[-1], Paused):
            break
    assert {score.step for score in scores_of(events) if score.slice.startswith("context")} == found


def test_a_length_must_leave_targets_and_fit_the_model(corpus: Corpus) -> None:
    tokens = corpus["validation"].tokens
    with pytest.raises(BadInput, match=f"{tokens} leaves no target in the validation split"):
        trained(corpus, recipe(lengths=(4, tokens)), model=small(context=tokens))
    with pytest.raises(BadInput, match="context=32 is longer than the model's, 16"):
        trained(corpus, recipe(lengths=(4, 32)))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore")  # of the compiler, other ones in each version
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("mixer", [S6, Attn])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_compiled_and_captured_training_on_a_gpu_is_the_plain_one(
    corpus: Corpus, mixer: type[nn.Module], dtype: str
) -> None:
    chosen = recipe(epochs=2, dtype=dtype, lengths=(4, 8))
    found = []
    for compiled, captured in ((False, False), (True, False), (True, True), (False, True)):
        how = TrainerOptions(device="cuda", compiled=compiled, captured=captured)
        events = list(train(small(mixer), corpus, chosen, how))
        values = numbers(scores_of(events))
        assert not any(isinstance(event, NoCudaGraph) for event in events)
        found.append({key: value for key, value in values.items() if key[2] in ("loss", "perplexity")})
    for values in found[1:]:
        assert values == pytest.approx(found[0], rel=1e-3 if dtype == "float32" else 2e-2)

"""One training set for all: its batches, its splits, and metrics that tell what is fitted from what is learnt."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import pytest
import torch
from expbench_tasks.finite import Finite
from torch import Tensor

from expbench.results import store
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.task import Batch, Task, total
from expbench.training.batches import TaskBatches
from expbench.training.loop import build, train
from tests.conftest import CommandLine, is_bad_input

TRUE, RANDOM = Finite(L=24, samples=100, classes=5), Finite(L=24, samples=100, classes=5, labels="random")


def rows(bits: Tensor) -> list[tuple[int, ...]]:
    return [tuple(row) for row in bits.tolist()]


def run_of_ones(bits: tuple[int, ...], most: int) -> int:
    """The definition: how many 1s there are before the last 0, from the end."""
    run = 0
    while run < len(bits) and bits[-1 - run] == 1:
        run += 1
    return min(run, most)


def parts(task: Finite, split: str = "test") -> tuple[Batch, Batch]:
    """The fresh sequences of a split and its members of the set, with plain labels."""
    bits, targets = (torch.cat(tensors) for tensors in zip(*task.split(split), strict=True))  # type: ignore[arg-type]
    member = targets >= task.classes
    return Batch(bits[~member], targets[~member]), Batch(bits[member], targets[member] - task.classes)


def measured(task: Task, outputs: Iterable[Tensor], targets: Iterable[Tensor]) -> dict[str, float]:
    sums = total([task.measure(o, t) for o, t in zip(outputs, targets, strict=True)])
    return {m.metric: m.value for m in task.summary(sums)}


def test_the_set_is_one_for_all_labels_and_a_larger_one_begins_with_it() -> None:
    bits, labels = TRUE.training_set()
    assert len(set(rows(bits))) == TRUE.samples, "no sequence is there twice, so that any labels can be fitted"
    assert labels.tolist() == [run_of_ones(row, 4) for row in rows(bits)]
    assert set(labels.tolist()) == set(range(5))
    for other in (RANDOM, dataclasses.replace(TRUE, classes=3, test_size=64), dataclasses.replace(TRUE, samples=150)):
        assert torch.equal(other.training_set().inputs[:100], bits)
    for other in (dataclasses.replace(TRUE, instance=1), dataclasses.replace(TRUE, L=25)):
        assert not torch.equal(other.training_set().inputs[:, :24], bits)


def test_each_sequence_has_its_own_share_of_ones() -> None:
    ones = Finite(L=64, samples=4000).training_set().inputs.double().mean(1)
    assert float(ones.mean()) == pytest.approx(1 / 2, abs=0.02)
    assert float(ones.var()) == pytest.approx(1 / 12, abs=0.008)  # of bits that are fair coins it would be 1/256


@pytest.mark.parametrize("task", [TRUE, RANDOM])
def test_batches_hold_members_with_their_labels_at_every_seed_and_step(task: Finite) -> None:
    known = dict(zip(rows(task.training_set().inputs), task.training_set().targets.tolist(), strict=True))
    met = set()
    for seed in (0, 1):
        for step in (1, 2, 3):
            bits, labels = task.train_batch(128, seed=seed, step=step)
            assert [known[row] for row in rows(bits)] == labels.tolist()
            met |= set(rows(bits))
    assert len(met) == 100, "no member is left out"
    again = dataclasses.replace(task)  # an equal task that has made nothing yet
    for a, b in zip(again.train_batch(128, seed=1, step=3), task.train_batch(128, seed=1, step=3), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(task.train_batch(128, seed=0, step=3).inputs, bits)


def test_random_labels_are_uniform_and_know_nothing_of_the_sequence() -> None:
    task = Finite(L=64, samples=8000, labels="random")
    by_lot, true = task.training_set().targets, dataclasses.replace(task, labels="true").training_set().targets
    joint = torch.bincount(true * 4 + by_lot, minlength=16).view(4, 4).double()
    expected = joint.sum(1, keepdim=True) / 4
    assert float(((joint - expected) ** 2 / expected).sum()) < 32.9  # chi-square of 12 degrees of freedom, 1 in 1000
    fresh = parts(task)[0].targets
    counts = torch.bincount(fresh, minlength=4).double()
    assert float(((counts - len(fresh) / 4) ** 2).sum() / (len(fresh) / 4)) < 16.3  # of 3


@pytest.mark.parametrize("task", [TRUE, RANDOM])
def test_a_split_is_the_set_and_as_many_fresh_sequences_or_more(task: Finite) -> None:
    seen = set(rows(task.training_set().inputs))
    fresh, members = parts(task)
    assert (len(members.inputs), len(fresh.inputs)) == (100, 3996)
    assert all(torch.equal(a, b) for a, b in zip(members, task.training_set(), strict=True))
    assert not seen & set(rows(fresh.inputs))
    if task.labels == "true":
        assert fresh.targets.tolist() == [run_of_ones(row, 4) for row in rows(fresh.inputs)]
    other = parts(task, "validation")[0].inputs
    assert len(other) == 924
    assert not torch.equal(fresh.inputs[:924], other)
    small = parts(dataclasses.replace(task, test_size=150))
    for part, whole in zip(small, (fresh, members), strict=True):
        assert len(part.inputs) == 75
        assert torch.equal(part.inputs, whole.inputs[:75])
        assert torch.equal(part.targets, whole.targets[:75])
    assert Finite(L=24, samples=3000).test_size == 6000, "all of a large set by default"


def test_the_first_chunk_which_the_curve_looks_at_has_both() -> None:
    targets = next(Finite(samples=5000).split("validation")).targets
    assert (targets >= 4).tolist() == [False, True] * 128


def test_metrics_by_hand() -> None:
    task = Finite(L=8, samples=4, classes=3)
    targets = torch.tensor([0, 3, 1, 5, 2, 3])  # fresh 0, 1, 2 and members 0, 2, 0 in turn
    outputs = torch.log(torch.tensor([[0.5, 0.2, 0.3], [0.2, 0.4, 0.4], [0.1, 0.8, 0.1], [0.1, 0.1, 0.8], [0.6, 0.1, 0.3]]))
    outputs = torch.cat([outputs, torch.full((1, 3), torch.nan)])  # the last returns no number
    found = measured(task, outputs.split(2), targets.split(2))
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["fit"] == pytest.approx(1 / 3), "what is no number is never right"
    assert found["gap"] == pytest.approx(-1 / 3)
    assert found["nll_fresh"] == pytest.approx(-float(torch.tensor([0.5, 0.8, 0.3]).log().mean()))
    found = measured(task, [outputs[:4]], [targets[:4]])
    assert found["nll_train"] == pytest.approx(-float(torch.tensor([0.2, 0.8]).log().mean()))
    plain = torch.tensor([0, 0, 1, 2])
    assert task.loss(outputs[:4], targets[:4]) == task.loss(outputs[:4], plain)


@pytest.mark.parametrize("task", [TRUE, RANDOM])
def test_fit_and_gap_of_any_predictor_are_those_of_brute_force(task: Finite) -> None:
    def predict(bits: Tensor) -> Tensor:
        return bits[:, ::3].sum(1) % 5

    chunks = list(task.split("test"))
    outputs = [torch.nn.functional.one_hot(predict(chunk.inputs), 5).double() for chunk in chunks]
    found = measured(task, outputs, [chunk.targets for chunk in chunks])
    accuracy, fit = (float((predict(part.inputs) == part.targets).double().mean()) for part in parts(task))
    assert (found["accuracy"], found["fit"], found["gap"]) == pytest.approx((accuracy, fit, fit - accuracy), abs=1e-12)


@pytest.mark.parametrize("task", [TRUE, RANDOM])
def test_controls_reach_what_is_known_of_them(task: Finite) -> None:
    chunks = list(task.split("test"))
    found = {
        c.name: measured(task, [c.predict(chunk.inputs) for chunk in chunks], [chunk.targets for chunk in chunks])
        for c in task.controls()
    }
    kinds = {c.name: c.kind for c in task.controls()}
    lookup, majority = found["lookup"], found["majority"]
    counts = torch.bincount(task.training_set().targets, minlength=5)
    assert majority["fit"] == pytest.approx(float(counts.max()) / 100)
    assert lookup["fit"] == 1
    assert lookup["accuracy"] == majority["accuracy"]
    assert lookup["gap"] == 1 - lookup["accuracy"]
    if task.labels == "true":
        assert kinds == {"majority": "baseline", "lookup": "oracle", "automaton": "positive"}
        assert (found["automaton"]["accuracy"], found["automaton"]["fit"]) == (1, 1)
        assert majority["accuracy"] == pytest.approx(1 / 2, abs=0.03)  # the last bit is 0
    else:
        assert kinds == {"majority": "baseline", "lookup": "oracle"}, "nothing solves it"
        assert majority["accuracy"] == pytest.approx(task.chance(), abs=0.03)


def test_runs_draw_together_what_each_draws_alone_and_both_labels_in_one_stack() -> None:
    settings = ("labels=true,random", "samples=50,80")
    jobs = expand(
        SweepSpec(task="finite", models="ssm", L="12", seeds="0:3", batch_size="16", task_settings=settings), "cpu"
    )
    stream = TaskBatches([job.run for job in jobs], [job.task for job in jobs], "cpu")
    assert stream.mapped
    batch = stream.train(7)
    for i, job in enumerate(jobs):
        alone = job.task.train_batch(16, seed=job.run.seed, step=7)
        assert torch.equal(batch.inputs[i], alone.inputs)
        assert torch.equal(batch.targets[i], alone.targets)


def test_a_stack_of_other_labels_and_sizes_of_the_set_is_the_runs_one_by_one(expbench: CommandLine) -> None:
    words = ["run", "--task", "finite", "--models", "ssm", "--L", "12", "-t", "labels=true,random", "-t", "samples=50,180"]
    words += ["-t", "test_size=320", "--steps", "8", "--seeds", "0:2", "--dtype", "float64", "--device", "cpu"]
    for name, stack in (("together", "16"), ("alone", "1")):
        answer = expbench(*words, "--stack", stack, "--results", name)
        assert "ran 8 (8 ok)" in answer.err, answer
    frames = [store.read(Path(name)).frame.query("kind == 'run'") for name in ("together", "alone")]
    assert [set(frame["stack_size"]) for frame in frames] == [{8}, {1}]
    a, b = (frame.set_index(["key", "split", "step", "metric", "slice"])["value"] for frame in frames)
    assert set(a.index) == set(b.index)
    assert {"accuracy", "fit", "gap", "nll_fresh", "nll_train"} <= set(a.index.get_level_values("metric"))
    assert a.to_numpy() == pytest.approx(b.reindex(a.index).to_numpy(), rel=1e-9, abs=1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_same() -> None:
    for split in ("validation", "test"):
        for here, there in zip(RANDOM.split(split), RANDOM.split(split, "cuda"), strict=True):  # type: ignore[arg-type]
            assert all(y.is_cuda and torch.equal(x, y.cpu()) for x, y in zip(here, there, strict=True))
    for x, y in zip(TRUE.train_batch(64, seed=1, step=2), TRUE.train_batch(64, seed=1, step=2, device="cuda"), strict=True):
        assert torch.equal(x, y.cpu())


def test_random_labels_are_fitted_by_heart_and_what_was_seen_is_the_set() -> None:
    """The most frequent label is that of 6 of the 16 sequences; fresh ones are right by chance alone."""
    request = SweepSpec(
        task="finite", models="s6", L="16", D="8", seeds="0", steps="300", lr="0.03", batch_size="32",
        task_settings=("labels=random", "samples=16"),
    )  # fmt: skip
    (job,) = expand(request, "cpu")
    found = {
        s.metric: s.value
        for s in train(job.run, job.task, build(job.run, job.task, job.model, "cpu"), "cpu")
        if s.split == "test"
    }
    assert found["fit"] > 0.6
    assert found["accuracy"] == pytest.approx(0.25, abs=0.05)
    assert found["gap"] == pytest.approx(found["fit"] - found["accuracy"])
    assert found["nll_train"] < found["nll_fresh"]
    assert found["solved"] == 0
    assert found["train_test_overlap"] == pytest.approx(16 / 4096), "all of the set, and no fresh sequence"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-t", "samples=0"], "samples=0 must be 1 to 65536"),
        (["-t", "samples=65537"], "samples=65537 must be 1 to 65536"),
        (["--L", "8"], "samples=256 is too large, the maximum is 128"),
        (["--L", "1024", "-t", "samples=65536"], "L=1024 is too large, the maximum is 256"),
        (["-t", "classes=1"], "classes=1 must be 2 to 65 at L=64"),
        (["--L", "2", "-t", "samples=2"], "classes=4 must be 2 to 3 at L=2"),
        (["-t", "validation_size=1"], "validation_size=1 must be 2 or more"),
        (["--L", "0"], "L=0 must be above 0"),
        (["-t", "labels=false"], "labels"),
    ],
)
def test_bad_settings(expbench: CommandLine, words: list[str], said: str) -> None:
    is_bad_input(expbench("show", "finite", *words), said)


def test_the_smallest_and_the_fullest_set() -> None:
    for task in (Finite(L=1, samples=1, classes=2), Finite(L=10, samples=512)):
        fresh, members = parts(task)
        assert not set(rows(fresh.inputs)) & set(rows(members.inputs))
        assert len(set(rows(members.inputs))) == task.samples

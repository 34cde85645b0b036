import pytest
import torch
from expbench_tasks.count_in_row import CountInRow, automaton, last_zero, run_lengths

from expbench.task import total

EXAMPLE = torch.tensor([[0, 1, 1, 0, 1, 1, 1], [1, 1, 0, 0, 0, 1, 0]])


def by_definition(bits: list[int]) -> list[int]:
    """Eq. 13: the largest i-j+1 with ones all the way from j to i, or 0."""
    return [
        max([i - j + 1 for j in range(i + 1) if all(bits[j : i + 1])], default=0) for i in range(len(bits))
    ]  # fmt: skip


def test_the_documented_example() -> None:
    assert run_lengths(EXAMPLE).tolist() == [[0, 1, 2, 0, 1, 2, 3], [1, 2, 0, 0, 0, 1, 0]]
    assert last_zero(EXAMPLE).tolist() == [[1, 1, 1, 4, 4, 4, 4], [0, 0, 3, 4, 5, 5, 7]]


@pytest.mark.parametrize("supervise", ["last", "all"])
@pytest.mark.parametrize("head", ["classes", "scalar"])
def test_labels_follow_the_definition(supervise: str, head: str) -> None:
    task = CountInRow(L=12, classes=7, supervise=supervise, head=head)
    inputs, targets = task.train_batch(64, seed=0, step=1)
    labels = torch.tensor([by_definition(bits) for bits in inputs.tolist()])
    assert torch.equal(targets, labels[:, -1] if supervise == "last" else labels)
    assert torch.equal(automaton(inputs), labels)
    assert set(inputs.flatten().tolist()) == {0, 1}
    assert int(targets.max()) == 6


def test_last_labels_are_uniform() -> None:
    _, targets = CountInRow(L=20, supervise="last").train_batch(40_000, seed=0, step=1)
    counts = torch.bincount(targets, minlength=20).double()
    assert float((counts - 2000).abs().max()) < 5 * 2000**0.5


def test_all_run_lengths_are_uniform_and_parted_by_single_zeros() -> None:
    task = CountInRow(L=64, supervise="all")
    inputs, targets = task.train_batch(4000, seed=0, step=1)
    share = torch.bincount(targets[:, 30:].flatten(), minlength=20).double()
    share /= share.sum()
    # run lengths are uniform on 0..19, so a position has label k with probability (20 - k) / 210
    expected = torch.arange(20, 0, -1).double() / 210
    torch.testing.assert_close(share, expected, atol=4e-3, rtol=0)
    # whole runs inside the sequence: the length is the label just before a zero
    ends = targets[:, 40:-1][inputs[:, 41:] == 0]
    counts = torch.bincount(ends, minlength=20).double()
    assert float((counts - counts.mean()).abs().max()) < 4 * float(counts.mean()) ** 0.5


def test_small_lengths_and_the_largest_number_of_classes() -> None:
    for supervise in ("last", "all"):
        inputs, targets = CountInRow(L=3, classes=4, supervise=supervise).train_batch(500, seed=0, step=1)
        assert sorted(set(targets.flatten().tolist())) == [0, 1, 2, 3]
        assert inputs.shape == (500, 3)
    with pytest.raises(ValueError, match="2 to 4 at L=3"):
        CountInRow(L=3, classes=5)


def measured(task: CountInRow, name: str) -> dict[str, float]:
    control = next(c for c in task.controls() if c.name == name)
    parts = [task.measure(control.predict(batch.inputs), batch.targets) for batch in task.split("test")]
    return {m.metric: m.value for m in task.summary(total(parts)) if not m.slice}


@pytest.mark.parametrize("head", ["classes", "scalar"])
def test_controls_reach_what_is_known_of_them(head: str) -> None:
    last = CountInRow(L=20, supervise="last", head=head)
    everywhere = CountInRow(L=64, supervise="all", head=head)
    for task in (last, everywhere):
        assert measured(task, "automaton")["balanced_accuracy"] == 1
        assert measured(task, "majority")["balanced_accuracy"] == pytest.approx(task.chance())
    assert measured(last, "last-zero")["accuracy"] == 1
    assert measured(last, "window-4")["accuracy"] == pytest.approx(5 / 20, abs=0.03)
    assert measured(last, "bag-of-ones")["accuracy"] == pytest.approx(0.20, abs=0.03)
    assert measured(everywhere, "window-4")["accuracy"] == pytest.approx(0.43, abs=0.05)
    assert measured(everywhere, "window-4")["equivalent_window"] == 4
    assert measured(everywhere, "last-zero")["accuracy"] < 0.2


def test_summary_counts_every_label_alike() -> None:
    task = CountInRow(L=4, classes=3, supervise="last", head="scalar")
    targets = torch.tensor([0, 0, 0, 0, 0, 0, 0, 0, 1, 2])
    outputs = torch.tensor([0.2] * 8 + [1.4, 0.9])[:, None]
    values = {(m.metric, m.slice): m.value for m in task.summary(total([task.measure(outputs, targets)]))}
    assert values["accuracy", ""] == pytest.approx(0.9)
    assert values["balanced_accuracy", ""] == pytest.approx(2 / 3)
    assert values["accuracy", "label=2"] == 0


def test_a_network_that_returns_no_number_is_never_right() -> None:
    task = CountInRow(L=4, classes=3, supervise="last", head="scalar")
    measured = task.measure(torch.full((5, 1), torch.nan), torch.zeros(5, dtype=torch.int64))
    assert int(measured["right"].sum()) == 0

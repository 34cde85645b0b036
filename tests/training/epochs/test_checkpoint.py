"""A training that is interrupted, in any way, or shared out over processes, comes to the same numbers."""

import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from expbench.data.corpus import Corpus
from expbench.errors import BadInput
from expbench.language import schedule, train
from expbench.models.attn import Attn
from expbench.models.s6 import S6
from expbench.training.distributed import Group
from expbench.training.epochs import trainer
from expbench.training.epochs.recipe import TrainerOptions
from expbench.training.family import Paused, Reached
from tests.processes import Child
from tests.small_language import corpus_in, numbers, recipe, scores_of, small, train_as_said, trained, write_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        made = tmp_path_factory.mktemp("checkpoints")
        patch.setenv("EXPBENCH_CACHE", str(made / "cache"))
        write_text(made / "text")
        yield made


@pytest.fixture(scope="module")
def corpus(folder: Path) -> Corpus:
    return corpus_in(folder / "text")


def child(text: Path, *trainings: dict[str, Any], environment: dict[str, str] | None = None) -> Child:
    """A process that trains one small model after the other."""
    requests = [json.dumps({"text": str(text), "mixer": "s6", **options}) for options in trainings]
    return Child(train_as_said, *requests, environment=environment)


def measured(process: Child) -> list[dict[tuple[Any, ...], float]]:
    assert process.wait() == 0, process.err
    return [{tuple(key): value for *key, value in json.loads(line)} for line in process.out.splitlines()]


def interrupted(corpus: Corpus, how: TrainerOptions, at: int, mixer: type[nn.Module] = S6) -> None:
    """A training that is left alone after some steps, with the checkpoints that it has written by then."""
    assert any(event == Reached(at) for event in train(small(mixer), corpus, recipe(), how))


@pytest.mark.parametrize("mixer", [S6, Attn])
def test_a_training_that_goes_on_is_the_same_bit_for_bit(corpus: Corpus, tmp_path: Path, mixer: type[nn.Module]) -> None:
    undisturbed, net = small(mixer), small(mixer)
    expected = trained(corpus, recipe(), model=undisturbed)
    how = TrainerOptions(folder=tmp_path, save_every=0.0)
    epoch = schedule(recipe(), corpus["train"].tokens).epoch
    for at in (3, epoch, epoch + 1, epoch + 4):
        interrupted(corpus, how, at, mixer)
    with torch.no_grad():
        net.embed.weight.zero_()  # what a checkpoint brings counts, not what it is loaded into
    assert numbers(trained(corpus, recipe(), how, model=net)) == numbers(expected)
    assert all(torch.equal(p, q) for p, q in zip(net.parameters(), undisturbed.parameters(), strict=True))
    again = trained(corpus, recipe(), how, model=small(mixer))
    assert numbers(again) == numbers(expected), "one that is done tells what it found"
    assert again[-1].seconds > 0
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"step-{2 * epoch - 1:09d}.safetensors",
        f"step-{2 * epoch:09d}.safetensors",
    ]


def test_killed_twice_and_continued_it_is_the_same_bit_for_bit(corpus: Corpus, folder: Path, tmp_path: Path) -> None:
    kept = {"checkpoints": str(tmp_path / "kept")}
    for killed in ({"killed_at": 7}, {"killed_writing_at": 15}):
        process = child(folder / "text", kept | killed)
        assert process.wait() == -9, process.err
    assert list((tmp_path / "kept").glob(".*.tmp")), "what was half written"
    assert [path.name for path in sorted((tmp_path / "kept").glob("step-*"))] == [
        "step-000000013.safetensors",
        "step-000000014.safetensors",
    ]
    assert measured(child(folder / "text", kept)) == [numbers(trained(corpus, recipe()))]


def test_a_time_limit_ends_at_a_checkpoint(corpus: Corpus, tmp_path: Path) -> None:
    calls, ends = [], []
    plan = schedule(recipe(), corpus["train"].tokens)
    while not ends or isinstance(ends[-1], Paused):
        seconds = 0.0 if len(ends) < 3 else 600.0
        calls.append(list(train(small(), corpus, recipe(), TrainerOptions(folder=tmp_path, seconds=seconds))))
        ends.append(calls[-1][-1])
    assert ends[:-1] == [Paused(step, plan.steps) for step in (1, 2, 3)]
    assert numbers(scores_of(calls[-1])) == numbers(trained(corpus, recipe()))


def test_a_damaged_checkpoint_is_passed_over(corpus: Corpus, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    how = TrainerOptions(folder=tmp_path, save_every=0.0)
    interrupted(corpus, how, 6)
    earlier, newest = sorted(tmp_path.iterdir())
    whole = newest.read_bytes()
    newest.write_bytes(whole[: len(whole) // 2])
    interrupted(corpus, how, 5)
    said = capsys.readouterr().err
    assert newest.name in said
    assert f"resuming from {earlier.name}" in said
    newest.write_bytes(whole[:-8] + b"\0" * 8)  # the right size, and other numbers
    later = newest.rename(tmp_path / "step-000000020.safetensors")
    interrupted(corpus, how, 8)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-000000006.safetensors", "step-000000007.safetensors"]
    assert numbers(trained(corpus, recipe(), how)) == numbers(trained(corpus, recipe()))
    assert f"{later.name} is damaged (wrong checksum)" in capsys.readouterr().err


def test_without_a_whole_checkpoint_nothing_is_trained(corpus: Corpus, tmp_path: Path) -> None:
    how = TrainerOptions(folder=tmp_path, save_every=0.0)
    interrupted(corpus, how, 3)
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:100])
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(BadInput, match="is damaged") as refused:
        next(train(small(), corpus, recipe(), how))
    assert len(str(refused.value).splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_checkpoint_of_another_training_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    how = TrainerOptions(folder=tmp_path, save_every=0.0)
    interrupted(corpus, how, 3)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for chosen, net, words in (
        (recipe(lr=1.0), small(), "lr=0.003 instead of 1.0"),
        (recipe(seed=3), small(), "seed=0 instead of 3"),
        (recipe(), small(Attn), "mixer=S6 instead of Attn"),
        (recipe(), small(width=16), "parameters="),
    ):
        with pytest.raises(BadInput, match="another training") as refused:
            next(train(net, corpus, chosen, how))
        assert words in str(refused.value)
        assert str(tmp_path) in str(refused.value)
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_what_is_no_checkpoint_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    save_file({"x": torch.ones(2)}, tmp_path / "step-000000009.safetensors")
    with pytest.raises(BadInput, match="not a checkpoint"):
        next(train(small(), corpus, recipe(), TrainerOptions(folder=tmp_path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInput, match="cannot write checkpoints"):
        next(train(small(), corpus, recipe(), TrainerOptions(folder=tmp_path / "file")))


def test_two_processes_train_as_one(corpus: Corpus, folder: Path, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    common = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    trainings = {"checkpoints": str(tmp_path / "kept")}, {"mixer": "attn", "micro_batch_size": 3}, {"replayed": True}
    both = [child(folder / "text", *trainings, environment={**common, "RANK": r, "LOCAL_RANK": r}) for r in "01"]
    first, second = map(measured, both)
    assert second == [{}, {}, {}], "the first alone speaks"
    for found, mixer in zip(first, (S6, Attn, S6), strict=True):
        assert found == pytest.approx(numbers(trained(corpus, recipe(), model=small(mixer))), rel=1e-5)
    assert len(list((tmp_path / "kept").glob("step-*"))) == 2


def test_a_batch_that_processes_cannot_share_is_refused(corpus: Corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainer, "joined", lambda device: Group(0, 3, torch.device("cpu")))
    with pytest.raises(BadInput, match="batch_size=8 is not divisible by the 3 processes; 9 is"):
        next(train(small(), corpus, recipe(), TrainerOptions()))

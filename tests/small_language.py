"""A small corpus, model and recipe; their training, as one that a process can be killed at."""

from __future__ import annotations

import json
import os
import random
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from expbench.data.corpus import Choice, Corpus, Source, prepare
from expbench.language import Recipe, train
from expbench.language.model import LanguageModel
from expbench.models.attn import Attn
from expbench.models.s6 import S6
from expbench.run import Score
from expbench.training import cuda_graph
from expbench.training.epochs.recipe import TrainerOptions
from expbench.training.family import Event, Paused, Reached, Scored

L, WIDTH = 16, 32
MIXERS: dict[str, type[nn.Module]] = {"s6": S6, "attn": Attn}


def write_text(folder: Path) -> Path:
    """Sentences of 30 words, each of which has two that may follow it."""
    folder.mkdir()
    for name, lines in {"train": 120, "valid": 12, "test": 14}.items():
        draw = random.Random(name)
        text = []
        for _ in range(lines):
            word, words = draw.randrange(30), []
            for _ in range(draw.randrange(8, 20)):
                words.append(f"w{word}")
                word = (7 * word + draw.randrange(2)) % 30
            text.append(f" {' '.join(words)} \n")
        (folder / f"wiki.{name}.tokens").write_text("".join(text))
    return folder


def corpus_in(folder: Path) -> Corpus:
    """The corpus of that text, in words."""
    return prepare(Source(path=folder), Choice("word"))


def small(mixer: type[nn.Module] = S6, **options: Any) -> LanguageModel:
    """Two layers of width 32 from seed 0."""
    torch.manual_seed(0)
    return LanguageModel(mixer, **{"vocabulary": 32, "width": WIDTH, "layers": 2, "context": L, **options})


def recipe(**given: Any) -> Recipe:
    return Recipe(**{"lr": 3e-3, "epochs": 2, "batch_size": 8, "context": L, **given})


def numbers(scores: list[Any]) -> dict[tuple[str, int, str, str], float]:
    """What was measured but for times, by split, step, metric and slice."""
    return {(s.split, s.step, s.metric, s.slice): s.value for s in scores if s.metric != "tokens_per_second"}


def scores_of(events: Iterable[Event]) -> list[Score]:
    """The scores among events."""
    return [event.score for event in events if isinstance(event, Scored)]


def trained(
    corpus: Corpus, chosen: Recipe, options: TrainerOptions | None = None, *, model: LanguageModel | None = None
) -> list[Score]:
    """All scores of a training that comes to its end."""
    events = list(train(model or small(), corpus, chosen, options or TrainerOptions()))
    assert not any(isinstance(event, Paused) for event in events)
    return scores_of(events)


def replayed(patch: pytest.MonkeyPatch) -> list[int]:
    """Have steps on a CPU captured and replayed as on a GPU, by taking them anew; the list tells how often, in the end."""
    count = [0]

    def capture(step: Any, state: Any, judged: Any, tolerance: float) -> cuda_graph.Capture[Any]:
        held = step()
        assert all(float(x.norm()) > 0 for x in state)

        def replay() -> Any:
            count[0] += 1
            held.copy_(step())
            return held

        return cuda_graph.Capture(held, replay)

    patch.setattr(cuda_graph, "possible", lambda device: True)
    patch.setattr(cuda_graph, "capture", capture)
    return count


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_while_writing() -> None:
    """Have the next checkpoint half written."""
    import safetensors.torch

    whole = safetensors.torch.save_file

    def half(tensors: Any, path: Path, metadata: Any) -> None:
        whole(tensors, path, metadata)
        os.truncate(path, path.stat().st_size // 2)
        die()

    safetensors.torch.save_file = half


def train_as_said(*requests: str) -> None:
    """Train as each of the requests says, in JSON, and print what was measured."""
    for request in requests:
        print(json.dumps([[*key, value] for key, value in numbers(as_said(json.loads(request))).items()]))


def as_said(options: dict[str, Any]) -> list[Any]:
    folder = options.get("checkpoints")

    def killed(events: Iterator[Event]) -> Iterator[Event]:
        for event in events:
            if event == Reached(options.get("killed_at", 0)):
                die()
            if event == Reached(options.get("killed_writing_at", 0)):
                die_while_writing()
            yield event

    if options.get("replayed"):
        replayed(pytest.MonkeyPatch())
    how = TrainerOptions(
        folder=Path(folder) if folder else None, save_every=0.0, micro_batch_size=options.get("micro_batch_size")
    )
    text = corpus_in(Path(options["text"]))
    return scores_of(killed(train(small(MIXERS[options["mixer"]]), text, recipe(), how)))

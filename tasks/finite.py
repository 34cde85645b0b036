"""Finite: a fixed training set of `samples` sequences, to measure fit and generalisation.

Each sequence of bits has its own probability of 1s, uniform in [0, 1), so long runs are not rare. With ``labels=true`` the
label is the length of the run of 1s at the end, capped at classes-1, as in `expbench theory bound`. ``labels=random`` draws
a label for each sequence at random, which a model can only memorise (Zhang et al. 2017, arXiv 1611.03530). The sequences of
the set are distinct, so that all labels can be fitted at any length, and fresh sequences are not in the set.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from expbench.data.rng import CounterRNG, fold
from expbench.task import CHUNK, DEFAULT_TEST_SIZE, Batch, Control, Score, Task, require_at_most, resolve_setting

from .count_in_row import automaton, run_lengths

_MOST_SAMPLES, _MOST_BITS = 1 << 16, 1 << 24  # limits of the training set, which is kept in memory


@dataclass(frozen=True, kw_only=True)
class Finite(Task):
    """Settings in addition to L and instance:

    samples: number of training sequences. The sequences depend only on L and instance: a larger set begins with the smaller
    one, and neither classes nor labels change them. classes: labels are 0..classes-1, at most L+1 classes. labels: ``true``
    (the run of 1s at the end) or ``random`` (uniform, fixed for each sequence of the set, independent for fresh ones).

    The validation and test splits alternate fresh sequences and members of the set until the set is exhausted, so at most
    half of a split are members. By default, test_size is 4096 or twice `samples`, whichever is larger.
    """

    samples: int = 256
    classes: int = 4
    labels: Literal["true", "random"] = "true"

    primary_metric = "accuracy"
    higher_is_better = True
    success_threshold = 0.95
    vocabulary = 2

    def __post_init__(self) -> None:
        if not 1 <= self.samples <= _MOST_SAMPLES:
            raise ValueError(f"samples={self.samples} must be 1 to {_MOST_SAMPLES}")
        if self.test_size is None:
            resolve_setting(self, "test_size", max(DEFAULT_TEST_SIZE, 2 * self.samples))
        super().__post_init__()
        require_at_most(self, "samples", 2 ** min(self.L - 1, 32))  # at least half of all sequences remain fresh
        require_at_most(self, "L", _MOST_BITS // self.samples)
        if not 2 <= self.classes <= self.L + 1:
            raise ValueError(f"classes={self.classes} must be 2 to {self.L + 1} at L={self.L}")
        for name in ("test_size", "validation_size"):
            if getattr(self, name) < 2:
                raise ValueError(
                    f"{name}={getattr(self, name)} must be 2 or more, for fresh sequences and members of the set"
                )

    @property
    def outputs(self) -> int:
        return self.classes

    @cached_property
    def _members(self) -> dict[bytes, int]:
        """Sequences of the set as bytes, mapped to their numbers."""
        found: dict[bytes, int] = {}
        stream = _sequences(CounterRNG(fold(f"finite set {self.L}", self.instance)), self.L)
        while len(found) < self.samples:
            found.setdefault(next(stream), len(found))
        return found

    @cached_property
    def _copies(self) -> dict[torch.device, Batch]:
        return {}

    def training_set(self, device: torch.device | str = "cpu") -> Batch:
        """Return the set, (samples, L) and (samples,); cached per device, since CUDA graphs keep reading the same memory."""
        device = torch.device(device)
        if device not in self._copies:
            bits = self._bits(self._members)
            random_labels = CounterRNG(fold(f"finite labels {self.L}", self.instance)).integers(self.samples, n=self.classes)
            labels = random_labels if self.labels == "random" else self._true(bits)
            self._copies[device] = Batch(bits.to(device), labels.to(device))
        return self._copies[device]

    def batch(self, rng: CounterRNG, size: int) -> Batch:
        """Draw `size` members of the set with replacement."""
        index = rng.integers(size, n=self.samples)
        return Batch(*(x[index] for x in self.training_set(index.device)))

    def split(self, name: Literal["train", "validation", "test"], device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Yield chunks of alternating fresh sequences and members; the target of a member is its label + classes."""
        size = self.test_size if name == "test" and self.test_size else self.validation_size
        bits, labels = self.training_set()
        for chunk, start in enumerate(range(0, size, CHUNK)):
            fresh = self._fresh(self.rng(name, step=chunk))
            at = torch.arange(start, start + CHUNK)
            member = (at % 2 == 1) & (at // 2 < self.samples)
            number = torch.where(member, at // 2, 0)
            inputs = torch.where(member[:, None], bits[number], fresh.inputs)
            targets = torch.where(member, labels[number] + self.classes, fresh.targets)
            yield Batch(*(x[: size - start].to(device) for x in (inputs, targets)))

    def _fresh(self, rng: CounterRNG) -> Batch:
        """Draw a chunk of sequences that are not in the set, with plain labels."""
        random_labels = rng.integers(CHUNK, n=self.classes)
        bits = self._bits(islice((row for row in _sequences(rng, self.L) if row not in self._members), CHUNK))
        return Batch(bits, random_labels if self.labels == "random" else self._true(bits))

    def _bits(self, rows: Iterable[bytes]) -> Tensor:
        return torch.frombuffer(bytearray().join(rows), dtype=torch.uint8).view(-1, self.L).long()

    def _true(self, bits: Tensor) -> Tensor:
        return run_lengths(bits)[:, -1].clamp(max=self.classes - 1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the mean cross-entropy over members and fresh sequences."""
        return F.cross_entropy(outputs, targets % self.classes)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        member, labels = targets >= self.classes, targets % self.classes
        of = torch.stack([~member, member])
        right = (outputs.argmax(-1) == labels) & ~outputs.isnan().any(-1)
        nll = F.cross_entropy(outputs.double(), labels, reduction="none")
        return {"count": of.sum(1), "right": (of & right).sum(1), "nll": torch.where(of, nll, 0.0).sum(1)}

    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        """Return accuracy (on fresh sequences), fit (accuracy on members), gap (fit - accuracy), nll_fresh and nll_train.

        nll_fresh, nll_train: mean cross-entropy on fresh sequences and on members.
        """
        count, right, nll = (totals[name].double().cpu() for name in ("count", "right", "nll"))
        (accuracy, fit), (nll_fresh, nll_train) = (right / count).tolist(), (nll / count).tolist()
        return [
            Score("accuracy", accuracy),
            Score("fit", fit),
            Score("gap", fit - accuracy),
            Score("nll_fresh", nll_fresh),
            Score("nll_train", nll_train),
        ]

    def chance(self) -> float:
        return 1 / self.classes

    def controls(self) -> Iterator[Control]:
        """Yield the majority label, a lookup table of the set that falls back on that label, and, for true labels, the
        automaton. With random labels no predictor solves the task."""
        labels = self.training_set().targets
        most = int(torch.bincount(labels).argmax())
        yield Control("majority", "baseline", lambda x: self._as_outputs(torch.full_like(x[:, 0], most)))
        known = {row: int(labels[number]) for row, number in self._members.items()}
        yield Control(
            "lookup", "oracle", lambda x: self._as_outputs(torch.tensor([known.get(row, most) for row in _rows(x)]))
        )
        if self.labels == "true":
            last = self.classes - 1
            yield Control("automaton", "positive", lambda x: self._as_outputs(automaton(x)[:, -1].clamp(max=last)))

    def _as_outputs(self, labels: Tensor) -> Tensor:
        """Convert predicted labels (B,) to the shape of network outputs (B, O)."""
        return F.one_hot(labels, self.classes).double()

    def describe(self) -> str:
        what = f"run of 1s at the end, 0..{self.classes - 1}" if self.labels == "true" else "a random label"
        return f"{what}; a training set of {self.samples} sequences"


def _sequences(rng: CounterRNG, L: int) -> Iterator[bytes]:
    """Yield sequences of L bits indefinitely, one byte per bit, each with its own probability of 1s."""
    while True:
        yield from _rows(rng.uniform(CHUNK, L) < rng.uniform(CHUNK, 1))


def _rows(bits: Tensor) -> Iterator[bytes]:
    return (row.tobytes() for row in bits.to(torch.uint8).numpy())

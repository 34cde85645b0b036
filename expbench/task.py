"""Task and Batch: the contract of a task author, on one screen.

A task is a frozen dataclass whose fields are its settings. It owns its data, its loss, its metrics and its controls; the
training loop knows no task by name. Letters: B batch, L length, C input channels, O outputs.

    @dataclass(frozen=True, kw_only=True)
    class LastBit(Task):
        \"\"\"Repeat the last bit.\"\"\"

        L: int = 8
        headline = "accuracy"
        higher_is_better = True
        solved_at = 0.95
        vocabulary = 2
        outputs = 2

        def batch(self, draws, size):
            bits = draws.coins(size, self.L).long()
            return Batch(bits, bits[:, -1])

        def loss(self, outputs, targets):
            return F.cross_entropy(outputs, targets)

        def measure(self, outputs, targets):
            return {"right": (outputs.argmax(-1) == targets).sum(), "all": torch.tensor(len(targets))}

        def summary(self, totals):
            return [Score("accuracy", float(totals["right"] / totals["all"]))]
"""

from __future__ import annotations

import dataclasses
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from expbench.algebra.floors import Floor
from expbench.algebra.reach import Reach
from expbench.data.rng import Draws, advance, fold
from expbench.run import Score as Score  # task authors import it from here
from expbench.run import Split, canonical
from expbench.settings import Value

DEFAULT_TEST_SIZE = 4096
LONGEST, LARGEST_SPLIT = 1 << 20, 1 << 24  # beyond any machine's patience: a slip of the keyboard
CHUNK = 256  # sequences of a selection or test set that are drawn together: part of what the data are


class Batch(NamedTuple):
    """inputs: (B, L) int64 tokens or (B, L, C) float64; targets: (B,), (B, L), (B, O) or (B, L, O), int64 or float64."""

    inputs: Tensor
    targets: Tensor


class Control(NamedTuple):
    """A predictor without training that stands beside the models.

    kind: ``baseline`` (trivial), ``oracle`` (knows one feature of the input), ``positive`` (solves the task: if it does
    not, the task is broken). predict: the inputs of a batch -> outputs in the shape that a network would return.
    """

    name: str
    kind: Literal["baseline", "oracle", "positive"]
    predict: Callable[[Tensor], Tensor]


class LabelFacts(NamedTuple):
    """What is known about the labels, None where it does not apply.

    kurtosis: E[(y-m)^4] / E[(y-m)^2]^2, exact. interaction_order: mean number of positions joined, weighted by the share of
    the label's variance (ANOVA), exact. effective_sample_size: (sum y^2)^2 / sum y^4 of the centred test labels.
    well_posed: whether a verdict may rest on this cell.
    """

    kurtosis: float | None = None
    interaction_order: float | None = None
    effective_sample_size: float | None = None
    well_posed: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A supervised sequence task. Subclasses add their settings as fields; `__post_init__` raises ValueError on bad ones.

    L: length of a sequence. instance: which member of a random family (which polynomial); the data depend on the
    settings, the instance and the split alone, and so are shared by every model. test_size, selection_size: sequences
    in those splits (None: as many as the task needs, 4096 unless it says otherwise).
    """

    L: int = 64
    instance: int = 0
    test_size: int | None = None
    selection_size: int = 1024

    trained_as: ClassVar[str] = "stacked"  # its family: see training/family.py
    fresh: ClassVar[bool] = True  # whether `batch` draws new data at every step; else its family reads a data set in epochs
    local: ClassVar[tuple[str, ...]] = ()  # settings that say where something lies, not what it is: no part of a run
    version: ClassVar[int] = 1  # raise it when the same settings would give other data, losses or metrics
    headline: ClassVar[str]
    higher_is_better: ClassVar[bool]
    solved_at: ClassVar[float]  # a run whose headline metric reaches this solves the task

    @property
    def vocabulary(self) -> int | None:
        """Inputs are tokens 0..vocabulary-1; None where they are float channels."""
        return None

    @property
    def channels(self) -> int:
        """C, where the inputs are float channels."""
        return 1

    @property
    def outputs(self) -> int:
        """O: the numbers that the network returns at a position that is read."""
        return 1

    @property
    def readout(self) -> Literal["last", "all"]:
        """Whether the network is read at the last position or at every one."""
        return "last"

    @abstractmethod
    def batch(self, draws: Draws, size: int) -> Batch:
        """`size` fresh sequences with their targets; of tensor operations alone, it draws for many runs at once."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scalar to minimise. outputs: (B, O) where `readout` is last, else (B, L, O).

        Of runs that are trained together, whose tasks differ in numbers alone, one task's loss is called for all (which is
        tried beforehand): what differs belongs in the targets.
        """

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """What the metrics need of a batch, as tensors that may be summed over batches."""

    @abstractmethod
    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        """The metrics of a whole split from the sums of `measure`."""

    def chance(self) -> float | None:
        """The headline metric of a guess that ignores the input, where there is a closed form."""
        return None

    def controls(self) -> Iterator[Control]:
        """Trivial baselines, oracles and a positive control; fitted on the training stream, measured on the test split."""
        return iter(())

    def control_kinds(self) -> list[tuple[str, str]]:
        """Return the name and kind of each control."""
        return [(control.name, control.kind) for control in self.controls()]

    def measured_controls(self) -> Iterator[tuple[str, str, list[Score]]]:
        """(name, kind, metrics on the test split) of each control, and of chance where it has a closed form."""
        chance = self.chance()
        if chance is not None:
            yield "chance", "chance", [Score(self.headline, chance)]
        for control in self.controls():
            parts = [self.measure(control.predict(batch.inputs), batch.targets) for batch in self.split("test")]
            yield control.name, control.kind, self.summary(total(parts))

    def facts(self) -> LabelFacts:
        """What is known about the labels of this instance."""
        return LabelFacts()

    def floor(self, reach: Reach) -> Floor | None:
        """The least headline metric, an error, that any network of that reach can have; None where it is not known."""
        return None

    def describe(self) -> str:
        """What this instance asks for, in one line (the polynomial, say)."""
        return ""

    @classmethod
    def withheld(cls, given: Container[str]) -> str | None:
        """Return what is missing, in words, where it is not to be built only to be shown, with these settings given."""
        return None

    def sample_lines(self) -> list[str] | None:
        """Return a few lines that show the data; None where a batch shows them."""
        return None

    def stream(self, split: Split, seed: int = 0) -> int:
        """The key of a stream of batches. Splits never share one; `seed` chooses the order of the training stream."""
        sizes = ("test_size", "selection_size")  # a larger test set begins with the smaller one
        settings = canonical({f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in sizes})
        return fold(f"{type(self).__name__} {self.version} {settings} {split}", seed)

    def draws(self, split: Split, *, seed: int = 0, step: int = 0, device: torch.device | str = "cpu") -> Draws:
        """The random numbers of one batch."""
        return Draws(advance(self.stream(split, seed), step), device)

    def train_batch(self, size: int, *, seed: int, step: int, device: torch.device | str = "cpu") -> Batch:
        """Batch number `step` of the training stream of `seed`: fresh data, never seen before."""
        return self.batch(self.draws("train", seed=seed, step=step, device=device), size)

    def split(self, name: Split, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """The fixed selection or test set, in chunks."""
        size = self.test_size if name == "test" and self.test_size else self.selection_size
        for chunk, start in enumerate(range(0, size, CHUNK)):
            batch = self.batch(self.draws(name, step=chunk, device=device), CHUNK)
            yield Batch(*(tensor[: size - start] for tensor in batch))

    def solved(self, value: float) -> bool:
        """Whether a headline metric of `value` solves the task."""
        return value >= self.solved_at if self.higher_is_better else value <= self.solved_at

    def __post_init__(self) -> None:
        if self.test_size is None:
            resolve_setting(self, "test_size", DEFAULT_TEST_SIZE)
        require_positive(self, "L", "test_size", "selection_size")
        for name, most in (("L", LONGEST), ("test_size", LARGEST_SPLIT), ("selection_size", LARGEST_SPLIT)):
            require_at_most(self, name, most)
        if not 0 <= self.instance < 2**63:
            raise ValueError(f"instance={self.instance} must be 0 or more, and below 2^63")


def resolve_setting(task: Task, name: str, value: Value) -> None:
    """Put `value` in the place of a setting that was left to the task; for `__post_init__` alone."""
    object.__setattr__(task, name, value)


def require_at_most(task: Task, name: str, most: float) -> None:
    """Raise ValueError if a setting is above `most`."""
    if getattr(task, name) > most:
        raise ValueError(f"{name}={getattr(task, name)} is too large, the most is {most}")


def require_positive(task: Task, *names: str) -> None:
    """Raise ValueError that names the first setting among `names` that is not above 0."""
    for name in names:
        if not getattr(task, name) > 0:
            raise ValueError(f"{name}={getattr(task, name)} must be above 0")


def total(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The sums over batches of what `measure` returned."""
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def __getattr__(name: str) -> Any:
    if name != "Measured":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("expbench.task.Measured is now expbench.task.Score", DeprecationWarning, stacklevel=2)
    return Score

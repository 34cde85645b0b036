"""Task and Batch: the contract of a task author, on one screen.

A task is a frozen dataclass whose fields are its settings. It defines its data, loss, metrics and controls; the training
loop knows no task by name. Letters: B batch, L length, C input channels, O outputs.

    @dataclass(frozen=True, kw_only=True)
    class LastBit(Task):
        \"\"\"Repeat the last bit.\"\"\"

        L: int = 8
        primary_metric = "accuracy"
        higher_is_better = True
        success_threshold = 0.95
        vocabulary = 2
        outputs = 2

        def batch(self, rng, size):
            bits = rng.coins(size, self.L).long()
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
import math
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from expbench.algebra.floors import Floor
from expbench.algebra.reach import Reach
from expbench.algebra.spans import Codes
from expbench.data.rng import CounterRNG, advance, fold
from expbench.run import FORMER_SPLITS, Split, canonical
from expbench.run import Score as Score  # for task authors to import
from expbench.settings import Value

DEFAULT_TEST_SIZE = 4096
LONGEST, LARGEST_SPLIT = 1 << 20, 1 << 24  # larger values are most likely typing errors
CHUNK = 256  # sequences of an evaluation split drawn together; changing it changes the data


class Batch(NamedTuple):
    """inputs: (B, L) int64 tokens or (B, L, C) float64; targets: (B,), (B, L), (B, O) or (B, L, O), int64 or float64."""

    inputs: Tensor
    targets: Tensor


class Control(NamedTuple):
    """An untrained predictor, for comparison with models.

    kind: ``baseline`` (trivial), ``oracle`` (uses one feature of the input), ``positive`` (must solve the task; otherwise
    the task is broken). predict: maps the inputs of a batch to outputs in the shape of network outputs.
    """

    name: str
    kind: Literal["baseline", "oracle", "positive"]
    predict: Callable[[Tensor], Tensor]


class LabelFacts(NamedTuple):
    """Facts about the labels; None if not applicable.

    kurtosis: E[(y-m)^4] / E[(y-m)^2]^2, exact. interaction_order: mean number of joined positions, weighted by the share of
    the label's variance (ANOVA), exact. effective_sample_size: (sum y^2)^2 / sum y^4 of the centred test labels.
    well_posed: whether verdicts may use this configuration. If kurtosis and effective sample size are stated, readers apply
    the rule of `stats/sampling.py` to them instead, so that all tables are judged alike.
    """

    kurtosis: float | None = None
    interaction_order: float | None = None
    effective_sample_size: float | None = None
    well_posed: bool | None = None


@dataclass(frozen=True, kw_only=True)
class Task(ABC):
    """A supervised sequence task. Subclasses add settings as fields; `__post_init__` raises ValueError for invalid ones.

    L: sequence length. instance: index into a random family, e.g. which polynomial. The data depend only on the settings,
    the instance and the split, so all models share them. test_size, validation_size: sequences in the test and validation
    splits (test_size None: as many as the task needs, by default 4096).
    """

    L: int = 64
    instance: int = 0
    test_size: int | None = None
    validation_size: int = 1024

    trained_as: ClassVar[str] = "stacked"  # its task family, see training/family.py
    fresh: ClassVar[bool] = True  # `batch` draws new data at every step; if False, the family reads a data set in epochs
    local: ClassVar[tuple[str, ...]] = ()  # settings that locate data without changing it; excluded from the run key
    version: ClassVar[int] = 1  # raise it when the same settings would give other data, losses or metrics
    primary_metric: ClassVar[str]
    higher_is_better: ClassVar[bool]
    success_threshold: ClassVar[float]  # success threshold of the primary metric

    @property
    def vocabulary(self) -> int | None:
        """Number of tokens, 0..vocabulary-1; None if the inputs are float channels."""
        return None

    @property
    def channels(self) -> int:
        """C, the number of float input channels."""
        return 1

    @property
    def outputs(self) -> int:
        """O, the number of network outputs per read position."""
        return 1

    @property
    def readout(self) -> Literal["last", "all"]:
        """Positions at which the network is read: the last or all."""
        return "last"

    @property
    def causal(self) -> bool:
        """True if a layer that looks ahead is refused: by default in tasks that are read at all positions.

        In tasks that are read at the last position every input is in its past.
        """
        return self.readout == "all"

    @abstractmethod
    def batch(self, rng: CounterRNG, size: int) -> Batch:
        """Draw `size` fresh sequences with targets, using only tensor operations, which may be batched over many runs."""

    @abstractmethod
    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Return the scalar to minimise. outputs: (B, O) if `readout` is last, else (B, L, O).

        Runs trained together have tasks that differ only in numbers, and share the loss of one of them (tested
        beforehand). Differences between such tasks must therefore be in the targets.
        """

    @abstractmethod
    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        """Return the statistics of a batch for the metrics, as tensors that can be summed over batches."""

    @abstractmethod
    def summary(self, totals: Mapping[str, Tensor]) -> list[Score]:
        """Compute the metrics of a split from the sums of `measure`."""

    def chance(self) -> float | None:
        """Return the primary metric of a guess that ignores the input; None without a closed form."""
        return None

    def controls(self) -> Iterator[Control]:
        """Yield baselines, oracles and a positive control, fitted on the training stream, measured on the test split."""
        return iter(())

    def control_kinds(self) -> list[tuple[str, str]]:
        """Return the name and kind of each control."""
        return [(control.name, control.kind) for control in self.controls()]

    def measured_controls(self) -> Iterator[tuple[str, str, list[Score]]]:
        """Yield (name, kind, metrics on the test split) of each control, and of chance if it has a closed form."""
        chance = self.chance()
        if chance is not None:
            yield "chance", "chance", [Score(self.primary_metric, chance)]
        for control in self.controls():
            parts, finite = [], True
            for batch in self.split("test"):
                outputs = control.predict(batch.inputs)
                parts.append(self.measure(outputs, batch.targets))
                finite = finite and bool(torch.isfinite(outputs).all())
            yield control.name, control.kind, scores_of(self, total(parts), finite)

    def facts(self) -> LabelFacts:
        """Return facts about the labels of this instance."""
        return LabelFacts()

    def floor(self, reach: Reach) -> Floor | None:
        """Return the lower bound of the primary metric, an error, over all networks of that reach; None if unknown."""
        return None

    def span_floor(self, codes: Codes, *, largest: float = math.inf) -> float | None:
        """Return the lower bound for one layer of linear attention with these position codes; None if unknown.

        largest: bound on its coefficients (`algebra/spans.py`).
        """
        return None

    def symmetry_floor(self) -> float | None:
        """Return the lower bound over predictors that ignore the order of all positions but the last; None if unknown."""
        return None

    def floor_of_all(self) -> float | None:
        """Return the lowest expected primary metric, an error, of any predictor at all; None if unknown."""
        return None

    def describe(self) -> str:
        """Describe this instance in one line, e.g. by its polynomial."""
        return ""

    @classmethod
    def withheld(cls, given: Container[str]) -> str | None:
        """Return why `expbench show` should not build the task with these settings, e.g. missing data; None if it may."""
        return None

    def sample_lines(self) -> list[str] | None:
        """Return a few lines that show the data; None to show a batch instead."""
        return None

    def stream(self, split: Split, seed: int = 0) -> int:
        """Return the random key of a stream of batches; splits never share keys, and `seed` sets the training order."""
        sizes = ("test_size", "validation_size")  # excluded, so that a larger test set begins with the smaller one
        settings = canonical({f.name: getattr(self, f.name) for f in dataclasses.fields(self) if f.name not in sizes})
        return fold(f"{type(self).__name__} {self.version} {settings} {FORMER_SPLITS.get(split, split)}", seed)

    def rng(self, split: Split, *, seed: int = 0, step: int = 0, device: torch.device | str = "cpu") -> CounterRNG:
        """Return the random numbers (counter-based) of one batch."""
        return CounterRNG(advance(self.stream(split, seed), step), device)

    def train_batch(self, size: int, *, seed: int, step: int, device: torch.device | str = "cpu") -> Batch:
        """Draw batch number `step` of the training stream of `seed`; its data are new at every step."""
        return self.batch(self.rng("train", seed=seed, step=step, device=device), size)

    def split(self, name: Split, device: torch.device | str = "cpu") -> Iterator[Batch]:
        """Yield the fixed validation or test split in chunks."""
        size = self.test_size if name == "test" and self.test_size else self.validation_size
        for chunk, start in enumerate(range(0, size, CHUNK)):
            batch = self.batch(self.rng(name, step=chunk, device=device), CHUNK)
            yield Batch(*(tensor[: size - start] for tensor in batch))

    def solved(self, value: float) -> bool:
        """Return whether a primary metric of `value` reaches the success threshold."""
        return value >= self.success_threshold if self.higher_is_better else value <= self.success_threshold

    def __post_init__(self) -> None:
        if self.test_size is None:
            resolve_setting(self, "test_size", DEFAULT_TEST_SIZE)
        require_positive(self, "L", "test_size", "validation_size")
        for name, most in (("L", LONGEST), ("test_size", LARGEST_SPLIT), ("validation_size", LARGEST_SPLIT)):
            require_at_most(self, name, most)
        if not 0 <= self.instance < 2**63:
            raise ValueError(f"instance={self.instance} must be 0 or more, and below 2^63")


def resolve_setting(task: Task, name: str, value: Value) -> None:
    """Set a setting that was left to the task; only for use in `__post_init__`."""
    object.__setattr__(task, name, value)


def require_at_most(task: Task, name: str, most: float) -> None:
    """Raise ValueError if a setting is above `most`."""
    if getattr(task, name) > most:
        raise ValueError(f"{name}={getattr(task, name)} is too large, the maximum is {most}")


def require_positive(task: Task, *names: str) -> None:
    """Raise ValueError that names the first setting among `names` that is not above 0."""
    for name in names:
        if not getattr(task, name) > 0:
            raise ValueError(f"{name}={getattr(task, name)} must be above 0")


def total(parts: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Sum the results of `measure` over batches."""
    return {name: torch.stack([part[name] for part in parts]).sum(0) for name in parts[0]}


def scores_of(task: Task, totals: Mapping[str, Tensor], finite: bool) -> list[Score]:
    """Return the metrics of a split; they are not finite if an output is not, though an argmax has a value even then."""
    scores = task.summary(totals)
    return (
        scores if finite else [score._replace(value=math.nan) if math.isfinite(score.value) else score for score in scores]
    )


def __getattr__(name: str) -> Any:
    if name != "Measured":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn("expbench.task.Measured is now expbench.task.Score", DeprecationWarning, stacklevel=2)
    return Score

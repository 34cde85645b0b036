"""Run and Score: what is run, and what is measured.

A `Run` is one training of one model on one task with one seed, every setting resolved; its key is a hash of all of it
with the versions of task, model and training loop, and of nothing else: device, backend and batch of work are provenance.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_origin

from expbench.settings import Value, options, setting

RESERVED = 1_000_000  # seeds and instances from here on choose learning rates and nothing else
TRAINING_VERSION = 2  # raised when the loop, the network or the optimizer would give other numbers for the same run

Norm = Literal["layer", "rms", "none"]
Positions = Literal["none", "sin", "learned", "index"]
DType = Literal["float32", "float64", "bfloat16"]
Init = Literal["default", "construct:lemma2", "construct:count-in-row", "construct:theorem2"]
Shape = Literal["cosine", "constant", "linear"]
Split = Literal["train", "selection", "test"]
Status = Literal["ok", "diverged", "unsupported", "failed"]


class Score(NamedTuple):
    """One measured number, from the task that measures it to the row that holds it.

    slice: the part of the split, such as ``label=3`` or ``layer=0``; empty for the whole. The trainer sets the others. step:
    optimizer steps done when it was measured. seconds: since the run began. headline: whether the task is judged by this
    metric.
    """

    metric: str
    value: float
    slice: str = ""
    split: Split = "test"
    step: int = 0
    seconds: float = 0.0
    headline: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskAxes:
    """Settings of a task that have an option and a column of their own."""

    L: int = setting("--L", role="task", default=None, help="Lengths. (default: the task's)")
    degree: int = setting("--degree", role="task", default=None, help="Degrees of the task. (default: the task's)")
    instance: int = setting(
        "--instances",
        role="instance",
        default="0",
        least=0,
        most=RESERVED - 1,
        help="Members of a random family (which polynomial).",
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One training, fully resolved. `model` and `task` are plugin names; `D` is the width; `lr` the peak learning rate.

    init: the weights that it starts from; init_noise: the size of the normal noise on each of them. schedule: what the
    learning rate does after its linear warm-up.

    Each field is declared once: from here follow the options of `expbench run` and how they are read (`sweep.request`), the
    command, the columns of the results table (`results.schema`), and what tells runs apart (`results.identity`).
    """

    task: str = setting("--task", role="task", help="Tasks, as polyreg or count-in-row,polyreg.")
    task_version: str = setting(role="version")
    task_settings: dict[str, Value] = setting(
        "-t", "--task-setting", role="task", metavar="[TASK:]NAME=V1,V2", default=None, help="A setting of a task."
    )
    model: str = setting("--models", role="model", help="Models by name, or path/file.py:Class, or module:Class.")
    model_version: str = setting(role="version")
    model_settings: dict[str, Value] = setting(
        "-m", "--model-setting", role="model", metavar="[MODEL:]NAME=V1,V2", default=None, help="A setting of a model."
    )
    D: int = setting("--D", role="size", default=None, most=1 << 16, help="Widths. (default: 4)")
    depth: int = setting("--depth", role="size", default="1", most=1 << 12, help="Numbers of layers.")
    norm: Norm = setting("--norm", role="protocol", default="layer", help="Before each mixer: layer, rms, none.")
    positions: Positions = setting(
        "--positions",
        role="protocol",
        default=None,
        help="Position codes: none, sin, learned, index. (default: the model's)",
    )
    residual: bool = setting("--residual", role="protocol", default="on", help="Residual connections: on, off.")
    steps: int = setting("--steps", role="training", default=None, most=10**9, help="Optimizer steps. (default: 2000)")
    warmup: int = setting(
        "--warmup",
        role="training",
        default=None,
        least=0,
        most=10**9,
        help="Warm-up steps. (default: a tenth, at most 200, or an epoch)",
    )
    batch_size: int = setting("--batch-size", role="training", default="64", most=1 << 24, help="Sequences in a step.")
    lr: float = setting(
        "--lr",
        role="rate",
        default="0.01",
        above=0.0,
        help="Peak learning rates; or auto, which chooses one for each cell.",
    )
    weight_decay: float = setting("--weight-decay", role="training", default="0", help="Weight decay of AdamW.")
    clip: float = setting("--clip", role="training", default="1.0", above=0.0, help="Largest norm of the gradient.")
    seed: int = setting(
        "--seeds",
        role="seed",
        default="0:3",
        least=0,
        most=RESERVED - 1,
        help="Seeds of weights and of the order of the data.",
    )
    dtype: DType = setting("--dtype", role="training", default="float32", help="float32, float64, bfloat16 (autocast).")
    init: Init = setting(
        "--init",
        role="training",
        default="default",
        since=4,
        before="default",
        help="default, construct:lemma2, construct:count-in-row, construct:theorem2.",
    )
    init_noise: float = setting(
        "--init-noise",
        role="training",
        default="0",
        since=4,
        before=0.0,
        help="Sizes of normal noise on the first weights.",
    )
    schedule: Shape = setting(
        "--schedule",
        role="training",
        default="cosine",
        since=5,
        before="cosine",
        help="Learning rate after the warm-up: cosine and linear fall to 0; constant stays.",
    )

    @cached_property
    def key(self) -> str:
        """16 hexadecimal digits that name this run."""
        content = {name: value for name, value in self.values().items() if name not in LATER or value != LATER[name]}
        return content_key({"training_version": TRAINING_VERSION, **content})

    def values(self) -> dict[str, Any]:
        """Every field by its name."""
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Run:
        """Return the run that a row of the results table belongs to.

        Fields that came after its schema are absent or null there.
        """
        known = {name: value for name, value in row.items() if value is not None and value == value}
        stated = {name: known[name] for name in FIELDS if name in known or name not in LATER}
        return cls(**{name: _read(value, FIELDS[name].kind) for name, value in stated.items()})

    @property
    def L(self) -> int:
        """Length of the sequences."""
        return int(self.task_settings["L"])  # type: ignore[arg-type]

    def title(self) -> str:
        """A short name for progress lines."""
        degree = self.task_settings.get("degree")
        sizes = f"L={self.L}" + (f" degree={degree}" if degree is not None else "") + f" D={self.D} depth={self.depth}"
        return f"{self.task} {self.model} {sizes} seed={self.seed} instance={self.task_settings.get('instance', 0)}"

    def model_from(self, origin: str) -> str:
        """The name that finds its model again, given where it came from (`Plugin.origin`): a file by its path."""
        return f"{origin}:{self.model.rpartition(':')[2]}" if origin.endswith(".py") else self.model

    def command(self, model_origin: str = "", task_origin: str = "", *, seeds: str = "", instances: str | None = "") -> str:
        """The command line that runs exactly this run again, given where its plugins came from (`Plugin.origin`).

        seeds, instances: lists of those of several runs that differ in nothing else; None: each seed has the instance of its
        number.
        """
        model = self.model_from(model_origin)
        words = ["expbench", "run", "--task", self.task, "--models", model, "--seeds", seeds or str(self.seed)]
        words += ["--paired"] if instances is None else []
        for name in _IN_COMMAND:
            value = getattr(self, name)
            if name not in LATER or value != LATER[name]:
                words += [FIELDS[name].flag, ("off", "on")[value] if isinstance(value, bool) else str(value)]
        for name, value in self.task_settings.items():
            if name == "instance":
                words += [AXES[name].flag, instances or _text(value)] if instances is not None else []
            elif value is not None:
                words += [AXES[name].flag, _text(value)] if name in AXES else ["-t", f"{name}={_text(value)}"]
        for name, value in self.model_settings.items():
            if value is not None:
                words += ["-m", f"{name}={_text(value)}"]
        for kind, origin in (("tasks", task_origin), ("models", model_origin)):
            if origin.startswith("folder "):
                words += [f"--{kind}-dir", origin.removeprefix("folder ")]
        return shlex.join(words)


FIELDS, AXES = options(Run), options(TaskAxes)  # what is declared above, by the names of the fields
# Fields that came after the first tables, with what holds where they are not stated: there they are not in the key either.
LATER = {f.name: f.default for f in dataclasses.fields(Run) if f.default is not dataclasses.MISSING}
# Commands have always begun in this order, and reports state them; other fields follow as they are declared.
_FIRST = ("D", "depth", "norm", "positions", "lr", "dtype", "residual", "steps", "batch_size")
_IN_COMMAND = dict.fromkeys(
    [*_FIRST, *(name for name, field in FIELDS.items() if field.role in ("size", "protocol", "rate", "training"))]
)


def _read(value: Any, kind: Any) -> Any:
    """Return a value of the results table as the type that a field has."""
    if kind in (int, float, bool):
        return kind(value)
    return str(value) if kind is str or get_origin(kind) is Literal else json.loads(value)


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def content_key(content: dict[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def canonical(content: dict[str, Any]) -> str:
    """JSON with sorted keys and no spaces: equal contents give equal texts."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

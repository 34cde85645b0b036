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
from typing import Any, Literal, NamedTuple

from expbench.settings import Value

TRAINING_VERSION = 2  # raised when the loop, the network or the optimizer would give other numbers for the same run

Norm = Literal["layer", "rms", "none"]
Positions = Literal["none", "sin", "learned", "index"]
DType = Literal["float32", "float64", "bfloat16"]
Init = Literal["default", "construct:lemma2", "construct:count-in-row", "construct:theorem2"]
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
class Run:
    """One training, fully resolved. `model` and `task` are plugin names; `D` is the width; `lr` the peak learning rate.

    init: the weights that it starts from; init_noise: the size of the normal noise on each of them.
    """

    task: str
    task_version: str
    task_settings: dict[str, Value]
    model: str
    model_version: str
    model_settings: dict[str, Value]
    D: int
    depth: int
    norm: Norm
    positions: Positions
    residual: bool
    steps: int
    warmup: int
    batch_size: int
    lr: float
    weight_decay: float
    clip: float
    seed: int
    dtype: DType
    init: Init = "default"
    init_noise: float = 0.0

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
        """The run that a row of the results table belongs to; fields that came after its schema are absent or null there."""
        kinds = {"int": int, "float": float, "bool": bool}
        known = {name: value for name, value in row.items() if value is not None and value == value}
        values: dict[str, Any] = {
            f.name: kinds.get(str(f.type), str)(known[f.name])
            for f in dataclasses.fields(cls)
            if "settings" not in f.name and (f.name in known or f.name not in LATER)
        }
        return cls(
            task_settings=json.loads(row["task_settings"]), model_settings=json.loads(row["model_settings"]), **values
        )

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
        for option in ("D", "depth", "norm", "positions", "lr", "dtype"):
            words += [f"--{option}", _text(getattr(self, option))]
        words += [
            "--residual",
            "on" if self.residual else "off",
            "--steps",
            str(self.steps),
            "--batch-size",
            str(self.batch_size),
        ]
        words += ["--warmup", str(self.warmup), "--weight-decay", _text(self.weight_decay), "--clip", _text(self.clip)]
        for name, default in LATER.items():
            if getattr(self, name) != default:
                words += [f"--{name.replace('_', '-')}", _text(getattr(self, name))]
        for name, value in self.task_settings.items():
            axis = {"L": "--L", "degree": "--degree", "instance": "--instances"}.get(name)
            if name == "instance":
                words += ["--instances", instances or _text(value)] if instances is not None else []
            elif value is not None:
                words += [axis, _text(value)] if axis else ["-t", f"{name}={_text(value)}"]
        for name, value in self.model_settings.items():
            if value is not None:
                words += ["-m", f"{name}={_text(value)}"]
        for kind, origin in (("tasks", task_origin), ("models", model_origin)):
            if origin.startswith("folder "):
                words += [f"--{kind}-dir", origin.removeprefix("folder ")]
        return shlex.join(words)


# Fields that came after the first tables, with what holds where they are not stated: there they are not in the key either.
LATER = {f.name: f.default for f in dataclasses.fields(Run) if f.default is not dataclasses.MISSING}


def _text(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def content_key(content: dict[str, Any]) -> str:
    """16 hexadecimal digits of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def canonical(content: dict[str, Any]) -> str:
    """JSON with sorted keys and no spaces: equal contents give equal texts."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

"""Run and Score: the settings of a training run, and a measured number.

A `Run` is one training of one model on one task with one seed, with all settings resolved. Its key is a hash of these
settings and the versions of task, model and training loop only; device, backend and stack are provenance.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple, get_origin

from expbench.settings import Value, options, quoted, setting

RESERVED = 1_000_000  # seeds and instances from here on are used only to tune learning rates

Norm = Literal["layer", "rms", "none"]
Positions = Literal["none", "sin", "learned", "onehot", "index", "rotary", "alibi"]
DType = Literal["float32", "float64", "bfloat16"]
Init = Literal["default", "construct:lemma2", "construct:count-in-row", "construct:theorem2"]
Shape = Literal["cosine", "constant", "linear"]
Split = Literal["train", "validation", "test"]
Status = Literal["ok", "diverged", "unsupported", "failed"]

RELATIVE: tuple[Positions, ...] = ("rotary", "alibi")  # position codes that a layer applies itself, to its scores
WITH_BASE = ("sin", "rotary")
NO_BASE = 10000.0  # in runs whose code has no base, and in all runs before schema 8, whose sinusoids had this base

# Names until schema 5 of a setting and of a split, by their present names. Keys, random streams and links in reports are
# still hashes of the former names: a new word must neither change a number nor lose a finished run. Two tables, because a
# third-party task may have a setting that is named like a split.
FORMER_SETTINGS = {"validation_size": "selection_size"}
FORMER_SPLITS = {"validation": "selection"}


def matched_base(positions: Positions, L: int) -> float:
    """Return the base of a position code for sequences of length L: L/pi, at least 2, to 4 digits; or `NO_BASE`.

    The frequencies base^(-2i/D), i < D/2, then lie between 1 and pi/L. Each makes at least half a turn over the sequence, so
    none is nearly constant: for D = 4 to 64 and L = 8 to 1024, L >= 2D, the standard deviation of each column over the
    positions is at least .38, that of the base 10000 at least .00002. A linear map of the code can tell positions apart as
    far as the functions 1 and the D columns are well conditioned. Their condition number is at most 7, 4, 175 and 608 for
    D = 4, 6, 8, 12, and with the base 10000 up to 2e4, 2e7, 1e12 and 4e16. The base does not depend on D, so two models of
    different widths have the same code. Codes without a base (not in `WITH_BASE`) have the neutral value.
    """
    return max(2.0, float(f"{L / math.pi:.4g}")) if positions in WITH_BASE else NO_BASE


def stated_base(positions: Positions, base: float, L: int) -> str:
    """Return ``auto`` for the base that a position code has by default at length L, or else the base as text."""
    return "auto" if base == matched_base(positions, L) else f"{base:g}"


class Score(NamedTuple):
    """One measured number, returned by a task and stored as a row.

    slice: part of the split, such as ``label=3`` or ``layer=0``; empty for all of it. The trainer sets the other fields.
    step: optimizer steps before the measurement. seconds: time since the start of the run. primary: whether this is the
    primary metric of the task.
    """

    metric: str
    value: float
    slice: str = ""
    split: Split = "test"
    step: int = 0
    seconds: float = 0.0
    primary: bool = False


@dataclass(frozen=True, kw_only=True)
class TaskAxes:
    """Settings of a task with their own option and column."""

    L: int = setting("--L", role="task", default=None, help="Lengths. (default: the task's)")
    degree: int = setting("--degree", role="task", default=None, help="Degrees of the task. (default: the task's)")
    instance: int = setting(
        "--instances",
        role="instance",
        default=None,
        least=0,
        most=RESERVED - 1,
        help="Instances of a random family, e.g. which polynomial. (default: 0)",
    )


@dataclass(frozen=True, kw_only=True)
class Run:
    """One fully resolved training run. `model` and `task` are plugin names, `D` is the width, `lr` the peak learning rate.

    position_base: base of the position code (`matched_base`). init: the initial weights. init_noise: standard deviation of
    the normal noise on each of them. schedule: the learning rate after its linear warm-up.

    Each field is declared once. The options of `expbench run` and their parsing (`sweep.spec`), the command, the columns
    of the results table (`results.schema`) and the identity of runs (`results.identity`) are derived from these fields.
    """

    task: str = setting("--task", role="task", help="Tasks, e.g. polyreg or count-in-row,polyreg.")
    task_version: str = setting(role="version")
    task_settings: dict[str, Value] = setting(
        "-t", "--task-setting", role="task", metavar="[TASK:]NAME=V1,V2", default=None, help="A setting of a task."
    )
    model: str = setting("--models", role="model", help="Model names, path/file.py:Class, or module:Class.")
    model_version: str = setting(role="version")
    model_settings: dict[str, Value] = setting(
        "-m", "--model-setting", role="model", metavar="[MODEL:]NAME=V1,V2", default=None, help="A setting of a model."
    )
    D: int = setting("--D", role="size", default=None, most=1 << 16, help="Widths. (default: 4)")
    depth: int = setting("--depth", role="size", default="1", most=1 << 12, help="Numbers of layers.")
    norm: Norm = setting(
        "--norm", role="protocol", default="layer", help="Normalisation before each mixer: layer, rms, none."
    )
    positions: Positions = setting(
        "--positions",
        role="protocol",
        default=None,
        help="Position codes: none, sin, learned, onehot, index; for attention also rotary, alibi. (default: the model's)",
    )
    position_base: float = setting(
        "--position-base",
        role="protocol",
        default="auto",
        above=1.0,
        since=8,
        before=NO_BASE,
        help="Bases of sin and rotary; auto matches them to L, as L/pi.",
    )
    residual: bool = setting("--residual", role="protocol", default="on", help="Residual connections: on, off.")
    steps: int = setting("--steps", role="training", default=None, most=10**9, help="Optimizer steps. (default: 2000)")
    warmup: int = setting(
        "--warmup",
        role="training",
        default=None,
        least=0,
        most=10**9,
        help="Warm-up steps. (default: a tenth of the steps, at most 200; or an epoch)",
    )
    batch_size: int = setting("--batch-size", role="training", default="64", most=1 << 24, help="Sequences per step.")
    lr: float = setting(
        "--lr",
        role="rate",
        default="0.01",
        above=0.0,
        help="Peak learning rates; auto tunes one per configuration.",
    )
    weight_decay: float = setting("--weight-decay", role="training", default="0", help="Weight decay of AdamW.")
    clip: float = setting("--clip", role="training", default="1.0", above=0.0, help="Gradient clipping norm.")
    seed: int = setting(
        "--seeds",
        role="seed",
        default="0:3",
        least=0,
        most=RESERVED - 1,
        help="Seeds of the weights and the data order.",
    )
    dtype: DType = setting("--dtype", role="training", default="float32", help="float32, float64, bfloat16 (autocast).")
    init: Init = setting(
        "--init",
        role="training",
        default="default",
        since=4,
        before="default",
        help="Initial weights: default, construct:lemma2, construct:count-in-row, construct:theorem2.",
    )
    init_noise: float = setting(
        "--init-noise",
        role="training",
        default="0",
        since=4,
        before=0.0,
        help="Standard deviations of normal noise on the initial weights.",
    )
    schedule: Shape = setting(
        "--schedule",
        role="training",
        default="cosine",
        since=5,
        before="cosine",
        help="Learning rate after warm-up: cosine, linear (both decay to 0), constant.",
    )

    @cached_property
    def key(self) -> str:
        """Key of this run, 16 hexadecimal digits."""
        content = {name: value for name, value in self.values().items() if name not in LATER or value != LATER[name]}
        content["task_settings"] = {FORMER_SETTINGS.get(name, name): value for name, value in self.task_settings.items()}
        return content_key({"training_version": training_version(self), **content})

    def values(self) -> dict[str, Any]:
        """Return all fields by name."""
        return {name: getattr(self, name) for name in FIELDS}

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Run:
        """Return the run of a row of the results table.

        Fields that are newer than its schema are absent or null there.
        """
        known = {name: value for name, value in row.items() if value is not None and value == value}
        stated = {name: known[name] for name in FIELDS if name in known or name not in LATER}
        return cls(**{name: _read(value, FIELDS[name].kind) for name, value in stated.items()})

    @property
    def L(self) -> int:
        """Length of the sequences."""
        return int(self.task_settings["L"])  # type: ignore[arg-type]

    @property
    def base(self) -> str:
        """Base of the position code as the command line states it: ``auto`` or a number."""
        return stated_base(self.positions, self.position_base, self.L)

    def title(self) -> str:
        """Return a short name for progress lines."""
        degree = self.task_settings.get("degree")
        sizes = f"L={self.L}" + (f" degree={degree}" if degree is not None else "") + f" D={self.D} depth={self.depth}"
        return f"{self.task} {self.model} {sizes} seed={self.seed} instance={self.task_settings.get('instance', 0)}"

    def model_from(self, origin: str) -> str:
        """Return the name under which the command line finds the model, given its `Plugin.origin`: a file by its path."""
        return f"{origin}:{self.model.rpartition(':')[2]}" if origin.endswith(".py") else self.model

    def command(
        self,
        model_origin: str = "",
        task_origin: str = "",
        *,
        local: Mapping[str, Value] | None = None,
        seeds: str = "",
        instances: str | None = "",
    ) -> str:
        """Return the command line that repeats exactly this run, given the origins of its plugins (`Plugin.origin`).

        local: the settings of the task that say where its data are. seeds, instances: lists for several runs that differ in
        nothing else. instances=None: seed i runs on instance i.
        """
        model = quoted(self.model_from(model_origin))
        words = ["expbench", "run", "--task", quoted(self.task), "--models", model, "--seeds", seeds or str(self.seed)]
        words += ["--paired"] if instances is None else []
        for name in _IN_COMMAND:
            value = getattr(self, name)
            by_default = self.base == "auto" if name == "position_base" else name in LATER and value == LATER[name]
            if not by_default:
                words += [FIELDS[name].flag, ("off", "on")[value] if isinstance(value, bool) else str(value)]
        for name, value in {**self.task_settings, **(local or {})}.items():
            if name == "instance":
                words += [AXES[name].flag, instances or _text(value)] if instances is not None else []
            elif value is not None or _may_differ_from_none(task_origin):
                words += [AXES[name].flag, _text(value)] if name in AXES else ["-t", f"{name}={_text(value)}"]
        former = LATER_SETTINGS.get(self.model, {}) if model_origin in ("", "built-in") else {}
        for name, value in {**former, **self.model_settings}.items():
            if value is not None or _may_differ_from_none(model_origin):
                words += ["-m", f"{name}={_text(value)}"]
        for kind, origin in (("tasks", task_origin), ("models", model_origin)):
            if origin.startswith("folder "):
                words += [f"--{kind}-dir", origin.removeprefix("folder ")]
        return shlex.join(words)


class _Change(NamedTuple):
    """A change of the loop, network or optimizer, and the runs to which it gives other numbers."""

    version: int
    what: str
    concerns: Callable[[Run], bool]


_FIRST_VERSION = 2
# Append a change, with a higher version, when the same run would give other numbers: only the runs concerned get new keys.
_CHANGES = (
    _Change(
        3,
        "vectors and all marked parameters are exempt from weight decay, as they were in training on a text except in ssm",
        lambda run: run.weight_decay > 0 and (run.model == "ssm" or not run.task_settings.get("text")),
    ),
    _Change(
        3,
        "layers whose forward pass changes their state are trained one by one; built-in ones, without a +, have none",
        lambda run: "+" in run.model_version,
    ),
)


def training_version(run: Run) -> int:
    """Return the version of the training in the key of a run: that of the last change that concerns it."""
    return max([change.version for change in _CHANGES if change.concerns(run)], default=_FIRST_VERSION)


FIELDS, AXES = options(Run), options(TaskAxes)  # declarations above, by field name
# Fields added after the first tables, with their values for older rows. They enter the key only at other values.
LATER = {f.name: f.default for f in dataclasses.fields(Run) if f.default is not dataclasses.MISSING}
# Settings of built-in models that were added later, with their values for older rows where these are not the defaults.
LATER_SETTINGS: dict[str, dict[str, Value]] = {"s6-poly": {"start": "literal"}}
# Commands begin with these fields in this fixed order, since reports contain them; others follow in declaration order.
_FIRST = ("D", "depth", "norm", "positions", "lr", "dtype", "residual", "steps", "batch_size")
_IN_COMMAND = dict.fromkeys(
    [*_FIRST, *(name for name, field in FIELDS.items() if field.role in ("size", "protocol", "rate", "training"))]
)


def _read(value: Any, kind: Any) -> Any:
    """Convert a value of the results table to the type of its field."""
    if kind in (int, float, bool):
        return kind(value)
    return str(value) if kind is str or get_origin(kind) is Literal else json.loads(value)


def _text(value: Value) -> str:
    """Return a value as a member of a list of the command line."""
    return str(value).lower() if isinstance(value, bool | None) else quoted(str(value))


def _may_differ_from_none(origin: str) -> bool:
    """Return whether a setting of this plugin may be none where its default is not: those of built-in plugins never are."""
    return origin not in ("", "built-in")


def command_of(row: Mapping[str, Any], *, seeds: str = "", instances: str | None = "") -> str:
    """Return the command line that repeats the run of a row of the results table; seeds, instances: see `Run.command`."""
    model, task, local = (
        str(row[name]) if isinstance(row.get(name), str) else ""
        for name in ("model_origin", "task_origin", "local_settings")
    )
    return Run.from_row(row).command(model, task, local=json.loads(local or "{}"), seeds=seeds, instances=instances)


def content_key(content: dict[str, Any]) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of `content` as canonical JSON."""
    return hashlib.sha256(canonical(content).encode()).hexdigest()[:16]


def canonical(content: dict[str, Any]) -> str:
    """Serialise to JSON with sorted keys and no spaces, so that equal contents give equal texts."""
    return json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)

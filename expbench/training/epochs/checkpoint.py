"""Checkpoints: all that a training needs to go on as if it had never stopped, in files of safetensors.

A folder belongs to one training and holds its last two, ``step-000000100.safetensors``. Each is written aside and renamed,
and states of which training it is and a checksum of its numbers: one that is damaged is passed over, one of another training
is refused.
"""

from __future__ import annotations

import json
import sys
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expbench import files
from expbench.errors import BadInput, first_line

FOLDER = "checkpoints"  # below a results folder: one a run, by its key
_KEY = "expbench_language"  # in a file's metadata; the name dates from when only language models had checkpoints
_FORMAT = 2  # of what `State.about` holds; raised when it changes
_KEPT = 2


class CheckpointError(BadInput):
    """A checkpoint that cannot be used, which the user has to put right: no fault of the run itself."""


class State(NamedTuple):
    """step: how many were taken. tensors: whatever the training needs. about: the like that JSON can hold."""

    step: int
    tensors: dict[str, Tensor]
    about: dict[str, Any]


class _Damaged(Exception):
    """A file that is not whole."""


class Checkpoints:
    """Those of the training that `identity` tells from all others, in a folder that is made where it is not there.

    Raises `CheckpointError` where it cannot be.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder, self._identity = folder, json.loads(json.dumps({**identity, "format": _FORMAT}))
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise CheckpointError(f"{folder} cannot hold checkpoints ({first_line(error)})") from error
        files.sweep_away(folder)

    def newest(self, *, quiet: bool = False) -> State | None:
        """The last that is whole; None where there is none at all. quiet: do not say which was passed over.

        Raises `CheckpointError` where one is of another training or of something else, and where none is whole.
        """
        damaged: list[str] = []
        for path in reversed(self._paths()):
            try:
                state = self._read(path)
            except _Damaged as error:
                damaged.append(f"{path} is not a whole checkpoint ({error})")
                continue
            if damaged and not quiet:
                print(f"{'; '.join(damaged)}: continued from {path.name}", file=sys.stderr, flush=True)
            return state
        if damaged:
            raise CheckpointError(
                f"{'; '.join(damaged)}, and there is no earlier one; to train from the beginning, delete it"
            )
        return None

    def save(self, state: State) -> Path:
        """Write a checkpoint, and delete all but the last two; later ones, which `newest` must have passed over, as well."""
        from safetensors.torch import save_file

        target = self._folder / f"step-{state.step:09d}.safetensors"
        tensors = {name: x.detach().cpu().contiguous() for name, x in state.tensors.items()}
        content = {"identity": self._identity, "step": state.step, "about": state.about, "check": _check(tensors)}
        with files.replacing(target) as aside:
            save_file(tensors, aside, metadata={_KEY: json.dumps(content)})
        earlier = [path for path in self._paths() if path <= target]
        for path in set(self._paths()) - set(earlier[-_KEPT:]):
            path.unlink(missing_ok=True)
        return target

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("step-*.safetensors"))

    def _read(self, path: Path) -> State:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                written = (file.metadata() or {}).get(_KEY)
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no dict)
        except (SafetensorError, OSError) as error:
            raise _Damaged(first_line(error)) from error
        if written is None:
            raise CheckpointError(f"{path} is no checkpoint of a training; give another folder for checkpoints")
        content = json.loads(written)
        if content["check"] != _check(tensors):
            raise _Damaged("its numbers are not those that were written")
        there, here = content["identity"], self._identity
        other = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if other:
            told = ", ".join(f"{name}={there.get(name)} and not {here.get(name)}" for name in other)
            raise CheckpointError(f"{path} is of another training, with {told}; give another folder for checkpoints")
        return State(content["step"], tensors, content["about"])


def delete_checkpoints(results: Path, key: str) -> None:
    """Delete the checkpoints of a run that has ended; nothing where there are none."""
    folder = results / FOLDER / key
    for path in folder.glob("step-*.safetensors"):
        path.unlink(missing_ok=True)
    for empty in (folder, folder.parent):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def _check(tensors: Mapping[str, Tensor]) -> int:
    """A checksum of the names and numbers of tensors on the CPU."""
    check = 0
    for name, x in sorted(tensors.items()):
        content = x.contiguous().flatten().view(torch.uint8).numpy().data
        check = zlib.crc32(content, zlib.crc32(name.encode(), check))
    return check

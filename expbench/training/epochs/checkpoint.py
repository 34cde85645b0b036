"""Checkpoints: safetensors files from which a training resumes as if it had never stopped.

A folder belongs to one training and holds its last two checkpoints, ``step-000000100.safetensors``. Each file is written
under a temporary name and then renamed. It contains the identity of its training and one checksum of all its contents: a
damaged or edited file is skipped, a file of another training raises an error.
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from expbench import files
from expbench.errors import BadInput, first_line
from expbench.training.optimizer import as_real

FOLDER = "checkpoints"  # in a results folder, with one subfolder per run, named by its key
_KEY = "expbench_language"  # in a file's metadata; kept for old files, from when only language models had checkpoints
_CHECK = "sha256"  # likewise
_FORMAT = 3  # of `State.about`; increase it with every change of the format
_KEPT = 2


class CheckpointError(BadInput):
    """A checkpoint that cannot be used. The user must fix it; the run itself has not failed."""


class State(NamedTuple):
    """The state of a training. step: number of steps taken. tensors: its tensor state. about: its other state, as JSON."""

    step: int
    tensors: dict[str, Tensor]
    about: dict[str, Any]


class _Damaged(Exception):
    """A file is incomplete or corrupted."""


class Checkpoints:
    """The checkpoints of one training, given by its `identity`, in a folder.

    The folder is created if it does not exist. Raises `CheckpointError` if that fails.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self._folder, self._identity = folder, json.loads(json.dumps({**identity, "format": _FORMAT}))
        try:
            files.make_folder(folder)
        except OSError as error:
            raise CheckpointError(f"cannot write checkpoints to {folder} ({first_line(error)})") from error
        files.remove_stale(folder)

    def newest(self, *, quiet: bool = False) -> State | None:
        """Return the last intact checkpoint, or None if the folder has no checkpoint. quiet: do not print skipped files.

        Raises `CheckpointError` if a file belongs to another training, or if no file is an intact checkpoint.
        """
        damaged: list[str] = []
        for path in reversed(self._paths()):
            try:
                state = self._read(path)
            except _Damaged as error:
                damaged.append(f"{path} is damaged ({error})")
                continue
            if damaged and not quiet:
                print(f"{'; '.join(damaged)}: resuming from {path.name}", file=sys.stderr, flush=True)
            return state
        if damaged:
            raise CheckpointError(
                f"{'; '.join(damaged)}, and there is no earlier checkpoint; delete it to train from the beginning"
            )
        return None

    def save(self, state: State) -> Path:
        """Write a checkpoint and delete all but the last two, as well as later ones, which `newest` must have skipped."""
        from safetensors.torch import save_file

        target = self._folder / f"step-{state.step:09d}.safetensors"
        tensors = {name: as_real(x.detach().cpu()).contiguous() for name, x in state.tensors.items()}
        paired = [name for name, x in state.tensors.items() if x.is_complex()]
        content = {"identity": self._identity, "step": state.step, "about": state.about, "complex": paired}
        text = json.dumps(content)
        with files.replacing(target) as aside:
            save_file(tensors, aside, metadata={_KEY: text, _CHECK: _checksum(text, tensors)})
        earlier = [path for path in self._paths() if path <= target]
        for path in set(self._paths()) - set(earlier[-_KEPT:]):
            path.unlink(missing_ok=True)
        return target

    def _paths(self) -> list[Path]:
        return sorted(path for path in self._folder.glob("step-*.safetensors") if path.is_file())

    def _read(self, path: Path) -> State:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, ValueError) as error:  # ValueError: metadata that are not UTF-8
            raise _Damaged(first_line(error)) from error
        if _KEY not in metadata:
            raise _Damaged("it is not a checkpoint of a training")
        text = metadata[_KEY]
        if metadata.get(_CHECK) != _checksum(text, tensors):
            raise _Damaged("wrong checksum" if _CHECK in metadata else "no checksum, as in earlier versions of expbench")
        content = json.loads(text)
        tensors |= {name: torch.view_as_complex(tensors[name]) for name in content["complex"]}
        there, here = content["identity"], self._identity
        other = [name for name in {**there, **here} if there.get(name) != here.get(name)]
        if other:
            differences = ", ".join(f"{name}={there.get(name)} instead of {here.get(name)}" for name in other)
            raise CheckpointError(f"{path} belongs to another training, with {differences}; use another folder")
        return State(content["step"], tensors, content["about"])


def delete_checkpoints(results: Path, key: str) -> None:
    """Delete the checkpoints of a finished run, if any."""
    folder = results / FOLDER / key
    if folder.is_symlink() or folder.parent.is_symlink():
        return
    for path in folder.glob("step-*.safetensors"):
        path.unlink(missing_ok=True)
    for empty in (folder, folder.parent):
        if empty.is_dir() and not any(empty.iterdir()):
            empty.rmdir()


def _checksum(text: str, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of a text and of the names, dtypes, shapes and numbers of tensors on the CPU."""
    digest = hashlib.sha256(json.dumps(text).encode())
    for name, x in sorted(tensors.items()):
        digest.update(json.dumps([name, str(x.dtype), list(x.shape)]).encode())
        digest.update(x.contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()

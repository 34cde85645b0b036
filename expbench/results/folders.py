"""Folders: validation of the results folders that a user names."""

from __future__ import annotations

import uuid
from pathlib import Path

from expbench import files
from expbench.errors import BadInput, unknown


def named_folder(path: str, option: str = "--results", example: str = "results") -> Path:
    """Return the folder that `option` names, whether or not it exists; raise `BadInput` for an empty name."""
    if not path:
        raise BadInput(f"{option}: the folder name is empty; give a name, for example {option} {example}")
    return Path(path)


def open_folder(path: str, option: str = "--results", example: str = "results") -> Path:
    """Create the folder that `option` names if necessary and check that it is writable; raise `BadInput` otherwise."""
    folder = named_folder(path, option, example)
    probe = folder / f".{uuid.uuid4().hex[:8]}.tmp"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
        files.remove_stale(folder)
    except OSError as error:
        reason = error.strerror or error
        raise BadInput(
            f"{option}: {path!r} cannot be written ({reason}); name a writable folder, for example {option} {example}"
        ) from error
    return folder


def existing_folder(path: str, option: str = "--results") -> Path:
    """Return an existing results folder; raise `BadInput` with the nearest sibling's name if it does not exist."""
    folder = Path(path)
    if not folder.is_dir():
        parent = folder.parent
        beside = [str(p) for p in parent.iterdir() if p.is_dir()] if parent.is_dir() else []
        known = [name for name in beside if not Path(name).name.startswith((".", "_"))]
        raise BadInput(f"{unknown('results folder', path, known)}; name it by {option} FOLDER")
    return folder


def existing(path: str) -> Path:
    """Return an existing results folder or one results file; raise `BadInput` with the nearest name if it is neither."""
    found = Path(path)
    if path and (found.is_dir() or (found.is_file() and found.suffix == ".parquet")):
        return found
    if path and found.is_file():
        raise BadInput(f"{path} is not a .parquet file; name a results folder or one of its .parquet files")
    beside = list(found.parent.iterdir()) if found.parent.is_dir() else []
    known = [p for p in beside if p.is_dir() or p.suffix == ".parquet"]
    raise unknown("results folder or file", path, [str(p) for p in known if not p.name.startswith((".", "_"))])

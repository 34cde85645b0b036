"""The folder of a report: written aside and renamed into place, so that it holds the former report or the new one.

A results folder may come from elsewhere: no link in it is followed. Only files that a report wrote are deleted, by a list of
their digests in the folder; all others stay.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import stat
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from expbench.errors import BadInput

_STALE_SECONDS = 3600.0
_LIST = ".files.json"
_FIGURES = "figures"
# how the files of a report began before it had a list
_BEGINNINGS = {
    "report.md": b"# expbench report\n",
    "report.html": b'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
    "report.tex": b"% Written by: expbench report",
}
_DRAWN = b'<?xml version="1.0" encoding="utf-8" standalone="no"?>\n<!DOCTYPE svg'


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Yield an empty folder; at the end of the block its files replace those of the last report in `target`.

    Files that no report wrote are kept; one with the name of a new file is kept as ``NAME.kept``. Raise `BadInput` if
    `target` is a link or cannot be written.
    """
    try:
        _recover(target)
        if not (_is_folder(target) or not os.path.lexists(target)):
            what = "a link, which is not followed" if target.is_symlink() else "no folder"
            raise BadInput(f"{target} cannot be written (it is {what}); move it away or give another --results")
        aside = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.tmp")
        aside.mkdir(parents=True)
        try:
            yield aside
            digests = {name: _digest(aside / name) for name in _names(aside)}
            (aside / _LIST).write_text(json.dumps(digests, indent=1) + "\n", encoding="utf-8")
            _carry(target, aside, _written(target))
            _swap(aside, target)
        finally:
            shutil.rmtree(aside, ignore_errors=True)  # it follows no links
    except OSError as error:
        raise BadInput(
            f"{target} cannot be written ({error.strerror or error}); move it away or give another --results"
        ) from error


def _is_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()


def _names(folder: Path) -> list[str]:
    """Return the paths of everything in a folder but its folders, below it, without following links."""
    found = [
        (Path(parent) / name).relative_to(folder).as_posix()
        for parent, folders, files in os.walk(folder)
        for name in [*files, *(name for name in folders if (Path(parent) / name).is_symlink())]
    ]
    return sorted(found)


def _digest(path: Path) -> str | None:
    """Return the digest of a regular file; None for anything else."""
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        regular = stat.S_ISREG(os.fstat(file.fileno()).st_mode)
        return hashlib.file_digest(file, "sha256").hexdigest() if regular else None


def _written(folder: Path) -> set[str]:
    """Return the files in a folder that a report wrote and nobody has changed."""
    names = _names(folder)
    try:
        listed = json.loads((folder / _LIST).read_text(encoding="utf-8")) if _digest(folder / _LIST) else None
    except (OSError, ValueError):
        listed = None
    if isinstance(listed, Mapping):
        return {name for name in names if name == _LIST or (name in listed and _digest(folder / name) == listed[name])}
    return {name for name in names if _began_so(folder, name)}


def _began_so(folder: Path, name: str) -> bool:
    """Return whether a file looks like one of a report, where a former version of expbench left no list."""
    beginning = _DRAWN if re.fullmatch(rf"{_FIGURES}/[^/]+\.svg", name) else _BEGINNINGS.get(name)
    if beginning is None or _digest(folder / name) is None:
        return False
    with (folder / name).open("rb") as file:
        return file.read(len(beginning)) == beginning


def _carry(target: Path, aside: Path, written: set[str]) -> None:
    """Put what no report wrote from the present folder into the new one, as a second link or else as a copy."""
    for place, folders, _ in os.walk(target):
        for name in folders:
            own = Path(place, name).relative_to(target)
            if not Path(place, name).is_symlink() and own.as_posix() != _FIGURES and not os.path.lexists(aside / own):
                (aside / own).mkdir(parents=True)
    for name in sorted(set(_names(target)) - written):
        kept = aside / name
        parent = next((p for p in reversed(kept.relative_to(aside).parents) if (aside / p).is_file()), None)
        if parent is not None or os.path.lexists(kept):
            first = (parent or Path(name)).as_posix()
            kept = aside / (first + ".kept" + name.removeprefix(first))
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(target / name, kept, follow_symlinks=False)
        except (OSError, NotImplementedError):
            shutil.copy2(target / name, kept, follow_symlinks=False)


def _swap(aside: Path, target: Path) -> None:
    """Rename `aside` to `target`, and delete what was there. Between two renames the former report has a hidden name."""
    former = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}.old")
    try:
        with suppress(FileNotFoundError):
            target.rename(former)
        aside.rename(target)
    except BaseException:
        _recover(target)
        raise
    shutil.rmtree(former, ignore_errors=True)


def _recover(target: Path) -> None:
    """Finish what a killed process left: restore a former report between two renames, delete stale folders."""
    for former in sorted(target.parent.glob(f".{target.name}.{'[0-9a-f]' * 8}.old")):
        if not _is_folder(former):
            continue
        if os.path.lexists(target):
            shutil.rmtree(former, ignore_errors=True)
        else:
            former.rename(target)
    for aside in target.parent.glob(f".{target.name}.{'[0-9a-f]' * 8}.tmp"):
        if _is_folder(aside) and time.time() - aside.lstat().st_mtime > _STALE_SECONDS:
            shutil.rmtree(aside, ignore_errors=True)

"""Distributions: which installed package a module belongs to, and which ones every run rests on."""

from __future__ import annotations

import json
import re
import sys
from functools import cache, lru_cache
from importlib import metadata
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

# What all models use: their versions are columns and enter no key, as otherwise each update would repeat every run.
_EVERYWHERE = ("expbench", "torch", "numpy", "scipy", "pandas", "triton")
_EXTENDED = ("expbench", "expbench_tasks")  # folders of the user's extend them; what is ours has no distribution
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


class Package(NamedTuple):
    """An installed distribution. folder: where its modules lie. editable: it was installed from there to be edited."""

    name: str
    version: str
    folder: str
    editable: bool

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def everywhere(self) -> bool:
        """True for torch, numpy and expbench, and for what these require."""
        return _normal(self.name) in _required()


def package_of(module: str, path: Path) -> Package | None:
    """Return the distribution that provides a module (dotted name and file), or None for one that is not installed."""
    top = module.partition(".")[0]
    if top in _EXTENDED:
        return None
    for folder in (Path(each or ".") for each in sys.path):
        if folder.is_dir():
            for package in _packages(str(folder), folder.stat().st_mtime_ns).get(top, ()):
                if path.is_relative_to(package.folder):
                    return package
    return None


@cache
def _required() -> frozenset[str]:
    found: set[str] = set()
    ahead = list(_EVERYWHERE)
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead += _requirements(name)
    return frozenset(found)


def _requirements(name: str) -> list[str]:
    """Return the names of the distributions that one requires, without those of its extras."""
    try:
        stated = metadata.requires(name) or []
    except PackageNotFoundError:
        return []
    needed = (_NAME.match(each) for each in stated if "extra ==" not in each)
    return [_normal(match[0]) for match in needed if match]


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@lru_cache(maxsize=256)
def _packages(folder: str, changed: int) -> dict[str, list[Package]]:
    """Return the distributions in a folder by the top-level names that they provide; `changed` tells when to ask again."""
    found: dict[str, list[Package]] = {}
    for distribution in metadata.distributions(path=[folder]):
        edited = _editable_folder(distribution)
        package = Package(
            distribution.metadata["Name"], distribution.version, edited or str(distribution.locate_file("")), bool(edited)
        )
        for top in _tops(distribution, edited):
            found.setdefault(top, []).append(package)
    return found


def _tops(distribution: Distribution, edited: str | None) -> set[str]:
    """Return top-level names as stated, by the files, or by the folder of an editable distribution, which may list none."""
    stated = {*(distribution.read_text("top_level.txt") or "").split()}
    if stated:
        return stated
    files = [file for file in distribution.files or () if file.suffix in (".py", ".so", ".pyd")]
    listed = {file.parts[0].partition(".")[0] for file in files if ".." not in file.parts}
    places = [*Path(edited).glob("*"), *Path(edited).glob("src/*")] if edited else []
    return listed or {path.stem for path in places if path.suffix == ".py" or path.is_dir()}


def _editable_folder(distribution: Distribution) -> str | None:
    """Return the folder that an editable distribution was installed from; None for others."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return None
    editable = origin.get("dir_info", {}).get("editable")
    return unquote(str(origin.get("url", "")).removeprefix("file://")) or None if editable else None

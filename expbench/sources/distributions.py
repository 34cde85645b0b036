"""Distributions: which installed package a module belongs to, and which ones every run rests on."""

from __future__ import annotations

import json
import re
import sys
from functools import cache, lru_cache
from importlib import metadata
from importlib.metadata import Distribution, PackageNotFoundError
from pathlib import Path

# What all models use: their versions are columns and enter no key, as otherwise each update would repeat every run.
_EVERYWHERE = ("expbench", "torch", "numpy", "scipy", "pandas", "triton")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")


def distribution_of(module: str, path: Path) -> Distribution | None:
    """Return the distribution that provides a module (dotted name and file), or None for one that is not installed."""
    for name in _names(module.partition(".")[0]):
        distribution = metadata.distribution(name)
        if path.is_relative_to(str(distribution.locate_file(""))) or path.is_relative_to(editable_folder(distribution)):
            return distribution
    return None


def editable_folder(distribution: Distribution) -> str:
    """Return the folder that an editable distribution was installed from; a text that is no folder for others."""
    try:
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    except ValueError:
        return "-"
    if not origin.get("dir_info", {}).get("editable"):
        return "-"
    return str(origin.get("url", "-")).removeprefix("file://")


def title(distribution: Distribution) -> str:
    """Return name and version, such as ``mambapy 1.2.0``."""
    return f"{distribution.metadata['Name']} {distribution.version}"


def is_everywhere(distribution: Distribution) -> bool:
    """Return whether a distribution is torch, numpy or expbench, or one that these require."""
    return _normal(distribution.metadata["Name"]) in _required()


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


def _names(top: str) -> list[str]:
    """Return the names of the distributions on the import path that provide a top-level name."""
    folders = [Path(each or ".") for each in sys.path]
    found = [_provided(str(each), each.stat().st_mtime_ns).get(top, ()) for each in folders if each.is_dir()]
    return list(dict.fromkeys(name for names in found for name in names))


@lru_cache(maxsize=256)
def _provided(folder: str, changed: int) -> dict[str, list[str]]:
    """Return the distributions in a folder by the top-level names that they provide; `changed` tells when to ask again."""
    found: dict[str, list[str]] = {}
    for distribution in metadata.distributions(path=[folder]):
        for top in _tops(distribution):
            found.setdefault(top, []).append(distribution.metadata["Name"])
    return found


def _tops(distribution: Distribution) -> set[str]:
    """Return top-level names as stated, by the files, or by the folder of an editable distribution, which may list none."""
    stated = {*(distribution.read_text("top_level.txt") or "").split()}
    files = [file for file in distribution.files or () if file.suffix in (".py", ".so", ".pyd")]
    listed = {file.parts[0].partition(".")[0] for file in files if ".." not in file.parts}
    folder = Path(editable_folder(distribution))
    places = [path for path in (*folder.glob("*"), *folder.glob("src/*")) if path.suffix == ".py" or path.is_dir()]
    return stated or listed or {path.stem for path in places}

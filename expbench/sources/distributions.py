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
    for name in _providers(_stamp()).get(module.partition(".")[0], ()):
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


def _stamp() -> tuple[tuple[str, int], ...]:
    """Return the import path and the age of its folders, which change when something is installed."""
    return tuple((each, Path(each).stat().st_mtime_ns) for each in sys.path if each and Path(each).is_dir())


@lru_cache(maxsize=4)
def _providers(stamp: tuple[tuple[str, int], ...]) -> dict[str, list[str]]:
    return {top: sorted(set(names)) for top, names in metadata.packages_distributions().items()}

"""Closure: the modules that a module imports, directly or not, found in the source without running it.

The result depends on the files alone, not on what else is loaded. Left out are the modules of Python, of expbench, and of
the distributions that all models use (`distributions.Package.everywhere`). The modules of an installed package are followed
within this package; a distribution that a file of the user's imports is named with its version as well.
"""

from __future__ import annotations

import ast
from collections import deque
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.util import resolve_name
from pathlib import Path
from typing import NamedTuple

from expbench.sources.distributions import package_of
from expbench.sources.execution import is_ours, is_pythons, path_of, source


class Module(NamedTuple):
    """A module of a closure. distribution: name and version, None for a file of the user's own. own: it can be edited."""

    path: Path
    content: bytes
    distribution: str | None
    own: bool


def closure(roots: Mapping[str, Path], kept: str = "") -> dict[str, Module]:
    """Return the roots and the modules that they import, by dotted name; one root is kept even if it would be left out."""
    found: dict[str, Module] = {}
    left_out: set[str] = set()
    ahead = deque(roots.items())
    while ahead:
        name, path = ahead.popleft()
        if name in found or name in left_out:
            continue
        module = _module(name, path)
        if module is None and name == kept:
            found[name] = Module(path, source(name, path), None, own=False)  # and none of its imports
        elif module is None:
            left_out.add(name)
        else:
            found[name] = module
            imported = dict.fromkeys([*_parents(name), *_imports(name, module)])
            ahead += [(each, file) for each in imported if (file := path_of(each)) is not None]
    return found


def _module(name: str, path: Path) -> Module | None:
    """Return a module, or None if no key covers it."""
    if is_ours(path) or is_pythons(name, path):
        return None
    package = package_of(name, path)
    if package is not None and package.everywhere:
        return None
    try:
        content = source(name, path) if path.suffix == ".py" or package is None else b""
    except OSError:
        return None
    return Module(path, content, None if package is None else str(package), package is None or package.editable)


def _parents(name: str) -> list[str]:
    parts = name.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


def _imports(name: str, module: Module) -> list[str]:
    """Return the names that a module imports and that may be modules of the closure."""
    if module.path.suffix != ".py":
        return []
    package = name if module.path.stem == "__init__" else name.rpartition(".")[0]
    every = _imported(module.content, package)
    top = name.partition(".")[0]
    return [each for each in every if module.own or each.partition(".")[0] == top]


@lru_cache(maxsize=4096)
def _imported(content: bytes, package: str) -> tuple[str, ...]:
    """Return the dotted names that a source imports anywhere in it, each after the packages that contain it."""
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError):
        return ()
    found: dict[str, None] = {}
    for node in _nodes(tree):
        for name in _named(node, package):
            found |= dict.fromkeys([*_parents(name), name])
    return tuple(found)


def _nodes(tree: ast.AST) -> Iterator[ast.AST]:
    """Yield the nodes of a tree, without what only a type checker sees."""
    ahead = deque([tree])
    while ahead:
        node = ahead.popleft()
        yield node
        typing = isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        ahead += node.orelse if typing and isinstance(node, ast.If) else ast.iter_child_nodes(node)


def _named(node: ast.AST, package: str) -> list[str]:
    """Return the modules that a node names: an import, or a call such as ``import_module("name")``."""
    match node:
        case ast.Import(names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module, names, level):
            base = _resolved("." * (level or 0) + (module or ""), package)
            return [base, *(f"{base}.{alias.name}" for alias in names if alias.name != "*")] if base else []
        case ast.Call(ast.Name(called) | ast.Attribute(attr=called), [ast.Constant(str() as name), *_]):
            return [_resolved(name, package)] if called in ("import_module", "__import__") and name.strip(".") else []
    return []


def _resolved(name: str, package: str) -> str:
    """Return the absolute name of a relative import; empty for one beyond the top."""
    try:
        return resolve_name(name, package)
    except (ImportError, ValueError):
        return ""

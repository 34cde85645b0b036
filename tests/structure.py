"""Print how the source is built: folders, floors, import cycles, lengths, words. Run it as `python tests/structure.py`.

`tests/test_structure.py` asserts the caps. Every import counts, also one inside a function. Imports that only a type checker
sees (`if TYPE_CHECKING:`) are reported by themselves, for they cost nothing when the code runs.
"""

from __future__ import annotations

import ast
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import wording
from tests.test_imports import RULE, SHIMS, SOURCES

PACKAGE = Path(__file__).parent.parent / "expbench"
LONG = 40  # lines, above which a function is worth a hard look
Graph = Mapping[str, set[str]]


class Function(NamedTuple):
    """A function or method, by file and name, and how many lines it has."""

    lines: int
    place: str


def dotted(path: Path) -> str:
    """Return the name of a file's module below expbench: `ops.scan`; that of a package for its `__init__.py`."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def folders() -> dict[str, list[str]]:
    """Return the modules of each folder, without `__init__`."""
    found: dict[str, list[str]] = {}
    for path in SOURCES:
        found.setdefault(path.parent.relative_to(PACKAGE.parent).as_posix(), []).append(path.stem)
    return {folder: [name for name in names if name != "__init__"] for folder, names in found.items()}


def entries() -> list[str]:
    """Return what lies at the top of expbench/, without the shims."""
    left_out = {"__pycache__", *(f"{name}.py" for name in SHIMS)}
    return sorted(path.name for path in PACKAGE.iterdir() if path.name not in left_out)


def imports(path: Path, *, typing: bool) -> set[str]:
    """Return the modules of expbench that a file imports: those under TYPE_CHECKING, or all others."""
    tree = ast.parse(path.read_text())
    guards = [node for node in ast.walk(tree) if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)]
    guarded = {inner for guard in guards for node in guard.body for inner in ast.walk(node)}
    nodes = (node for node in ast.walk(tree) if (node in guarded) == typing)
    return {name for node in nodes for name in _imported(node)} - {dotted(path)}


def _imported(node: ast.AST) -> Iterator[str]:
    """Yield the modules that a statement imports; a package stands for what its `__init__.py` offers."""
    if isinstance(node, ast.Import):
        names = [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        names = [f"{node.module}.{alias.name}" for alias in node.names]
    else:
        return
    for name in names:
        first, _, below = name.partition(".")
        if first == "expbench" and below:
            yield below if below in _MODULES else below.rpartition(".")[0]


_MODULES = {dotted(path) for path in SOURCES}


def graph(*, typing: bool = False) -> dict[str, set[str]]:
    """Return which modules import which: as the code runs, or with what a type checker sees besides."""
    return {
        dotted(path): imports(path, typing=False) | (imports(path, typing=True) if typing else set()) for path in SOURCES
    }


def packages(modules: Graph) -> dict[str, set[str]]:
    """Return which entries at the top of expbench/ import which; the package itself and the shims are not among them."""
    found: dict[str, set[str]] = {}
    for module, imported in modules.items():
        own = module.partition(".")[0]
        if own and own not in SHIMS:
            found.setdefault(own, set()).update({name.partition(".")[0] for name in imported} - {own, ""})
    return found


def circles(edges: Graph) -> list[list[str]]:
    """Return the groups of nodes that reach one another."""
    reached = {node: _reached(edges, node) for node in edges}
    groups = {frozenset(other for other in reached[node] if node in reached.get(other, ())) for node in edges}
    return sorted(sorted(group) for group in groups if group)


def _reached(edges: Graph, start: str) -> set[str]:
    seen: set[str] = set()
    ahead = [start]
    while ahead:
        new = edges.get(ahead.pop(), set()) - seen
        seen |= new
        ahead += new
    return seen


def definitions(path: Path) -> list[str]:
    """Return what an `__init__.py` defines beyond its docstring, its imports, `__version__`, `__all__` and `__path__`."""
    return [name for node in ast.parse(path.read_text()).body for name in _defined(node)]


def _defined(node: ast.stmt) -> list[str]:
    if isinstance(node, ast.Import | ast.ImportFrom) or (
        isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)
    ):
        return []
    if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
        return [name for inner in node.body for name in _defined(inner)]
    if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        return [node.name]
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
    return [name for name in map(ast.unparse, targets) if name not in ("__version__", "__all__", "__path__")]


def same_group(edges: Graph) -> list[str]:
    """Return the imports between names of one group of the rule."""
    groups = [group.split() for group in RULE.split(" < ")]
    return [f"{a} imports {b}" for group in groups for a in group for b in group if a != b and b in edges.get(a, ())]


def functions() -> list[Function]:
    """Return every function and method, the longest first."""
    found = [
        Function(int(node.end_lineno or 0) - node.lineno + 1, f"{path.relative_to(PACKAGE.parent)}: {node.name}")
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    return sorted(found, key=lambda function: (-function.lines, function.place))


def report() -> Iterator[str]:
    """Yield the lines that the script prints."""
    yield "Modules a folder, without __init__:"
    yield from (f"  {len(names):2}  {folder}" for folder, names in sorted(folders().items()))
    yield f"Entries at the top of expbench/, without the shims: {len(entries())}"
    yield "Floors of the import rule, the lowest first:"
    yield from (f"  {floor:2}  {group}" for floor, group in enumerate(RULE.split(" < ")))
    run, typed = graph(), graph(typing=True)
    yield from _told("Circles of files", circles(run))
    yield from _told("Circles of packages", circles(packages(run)))
    yield from _told("Circles of files, with imports under TYPE_CHECKING", circles(typed))
    yield from _told("Circles of packages, with imports under TYPE_CHECKING", circles(packages(typed)))
    every = functions()
    yield "The ten longest functions, in lines:"
    yield from (f"  {function.lines:3}  {function.place}" for function in every[:10])
    above = sum(function.lines > LONG for function in every)
    lines = [len(path.read_text().splitlines()) for path in SOURCES if path.stem != "__init__"]
    yield f"Functions: {len(every)}, median {statistics.median(function.lines for function in every):g} lines"
    yield f"Functions above {LONG} lines: {above}, {above / len(every):.1%}"
    yield f"Files: {len(lines)} without __init__, median {statistics.median(lines):g} lines"
    yield f"Lines of expbench/: {sum(len(path.read_text().splitlines()) for path in SOURCES)}"
    yield from wording.report()


def _told(what: str, groups: Iterable[list[str]]) -> list[str]:
    groups = list(groups)
    return [f"{what}: {len(groups)}", *(f"  {' '.join(group)}" for group in groups)]


if __name__ == "__main__":
    print(*report(), sep="\n")

"""Execution of source files: a module keeps the bytes it was executed from, so that a key describes what ran.

A file may be edited while the process lives, and Python's bytecode cache tells two edits within one second not apart. Within
`recorded`, the user's own modules are compiled from their source, and `source` returns what a loaded module consists of.
"""

from __future__ import annotations

import importlib.util
import sys
import sysconfig
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

FILE = "expbench_file_"  # a module that was imported by its path has this and a hash as its name
_EXECUTED = "expbench_executed"  # attribute of a module's loader: a module that is loaded again gets another loader


class Loader(SourceFileLoader):
    """Execute a source file without its bytecode cache, and keep the source."""

    def get_code(self, fullname: str) -> CodeType:
        """Compile the source of a module."""
        source = self.get_data(self.path)
        setattr(self, _EXECUTED, source)
        code: CodeType = self.source_to_code(source, self.path)
        return code


class _Finder(MetaPathFinder):
    def find_spec(self, name: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        for finder in sys.meta_path:
            if finder is not self and hasattr(finder, "find_spec"):
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if type(spec.loader) is SourceFileLoader and not is_installed(Path(spec.loader.path)):
                        spec.loader = Loader(name, spec.loader.path)
                    return spec
        return None


@contextmanager
def recorded() -> Iterator[None]:
    """Keep the source of each of the user's modules that is imported within."""
    finder = _Finder()
    _folders()  # it imports on its first call, which must not come from within an import
    sys.meta_path.insert(0, finder)
    try:
        yield
    finally:
        with suppress(ValueError):
            sys.meta_path.remove(finder)


def is_installed(path: Path) -> bool:
    """Return whether a file belongs to Python, to expbench, or to a folder of installed packages."""
    return "site-packages" in path.parts or "dist-packages" in path.parts or any(map(path.is_relative_to, _folders()))


def is_ours(path: Path) -> bool:
    """Return whether a file belongs to expbench or to its built-in plugins, whose versions are raised by hand."""
    return any(map(path.is_relative_to, _ours()))


def is_pythons(name: str, path: Path) -> bool:
    """Return whether a module belongs to Python's standard library, and is no file of the user's with such a name."""
    return name.partition(".")[0] in sys.stdlib_module_names and path.is_relative_to(sysconfig.get_paths()["stdlib"])


@cache
def _folders() -> tuple[Path, ...]:
    paths = sysconfig.get_paths()
    return (*(Path(paths[name]) for name in ("stdlib", "platstdlib", "purelib", "platlib")), *_ours())


@cache
def _ours() -> tuple[Path, ...]:
    tasks = importlib.util.find_spec("expbench_tasks")
    return (Path(__file__).parent.parent, *([Path(tasks.origin).parent] if tasks and tasks.origin else []))


def spec_of(name: str) -> ModuleSpec | None:
    """Return the spec of a module, loaded or not, without importing anything; None if it cannot be found."""
    spec: ModuleSpec | None = getattr(sys.modules.get(name), "__spec__", None)
    if spec is not None:
        return spec
    parent = name.rpartition(".")[0]
    try:
        return PathFinder.find_spec(name, _locations(parent)) if parent else importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None


def _locations(package: str) -> list[str]:
    """Return the folders of a package; empty for a module."""
    known = getattr(sys.modules.get(package), "__path__", None)
    if known is not None:
        return list(known)
    spec = spec_of(package)
    return list(spec.submodule_search_locations or ()) if spec is not None else []


def path_of(name: str) -> Path | None:
    """Return the file of a module, or None: built into Python, a folder without `__init__.py`, or not found."""
    spec = spec_of(name)
    return Path(spec.origin) if spec is not None and spec.has_location and spec.origin else None


def source(name: str, path: Path) -> bytes:
    """Return the bytes that a loaded module was executed from, or the file of one that is not loaded."""
    loader = getattr(spec_of(name), "loader", None) if name in sys.modules else None
    executed: bytes | None = getattr(loader, _EXECUTED, None)
    if executed is not None:
        return executed
    content = path.read_bytes()
    with suppress(AttributeError, TypeError):  # from now on an edit is noticed
        setattr(loader, _EXECUTED, content)
    return content


def is_elsewhere(name: str, path: Path) -> bool:
    """Return whether the import path now leads to another file than the one from which a module was loaded."""
    parent = name.rpartition(".")[0]
    spec = PathFinder.find_spec(name, _locations(parent) if parent else None) if name in sys.modules else None
    found = Path(spec.origin) if spec is not None and spec.has_location and spec.origin else path
    return found.resolve() != path.resolve()


def loaded() -> dict[str, Path]:
    """Return the loaded modules of the user's own whose source is known, by name."""
    known = [name for name in list(sys.modules) if hasattr(getattr(spec_of(name), "loader", None), _EXECUTED)]
    paths = {name: path_of(name) for name in known}
    return {name: path for name, path in paths.items() if path is not None and not is_installed(path)}


def is_changed(name: str, path: Path) -> bool:
    """Return whether the file of a loaded module is no longer what the module was executed from."""
    if name not in sys.modules:
        return False
    try:
        content = path.read_bytes()
    except OSError:
        return True
    loader = getattr(spec_of(name), "loader", None)
    executed = getattr(loader, _EXECUTED, None)
    if executed is not None:
        return bool(executed != content)
    if type(loader) is not SourceFileLoader or is_installed(path):  # an installed file is read once, by a new process
        return False
    module = sys.modules[name]  # it was imported before it was recorded
    classes = [value for value in vars(module).values() if isinstance(value, type) and value.__module__ == name]
    return not _is_compiled_from(content, str(path), (module, *classes))


def is_current(cls: type) -> bool:
    """Return whether a class is what its loaded module defines now, and not older than the last import of it."""
    module = sys.modules.get(cls.__module__)
    path = path_of(cls.__module__)
    functions = [value for value in vars(cls).values() if isinstance(value, FunctionType)]
    if module is None or path is None:
        return False
    if any(each.__module__ == cls.__module__ and each.__globals__ is not vars(module) for each in functions):
        return False
    loader = getattr(spec_of(cls.__module__), "loader", None)
    if not isinstance(loader, SourceFileLoader):  # such as that of a test's module, which compiles it otherwise
        return True
    return _is_compiled_from(source(cls.__module__, path), str(path), (cls,))


def _is_compiled_from(content: bytes, path: str, owners: Sequence[ModuleType | type]) -> bool:
    """Return whether the functions of a module or of classes, as far as they are from this file, have this source."""
    try:
        expected = {(c.co_qualname, c.co_firstlineno): c for c in codes(compile(content, path, "exec", dont_inherit=True))}
    except (SyntaxError, ValueError):
        return False
    found = [
        function.__code__ for owner in owners for function in vars(owner).values() if isinstance(function, FunctionType)
    ]
    return all(expected.get((c.co_qualname, c.co_firstlineno)) == c for c in found if c.co_filename == path)


def codes(code: CodeType) -> Iterator[CodeType]:
    """Yield a code object and those within it."""
    yield code
    for inner in code.co_consts:
        if isinstance(inner, CodeType):
            yield from codes(inner)


def forget(names: Sequence[str]) -> None:
    """Remove modules from the loaded ones, so that the next import executes their files."""
    for name in names:
        module: Any = sys.modules.pop(name, None)
        parent, _, last = name.rpartition(".")
        if module is not None and vars(sys.modules.get(parent, module)).get(last) is module:
            delattr(sys.modules[parent], last)  # `from parent import last` would return the old one
    importlib.invalidate_caches()

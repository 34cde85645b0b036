"""Plugins: find tasks and models by name; none is imported before it is needed.

One name, three spellings: ``count-in-row`` on the command line, ``count_in_row.py`` the file, ``CountInRow`` the class
(capitals do not matter). Plugins are files on the ``__path__`` of their package, which folders in EXPBENCH_TASKS_PATH and
EXPBENCH_MODELS_PATH extend, or entry points of other distributions (``expbench.tasks``, ``expbench.models``). A model may
also be given directly, as ``path/file.py:Class`` or ``module:Class``.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import importlib.util
import os
import pkgutil
import sys
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Literal

from expbench.errors import BadInput, unknown
from expbench.global_state import preserved
from expbench.sources.execution import FILE, Loader, forget, loaded, path_of, recorded
from expbench.sources.version import Code, code_of, refresh

Kind = Literal["task", "model"]
_PACKAGES: dict[Kind, str] = {"task": "expbench_tasks", "model": "expbench.models"}
BUILT_IN = "built-in"


@dataclass(frozen=True)
class Plugin:
    """Location of a plugin. `origin` describes it to the user: built-in, a folder, a distribution or a file."""

    kind: Kind
    name: str
    module: str
    attribute: str | None
    origin: str
    path: Path | None = None

    def load(self) -> type:
        """Import the plugin and return its class; raise `BadInput` if the import fails or the class is missing."""
        what = f"{self.kind} {self.name!r} ({self.origin})"
        try:
            module = importlib.import_module(self.module) if self.origin == BUILT_IN else self._imported(what)
        except BadInput:
            raise
        except (Exception, SystemExit) as error:  # third-party code may raise anything
            raise BadInput(f"{what} does not import: {type(error).__name__}: {error}") from error
        return _class_in(module, self.attribute, self.name, what)

    def version(self, plugin: type) -> str:
        """Return the version for the key of a run: the `version` of the class, plus a hash of its code unless built in."""
        return self.code(plugin).version

    def code(self, plugin: type) -> Code:
        """Return the version of the loaded class, and the distributions that it consists of (`sources.version`)."""
        if self.origin == BUILT_IN:
            return Code(str(getattr(plugin, "version", 1)), None)
        module = file_module(self.path) if self.path else self.module
        path = self.path or path_of(module)
        return code_of(plugin, {} if path is None else {module: path})

    def _imported(self, what: str) -> ModuleType:
        """Import the module of a plugin as its files are now, leaving the state of the process as it was."""
        name = file_module(self.path) if self.path else self.module
        refresh(name, self.path)
        before = set(loaded())
        try:
            with preserved(what, functions=True), recorded():
                return _module_of_file(self.path, name) if self.path else importlib.import_module(name)
        except BadInput:  # it is refused; otherwise a second import would find it loaded
            forget([each for each in loaded() if each not in before])
            raise

    def summary(self) -> str:
        """Return the first line of the plugin's docstring without importing it; empty for an entry point."""
        spec = None if self.attribute else _file_of(self.module)
        if spec is None:
            return ""
        try:
            docstring = ast.get_docstring(ast.parse(spec.read_text(encoding="utf-8")))
        except (OSError, SyntaxError, ValueError):
            return "(does not parse)"
        return (docstring or "").partition("\n")[0]


def discover(kind: Kind) -> dict[str, Plugin]:
    """Return all plugins of a kind by name, without importing them; raise `BadInput` if two share a name."""
    found: dict[str, Plugin] = {}
    for plugin in [*_in_folders(kind), *_in_distributions(kind)]:
        if plugin.name in found:
            first = found[plugin.name]
            raise BadInput(f"two {kind}s are named {plugin.name!r}: {first.origin} and {plugin.origin}; rename one")
        found[plugin.name] = plugin
    return found


def find(kind: Kind, name: str) -> Plugin:
    """Return the plugin of that name, or the model ``file.py:Class`` or ``module:Class``; raise `BadInput` if unknown."""
    if kind == "model" and ":" in name:
        return _direct(name)
    if kind == "model" and name.endswith(".py"):
        raise BadInput(f"model {name!r}: name the class in that file, as {name}:Class")
    plugins = discover(kind)
    if name not in plugins:
        raise unknown(kind, name, plugins)
    return plugins[name]


def add_folder(kind: Kind, folder: str) -> None:
    """Register the files of `folder` as plugins, here and in child processes; raise `BadInput` if it is missing."""
    if not folder or not Path(folder).is_dir():
        raise BadInput(f"--{kind}s-dir: {folder!r} is not a folder")
    package = importlib.import_module(_PACKAGES[kind])
    variable = _variable(kind)
    resolved = _located(folder)
    if resolved not in map(str, map(Path.resolve, map(Path, package.__path__))):
        package.__path__.append(resolved)
        os.environ[variable] = os.pathsep.join(filter(None, [os.environ.get(variable), resolved]))


def _variable(kind: Kind) -> str:
    return f"EXPBENCH_{kind.upper()}S_PATH"


def _in_folders(kind: Kind) -> list[Plugin]:
    package = importlib.import_module(_PACKAGES[kind])
    built_in = str(Path(str(package.__file__)).parent)
    plugins = []
    for folder in package.__path__:
        if not Path(folder).is_dir():
            raise BadInput(f"{_variable(kind)}: {folder!r} is not a folder")
        origin = BUILT_IN if Path(folder) == Path(built_in) else f"folder {folder}"
        for _, stem, _ in pkgutil.iter_modules([folder]):
            if not stem.startswith("_"):
                plugins.append(Plugin(kind, stem.replace("_", "-"), f"{package.__name__}.{stem}", None, origin))
    return plugins


def _in_distributions(kind: Kind) -> list[Plugin]:
    plugins = {}
    for entry in entry_points(group=f"expbench.{kind}s"):
        dist = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an entry point"
        # a distribution may be on the path twice
        plugins[entry.name, entry.value, dist] = Plugin(kind, entry.name, entry.module, entry.attr or None, dist)
    return list(plugins.values())


def _located(path: str) -> str:
    """Return an absolute path; raise `BadInput` if it is not UTF-8, as rows hold it."""
    resolved = str(Path(path).resolve())
    if resolved.encode(errors="replace").decode() != resolved:
        raise BadInput(f"{resolved!r} is not UTF-8; rename the folder")
    return resolved


def _direct(name: str) -> Plugin:
    """Return a model given as ``path/file.py:Class`` or ``module:Class``; raise `BadInput` for a malformed name."""
    target, _, attribute = name.rpartition(":")
    if not target or not attribute:
        raise BadInput(f"model {name!r}: write path/file.py:Class or module:Class")
    if target.endswith(".py"):
        path = Path(_located(target))
        if not path.is_file():
            raise BadInput(f"model {name!r}: there is no file {target!r}")
        return Plugin("model", f"{path.name}:{attribute}", path.stem, attribute, str(path), path)
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))  # as in `python -m`; a console script omits the working folder
    return Plugin("model", name, target, attribute, f"module {target}")


def code_version(cls: type) -> str:
    """Return the version of a class for the keys of its runs, however it was defined: in a file, a package, or a notebook.

    Raise `BadInput` for a class whose source cannot be found, or was edited since the class was imported.
    """
    return code_of(cls).version


def file_module(path: Path) -> str:
    """Return the name of the module of a file that is imported by its path."""
    return f"{FILE}{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"


def _module_of_file(path: Path, name: str) -> ModuleType:
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path, loader=Loader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _file_of(module: str) -> Path | None:
    spec = importlib.util.find_spec(module)
    return Path(spec.origin) if spec is not None and spec.origin else None


def _class_in(module: ModuleType, attribute: str | None, name: str, what: str) -> type:
    classes = {key: value for key, value in vars(module).items() if isinstance(value, type)}
    if attribute is None:
        wanted = name.replace("-", "").lower()
        matching = [value for key, value in classes.items() if key.lower() == wanted]
        if not matching:
            camel = "".join(part.capitalize() for part in name.split("-"))
            raise BadInput(f"{what} breaks its contract: {module.__file__} defines no class {camel}")
        return matching[0]
    plugin = getattr(module, attribute, None)
    if plugin is None:
        raise unknown(f"class in {name.rpartition(':')[0] or module.__name__}:", attribute, classes)
    if not isinstance(plugin, type):
        raise BadInput(f"{what} breaks its contract: {attribute} is not a class")
    return plugin

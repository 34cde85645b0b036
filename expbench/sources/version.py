"""The version of a class for the keys of its runs: a hash of the code that it consists of."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from expbench.errors import BadInput
from expbench.sources.closure import Module, closure
from expbench.sources.definition import Definition, define
from expbench.sources.execution import FILE, forget, is_changed, is_current, is_elsewhere, is_ours, loaded, path_of

_DIGITS = 12  # of a hash in a key


class Code(NamedTuple):
    """The code of a class. version: for the key. distributions: names and versions of installed packages, None without."""

    version: str
    distributions: str | None


def code_of(cls: type, named: Mapping[str, Path] | None = None) -> Code:
    """Return the code of a class: the hand-raised `version` of the class, and a hash of all that it consists of.

    A class of a file consists of this file, the modules that it imports (`closure`), and the versions of the distributions
    among them. A class of a notebook or a script consists of its own source and of what this names (`definition`). If it is
    a single file, the hash is that of the file. named: modules by which the class was named, beside the one that defines it.
    Raise `BadInput` for a class whose source cannot be found, or is not the one that was run.
    """
    version = str(getattr(cls, "version", 1))
    own = path_of(cls.__module__) if cls.__module__ != "__main__" else None
    if own is not None and is_ours(own) and not named:
        return Code(version, None)
    defined = None if own is not None and (named or "<locals>" not in cls.__qualname__) else define(cls)
    roots = {**({cls.__module__: own} if own is not None else {}), **(named or {}), **(defined.modules if defined else {})}
    try:
        modules = closure(roots, kept=cls.__module__)
    except OSError as error:
        raise BadInput(f"class {cls.__qualname__}: its source cannot be read ({error})") from error
    if not named:
        _refuse_changed(cls, modules)
    distributions = sorted({module.distribution for module in modules.values() if module.distribution})
    digest = _digest(cls, modules, distributions, defined)
    return Code(f"{version}+{digest}", ", ".join(distributions) or None)


def _refuse_changed(cls: type, modules: Mapping[str, Module]) -> None:
    """Raise `BadInput` if a class object is older than its module, or the module than its file, as the key would lie."""
    own = cls.__module__
    if own in modules and not is_current(cls):
        raise BadInput(f"class {cls.__qualname__}: {modules[own].path} was imported again since; take its present class")
    for name, module in modules.items():
        if module.own and is_changed(name, module.path):
            raise BadInput(f"class {cls.__qualname__}: {module.path} has changed since it was imported; import it again")


def _digest(cls: type, modules: Mapping[str, Module], distributions: list[str], defined: Definition | None) -> str:
    def label(name: str) -> str:
        """Return a name that does not depend on the place of the file."""
        if name == cls.__module__:
            return ""
        return modules[name].path.name if name.startswith(FILE) else name

    if len(modules) == 1 and not distributions and defined is None:
        (module,) = modules.values()
        return hashlib.sha256(module.content).hexdigest()[:_DIGITS]
    hashes = {label(name): hashlib.sha256(module.content).hexdigest() for name, module in modules.items()}
    content: dict[str, Any] = {"modules": hashes, "distributions": distributions}
    if defined is not None:
        content["definition"] = defined.texts
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:_DIGITS]


def refresh(name: str, path: Path | None) -> None:
    """Forget what is loaded of a module and its imports if a file among them has changed, and all modules that import it.

    Raise `BadInput` if an installed package has changed: only a new process can import it again.
    """
    file = path or path_of(name)
    if file is None:
        return
    modules = closure({name: file})
    changed = {each for each, m in modules.items() if is_changed(each, m.path) or (m.own and is_elsewhere(each, m.path))}
    installed = [module.distribution for each, module in modules.items() if each in changed and not module.own]
    if installed:
        raise BadInput(f"{installed[0]} has changed since it was imported; start a new process")
    if changed:
        forget([*changed, *(each for each, place in loaded().items() if changed & set(closure({each: place})))])

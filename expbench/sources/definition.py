"""Definition of a class of a notebook, a script or an interactive session: its own source, and that of what it names.

A whole notebook or script would be too much: it also has the call that runs the class, and its other cells. Followed are the
functions and classes of the same place, values such as numbers and texts, and the modules that the code names.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from expbench.errors import BadInput
from expbench.sources.execution import codes, path_of

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
# Attributes of a class that follow from others or that Python sets.
_DERIVED = {"__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__firstlineno__", "__static_attributes__"}
_GENERATED = {"__dataclass_params__", "__dataclass_fields__", "__match_args__", "__abstractmethods__", "_abc_impl"}


class Definition(NamedTuple):
    """Source texts and values, by name; and the modules that they name, by dotted name."""

    texts: dict[str, str]
    modules: dict[str, Path]


def define(cls: type) -> Definition:
    """Return the definition of a class; raise `BadInput` if the source of a function in it cannot be found."""
    reader = _Reader(cls)
    reader.read(cls.__qualname__, cls)
    return Definition(reader.texts, reader.modules)


class _Reader:
    """Collects a definition; each function and class is read once."""

    def __init__(self, cls: type) -> None:
        self.texts: dict[str, str] = {}
        self.modules: dict[str, Path] = {}
        self._cls = cls
        self._seen: set[int] = set()

    def read(self, name: str, value: Any) -> None:
        """Add a value, by the name under which the code knows it."""
        if isinstance(value, type | FunctionType | ModuleType):
            module = value.__name__ if isinstance(value, ModuleType) else str(value.__module__)
            if module != self._cls.__module__:
                self._name_module(module)
                self.texts[name] = f"{module}.{getattr(value, '__qualname__', '')}"
            elif id(value) not in self._seen:
                self._seen.add(id(value))
                if isinstance(value, type):
                    self._read_class(name, value)
                else:
                    self._read_function(name, value)
        elif isinstance(value, property):
            for kind in ("fget", "fset", "fdel"):
                self._read_if(f"{name}.{kind}", getattr(value, kind))
        elif isinstance(value, staticmethod | classmethod):
            self.read(name, value.__func__)
        elif isinstance(value, functools.cached_property):
            self.read(name, value.func)
        elif isinstance(value, functools.partial):
            for part, held in (("func", value.func), ("args", value.args), ("keywords", value.keywords)):
                self.read(f"{name}.{part}", held)
        else:
            self.texts[name] = _text(value)

    def _read_if(self, name: str, value: Any) -> None:
        if value is not None:
            self.read(name, value)

    def _name_module(self, module: str) -> None:
        path = path_of(module)
        if path is not None:
            self.modules[module] = path

    def _read_class(self, name: str, cls: type) -> None:
        generated = _GENERATED if "__dataclass_fields__" in vars(cls) else {"__abstractmethods__", "_abc_impl"}
        for i, base in enumerate(cls.__bases__):
            self.read(f"{name}({i})", base)
        for attribute, value in vars(cls).items():
            made = isinstance(value, FunctionType) and value.__code__.co_filename == "<string>" and generated is _GENERATED
            if attribute not in _DERIVED | generated and not made:
                self.read(f"{name}.{attribute}", value)

    def _read_function(self, name: str, function: Any) -> None:
        wrapped = inspect.unwrap(function)
        if wrapped is not function:  # a decorator of the same place
            self.read(f"{name}.__wrapped__", wrapped)
        self.texts[name] = self._source(function)
        defaults = {**dict(enumerate(function.__defaults__ or ())), **(function.__kwdefaults__ or {})}
        for key, value in defaults.items():
            self.read(f"{name}({key})", value)
        for key, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if key != "__class__":
                self._read_cell(f"{name}[{key}]", cell)
        for key in dict.fromkeys(_globals(function.__code__)):
            if key in function.__globals__:
                self.read(key, function.__globals__[key])
        for module in _imports(function.__code__):
            self._name_module(module)

    def _read_cell(self, name: str, cell: Any) -> None:
        try:
            self.read(name, cell.cell_contents)
        except ValueError:  # it is still empty
            self.texts[name] = ""

    def _source(self, function: FunctionType) -> str:
        """Return the source text of a function; raise `BadInput` if there is none, or if its file was edited since."""
        code = function.__code__
        try:
            lines, start = inspect.findsource(code)
            text = textwrap.dedent("".join(inspect.getblock(lines[start:])))
        except (OSError, TypeError, IndexError, SyntaxError) as error:
            raise BadInput(
                f"class {self._cls.__qualname__}: the source of {function.__qualname__} cannot be found, so the key of a run"
                " would not tell it from another; define it in a file or in a cell of a notebook"
            ) from error
        if Path(code.co_filename).is_file() and code not in _compiled("".join(lines), code.co_filename):
            raise BadInput(
                f"class {self._cls.__qualname__}: {code.co_filename} has changed since {function.__qualname__} was defined;"
                " run it again"
            )
        return text


@functools.lru_cache(maxsize=64)
def _compiled(text: str, path: str) -> frozenset[CodeType]:
    try:
        return frozenset(codes(compile(text, path, "exec", dont_inherit=True)))
    except (SyntaxError, ValueError):
        return frozenset()


def _globals(code: CodeType) -> Iterator[str]:
    """Yield the global names that a function and those within it read."""
    for inner in codes(code):
        for instruction in dis.get_instructions(inner):
            if instruction.opname in ("LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"):
                yield str(instruction.argval)


def _imports(code: CodeType) -> Iterator[str]:
    for inner in codes(code):
        for instruction in dis.get_instructions(inner):
            if instruction.opname == "IMPORT_NAME":
                yield str(instruction.argval)


def _text(value: Any) -> str:
    """Return a value as a text that is the same in every process; tensors and arrays by a hash of their numbers."""
    if isinstance(value, dict):
        return f"{{{', '.join(sorted(f'{_text(key)}: {_text(each)}' for key, each in value.items()))}}}"
    if isinstance(value, set | frozenset):
        return f"{{{', '.join(sorted(map(_text, value)))}}}"
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_text, value))})"
    if hasattr(value, "detach") and hasattr(value, "numpy"):
        value = value.detach().cpu().double().numpy()
    if hasattr(value, "tobytes") and hasattr(value, "shape"):
        return f"{value.dtype}{value.shape} {hashlib.sha256(value.tobytes()).hexdigest()}"
    try:
        return _ADDRESS.sub("", repr(value))
    except Exception:  # a class of the user's own may raise anything
        return type(value).__qualname__

"""The state of a module that its forward pass changes, such as a counter or running statistics.

`torch.func.functional_call` drops what a forward pass assigns, and a CUDA graph runs no Python code. Networks with such a
state are therefore trained one by one and eagerly.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from typing import Any

from torch import Tensor, nn

_TORCHS = frozenset(vars(nn.Module()))
_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def snapshot(module: nn.Module) -> dict[str, Any]:
    """Return a copy of the parameters, buffers and attributes of a module and of its parts, by name."""
    found: dict[str, Any] = {}
    for prefix, part in module.named_modules():
        own = {name: value for name, value in vars(part).items() if name not in _TORCHS}
        for name, value in {**own, **vars(part)["_parameters"], **vars(part)["_buffers"]}.items():
            found[f"{prefix}.{name}".lstrip(".")] = _copied(value)
    return found


def changes(before: Mapping[str, Any], module: nn.Module) -> list[str]:
    """Return the names of the state that differs from an earlier `snapshot`, or that one of the two lacks."""
    now = snapshot(module)
    return [
        name for name in {**before, **now} if name not in before or name not in now or not _equal(before[name], now[name])
    ]


def reason(names: Iterable[str]) -> str | None:
    """Return the reason why a network with such changes is trained one by one or eagerly; None without a change."""
    last = dict.fromkeys(name.rpartition(".")[2] for name in names)
    return f"forward changes its state ({', '.join(last)})" if last else None


def _copied(value: Any) -> Any:
    """Return a copy of a value, in which objects that are no containers are replaced by their pickle or their identity."""
    if isinstance(value, _PLAIN):
        return value
    if isinstance(value, Tensor):
        return value.detach().clone()
    if isinstance(value, Mapping):
        return {key: _copied(each) for key, each in value.items()} if all(map(_plain, value)) else _other(value)
    if isinstance(value, (list, tuple)):
        return [_copied(each) for each in value]
    return _other(value)


def _plain(key: object) -> bool:
    return isinstance(key, _PLAIN) or (isinstance(key, tuple) and all(map(_plain, key)))


def _other(value: Any) -> Any:
    try:
        return pickle.dumps(value)
    except Exception:  # objects of third parties raise many different exceptions, such as for locks and lambdas
        return id(value)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        same = isinstance(b, Tensor) and (a.shape, a.dtype, a.device) == (b.shape, b.dtype, b.device)
        return same and bool(((a == b) | ((a != a) & (b != b))).all())
    if isinstance(a, dict):
        return isinstance(b, dict) and list(a) == list(b) and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list):
        return isinstance(b, list) and len(a) == len(b) and all(map(_equal, a, b))
    return type(a) is type(b) and (a == b or (a != a and b != b))

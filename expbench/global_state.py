"""Global state of the process: third-party code may change it when it is imported, built or run, and it is then restored.

Models of one sweep share a process. A default dtype that one of them sets would give the others different numbers under an
unchanged key. State that cannot be restored, and replaced functions of torch, are errors of the plugin.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache, partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from expbench.errors import BadInput

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_PRECISIONS = (
    *("", "cuda.matmul", "cudnn", "cudnn.conv", "cudnn.rnn"),
    *("mkldnn", "mkldnn.matmul", "mkldnn.conv", "mkldnn.rnn"),
)
_FLAGS = (
    *("cudnn.enabled", "cudnn.benchmark", "cudnn.deterministic", "cudnn.benchmark_limit"),
    *("cuda.matmul.allow_fp16_reduced_precision_reduction", "cuda.matmul.allow_bf16_reduced_precision_reduction"),
    *("cuda.matmul.allow_fp16_accumulation", "mkldnn.enabled", "mkldnn.deterministic"),
    *("opt_einsum.enabled", "opt_einsum.strategy"),
)
_ATTENTIONS = ("flash", "math", "mem_efficient", "cudnn")
_HOOKS = ("forward_hooks", "forward_pre_hooks", "backward_hooks", "backward_pre_hooks", "parameter_registration_hooks")


class _Setting(NamedTuple):
    """A global setting, and how it is read and written."""

    name: str
    get: Callable[[], Any]
    set: Callable[[Any], Any]

    def value(self) -> Any:
        """Return the value; torch cannot read some after two of its interfaces were mixed."""
        try:
            return self.get()
        except RuntimeError as error:
            return str(error)


@contextmanager
def preserved(who: str, *, functions: bool = False) -> Iterator[None]:
    """Run third-party code, and restore the global state of Python, numpy and torch afterwards.

    It covers settings such as the default dtype, random generators, the environment, the working folder, import paths,
    warning filters and signal handlers. functions: also compare the functions of torch. Raise `BadInput`, which begins with
    `who`, if the code has changed what cannot be restored, or has replaced functions of torch.
    """
    settings = _settings()
    before = [setting.value() for setting in settings]
    generators = _generators()
    known = [(place, dict(vars(place))) for place in _places()] if functions else []
    failed = True
    try:
        with warnings.catch_warnings():
            yield
        failed = False
    finally:
        for _ in range(2):  # some settings of torch write others
            for setting, value in zip(settings, before, strict=True):
                if setting.value() != value:
                    with suppress(Exception):
                        setting.set(value)
        for restore, state in generators:
            restore(state)
        replaced = [name for place, was in known for name in _replaced(place, was)]
    left = [setting.name for setting, value in zip(settings, before, strict=True) if setting.value() != value]
    if left and not failed:
        raise BadInput(f"{who} changes {', '.join(left)} for every other model, and this cannot be undone")
    if replaced and not failed:
        names = ", ".join(replaced[:3]) + (f" and {len(replaced) - 3} more" if len(replaced) > 3 else "")
        raise BadInput(f"{who} replaces {names}, which every other model uses; call the new function in the plugin instead")


@contextmanager
def seeded(seed: int, who: str, *, functions: bool = False) -> Iterator[None]:
    """Run third-party code as `preserved` does, with the generators of torch, numpy and `random` seeded."""
    with preserved(who, functions=functions):
        seed_generators(seed)
        yield


def seed_generators(seed: int) -> None:
    """Seed the global random generators of torch, numpy and `random`."""
    import numpy as np
    import torch

    random.seed(seed)
    np.random.seed(seed)
    if torch.accelerator.is_available():
        torch.manual_seed(seed)
    else:  # torch.manual_seed keeps a note of each call for devices that it does not find: 3 ms each
        torch.default_generator.manual_seed(seed)


def _generators() -> list[tuple[Callable[[Any], Any], Any]]:
    """Return the states of the global random generators, each with the function that restores it."""
    import numpy as np
    import torch

    states: list[tuple[Callable[[Any], Any], Any]] = [
        (random.setstate, random.getstate()),
        (np.random.set_state, np.random.get_state()),
        (torch.set_rng_state, torch.get_rng_state()),
    ]
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states.append((torch.cuda.set_rng_state, torch.cuda.get_rng_state()))
    return states


def _settings() -> list[_Setting]:
    handled = threading.current_thread() is threading.main_thread()
    return [*_of_python(), *(map(_handler, _SIGNALS) if handled else ()), *_of_torch()]


def _of_python() -> list[_Setting]:
    import numpy as np

    return [
        _Setting("the working folder", _folder, os.chdir),
        _Setting("the environment", lambda: dict(os.environ), _set_environment),
        _Setting("sys.path", lambda: list(sys.path), lambda value: sys.path.__setitem__(slice(None), value)),
        _Setting("numpy's error handling", np.geterr, lambda value: np.seterr(**value)),
        # arithmetic of this thread, also that of torch, rounds denormal numbers to 0
        _Setting("denormal numbers", lambda: sys.float_info.min / 2 > 0, _set_denormal),
    ]


def _folder() -> str:
    try:
        return os.getcwd()  # noqa: PTH109 - as os.chdir takes it
    except OSError:  # it was deleted
        return ""


def _set_environment(value: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(value):
        del os.environ[name]
    os.environ.update(value)


def _set_denormal(kept: bool) -> None:
    import torch

    torch.set_flush_denormal(not kept)


def _handler(number: signal.Signals) -> _Setting:
    return _Setting(
        f"the handler of {number.name}",
        lambda: signal.getsignal(number),
        lambda value: signal.signal(number, value),
    )


@cache
def _of_torch() -> list[_Setting]:
    import torch
    from torch.nn.modules import module
    from torch.utils import deterministic

    def flag(place: Any, name: str, what: str) -> _Setting:
        return _Setting(what, lambda: getattr(place, name), lambda value: setattr(place, name, value))

    def backend(path: str, name: str) -> _Setting | None:
        place: Any = torch.backends
        for part in filter(None, path.split(".")):
            place = getattr(place, part, None)
        return flag(place, name, ".".join(filter(None, ["torch.backends", path, name]))) if hasattr(place, name) else None

    def hooks(kind: str) -> _Setting | None:
        held = getattr(module, f"_global_{kind}", None)
        if held is None:
            return None
        return _Setting(f"torch's global {kind}", lambda: dict(held), lambda value: (held.clear(), held.update(value)))

    cuda: Any = torch.backends.cuda
    found = [
        _Setting("torch's default dtype", torch.get_default_dtype, torch.set_default_dtype),
        _Setting("torch's default device", lambda: str(torch.get_default_device()), _set_device),
        _Setting("torch's gradient mode", torch.is_grad_enabled, torch.set_grad_enabled),
        _Setting("torch's inference mode", torch.is_inference_mode_enabled, _unrestorable),
        _Setting(
            "torch's deterministic algorithms",
            lambda: (
                torch.are_deterministic_algorithms_enabled(),
                torch.is_deterministic_algorithms_warn_only_enabled(),
            ),
            lambda value: torch.use_deterministic_algorithms(value[0], warn_only=value[1]),
        ),
        flag(deterministic, "fill_uninitialized_memory", "torch's uninitialised memory"),
        _Setting("torch's number of threads", torch.get_num_threads, torch.set_num_threads),
        _Setting("torch's number of interop threads", torch.get_num_interop_threads, torch.set_num_interop_threads),
        _Setting(
            "torch's anomaly detection",
            lambda: (torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled()),
            lambda value: torch.autograd.set_detect_anomaly(*value),
        ),
        *(
            _Setting(
                f"torch's autocast on {device}",
                partial(_autocast, device),
                partial(_set_autocast, device),
            )
            for device in ("cpu", "cuda")
        ),
        _Setting("torch's autocast cache", torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
        # writes precisions of the backends, which are restored after it
        _Setting("torch's matmul precision", torch.get_float32_matmul_precision, torch.set_float32_matmul_precision),
        *(backend(path, "fp32_precision") for path in _PRECISIONS),
        *(backend(*path.rpartition(".")[::2]) for path in _FLAGS),
        *(
            _Setting(f"torch's {kind} attention", getattr(cuda, f"{kind}_sdp_enabled"), getattr(cuda, f"enable_{kind}_sdp"))
            for kind in _ATTENTIONS
        ),
        *map(hooks, _HOOKS),
    ]
    return [setting for setting in found if setting is not None]


def _autocast(device: str) -> tuple[bool, Any]:
    import torch

    return torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)


def _set_autocast(device: str, value: tuple[bool, Any]) -> None:
    import torch

    torch.set_autocast_enabled(device, value[0])
    torch.set_autocast_dtype(device, value[1])


def _set_device(value: str) -> None:
    import torch

    torch.set_default_device(None if value == "cpu" else value)


def _unrestorable(value: object) -> None:
    raise ValueError(value)


@cache
def _places() -> list[ModuleType | type]:
    """Return the modules and classes of torch whose functions are compared."""
    import torch
    from torch import nn

    modules = [torch, nn.functional, nn.init, torch.fft, torch.linalg, torch.special, torch.autograd]
    return [*modules, torch.Tensor, nn.Parameter, *(each for each in vars(nn).values() if isinstance(each, type))]


def _replaced(place: ModuleType | type, before: Mapping[str, Any]) -> list[str]:
    """Restore the functions and classes of a module or class, and return the names of those that were replaced."""
    name = place.__name__ if isinstance(place, ModuleType) else f"{place.__module__}.{place.__qualname__}"
    now = dict(vars(place))
    replaced = [
        key
        for key, value in before.items()
        if callable(value) and now.get(key) is not value and not _is_torchs_own(now.get(key), key)
    ]
    bases = place.__mro__[1:] if isinstance(place, type) else ()
    hidden = [key for key in now if key not in before and any(callable(vars(base).get(key)) for base in bases)]
    for key in replaced:
        setattr(place, key, before[key])
    for key in hidden:
        delattr(place, key)
    return [f"{name}.{key}" for key in (*replaced, *hidden)]


def _is_torchs_own(function: Any, name: str) -> bool:
    """Return whether torch has replaced a function itself, as it does when its compiler is imported."""
    import torch

    folder = Path(torch.__file__).parent
    code = getattr(function, "__code__", None)
    return code is not None and function.__name__ == name and Path(code.co_filename).is_relative_to(folder)

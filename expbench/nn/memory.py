"""Memory: an estimate of what one optimizer step needs, without building anything large.

Parameters are counted on the meta device, which allocates nothing; with their gradients and two moments they are four times
as large. Activations are what autograd keeps for the backward pass. They are counted in passes over one sequence, which is
short if the network is large, and extrapolated by the power of the length at which they grow. Buffers within an operation
are not counted, so that a step may need several times as much.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

_COPIES = 4  # of each parameter: itself, its gradient and the two moments of AdamW
_FLOAT = 4  # bytes
_DEPTHS = (1, 2)
BUILT = 1 << 22  # numbers in a layer up to which it is built as it is; the first use of the meta device takes seconds
_COUNTED = 1 << 16  # numbers in one layer's input of the passes in which activations are counted
_SHORTEST, _LONGEST = 32, 4096  # lengths of these passes, if the network is not for less
_SMALL = 1 << 25  # bytes of parameters up to which a network is built for these passes
_DRAWS = ("normal_", "uniform_", "trunc_normal_", "exponential_", "bernoulli_", "random_")
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB")


class Machine(NamedTuple):
    """Memory of a device in bytes."""

    total: int
    free: int


class Sizes(NamedTuple):
    """Sizes of a training: sequences in a batch, length, width, layers, and the largest whole number among the settings."""

    batch: int
    length: int
    width: int
    depth: int
    setting: int

    def numbers(self) -> int:
        """Return a rough count of the numbers in a step, to tell small from large."""
        return self.depth * (self.batch * self.length * max(self.width, self.length // 16) + self.layer())

    def wide(self) -> bool:
        """Return whether a layer is too large to be built only for its size."""
        return self.layer() > BUILT

    def layer(self) -> int:
        """Return a rough count of the parameters of a layer."""
        return self.width * max(self.width, self.setting)


def step_bytes(
    network: Callable[[int, int], nn.Module],
    inputs: Callable[[int], Tensor],
    call: Callable[[Any, Tensor], Tensor],
    sizes: Sizes,
) -> int | None:
    """Return the bytes that a step needs; None if unknown. Beside many parameters only the inputs of the layers count.

    network: builds it for a length and a depth. inputs: makes those of a batch of one, for a length. call: calls a network.
    """
    batch, length, width, depth, _ = sizes

    def weights(depth: int, length: int = 1) -> int:
        with sketching() if sizes.wide() else nullcontext():
            return sum(p.numel() * p.element_size() for p in network(length, depth).parameters())

    counted = max(_SHORTEST, min(length, _LONGEST, _COUNTED // width))

    def activations(depth: int) -> float:
        if length <= counted:
            return _kept(network(length, depth), inputs(length), call)
        half, whole = (_kept(network(each, depth), inputs(each), call) for each in (counted // 2, counted))
        power = min(2.0, max(1.0, math.log2(max(1, whole) / max(1, half))))
        return float(whole * (length / counted) ** power)

    try:
        with torch.random.fork_rng(devices=[]):
            of_positions = (length - 1) * (weights(1, 2) - weights(1, 1))
            found = _COPIES * (_line(weights, depth) + of_positions)
            layers = weights(min(depth, _DEPTHS[-1]))
            found += batch * (_line(activations, depth) if layers <= _SMALL else _FLOAT * depth * length * width)
    except (Exception, SystemExit):  # a plugin is third-party code
        return None
    return int(found)


@contextmanager
def sketching() -> Iterator[None]:
    """Build modules on the meta device, without values and without memory for them."""
    with torch.device("meta"), _NoValues():
        yield


class _NoValues(TorchFunctionMode):
    """Random initialisation left out: on the meta device it does nothing, after an import of seconds."""

    def __torch_function__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(function, "__name__", "") in _DRAWS:
            return next(iter((*args, *(kwargs or {}).values())))
        return function(*args, **(kwargs or {}))


def _kept(network: nn.Module, inputs: Tensor, call: Callable[[Any, Tensor], Tensor]) -> int:
    """Return the bytes that autograd keeps of a forward pass, with its inputs and outputs, without the parameters."""
    storages: dict[int, Tensor] = {}

    def pack(x: Tensor) -> Tensor:
        storages.setdefault(x.untyped_storage()._cdata, x)
        return x

    own = {x.untyped_storage()._cdata for x in (*network.parameters(), *network.buffers())}
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        outputs = call(network, inputs)
    for x in (inputs, outputs):
        pack(x)
    return sum(x.untyped_storage().nbytes() for key, x in storages.items() if key not in own)


def _line(of: Callable[[int], float], at: int) -> float:
    """Return the value at a depth, extrapolated from two."""
    if at <= _DEPTHS[-1]:
        return of(at)
    one, two = map(of, _DEPTHS)
    return one + (at - 1) * (two - one)


def machine(device: str) -> Machine:
    """Return the memory of a device; of a CPU that of the machine, or of this process's control group if it is less."""
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        return Machine(total, free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())
    pages = Machine(*(os.sysconf(name) * os.sysconf("SC_PAGE_SIZE") for name in ("SC_PHYS_PAGES", "SC_AVPHYS_PAGES")))
    found = [pages._replace(free=_available() or pages.free)]
    for limit, used in (("memory.max", "memory.current"), ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")):
        numbers = [_number(Path("/sys/fs/cgroup") / name) for name in (limit, used)]
        if None not in numbers:
            most, taken = (int(number or 0) for number in numbers)
            found.append(Machine(most, max(0, most - taken)))
    return Machine(min(each.total for each in found), min(each.free for each in found))


def _available() -> int | None:
    """Return the bytes that Linux can free without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except OSError:
        pass
    return None


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):  # no such file, or ``max``
        return None


def readable(size: float) -> str:
    """Format a number of bytes with a unit, such as ``1.5 GiB``."""
    unit = 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:.3g} {_UNITS[unit]}" if size < 1000 else f"{size:.0f} {_UNITS[unit]}"

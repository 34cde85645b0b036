"""Timing of calls on a device, and of the operations that bound them: copies of bytes and exponentials."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

Call = Callable[[], Any]
_GPU_FLUSH = 256 << 20  # bytes; more than any GPU's cache
_CPU_CACHE = 32 << 20  # bytes, if the system does not report the size
_FEWEST, _MOST = 5, 1000  # repeats
_WARM = 3  # calls before timing, for compilation and allocation
_HEAD_START = 1_000_000  # cycles, about half a millisecond, in which the host can queue a whole pass


class Times(NamedTuple):
    """Median and interquartile range of the repeats, in seconds."""

    median: float
    iqr: float


class Clock:
    """A timer of calls on one device, each for about `seconds`, with cold caches.

    On a GPU, launch overhead of the host is hidden up to half a millisecond. On a CPU, caches are not flushed if this
    would take most of the time (see `flushed`).
    """

    def __init__(self, device: str, seconds: float) -> None:
        self.device, self._seconds = device, seconds
        self._bytes = _GPU_FLUSH if device == "cuda" else 4 * _last_level_cache()
        self.flushed = device == "cuda" or self._flush_seconds() * _FEWEST <= seconds

    def time(self, call: Call) -> Times:
        """Time `call` and discard its result."""
        for _ in range(_WARM):
            call()
        buffer = torch.empty(self._bytes if self.flushed else 0, dtype=torch.uint8, device=self.device)
        repeat = self._on_gpu if self.device == "cuda" else self._on_cpu
        repeat(call, buffer, 1)
        began = time.perf_counter()
        repeat(call, buffer, 2)
        each = (time.perf_counter() - began) / 2
        seconds = repeat(call, buffer, min(_MOST, max(_FEWEST, int(self._seconds / each))))
        low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75]).tolist()
        return Times(middle, high - low)

    def _on_cpu(self, call: Call, buffer: torch.Tensor, count: int) -> list[float]:
        seconds = []
        for _ in range(count):
            buffer.zero_()
            began = time.perf_counter()
            result = call()
            seconds.append(time.perf_counter() - began)
            del result  # freed outside the timed interval: freeing a graph is not part of the call
        return seconds

    def _on_gpu(self, call: Call, buffer: torch.Tensor, count: int) -> list[float]:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for begin, end in pairs:
            buffer.zero_()
            torch.cuda._sleep(_HEAD_START)  # keeps the GPU busy, so that launch overhead falls outside the events
            begin.record()
            call()
            end.record()
        torch.cuda.synchronize()
        return [begin.elapsed_time(end) / 1e3 for begin, end in pairs]

    def _flush_seconds(self) -> float:
        buffer = torch.zeros(self._bytes, dtype=torch.uint8)
        began = time.perf_counter()
        buffer.zero_()
        return time.perf_counter() - began


def _last_level_cache() -> int:
    sizes = Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size")
    try:
        return max(int(path.read_text().strip().removesuffix("K")) << 10 for path in sizes)
    except (OSError, ValueError):
        return _CPU_CACHE


def copy_time(clock: Clock, moved: int) -> float:
    """Return the seconds of a copy that reads and writes `moved` bytes in total."""
    source = torch.zeros(max(1, moved // 8), dtype=torch.float32, device=clock.device)
    target = torch.zeros_like(source)
    return clock.time(lambda: target.copy_(source)).median


def exp_rate(clock: Clock) -> float | None:
    """Return the GPU's rate of exponentials per second; None on a CPU or without Triton."""
    from expbench.ops import backends

    if clock.device != "cuda" or backends.unavailable_reason("triton") is not None:
        return None
    from expbench.bench.exp_kernel import exps

    count = exps()  # this first launch also compiles
    return count / clock.time(exps).median


def peak_bytes(device: str, call: Call) -> int | None:
    """Return the peak of allocated bytes during `call`, with earlier allocations; None on a CPU, which has no counter."""
    if device != "cuda":
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    call()
    torch.cuda.synchronize()
    return torch.cuda.max_memory_allocated()

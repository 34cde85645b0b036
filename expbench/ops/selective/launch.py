"""Launching a scan kernel: with shuffles between lanes if the compiler put the lanes where they look for each other."""

from __future__ import annotations

import math
import re
from typing import Any

INTERPRETED, GATHERED, SHUFFLED = range(3)  # what FAST means to the kernels
_kept: dict[Any, bool] = {}  # of a compiled kernel: whether its lanes lie as its shuffles take for granted
_gathered: set[Any] = set()  # kernels and constants that were compiled otherwise


def launch(kernel: Any, programs: int, arguments: list[Any], **constants: Any) -> None:
    """Run a kernel, one warp a program; again without shuffles if its layouts turn out to be others, which is remembered."""
    from triton import knobs

    if knobs.runtime.interpret:
        kernel[(programs,)](*arguments, **constants, FAST=INTERPRETED, num_warps=1)
        return
    key = (kernel, *constants.items(), *(x.dtype for x in arguments if hasattr(x, "dtype")))
    if key not in _gathered:
        compiled = kernel[(programs,)](*arguments, **constants, FAST=SHUFFLED, num_warps=1)
        if compiled not in _kept:
            _kept[compiled] = lanes_in_order(compiled.asm["ttgir"], constants["LD"], constants["LN"])
        if _kept[compiled]:
            return
        _gathered.add(key)
    kernel[(programs,)](*arguments, **constants, FAST=GATHERED, num_warps=1)


def lanes_in_order(ttgir: str, LD: int, LN: int) -> bool:
    """Whether, wherever a compiled kernel shuffles, lane ld + LD ln holds channel ld (axis 2) and states ln (axis 3)."""
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    used = set(re.findall(r"shfl\.sync.*?tensor<[^>]*, (#\w+)>", ttgir))
    return all(_in_order(layouts.get(name, ""), LD, LN) for name in used)


def _in_order(layout: str, LD: int, LN: int) -> bool:
    fields = {name: [int(x) for x in numbers.split(",")] for name, numbers in re.findall(r"(\w+) = \[([\d, ]+)\]", layout)}
    if not layout.startswith("#ttg.blocked") or len(fields.get("order", ())) != 6:
        return False
    order, lanes, registers = fields["order"], fields["threadsPerWarp"], fields["sizePerThread"]

    def along(axis: int, size: int, stride: int) -> bool:
        before = math.prod(lanes[a] for a in order[: order.index(axis)])
        return size == 1 or (before == stride and lanes[axis] >= size and registers[axis] == 1)

    return along(2, LD, 1) and along(3, LN, LD)

"""Launching a scan kernel: with shuffles between lanes if the compiler put the lanes where they look for each other."""

from __future__ import annotations

import math
import re
from typing import Any

INTERPRETED, GATHERED, UPWARDS, DOWNWARDS = range(4)  # what FAST means to the kernels
_order = [UPWARDS, DOWNWARDS]  # in which lanes lie along channels, states, sequences; first what this compiler did last
_kept: dict[Any, bool] = {}  # of a compiled kernel: whether its lanes lie as its shuffles take for granted
_found: dict[Any, int] = {}  # of a kernel and its constants: the FAST for which they do


def launch(kernel: Any, programs: int, arguments: list[Any], **constants: Any) -> None:
    """Run a kernel, one warp a program; again with other shuffles, or none, if its lanes turn out to lie otherwise."""
    from triton import knobs

    def run(fast: int) -> Any:
        return kernel[(programs,)](*arguments, **constants, FAST=fast, num_warps=1)

    if knobs.runtime.interpret:
        run(INTERPRETED)
        return
    key = (kernel, *constants.values(), *(x.dtype for x in arguments if hasattr(x, "dtype")))
    for fast in [_found[key]] if key in _found else list(_order):
        if fast == GATHERED:
            break
        compiled = run(fast)
        if compiled not in _kept:
            _kept[compiled] = lanes_in_order(compiled.asm["ttgir"], constants["LD"], constants["LN"], constants["LB"], fast)
        if _kept[compiled]:
            _found[key] = fast
            _order.sort(key=lambda order: order != fast)
            return
    _found[key] = GATHERED
    run(GATHERED)


def lanes_in_order(ttgir: str, LD: int, LN: int, LB: int, fast: int) -> bool:
    """Whether, wherever a compiled kernel shuffles, lanes lie along channels (axis 2) and states (axis 3) as FAST says."""
    channels, states = (1, LD) if fast == UPWARDS else (LN * LB, LB)
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", ttgir, re.MULTILINE))
    used = set(re.findall(r"shfl\.sync.*?tensor<[^>]*, (#\w+)>", ttgir))
    return all(
        _lies(layouts.get(name, ""), 2, LD, channels) and _lies(layouts.get(name, ""), 3, LN, states) for name in used
    )


def _lies(layout: str, axis: int, size: int, stride: int) -> bool:
    fields = {name: [int(x) for x in numbers.split(",")] for name, numbers in re.findall(r"(\w+) = \[([\d, ]+)\]", layout)}
    if not layout.startswith("#ttg.blocked") or len(fields.get("order", ())) != 6:
        return False
    lanes, order = fields["threadsPerWarp"], fields["order"]
    before = math.prod(lanes[a] for a in order[: order.index(axis)])
    return size == 1 or (before == stride and lanes[axis] >= size and fields["sizePerThread"][axis] == 1)

"""Launch of the scan kernels, with warp shuffles if the compiler's layout of lanes permits them.

A shuffle addresses a lane by its number in the warp, but Triton does not let a kernel fix which lane holds which element.
The launcher therefore runs a kernel built for one order of lanes, reads the order from the compiler's output, and on a
mismatch tries the other order, and at last the slower tl.gather, which is correct in every layout.
"""

from __future__ import annotations

import math
import re
from typing import Any

INTERPRETED, GATHERED, UPWARDS, DOWNWARDS = range(4)  # values of FAST in the kernels
_order = [UPWARDS, DOWNWARDS]  # orders of lanes along channels, states and sequences; the one that matched last comes first
_kept: dict[Any, bool] = {}  # compiled kernel -> whether its lanes lie as its shuffles assume
_found: dict[Any, int] = {}  # kernel, constants and dtypes -> the FAST whose lanes match


def launch(kernel: Any, programs: int, arguments: list[Any], **constants: Any) -> None:
    """Run a kernel, one warp per program, and run it again with other shuffles, or none, if its lanes lie otherwise.

    The second run overwrites the results of the first.
    """
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
    """Return whether all shuffled tensors have lanes along channels (axis 2) and states (axis 3) in the order of FAST."""
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

"""A kernel that computes only exponentials: their rate bounds the speed of a scan with the exact transition."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

_BLOCK, _TURNS, _PROGRAMS = 1024, 2048, 32  # numbers per program, exponentials per number, programs per multiprocessor


@triton.jit  # type: ignore[untyped-decorator]
def _exp_kernel(y_ptr, TURNS: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    """Apply exp2 to -x repeatedly; each result depends on the last, so the compiler cannot drop any."""
    index = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    x = index.to(tl.float32) * 1e-9
    for _ in range(TURNS):
        x = tl.inline_asm_elementwise("ex2.approx.ftz.f32 $0, $1;", "=f,f", [-x], dtype=tl.float32, is_pure=True, pack=1)
    tl.store(y_ptr + index, x)


def exps() -> int:
    """Start one launch on the current GPU and return its number of exponentials."""
    programs = _PROGRAMS * torch.cuda.get_device_properties().multi_processor_count
    y = torch.empty(programs * _BLOCK, device="cuda")
    _exp_kernel[(programs,)](y, TURNS=_TURNS, BLOCK=_BLOCK, num_warps=4)
    return programs * _BLOCK * _TURNS

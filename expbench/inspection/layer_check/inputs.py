"""Checks of inputs and outputs: shapes, dtypes and memory layout."""

from __future__ import annotations

import torch

from expbench.errors import first_line
from expbench.inspection.layer_check.layer import BadOutput, CheckResult, Layer, call, difference, largest
from expbench.ops.backends import BackendUnsupported


def shapes(layer: Layer) -> CheckResult:
    """Check that the layer maps (B, L, D) to (B, L, D) in the dtype of the input, at every size."""
    wrong: list[tuple[str, BaseException]] = []
    sizes = 0
    for width in layer.widths:
        module = layer.build(width)  # one module for all lengths: state kept from one must not affect the next
        for length in layer.lengths:
            for batch in (1, 3):
                sizes += 1
                try:
                    call(module, layer.tokens(batch, length, width=width), finite=False)
                except BackendUnsupported:
                    raise
                except (Exception, SystemExit) as error:  # a plugin is third-party code
                    said = str(error) if isinstance(error, BadOutput) else first_line(error)
                    wrong.append((f"B={batch}, L={length}, D={width}: {said}", error))
    if wrong:
        said, first = wrong[0]
        return CheckResult("fail", f"{said} ({len(wrong)} of {sizes} sizes fail){layer.said}", first)
    widths, lengths = (", ".join(map(str, some)) for some in (layer.widths, layer.lengths))
    return CheckResult("pass", f"D {widths}; L {lengths}; B 1, 3{layer.said}")


def finite(layer: Layer) -> CheckResult:
    """Check that outputs are finite numbers, in evaluation and in training mode."""
    for training in (False, True):
        call(layer.build(training=training), layer.tokens(2, layer.longest))
    return CheckResult("pass", f"L={layer.longest}, also in training mode{layer.said}")


def layout(layer: Layer) -> CheckResult:
    """Check that the output does not depend on the memory layout, and that the input is not modified."""
    module, x = layer.build(), layer.tokens(3, layer.longest)
    inputs = {
        "time first": x.transpose(0, 1).contiguous().transpose(0, 1),
        "channels first": x.mT.contiguous().mT,
        "with gaps": torch.stack([x, 9 * x], -1)[..., 0],
        "one sequence expanded": x[:1].expand(3, -1, -1),
    }
    for kind, laid in inputs.items():
        before = laid.clone(memory_format=torch.contiguous_format)
        expected = call(module, before.clone())
        apart = difference(layer.precision, call(module, laid), expected, largest(expected))
        if apart is not None:
            return CheckResult("fail", f"the output changes by {apart:.1e} for an input laid out {kind}{layer.said}")
        if not torch.equal(laid, before):
            return CheckResult("fail", "it modifies its input")
    return CheckResult("pass", f"{', '.join(inputs)}; the input is not modified{layer.said}")

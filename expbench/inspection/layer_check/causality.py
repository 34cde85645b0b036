"""Checks of causality and batch independence: outputs depend on no later token and on no other sequence of the batch."""

from __future__ import annotations

import torch
from torch import Tensor

from expbench.inspection.layer_check.layer import CheckResult, Layer, Precision, call, difference, largest

_EVERY_POSITION = 6  # up to this length, sequences are changed after every token


def causality(layer: Layer) -> CheckResult:
    """Check that y_1..y_t and the gradient of y_t do not depend on later tokens, one step ahead or many."""
    longer = [length for length in layer.lengths if length > 1]
    if not longer:
        return CheckResult("unsupported", "a length above 1 is needed")
    checked = 0
    # Batch normalisation in training mode also leaks the future; one length is enough to detect it
    for training, lengths in ((False, longer), (True, longer[-1:])):
        module, mode = layer.build(training=training), " in training mode" if training else ""
        for length in lengths:
            # a single sequence, since leaks between sequences have their own check
            x, other = layer.tokens(1, length).requires_grad_(), 3 * layer.tokens(1, length, seed=2)
            y = call(module, x)
            for t in _kept(length):
                changed = call(module, torch.cat([x[:, :t].detach(), other[:, t:]], 1))
                leak = leak_of_later_tokens(layer.precision, y, x, changed, t)
                if leak is not None:
                    return CheckResult("fail", f"{leak}{mode}{layer.said}")
                checked += 1
    return CheckResult("pass", f"outputs and gradients at {checked} positions, also in training mode{layer.said}")


def _kept(length: int) -> list[int]:
    """Return the numbers of leading tokens to keep while the others change: all, or powers of 2, where kernel tiles end."""
    if length <= _EVERY_POSITION:
        return list(range(1, length))
    return sorted({3, length - 1} | {1 << i for i in range(length.bit_length()) if 1 << i < length})


def leak_of_later_tokens(precision: Precision, y: Tensor, x: Tensor, changed: Tensor, t: int) -> str | None:
    """Describe a leak of later tokens into the first t outputs y (1, L, D) for x (1, L, D); return None without one.

    changed: the outputs (1, L, D) for an input with other tokens after t.
    """
    length = x.shape[1]
    apart = difference(precision, changed[:, :t], y[:, :t], max(largest(y), largest(changed)))
    if apart is not None:
        return f"outputs up to position {t} of {length} change by {apart:.1e} with later tokens"
    weights = torch.randn(x.shape[2], generator=torch.Generator().manual_seed(3), dtype=y.dtype)
    (grad,) = torch.autograd.grad(
        (y[:, t - 1] * weights).sum(), x, retain_graph=True, allow_unused=True, materialize_grads=True
    )
    if not largest(grad[:, t:]) <= precision.same * largest(grad):
        ahead = int(grad[0, t:].abs().amax(-1).argmax()) + 1
        return f"the output at position {t} of {length} has a gradient in the token {ahead} positions later"
    return None


def batch_independence(layer: Layer) -> CheckResult:
    """Check that the output of a sequence does not depend on its neighbours, its index in the batch or the batch size."""
    for training in (False, True):
        x, others = layer.tokens(3, layer.longest), 3 * layer.tokens(3, layer.longest, seed=2)
        module = layer.build(training=training)
        y = call(module, x)
        for i in (0, 2):
            among = others.clone()
            among[i] = x[i]
            found = {
                "with its neighbours": call(module, among)[i],
                "with its index in the batch": call(module, x.roll(1, 0))[(i + 1) % 3],
                "with the batch size": call(module, x[i : i + 1])[0],
            }
            for how, z in found.items():
                apart = difference(layer.precision, z, y[i], largest(y))
                if apart is not None:
                    mode = " in training mode" if training else ""
                    return CheckResult("fail", f"a sequence's output changes {how} by {apart:.1e}{mode}{layer.said}")
    return CheckResult("pass", f"other neighbours, another index, alone; also in training mode{layer.said}")

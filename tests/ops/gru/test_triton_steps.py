"""The Triton kernels of the gated recurrence: under Triton's interpreter, or on the GPU if there is one."""

import os
import re
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from expbench.ops import backends
from expbench.ops.gru import recurrence, torch_steps, triton_steps
from expbench.ops.gru.recurrence import gated_recurrence, reference
from tests.ops.gru.test_recurrence import gradients, problem

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
LIMIT = 1e-6


def by(backend: str) -> Callable[..., Tensor]:
    return lambda *given: gated_recurrence(*given, backend=backend)


@pytest.mark.parametrize(("S", "B", "L", "H"), [(1, 1, 1, 1), (2, 5, 4, 3), (3, 37, 3, 8), (1, 3, 6, 17), (2, 2, 12, 2)])
def test_values_and_gradients(S: int, B: int, L: int, H: int) -> None:
    tensors = tuple(x.to(DEVICE) for x in problem(S, B=B, L=L, H=H, dtype=torch.float32))
    exact = gradients(reference, tuple(x.double() for x in tensors))
    with backends.using(None) as used:
        found = gradients(torch.vmap(by("triton")), tensors)
    assert used.names == ("triton",)
    for mine, plain, its in zip(found, gradients(torch.vmap(by("torch")), tensors), exact, strict=True):
        error, torchs = (float((x - its).norm() / its.norm().clamp(min=1e-12)) for x in (mine, plain))
        assert error <= LIMIT + 2 * torchs


def test_inputs_in_any_memory_order() -> None:
    x, weight, bias = (x.to(DEVICE) for x in problem(2, B=4, L=5, H=3, dtype=torch.float32))
    expected = triton_steps.forward(x, weight, bias)
    for axes in ((2, 1, 0, 3), (0, 3, 2, 1)):
        turned = x.permute(axes).contiguous().permute(axes)
        torch.testing.assert_close(triton_steps.forward(turned, weight, bias), expected, rtol=0, atol=0)
        for found, kept in zip(
            triton_steps.forward(turned, weight, bias), torch_steps.forward(x, weight, bias), strict=True
        ):
            assert found.stride() == kept.stride()


def test_what_the_kernels_do_not_support() -> None:
    with pytest.raises(backends.BackendUnsupported, match="it computes in float32, and the tensors are float64"):
        by("triton")(*problem())
    with pytest.raises(backends.BackendUnsupported, match="it supports up to 32 states, not 33"):
        by("triton")(*problem(H=33, dtype=torch.float32))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (lambda states, gates: (1.001 * states, gates), "differ from torch by 1.0e-03 here; torch is used"),
        (lambda states, gates: (states * torch.nan, gates), "differ from torch by nan here; torch is used"),
        (lambda states, gates: states.missing, "fail here (AttributeError); torch is used"),
    ],
)
def test_kernels_that_disagree_with_torch_are_not_used(
    changed: Callable[..., Any], said: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device, solve = torch.device(DEVICE), triton_steps.forward
    agrees = triton_steps.agrees.__wrapped__  # what is found here is not kept
    assert agrees(3, device)
    assert caplog.text == ""
    monkeypatch.setattr(triton_steps, "forward", lambda *given: changed(*solve(*given)))
    assert not agrees(3, device)
    assert f"the Triton kernels for 3 states {said}" in caplog.text


@pytest.mark.parametrize(("agrees", "name"), [(True, "triton"), (False, "torch")])
def test_the_default_on_a_gpu(agrees: bool, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recurrence, "_on_device", lambda x: True)
    monkeypatch.setattr(triton_steps, "agrees", lambda H, device: agrees)
    tensors = tuple(x.to(DEVICE) for x in problem(dtype=torch.float32))
    for given, expected in ((tensors, name), (tuple(x.double() for x in tensors), "torch")):
        with backends.using(None) as used:
            gradients(gated_recurrence, given)
        assert used.names == (expected,)


_COMPILE = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from expbench.ops.gru import triton_kernels, triton_steps

H = 4
H2, rows = triton_steps._tile(H)
constants = {"H": H, "H2": H2, "ROWS": rows}
for kernel in (triton_kernels.forward, triton_kernels.backward):
    names = kernel.arg_names
    kind = {True: "*fp32", False: "i32"}
    signature = {name: "constexpr" if name in constants else kind[name.isupper() and name not in "BL"] for name in names}
    source = ASTSource(kernel, signature, {(names.index(name),): value for name, value in constants.items()}, {})
    ptx = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": triton_steps._WARPS}).asm["ptx"]
    print(ptx.count("shfl.sync"), ptx.count("bar.sync"))
"""


def test_compiled_for_a_gpu_products_stay_within_a_thread() -> None:
    """Sums over lanes would be 48 shuffles per step at 4 states, and 288 at 8."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    answer = subprocess.run([sys.executable, "-c", _COMPILE], capture_output=True, text=True, env=environment, check=False)
    if answer.returncode and re.search(r"ptxas|GPUTarget|No module named", answer.stderr.splitlines()[-1]):
        pytest.skip(f"Triton compiles for no GPU here: {answer.stderr.splitlines()[-1]}")
    assert answer.returncode == 0, answer.stderr
    (_, forward), (_, backward) = found = [tuple(map(int, line.split())) for line in answer.stdout.splitlines()]
    assert [shuffles for shuffles, _ in found] == [0, 0]
    assert forward <= 2
    assert backward <= 6

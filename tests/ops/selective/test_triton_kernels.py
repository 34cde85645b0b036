"""The Triton kernels against the definition: under Triton's interpreter without a GPU, on the GPU where there is one."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from expbench.ops import selective_scan
from expbench.ops.selective import backend_triton
from expbench.ops.selective.backend_reference import reference
from expbench.ops.selective.problem import Form, Inputs
from expbench.ops.selective.triton_launch import DOWNWARDS, UPWARDS, lanes_in_order
from expbench.ops.taylor import contraction_range, softplus_coefficients

pytest.importorskip("triton")
GPU = torch.cuda.is_available()
DEVICE = "cuda" if GPU else "cpu"
LIMIT = {torch.float32: 2e-5, torch.bfloat16: 1e-2}
SEQUENCES = ("u", "delta", "B", "C", "z")
ALL = ("skip", "z", "bias", "state")


@pytest.fixture(autouse=True)
def _poisoned() -> Iterator[None]:
    """What is allocated and never written holds NaN."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def problem(S: int, batch: int, L: int, D: int, N: int, form: Form, options: tuple[str, ...], dtype: torch.dtype) -> Inputs:
    """Random inputs, exactly representable in their dtypes; a beyond 1 and below 0 where the form allows it."""
    generator = torch.Generator().manual_seed(L * D * N)

    def draw(name: str, *shape: int) -> Tensor | None:
        if name in ALL and name not in options:
            return None
        x = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return x.to(dtype if name in SEQUENCES else torch.float32).to(DEVICE)

    shapes = {"u": (S, batch, L, D), "delta": (S, batch, L, D), "A": (S, D, N), "B": (S, batch, L, N), "C": (S, batch, L, N)}
    shapes |= {"skip": (S, D), "z": (S, batch, L, D), "bias": (S, D), "state": (S, batch, D, N)}
    tensors: dict[str, Any] = {name: draw(name, *shape) for name, shape in shapes.items()}
    tensors["A"] *= 0.3  # of both signs: |a| > 1 among them, and a < 0 for the polynomials
    if form.kind == "taylor":
        center = torch.randn(S, D, generator=generator)
        tensors["coefficients"] = torch.stack(softplus_coefficients(center, form.degree), 1).to(DEVICE)
    return Inputs(**tensors)


def gradients_of_reference(inputs: Inputs, form: Form, weights: tuple[Tensor, Tensor]) -> tuple[Tensor, ...]:
    exact = Inputs(*(None if x is None else x.double() for x in inputs))  # type: ignore[arg-type]
    leaves = [x.requires_grad_() for x in exact[:9] if x is not None]
    y, last = reference(exact, form)
    total = (y * weights[0].double()).sum() + (last * weights[1].double()).sum()
    return y.detach(), last.detach(), *torch.autograd.grad(total, leaves)


def check(inputs: Inputs, form: Form) -> None:
    """Values and gradients against the definition in float64, relative in norm; and every number was written."""
    generator = torch.Generator().manual_seed(1)
    dtype = inputs.u.dtype
    S, batch, L, D = inputs.u.shape
    grad_y = torch.randn(S, batch, L, D, generator=generator).to(dtype).to(DEVICE)
    grad_last = torch.randn(S, batch, D, inputs.A.shape[-1], generator=generator).to(DEVICE)
    outputs = backend_triton.forward(inputs, form, keep=True)
    assert tuple(outputs.checkpoints.shape) == backend_triton.saved_shapes(inputs, form)[1]
    found = backend_triton.backward(grad_y, grad_last, inputs, form, outputs.raw, outputs.checkpoints)
    gradients = [x for x in found if x is not None]
    expected = gradients_of_reference(inputs, form, (grad_y, grad_last))
    names = ["y", "last", *(name for name, x in zip(Inputs._fields, inputs[:9], strict=False) if x is not None)]
    for name, ours, theirs in zip(names, (outputs.y, outputs.last, *gradients), expected, strict=True):
        assert ours.shape == theirs.shape, name
        error = float((ours.double() - theirs).norm() / theirs.norm().clamp(min=1e-3))
        assert error < LIMIT[dtype], f"{name}: {error:.1e}"
    plain = backend_triton.forward(inputs, form, keep=False)
    assert float((plain.y - outputs.y).norm() / outputs.y.norm()) < LIMIT[dtype]


FORMS = {
    "exact": Form(),
    "exact, b": Form(delta_on_b=False),
    "linear": Form("linear"),
    "taylor 1": Form("taylor", 1),
    "taylor 2, clipped, b": Form("taylor", 2, contraction_range(2), delta_on_b=False),
    "taylor 3": Form("taylor", 3),
}


@pytest.mark.parametrize(
    ("S", "batch", "L", "D", "N", "form", "options"),
    [
        (1, 1, 1, 1, 1, "exact", ALL),
        (1, 2, 17, 3, 2, "exact", ALL),
        (1, 1, 63, 3, 1, "linear", ALL),
        (1, 1, 100, 1, 2, "exact, b", ("skip",)),
        (1, 1, 17, 20, 16, "exact", ALL),
        (2, 2, 8, 3, 5, "taylor 3", ("bias",)),
        (2, 3, 5, 4, 4, "taylor 2, clipped, b", ALL),
        (3, 1, 9, 40, 2, "taylor 1", ()),
        (2, 4, 12, 2, 2, "exact", ("skip", "bias")),
        (1, 1, 8, 33, 4, "linear", ("z",)),
        (1, 1, 9, 3, 64, "exact", ALL),  # more lanes along N than steps in a tile
    ],
)
def test_values_and_gradients(S: int, batch: int, L: int, D: int, N: int, form: str, options: tuple[str, ...]) -> None:
    check(problem(S, batch, L, D, N, FORMS[form], options, torch.float32), FORMS[form])


@pytest.mark.parametrize("D", [20, 32])
def test_two_channels_in_turn(D: int) -> None:
    """D = 20 leaves the second channel of some lanes empty."""
    assert backend_triton.backward_turns(backend_triton.backward_tile(2, 10, D, 16), D) == 2
    check(problem(1, 2, 10, D, 16, FORMS["taylor 3"], ALL, torch.float32), FORMS["taylor 3"])


@pytest.mark.parametrize("D", [6, 64])
def test_bfloat16(D: int) -> None:
    check(problem(1, 1, 9, D, 4, FORMS["exact"], ALL, torch.bfloat16), FORMS["exact"])


def test_through_the_operation_on_views() -> None:
    """What the function gives for transposed and broadcast inputs, through autograd."""
    base = problem(1, 2, 10, 3, 2, Form(), (), torch.float32)
    u = base.u[0].transpose(0, 1).contiguous().transpose(0, 1)
    B = base.B[0, :1].expand(2, -1, -1)
    A = base.A[0].clone().requires_grad_()

    def gradient(backend: str) -> Tensor:
        y = selective_scan(u, base.delta[0], A, B, base.C[0], backend=backend)
        return torch.autograd.grad((y * y).sum(), A)[0]

    torch.testing.assert_close(gradient("triton"), gradient("reference"), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("sequences", [1, 3, 64])
@pytest.mark.parametrize("D", [1, 3, 40, 768])
@pytest.mark.parametrize("N", [1, 2, 4, 8, 16, 64, 128])
def test_a_tile_is_one_warp_and_covers_the_states(sequences: int, D: int, N: int) -> None:
    for tile in (backend_triton.forward_tile(sequences, 128, D, N), backend_triton.backward_tile(sequences, 128, D, N)):
        assert tile.V * tile.LN * tile.R == N
        assert tile.LN * tile.LD * tile.LB <= 32
        assert tile.V * tile.R <= 8
    assert backend_triton.backward_tile(sequences, 128, D, N).R == 1
    assert backend_triton.forward_tile(sequences, 128, D, N).T % backend_triton.backward_tile(sequences, 128, D, N).T == 0


def test_what_it_cannot_do_is_said() -> None:
    inputs = problem(1, 1, 2, 1, 1, Form(), (), torch.float32)
    assert backend_triton.unsupported(inputs, Form()) is None
    assert "up to degree 3, not 4" in str(backend_triton.unsupported(inputs, Form("taylor", 4)))
    assert "float64" in str(backend_triton.unsupported(Inputs(*(None if x is None else x.double() for x in inputs)), Form()))  # type: ignore[arg-type]
    wide = inputs._replace(A=inputs.A.expand(1, 1, 300))
    assert "up to 128 states per channel, not 300" in str(backend_triton.unsupported(wide, Form()))


_COMPILE = """
import sys
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from expbench.ops.selective import backend_triton, triton_kernels
from expbench.ops.selective.triton_launch import DOWNWARDS, GATHERED, UPWARDS, lanes_in_order

kind, degree = sys.argv[1], int(sys.argv[2])
fields = {"u": "*bf16", "delta": "*bf16", "z": "*bf16", "y": "*bf16", "grad_y": "*bf16", "du": "*bf16"}
fields |= {"ddelta": "*bf16", "dz": "*bf16", "sequences": "i32", "batch": "i32", "L": "i32", "D": "i32", "blocks": "i32"}
common = dict(KIND=kind, DEGREE=degree, LOWEST=0.0, DELTA_ON_B=True, SKIP=True, GATE=True, BIAS=True, STATE=False)
common |= dict(EVEN=True, EVEN_L=True, STAGES=3, N=16)
for kernel, tile, more in (
    (triton_kernels.forward_kernel, backend_triton.forward_tile(32, 1024, 768, 16), dict(KEEP=8)),
    (triton_kernels.backward_kernel, backend_triton.backward_tile(32, 1024, 768, 16), dict(LAST=False, JOINT=True, TURNS=2)),
):
    sizes = {name: size for name, size in tile._asdict().items() if name in kernel.arg_names}
    for fast in (UPWARDS, DOWNWARDS, GATHERED):
        constants = common | sizes | more | {"FAST": fast}
        names = kernel.arg_names
        signature = {name: "constexpr" if name in constants else fields.get(name, "*fp32") for name in names}
        attributes = {
            (i,): [["tt.divisibility", 16]]
            for i, name in enumerate(names)
            if name not in constants and name not in ("sequences", "batch", "blocks")
        }
        source = ASTSource(kernel, signature, {(names.index(n),): v for n, v in constants.items()}, attributes)
        compiled = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": 1})
        if fast == GATHERED or lanes_in_order(compiled.asm["ttgir"], tile.LD, tile.LN, tile.LB, fast):
            print(compiled.asm["ptx"].count("shfl.sync"), tile.T, tile.V * tile.R * constants.get("TURNS", 1))
            break
"""


@pytest.mark.parametrize(("kind", "degree"), [("exact", 0), ("taylor", 3)])
def test_compiled_for_a_gpu_time_stays_within_a_thread(kind: str, degree: int) -> None:
    """Time spread over lanes would make each row of each tile a reduction: 50 T x states shuffles, ten times the time."""
    environment = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    answer = subprocess.run(
        [sys.executable, "-c", _COMPILE, kind, str(degree)], capture_output=True, text=True, env=environment, check=False
    )
    if answer.returncode and re.search(r"ptxas|GPUTarget|No module named", answer.stderr.splitlines()[-1]):
        pytest.skip(f"Triton compiles for no GPU here: {answer.stderr.splitlines()[-1]}")
    assert answer.returncode == 0, answer.stderr
    for line in answer.stdout.splitlines():
        shuffles, T, states = map(int, line.split())
        assert shuffles < 4 * T * states


LANES = """#blocked = #ttg.blocked<{sizePerThread = [1, 4, 1, 1, 1, 1], threadsPerWarp = [%s], order = [%s]}>
  %%7 = tt.elementwise_inline_asm "shfl.sync.bfly.b32 $0, $1, 1, 31, -1;" %%6 : tensor<1x4x4x4x2x1xf32, #blocked>
"""


@pytest.mark.parametrize(
    ("lanes", "order", "upwards", "downwards"),
    [
        ("1, 1, 4, 4, 2, 1", "1, 0, 2, 3, 4, 5", True, False),
        ("1, 1, 4, 4, 2, 1", "1, 5, 4, 3, 2, 0", False, True),
        ("1, 1, 4, 4, 2, 1", "1, 0, 3, 2, 4, 5", False, False),  # states, channels, sequences
        ("2, 1, 4, 4, 1, 1", "1, 0, 2, 3, 4, 5", False, False),  # steps first
        ("4, 1, 2, 4, 1, 1", "2, 3, 4, 1, 0, 5", False, False),  # two channels in a thread
    ],
)
def test_where_the_compiler_put_the_lanes_is_read(lanes: str, order: str, upwards: bool, downwards: bool) -> None:
    text = LANES % (lanes, order)
    assert lanes_in_order(text, 4, 4, 2, UPWARDS) is upwards
    assert lanes_in_order(text, 4, 4, 2, DOWNWARDS) is downwards
    assert not lanes_in_order(text.replace("#ttg.blocked<", "#ttg.linear<"), 4, 4, 2, UPWARDS)


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("S", "batch", "L", "D", "N"),
    [
        (1, 3, 100, 200, 16),
        (1, 2, 512, 64, 16),
        (7, 5, 20, 2, 2),
        (3, 64, 32, 4, 4),
        (1, 16, 256, 8, 8),
        (1, 2, 63, 20, 33),
        (9, 2, 40, 2048, 16),
    ],
)
def test_on_a_gpu(S: int, batch: int, L: int, D: int, N: int, form: str, dtype: torch.dtype) -> None:
    options = ALL if L % 2 == 0 else ()
    inputs = problem(S, batch, L, D, N, FORMS[form], options, dtype)
    if FORMS[form].kind != "exact":
        inputs = inputs._replace(A=inputs.A * 0.1, delta=inputs.delta * 0.3)  # or a product of 512 factors overflows
    else:
        inputs = inputs._replace(A=-inputs.A.abs())
    check(inputs, FORMS[form])


@pytest.mark.gpu
@pytest.mark.skipif(not GPU, reason="needs a GPU")
def test_two_runs_give_the_same_bits() -> None:
    inputs = problem(1, 4, 300, 192, 16, Form(), ALL, torch.bfloat16)
    inputs = inputs._replace(A=-inputs.A.abs())
    runs = []
    for _ in range(2):
        outputs = backend_triton.forward(inputs, Form(), keep=True)
        found = backend_triton.backward(inputs.u, outputs.last, inputs, Form(), outputs.raw, outputs.checkpoints)
        runs.append([outputs.y, outputs.last, *(x for x in found if x is not None)])
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))

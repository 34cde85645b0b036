"""Every built-in and a plain recurrent layer pass the check; each kind of fault is found by the check for it."""

import re
from pathlib import Path

import pytest
import torch

from expbench import plugins
from expbench.errors import BadInput
from expbench.inspection.layer_check.run import Check, check, text

HEAD = """
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from expbench.mixer import Mixer
from expbench.ops.backends import BackendUnsupported
from expbench.algebra.reach import Reach
"""

# A recurrence that keeps D numbers a token, and a change of it that is no fault.
EMA = """
class Ema(Mixer):
    def __init__(self, width: int, decay: float = 0.8):
        super().__init__()
        self.linear, self.decay = nn.Linear(width, width), nn.Parameter(torch.full((width,), decay))

    def forward(self, x):
        z, h, states = self.before(self.linear(x)), 0.0, []
        for t in range(x.shape[1]):
            h = self.decay * h + z[:, t]
            states.append(h)
        return self.after(torch.stack(states, 1), x)

    def before(self, z):
        return z

    def after(self, y, x):
        return y

    def state_size(self, L):
        return self.linear.in_features
"""

GRU = """
class Gru(Mixer):
    def __init__(self, width: int):
        super().__init__()
        self.inputs, self.states = nn.Linear(width, 3 * width), nn.Linear(width, 3 * width)

    def forward(self, x):
        h, outputs = torch.zeros_like(x[:, 0]), []
        for x_t in self.inputs(x).unbind(1):
            r, z, n = x_t.chunk(3, -1)
            a, b, c = self.states(h).chunk(3, -1)
            z = torch.sigmoid(z + b)
            h = (1 - z) * torch.tanh(n + torch.sigmoid(r + a) * c) + z * h
            outputs.append(h)
        return torch.stack(outputs, 1)

    def state_size(self, L):
        return self.states.in_features


class Torchs(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]
"""

MASKED = """
class Masked(nn.Module):
    def __init__(self, width: int, ahead: int = 1):
        super().__init__()
        self.qkv, self.ahead = nn.Linear(width, 3 * width), ahead

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool, device=x.device).tril(self.ahead)
        return (q @ k.mT).masked_fill(~seen, -torch.inf).softmax(-1) @ v
"""

WRONG_BACKWARD = """
class Times(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, w):
        return x * w

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        return FACTOR_OF_X * grad * w, FACTOR_OF_W * (grad * x).sum((0, 1))


class Scaled(Ema):
    def __init__(self, width: int):
        super().__init__(width)
        self.scale = nn.Parameter(torch.zeros(width))

    def after(self, y, x):
        return y + Times.apply(x, self.scale)
"""


@pytest.fixture
def found(tmp_path: Path):  # type: ignore[no-untyped-def]
    """Write a layer into a file, check it, and say what each check found."""

    def ask(source: str, name: str, **options: object) -> dict[str, Check]:
        path = tmp_path / f"{name.lower()}.py"
        path.write_text(HEAD + source)
        sizes = {"widths": (1, 4), "lengths": (1, 2, 5)}
        return {finding.what: finding for finding in check(f"{path}:{name}", **{**sizes, **options})}  # type: ignore[arg-type]

    return ask


def failed(findings: dict[str, Check]) -> set[str]:
    return {what for what, finding in findings.items() if finding.verdict == "fail"}


@pytest.mark.parametrize("name", sorted(plugins.discover("model")))
def test_built_ins_pass(name: str) -> None:
    findings = {finding.what: finding for finding in check(name)}
    assert not failed(findings), text(list(findings.values()))
    for what in ("shape and dtype", "causality", "gradients", "stacking", "float64", "bfloat16 autocast", "state size"):
        assert findings[what].verdict == "pass", findings[what]


@pytest.mark.parametrize(("source", "name"), [(GRU, "Gru"), (GRU, "Torchs"), (EMA, "Ema")])
def test_recurrent_layers_pass(found, source: str, name: str) -> None:  # type: ignore[no-untyped-def]
    findings = found(source, name)
    assert not failed(findings)
    state = findings["state size"]
    assert "at least 4 needed" in state.detail, "as many as there are"
    assert state.verdict == ("not stated" if name == "Torchs" else "pass")
    assert findings["degree"].verdict == "not stated"


def test_generators_and_threads_are_left_as_they_were() -> None:
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    check("linattn", widths=(2,), lengths=(4,))
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("ahead", [1, 3])
def test_a_mask_that_lets_the_future_in(found, ahead: int) -> None:  # type: ignore[no-untyped-def]
    findings = found(MASKED, "Masked", settings=[f"ahead={ahead}"])
    assert failed(findings) == {"causality"}
    assert "outputs up to position 1 of 2 change by" in findings["causality"].detail
    assert not failed(found(MASKED, "Masked", settings=["ahead=0"]))


def test_a_gradient_that_lets_the_future_in(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Ahead(Ema):
    def after(self, y, x):
        later = x.roll(-1, 1)
        return y + later - later.detach()
"""
    findings = found(EMA + source, "Ahead")
    assert failed(findings) == {"causality", "gradients", "state size"}, "the last rests on gradients"
    assert "has a gradient in the token 1 positions later" in findings["causality"].detail


@pytest.mark.parametrize("condition", ["True", "self.training"])
def test_a_leak_across_the_batch(found, condition: str) -> None:  # type: ignore[no-untyped-def]
    source = f"""
class Leaks(Ema):
    def before(self, z):
        return z - 0.01 * z.mean(0, keepdim=True) if {condition} else z
"""
    findings = found(EMA + source, "Leaks")
    assert failed(findings) == {"batch independence"}
    assert ("in training mode" in findings["batch independence"].detail) == (condition != "True")


def test_an_output_that_depends_on_the_place_in_the_batch(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Placed(Ema):
    def after(self, y, x):
        return y + torch.arange(len(y), device=y.device)[:, None, None]
"""
    findings = found(EMA + source, "Placed")
    assert failed(findings) == {"batch independence"}
    assert "with its " in findings["batch independence"].detail


def test_a_batch_norm_leaks_in_training(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Normed(Ema):
    def __init__(self, width: int):
        super().__init__(width)
        self.norm = nn.BatchNorm1d(width)

    def after(self, y, x):
        return self.norm(y.mT).mT
"""
    findings = found(EMA + source, "Normed", lengths=(2, 8))
    # its statistics are taken over time as well
    assert failed(findings) == {"batch independence", "causality"}
    assert all("in training mode" in findings[what].detail for what in failed(findings))


@pytest.mark.parametrize(("declared", "needed"), [(4, 8), (7, 8), (8, 8), (100, 8)])
def test_state_sizes(found, declared: int, needed: int) -> None:  # type: ignore[no-untyped-def]
    source = f"""
class Two(nn.Module):  # a convolution of three tokens: two of them must be kept
    def __init__(self, width: int):
        super().__init__()
        self.conv = nn.Conv1d(width, width, 3)

    def forward(self, x):
        return self.conv(F.pad(x.mT, (2, 0))).mT


class Declared(Two, Mixer):
    def state_size(self, L):
        return {declared}
"""
    findings = found(source, "Declared")
    assert failed(findings) == ({"state size"} if declared < needed else set())
    assert findings["state size"].detail.startswith(f"declares {declared}, at least {needed} needed")


def test_a_state_size_that_is_no_number(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Odd(Ema):
    def state_size(self, L):
        return L / 2
"""
    findings = found(EMA + source, "Odd")
    assert failed(findings) == {"state size"}
    assert "not a whole number" in findings["state size"].detail


@pytest.mark.parametrize(("x", "w", "named"), [(0.9, 1, "the input"), (1, 1.01, "scale"), (1, 0, "scale")])
def test_a_wrong_backward(found, x: float, w: float, named: str) -> None:  # type: ignore[no-untyped-def]
    source = EMA + WRONG_BACKWARD.replace("FACTOR_OF_X", str(x)).replace("FACTOR_OF_W", str(w))
    findings = found(source, "Scaled")
    assert failed(findings) == {"gradients"}
    assert f"the gradient of {named} is" in findings["gradients"].detail


def test_a_wrong_backward_in_float32(found) -> None:  # type: ignore[no-untyped-def]
    source = EMA + WRONG_BACKWARD.replace("FACTOR_OF_X", "0.9").replace("FACTOR_OF_W", "1")
    findings = found(source.replace("class Scaled(Ema):", "class Scaled(Ema):\n    dtypes = ('float32',)\n"), "Scaled")
    assert failed(findings) == {"gradients"}
    assert findings["gradients"].detail.endswith("(in float32)")
    assert findings["float64"].verdict == findings["bfloat16 autocast"].verdict == "unsupported"


@pytest.mark.parametrize("condition", ["True", "self.training"])
@pytest.mark.parametrize(
    ("draw", "named"),
    [
        ("torch.rand((), device=x.device)", "torch's generator"),
        ("random.random()", "Python's random"),
        ("np.random.rand()", "numpy's random"),
    ],
)
def test_hidden_randomness(found, draw: str, named: str, condition: str) -> None:  # type: ignore[no-untyped-def]
    source = f"""
class Draws(Ema):
    def after(self, y, x):
        return y * (1 + 1e-3 * {draw}) if {condition} else y
"""
    findings = found(EMA + source, "Draws")
    assert failed(findings) == {"determinism"}
    assert f"draws from {named}" in findings["determinism"].detail
    assert findings["determinism"].detail.startswith("in training mode") == (condition != "True")
    if named.startswith("torch"):
        assert findings["stacking"].verdict == "unsupported"
        assert "not stacked" in findings["stacking"].detail


def test_randomness_of_another_kind(found) -> None:  # type: ignore[no-untyped-def]
    secret = """
class Rarely(Ema):
    def after(self, y, x):
        return y if random.random() < 2 else 0 * y


class Counts(Ema):
    calls = 0

    def after(self, y, x):
        self.calls += 1
        return y * (1 + 1e-12 * self.calls)


class Initial(Ema):
    def __init__(self, width: int):
        super().__init__(width)
        self.decay.data.fill_(random.SystemRandom().random())


class Seeded(Ema):
    def __init__(self, width: int):
        super().__init__(width)
        self.decay.data.fill_(random.random())
"""
    assert failed(found(EMA + secret, "Seeded")) == set()  # the seed of a run sets this generator too
    for name, said in (
        ("Rarely", "draws from Python"),
        ("Counts", "results for the same input differ"),
        ("Initial", "decay differs between two"),
    ):
        findings = found(EMA + secret, name)
        assert "determinism" in failed(findings)  # other checks may compare two layers too
        assert said in findings["determinism"].detail


def test_dropout_is_no_hidden_randomness(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Drops(Ema):
    def __init__(self, width: int, p: float = 0.2):
        super().__init__(width)
        self.drop = nn.Dropout(p)

    def after(self, y, x):
        return self.drop(y)
"""
    findings = found(EMA + source, "Drops")
    assert not failed(findings)
    assert "dropout" in findings["determinism"].detail
    assert findings["stacking"].verdict == "unsupported"
    assert found(EMA + source, "Drops", settings=["p=0"])["stacking"].verdict == "pass"


def test_what_is_mapped_wrongly_or_not_at_all(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Twice(torch.autograd.Function):
    @staticmethod
    def forward(x):
        return 2 * x

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return 2 * grad

    @staticmethod
    def vmap(info, dims, x):
        return 2.1 * x, dims[0]


class Mapped(Ema):
    def after(self, y, x):
        return Twice.apply(y)


class Reads(Ema):
    def after(self, y, x):
        return y * (1 + 0 * self.decay[0].item())
"""
    findings = found(EMA + source, "Mapped")
    assert failed(findings) == {"stacking"}
    findings = found(EMA + source, "Reads")
    assert failed(findings) == set(), "layers that fail under vmap are not stacked"
    assert findings["stacking"].verdict == "unsupported"
    assert findings["stacking"].detail.startswith("not stacked")


def test_number_types(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Single(Ema):
    def after(self, y, x):
        return y.float().to(y.dtype)


class Rounds(Ema):
    def after(self, y, x):
        return y.bfloat16().to(y.dtype) if y.dtype == torch.float32 else y


class Overflows(Ema):
    def after(self, y, x):
        return y if not torch.is_autocast_enabled("cpu") else y / 0


class Refuses(Ema):
    def after(self, y, x):
        if y.dtype == torch.float64:
            raise BackendUnsupported("float32 only")
        return y
"""
    findings = found(EMA + source, "Single")
    assert not failed(findings), "float64 gains nothing, which is no fault"
    assert findings["float64"].verdict == "unsupported"
    assert "part of the layer computes in float32" in findings["float64"].detail
    assert "(in float32)" in findings["gradients"].detail
    findings = found(EMA + source, "Rounds")
    assert failed(findings) == {"float32"}
    assert "rounding explains" in findings["float32"].detail
    findings = found(EMA + source, "Overflows")
    assert failed(findings) == {"bfloat16 autocast"}
    assert "not finite" in findings["bfloat16 autocast"].detail
    findings = found(EMA + source.replace("y / 0", "y * float('nan')"), "Overflows")
    assert failed(findings) == {"bfloat16 autocast"}
    findings = found(EMA + source, "Refuses")
    assert not failed(findings), "a forced backend that cannot is no fault"
    assert findings["float64"].verdict == "unsupported"


def test_shapes_and_memory(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Short(Ema):
    def after(self, y, x):
        return y[:, :4]


class Flat(Ema):
    def forward(self, x):
        return super().forward(x.view(-1).view(x.shape))


class Strided(Ema):
    def forward(self, x):
        return super().forward(x.as_strided(x.shape, (x.shape[1] * x.shape[2], x.shape[2], 1)))


class Writes(Ema):
    def forward(self, x):
        y = super().forward(x.clone())
        if not x.requires_grad:
            x.data[:, 0] += 1
        return y
"""
    findings = found(EMA + source, "Short")
    assert "shape and dtype" in failed(findings)
    assert "(1, 5, 1) to (1, 4, 1) (4 of 12 sizes fail)" in findings["shape and dtype"].detail
    assert "shape and dtype" not in failed(found(EMA + source, "Short", lengths=(1, 2, 4)))
    for name, said in (("Flat", "view size"), ("Strided", "laid out time first"), ("Writes", "modifies its input")):
        findings = found(EMA + source, name)
        assert "memory layout" in failed(findings)
        assert said in findings["memory layout"].detail
        if name != "Writes":
            assert failed(findings) <= {"memory layout", "batch independence"}


def test_unsupported_sizes_are_no_faults(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Even(Ema):
    def __init__(self, width: int):
        if width % 2:
            raise ValueError(f"the width {width} is odd")
        super().__init__(width)


class Tiled(Ema):
    widths = range(16, 65, 16)


class Elsewhere(Ema):
    devices = ("cuda",)
"""
    findings = found(EMA + source, "Even", widths=(1, 2, 4, 7))
    assert not failed(findings)
    assert {what for what, finding in findings.items() if finding.verdict == "unsupported"} == {"width 1", "width 7"}
    assert "the width 7 is odd" in findings["width 7"].detail
    assert findings["shape and dtype"].detail.startswith("D 2, 4; L 1, 2, 5;")
    findings = found(EMA + source, "Tiled")
    assert not failed(findings)
    assert findings["width 4"].verdict == "unsupported"
    assert findings["shape and dtype"].detail.startswith("D 16;"), "the least that it declares"
    findings = found(EMA + source, "Elsewhere")
    assert {finding.verdict for finding in findings.values()} == {"unsupported"}


def test_degrees(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Cube(Ema):
    def after(self, y, x):
        return y**3

    def reach(self, inputs):
        return Reach.capped([DEGREE * d for d in inputs.degree], [3 * o for o in inputs.order])
"""
    for degree, verdict in ((2, "fail"), (3, "pass"), (4, "pass"), (13, "pass")):
        name = f"Cube{degree}"
        findings = found(EMA + source.replace("DEGREE", str(degree)).replace("Cube", name), name)
        assert failed(findings) == ({"degree"} if verdict == "fail" else set())
        assert findings["degree"].verdict == verdict


def test_an_exception_is_the_finding_of_its_check(found) -> None:  # type: ignore[no-untyped-def]
    source = """
class Raises(Ema):
    def state_size(self, L):
        raise RuntimeError("I do not know\\nand will not say")
"""
    findings = found(EMA + source, "Raises")
    assert failed(findings) == {"state size"}
    assert re.fullmatch(r"RuntimeError: I do not know \(\S+raises.py:36\)", findings["state size"].detail)


def test_bad_input(found, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    for arguments, said in (
        ({"name": "s7"}, "did you mean 's6"),
        ({"name": str(tmp_path / "nothing.py:Layer")}, "there is no file"),
        ({"name": "s6", "settings": ["M=2"]}, "setting of s6"),
        ({"name": "s6", "settings": ["N=two"]}, "N='two' is not"),
        ({"name": "s6", "settings": ["N=2,4"]}, "one value per setting"),
        ({"name": "s6", "settings": ["N=0"]}, "must be 1 or more"),
        ({"name": "s6", "widths": []}, "widths"),
        ({"name": "s6", "lengths": [0]}, "lengths"),
    ):
        with pytest.raises(BadInput, match=said):
            check(**arguments)  # type: ignore[arg-type]


def test_the_table() -> None:
    findings = [
        Check("causality", "fail", "position 3"),
        Check("shape", "pass", "all"),
        Check("gradients", "pass", "all"),
        Check("state size", "not stated", "at least 4"),
    ]
    assert text(findings).splitlines() == [
        "check       verdict     detail",
        "causality   fail        position 3",
        "shape       pass        all",
        "gradients   pass        all",
        "state size  not stated  at least 4",
        "",
        "4 checks: 2 passed, 1 failed, 1 not stated",
    ]
    assert text(findings[1:2]).endswith("1 checks: 1 passed")

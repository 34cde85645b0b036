"""Faults of the edges, B: `check` and `show` say what is so of layers that they have never met."""

import re
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

from expbench.inspection.layer_check.run import Check, check, text, tracebacks
from expbench.mixer import in_precision
from expbench.theory.degree import degree_of, generic, order_of
from expbench.theory.residues import PRIMES, NotMeasured, NotPolynomial, modulo
from tests.conftest import CommandLine, is_bad_input
from tests.third_party import linear as linear_layers

FOLDER = Path(__file__).parent.parent / "third_party"
SILENT = {"state size": "not stated", "degree": "not stated"}
UNORDERED = {**SILENT, "positions": "not stated"}
SINGLE = {**SILENT, "float64": "unsupported"}


def found(path: str, **options: object) -> dict[str, Check]:
    """Check a layer of tests/third_party, given as file:Class."""
    return _usual(path) if not options else _checked(path, **options)


@cache
def _usual(path: str) -> dict[str, Check]:
    return _checked(path)


def _checked(path: str, **options: object) -> dict[str, Check]:
    sizes: dict[str, object] = {"widths": (4,), "lengths": (6,), **options}
    return {finding.what: finding for finding in check(f"{FOLDER}/{path.replace(':', '.py:')}", **sizes)}  # type: ignore[arg-type]


def verdicts(findings: dict[str, Check]) -> dict[str, str]:
    """Return the verdicts other than pass."""
    return {what: finding.verdict for what, finding in findings.items() if finding.verdict != "pass"}


# The verdicts other than pass.
SOUND = {
    "recurrent:GRU": SILENT,
    "recurrent:LSTM": SILENT,
    "recurrent:MinGRU": SILENT,
    "recurrent:MinGRUSteps": SILENT,
    "recurrent:Float32Declared": SINGLE | {"bfloat16 autocast": "unsupported"},
    "recurrent:Float32Inside": SINGLE,
    "attention:TransformerLayer": UNORDERED,
    "attention:DropoutLayer": UNORDERED | {"stacking": "unsupported"},
    "attention:OwnAttention": UNORDERED,
    "attention:WithPositions": SILENT,
    "attention:LocalAttention": SILENT,
    "attention:Decoder": SILENT,
    "state_space:MambaBlock": SINGLE,
    "state_space:SelectiveScan": SINGLE,
    "state_space:S5": SILENT,
    "state_space:LRU": SILENT,
    "state_space:S4D": SILENT,
    **{f"linear:{name}": {"state size": "not stated"} for name in ("CausalConv", "DilatedConv", "FourierConv", "Masked")},
    **{f"linear:{name}": {"state size": "not stated"} for name in ("Shifted", "Gated", "SaysNot", "Unrelated")},
    "linear:Silent": SILENT,
    "linear:Unknown": {"state size": "not stated", "degree": "not measured"},
}


@pytest.mark.parametrize("path", SOUND)
def test_sound_layers_of_others_do_not_fail(path: str) -> None:
    findings = found(path)
    assert verdicts(findings) == SOUND[path], text(list(findings.values()))


@pytest.mark.parametrize(
    ("package", "name", "expected"),
    [
        ("mambapy", "Mambapy", SINGLE | {"stacking": "unsupported"}),
        ("mambapy", "MambapyScan", SINGLE),
        ("x_transformers", "XTransformer", SINGLE),
        ("local_attention", "Local", SILENT),
    ],
)
@pytest.mark.filterwarnings("ignore")
def test_sound_layers_of_packages_do_not_fail(package: str, name: str, expected: dict[str, str]) -> None:
    pytest.importorskip(package)
    assert verdicts(found(f"packages:{name}", lengths=(12,))) == expected


# The checks that fail. One cause fails one check; a batch normalisation mixes both sequences and positions.
FAULTY = {
    "attention:TransformerLayer": {"causality"},
    "faulty:LooksAhead": {"causality"},
    "faulty:LooksAheadLate": {"causality"},
    "faulty:Detaches": {"gradients"},
    "faulty:DetachesInput": {"gradients"},
    "faulty:WrongGradient": {"gradients"},
    "faulty:WrongGradientInFloat32": {"gradients"},
    "faulty:ComplexWrongGradient": {"gradients"},
    "faulty:IsNaN": {"finiteness"},
    "faulty:IsNaNInEvaluation": {"finiteness"},
    "faulty:DropsAChannel": {"shape and dtype"},
    "faulty:Flattens": {"shape and dtype"},
    "faulty:IsATuple": {"shape and dtype"},
    "faulty:IsWhole": {"shape and dtype"},
    "faulty:Raises": {"shape and dtype"},
    "faulty:NoWidth": {"shape and dtype"},
    "faulty:DropsInEvaluation": {"determinism"},
    "faulty:RemembersCalls": {"determinism"},
    "faulty:RandomAtTheStart": {"determinism"},
    "faulty:MixesTheBatch": {"causality", "batch independence"},
    "recurrent:Float32Recurrence": {"float64"},
    "state_space:TooFewStates": {"state size"},
    "linear:Swish": {"degree"},
    "linear:SaysNotFalsely": {"degree"},
    "linear:TooLow": {"degree"},
    "linear:Tiles": {"lengths"},
}


@pytest.mark.parametrize("path", FAULTY)
def test_b7_one_fault_fails_one_check(path: str) -> None:
    options = {"settings": ["causal=false"]} if path == "attention:TransformerLayer" else {}
    findings = found(path, **options)
    failed = {what for what, finding in findings.items() if finding.verdict == "fail"}
    assert failed == FAULTY[path], text(list(findings.values()))


def line_of(name: str, words: str) -> int:
    """Return the number of the only line of a file of tests/third_party that holds these words."""
    lines = (FOLDER / f"{name}.py").read_text().splitlines()
    (number,) = (i for i, line in enumerate(lines, 1) if words in line)
    return number


def test_b7_an_error_is_reported_once_with_its_place() -> None:
    findings = list(found("faulty:Raises").values())
    shown = text(findings)
    assert shown.count("cannot mix") == 1
    assert f"faulty.py:{line_of('faulty', 'cannot mix')})" in shown
    assert re.search(r"^not measured, stopped by the error of shape and dtype: finiteness, gradients", shown, re.MULTILINE)
    assert tracebacks(findings).count("Traceback (most recent call last)") == 1
    assert tracebacks(found("recurrent:GRU").values()) == ""  # type: ignore[arg-type]


def test_b7_the_command_prints_tracebacks_only_when_asked(expbench: CommandLine) -> None:
    words = ["check", f"{FOLDER}/faulty.py:Raises", "--D", "4", "--L", "4"]
    plain, full = expbench(*words), expbench(*words, "--traceback")
    assert (plain.code, full.code) == (1, 1)
    assert "Traceback" not in plain.out + plain.err
    assert full.out.startswith(plain.out)
    assert "Traceback (most recent call last)" in full.out


class ManyKinks(nn.Module):
    """A layer in which some of 24,000 kinks lie within any but the smallest steps."""

    def __init__(self, width: int):
        super().__init__()
        self.up, self.down = nn.Linear(width, 3_000), nn.Linear(3_000, width)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.down(torch.relu(self.up(x)))


def test_b1_kinks_are_no_wrong_gradients() -> None:
    findings = {f.what: f for f in check(f"{__file__}:ManyKinks", widths=(4,), lengths=(4,))}
    assert findings["gradients"].verdict == "pass", findings["gradients"]
    assert findings["float64"].verdict == "pass", "and no rounding to float32"


def test_b1_a_parameter_in_float32_is_named_and_a_wrong_gradient_of_it_is_found(tmp_path: Path) -> None:
    findings = found("state_space:MambaBlock")
    assert "it rounds A_log" in findings["float64"].detail
    assert "A_log" in findings["gradients"].detail
    source = (FOLDER / "state_space.py").read_text()
    right = "-torch.exp(self.A_log.float())"
    assert source.count(right) == 1
    path = tmp_path / "wrong.py"
    path.write_text(source.replace(right, f"(0.95 * {right} + 0.05 * {right}.detach())"))
    (gradients,) = (f for f in check(f"{path}:MambaBlock", widths=(4,), lengths=(5,)) if f.what == "gradients")
    assert gradients.verdict == "fail"
    assert "the gradient of A_log" in gradients.detail


def test_b2_complex_parameters_are_doubled_with_the_others() -> None:
    module = in_precision(nn.ParameterList([torch.ones(1, dtype=torch.complex64), torch.ones(1)]), torch.float64)
    assert [p.dtype for p in module.parameters()] == [torch.complex128, torch.float64]
    findings = found("state_space:LRU")
    assert findings["gradients"].detail.startswith("the input and 5 parameters, within")
    assert {findings[what].verdict for what in ("stacking", "float64", "float32", "determinism")} == {"pass"}


class Last(nn.Module):
    """A function of a sequence (B, L, D), summed at the last position."""

    def __init__(self, function) -> None:  # type: ignore[no-untyped-def]
        super().__init__()
        self.function = function

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.function(x)[:, -1]


def buffered(x: torch.Tensor) -> torch.Tensor:
    """Return x through a table made of constants, with exp and infinities, and a buffer that is filled in part."""
    mask = torch.zeros(4, 4).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
    weights = mask.softmax(-1).exp()
    y = torch.zeros_like(x)
    y[:, 1:] = weights[1:, 1:].to(x.dtype) @ x[:, 1:]
    return y


@pytest.mark.parametrize(
    ("function", "degree", "order"),
    [
        (lambda x: torch.fft.irfft(torch.fft.rfft(x, dim=1), 4, dim=1) - x, -1, -1),
        (lambda x: torch.fft.ifft(torch.fft.fft(x, dim=1, norm="ortho"), dim=1, norm="ortho").real - x, -1, -1),
        (lambda x: torch.fft.irfft(torch.fft.rfft(x, 7, 1) * torch.fft.rfft(x, 7, 1), 7, 1)[:, :4], 2, 2),
        (lambda x: (x * (1 + 2j)).real - x, -1, -1),
        (lambda x: ((1j * x) ** 2).real + x * x, -1, -1),
        (lambda x: torch.view_as_real(torch.complex(x, x).conj()).sum(-1), -1, -1),
        (lambda x: torch.complex(x, x).cumprod(1).real, 4, 4),
        (lambda x: torch.complex(x, x).cumprod(1).imag, -1, -1),  # (1 + i)^4 is -4
        (lambda x: nn.functional.conv1d(x.mT, torch.ones(1, 2, 3), padding=2)[..., :4].mT, 1, 1),
        (lambda x: x.scatter(1, torch.zeros_like(x, dtype=torch.long), x * x), 1, 1),
        (lambda x: torch.lerp(x, x * x.roll(1, 1), 0.5).masked_fill(torch.eye(4, 2).bool(), 3.0), 2, 2),
        (buffered, 1, 1),
    ],
)
def test_b3_linear_operations_are_measured(function, degree: int, order: int) -> None:  # type: ignore[no-untyped-def]
    assert degree_of(Last(function), 4, 2) == degree
    assert order_of(Last(function), 4, 2) == order


@pytest.mark.parametrize(
    ("function", "error", "named"),
    [
        (lambda x: x.tanh(), NotPolynomial, "tanh"),
        (lambda x: (x @ x.mT + torch.full((4, 4), -torch.inf).triu(1)).softmax(-1) @ x, NotPolynomial, "softmax"),
        (lambda x: x if x.sum() > 0 else -x, NotMeasured, "gt"),
        (lambda x: x.masked_fill(torch.eye(4, 2).bool(), -torch.inf), NotMeasured, "constant -inf"),
        (lambda x: torch.linalg.inv(x[:, :2]), NotMeasured, "inv"),
        (lambda x: torch.fft.fft(x, 17, dim=1).real, NotMeasured, "Fourier transform of 17"),
    ],
)
def test_b3_not_polynomial_is_said_only_where_it_is_shown(function, error: type, named: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=named):
        degree_of(Last(function), 4, 2)


def test_b3_residues_of_a_complex_product_are_those_of_the_numbers() -> None:
    p, (a, b, c, d) = PRIMES[1], torch.randint(1000, (4, 3))
    with modulo(p) as lifted:
        made = lifted(torch.complex(a.double(), b.double())) * lifted(torch.complex(c.double(), d.double()))
    assert made.dtype == torch.complex128
    assert torch.equal(made.values, (a * c - b * d) % p)
    assert made.imaginary is not None
    assert torch.equal(made.imaginary, (a * d + b * c) % p)


def test_b3_a_layer_in_float32_is_measured_in_float32() -> None:
    layer = generic(linear_layers.CausalConv(2), double=False)
    assert next(layer.parameters()).dtype == torch.float32
    assert degree_of(Last(layer), 4, 2) == 1


def test_b3_unknown_operations_are_named() -> None:
    assert "not measured (linalg_solve_triangular)" in found("linear:Unknown")["degree"].detail
    assert found("linear:CausalConv")["degree"].detail == "declares degree 1 and order 1, has degree 1 and order 1 (L=4)"
    assert found("linear:TilesDeclared")["degree"].detail.endswith("has degree 1 and order not measured (L=32)")


GRU = """
from torch import nn

class GRU(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.gru = nn.GRU(width, width, batch_first=True)

    def forward(self, x):
        return self.gru(x)[0]
"""


def test_b4_what_is_not_stated_is_not_called_unbounded(expbench: CommandLine) -> None:
    Path("gru.py").write_text(GRU)
    shown = expbench("show", "gru.py:GRU").out
    assert "reach (norm none, residual on): not stated (expbench check gru.py:GRU measures it)" in shown
    assert "no polynomial bound" not in shown
    words = ["--task", "polyreg", "--models", "gru.py:GRU,s6", "--L", "4", "--steps", "5", "--seeds", "0", "--norm"]
    words = [*words, "none,layer", "-t", "test_size=256", "-t", "validation_size=256"]
    dry = expbench("run", *words, "--dry-run").out
    lines = [line for line in dry.splitlines() if line.startswith("polyreg")]
    assert [("not stated" in line, "no polynomial bound" in line) for line in lines] == [
        *[(True, False), (False, True)],  # the GRU without and with a normalisation
        *[(False, True), (False, True)],
    ]
    assert "the reach is not stated; this measures it: expbench check gru.py:GRU" in dry
    assert expbench("run", *words).code == 0
    assert expbench("report").code == 0
    rows = [line for line in Path("results/report/report.md").read_text().splitlines() if line.startswith("| ")]
    of = {
        (name, norm): row
        for row in rows
        for name in ("GRU", "s6")
        for norm in ("none", "layer")
        if name in row.split("|")[1] and f" {norm}, none, on" in row
    }
    assert len(of) == 4
    assert of["GRU", "none"].count("not stated") == 2, "floor and reach"
    assert "no polynomial bound" not in of["GRU", "none"]
    assert all("not stated" not in row for key, row in of.items() if key != ("GRU", "none"))


def test_b5_a_class_without_documentation_inherits_none(expbench: CommandLine) -> None:
    Path("gru.py").write_text(GRU)
    shown = expbench("show", "gru.py:GRU").out
    assert "(no documentation)" in shown
    assert "Base class for all neural network modules" not in shown


def test_b6_messages_name_the_attribute_to_declare() -> None:
    assert 'declares them: dtypes = ("float32", "bfloat16")' in found("recurrent:Float32Recurrence")["float64"].detail
    tiles = found("linear:Tiles")
    assert "L=32, 64 work" in tiles["lengths"].detail
    assert "lengths = range(32, 4097, 32)" in tiles["lengths"].detail
    assert f"linear.py:{line_of('linear', 'must be a multiple of 32')}" in tiles["lengths"].detail
    assert 'positions = "sin"' in found("attention:OwnAttention")["positions"].detail
    assert found("attention:WithPositions")["positions"].detail.startswith("declares sin")


def test_b6_lengths_are_declared_like_widths(expbench: CommandLine) -> None:
    findings = found("linear:TilesDeclared", lengths=(16, 32, 96))
    assert verdicts(findings) == {"length 16": "unsupported", "state size": "not stated"}
    assert findings["shape and dtype"].detail.startswith("D 4; L 32, 96;")
    path = f"{FOLDER}/linear.py:TilesDeclared"
    words = ["--task", "polyreg", "--models", path, "--L", "16,64", "--steps", "2", "--seeds", "0"]
    words += ["-t", "test_size=256", "-t", "validation_size=256", "--norm", "none"]
    dry = expbench("run", *words, "--dry-run")
    assert dry.code == 0, dry.err
    assert "unsupported: length 16 is not supported (supported: 32 to 4096 in steps of 32)" in dry.out
    ran = expbench("run", *words)
    assert "ran 2 (1 ok, 1 unsupported)" in ran.err
    assert "at width 4, length 32" in expbench("show", path).out, "the usual length is replaced"
    is_bad_input(expbench("show", path, "--L", "20"), "length 20 is not supported")


HEADS = """
import torch
from torch import nn

class Heads(nn.Module):
    def __init__(self, width: int, heads: int = HEADS):
        super().__init__()
        assert width % heads == 0, f"{width} is no multiple of {heads}"
        self.qkv = nn.Linear(width, 3 * width)

    def forward(self, x):
        return self.qkv(x)[..., : x.shape[-1]]
"""


def test_b8_all_misses_are_one_message_with_a_size_that_suits_all(expbench: CommandLine) -> None:
    for heads in (4, 5):
        Path(f"heads{heads}.py").write_text(HEADS.replace("HEADS", str(heads)))
    Path("never.py").write_text(HEADS.replace("HEADS", "10**9"))
    words = ["run", "--task", "polyreg", "--L", "4", "--dry-run", "-t", "test_size=256"]
    models = ["--models", "linattn,heads4.py:Heads,heads5.py:Heads"]
    answer = expbench(*words, *models, "--match", "params=197")
    is_bad_input(answer, "2 of 3 models miss it by more than 5 %", "heads4.py:Heads has the nearest sizes")
    assert answer.err.count("heads4.py:Heads") == answer.err.count("heads5.py:Heads") == 1
    (suited,) = re.findall(r"the nearest size that suits all is params=(\d+)", answer.err)
    assert expbench(*words, *models, "--match", f"params={suited}").code == 0
    (within,) = re.findall(r"--within (\d+) accepts params=197", answer.err)
    assert expbench(*words, *models, "--match", "params=197", "--within", within).code == 0
    assert expbench(*words, *models, "--match", "params=197", "--within", str(int(within) - 1)).code == 2
    is_bad_input(
        expbench(*words, "--models", "never.py:Heads", "--match", "params=250"),
        *("cannot be built with any width up to 4096", "AssertionError: 1 is no multiple of 1000000000", "never.py:8"),
    )


def test_b8_the_difference_is_a_percentage_of_match(expbench: CommandLine) -> None:
    words = ["run", "--task", "polyreg", "--models", "s6", "--L", "4", "--dry-run"]
    is_bad_input(expbench(*words, "--within", "10"), "--within 10", "--match")
    for percent in ("0", "100", "-3", "many", "nan"):
        is_bad_input(expbench(*words, "--match", "params=300", f"--within={percent}"), "--within")

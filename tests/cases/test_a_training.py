"""Small inputs that once gave wrong numbers without a word, and what is right: in training."""

import math
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
from pyarrow import parquet as pq
from torch import Tensor

from expbench import contracts, plugins, settings
from expbench.data.corpus.sources import Source
from expbench.errors import BrokenContract
from expbench.language.model import LanguageModel
from expbench.ops import backends, linear_attention, scan, selective_scan
from expbench.results import store
from expbench.run import Run, training_version
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.task import Batch
from expbench.training import cuda_graph, stacking
from expbench.training.batches import TaskBatches
from expbench.training.ensemble import Ensemble
from expbench.training.epochs.checkpoint import Checkpoints, State
from expbench.training.epochs.step import parameter_groups
from expbench.training.family import Context, Scored
from expbench.training.job import Job
from expbench.training.loop import build, train
from expbench.training.optimizer import decays
from expbench.training.stacked import Stacked
from expbench.training.step import Steps
from tests.conftest import CommandLine

MODELS = sorted(plugins.discover("model"))


def job(**options: object) -> Job:
    fields: dict[str, object] = {"task": "polyreg", "models": "s6", "L": "4", "D": "3", "seeds": "0", "steps": "3"}
    fields |= {"batch_size": "4", "task_settings": ("test_size=64", "validation_size=64")}
    (one,) = expand(SweepSpec(**(fields | options)), "cpu")  # type: ignore[arg-type]
    return one


# The parameters of one layer without weight decay; all others are matrices: linear maps, B and C of ssm.
S6 = {"A_log", "skip", "to_delta.bias"}
EXEMPT = {
    "attn": {"qkv.bias"},
    "gru": {"of_input.bias", "of_state.bias"},
    "linattn": {"qkv.bias"},
    "polyattn": {"qkv.bias"},
    "s6": S6,
    "s6-bbar-b": S6,
    "s6-poly": S6,
    "s6-poly-disc": S6,
    "ssm": {"A_log", "bias", "skip"},
    "mamba-poly": {
        *("to_x.bias", "to_z.bias", "to_out.bias"),
        *("mixer.A_log", "mixer.to_delta.bias", "mixer.to_b.bias", "mixer.to_c.bias"),
    },
}


@pytest.mark.parametrize("model", MODELS)
def test_a3_one_rule_exempts_parameters_from_weight_decay_in_every_model(model: str) -> None:
    one = job(models=model, positions="learned", norm="layer")
    network = build(one.run, one.task, one.model, "cpu")
    around = {"embed.bias", "norms.0.weight", "norms.0.bias", "head.bias"}
    wanted = around | {f"mixers.0.{name}" for name in EXEMPT[model]}
    for size in (1, 2):
        decayed = Ensemble([network, build(one.run, one.task, one.model, "cpu")][:size]).decayed
        names = [name for name, _ in network.named_parameters()]
        assert {name for name, does in zip(names, decayed, strict=True) if not does} == wanted
    assert decays(network.code.weight), "learned positions are an embedding"

    language = LanguageModel(one.model, vocabulary=5, width=16, layers=1, context=4)
    name_of = {id(p): name for name, p in language.named_parameters()}
    _, kept = ({name_of[id(p)] for p in group["params"]} for group in parameter_groups(language, 0.1))  # type: ignore[attr-defined]
    assert {name for name in kept if ".mixer." in name} == {f"blocks.0.mixer.{name}" for name in EXEMPT[model]}


def test_a3_a_large_decay_leaves_a_and_skip_of_ssm_alone() -> None:
    one = job(models="ssm", weight_decay="1e5", lr="1e-6", steps="20", warmup="0", schedule="constant")
    network = build(one.run, one.task, one.model, "cpu")
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    list(train(one.run, one.task, network, "cpu"))
    shrunk = {name for name, p in network.named_parameters() if float(p.detach().norm()) < 0.5 * float(before[name].norm())}
    assert shrunk == {"embed.weight", "mixers.0.B", "mixers.0.C", "head.weight"}


def test_only_runs_that_a_change_concerns_have_a_new_version_of_training() -> None:
    text = {"task": "wikitext", "models": "s6", "L": "16", "D": "8", "task_settings": ("data=markov", "tokenizer=word")}
    runs: dict[str, Run] = {
        "plain": job().run,
        "decayed": job(weight_decay="0.1").run,
        "text, decayed": job(**text, weight_decay="0.1").run,
        "text with ssm, decayed": job(**text | {"models": "ssm"}, weight_decay="0.1").run,
        "a stranger's layer": job(models="torch.nn:Identity").run,
    }
    assert {name: training_version(run) for name, run in runs.items()} == {
        "plain": 2,
        "decayed": 3,
        "text, decayed": 2,
        "text with ssm, decayed": 3,
        "a stranger's layer": 3,
    }


COUNTERS = """
import torch
from torch import nn

class Reassigned(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)
        self.register_buffer("calls", torch.zeros(()))
    def forward(self, x):
        if self.training:
            self.calls = self.calls + 1
        return torch.clamp(self.calls / 20, max=1) * self.map(x)

class InPlace(Reassigned):
    def forward(self, x):
        if self.training:
            self.calls += 1
        return torch.clamp(self.calls / 20, max=1) * self.map(x)

class Attribute(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map, self.log = nn.Linear(width, width), {"calls": [0]}
    def forward(self, x):
        self.log["calls"][0] += 1
        return min(1.0, self.log["calls"][0] / 20) * self.map(x)

class Evaluated(Reassigned):
    def forward(self, x):
        if not self.training:
            self.calls = self.calls + 1
        return (1 + self.calls) * self.map(x)

class Running(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)
        self.mean = nn.Parameter(torch.zeros(width), requires_grad=False)
    def forward(self, x):
        if self.training:
            with torch.no_grad():
                self.mean.lerp_(x.mean((0, 1)), 0.1)
        return self.map(x - self.mean)

SEEN = [0]

class Elsewhere(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.map = nn.Linear(width, width)
    def forward(self, x):
        SEEN[0] += 1
        return (1 + SEEN[0] / 20) * self.map(x)

class Plain(Reassigned):
    def forward(self, x):
        return self.map(x)
"""


def scores(stack: list[Job], size: int) -> dict[tuple[int, str, int, str], float]:
    """Return the scores of jobs trained in the stacks that a sweep would form, of at most `size` jobs."""
    found, first = {}, 0
    for made in Stacked().group(stack, "cpu", size):
        for event in Stacked().train(made, Context("cpu", Path(), float("inf"))):
            if isinstance(event, Scored):
                score = event.score
                found[first + event.member, score.metric, score.step, score.split] = score.value
        first += len(made.jobs)
    return found


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        ("Reassigned", "forward changes its state (calls)"),
        ("InPlace", "forward changes its state (calls)"),
        ("Attribute", "forward changes its state (log)"),
        ("Evaluated", "forward changes its state (calls)"),
        ("Running", "forward changes its state (mean)"),
        ("Plain", None),
    ],
)
def test_a1_a_layer_whose_forward_changes_its_state_is_trained_as_it_is_alone(
    tmp_path: Path, model: str, reason: str | None
) -> None:
    path = tmp_path / "counters.py"
    path.write_text(COUNTERS)
    spec = SweepSpec(
        task="polyreg", models=f"{path}:{model}", L="4", D="3", seeds="0:3", steps="25", batch_size="8", dtype="float64",
        task_settings=("test_size=64", "validation_size=64"),
    )  # fmt: skip
    stack = expand(spec, "cpu")
    size, why = stacking.together(stack, "cpu")
    assert ((why or "").partition(" (by")[0] or None) == reason
    assert (size > 1) is (reason is None)
    assert scores(stack, 16) == pytest.approx(scores(stack, 1), rel=1e-9)


def test_a1_a_layer_that_remembers_elsewhere_is_refused(tmp_path: Path) -> None:
    """Its runs would depend on those before them in the same process."""
    path = tmp_path / "counters.py"
    path.write_text(COUNTERS)
    spec = SweepSpec(task="polyreg", models=f"{path}:Elsewhere", L="4", D="3", seeds="0", steps="2")
    with pytest.raises(BrokenContract, match="the output differs between two layers of one seed"):
        expand(spec, "cpu")


def relative(y: Tensor, exact: Tensor) -> float:
    return float(((y.double() - exact).norm() / exact.norm()).detach())


def selective(x: Tensor, backend: str) -> Tensor:
    """Return the scan of x with a step of 3e-4 and A = -1: the state hardly decays."""
    A = -torch.ones(4, 1, dtype=torch.promote_types(x.dtype, torch.float32))
    return selective_scan(x, torch.full_like(x, -8), A, x[..., :1], x[..., :1], backend=backend)


OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear attention, reference": lambda x: linear_attention.linear_attention(x, x, x, "reference"),
    "linear attention, torch": lambda x: linear_attention.linear_attention(x, x, x, "torch"),
    "scan": lambda x: scan.linear_scan(torch.ones_like(x[:, 0]), x.transpose(0, 1)).transpose(0, 1),
    "scan, reference": lambda x: scan.reference(torch.ones_like(x).transpose(0, 1), x.transpose(0, 1)).transpose(0, 1),
    "selective scan, reference": lambda x: selective(x, "reference"),
    "selective scan, torch": lambda x: selective(x, "torch"),
}


@pytest.mark.parametrize("autocast", [True, False])
@pytest.mark.parametrize("operation", OPERATIONS)
def test_a9_every_operation_keeps_its_state_in_float32(operation: str, autocast: bool) -> None:
    """Inputs in bfloat16, with and without autocast, against float64: a state in bfloat16 stops at 256 times a term."""
    x = 1 + 0.1 * torch.randn(1, 2048, 4, generator=torch.Generator().manual_seed(1))
    x = x.bfloat16()
    compute = OPERATIONS[operation]
    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        y = compute(x)
    assert y.dtype == torch.bfloat16
    assert relative(y, compute(x.double())) < 0.01


@pytest.mark.parametrize("backend", ["reference", "torch"])
@pytest.mark.parametrize("model", [model for model in MODELS if model != "mamba-poly"])  # it explodes at this length
def test_a9_every_model_is_near_float64_under_autocast(model: str, backend: str) -> None:
    cls = contracts.load_model(plugins.find("model", model))
    if backend not in (getattr(cls, "backends", None) or (backend,)):
        return
    x = 1 + 0.1 * torch.randn(1, 1024, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    layer = cls(4)
    with torch.no_grad(), backends.using(backend):
        with torch.autocast("cpu", torch.bfloat16):
            y = layer(x)
        assert relative(y, layer.double()(x.double())) < 0.03


@pytest.mark.parametrize(("model", "kept"), [("Reassigned", False), ("Attribute", False), ("Plain", True)])
def test_a1_steps_that_change_the_state_of_a_layer_are_not_captured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, kept: bool
) -> None:
    (tmp_path / "counters.py").write_text(COUNTERS)
    one = job(models=f"{tmp_path / 'counters.py'}:{model}")
    ensemble = Ensemble([build(one.run, one.task, one.model, "cpu")])
    steps = Steps([one.run], [one.task], ensemble, TaskBatches([one.run], [one.task], "cpu"), "cpu")
    steps._capturing = True  # as on a GPU
    taken: list[int] = []

    def capture(take: Callable[[], Batch], *_: object) -> cuda_graph.Capture[Batch]:
        taken.append(1)
        return cuda_graph.Capture(take(), take)

    monkeypatch.setattr("expbench.training.step.capture", capture)
    for _ in range(6):
        steps.take()
    assert (steps.captured, len(taken)) == (kept, kept)
    assert (steps.no_cuda_graph_reason is None) is kept
    assert kept or str(steps.no_cuda_graph_reason).startswith("forward changes its state (")


def test_a1_a_stacked_number_that_is_not_finite_differs_from_one_that_is() -> None:
    one, other = torch.tensor([1.0, 2.0]), torch.tensor([1.0, math.nan])
    assert stacking._apart(one, one) == stacking._apart(other, other) == 0
    assert stacking._apart(one, other) == stacking._apart(other, one) == math.inf
    assert stacking._apart(one * 1.5, one) == pytest.approx(0.5)


SILENT = """
import torch
from torch import nn

class Silent(nn.Module):
    \"\"\"Returns no number in evaluation of many sequences, at the first of them only with `some`.\"\"\"
    value = float("nan")
    def __init__(self, width, some: bool = False):
        super().__init__()
        self.map, self.some = nn.Linear(width, width), some
    def forward(self, x):
        y = self.map(x)
        if self.training or torch.is_grad_enabled() or len(x) < 16:
            return y
        bad = torch.zeros_like(x[..., :1])
        bad[:1] = 1
        return torch.where(bad > 0, self.value, y) if self.some else torch.full_like(y, self.value)

class Infinite(Silent):
    value = float("inf")
"""
ARGMAX = """
from dataclasses import dataclass
import torch
from torch.nn import functional as F
from expbench.task import Batch, Control, Score, Task

@dataclass(frozen=True, kw_only=True)
class LastBit(Task):
    \"\"\"Repeat the last bit.\"\"\"
    L: int = 8
    primary_metric = "accuracy"
    higher_is_better = True
    success_threshold = 0.95
    vocabulary = 2
    outputs = 2
    def batch(self, rng, size):
        bits = rng.coins(size, self.L).long()
        return Batch(bits, bits[:, -1])
    def loss(self, outputs, targets):
        return F.cross_entropy(outputs, targets)
    def measure(self, outputs, targets):
        return {"right": (outputs.argmax(-1) == targets).sum(), "all": torch.tensor(len(targets))}
    def summary(self, totals):
        return [Score("accuracy", float(totals["right"] / totals["all"]))]
    def controls(self):
        yield Control("silent", "positive", lambda x: torch.full((len(x), 2), float("nan")))
"""


@pytest.mark.parametrize(
    ("task", "settings", "layer", "some"),
    [
        ("count-in-row", ("-t", "classes=4"), "Silent", "true"),
        ("count-in-row", ("-t", "classes=4", "-t", "supervise=last"), "Silent", "false"),
        ("finite", ("-t", "samples=16"), "Silent", "true"),
        ("last-bit", (), "Silent", "true"),
        ("last-bit", (), "Infinite", "false"),
    ],
)
def test_a2_outputs_that_are_no_numbers_in_evaluation_diverge(
    expbench: CommandLine, task: str, settings: tuple[str, ...], layer: str, some: str
) -> None:
    Path("silent.py").write_text(SILENT)
    Path("own").mkdir()
    Path("own/last_bit.py").write_text(ARGMAX)
    sizes = ("--L", "8", "--steps", "4", "--batch-size", "4", "--seeds", "0:2", "--tasks-dir", "own")
    tests = ("-t", "validation_size=64", "-t", "test_size=64")
    model = ("--models", f"silent.py:{layer}", "-m", f"some={some}")
    answer = expbench("run", "--task", task, *model, *sizes, *tests, *settings)
    frame = store.read(Path("results")).frame
    runs = frame[frame["kind"] == "run"]
    assert answer.code == 0, answer.err
    assert set(runs["status"]) == {"diverged"}
    assert runs["error"].str.contains("is not finite after 4 steps").all()
    assert set(runs["stack_size"]) == {2}
    assert not runs.loc[(runs["split"] != "train") & runs["primary"].fillna(False), "value"].map(math.isfinite).any()
    if task == "last-bit":
        assert "the positive control silent does not solve last-bit: accuracy nan" in answer.err


MARKOV = ("--task", "wikitext", "-t", "data=markov", "-t", "tokenizer=word", "--L", "16", "--D", "8", "--seeds", "0")


def test_a2_a_language_model_without_a_number_in_evaluation_diverges(expbench: CommandLine) -> None:
    Path("silent.py").write_text(SILENT)
    answer = expbench("run", *MARKOV, "--models", "silent.py:Silent", "--steps", "2", "--batch-size", "16")
    assert answer.code == 0, answer.err
    frame = store.read(Path("results")).frame
    (error,) = frame.loc[frame["status"] == "diverged", "error"].unique()
    assert error == "the perplexity of the validation split is not finite after 2 steps"


AHEAD = """
import torch
from torch import nn
from expbench.models.attn import Attn
from torch.nn import functional as F

class Rolls(nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)
    def forward(self, x):
        return super().forward(torch.roll(x, -1, 1))

class Unmasked(Attn):
    def mix(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)

class Zero(Rolls):
    def __init__(self, width):
        super().__init__(width)
        nn.init.zeros_(self.weight)

class Transform(nn.Module):
    \"\"\"Causal, by Fourier transforms.\"\"\"
    def __init__(self, width):
        super().__init__()
        self.kernel = nn.Parameter(torch.rand(64, width) / 64)
    def forward(self, x):
        L = x.shape[1]
        product = torch.fft.rfft(x, 2 * L, 1) * torch.fft.rfft(self.kernel[:L], 2 * L, 0)
        return torch.fft.irfft(product, 2 * L, 1)[:, :L]

class Single(Transform):
    \"\"\"Works in float32 only, and at lengths that are multiples of 4.\"\"\"
    lengths = range(4, 65, 4)
    dtypes = ("float32",)
    def forward(self, x):
        assert x.dtype == torch.float32 and x.shape[1] % 4 == 0
        return super().forward(x)

class Noisy(nn.Linear):
    def __init__(self, width):
        super().__init__(width, width)
    def forward(self, x):
        return super().forward(x) + 0.1 * torch.randn_like(x)
"""


@pytest.mark.parametrize("layer", ["Rolls", "Unmasked", "Zero"])
def test_a4_a_language_model_that_looks_ahead_is_refused(expbench: CommandLine, layer: str) -> None:
    Path("ahead.py").write_text(AHEAD)
    answer = expbench("run", *MARKOV, "--models", f"ahead.py:{layer}", "--steps", "2", "--batch-size", "16")
    assert answer.code == 2
    assert f"model 'ahead.py:{layer}' looks ahead: its output at position " in answer.err


@pytest.mark.parametrize(
    ("layer", "causal"),
    [("Rolls", False), ("Unmasked", False), ("Zero", False), ("Transform", True), ("Single", True), ("Noisy", True)],
)
@pytest.mark.parametrize("L", [16, 60])
def test_a4_causality_is_probed(tmp_path: Path, layer: str, causal: bool, L: int) -> None:
    path = tmp_path / "ahead.py"
    path.write_text(AHEAD)
    cls = contracts.load_model(plugins.find("model", f"{path}:{layer}"))
    state = torch.get_rng_state()
    found = contracts.check_mixer(cls, layer, 4, {"heads": 2} if layer == "Unmasked" else {}, L, "cpu")
    assert found.causal is causal
    assert (found.leak is None) is causal
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("model", MODELS)
def test_a4_every_built_in_layer_is_causal(model: str) -> None:
    cls = contracts.load_model(plugins.find("model", model))
    values = contracts.resolved_settings(cls, settings.resolve(cls, {}, model), 3)
    assert contracts.check_mixer(cls, model, 3, values, 33, "cpu").causal is True


def test_a12_a_checkpoint_that_was_edited_or_damaged_anywhere_gives_way_to_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept = Checkpoints(tmp_path, {"of": "a training"})
    numbers = {"a": torch.arange(6.0).view(2, 3), "b": torch.randn(3, dtype=torch.complex64)}
    for step in (1, 2):
        newest = kept.save(State(step, {name: x * step for name, x in numbers.items()}, {"since": 1, "scores": [0.5]}))
    whole = newest.read_bytes()
    found = kept.newest()
    assert found is not None
    assert (found.step, found.about) == (2, {"since": 1, "scores": [0.5]})
    assert all(torch.equal(found.tensors[name], 2 * x) for name, x in numbers.items())
    edits = {b'step\\": 2': b'step\\": 7', b"0.5": b"0.6", b'"a"': b'"c"', b"[2,3]": b"[3,2]", b"a training": b"b training"}
    flipped = [whole[:i] + bytes([whole[i] ^ 1 << i % 8]) + whole[i + 1 :] for i in range(0, len(whole), 3)]
    edited = [whole.replace(before, after) for before, after in edits.items()]
    assert whole not in edited
    for damaged in [*flipped, *edited]:
        newest.write_bytes(damaged)
        found = kept.newest()
        said = capsys.readouterr().err
        assert found is not None
        if found.step == 2:  # a flip in what separates names and numbers, which changes none
            assert all(torch.equal(found.tensors[name], 2 * x) for name, x in numbers.items())
            assert found.about == {"since": 1, "scores": [0.5]}
        else:
            assert found.step == 1
            assert f"{newest.name} is damaged" in said
            assert said.endswith("resuming from step-000000001.safetensors\n")


@pytest.mark.parametrize(
    "kind", ["train.txt", "wiki.train.tokens", "train.parquet", "train-00000-of-00001.parquet", "one row"]
)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a17_a_text_is_the_same_whatever_it_was_read_from(tmp_path: Path, kind: str, mark: str, end: str) -> None:
    lines = ["", " = A heading = ", "A line\u2028with another separator .", "\t", "The last one .", ""]
    rows = [f"{mark}{lines[0]}{end}", *(f"{line}{end}" for line in lines[1:])]
    if kind == "one row":
        pq.write_table(pa.table({"text": ["".join(rows)]}), tmp_path / "train.parquet")
    elif kind.endswith("parquet"):
        pq.write_table(pa.table({"text": rows}), tmp_path / kind)
    else:
        (tmp_path / kind).write_bytes("".join(rows).encode())
    assert list(Source(path=tmp_path).lines("train")) == ["", " = A heading = ", lines[2], "", "The last one .", ""]


def test_a4_the_perplexity_of_a_generated_texts_source_is_a_floor(expbench: CommandLine) -> None:
    Path("ahead.py").write_text(AHEAD)
    options = ("--D", "32", "--steps", "60", "--batch-size", "16", "--lr", "0.05", "--allow-noncausal")
    answer = expbench("run", *MARKOV[:-4], "--seeds", "0", "--models", "ahead.py:Rolls", *options)
    assert answer.code == 0, answer.err
    frame = store.read(Path("results")).frame
    runs = frame[frame["kind"] == "run"]
    assert runs["floor"].unique().tolist() == pytest.approx([3.61], abs=0.005)
    assert set(runs["causal"]) == {False}
    assert expbench("report").code == 0
    page = Path("results/report/report.md").read_text()
    assert "| 3.612 (the test perplexity is BELOW its floor) |" in page

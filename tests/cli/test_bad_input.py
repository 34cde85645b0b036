"""Every kind of bad input: one line that names the nearest valid choice, exit code 2, and nothing trained or lost."""

from pathlib import Path

import pytest

from expbench.ops.selective import backend_mamba, backend_triton
from expbench.results import store
from tests.conftest import TINY, CommandLine, is_bad_input
from tests.results.test_store import broken_files

RUN = ["run", "--task", "polyreg", "--models", "linattn"]


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["run", "--task", "polyregg", "--models", "s6"], "did you mean 'polyreg'?"),
        (["run", "--task", "polyreg", "--models", "s7"], "did you mean 's6'?"),
        (["run", "--task", "polyreg", "--models", "linatn,s6"], "did you mean 'linattn'?"),
        (["run", "--models", "s6"], "Missing option '--task'"),
        (["run", "--task", "", "--models", "s6"], "empty member"),
        ([*RUN, "--lr", ""], "--lr: '' has an empty member"),
        ([*RUN, "--L", "4,,8"], "--L: '4,,8' has an empty member"),
        ([*RUN, "--L", "4,4"], "--L: '4' occurs twice"),
        ([*RUN, "--L", "8:4"], "'8:4' is an empty or malformed range"),
        ([*RUN, "--L", "four"], "L='four' is not a whole number"),
        ([*RUN, "--L", "0"], "L=0 must be above 0"),
        ([*RUN, "--L", "-3"], "L=-3 must be above 0"),
        ([*RUN, "--D", "0"], "--D: 0 is too small"),
        ([*RUN, "--D", "2.5"], "--D='2.5' is not a whole number"),
        ([*RUN, "--depth", "0"], "--depth: 0 is too small"),
        ([*RUN, "--steps", "0"], "--steps: 0 is too small"),
        ([*RUN, "--batch-size", "-1"], "--batch-size: -1 is too small"),
        ([*RUN, "--seeds", "-1"], "--seeds: -1 is too small"),
        ([*RUN, "--lr", "0"], "--lr: 0 must be above 0"),
        ([*RUN, "--lr", "nan"], "is not a finite number"),
        ([*RUN, "--lr", "none"], "is not a finite number"),
        ([*RUN, "--seeds", "none"], "is not a whole number"),
        ([*RUN, "--norm", "batch"], "(known: layer, none, rms)"),
        ([*RUN, "--norm", "layre"], "did you mean 'layer'?"),
        ([*RUN, "--positions", "sine"], "did you mean 'sin'?"),
        ([*RUN, "--positions", "rotary"], "--positions rotary: linattn does not apply this code; models that do: attn"),
        ([*RUN, "--position-base", "one"], "--position-base: 'one' is not a number above 1, or auto"),
        ([*RUN, "--residual", "of"], "did you mean 'off'?"),
        ([*RUN, "--dtype", "float16"], "float"),
        ([*RUN, "--device", "gpu"], "--device"),
        ([*RUN, "--device", "cuda"], "finds no CUDA device; use --device cpu"),
        ([*RUN, "--stepz", "3"], "--steps"),
        ([*RUN, "--shard", "3/2"], "--shard: '3/2' is not I/N"),
        ([*RUN, "--shard", "one"], "--shard"),
        ([*RUN, "--degree", "17"], "family suffix at L=16 with inputs=unit can have 1 to 16"),
        ([*RUN, "--degree", "0"], "can have 1 to 16"),
        ([*RUN, "-t", "famly=suffix"], "did you mean 'family'?"),
        ([*RUN, "-t", "family=suffx"], "did you mean 'suffix'?"),
        ([*RUN, "-t", "family"], "is not NAME=VALUE"),
        ([*RUN, "-t", "family=suffix", "-t", "family=sparse"], "given twice"),
        ([*RUN, "--degree", "3", "-t", "degree=4"], "--degree sets this setting"),
        ([*RUN, "-t", "instance=4"], "--instances sets this setting"),
        (["run", "--task", "polyreg", "--models", "s6", "-m", "s6:N=4", "-m", "N=2"], "N is given twice"),
        ([*RUN, "--L", "99999999999"], "is too large, the maximum is 1048576"),
        ([*RUN, "--L", "0:1000000000000"], "has more than 100000 members"),
        ([*RUN, "--D", "10000000"], "--D: 10000000 is too large, the maximum is 65536"),
        ([*RUN, "--seeds", "18446744073709551615"], "--seeds: 18446744073709551615 is too large"),
        ([*RUN, "--instances", "99999999999999999999"], "--instances: 99999999999999999999 is too large"),
        ([*RUN, "--lr", "1e38"], "--lr: 1e+38 is too large"),
        ([*RUN, "--shard", "²/3"], "--shard"),
        ([*RUN, "--results", ""], "--results: the folder name is empty"),
        ([*RUN, "-t", "lo=0", "-t", "hi=1e200"], "hi=1e+200 is too large"),
        ([*RUN, "-t", "lo=1", "-t", "hi=1.0000000000000002"], "below hi"),
        ([*RUN, "-t", "inputs=signs", "-t", "eps=1e-17"], "must lie between 0 and 1"),
        ([*RUN, "-t", "family=random", "-t", "max_exponent=100000000000000000000"], "the maximum is 64"),
        ([*RUN, "-t", "family=product", "--degree", "100000000000"], "can have 16 to 1024"),
        ([*RUN, "-t", "test_size=100000000000"], "is too large"),
        (["run", "--task", "polyreg", "--models", "mine.py"], "name the class in that file, as mine.py:Class"),
        (["show", "s6", "-t", "foo=1"], "s6 is a model; give its settings by -m"),
        (["show", "polyreg", "-m", "N=3"], "polyreg is a task; give its settings by -t"),
        (["show", "polyreg", "-t", "L=4", "--L", "8"], "given by --L"),
        (["show", "s6", "-m", "attn:N=2"], "unknown model in -m"),
        ([*RUN, "-t", "count-in-row:classes=3"], "polyreg"),
        ([*RUN, "-m", "N=3"], "setting of linattn"),
        (["run", "--task", "polyreg", "--models", "s6,attn", "-m", "N=3"], "setting of attn"),
        (["run", "--task", "polyreg", "--models", "s6", "-m", "s6:n=3"], "did you mean 'N'?"),
        (["run", "--task", "polyreg", "--models", "s6", "-m", "s7:N=3"], "did you mean 's6'?"),
        (["run", "--task", "polyreg", "--models", "s6", "-m", "N=0"], "N=0"),
        (["run", "--task", "polyreg", "--models", "attn", "-m", "heads=3"], "heads=3 does not divide the width 4"),
        (["run", "--task", "count-in-row", "--models", "s6", "--L", "4"], "classes=20 must be 2 to 5 at L=4"),
        (["run", "--task", "count-in-row", "--models", "s6", "--degree", "3"], "setting of count-in-row"),
        (["run", "--task", "count-in-row,polyreg", "--models", "s6", "-t", "family=suffix"], "setting of count-in-row"),
        (["run", "--task", "polyreg", "--models", "nowhere.py:Layer"], "there is no file 'nowhere.py'"),
        (["run", "--task", "polyreg", "--models", "no_such_module:Layer"], "does not import"),
        ([*RUN, "--tasks-dir", "nowhere"], "'nowhere' is not a folder"),
        (["report"], "results folder 'results'"),
        (["show", "polyregs"], "did you mean 'polyreg'?"),
        (["show", "polyreg", "-t", "degree=99"], "can have 1 to 16"),
        (["show", "s6", "--D", "0"], "is not in 1 to"),
        (["trace", "abc"], "results folder 'results'"),
        (["rnu"], "run"),
        (["show", "s6", "--L", "none"], "--L"),
        (["theory", "bound", "--seed", "1" * 31], "--seed"),
    ],
    ids=" ".join,
)  # fmt: skip
def test_bad_input(expbench: CommandLine, words: list[str], expected: str) -> None:
    is_bad_input(expbench(*words), expected)
    assert not Path("results").exists(), "nothing is made before the input is known to be good"


def test_results_that_cannot_be_written(expbench: CommandLine) -> None:
    Path("file").touch()
    is_bad_input(expbench(*RUN, *TINY, "--results", "file/below"), "file/below", "cannot be written", "--results results")
    is_bad_input(expbench(*RUN, *TINY, "--results", "file"), "cannot be written")


def test_report_of_a_missing_folder_names_its_neighbour(expbench: CommandLine) -> None:
    Path("results-a").mkdir()
    is_bad_input(expbench("report", "--results", "result-a"), "did you mean 'results-a'?")


def test_report_of_nothing(expbench: CommandLine) -> None:
    Path("results").mkdir()
    is_bad_input(expbench("report"), "contains no runs yet")


def test_report_of_what_is_not_in_the_table(expbench: CommandLine) -> None:
    expbench(*RUN, *TINY)
    is_bad_input(expbench("report", "--task", "polyregs"), "did you mean 'polyreg'?")
    is_bad_input(expbench("report", "--models", "linatn"), "did you mean 'linattn'?")
    is_bad_input(expbench("report", "--models", ""), "empty member")


def test_trace_of_unknown_and_ambiguous_keys(expbench: CommandLine) -> None:
    expbench(*RUN, *TINY)
    is_bad_input(expbench("trace", "zzz"), "unknown run 'zzz'")
    is_bad_input(expbench("trace", ""), "unknown run")


def test_broken_files_stop_a_run_before_it_trains_and_a_report_reads_the_rest(expbench: CommandLine) -> None:
    expbench(*RUN, *TINY)
    broken = broken_files(Path("results"))
    before = {path: path.read_bytes() for path in Path("results").glob("*.parquet")}
    is_bad_input(expbench(*RUN, *TINY, "--lr", "0.5"), str(broken[0]), "file not changed")
    report = expbench("report")
    assert report.code == 2
    assert [line.split(": ")[1] for line in report.err.strip().splitlines()] == [str(path) for path in broken]
    assert "linattn" in Path(report.out.strip()).read_text()
    assert {path: path.read_bytes() for path in Path("results").glob("*.parquet")} == before


MODELS = {
    "syntax": ("def", "does not import"),
    "exits": ("raise SystemExit(3)", "does not import: SystemExit"),
    "missing_import": ("import no_such_library", "does not import: ModuleNotFoundError"),
    "misnamed": ("from torch import nn\nclass Other(nn.Module): pass", "defines no class Misnamed"),
    "not_a_module": ("class NotAModule: pass", "is not a torch.nn.Module"),
    "wrong_shape": (
        "from torch import nn\nclass WrongShape(nn.Linear):\n    def __init__(self, w): super().__init__(w, w + 1)",
        "to (2, 16, 5)",
    ),
    "tuple": (
        "from torch import nn\nclass Tuple(nn.Module):\n    def __init__(self, w): super().__init__()\n"
        "    def forward(self, x): return x, x",
        "forward returns tuple, not a tensor",
    ),
    "raises": (
        "from torch import nn\nclass Raises(nn.Module):\n    def __init__(self, w): super().__init__()\n"
        "    def forward(self, x): raise KeyError('x')",
        "breaks its contract: KeyError",
    ),
    "lost": ("from expbench.mixer import Mixer\nclass Lost(Mixer):\n    positions = 'sine'", "did you mean 'sin'?"),
    "needs": ("from torch import nn\nclass Needs(nn.Module):\n    def __init__(self, w, heads): pass", "needs a value for"),
}


@pytest.mark.parametrize("name", MODELS)
def test_broken_model_plugins(expbench: CommandLine, name: str, tmp_path: Path) -> None:
    source, expected = MODELS[name]
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / f"{name}.py").write_text(source)
    words = ["run", "--task", "polyreg", "--models", name.replace("_", "-"), "--models-dir", str(folder), *TINY[4:]]
    is_bad_input(expbench(*words[:-6], *words[-4:]), expected)
    assert not Path("results").exists()


TASK = """
from dataclasses import dataclass
import torch
from expbench.task import Batch, Score, Task

@dataclass(frozen=True, kw_only=True)
class NAME(Task):
    L: int = 4
    primary_metric = "error"
    higher_is_better = False
    success_threshold = 0.1
    def batch(self, rng, size):
        x = rng.uniform(size, self.L, 1)
        return Batch(x, x[:, -1])
    def loss(self, outputs, targets):
        return ((outputs - targets) ** 2).mean()
    def measure(self, outputs, targets):
        return {"error": self.loss(outputs, targets)}
    def summary(self, totals):
        return [Score("error", float(totals["error"]))]
"""
TASKS = {
    "lacking": (TASK.replace("    def loss", "    def los"), "lacks loss"),
    "nameless": (TASK.replace('    primary_metric = "error"\n', ""), "lacks primary_metric"),
    "former": (
        TASK.replace("    primary_metric = ", "    headline = "),
        "lacks primary_metric (primary_metric was called headline)",
    ),
    "crooked": (TASK.replace("size, self.L, 1)", "size, 1, self.L)"), "inputs have shape (2, 1, 4), not (2, 4, 1)"),
    "silent": (TASK.replace('Score("error"', 'Score("eror"'), "not the primary metric error"),
    "infinite": (TASK.replace(".mean()", ".mean() / 0"), "is not finite"),
    "bare": (TASK.replace("@dataclass(frozen=True, kw_only=True)\n", ""), "is no expbench.task.Task dataclass"),
    "breaking": (TASK.replace("    def batch", "    def __post_init__(self): 1 / 0\n    def batch"), "ZeroDivisionError"),
    "required": (TASK.replace("    L: int = 4", "    L: int = 4\n    k: int"), "needs a value for its setting k"),
    "undecorated": (TASK.replace("(Task)", ""), "is no expbench.task.Task dataclass"),
}


@pytest.mark.parametrize("name", TASKS)
def test_broken_task_plugins(expbench: CommandLine, name: str, tmp_path: Path) -> None:
    source, expected = TASKS[name]
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / f"{name}.py").write_text(source.replace("NAME", name.capitalize()))
    is_bad_input(expbench("run", "--task", name, "--models", "linattn", "--tasks-dir", str(folder)), expected)


def test_a_plugin_that_clashes_names_both_places(expbench: CommandLine, tmp_path: Path) -> None:
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "s6.py").write_text("")
    for command in (["list"], ["run", "--task", "polyreg", "--models", "attn"]):
        is_bad_input(expbench(*command, "--models-dir", str(folder)), "two models are named 's6'", "built-in", str(folder))


def test_a_backend_that_is_forced(expbench: CommandLine) -> None:
    """An unknown one, one that is absent here, and one that cannot do what a model asks for; nothing is left behind."""
    sweep = ["run", "--task", "polyreg", *TINY]
    is_bad_input(expbench(*sweep, "--models", "s6", "--backend", "tritn"), "--backend", "did you mean 'triton'?")
    if backend_mamba.unavailable_reason() is not None:
        is_bad_input(expbench(*sweep, "--models", "s6", "--backend", "mamba"), "mamba does not work here", "to get it: ")
    if backend_triton.unavailable_reason() is None:
        words = ["--models", "s6-poly", "-m", "taylor=4", "--backend", "triton"]
        is_bad_input(expbench(*sweep, *words), "s6-poly", "Taylor polynomials up to degree 3, not 4")
    assert not Path("results").exists()


def test_a_model_without_the_forced_backend_is_recorded_so(expbench: CommandLine) -> None:
    answer = expbench("run", "--task", "polyreg", "--models", "s6,linattn,ssm", *TINY, "--backend", "reference")
    assert answer.code == 0
    frame, _ = store.read(Path("results"))
    runs = frame[frame.kind == "run"].drop_duplicates("key")
    assert dict(zip(runs.model, runs.backend, strict=True)) == {"s6": "reference", "linattn": "reference", "ssm": "torch"}

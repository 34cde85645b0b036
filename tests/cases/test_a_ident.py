"""What a run says it ran: the commit of the checkout, the code in its key, and the state of the process around plugins."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch

from expbench import global_state
from expbench.errors import BadInput
from expbench.results import provenance, store
from expbench.results.provenance import commit_of
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.family import Context, family_of
from expbench.training.stacking import stacked
from tests.conftest import TINY, CommandLine, is_bad_input

ROOT = Path(__file__).parents[2]
SOURCE = "expbench/__init__.py"


def git(folder: Path, *words: str) -> str:
    who = ["-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "safe.directory=*"]
    return subprocess.run(
        ["git", "-C", str(folder), *who, *words], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository that has the sources of expbench among its files."""
    return repository(tmp_path / "checkout")


def repository(folder: Path) -> Path:
    (folder / "expbench").mkdir(parents=True)
    (folder / SOURCE).write_text(f"'''{folder.name}'''\n")
    git(folder, "init", "-q")
    git(folder, "add", ".")
    git(folder, "commit", "-qm", folder.name)
    return folder


def test_a18_the_environment_names_another_repository(
    checkout: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit, other = git(checkout, "rev-parse", "HEAD"), repository(tmp_path / "other")
    for variable, value in {"GIT_DIR": ".git", "GIT_WORK_TREE": ".", "GIT_INDEX_FILE": ".git/index"}.items():
        monkeypatch.setenv(variable, str(other / value))
    assert commit_of(checkout, SOURCE) == commit
    (checkout / SOURCE).write_text("changed = True\n")
    assert commit_of(checkout, SOURCE) == f"{commit}+changes"


def test_a18_a_damaged_index_hides_no_changes(checkout: Path) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    (checkout / ".git" / "index").write_bytes(b"damaged")
    assert commit_of(checkout, SOURCE) == commit
    (checkout / SOURCE).write_text("changed = True\n")
    assert commit_of(checkout, SOURCE) == f"{commit}+changes"
    assert (checkout / ".git" / "index").read_bytes() == b"damaged", "it is the user's to mend"


def test_a18_a_checkout_of_another_user(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = git(checkout, "rev-parse", "HEAD")
    monkeypatch.setenv("GIT_TEST_ASSUME_DIFFERENT_OWNER", "1")  # git's own means to test this
    commands: list[list[str]] = []
    ran = subprocess.run

    def run(command: list[str], **options: object) -> object:
        commands.append(command)
        options["env"] |= {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}  # type: ignore[operator]
        return ran(command, **options)  # type: ignore[call-overload]

    with pytest.raises(subprocess.CalledProcessError):
        ran(["git", "-C", str(checkout), "rev-parse", "HEAD"], check=True, capture_output=True)
    monkeypatch.setattr(subprocess, "run", run)
    assert commit_of(checkout, SOURCE) == commit
    assert commands


def test_a18_what_git_cannot_tell_is_unknown_with_the_reason(checkout: Path, tmp_path: Path) -> None:
    tree = git(checkout, "rev-parse", "HEAD^{tree}")
    repository(tmp_path / "above")
    nested = checkout.rename(tmp_path / "above" / "checkout")
    head = (nested / ".git" / "HEAD").read_text()
    (nested / ".git" / "HEAD").unlink()
    assert str(commit_of(nested, SOURCE)).startswith("unknown: not a git repository"), "and not that of the folder above"
    (nested / ".git" / "HEAD").write_text(head)
    (nested / ".git" / "objects" / tree[:2] / tree[2:]).unlink()
    assert str(commit_of(nested, SOURCE)).startswith("unknown: ")


def test_a18_an_installed_copy_among_the_files_of_another_repository_has_no_commit(tmp_path: Path) -> None:
    other = repository(tmp_path / "other")
    (other / "venv").mkdir()
    assert commit_of(other, "venv/expbench.py") is None
    assert commit_of(other / "venv", SOURCE) is None


def test_a18_this_checkout_states_its_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EXPBENCH_COMMIT", raising=False)
    if (ROOT / ".git").exists():
        assert str(provenance.git_commit.__wrapped__()).startswith(git(ROOT, "rev-parse", "HEAD"))


# A layer of one's own beside a built-in one, and the folder in which each test runs.
LAYER = """
import os, random, signal, sys, warnings
import numpy as np
import torch
from torch import nn
TOP

class Mine(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.map = nn.Linear(width, width)
        INIT

    def forward(self, x):
        FORWARD
        return self.map(x)
"""
CHANGES = {
    "default dtype": "torch.set_default_dtype(torch.float64)",
    "default device": "torch.set_default_device('meta')",
    "gradient mode": "torch.set_grad_enabled(False)",
    "deterministic algorithms": "torch.use_deterministic_algorithms(True)",
    "threads": "torch.set_num_threads(3)",
    "matmul precision": "torch.set_float32_matmul_precision('medium')",
    "cudnn": "torch.backends.cudnn.benchmark = True",
    "denormal numbers": "torch.set_flush_denormal(True)",
    "autocast": "torch.set_autocast_enabled('cpu', True)",
    "anomaly detection": "torch.autograd.set_detect_anomaly(True)",
    "hooks": "torch.nn.modules.module.register_module_forward_hook(lambda m, i, y: 2 * y)",
    "generators": "torch.manual_seed(5); np.random.seed(5); random.seed(5)",
    "numpy": "np.seterr(all='raise')",
    "working folder": "os.chdir(os.sep)",
    "environment": "os.environ['EXPBENCH_COMMIT'] = 'made up'; os.environ.pop('HOME', None)",
    "sys.path": "sys.path.insert(0, os.sep)",
    "warnings": "warnings.simplefilter('always')",
    "signals": "signal.signal(signal.SIGINT, signal.SIG_IGN)",
}


def layer(folder: Path, *, top: str = "", init: str = "pass", forward: str = "pass", name: str = "mine.py") -> str:
    """Write a layer with these statements, and return how the command line names it."""
    (folder / name).write_text(LAYER.replace("TOP", top).replace("INIT", init).replace("FORWARD", forward))
    return f"{name}:Mine"


def state() -> list[object]:
    """Return the global state, as the process sees it."""
    numpys = np.random.get_state()
    return [
        *((setting.name, setting.value()) for setting in global_state._settings()),
        (random.getstate(), numpys[1].tobytes(), torch.get_rng_state().tolist()),  # type: ignore[index, union-attr]
        list(warnings.filters),
    ]


@pytest.mark.parametrize("change", CHANGES)
def test_a6_global_state_is_restored(change: str) -> None:
    before = state()
    with global_state.preserved("the layer"):
        exec(CHANGES[change], dict(globals()) | {"os": os, "signal": signal, "sys": sys})
        assert state() != before
    assert state() == before


@pytest.mark.parametrize("where", ["top", "init", "forward"])
def test_a6_global_state_is_the_same_before_and_after_a_plugin(
    where: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    some = ("default dtype", "threads", "generators", "working folder", "environment", "sys.path", "cudnn", "hooks")
    model = layer(tmp_path, **{where: "; ".join(map(CHANGES.__getitem__, some))})
    spec = SweepSpec(task="polyreg", models=model, L="4", seeds="0:2", steps="2", task_settings=("test_size=64",))
    before = state()
    jobs = expand(spec, "cpu")
    assert state() == before
    for stack in stacked(jobs, "cpu"):
        assert state() == before
        for _ in family_of(jobs[0].task).train(stack, Context("cpu", tmp_path, math.inf)):
            pass
    assert state() == before


def test_a6_a_default_dtype_in_a_models_file_leaves_the_numbers_of_others(expbench: CommandLine, tmp_path: Path) -> None:
    mine = layer(tmp_path, top="torch.set_default_dtype(torch.float64)")
    words = ["run", "--task", "polyreg", *TINY, "--results"]
    assert expbench(*words, "alone", "--models", "linattn").code == 0
    assert expbench(*words, "beside", "--models", f"{mine},linattn").code == 0
    values = []
    for folder in ("alone", "beside"):
        frame = store.read(Path(folder)).frame
        rows = frame[(frame["model"] == "linattn") & frame["primary"].fillna(False).astype(bool)]
        values.append(rows.sort_values(["key", "split", "step"])[["key", "split", "step", "value"]].values.tolist())
    assert values[0] == values[1]


def test_a6_what_cannot_be_restored_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    softmax = torch.nn.functional.softmax
    spec = SweepSpec(task="polyreg", models=layer(tmp_path, top="nn.functional.softmax = nn.functional.relu"), L="4")
    with pytest.raises(BadInput, match=r"model 'mine\.py:Mine' .* replaces torch\.nn\.functional\.softmax"):
        expand(spec, "cpu")
    assert torch.nn.functional.softmax is softmax
    for where in ("init", "forward"):
        model = layer(tmp_path, **{where: "torch.Tensor.tanh = torch.Tensor.relu"}, name=f"{where}.py")
        with pytest.raises(BadInput, match=rf"model '{where}\.py:Mine' replaces torch\.Tensor\.tanh"):
            expand(SweepSpec(task="polyreg", models=model, L="4"), "cpu")
        assert "tanh" not in vars(torch.Tensor)


@pytest.mark.parametrize("draw", ["random.random()", "np.random.rand()", "float(torch.rand(()))"])
@pytest.mark.parametrize("task", ["polyreg", "wikitext"])
def test_a7_the_seed_of_a_run_sets_every_generator(
    draw: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path / "cache"))
    model = layer(tmp_path, init=f"self.map.weight.data.fill_({draw})")
    more = {"task_settings": ("data=markov", "pieces=300")} if task == "wikitext" else {}
    jobs = expand(SweepSpec(task=task, models=model, L="4", steps="2", seeds="0:2", **more), "cpu")

    def weights() -> list[float]:
        networks = [family_of(job.task).network(job) for job in jobs]
        return [float(value.flatten()[0]) for n in networks for key, value in n.state_dict().items() if "map.weight" in key]

    random.seed(1)
    np.random.seed(1)
    first, caller = weights(), (random.random(), np.random.rand())
    assert len(set(first)) == len(first) == 2, "seeds differ"
    random.seed(1)
    np.random.seed(1)
    assert (random.random(), np.random.rand()) == caller, "the generators of the caller did not advance"
    assert weights() == first


def test_a7_a_generator_that_no_seed_sets_is_refused(expbench: CommandLine, tmp_path: Path) -> None:
    model = layer(tmp_path, init="self.map.weight.data.fill_(np.random.default_rng().random())")
    is_bad_input(expbench("run", "--task", "polyreg", "--models", model, *TINY), "map.weight differs", "one seed")
    assert "map.weight differs between two layers" in expbench("check", model).out
    model = layer(
        tmp_path, init="self.scale = random.SystemRandom().random()", forward="x = self.scale * x", name="scale.py"
    )
    is_bad_input(expbench("run", "--task", "polyreg", "--models", model, *TINY), "the output differs", "one seed")
    assert "the output differs between two layers" in expbench("check", model).out


def test_a7_a_task_that_draws_from_a_generator_of_its_own_is_refused(expbench: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "tasks").mkdir()
    source = (ROOT / "tests/thirdparty/src/thirdparty/task.py").read_text()
    drawn = source.replace("rng.uniform(size, self.L, 1, high=self.scale)", "torch.rand(size, self.L, 1).double()")
    assert drawn != source
    (tmp_path / "tasks" / "last_value.py").write_text(drawn)
    answer = expbench("run", "--task", "last-value", "--models", "ssm", *TINY, "--tasks-dir", "tasks")
    is_bad_input(answer, "last-value", "the given rng")

"""What a run says it ran: the commit of the checkout, the code in its key, and the state of the process around plugins."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import json
import linecache
import math
import os
import queue
import random
import re
import shutil
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import expbench.models
from expbench import global_state, plugins
from expbench.errors import BadInput
from expbench.results import provenance, store
from expbench.results.provenance import commit_of
from expbench.sources import execution
from expbench.sources.closure import closure
from expbench.sources.distributions import package_of
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.family import Context, family_of
from expbench.training.job import Job
from expbench.training.stacking import stacked
from expbench.training.weights import load
from tests.conftest import TINY, CommandLine, is_bad_input

ROOT = Path(__file__).parents[2]
SOURCE = "expbench/__init__.py"
ONE = ["--steps", "2", "--seeds", "0", "--L", "4", "-t", "test_size=64", "-t", "validation_size=64"]


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
    words = ["run", "--task", "polyreg", *ONE, "--results"]
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
    for _ in range(2):  # it is not found loaded the second time
        with pytest.raises(BadInput, match=r"model 'mine\.py:Mine' .* replaces torch\.nn\.functional\.softmax"):
            expand(spec, "cpu")
    assert torch.nn.functional.softmax is softmax
    for where in ("init", "forward"):
        model = layer(tmp_path, **{where: "torch.Tensor.tanh = torch.Tensor.relu"}, name=f"{where}.py")
        with pytest.raises(BadInput, match=rf"model '{where}\.py:Mine' replaces torch\.Tensor\.tanh"):
            expand(SweepSpec(task="polyreg", models=model, L="4"), "cpu")
        assert "tanh" not in vars(torch.Tensor)


def test_a6_what_torch_replaces_itself_is_none_of_the_plugins_doing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "manual_seed", torch.manual_seed)  # restored at the end
    with global_state.preserved("the layer", functions=True):
        torch.manual_seed = torch._disable_dynamo(torch.manual_seed)  # as `import torch._dynamo` does


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


# A layer in a package: the class in one file, what it computes in another.
CORE = """
import torch
from torch import nn
from IMPORT import scaled

class Mine(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.map = nn.Linear(width, width)

    def forward(self, x):
        return scaled(self.map(x))
"""
HELPER = "from .deeper import SCALE\n\ndef scaled(x):\n    return SCALE * x\n"


def package(folder: Path, name: str = "lab", scale: str = "2.0") -> Path:
    """Write a package whose class rests on a module of a module, beside a module that it does not import."""
    (folder / name).mkdir(parents=True)
    for stem, text in {
        "__init__": "",
        "core": CORE.replace("IMPORT", ".helper"),
        "helper": HELPER,
        "deeper": f"SCALE = {scale}\n",
        "other": "X = 1\n",
    }.items():
        (folder / name / f"{stem}.py").write_text(text)
    return folder / name


@pytest.fixture
def fresh(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The working folder, on the import path; what is imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    yield tmp_path
    for name, module in list(sys.modules.items()):
        if str(getattr(module, "__file__", "")).startswith(str(tmp_path)):
            del sys.modules[name]


def job_of(model: str, task: str = "polyreg") -> Job:
    (job,) = expand(SweepSpec(task=task, models=model, L="4", seeds="0", steps="2"), "cpu")
    return job


def factor(job: Job) -> float:
    """Return the factor by which the layer that would run scales its map."""
    layer, x = job.model(1), torch.ones(1, 1, 1)
    return float((layer(x) / layer.map(x)).detach())


@pytest.mark.parametrize("model", ["lab.core:Mine", "mine.py:Mine", "folder"])
def test_a5_an_edited_helper_is_another_model_and_the_code_that_runs(
    model: str, fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = package(fresh)
    if model == "folder":  # a module of a folder of plugins, which imports its neighbours
        monkeypatch.setattr(expbench.models, "__path__", [*expbench.models.__path__, str(fresh / "lab")])
        (folder / "mine.py").write_text(CORE.replace("IMPORT", "expbench.models.helper"))
        model = "mine"
    elif model == "mine.py:Mine":
        (fresh / "mine.py").write_text(CORE.replace("IMPORT", "lab.helper"))
    first = job_of(model)
    assert (job_of(model).run.key, factor(first)) == (first.run.key, 2.0)
    (folder / "deeper.py").write_text("SCALE = 3.0\n")  # as long as before, and within the same second
    second = job_of(model)
    assert second.run.key != first.run.key
    assert (factor(second), factor(first)) == (3.0, 2.0)
    (folder / "other.py").write_text("X = 2\n")
    assert job_of(model).run.key == second.run.key, "the layer does not import this module"
    (folder / "deeper.py").write_text("SCALE = 2.0\n")
    assert job_of(model).run.key == first.run.key
    for name in [name for name in sys.modules if "lab" in name or "expbench_file" in name or name.endswith(".mine")]:
        del sys.modules[name]
    assert job_of(model).run.key == first.run.key, "a new process gives the same key"


def test_a5_edited_files_of_a_task_and_of_a_single_layer_run_again(expbench: CommandLine, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    tasks.mkdir()
    source = (ROOT / "tests/thirdparty/src/thirdparty/task.py").read_text()
    (tasks / "_data.py").write_text("FACTOR = 1.0\n")
    code = source.replace("import torch\n", "import torch\n\nfrom expbench_tasks._data import FACTOR\n")
    (tasks / "last_value.py").write_text(code.replace("Batch(x, x[:, -1])", "Batch(x, FACTOR * x[:, -1])"))
    words = ["run", "--task", "last-value", "--models", layer(tmp_path), *TINY[:6], "--tasks-dir", "tasks", "--dry-run"]
    results = Path("results")
    assert expbench(*words[:-1]).code == 0
    before = len(store.read(results).frame["key"].unique())
    assert "2 runs: 2 done, 0 to run; 0 sets" in expbench(*words).out
    (tasks / "_data.py").write_text("FACTOR = 2.0\n")
    assert "2 runs: 0 done, 2 to run; 1 sets" in expbench(*words).out
    (tasks / "_data.py").write_text("FACTOR = 1.0\n")
    layer(tmp_path, forward="x = 2 * x")
    assert "2 runs: 0 done, 2 to run; 0 sets" in expbench(*words).out
    assert expbench(*words[:-1]).code == 0
    assert len(store.read(results).frame["key"].unique()) == before + 2


def test_a5_a_second_layer_gets_the_helper_of_today(fresh: Path) -> None:
    folder = package(fresh)
    for name in ("one", "two"):
        (fresh / f"{name}.py").write_text(CORE.replace("IMPORT", "lab.helper"))
    first = job_of("one.py:Mine")
    (folder / "deeper.py").write_text("SCALE = 3.0\n")
    second = job_of("two.py:Mine")
    assert (factor(first), factor(second), factor(job_of("one.py:Mine"))) == (2.0, 3.0, 3.0)
    assert second.run.model_version == job_of("one.py:Mine").run.model_version != first.run.model_version


def test_a5_the_first_import_of_a_process_is_that_of_a_layer(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package(fresh)
    (fresh / "mine.py").write_text(CORE.replace("IMPORT", "lab.helper"))
    monkeypatch.delitem(sys.modules, "expbench_tasks")
    execution._folders.cache_clear()
    execution._ours.cache_clear()
    assert plugins.find("model", "mine.py:Mine").load().__name__ == "Mine"


def test_a5_a_single_file_keeps_the_key_that_it_had(fresh: Path) -> None:
    model = layer(fresh)
    expected = f"1+{hashlib.sha256((fresh / 'mine.py').read_bytes()).hexdigest()[:12]}"
    assert job_of(model).run.model_version == job_of("mine:Mine").run.model_version == expected
    assert job_of(model).model_distribution is None
    recurrent = plugins.find("model", "torch.nn:GRU")
    code = recurrent.code(recurrent.load())
    assert code.version == f"1+{hashlib.sha256(Path(inspect.getfile(torch.nn.GRU)).read_bytes()).hexdigest()[:12]}"


def test_a5_a_folder_of_plugins_inside_a_checkout_is_no_part_of_expbench(fresh: Path) -> None:
    (fresh / "expbench-1.0.dist-info").mkdir()
    (fresh / "expbench-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: expbench\nVersion: 1.0\n")
    (fresh / "expbench-1.0.dist-info" / "top_level.txt").write_text("expbench\nexpbench_tasks\n")
    assert package_of("expbench.models.mine", fresh / "my_models" / "mine.py") is None
    (fresh / "queue.py").write_text("SIZE = 1\n")  # a name of Python's, and a file of one's own
    found = closure({"mine": fresh / "queue.py", "queue": Path(queue.__file__)})
    assert set(found) == {"mine"}
    assert set(closure({"queue": fresh / "queue.py"})) == {"queue"}


def install(folder: Path, name: str, version: str, scale: str = "2.0") -> None:
    """Install a package as pip does: its files, and what is known of them; a former version is removed."""
    for former in folder.glob(f"{name}*"):
        shutil.rmtree(former)
    package(folder, name, scale)
    about = folder / f"{name}-{version}.dist-info"
    about.mkdir()
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    (about / "top_level.txt").write_text(f"{name}\n")
    (about / "RECORD").write_text("".join(f"{name}/{path.name},,\n" for path in (folder / name).glob("*.py")))


def forget(*names: str) -> None:
    """Forget what was imported, as a new process does."""
    for name in [name for name in sys.modules if name.partition(".")[0] in names or name.startswith("expbench_file")]:
        del sys.modules[name]
    importlib.invalidate_caches()


def test_a5_an_upgraded_distribution_is_another_model_and_a_column(expbench: CommandLine, fresh: Path) -> None:
    site = fresh / "site-packages"
    sys.path.insert(0, str(site))
    install(site, "installedlab", "1.0")
    (fresh / "wrapper.py").write_text("import typing_extensions\nimport numpy\nfrom installedlab.core import Mine\n")
    (fresh / "derived.py").write_text("from installedlab import core\n\nclass Mine(core.Mine):\n    pass\n")
    models = ("installedlab.core:Mine", "wrapper.py:Mine", "derived.py:Mine")
    keys = []
    for version, scale in (("1.0", "2.0"), ("1.1", "2.0"), ("1.1", "3.0")):
        forget("installedlab")
        install(site, "installedlab", version, scale)
        jobs = [job_of(model) for model in models]
        assert {job.model_distribution for job in jobs} == {f"installedlab {version}"}, "and what all models use is none"
        keys.append([job.run.key for job in jobs])
    assert all(len(set(each)) == 3 for each in zip(*keys, strict=True)), "version and files both count"
    answer = expbench("run", "--task", "polyreg", "--models", "derived.py:Mine,ssm", *TINY)
    assert answer.code == 0, answer
    frame = store.read(Path("results")).frame
    runs = frame[frame["kind"] == "run"]
    assert set(runs.loc[runs["model"] == "derived.py:Mine", "model_distribution"]) == {"installedlab 1.1"}
    assert runs.loc[runs["model"] == "ssm", "model_distribution"].isna().all()
    assert runs["task_distribution"].isna().all()
    install(site, "installedlab", "1.2", "4.0")
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "derived.py:Mine", *TINY), "installedlab", "new process")


@pytest.mark.parametrize("states_its_names", [True, False])
def test_a5_an_editable_distribution_is_known_by_version_and_files(states_its_names: bool, fresh: Path) -> None:
    project, site = fresh / "project", fresh / "site-packages"
    install(site, "editablelab", "1.0")
    (site / "editablelab").rename(project)
    (project.parent / "src").mkdir()
    project.rename(fresh / "src" / "editablelab")
    about = site / "editablelab-1.0.dist-info"
    origin = {"url": f"file://{fresh / 'src'}", "dir_info": {"editable": True}}
    (about / "direct_url.json").write_text(json.dumps(origin))
    if not states_its_names:
        (about / "top_level.txt").unlink()
        (about / "RECORD").write_text("editablelab.pth,,\n")
    sys.path[:0] = [str(site), str(fresh / "src")]
    first = job_of("editablelab.core:Mine")
    assert first.model_distribution == "editablelab 1.0"
    (fresh / "src" / "editablelab" / "deeper.py").write_text("SCALE = 3.0\n")
    second = job_of("editablelab.core:Mine")
    assert second.run.key != first.run.key
    assert factor(second) == 3.0


def cell(text: str, number: int) -> dict[str, object]:
    """Run a cell of a notebook: code without a file, whose source is known to `linecache`."""
    name = f"<cell {number}>"
    linecache.cache[name] = (len(text), None, text.splitlines(keepends=True), name)
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec(compile("import torch\nfrom torch import nn\n", "<setup>", "exec"), namespace)
    exec(compile(text, name, "exec"), namespace)
    return namespace


NOTEBOOK = """
HORIZON = 4.0

def scaled(x, by=2.0):
    return by * x

class Base(nn.Module):
    gain = 1.0

class Mine(Base):
    '''A layer of a notebook.'''

    def __init__(self, width: int):
        super().__init__()
        self.map = nn.Linear(width, width)

    @torch.no_grad()
    def helper(self):
        return HORIZON

    @property
    def depth(self):
        return 1

    def forward(self, x):
        return scaled(self.map(x)) * (lambda: HORIZON)()

seeds = range(3)
"""


def test_a5_a_class_that_a_notebook_defines_again_is_another_model() -> None:
    versions = {}
    for i, (old, new) in enumerate(
        [
            ("", ""),
            ("return scaled(self.map(x))", "return scaled(self.map(-x))"),
            ("HORIZON = 4.0", "HORIZON = 5.0"),
            ("return by * x", "return by + x"),
            ("by=2.0", "by=3.0"),
            ("gain = 1.0", "gain = 2.0"),
            ("return 1", "return 2"),
            ("class Mine(Base)", "class Mine(nn.Module)"),
        ]
    ):
        versions[new] = plugins.code_version(cell(NOTEBOOK.replace(old, new), i)["Mine"])  # type: ignore[arg-type]
    assert len(set(versions.values())) == len(versions)
    again = plugins.code_version(cell(NOTEBOOK.replace("range(3)", "range(5)"), 99)["Mine"])  # type: ignore[arg-type]
    assert again == versions[""], "what the class does not name is another matter"


def test_a5_a_class_whose_source_cannot_be_had_is_refused(fresh: Path) -> None:
    namespace: dict[str, object] = {"__name__": "__main__"}
    exec("from torch import nn\nclass Mine(nn.Module):\n    def forward(self, x):\n        return x\n", namespace)
    with pytest.raises(BadInput, match=r"class Mine: the source of Mine\.forward cannot be found"):
        plugins.code_version(namespace["Mine"])  # type: ignore[arg-type]


def test_a5_a_class_object_that_is_older_than_its_file_is_refused(fresh: Path) -> None:
    package(fresh)
    first = importlib.import_module("lab.core").Mine
    version = plugins.code_version(first)
    assert version == job_of("lab.core:Mine").run.model_version
    (fresh / "lab" / "deeper.py").write_text("SCALE = 3.0\n")
    with pytest.raises(BadInput, match=r"deeper\.py has changed since it was imported"):
        plugins.code_version(first)
    second = job_of("lab.core:Mine")
    with pytest.raises(BadInput, match=r"core\.py was imported again since"):
        plugins.code_version(first)
    assert plugins.code_version(second.model) == second.run.model_version != version
    assert plugins.code_version(plugins.find("model", "ssm").load()) == job_of("ssm").run.model_version


def test_a5_what_a_class_was_made_of_counts(fresh: Path) -> None:
    (fresh / "factory.py").write_text(
        "from torch import nn\n\ndef make(k):\n    class Made(nn.Module):\n        def forward(self, x):\n"
        "            return k * x\n    return Made\n"
    )
    make = importlib.import_module("factory").make
    assert plugins.code_version(make(2)) == plugins.code_version(make(2)) != plugins.code_version(make(3))


@pytest.fixture
def kept(expbench: CommandLine, tmp_path: Path) -> dict[str, str]:
    """Keys of runs whose weights are kept, by model: of a file, of a module, and built in."""
    sys.path.insert(0, str(tmp_path))
    layer(tmp_path, name="inmodule.py")
    models = f"{layer(tmp_path)},inmodule:Mine,ssm"
    answer = expbench("run", "--task", "polyreg", "--models", models, *ONE, "--save-weights")
    assert answer.code == 0, answer
    frame = store.read(Path("results")).frame
    sys.path.remove(str(tmp_path))
    return dict(frame[frame["weights"].notna()][["model", "key"]].itertuples(index=False))


def test_a13_results_are_data_whose_code_runs_only_with_consent(
    kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    forget("inmodule")
    (tmp_path / "mine.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n" + (tmp_path / "mine.py").read_text())
    for model in ("mine.py:Mine", "inmodule:Mine"):
        with pytest.raises(BadInput, match=rf"the model '.*{model}' \(.*\), and loading it runs its code: give trust=True"):
            load("results", kept[model])
    assert not (tmp_path / "ran").exists()
    assert not any("inmodule" in name for name in sys.modules)
    monkeypatch.syspath_prepend(tmp_path)
    assert load("results", kept["inmodule:Mine"], trust=True)(torch.ones(1, 4, 1)).shape == (1, 1)
    assert load("results", kept["ssm"])(torch.ones(1, 4, 1)).shape == (1, 1)
    forget("inmodule")


def test_a13_a_row_that_calls_a_file_built_in_runs_nothing(
    kept: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = store.rows_of_run(store.read(Path("results")).frame, kept["mine.py:Mine"])
    for forged in ({"model_origin": "built-in"}, {"model_origin": f"folder {tmp_path}", "model": "mine"}):
        monkeypatch.setattr(store, "rows_of_run", lambda *_, forged=forged: rows.assign(**forged))
        with pytest.raises(BadInput, match="trust=True"):
            load("results", kept["mine.py:Mine"])
    assert str(tmp_path) not in expbench.models.__path__


def test_a13_changed_code_is_refused_by_its_hash(kept: dict[str, str], tmp_path: Path) -> None:
    key, file = kept["mine.py:Mine"], tmp_path / "mine.py"
    recorded = f"1+{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    x = torch.ones(1, 4, 1)
    before = load("results", key, trust=True)(x)
    layer(tmp_path, forward="x = -x")
    present = f"1+{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    refused = rf"model 'mine\.py:Mine' \({re.escape(str(file))}\) has changed.*{re.escape(recorded)}.*{re.escape(present)}"
    with pytest.raises(BadInput, match=refused):
        load("results", key, trust=True)
    assert not torch.equal(load("results", key, trust=True, changed=True)(x), before)
    layer(tmp_path)
    assert torch.equal(load("results", key, trust=True)(x), before)


def test_a13_a_class_of_ones_own_needs_no_trust(kept: dict[str, str], tmp_path: Path) -> None:
    key, own = kept["mine.py:Mine"], plugins.find("model", "mine.py:Mine").load()
    x = torch.ones(1, 4, 1)
    assert torch.equal(load("results", key, model=own)(x), load("results", key, trust=True)(x))
    with pytest.raises(BadInput, match="has changed since this run: its version was"):
        load("results", key, model=plugins.find("model", "ssm").load())


def test_a5_a_module_of_one_name_in_another_folder_is_imported_from_there(fresh: Path) -> None:
    keys = []
    for name, scale in (("one", "2.0"), ("two", "3.0")):
        package(fresh / name, scale=scale)
        sys.path.insert(0, str(fresh / name))
        job = job_of("lab.core:Mine")
        assert factor(job) == float(scale)
        keys.append(job.run.key)
    assert len(set(keys)) == 2

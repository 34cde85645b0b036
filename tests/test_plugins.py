"""Single files in a user's folders, file.py:Class, module:Class and a third-party distribution: run and listed.

From the checkout, and from a wheel away from it.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from expbench import plugins
from expbench.errors import BadInput
from expbench.results import store
from tests.conftest import TINY, CommandLine

ROOT = Path(__file__).parent.parent
STRANGER = ROOT / "tests" / "thirdparty"
SOURCES = STRANGER / "src" / "thirdparty"


@pytest.fixture
def folders(tmp_path: Path) -> list[str]:
    """A task and a model as single files in folders of the user's, and the options that name these."""
    options = []
    for kind, source, name in (("tasks", "task.py", "last_value.py"), ("models", "model.py", "ema.py")):
        folder = tmp_path / f"my {kind}"
        folder.mkdir()
        shutil.copy(SOURCES / source, folder / name)
        options += [f"--{kind}-dir", str(folder)]
    return options


def test_single_files_are_listed_shown_and_run(expbench: CommandLine, folders: list[str]) -> None:
    listing = expbench("list", *folders).out
    assert f"last-value    Repeat the last value. [folder {folders[1]}]" in listing
    assert f"ema           An exponential moving average in each channel. [folder {folders[3]}]" in listing
    assert "A plain module that knows nothing of expbench." in expbench("show", "ema").out
    answer = expbench("run", "--task", "last-value", "--models", "ema,s6", "-m", "ema:horizon=2,8", *TINY[:6], *folders)
    assert (answer.code, "ran 6 (6 ok)" in answer.err) == (0, True), answer
    frame, _ = store.read(Path("results"))
    key = frame.loc[frame["model"] == "ema", "key"].iloc[0]
    command = re.search(r"^command +expbench (.*)$", expbench("trace", key).out, re.MULTILINE)
    assert command
    assert "1 runs: 1 done, 0 to run" in expbench(*shlex.split(command[1])).err, "it names the folders too"


def test_a_changed_source_is_another_model(expbench: CommandLine, tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text((SOURCES / "model.py").read_text())
    words = ["run", "--task", "polyreg", "--models", "mine.py:Ema", *TINY]
    assert "ran 2 (2 ok)" in expbench(*words).err
    assert "0 to run" in expbench(*words).err
    for name in [name for name in sys.modules if name.startswith("expbench_file_")]:
        del sys.modules[name]
    path.write_text(path.read_text().replace("torch.zeros_like(x[:, 0])", "torch.ones_like(x[:, 0])"))
    assert "2 runs: 0 done, 2 to run" in expbench(*words).err


def test_module_and_class_and_what_trace_says_of_a_file(
    expbench: CommandLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(SOURCES / "model.py", tmp_path / "mymodule.py")
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert "ran 2 (2 ok)" in expbench("run", "--task", "polyreg", "--models", "mymodule:Ema", *TINY).err
    assert "ran 2 (2 ok)" in expbench("run", "--task", "polyreg", "--models", "mymodule.py:Ema", *TINY).err
    frame, _ = store.read(Path("results"))
    assert set(frame.loc[frame["kind"] == "run", "model"]) == {"mymodule:Ema", "mymodule.py:Ema"}
    key = frame.loc[frame["model"] == "mymodule.py:Ema", "key"].iloc[0]
    assert f"--models {tmp_path / 'mymodule.py'}:Ema" in expbench("trace", key).out


@pytest.mark.parametrize("name", ["mymodule.py:Emma", "mymodule.py:", ":Ema", "mymodule.py:torch"])
def test_wrong_classes(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copy(SOURCES / "model.py", tmp_path / "mymodule.py")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadInput, match=r"did you mean 'Ema'|write path/file.py:Class|is not a class"):
        plugins.find("model", name).load()


def test_built_ins_are_described_without_importing_them() -> None:
    for kind in ("task", "model"):
        for plugin in plugins.discover(kind).values():  # type: ignore[arg-type]
            assert plugin.summary().endswith((".", ":")) or plugin.summary(), plugin


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the wheels of expbench and of the third party are installed."""
    folder = tmp_path_factory.mktemp("wheels")
    for name in ("pyproject.toml", "setup.py", "README.md", "LICENSE", "expbench", "tasks", "results/baselines"):
        source, target = ROOT / name, folder / "source" / name
        target.parent.mkdir(exist_ok=True, parents=True)
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    shutil.copytree(STRANGER, folder / "thirdparty")
    build = [sys.executable, "-m", "pip", "-q", "wheel", "--no-deps", "--no-build-isolation", "-w", str(folder / "dist")]
    subprocess.run([*build, str(folder / "source"), str(folder / "thirdparty")], check=True)
    install = [sys.executable, "-m", "pip", "-q", "install", "--no-deps", "--target", str(folder / "site")]
    subprocess.run([*install, *map(str, (folder / "dist").glob("*.whl"))], check=True)
    return folder / "site"


def away(site: Path, folder: Path, *words: str, code: str = "-m expbench") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": str(site)}
    command = [sys.executable, *code.split(" ", 1), *words]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_a_wheel_has_the_baselines_and_a_readme_whose_links_lead_somewhere(site: Path, tmp_path: Path) -> None:
    count = "from expbench.regression import baseline as b; c = b.load('cpu'); print(len(c.requests) > 0, c.table.is_file())"
    assert away(site, tmp_path, code=f"-c {count}").stdout.split() == ["True", "True"]
    (metadata,) = site.glob("expbench-*.dist-info/METADATA")
    assert "What can a sequence layer express?" in metadata.read_text()
    assert re.findall(r"\]\((?!https://)[^)]*\)", metadata.read_text()) == []


def test_a_wheel_away_from_the_checkout_with_a_third_party(site: Path, tmp_path: Path, folders: list[str]) -> None:
    where = away(
        site, tmp_path, code="-c import expbench, expbench_tasks; print(expbench.__file__, expbench_tasks.__file__)"
    )
    assert where.stdout.split() == [str(site / "expbench/__init__.py"), str(site / "expbench_tasks/__init__.py")]
    listing = away(site, tmp_path, "list").stdout
    assert "last-value" in listing
    assert "[thirdparty 2.5]" in listing
    assert "count-in-row" in listing
    answer = away(site, tmp_path, "run", "--task", "last-value,polyreg", "--models", "ema,s6", *TINY[:6])
    assert (answer.returncode, "ran 8 (8 ok)" in answer.stderr) == (0, True), answer
    assert away(site, tmp_path, "report").returncode == 0
    # the same names once more as single files: a clash that names both places
    clash = away(site, tmp_path, "list", *folders)
    assert clash.returncode == 2
    assert "two tasks are named 'last-value'" in clash.stderr
    assert "thirdparty 2.5" in clash.stderr
    frame, _ = store.read(tmp_path / "results")
    assert frame["git_commit"].isna().all(), "a wheel knows no commit"


def test_a_third_party_beside_the_editable_install(site: Path, tmp_path: Path) -> None:
    alone = tmp_path / "alone"
    alone.mkdir()
    for part in site.glob("thirdparty*"):
        shutil.copytree(part, alone / part.name)
    assert "[thirdparty 2.5]" in away(alone, tmp_path, "list").stdout
    answer = away(alone, tmp_path, "run", "--task", "last-value", "--models", "ema", *TINY[:6])
    assert (answer.returncode, "ran 2 (2 ok)" in answer.stderr) == (0, True), answer

"""What a run says it ran: the commit of the checkout, the code in its key, and the state of the process around plugins."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from expbench.results import provenance
from expbench.results.provenance import commit_of

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
    root = Path(__file__).parents[2]
    if (root / ".git").exists():
        assert str(provenance.git_commit.__wrapped__()).startswith(git(root, "rev-parse", "HEAD"))

"""The committed witnesses hold on fresh data, and a network that does not solve its task is not called one."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from expbench.errors import BadInput
from expbench.results.certificates.kept import certified, kept_runs, of_folder
from expbench.theory.witnesses import check, text
from tests.conftest import CommandLine

COMMITTED = Path(__file__).parents[2] / "results" / "witnesses"


def test_every_committed_witness_holds_on_fresh_data() -> None:
    found = list(check(COMMITTED, 1 << 12))
    assert len(found) == len(list((COMMITTED / "weights").glob("*.safetensors"))) >= 3
    for each in found:
        assert each.holds, text(found)
        assert each.value + each.margin < each.run.configuration.success_threshold == 0.01
        assert each.margin > 0, "the test data of these tasks have a sampling error"
    assert text(found).count("holds") == len(found)


def test_committed_witnesses_are_small() -> None:
    """Their files are read with every clone."""
    assert sum(path.stat().st_size for path in COMMITTED.rglob("*") if path.is_file()) < 200_000


def test_a_damaged_network_fails(expbench: CommandLine, tmp_path: Path) -> None:
    """Of the weights alone: the table still says that the run solved its task."""
    folder = tmp_path / "copy"
    shutil.copytree(COMMITTED, folder)
    path = min((folder / "weights").glob("*.safetensors"))
    save_file({name: x + 0.1 * torch.ones_like(x) for name, x in load_file(path).items()}, path)
    answer = expbench("theory", "witnesses", "--results", str(folder), "--sequences", "512")
    assert answer.code == 1
    assert answer.out.count("FAILS") == 1
    assert path.stem[:12] in next(line for line in answer.out.splitlines() if "FAILS" in line)


def test_a_folder_without_witnesses_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(COMMITTED, folder)
    shutil.rmtree(folder / "weights")
    with pytest.raises(BadInput, match="holds no run that solves its task and has kept its weights"):
        next(check(folder))


def test_the_committed_witnesses_certify_their_own_classes() -> None:
    configurations, problems = of_folder(COMMITTED)
    assert not problems
    assert {each.configuration["model"] for each in kept_runs(configurations, COMMITTED)} >= {"linattn"}
    assert all(c.witnesses for c in certified(configurations, COMMITTED))

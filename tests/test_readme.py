"""README.md: its tables and its figures; and the defaults and queries that pages document."""

import re

import pytest

from expbench.results import store
from tests.conftest import TINY, CommandLine
from tests.documents import README, ROOT


def test_the_queries_beside_the_results(expbench: CommandLine) -> None:
    duckdb = pytest.importorskip("duckdb")
    expbench("run", "--task", "polyreg", "--models", "ssm", *TINY)
    page = (ROOT / "results" / "README.md").read_text()
    python, sql = (re.search(rf"```{kind}\n(.*?)```", page, re.DOTALL) for kind in ("python", "sql"))
    assert python
    assert sql
    exec(python[1], {})
    rows = duckdb.sql(sql[1]).fetchall()
    assert [row[:3] for row in rows] == [("polyreg", "ssm", 4)]


def test_defaults_are_those_that_are_documented() -> None:
    from expbench.sweep.expand import expand
    from expbench.sweep.spec import SweepSpec

    runs = [job.run for job in expand(SweepSpec(task="polyreg", models="s6"), "cpu")]
    assert [run.seed for run in runs] == [0, 1, 2]
    run = runs[0]
    assert (run.D, run.model_settings["N"], run.depth, run.norm, run.residual) == (4, 4, 1, "layer", True)
    assert (run.batch_size, run.steps, run.lr, run.warmup, run.clip) == (64, 2000, 0.01, 200, 1.0)


def test_every_plugin_is_in_a_table() -> None:
    from expbench.plugins import discover

    for name in (*discover("task"), *discover("model")):
        assert f"| `{name}` |" in README.read_text()


def test_the_committed_reference_is_readable() -> None:
    frame, problems = store.read(ROOT / "results" / "reference")
    assert problems == []
    assert set(frame.loc[frame["kind"] == "run", "status"]) == {"ok"}
    assert frame["git_commit"].notna().all()

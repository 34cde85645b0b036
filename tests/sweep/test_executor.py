"""The executor seam: a sweep knows no machine; whoever runs a part, a finished run is a file."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from expbench.results import store
from expbench.sweep import plan as planning
from expbench.sweep import sweep, worker
from expbench.sweep.executor import Ended, Events, ExecutionSettings, Held, Lost, Measured, Part
from expbench.sweep.executors.local import Local
from expbench.sweep.expand import expand
from expbench.sweep.plan import Plan
from expbench.sweep.progress import Progress
from expbench.sweep.spec import SweepSpec
from expbench.training.job import Job


class Elsewhere:
    """Runs parts in a folder of its own and carries their files as bytes; loses those of one model."""

    def __init__(self, own: Path, loses: str = "") -> None:
        self.own, self.loses = own, loses

    def run(self, parts: Sequence[Part], settings: ExecutionSettings, progress: Progress) -> Events:
        """Run parts; see `Executor.run`."""
        lost = [part for part in parts if part.jobs and part.jobs[0].run.model == self.loses]
        for part in lost:
            yield Lost(part.jobs, "the machine is gone")
        here = [part for part in parts if part not in lost]
        for event in Local().run(here, settings._replace(folder=self.own), progress):
            assert isinstance(event, Ended | Measured)
            files = {path.name: path.read_bytes() for path in self.own.glob("*.parquet")}
            for path in self.own.glob("*.parquet"):
                path.unlink()
            yield event._replace(files=files)


def planned(folder: Path, models: str = "ssm,linattn") -> Plan:
    request = SweepSpec(task="polyreg", models=models, L="4", steps="4", batch_size="4", seeds="0:2", D="2")
    return planning.plan(expand(request, "cpu"), folder)


def keys(jobs: Sequence[Job]) -> set[str]:
    return {job.run.key for job in jobs}


def swept(folder: Path, executor: object, plan: Plan) -> worker.WorkerResult:
    return worker.run(plan, executor, ExecutionSettings(folder, "cpu"), Progress(plan.missing))  # type: ignore[arg-type]


def test_files_that_are_carried_are_those_of_the_local_executor(tmp_path: Path) -> None:
    here, there, own = (tmp_path / name for name in ("here", "there", "own"))
    for folder in (here, there, own):
        folder.mkdir()
    plan = planned(here)
    local, carried = swept(here, Local(), plan), swept(there, Elsewhere(own), planned(there))
    assert local.ended == carried.ended == {"ok": 4}
    assert (local.stopped, carried.stopped, carried.held) == (False, False, [])
    assert local.tried == carried.tried >= keys(plan.jobs)
    order = ["key", "model", "split", "slice", "step", "metric"]
    one, other = (store.read(folder).frame.sort_values(order, ignore_index=True) for folder in (here, there))
    assert list(one["value"]) == list(other["value"])
    assert not list(own.glob("*.parquet"))
    assert not planned(there).missing


def test_what_is_lost_is_counted_and_tried_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    own, folder = tmp_path / "own", tmp_path / "results"
    own.mkdir()
    folder.mkdir()
    found = swept(folder, Elsewhere(own, loses="ssm"), planned(folder))
    assert found.ended == {"ok": 2, "lost": 2}
    assert "2 runs lost: the machine is gone" in capsys.readouterr().err
    assert {job.run.model for job in planned(folder).missing} == {"ssm"}


def test_a_campaign_tries_what_is_lost_once(tmp_path: Path) -> None:
    own, folder = tmp_path / "own", tmp_path / "results"
    own.mkdir()
    folder.mkdir()
    said: list[str] = []
    how = sweep.SweepOptions(folder, "cpu", executor=Elsewhere(own, loses="ssm"))
    ended = sweep.run(planned(folder).jobs, how, said.append)
    assert (ended.counts, ended.stopped) == ({"ok": 2, "lost": 2}, False)
    how = how._replace(executor=Elsewhere(own))
    assert sweep.run(planned(folder).jobs, how, said.append).counts == {"ok": 2}


def test_a_file_outside_the_folder_is_refused(tmp_path: Path) -> None:
    class Astray:
        def run(self, parts: Sequence[Part], settings: ExecutionSettings, progress: Progress) -> Events:
            """Name a file beside the results folder."""
            yield Ended(parts[0].jobs[0], "ok", files={"../astray.parquet": b""})

    folder = tmp_path / "results"
    folder.mkdir()
    with pytest.raises(ValueError, match=r"outside the results folder: '\.\./astray\.parquet'"):
        swept(folder, Astray(), planned(folder))
    assert not (tmp_path / "astray.parquet").exists()


def test_what_is_not_begun_stops_the_sweep_and_what_others_hold_does_not(tmp_path: Path) -> None:
    class Idle:
        def __init__(self, holds: bool) -> None:
            self.holds = holds

        def run(self, parts: Sequence[Part], settings: ExecutionSettings, progress: Progress) -> Events:
            """Begin nothing."""
            for part in parts if self.holds else ():
                yield Held(part)

    plan = planned(tmp_path)
    assert swept(tmp_path, Idle(holds=False), plan).stopped
    held = swept(tmp_path, Idle(holds=True), plan)
    assert (held.stopped, keys(held.held)) == (False, keys(plan.missing))


def test_a_failure_with_fail_fast_lets_go_of_the_executor(tmp_path: Path) -> None:
    closed = []

    class Failing:
        def run(self, parts: Sequence[Part], settings: ExecutionSettings, progress: Progress) -> Events:
            """Say that every job fails."""
            try:
                for job in parts[0].jobs:
                    yield Ended(job, "failed", "error", "trace")
            finally:
                closed.append(True)

    plan = planned(tmp_path)
    settings = ExecutionSettings(tmp_path, "cpu")
    found = worker.run(plan, Failing(), settings, Progress(plan.missing), fail_fast=True)
    assert (found.ended, found.stopped, closed) == ({"failed": 1}, True, [True])


def test_a_set_of_controls_goes_with_the_first_jobs_that_want_it(tmp_path: Path) -> None:
    plan = planned(tmp_path)
    parts = worker.divided(plan)
    assert [len(part.jobs) for part in parts] == [2, 2]
    assert [len(part.controls) for part in parts] == [1, 0]
    bare = worker.divided(plan._replace(missing=[]))
    assert [(part.jobs, len(part.controls)) for part in bare] == [([], 1)]

"""Parts of a study: they are run in order, and still share one grid of learning rates, as if they were run together."""

from collections.abc import Sequence
from pathlib import Path

from expbench.results import store
from expbench.results.configurations import gather, with_context
from expbench.results.learning_rates import RESERVED
from expbench.sweep import sweep
from expbench.sweep.executor import Events, ExecutionSettings, Held, Part
from expbench.sweep.executors.local import Local
from expbench.sweep.expand import expand
from expbench.sweep.progress import Progress
from expbench.sweep.spec import SweepSpec
from expbench.training.job import Job

REQUEST = SweepSpec(task="polyreg", models="", L="4", D="2", steps="4", batch_size="4", seeds="0:2", lr="auto")


def jobs(*models: str) -> list[Job]:
    """The runs of each model, as a part."""
    requests = {model: SweepSpec(**(vars(REQUEST) | {"models": model})) for model in models}
    return [job._replace(part=model) for model, request in requests.items() for job in expand(request, "cpu")]


class Recorder:
    """Runs parts here, and writes down which runs of which model come when; another process holds those of `held`."""

    def __init__(self, held: str = "") -> None:
        self.seen: list[tuple[str, str]] = []
        self.held = held

    def run(self, parts: Sequence[Part], settings: ExecutionSettings, progress: Progress) -> Events:
        """Run parts; see `Executor.run`."""
        for part in parts:
            model = part.jobs[0].run.model if part.jobs else ""
            if model == self.held and part.jobs:
                yield Held(part)
                continue
            kinds = ("tuning" if job.run.seed >= RESERVED else "run" for job in part.jobs)
            self.seen += [(model, kind) for kind in dict.fromkeys(kinds)]
            yield from Local().run([part], settings, progress)


def swept(folder: Path, of: Sequence[Job], **options: object) -> tuple[Recorder, list[str]]:
    folder.mkdir(exist_ok=True)
    recorder, said = Recorder(), list[str]()
    how = sweep.SweepOptions(folder, "cpu", tunes=True, tuning_runs=1, executor=recorder)
    sweep.run(of, how._replace(**options), said.append)  # type: ignore[arg-type]
    return recorder, said


def chosen(folder: Path) -> dict[str, tuple[float, tuple[float, ...]]]:
    """The rate of each model and the rates that it was chosen from."""
    found = gather(with_context(store.read(folder).frame))
    return {str(c["model"]): (c["lr"], c.tuning.rates) for c in found if c.tuned and c.tuning is not None}


def test_parts_are_run_in_order_and_share_a_grid(tmp_path: Path) -> None:
    recorder, said = swept(tmp_path / "parts", jobs("ssm", "s6", "linattn"))
    first = [model for model, kind in dict.fromkeys(recorder.seen) if kind == "run"]
    assert first == ["ssm", "s6", "linattn"]
    assert recorder.seen.index(("ssm", "run")) < recorder.seen.index(("s6", "tuning"))
    assert any(line.startswith("part s6, choosing learning rates, ") for line in said)
    together = [job._replace(part="") for job in jobs("ssm", "s6", "linattn")]
    swept(tmp_path / "together", together)
    assert chosen(tmp_path / "parts") == chosen(tmp_path / "together")
    assert len({rates for _, rates in chosen(tmp_path / "parts").values()}) == 1


def test_the_first_parts_alone_are_continued_by_the_whole(tmp_path: Path) -> None:
    swept(tmp_path, jobs("ssm"))
    assert chosen(tmp_path).keys() == {"ssm"}
    before = {path.name for path in tmp_path.glob("*.parquet")}
    recorder, _ = swept(tmp_path, jobs("ssm", "s6"))
    assert before < {path.name for path in tmp_path.glob("*.parquet")}
    assert recorder.seen[0] == ("s6", "tuning")
    again, _ = swept(tmp_path, jobs("ssm", "s6"))
    assert again.seen == []


def test_a_part_that_another_process_holds_does_not_keep_the_next_from_running(tmp_path: Path) -> None:
    tmp_path.joinpath("results").mkdir()
    recorder = Recorder(held="ssm")
    how = sweep.SweepOptions(tmp_path / "results", "cpu", tunes=True, tuning_runs=1, executor=recorder, seconds=3)
    ended = sweep.run(jobs("ssm", "s6"), how, lambda line: None)
    assert ended.stopped
    assert ("s6", "tuning") in recorder.seen


def test_a_dry_run_counts_each_part(tmp_path: Path) -> None:
    text = sweep.dry_run(jobs("ssm", "s6"), sweep.SweepOptions(tmp_path / "none", "cpu", tunes=True, tuning_runs=2))
    assert "part ssm: 2 runs: 0 done, 2 to run; to choose their rates 8 runs: 0 done, 8 to run" in text
    assert "part s6: 2 runs: 0 done, 2 to run; to choose their rates 8 runs: 0 done, 8 to run" in text
    assert "20 runs: 0 done, 20 to run" in text


def test_a_dry_run_knows_the_rates_that_are_chosen(tmp_path: Path) -> None:
    swept(tmp_path, jobs("ssm"))
    folder = sweep.SweepOptions(tmp_path, "cpu", tunes=True, tuning_runs=1)
    text = sweep.dry_run(jobs("ssm", "s6"), folder)
    assert "part ssm: 2 runs: 2 done, 0 to run" in text
    assert "part s6: 2 runs: 0 done, 2 to run" in text
    swept(tmp_path, jobs("ssm", "s6"))
    text = sweep.dry_run(jobs("ssm", "s6"), folder)
    assert ", 0 to run; 0 sets of controls" in text
    assert [", 0 to run; to choose their rates" in line for line in text.splitlines()[-2:]] == [True, True]

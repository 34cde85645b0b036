"""Presets and the ledger: every published row is run, claims are fixed before the runs, and numbers stand beside numbers."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from expbench.claims.claim import Claim, read
from expbench.claims.parsing import Side
from expbench.claims.verdicts import SIGNIFICANCE
from expbench.errors import BadInput
from expbench.report import published
from expbench.results import schema, store
from expbench.results.configurations import gather, with_context
from expbench.results.learning_rates import RATE_GRID, RESERVED, TUNING_RUNS
from expbench.run import matched_base
from expbench.studies.preset import Preset
from expbench.studies.published import numbers
from expbench.studies.synthetic import PRESETS, smoke
from expbench.sweep import tuning
from expbench.sweep.expand import expand
from expbench.training.job import Job
from expbench.training.loop import build
from tests.conftest import CommandLine, is_bad_input


@pytest.fixture(scope="module")
def jobs() -> list[Job]:
    return [job for request in PRESETS["table2"]().requests for job in expand(request, "cpu")]


def test_every_row_of_table_2_is_run_with_every_reading_of_it(jobs: list[Job]) -> None:
    assert len(numbers.table2()) == 19
    for row in numbers.table2():
        meant = [
            job
            for job in jobs
            if (job.run.task, job.run.model, job.run.positions, job.run.depth, job.run.D)
            == (row.task, row.model, row.positions, row.depth, row.D)
        ]
        assert {job.run.norm for job in meant} == {"layer", "none"}
        if row.task == "count-in-row":
            readings = {(job.run.task_settings["head"], job.run.task_settings["supervise"]) for job in meant}
            assert len(readings) == 4
        else:
            assert {job.run.task_settings["family"] for job in meant} == {"random", "suffix"}
        if row.model == "s6":
            assert {job.run.model_settings["layout"] for job in meant} == {"mamba_rank_D", "full_bias"}
        seeds = {job.run.seed for job in meant}
        assert len(seeds) == 20
        assert max(seeds) < RESERVED


def test_the_parameters_are_those_of_the_paper_where_one_formula_gives_them(jobs: list[Job]) -> None:
    found: dict[numbers.Published, set[int]] = {}
    for row in numbers.table2():
        for job in jobs:
            run = job.run
            where = (run.task, run.model, run.positions, run.depth, run.D) == (
                *(row.task, row.model, row.positions, row.depth, row.D),
            )
            if where and run.norm == "layer" and run.seed == 0 and row.head in (None, run.task_settings.get("head")):
                found.setdefault(row, set()).add(build(run, job.task, job.model, "cpu").parameter_count())
    same = {row: row.parameters in counts for row, counts in found.items()}
    # no formula of S6's parameters gives all that are printed: two rows of D=6 have those of attention there
    assert {(row.model, row.task, row.D) for row, equal in same.items() if not equal} == {("s6", "polyreg", 6)}


def test_claims_name_rows_that_are_run(jobs: list[Job]) -> None:
    for claim in PRESETS["table2"]().claims:
        for side in (claim.left, claim.right):
            wanted = {"D": "D", "depth": "depth", "positions": "positions"}
            assert any(
                job.run.task == claim.task
                and job.run.model == side.model
                and all(str(getattr(job.run, wanted[name])) == value for name, value in side.settings.items())
                for job in jobs
            ), side


def row(key: str, value: float, seed: int = 0, **others: object) -> dict[str, object]:
    """A run of Table 2's first counting row of S6 without position code, as the table holds its accuracy."""
    facts = {"task": "count-in-row", "model": "s6", "positions": "none", "depth": 1, "D": 2, "kind": "run", "status": "ok"}
    task_settings = '{"L":20,"classes":20,"head":"scalar"}'
    settings = {"task_settings": task_settings, "model_settings": '{"layout":"full_bias"}', "norm": "none"}
    both = {"key": key, "split": "test", "slice": "", "seed": seed, "instance": 0, "value": value, "success_threshold": 0.95}
    rest = {"higher_is_better": True, "parameters": 35, "step": 10, "steps": 10}
    return {**dict.fromkeys(schema.COLUMNS), **facts, **settings, **both, **rest, **others}


def test_a_published_number_reproduces_where_means_of_three_of_our_seeds_hold_it() -> None:
    def verdicts(values: list[float], **others: object) -> dict[str, list[str]]:
        rows = []
        for seed, value in enumerate(values):
            rows.append(row(str(seed), value, seed, metric="accuracy", primary=False, **others))
            rows.append(row(str(seed), 0.5, seed, metric="balanced_accuracy", primary=True, **others))
        found: dict[str, list[str]] = {}
        frame = with_context(pd.DataFrame(rows))
        for entry in published.entries(frame, gather(frame)):
            found.setdefault(entry.published.row, []).append(entry.verdict)
        return found

    name = "count-in-row: s6, without position code, 1 layer, D=2"  # 84.8 % were published
    wide = verdicts([1.0, 0.4] * 10)
    assert wide.pop(name) == ["reproduces"]
    assert all(found == ["not run"] for found in wide.values())
    assert verdicts([0.99, 0.98] * 10)[name] == ["differs"]
    assert verdicts([0.1, 0.2] * 10)[name] == ["differs"]
    assert verdicts([0.1, 0.2] * 10, task_settings='{"L":64,"classes":20}')[name] == ["not run"], "another experiment"


def test_smoke_runs_every_row_and_judges_its_claims(expbench: CommandLine) -> None:
    study = smoke(PRESETS["table2"]())
    assert [request.task for request in study.requests] == [request.task for request in PRESETS["table2"]().requests]
    one = [job for request in study.requests[:1] for job in expand(request, "cpu")]
    assert len({job.run.model for job in one}) == 1
    assert {job.run.steps for job in one} == {20}
    answer = expbench("reproduce", "table2", "--smoke", "--device", "cpu", "--shard", "1/9")
    assert (answer.code, answer.out) == (0, ""), answer
    answer = expbench("report", "--results", "results/table2-smoke")
    made = read(Path("results/table2-smoke"))
    assert {claim.hash for claim in made} == {claim.hash for claim in PRESETS["table2"]().claims}
    frame = store.read(Path("results/table2-smoke")).frame
    assert max(claim.created for claim in made if claim.created) < frame["created"].min(), "claims come before runs"
    assert (frame["kind"] == "tuning").sum() > TUNING_RUNS
    report = Path(answer.out.strip()).with_suffix(".md").read_text()
    assert report.index("## Claims") < report.index("## How to read") < report.index("## Comparison with published numbers")
    assert "not run" in report


def test_smoke_tries_every_row_of_degree_at_its_first_length() -> None:
    def rows(study: Preset) -> dict[tuple[str, ...], set[int]]:
        """The lengths of each task, model, family and inputs."""
        found: dict[tuple[str, ...], set[int]] = {}
        for request in study.requests:
            for run in (job.run for job in expand(request, "cpu")):
                settings = (str(run.task_settings.get(name)) for name in ("family", "inputs", "lo"))
                found.setdefault((run.task, run.model, *settings), set()).add(run.L)
        return found

    whole, small = rows(PRESETS["degree"]()), rows(smoke(PRESETS["degree"]()))
    assert whole.keys() == small.keys()
    for row, lengths in small.items():
        assert lengths == {min(whole[row])} | {256} & whole[row], "the short study and the long one"


def test_bad_input(expbench: CommandLine) -> None:
    is_bad_input(expbench("reproduce", "tabel2"), "table2")
    is_bad_input(expbench("reproduce", "table2", "--shard", "0/2"), "--shard")
    assert not Path("results").exists()


def test_the_degree_study_claims_no_more_than_ten_seeds_can_decide() -> None:
    study = PRESETS["degree"]()
    jobs = [job for request in study.requests for job in expand(replace(request, seeds="0"), "cpu")]
    assert {job.run.model for job in jobs} == {"s6", "s6-poly", "linattn", "polyattn", "attn"}
    assert {job.run.L for job in jobs} == {4, 8, 16, 32, 256, 512, 1024}
    places = 0
    for claim in study.claims:
        meant = {str(side): meant_by(side, claim, jobs) for side in (claim.left, claim.right)}
        assert meant[str(claim.left)] == meant[str(claim.right)] != set()
        places += len(meant[str(claim.left)])
    assert places * 2 / 2**10 <= SIGNIFICANCE, "the least p-value of ten pairs, by Holm"


def meant_by(side: Side, claim: Claim, jobs: Sequence[Job]) -> set[tuple[object, ...]]:
    """The places of a side's runs: their task, norm and, where the claim does not fix them, positions and their base."""
    found = set()
    for job in jobs:
        run, free = job.run, {*("positions", "D", "depth")} - {*claim.left.settings, *claim.right.settings}
        named = all(str(getattr(run, name, None)) == value for name, value in side.settings.items())
        where = all(str(run.task_settings[name]) in values for name, values in claim.where.items())
        if run.task == claim.task and run.model == side.model and named and where:
            found.add((str(run.task_settings), run.norm, run.steps, *(getattr(run, name) for name in sorted(free))))
    return found


CROSSED = ("polynomials", "positions", "counting")


@pytest.fixture(scope="module", params=CROSSED)
def crossed(request: pytest.FixtureRequest) -> tuple[Preset, list[Job]]:
    """A study with the codes crossed, and a run of each of its configurations on each instance of the tasks' first seed."""
    study = PRESETS[request.param]()
    few = [replace(spec, seeds="0", instances="0" if spec.instances else None) for spec in study.requests]
    return study, [job for spec in few for job in expand(spec, "cpu")]


def test_every_model_has_every_code_and_the_controls_are_there(crossed: tuple[Preset, list[Job]]) -> None:
    runs = [job.run for job in crossed[1]]
    models = {run.model for run in runs}
    assert {"s6", "attn", "linattn", "gru", "ssm"} <= models
    for model in models:
        assert {run.positions for run in runs if run.model == model} >= {"none", "sin", "learned"}


def test_both_sides_of_a_claim_have_the_same_positions_unless_it_is_about_them(crossed: tuple[Preset, list[Job]]) -> None:
    study, jobs = crossed
    for claim in study.claims:
        left, right = claim.left.settings, claim.right.settings
        assert "positions" in left.keys() & right.keys()
        apart = {name for name in left if left[name] != right[name]}
        assert apart <= claim.subjects, claim.text
        one, other = (meant_by(side, claim, jobs) for side in (claim.left, claim.right))
        assert one & other, claim.text
        if "positions" not in claim.subjects:
            assert one == other, claim.text


def test_the_random_polynomials_of_table_2() -> None:
    study = PRESETS["polynomials"]()
    assert [part.name for part in study.parts] == ["s6", "attn", "linattn", "gru", "ssm"]
    counts = {}
    for part in study.parts:
        assert {(spec.instances, spec.seeds) for spec in part.requests} == {("0:60", "0:2")}
        runs = [job.run for spec in part.requests for job in expand(replace(spec, instances="0", seeds="0"), "cpu")]
        counts[part.name] = len({run.key for run in runs}) * 60 * 2
        assert {run.model for run in runs} == {part.name}
        assert {run.norm for run in runs} == {"layer", "none"}
        assert {run.position_base for run in runs if run.positions == "sin"} == {matched_base("sin", 10), 10000.0}
        assert {run.D for run in runs if run.positions == "none"} == {4, 6, 8}
    assert counts == {"s6": 2880, "attn": 3360, "linattn": 2880, "gru": 2880, "ssm": 2880}


def test_the_first_studies_are_those_of_the_committed_tables() -> None:
    for name in ("table2", "degree"):
        table = pq.read_table(Path("results") / name / "table.parquet", columns=["key", "kind"]).to_pandas()
        known = set(table.loc[table["kind"] == "run", "key"])
        jobs = [job for spec in PRESETS[name]().requests[:3] for job in expand(replace(spec, seeds="0"), "cpu")]
        for job in jobs:
            if job.run.model != "s6-poly":  # whose version 2 has new keys
                assert known & {tuning.with_rate(job, rate).run.key for rate in RATE_GRID}


def test_parts_of_a_study() -> None:
    study = PRESETS["polynomials"]()
    assert [part.name for part in study.until("attn").parts] == ["s6", "attn"]
    assert study.until(None) == study
    with pytest.raises(BadInput, match="unknown part of the study in --until: 'atn'; did you mean 'attn'"):
        study.until("atn")
    with pytest.raises(BadInput, match="this study has no parts"):
        PRESETS["table2"]().until("s6")

"""The comparison of two results tables, on runs whose outcomes are made up."""

import json
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy import stats

from expbench.errors import BadInput
from expbench.regression import formatting
from expbench.regression.comparison import Comparison, compare, corrected
from expbench.regression.matching import VERSIONS, _chosen_rates
from expbench.results import store
from expbench.results.compact import compact
from expbench.results.learning_rates import Criterion, choose
from expbench.results.schema import FORMER_COLUMNS, SCHEMA
from expbench.run import LATER, content_key
from expbench.stats.differences import estimated
from tests.conftest import CommandLine, is_bad_input
from tests.report.test_build import frame_of, row
from tests.results.test_store import broken_files
from tests.test_imports import loaded

Rows = list[dict[str, Any]]
NOW = datetime(2026, 5, 4, tzinfo=UTC)
ACCURACY = {"metric": "accuracy", "higher_is_better": True, "success_threshold": 0.95}


def runs(values: Iterable[float | str | None], first: int = 0, **changes: Any) -> Rows:
    """A run a value, of the seeds from `first` on, and its curve; None diverged, a text is how else it ended."""
    settings = {"task_settings": {"L": 8, "instance": 0}, "model_settings": {"N": 4}}
    given = {name: changes.pop(name, {}) for name in settings}
    texts = {name: json.dumps(settings[name] | given[name]) for name in settings}
    own: dict[str, Any] = {"created": NOW, "instance": given["task_settings"].get("instance", 0), **texts, **changes}
    rows = []
    for seed, value in enumerate(values, first):
        run = LATER | own | {"seed": seed, "key": content_key({"own": sorted(map(str, own.items())), "seed": seed})}
        if value is None:
            rows.append(row(**run | {"status": "diverged", "split": "validation", "step": 5, "value": 1e-6}))
        elif isinstance(value, str):
            rows.append(row(**run | {"status": value, "error": "E: no", "split": None, "metric": None, "value": None}))
        else:
            rows += [row(**run | {"value": value}), row(**run | {"split": "validation", "step": 5, "value": 0.1})]
    return rows


def compared(base: Rows, new: Rows, **options: Any) -> Comparison:
    return compare(frame_of(base), frame_of(new), **options)


def one(base: Rows, new: Rows, **options: Any) -> dict[str, Any]:
    """The one cell of a comparison."""
    (configuration,) = compared(base, new, **options).configurations.to_dict("records")
    return {str(name): value for name, value in configuration.items()}


def around(mean: float, n: int = 5, seed: int = 0, spread: float = 0.1) -> list[float]:
    return list(mean * np.exp(spread * np.random.default_rng(seed).normal(size=n)))


def many(values: np.ndarray[Any, Any], first: int = 0, **changes: Any) -> Rows:
    """A cell a row, a seed a column."""
    configurations = (runs(own, first, model_settings={"N": n}, **changes) for n, own in enumerate(values))
    return [made for configuration in configurations for made in configuration if made["split"] == "test"]


def test_the_same_numbers_are_unchanged_and_not_tested() -> None:
    found = compared(runs([0.5, 0.02, None]), runs([0.5, 0.02 * (1 + 1e-8), None]))
    assert (found.counts, found.tests) == ({"unchanged": 1}, 0)
    assert found.configurations["because"].iloc[0] == "the same numbers; diverged: 1 of 3 against 1 of 3"
    assert one(runs([0.5, 0.02, 0.3]), runs([0.02], first=1))["because"] == "the same numbers", "of fewer seeds too"
    assert one(runs([0.5, 0.5, 0.5]), runs([0.5, 0.5], first=2))["because"] == "", "another seed is another run"


def test_configurations_are_matched_by_what_was_run_but_not_by_versions() -> None:
    base = runs([0.5] * 3) + runs([0.1] * 3, D=8)
    configuration = one(runs([0.5] * 3), runs([0.5] * 3, model_version="2-abc", git_commit="new"))
    assert (configuration["verdict"], configuration["because"]) == (
        "unchanged",
        "the same numbers; model version 1 -> 2-abc",
    )
    for change in [
        {"lr": 0.03},
        {"steps": 20},
        {"task_settings": {"L": 9}},
        {"model_settings": {"N": 5}},
        {"init_noise": 0.5},
    ]:
        found = compared(base, runs([0.1] * 3, D=8) + runs([0.5] * 3, **change))
        assert found.counts == {"missing": 1, "new": 1, "unchanged": 1}, change
    assert list(found.configurations["because"]) == ["not in NEW", "not in BASE", "the same numbers"]


def test_a_setting_that_is_new_or_gone_with_one_value_is_no_other_run() -> None:
    base = runs([0.5] * 3) + runs([0.1] * 3, model_settings={"N": 8})
    new = runs([0.5] * 3, model_settings={"bias": True}) + runs([0.1] * 3, model_settings={"N": 8, "bias": True})
    assert compared(base, new).counts == compared(new, base).counts == {"unchanged": 2}
    new += runs([0.1] * 3, model_settings={"N": 8, "bias": False})
    assert compared(base + runs([0.5] * 3, D=8), new + runs([0.5] * 3, D=8)).counts == {
        "missing": 2,
        "new": 3,
        "unchanged": 1,
    }


def test_of_several_versions_in_a_folder_the_latest_counts() -> None:
    older = runs([0.9] * 3, model_version="1")
    newer = runs([0.5] * 3, model_version="2", created=NOW + timedelta(hours=1))
    configuration = one(runs([0.5] * 3), newer + older)
    assert (configuration["verdict"], configuration["model_version1"], configuration["trials1"]) == ("unchanged", "2", 3)


def test_no_configuration_in_common_is_refused_with_the_nearest_difference() -> None:
    with pytest.raises(BadInput, match=r"no configuration in common: the nearest differ in steps \(10 in BASE, 20 in NEW\)"):
        compared(runs([0.5]) + runs([0.5], D=8), runs([0.5], steps=20))
    with pytest.raises(BadInput, match=r"the nearest differ in lr \(0.01 in BASE, 0.1 in NEW\), N \(4 in BASE, 8 in NEW\)"):
        compared(runs([0.5]), runs([0.5], model_settings={"N": 8}, lr=0.1))


def test_runs_that_agree_are_paired_and_then_a_small_shift_is_seen() -> None:
    base = around(0.1, 6, spread=1.0)
    configuration = one(runs(base), runs([1.3 * v * (1 + 0.01 * i) for i, v in enumerate(base)]))
    assert (configuration["verdict"], configuration["design"]) == ("regressed", "paired")
    assert configuration["difference"] == pytest.approx(1.3, rel=0.03)
    assert 1 < configuration["low"] < configuration["difference"] < configuration["high"]
    assert configuration["new"] / configuration["base"] == pytest.approx(configuration["difference"])
    configuration = one(runs(base), runs([1.3 * v for v in base], first=100))
    assert (configuration["verdict"], configuration["design"]) == ("undecided", "unpaired")


def test_instances_are_blocks() -> None:
    def sides(shift: float, first: int) -> Rows:
        levels = enumerate([1e-4, 1e-2, 0.5])
        return [
            made
            for i, level in levels
            for made in runs(around(shift * level, 3, seed=first + i), first, task_settings={"instance": i})
        ]

    configuration = one(sides(1, 0), sides(2, 100))
    assert (configuration["verdict"], configuration["design"]) == ("regressed", "unpaired")
    assert configuration["difference"] == pytest.approx(2, rel=0.1)
    assert one(sides(1, 0), sides(1, 100))["verdict"] != "regressed"
    first = [made for made in sides(1, 0) if made["seed"] == 0]
    other = [made for made in sides(1.5, 100) if made["seed"] == 100]
    assert one(first, other)["design"] == "paired", "by instance, where no seeds agree"


@pytest.mark.parametrize(
    ("base", "new", "kind", "verdict"),
    [
        (0.9, 0.6, ACCURACY, "regressed"),
        (0.6, 0.9, ACCURACY, "improved"),
        (0.9, 0.89, ACCURACY, "unchanged"),
        (0.1, 0.6, {}, "regressed"),
        (0.6, 0.1, {}, "improved"),
        (0.6, 0.61, {}, "unchanged"),
        (1e-9, 1e-7, {}, "unchanged"),
        (-2.0, -1.0, {}, "regressed"),
        (-1.0, -2.0, {}, "improved"),
    ],
)
def test_metrics_know_which_way_is_better(base: float, new: float, kind: dict[str, Any], verdict: str) -> None:
    noise = around(1, 5, spread=0.005), around(1, 5, seed=1, spread=0.005)
    configuration = one(runs([base * v for v in noise[0]], **kind), runs([new * v for v in noise[1]], first=9, **kind))
    assert configuration["verdict"] == verdict
    assert configuration["low"] <= configuration["difference"] <= configuration["high"]
    if kind or base < 0:
        assert configuration["difference"] == pytest.approx(new - base, abs=0.03)
        assert not configuration["ratio"]


def test_a_run_that_diverged_is_worse_than_any_value() -> None:
    base = around(0.1, 3)
    configuration = one(runs(base), runs([None] * 3))
    assert (configuration["verdict"], configuration["because"]) == ("regressed", "diverged: 0 of 3 against 3 of 3")
    assert np.isnan(configuration["difference"])
    assert one(runs([None] * 3), runs(base))["verdict"] == "improved"
    assert one(runs(base), runs([base[0], base[1], None]))["verdict"] == "undecided", "one may be chance"
    assert one(runs(around(0.1, 20)), runs([*around(0.1, 17), None, None, None]))["verdict"] == "undecided"
    configuration = one(runs(around(0.9, 8, spread=0.01), **ACCURACY), runs([None] * 7 + [0.99], **ACCURACY))
    assert configuration["verdict"] == "regressed", "although that which did not is better"
    configuration = one(runs(base), runs([*base[:2], float("inf")]))
    assert (configuration["diverged1"], configuration["trials1"], configuration["solved1"]) == (1, 3, 0)


def test_what_is_only_on_one_side_or_failed_there() -> None:
    both = runs([0.5] * 3, D=64)

    def verdict(base: Rows, new: Rows) -> tuple[str, str]:
        configurations = compared(both + base, both + new).configurations
        (configuration,) = configurations[configurations["D"] != 64].to_dict("records")
        return configuration["verdict"], configuration["because"]

    ok = runs([0.5, 0.5, 0.5])
    assert verdict(ok, []) == ("missing", "not in NEW")
    assert verdict([], ok) == ("new", "not in BASE")
    assert verdict(ok, runs([0.5, "failed", "failed"])) == ("failed", "2 of 3 runs: E: no")
    assert verdict([], runs(["failed"])) == ("failed", "1 of 1 runs: E: no")
    assert verdict(ok, runs(["unsupported"] * 3)) == ("missing", "no result in NEW: unsupported")
    assert verdict(runs(["failed"] * 3), ok) == ("new", "no result in BASE: failed")
    assert verdict(runs(["unsupported"]), runs(["unsupported"])) == ("unchanged", "no result on either side")
    assert verdict(ok, runs([0.5] * 3, metric="mse")) == ("missing", "judged by mse instead of nmse")
    assert verdict(ok, runs([0.5] * 3, higher_is_better=True))[0] == "missing"


def test_what_cannot_be_decided_says_why() -> None:
    def undecided(base: Rows, new: Rows, **options: Any) -> str:
        configuration = one(base, new, **options)
        assert configuration["verdict"] == "undecided"
        return str(configuration["because"])

    assert undecided(runs([0.1] * 3, well_posed=False), runs([0.9] * 3, first=9)) == "too few comparable runs: 3 against 3"
    ill = {"well_posed": False}
    assert undecided(runs([0.1] * 3, **ill), runs([0.9] * 3, first=9, **ill)) == "the labels are ill-posed"
    assert undecided(runs([0.1]), runs([0.9])) == "too few comparable runs: 1 against 1"
    two = runs([0.1, 0.1001]), runs([0.9, 0.9001])
    assert undecided(*two) == "2 against 2 runs cannot distinguish a change from chance"
    assert one(*two, confidence=0.85)["verdict"] == "regressed"
    assert undecided(runs(around(0.1)), runs(around(0.11, seed=3), first=9)).startswith("Holm's p is ")
    near = [runs([mean + 0.006 * i for i in range(10)], first, **ACCURACY) for mean, first in ((0.9, 0), (0.86, 99))]
    assert undecided(*near) == "a difference, but below the margin"


def test_rates_that_were_chosen_are_results() -> None:
    def tuned(value: float, rate: float, first: int = 0) -> Rows:
        tries = {0.01: 0.2, 0.03: 0.3} | {rate: 0.1}
        tuning = [
            made
            for lr, reached in tries.items()
            for made in runs([reached] * 2, 1_000_000, kind="tuning", lr=lr, split="validation")
            if made["step"] == 10
        ]
        return tuning + runs(around(value, first + 5)[first:], lr=rate)

    found = compared(tuned(0.1, 0.01), tuned(0.3, 0.1))
    assert found.counts == {"regressed": 1}
    assert found.configurations["because"].iloc[0] == "rate 0.01 -> 0.1"
    found = compared(tuned(0.1, 0.01), tuned(0.1, 0.1) + runs([0.5] * 3, lr=0.01))
    assert found.counts == {"new": 1, "unchanged": 1}, "a rate beside the chosen one is what was run"
    assert compared(tuned(0.1, 0.01), runs(around(0.1), lr=0.01)).counts == {"unchanged": 1}, "given the chosen one"
    with pytest.raises(BadInput, match="lr"):
        compared(tuned(0.1, 0.01), runs(around(0.1), lr=0.1))


@pytest.mark.parametrize("rule", [1, 2])
def test_rates_are_chosen_as_tuning_chooses_them(rule: int) -> None:
    source = np.random.default_rng(0)
    for higher in (False, True):
        for _ in range(20):
            tried = {lr: list(source.choice([0.1, 0.2, 0.3, np.nan], 3)) for lr in (0.01, 0.03, 0.1)}
            same = {"side": 0, "alike": 0, **dict.fromkeys(VERSIONS, "1"), "tuning_rule": rule if rule > 1 else None}
            rows = [
                {**same, "lr": lr, "value": value, "higher_is_better": higher, "success_threshold": 0.2}
                for lr, values in tried.items()
                for value in values
            ]
            frame = pd.DataFrame(rows)
            known = {lr: [None if np.isnan(v) else v for v in values] for lr, values in tried.items()}
            expected = choose(known, Criterion(higher, 0.2), rule)
            assert _chosen_rates(frame, frame.head(1)).iloc[0] == expected


def units(base: Iterable[float], new: Iterable[float], first: int = 100) -> pd.DataFrame:
    sides = [pd.DataFrame({"loss": list(values)}) for values in (base, new)]
    frame = pd.concat([side.assign(side=i, seed=side.index + i * first) for i, side in enumerate(sides)])
    return frame.assign(configuration=0, instance=0)


def test_differences_are_those_of_the_textbook() -> None:
    base, new = np.random.default_rng(1).normal([[0.0], [1.5]], size=(2, 6))
    least, shifts = pd.Series([1e-9]), np.array([0.5, 0.6, 0.4, 0.5, 0.7, 0.5])
    (configuration,) = estimated(units(base, new), least, 0.95).itertuples()
    t = stats.ttest_ind(new, base)
    exact = stats.permutation_test((new, base), lambda a, b: a.mean() - b.mean(), n_resamples=np.inf)
    assert configuration.p == pytest.approx(max(t.pvalue, exact.pvalue))
    assert (configuration.low, configuration.high) == pytest.approx(tuple(t.confidence_interval(0.95)))
    (configuration,) = estimated(units(base, base + shifts, first=0), least, 0.95).itertuples()
    t = stats.ttest_1samp(shifts, 0)
    assert configuration.design == "paired"
    assert configuration.p == pytest.approx(2 * t.pvalue), (
        "twice, as either design could be; the signs are all that they can be"
    )
    assert (configuration.low, configuration.high) == pytest.approx(tuple(t.confidence_interval(0.975)))


def test_resampling_has_a_veto() -> None:
    noise = 1e-3 * np.random.default_rng(0).normal(size=23)
    base, new = noise[:20], noise[20:] + np.array([0, 0, 1])
    (configuration,) = estimated(units(base, new), pd.Series([1e-9]), 0.95).itertuples()
    exact = stats.permutation_test(
        (new, base), lambda a, b: abs(a.mean() - b.mean()), n_resamples=np.inf, alternative="greater"
    )
    assert configuration.p == pytest.approx(exact.pvalue)
    assert configuration.p > 1.5 * stats.ttest_ind(base, new).pvalue
    large = estimated(units(np.arange(30.0), np.arange(30.0) + 40), pd.Series([1e-9]), 0.95)
    assert large["p"].iloc[0] < 1e-9, "where no exchange differs as much t decides"


@pytest.mark.parametrize("kind", ["normal", "heavy", "lots"])
@pytest.mark.parametrize("seeds", [3, 5])
def test_false_alarms(kind: str, seeds: int) -> None:
    """Of 40 comparisons of 20 unchanged cells at .95 at most 5 call anything changed: 2 are expected, more than 5 in 1 %."""
    source = np.random.default_rng(seeds)
    shape = (800, 2 * seeds)
    logs = {
        "normal": source.normal(size=shape) * source.uniform(0.01, 1, size=(800, 1)),
        "heavy": source.standard_t(3, size=shape),
        "lots": np.where(source.random(shape) < 0.9, -7, 0) + 0.1 * source.normal(size=shape),
    }[kind]
    configurations = compared(many(np.exp(logs[:, :seeds])), many(np.exp(logs[:, seeds:]), first=50)).configurations
    repeat = configurations["model_settings_matched"].str.extract(r"(\d+)")[0].astype(int) % 40
    assert sum((corrected(group) <= 0.05).any() for _, group in configurations.groupby(repeat)) <= 5


def test_the_correction_is_for_all_configurations_whose_numbers_differ() -> None:
    values = np.array([around(0.1, 8, seed=n) for n in range(40)])
    changed = values.copy()
    changed[0] = np.array(around(0.13, 8, seed=99))
    found = compared(many(values), many(changed))
    assert (found.counts, found.tests) == ({"regressed": 1, "unchanged": 39}, 1)
    other = np.array([around(0.1, 8, seed=n + 500) for n in range(40)])
    other[0] = changed[0]
    found = compared(many(values), many(other, first=50))
    configuration = found.configurations[found.configurations["model_settings_matched"] == '{"N":0}'].iloc[0]
    assert found.tests == 40
    assert configuration["holm"] == pytest.approx(40 * configuration["p"])


def test_a_planted_shift_is_found() -> None:
    """One cell of 20 in each of 10 comparisons, twice the error, with a spread of a tenth: from 5 seeds on every time."""
    hits = 0
    for repeat in range(10):
        source = np.random.default_rng(repeat)
        base, new = (0.1 * np.exp(0.1 * source.normal(size=(20, 5))) for _ in range(2))
        new[7] *= 2
        configurations = compared(many(base), many(new, first=50)).configurations
        hits += list(configurations.loc[configurations["verdict"] == "regressed", "model_settings_matched"]) == ['{"N":7}']
    assert hits == 10


def test_speed_is_compared_between_the_same_devices_and_stacks() -> None:
    def sides(**changes: Any) -> Rows:
        return runs([0.5] * 3, **{"run_seconds": 10.0, "stack_size": 3} | changes)

    assert one(sides(), sides(run_seconds=20.0))["seconds"] == pytest.approx(2)
    assert one(sides(), sides(run_seconds=20.0))["slower"]
    assert not one(sides(), sides(run_seconds=20.0), times=2.5)["slower"]
    for change in [{"device_name": "another CPU"}, {"stack_size": 1}]:
        configuration = one(sides(), sides(run_seconds=20.0, **change))
        assert np.isnan(configuration["seconds"])
        assert not configuration["slower"]
    mixed = one(sides() + runs([0.5] * 3, 3, stack_size=1, run_seconds=1.0), sides(run_seconds=5.0))
    assert mixed["seconds"] == pytest.approx(0.5)


@pytest.fixture
def sides(tmp_path: Path) -> tuple[str, str]:
    """Two results folders: of three cells one regressed, one is missing, one is the same; times doubled."""
    for name, factor in (("base", 1), ("new", 8)):
        (tmp_path / name).mkdir()
        made = runs(around(0.01 * factor, seed=factor), device_name=f"{name}'s CPU", git_commit=f"{name}commit")
        made += runs([0.5] * 3, D=8, run_seconds=10.0 * factor) + (runs([0.5] * 3, D=16) if factor == 1 else [])
        for index, row_ in enumerate(made):
            row_["key"] = f"{row_['D']}-{row_['seed']}"
            store.write(tmp_path / name, f"{index // 2}", made[index // 2 * 2 : index // 2 * 2 + 2])
    return str(tmp_path / "base"), str(tmp_path / "new")


@pytest.mark.parametrize(
    ("words", "code", "ends"),
    [
        ([], 1, "FAILS: 1 regressed, 1 missing"),
        (["--fail-on", "missing"], 1, "FAILS: 1 missing"),
        (["--fail-on", "improved,failed"], 0, "passes (fails on improved, failed)"),
        (["--fail-on", "none"], 0, "passes (fails on nothing)"),
        (["--fail-on", "none", "--speed"], 0, "time x 8, 1 slower; passes (fails on nothing)"),
        (["--fail-on", "slower"], 1, "FAILS: 1 slower"),
        (["--fail-on", "slower", "--slower", "9"], 0, "passes (fails on slower)"),
    ],
)
def test_exit_codes(expbench: CommandLine, sides: tuple[str, str], words: list[str], code: int, ends: str) -> None:
    answer = expbench("compare", *sides, *words)
    assert answer.code == code, answer
    assert answer.out.rstrip().endswith(ends)
    lines = answer.out.splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["regressed", "missing", "unchanged"], "the worst first"
    assert lines[-1].startswith(
        "3 configurations: 1 regressed, 1 missing, 1 unchanged; 1 tested, at a joint confidence of 95 %; "
    )
    assert expbench("compare", sides[0], sides[0]).code == 0


def test_one_file_is_a_table_too(expbench: CommandLine, sides: tuple[str, str]) -> None:
    compact(Path(sides[0]))
    answer = expbench("compare", f"{sides[0]}/table.parquet", sides[1])
    assert answer.code == 1
    assert "x 8" in answer.out or "regressed" in answer.out


def test_markdown(expbench: CommandLine, sides: tuple[str, str], tmp_path: Path) -> None:
    answer = expbench("compare", *sides, "--markdown", str(tmp_path / "out.md"))
    page = (tmp_path / "out.md").read_text()
    assert answer.code == 1
    assert page.startswith(
        "### expbench compare: fails, 1 regressed, 1 missing\n\n3 configurations: 1 regressed, 1 missing, 1 unchanged;"
    )
    open_, folded = page.split("<details><summary>1 unchanged</summary>")
    assert "| regressed | s6 | polyreg | D=4 | nmse |" in open_
    assert "| missing | s6 | polyreg | D=16 |" in open_
    assert "| unchanged | s6 | polyreg | D=8 |" in folded
    assert f"expbench compare {sides[0]} {sides[1]} --fail-on regressed,missing,failed --confidence 0.95\n" in page
    assert "expbench run --task polyreg --models s6 --seeds 0 --D 4 " in page
    for name in ("base", "new"):
        assert f"{name}commit" in page
        assert f"{name}'s CPU" in page
    printed = expbench("compare", *sides, "--markdown", "-")
    assert (printed.code, printed.out) == (1, page)
    same = expbench("compare", sides[0], sides[0], "--markdown", "-").out
    assert same.startswith("### expbench compare: passes\n")
    assert "No changes found." in same


def test_a_long_page_can_still_be_posted() -> None:
    source = np.random.default_rng(0)
    found = compared(many(source.random((3000, 3))), many(source.random((3000, 3)), first=50))
    page = formatting.markdown(found, ["regressed"], False, "expbench compare a b")
    assert 30_000 < len(page) < 65_536
    assert ", omitted for length" in page
    shown = formatting.text(found, ["regressed"], False)
    assert len(shown.splitlines()) < 70
    assert "not shown" in shown


def test_a_table_of_an_older_schema_is_compared(tmp_path: Path, expbench: CommandLine) -> None:
    made = runs([0.5, 0.4, 0.3], init="default", init_noise=0.0, schedule="cosine")
    for version in (1, 2, 3, 4):
        folder = tmp_path / str(version)
        folder.mkdir()
        older = SCHEMA.empty_table().drop_columns([*(["init", "init_noise"] if version < 4 else []), "schedule"])
        table = pa.Table.from_pylist(made, schema=older.schema)
        table = table.rename_columns([FORMER_COLUMNS.get(name, name) for name in table.column_names])
        pq.write_table(table.replace_schema_metadata({"expbench_schema": str(version)}), folder / "table.parquet")
    (tmp_path / "new").mkdir()
    store.write(tmp_path / "new", "table", made)
    for version in (1, 2, 3, 4):
        answer = expbench("compare", str(tmp_path / str(version)), str(tmp_path / "new"))
        assert (answer.code, answer.out.splitlines()[-1]) == (
            0,
            "1 configuration: 1 unchanged; passes (fails on regressed, missing, failed)",
        )


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--fail-on", "regresed"], "did you mean 'regressed'?"),
        (["--fail-on", ""], "--fail-on: '' has an empty member"),
        (["--confidence", "1"], "--confidence: 1 must be at least 0.5 and below 1"),
        (["--confidence", "nan"], "--confidence: nan"),
        (["--slower", "1"], "--slower: 1 must be finite and above 1"),
        (["--markdown", "no/such/folder.md"], "--markdown: 'no/such/folder.md' cannot be written"),
        (["--failon", "new"], "--fail-on"),
    ],
)
def test_bad_options(expbench: CommandLine, sides: tuple[str, str], words: list[str], expected: str) -> None:
    is_bad_input(expbench("compare", *sides, *words), expected)


def test_bad_tables(expbench: CommandLine, sides: tuple[str, str], tmp_path: Path) -> None:
    is_bad_input(expbench("compare", sides[0], f"{sides[0]}e"), "unknown results folder or file", "did you mean", "base'")
    is_bad_input(expbench("compare", sides[0], f"{sides[0]}/99.parquet"), "did you mean", ".parquet'")
    is_bad_input(expbench("compare", "", sides[0]), "unknown results folder or file ''")
    is_bad_input(expbench("compare", sides[0]), "Missing argument")
    is_bad_input(expbench("compare", str(tmp_path), sides[0]), "has no runs; folders below it: ", sides[0])
    empty = tmp_path / "empty"
    empty.mkdir()
    is_bad_input(expbench("compare", sides[0], str(empty)), f"{empty} has no runs; expbench run --results creates some")
    (empty / "notes.txt").touch()
    is_bad_input(expbench("compare", sides[0], str(empty / "notes.txt")), "is not a .parquet file")
    broken = broken_files(empty)
    is_bad_input(expbench("compare", sides[0], str(empty)), f"{broken[0]}: corrupt", "(and 3 more)")
    for path, reason in zip(broken, ["corrupt", "not an expbench results table", "schema 99", "corrupt"], strict=True):
        is_bad_input(expbench("compare", str(path), sides[0]), f"{path}: {reason}")


def test_torch_is_not_imported(sides: tuple[str, str]) -> None:
    modules = loaded("compare", *sides)
    assert "expbench.regression.comparison" in modules
    assert not modules & {"torch", "matplotlib"}
    assert not loaded("compare", "--help") & {"torch", "pandas", "numpy", "pyarrow"}

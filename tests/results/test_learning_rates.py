"""Learning rates: which rate is chosen, when that needs more runs, how the grid grows, and that tables repeat the choice."""

import math
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from expbench.claims.claim import Claim
from expbench.claims.pairing import candidates, matched_pairs
from expbench.regression.matching import match
from expbench.results.configurations import gather, with_context
from expbench.results.learning_rates import (
    INITIAL_GRID,
    RATE_GRID,
    RESERVED,
    RULE,
    Criterion,
    Tuning,
    bimodal,
    choose,
    extended,
    hopeless,
    middle,
    tuning,
)
from expbench.results.schema import SCHEMA
from tests.results.rows import trained

ERROR, ACCURACY = Criterion(higher_is_better=False, success_threshold=0.05), Criterion(True, 0.95)


@pytest.mark.parametrize("rule", [1, RULE])
def test_the_rate_with_the_best_mean_is_chosen(rule: int) -> None:
    tried = {0.01: [0.2, 0.4], 0.03: [0.1, 0.3], 0.1: [0.25, 0.25]}
    assert choose(tried, ERROR, rule) == 0.03
    assert choose(tried, ACCURACY, rule) == 0.01


@pytest.mark.parametrize("rule", [1, RULE])
def test_a_rate_at_which_runs_break_down_comes_last(rule: int) -> None:
    assert choose({0.01: [0.9, 0.9], 0.1: [0.01, None]}, ERROR, rule) == 0.01
    assert choose({0.01: [0.9, math.nan], 0.1: [0.1, None]}, ERROR, rule) == 0.1
    assert choose({0.01: [None, None], 0.1: [None, 5.0]}, ERROR, rule) == 0.1


def test_the_share_solved_counts_before_the_mean() -> None:
    tried = {0.003: [0.4] * 10, 0.01: [0.04] * 6 + [1.0] * 4, 0.03: [0.001] * 5 + [0.06] * 5}
    assert choose(tried, ERROR) == 0.01, "6 of 10 solve it, though 0.03 has a mean of 0.03 and 0.01 one of 0.42"
    assert choose(tried, ERROR, rule=1) == 0.03
    assert choose({0.01: [1.0, 0.5], 0.03: [0.9, 0.9], 0.1: [1.0, 0.7]}, ACCURACY) == 0.1, "of equal shares the best mean"


def test_where_no_rate_has_mixed_outcomes_the_mean_decides_alone() -> None:
    for tried in ({0.01: [0.04, 0.03], 0.03: [0.06, 0.07], 0.1: [0.02, 0.01]}, {0.01: [0.2, 0.3], 0.03: [0.1, 0.6]}):
        assert not bimodal(tried, ERROR)
        assert choose(tried, ERROR) == choose(tried, ERROR, rule=1)


def test_equal_rates_give_the_middle_and_never_the_lowest() -> None:
    grid = INITIAL_GRID
    assert choose({rate: [1.0, 1.0] for rate in grid}, ACCURACY) == 0.01, "the lower middle of four"
    assert choose({rate: [None, math.nan] for rate in grid}, ERROR) == 0.01, "also if every run diverged"
    assert choose({0.003: [0.5], 0.01: [1.0], 0.03: [1.0], 0.1: [1.0]}, ACCURACY) == 0.03
    assert choose({rate: [1.0, 1.0] for rate in grid}, ACCURACY, rule=1) == 0.003
    assert [middle(grid[:n]) for n in (1, 2, 3, 4)] == [0.003, 0.003, 0.01, 0.01]


def test_outcomes_are_bimodal_if_some_runs_solve_the_task_at_a_rate_with_the_fewest_breakdowns() -> None:
    assert bimodal({0.01: [0.9, 0.9], 0.1: [0.01, 0.9]}, ERROR)
    assert bimodal({0.01: [0.01, None], 0.1: [0.9, None]}, ERROR), "a run that diverged has not solved it"
    assert not bimodal({0.01: [0.01, 0.02], 0.1: [0.9, 0.9]}, ERROR), "two rates with unlike outcomes"
    assert not bimodal({0.01: [0.9, 0.9, 0.9], 0.1: [0.01, 0.9, None]}, ERROR), "this rate cannot be chosen"
    assert not bimodal({0.01: [0.01], 0.1: [0.9]}, ERROR), "one run shows nothing"


def test_the_grid_grows_at_the_end_where_a_rate_was_chosen_until_the_grid_ends() -> None:
    assert extended(INITIAL_GRID, [0.01, 0.03]) == INITIAL_GRID
    assert extended(INITIAL_GRID, [0.01, 0.1]) == (*INITIAL_GRID, 0.3)
    assert extended(INITIAL_GRID, [0.003, 0.1]) == (0.001, *INITIAL_GRID, 0.3)
    assert extended(RATE_GRID, [RATE_GRID[0], RATE_GRID[-1]]) == RATE_GRID
    assert hopeless({0.01: [None], 0.1: [math.nan]})
    assert not hopeless({0.01: [None], 0.1: [0.9]})


def test_a_rule_uses_the_runs_that_were_made_under_it() -> None:
    old = [(rate, value, 1) for rate in (0.01, 0.1) for value in (0.04, 0.9)]
    new = [(0.01, 0.9, 2), (0.1, 0.04, 2), (0.01, 0.9, 2), (0.1, 0.04, 2)]
    assert tuning([*old, *new], ERROR, 1) == Tuning((0.01, 0.1), 4, 0.01, 1)
    assert tuning([*old, *new], ERROR, 2) == Tuning((0.01, 0.1), 8, 0.1, 2)
    assert tuning(new, ERROR, 1) is None


def rows(outcomes: dict[float, list[float]], reported: dict[float, int | None], model: str = "s6") -> list[dict[str, Any]]:
    """Tuning runs with these outcomes by rate, and two reported runs at each of these rates, made under a rule."""
    (tuned_under,) = set(reported.values())
    same = {"metric": "nmse", "primary": True, "step": 1, "steps": 1, "success_threshold": 0.05, "tuning_rule": tuned_under}
    same |= {"model": model, "created": pd.Timestamp("2026-01-01", tz="UTC")}
    return [
        trained(key=f"{model}-{kind}-{lr}-{k}", kind=kind, lr=lr, seed=seed + k, split=split, value=value, model=model)
        | same
        for kind, seed, split, runs in (
            ("tuning", RESERVED, "validation", outcomes),
            ("run", 0, "test", {lr: [0.1, 0.2] for lr in reported}),
        )
        for lr, values in runs.items()
        for k, value in enumerate(values)
    ]


def frame(*made: list[dict[str, Any]]) -> pd.DataFrame:
    return pa.Table.from_pylist([row for each in made for row in each], schema=SCHEMA).to_pandas()


# rule 1 chooses 0.01 by the mean (.1 against .5), rule 2 chooses 0.1, at which half of the runs solve the task
OUTCOMES = {0.01: [0.1, 0.1], 0.03: [0.3, 0.3], 0.1: [0.01, 0.99]}


@pytest.mark.parametrize(("rule", "best"), [(None, 0.01), (1, 0.01), (2, 0.1)])
def test_a_table_repeats_the_choice_of_the_rule_under_which_it_was_made(rule: int | None, best: float) -> None:
    for column in ("tuning_rule", "absent") if rule is None else ("tuning_rule",):
        made = frame(rows(OUTCOMES, {0.01: rule, 0.1: rule})).rename(columns={"tuning_rule": column})
        found = {c["lr"]: c for c in gather(with_context(made))}
        assert {lr for lr, c in found.items() if c.tuned} == {best}
        assert found[best].tuning == Tuning((0.01, 0.03, 0.1), 6, best, rule or 1)


def test_a_claim_takes_the_rate_of_the_latest_rule() -> None:
    old, new = rows(OUTCOMES, {0.01: 1}), rows(OUTCOMES, {0.1: 2})
    both = [*old, *(row for row in new if row["kind"] == "run")]
    made = frame(both, rows(OUTCOMES, {0.1: 2}, model="attn"))
    found = gather(with_context(made))
    assert sorted((c["model"], c["lr"]) for c in found if c.tuned) == [("attn", 0.1), ("s6", 0.01), ("s6", 0.1)]
    (pair,) = matched_pairs(Claim("s6 < attn", "polyreg"), candidates(made, found))
    assert [side.configuration["lr"] for side in (pair.left, pair.right)] == [0.1, 0.1]


def test_a_comparison_of_tables_knows_the_rates_of_both_rules_as_tuned() -> None:
    matched = match(frame(rows(OUTCOMES, {0.01: None})), frame(rows(OUTCOMES, {0.1: 2})))
    assert matched.configurations["rate"].isna().tolist() == [True], "a tuned rate is a result, not a setting"
    assert sorted(set(matched.runs["lr"])) == [0.01, 0.1]

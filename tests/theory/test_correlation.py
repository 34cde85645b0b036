import math
import subprocess
import sys
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from expbench.results import schema
from expbench.theory.correlation import Correlation, correlations, spearman, text

CURVE = [0.1, 0.4, 0.3, 0.7, 0.9]


def run(
    seed: int,
    K: list[float],
    primary: list[float],
    loss: list[float],
    *,
    metric: str = "k_hat",
    model: str = "s6",
    running: list[float] | None = None,
    better: bool = False,
) -> list[dict[str, Any]]:
    """The rows of one run, a point of its curve at each step, and its test row."""
    shared = {
        "key": f"{model}{seed}", "kind": "run", "status": "ok", "task": "polyreg", "task_version": "1",
        "task_settings": '{"L":8,"instance":0}', "L": 8, "instance": 0, "model": model, "model_version": "1",
        "model_settings": '{"N":4}', "D": 4, "depth": 1, "norm": "layer", "positions": "none", "residual": True,
        "skip": True, "steps": 50, "warmup": 1, "batch_size": 4, "lr": 0.01, "weight_decay": 0.0, "clip": 1.0, "seed": seed,
        "dtype": "float32", "slice": "", "primary": False, "higher_is_better": better, "success_threshold": 0.01,
    }  # fmt: skip
    rows = [shared | {"split": "test", "step": 50, "metric": "nmse", "value": 0.5, "primary": True}]
    for i, (k, value, of_loss) in enumerate(zip(K, primary, loss, strict=True)):
        at = shared | {"step": 10 * (i + 1), "split": "validation"}
        slices = [""] if metric == "k_hat" else ["layer=0", "layer=1"]
        rows += [at | {"metric": metric, "value": k if part != "layer=1" else k / 2, "slice": part} for part in slices]
        rows += [at | {"metric": "nmse", "value": value, "primary": True}, at | {"metric": "mse", "value": -value}]
        rows.append(at | {"split": "train", "metric": "loss", "value": of_loss})
        if running is not None:
            rows.append(at | {"split": "train", "metric": "abar_max_running", "value": running[i], "slice": "layer=0"})
    return rows


def frame_of(*runs: list[dict[str, Any]]) -> pd.DataFrame:
    return pa.Table.from_pylist([row for rows in runs for row in rows], schema=schema.SCHEMA).to_pandas()


def both(frame: pd.DataFrame, statistic: str = "k_hat") -> tuple[Correlation, Correlation]:
    primary, loss = correlations(frame, statistic)
    return primary, loss


def test_the_rank_correlation_of_known_series() -> None:
    assert spearman([1, 2, 3, 4], [1, 10, 100, 1000]) == 1
    assert spearman([1, 2, 3, 4], [9, 5, 2, -7]) == -1
    assert spearman([1, 2, 3, 4, 5], [2, 1, 4, 3, 5]) == pytest.approx(1 - 6 * 4 / (5 * 24))
    assert spearman([1, 1, 2, 3], [1, 2, 3, 4]) == pytest.approx(4.5 / math.sqrt(4.5 * 5))  # ties at their mean rank
    assert math.isnan(spearman([1, 1, 1], [1, 2, 3]))
    assert math.isnan(spearman([1, 2], [1, 2]))
    with pytest.raises(ValueError, match="cannot pair"):
        spearman([1, 2, 3], [1, 2])


def test_it_is_scipys() -> None:
    from scipy.stats import spearmanr

    generator = np.random.default_rng(0)
    for _ in range(20):
        x, y = generator.integers(6, size=(2, 12)).tolist()
        assert spearman(x, y) == pytest.approx(spearmanr(x, y).statistic)


def test_each_run_is_correlated_over_its_own_points() -> None:
    # over all points together the sign would be the other
    runs = [run(i, CURVE, [10 * i + v for v in CURVE], [-10 * i - v for v in CURVE]) for i in range(12)]
    primary, loss = both(frame_of(*runs))
    assert (primary.against, loss.against) == ("nmse (validation)", "training loss")
    assert primary.coefficients == pytest.approx([1] * 12)
    assert loss.coefficients == pytest.approx([-1] * 12)
    assert primary.interval == pytest.approx((1, 1, 1))
    assert loss.interval == pytest.approx((-1, -1, -1))
    assert not primary.too_few
    written = text([primary, loss])
    assert "+1.00 to +1.00" in written
    assert "-1.00 to -1.00" in written
    assert "too few" not in written


def test_too_few_runs_is_said_and_their_mean_shown() -> None:
    up, down = run(0, CURVE, CURVE, CURVE), run(1, CURVE, [-v for v in CURVE], CURVE)
    primary, loss = both(frame_of(up, down))
    assert primary.too_few
    assert primary.interval.center == pytest.approx(0)
    assert math.isnan(primary.interval.low)
    assert loss.interval.center == pytest.approx(1)
    assert "too few runs (2 of 10)" in text([primary])


def test_a_run_whose_transitions_do_not_move_has_no_coefficient() -> None:
    primary, _ = both(frame_of(run(0, [0.5] * 5, CURVE, CURVE), run(1, CURVE, CURVE, CURVE)))
    assert primary.coefficients == pytest.approx([1])
    assert primary.below_one.center == 1  # of both runs
    (none, _) = both(frame_of(run(0, [0.5] * 5, CURVE, CURVE)))
    assert "too few runs (0 of 10)" in text([none])


def test_the_share_of_runs_with_K_below_1_throughout() -> None:
    fine, once = run(0, CURVE, CURVE, CURVE), run(1, [0.1, 1.0, 0.3, 0.7, 0.9], CURVE, CURVE)
    in_training = run(2, CURVE, CURVE, CURVE, running=[0.5, 0.5, 1.2, 1.2, 1.2])
    broken = run(3, [0.1, 0.4, math.nan, 0.7, 0.9], CURVE, CURVE)
    primary, loss = both(frame_of(fine, once, in_training, broken))
    assert primary.below_one.center == loss.below_one.center == 0.25
    assert len(primary.coefficients) == 4  # the point that is not finite is left out
    assert "25% (" in text([primary])


def test_without_rows_of_k_hat_the_largest_over_layers_stands_in() -> None:
    primary, _ = both(frame_of(run(0, CURVE, CURVE, CURVE, metric="abar_max")))
    assert primary.coefficients == pytest.approx([1])
    other, _ = both(frame_of(run(0, CURVE, CURVE, CURVE, metric="frac_abs_gt_1")), "frac_abs_gt_1")
    assert (other.statistic, other.coefficients) == ("frac_abs_gt_1", pytest.approx((1,)))
    assert correlations(frame_of(run(0, CURVE, CURVE, CURVE, metric="frac_abs_gt_1"))) == []


def test_configurations_are_apart_and_the_sense_of_the_primary_is_told() -> None:
    a = run(0, CURVE, CURVE, CURVE, model="s6")
    b = run(0, CURVE, [-v for v in CURVE], CURVE, model="s6-poly", better=True)
    silent = run(0, CURVE, CURVE, CURVE, model="attn", metric="something")
    found = correlations(frame_of(a, b, silent))
    assert [(one.configuration["model"], one.higher_is_better, one.coefficients[0]) for one in found] == [
        ("s6", False, pytest.approx(1)),
        ("s6", False, pytest.approx(1)),
        ("s6-poly", True, pytest.approx(-1)),
        ("s6-poly", False, pytest.approx(1)),
    ]


def test_nothing_to_correlate() -> None:
    assert correlations(schema.SCHEMA.empty_table().to_pandas()) == []
    assert text([]) == "no run logs its transitions, so there is nothing to correlate"


def test_it_is_told_without_torch_and_without_scipys_slow_part() -> None:
    code = "import sys, expbench.theory.correlation; print('torch' in sys.modules, 'scipy.stats' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False False\n"

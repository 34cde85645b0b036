"""Figures of a whole report: what is drawn, and where."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expbench.report.build import write_report
from expbench.report.overview_figures import solved_by_depth
from expbench.results.configurations import Configuration, gather, with_context
from tests.report.test_build import frame_of, row, runs

NONE = 0.5


def study(errors: dict[tuple[int, int], list[float | None]], **changes: Any) -> list[dict[str, Any]]:
    """Runs of a model by (depth, degree), on L=8."""
    rows = []
    for (depth, degree), values in errors.items():
        settings = json.dumps({"L": 8, "degree": degree, "family": "sparse", "instance": 0} | changes.get("settings", {}))
        more = {name: value for name, value in changes.items() if name not in ("settings", "floors")}
        floor = changes.get("floors", {}).get((depth, degree))
        rows += runs(values, depth=depth, degree=degree, task_settings=settings, floor=floor, norm="none", **more)
    return rows


def grid(solved: dict[int, int], spoiled: int | None = None) -> dict[tuple[int, int], list[float | None]]:
    """Three runs at each depth and degree, solved up to a degree; at `spoiled` by one of three, which is no majority."""
    return {
        (depth, degree): [1e-4, 1e-4 if degree != spoiled else 0.5, None if degree == spoiled else 1e-4]
        if degree <= most
        else [0.5, 0.6, None]
        for depth, most in solved.items()
        for degree in (1, 2, 4)
    }


def lines(configurations: list[Configuration]) -> dict[str, list[list[float]]]:
    """The lines of the only panel, by their style."""
    figure = solved_by_depth(configurations)
    assert figure is not None
    (axes,) = figure.axes
    found: dict[str, list[list[float]]] = {"-": [], "--": []}
    for line in axes.lines:
        found[line.get_linestyle()].append(np.asarray(line.get_ydata()).tolist())
    return found


def configurations(rows: list[dict[str, Any]]) -> list[Configuration]:
    return gather(with_context(frame_of(rows)))


def test_the_largest_degree_that_most_runs_solve() -> None:
    rows = study(grid({1: 2, 2: 4}), model="s6") + study(grid({1: 0, 2: 4}, spoiled=4), model="attn")
    assert sorted(lines(configurations(rows))["-"]) == [[NONE, 2], [2, 4]]


def test_crossed_position_codes_are_lines_of_their_own() -> None:
    """A code in every place of the figure is part of a name; one that differs only between panels is not."""
    without, coded = (
        study(grid({1: most, 2: most}), model="s6", positions=code) for most, code in ((1, "none"), (2, "sin"))
    )
    assert sorted(lines(configurations(without + coded))["-"]) == [[1, 1], [2, 2]]
    other = study(grid({1: 4, 2: 4}), model="s6", positions="sin", position_base=10000.0)
    matched = study(grid({1: 2, 2: 2}), model="s6", positions="sin", position_base=2.546)
    assert sorted(lines(configurations(other + matched))["-"]) == [[2, 2], [4, 4]]
    figure = solved_by_depth(configurations(without + study(grid({1: 2, 2: 2}), positions="sin", settings={"family": "x"})))
    assert figure is not None
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["s6"]


def test_what_cannot_be_represented_is_dashed() -> None:
    floors = {(1, 1): 0.0, (1, 2): 0.1, (1, 4): 0.4, (2, 1): 0.0, (2, 2): 0.0, (2, 4): 0.0}
    rows = study(grid({1: 1, 2: 2}), model="linattn", floors=floors) + study(grid({1: 4, 2: 4}), model="s6")
    found = lines(configurations(rows))
    assert found["--"] == [[1, 4]]
    assert sorted(found["-"]) == [[1, 2], [4, 4]]


def test_a_degree_that_was_not_run_at_a_depth_is_not_forbidden_there() -> None:
    partly = grid({1: 2, 2: 2})
    del partly[1, 4]
    assert lines(configurations(study(partly, model="attn")))["--"] == []
    floors = {(1, 1): 0.0, (1, 2): 0.1, (2, 1): 0.0, (2, 2): 0.0, (2, 4): 0.0}
    assert lines(configurations(study(partly, model="linattn", floors=floors)))["--"] == [[1, 4]]


def test_ill_posed_labels_are_left_out() -> None:
    rows = study(grid({1: 2, 2: 4})) + study({(1, 8): [1e-4], (2, 8): [1e-4]}, well_posed=False)
    assert lines(configurations(rows))["-"] == [[2, 4]]


def test_a_rate_that_was_chosen_is_no_part_of_a_name() -> None:
    rows = study(grid({1: 2, 2: 2}), lr=0.01) + study({(1, 8): [1e-4] * 3, (2, 8): [0.5] * 3}, lr=0.1)
    for depth, degree, best in [(d, q, 0.1 if q == 8 else 0.01) for d in (1, 2) for q in (1, 2, 4, 8)]:
        for lr in (0.01, 0.1):
            settings = json.dumps({"L": 8, "degree": degree, "family": "sparse", "instance": 0})
            tuning = {"kind": "tuning", "split": "validation", "lr": lr, "seed": 10**6, "key": f"{depth}{degree}{lr}"}
            value = 0.0 if lr == best else 1.0
            rows.append(row(**tuning, depth=depth, degree=degree, task_settings=settings, norm="none", value=value))
    made = configurations(rows)
    assert all(configuration.tuned for configuration in made)
    assert lines(made)["-"] == [[8, 2]]


def test_panels_are_named_by_what_tells_them_apart(tmp_path: Path) -> None:
    signs = {"inputs": "signs", "lo": 0}
    rows = study(grid({1: 1, 2: 2}), settings={"inputs": "unit", "lo": 0.5}) + study(grid({1: 1, 2: 2}), settings=signs)
    figure = solved_by_depth(configurations(rows))
    assert figure is not None
    assert sorted(axes.get_ylabel() for axes in figure.axes) == ["inputs=signs", "inputs=unit"]
    assert "figures/solved-by-depth.svg" in write_report(frame_of(rows), tmp_path).read_text()


def test_no_figure_without_depths_or_degrees() -> None:
    assert solved_by_depth(configurations(study({(1, 2): [0.1], (1, 4): [0.1], (1, 8): [0.1]}))) is None
    assert solved_by_depth(configurations(study({(1, 2): [0.1], (2, 2): [0.1]}))) is None
    assert solved_by_depth(gather(with_context(pd.DataFrame(frame_of([row(higher_is_better=True)]))))) is None

"""The report on texts: epochs are chosen on validation alone, few seeds are shown and not judged, what diverged is named."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from expbench.claims import claim
from expbench.claims.claim import Claim
from expbench.report.build import write_report
from expbench.report.language import _names, against_epochs
from expbench.report.published import beside_table1
from expbench.results.configurations import gather, with_context
from expbench.results.histories import Trained, of_texts
from expbench.stats.intervals import further_interval, mean_interval
from expbench.studies.published.numbers import table1
from tests.report.test_build import frame_of, row
from tests.report.test_build import section as with_header

OF_TEXT = {"data": "wikitext-2", "tokenizer": "bpe", "pieces": 4096, "stride": 16, "text": "abc", "instance": 0, "L": 16}
Curve = list[tuple[float, float]]


def run(curve: Curve, *, seed: int = 0, model: str = "s6", status: str = "ok", **changes: Any) -> list[dict[str, Any]]:
    """A run of four steps an epoch, with validation and test perplexity after each."""
    settings = OF_TEXT | {"L": changes.pop("L", 16)} | changes.pop("settings", {})
    last = 4 * changes.pop("epochs", len(curve))
    constants: dict[str, Any] = {
        "task": "wikitext", "task_settings": json.dumps(settings), "degree": None, "L": settings["L"], "model": model,
        "key": f"{model}{seed}{settings}{changes}", "seed": seed, "status": status, "steps": last, "metric": "perplexity",
    }  # fmt: skip
    constants |= {"success_threshold": 1.0, "well_posed": None, "norm": "rms"} | changes
    rows = []
    for epoch, (validation, test) in enumerate(curve, start=1):
        at = constants | {"step": 4 * epoch}
        of_training = {"epoch": epoch, "loss": math.log(validation) - epoch / 10, "tokens_per_second": 1000.0 * epoch}
        rows += [
            row(**at | {"split": "train", "metric": metric, "value": value, "primary": False})
            for metric, value in of_training.items()
        ]
        rows += [row(**at | {"split": split, "value": v}) for split, v in (("validation", validation), ("test", test))]
        rows.append(row(**at | {"split": "validation", "metric": "k_hat", "value": 0.9 + epoch / 100, "primary": False}))
    return rows or [row(**constants | {"split": None, "step": None, "metric": None, "value": None, "primary": None})]


def trained(rows: list[dict[str, Any]]) -> list[Trained]:
    """The cells of the only text."""
    frame = with_context(frame_of(rows))
    (found,) = of_texts(frame, gather(frame)).values()
    return found


def report(rows: list[dict[str, Any]], folder: Path) -> str:
    return write_report(frame_of(rows), folder).read_text()


def section(text: str, start: str) -> list[list[str]]:
    return with_header(text, start)[1:]


def test_the_epoch_is_chosen_on_validation_not_on_test() -> None:
    (configuration,) = trained(run([(90, 80), (60, 75), (70, 50), (80, 95)]))
    (history,) = configuration.runs
    chosen, last = history.chosen, history.last
    assert chosen
    assert last
    assert (chosen.number, chosen.validation, chosen.test, chosen.abar) == (2, 60, 75, pytest.approx(0.92))
    assert chosen.gap == pytest.approx(math.log(75) - (math.log(60) - 0.2))
    assert (last.number, last.test) == (4, 95)


def test_the_table_has_both_epochs_with_intervals_over_seeds(tmp_path: Path) -> None:
    curves: list[Curve] = [[(9, 8), (6, 7), (8, 10)], [(9, 8), (6, 8), (8, 11)], [(5, 9), (6, 8), (8, 12)]]
    rows = [line for seed, curve in enumerate(curves) for line in run(curve, seed=seed)]
    text = report([*rows, *run([(9, 9)] * 3, model="linattn")], tmp_path)
    s6, linattn = section(text, "model | chosen epoch")
    there, at_end = mean_interval([7, 8, 9]), mean_interval([10, 11, 12])
    assert s6[:4] == ["s6", "0: 2, 1: 2, 2: 1", "5.667", "8"]
    assert s6[4] == f"{there.low:.4g} to {there.high:.4g}"
    assert s6[6:8] == ["11", f"{at_end.low:.4g} to {at_end.high:.4g}"]
    assert s6[9:12] == ["0.92", "2000", "35"]
    assert linattn[:6] == ["linattn", "0: 1", "9", "9", "-", "0.1"]
    assert (tmp_path / "report" / "figures" / "epochs-1.svg").exists()
    assert [line[0] for line in section(text, "epoch | linattn | s6")] == ["1", "2", "3"]


def test_a_diverged_run_is_called_so_and_counts_in_no_mean(tmp_path: Path) -> None:
    rows = (
        run([(9, 8), (6, 7)])
        + run([(5, 5)], seed=1, status="diverged", epochs=2)
        + run([], seed=2, status="diverged", epochs=2)
    )
    text = report(rows, tmp_path)
    ((model, epochs, validation, test, *_),) = section(text, "model | chosen epoch")
    assert model == "s6"
    assert epochs == "0: 2, 1: diverged after epoch 1, 2: diverged in the first epoch"
    assert (validation, test) == ("6", "7")


def test_lines_are_means_of_runs_that_ended_well_and_marks_what_was_chosen() -> None:
    configurations = trained(
        run([(9, 8), (6, 6)]) + run([(7, 6), (8, 9)], seed=1) + run([(5, 4)], seed=2, status="diverged", epochs=2)
    )
    figure = against_epochs(configurations, _names(configurations))
    assert figure is not None
    test, validation = figure.axes
    drawn = {line.get_marker(): np.asarray(line.get_xydata()).tolist() for line in test.lines if line.get_marker() in "ox"}
    lines = [np.asarray(line.get_xydata()).tolist() for line in test.lines if line.get_marker() == "None"]
    assert lines == [[[1, 7], [2, 7.5]], [[1, 4]]]
    assert drawn["x"] == [[1, 4]]
    circles = [np.asarray(line.get_xydata()).tolist() for line in test.lines if line.get_marker() == "o"]
    assert circles == [[[2, 6]], [[1, 6]]], "at the test perplexity of the epoch that validation chose"
    assert np.asarray(validation.lines[0].get_ydata()).tolist() == [8, 7]
    one = trained(run([(9, 8)]))
    assert against_epochs(one, _names(one)) is None


def test_orders_of_the_table_are_shown_with_intervals_and_never_judged(tmp_path: Path) -> None:
    rows = []
    for seed in range(3):
        rows += run([(9, 8 + seed)], seed=seed)
        rows += (
            run([(9, 9 + 3 * seed)], seed=seed, model="attn")
            if seed != 2
            else run([], seed=2, model="attn", status="diverged", epochs=1)
        )
    text = report(rows, tmp_path)
    ((order, published, there, signs, at_end, _, diverged),) = section(text, "published order")
    interval = mean_interval([-1, -3])
    assert (order, published) == ("s6 < attn", "-2.58")
    assert there == at_end == f"-2 ({interval.low:.4g} to {interval.high:.4g})"
    assert (signs, diverged) == ("2 of 2 pairs", "1 of 3 of attn diverged")
    assert "supported:" not in text


def test_what_was_published_is_comparable_to_the_same_text_tokens_and_size_alone() -> None:
    published = table1()[0]
    assert (published.model, published.value) == ("s6", 25.73)
    same = {"L": 1024, "D": 384, "depth": 12, "settings": {"data": "wikitext-103", "tokenizer": "gpt2"}}

    def verdict(values: list[float], **changes: Any) -> str:
        (each,) = trained(run([(9, 9)], **{**same, **changes}))
        return beside_table1(published, each.configuration, values)[1]

    assert verdict([25.5, 25.7, 26.0]) == "reproduces"
    assert verdict([27.5, 27.7, 28.0]) == "differs"
    assert verdict([25.73]) == "not comparable (one seed)"
    assert verdict([25.5, 25.7], D=32) == "not comparable (D=32)"
    assert verdict([25.5, 25.7], settings={}) == "not comparable (data=wikitext-2, tokenizer=bpe)"


def test_further_means_lie_where_they_should() -> None:
    source = np.random.default_rng(0)
    rng = source.normal(size=(2000, 6))
    held = 0
    for values in rng:
        _, low, high = further_interval(values[:3].tolist())
        held += low <= values[3:].mean() <= high
    assert 0.94 < held / len(rng) < 0.96
    assert math.isnan(further_interval([1.0]).low)


@pytest.mark.parametrize("at_the_end_alone", [False, True])
def test_other_lengths_stand_beside_each_other(at_the_end_alone: bool, tmp_path: Path) -> None:
    rows = []
    for L in (8, 16):
        curve = run([(9, 8), (6, 6), (7, 7)], L=L)
        rows += curve
        for line in curve:
            if (line["split"], line["metric"]) == ("test", "perplexity") and line["step"] >= (12 if at_the_end_alone else 8):
                of_lengths = {f"context={n}": float(L + n + 100 * line["step"]) for n in (8, 16)}
                rows += [{**line, "primary": False, "slice": part, "value": v} for part, v in of_lengths.items()]
    text = report(rows, tmp_path)
    at = 1200 if at_the_end_alone else 800
    found = section(text, "model | trained at")
    assert found == [["s6 L=8", "8", f"{at + 16}", f"{at + 24}"], ["s6 L=16", "16", f"{at + 24}", f"{at + 32}"]]
    assert ("Test perplexity at the end when" in text) == at_the_end_alone
    names = [line[0] for line in section(text, "model | chosen epoch")]
    assert sorted(names) == ["s6 L=16", "s6 L=8"]


def test_every_table_and_verdict_is_of_the_epochs_chosen(tmp_path: Path) -> None:
    rows = []
    for seed in range(10):
        rows += run([(9, 8), (6, 7 + seed / 10), (70, 90)], seed=seed)
        rows += run([(9, 8), (8, 50), (7.5, 9 + seed / 10)], seed=seed, model="attn")
    claim.write(Claim("s6 < attn", "wikitext"), tmp_path)
    text = report(rows, tmp_path)
    assert "supported: s6 is below attn in perplexity" in text, "at the end it has a higher one"
    assert "difference -2 (" in text
    by_model = {line[0]: line for line in section(text, "model | perplexity")}
    assert by_model["s6"][1] == f"{np.mean([7 + seed / 10 for seed in range(10)]):.3g}"


def test_other_tasks_have_no_such_part(tmp_path: Path) -> None:
    assert "Perplexity over epochs" not in report([row()], tmp_path)

"""Witnesses: what a configuration reads by constructions, and from runs whose weights were kept."""

from pathlib import Path
from typing import Any

import pytest

from expbench.errors import BadInput
from expbench.report.build import write_report
from expbench.results.certificates.kept import certified, kept_runs
from expbench.results.certificates.witness import Witness, covered, representable
from expbench.results.configurations import Configuration, gather, with_context
from tests.report.test_build import frame_of, runs


def readings(configurations: list[Configuration]) -> list[str]:
    return [c.reading for c in configurations]


def gathered(rows: list[dict[str, Any]]) -> list[Configuration]:
    return gather(with_context(frame_of(rows)))


def with_keys(rows: list[dict[str, Any]], key: str) -> list[dict[str, Any]]:
    return [row | {"key": f"{key}{row['seed']}" + "0" * 14} for row in rows]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Weights of the run a0 are kept, those of b0 are a link."""
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / ("a0" + "0" * 14 + ".safetensors")).touch()
    (weights / ("b0" + "0" * 14 + ".safetensors")).symlink_to(weights / ("a0" + "0" * 14 + ".safetensors"))
    return tmp_path


def test_a_solved_run_is_a_witness_only_if_its_weights_were_kept(folder: Path) -> None:
    failed, other = runs([0.3], lr=0.1), runs([0.3], lr=0.1, D=5)
    for key, expected in (("a", "representable, not found (kept weights in float32, norm layer)"), ("c", None), ("b", None)):
        configurations = gathered([*with_keys(runs([0.001, 0.3]), key), *with_keys(failed, "d"), *with_keys(other, "e")])
        assert readings(configurations) == ["solved by some", "solved in another configuration", "unknown"]
        assert readings(certified(configurations, folder)) == [
            "solved by some",
            expected or "solved in another configuration",
            "unknown",
        ]
    unsolved = gathered(with_keys(runs([0.3, 0.4]), "a"))
    assert not list(kept_runs(unsolved, folder))
    assert readings(certified(unsolved, folder)) == ["unknown"], "weights that solve nothing are no witness"


def test_weights_behind_a_linked_folder_are_no_witness(folder: Path, tmp_path: Path) -> None:
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / "weights").symlink_to(folder / "weights")
    assert not list(kept_runs(gathered(with_keys(runs([0.001]), "a")), linked))


def test_a_construction_is_a_witness_and_noise_is_not() -> None:
    for init, noise, reading in (
        ("construct:lemma2", 0.0, "representable, not found (construction in float64, norm layer)"),
        ("construct:lemma2", 0.1, "solved in another configuration"),
        ("default", 0.0, "solved in another configuration"),
    ):
        start = {"init": init, "init_noise": noise, "dtype": "float64", "lr": 0.2}
        configurations = gathered([*runs([0.3], init="default", init_noise=0.0), *runs([0.001], **start)])
        assert readings(configurations) == [reading, "solved"]


def test_a_witness_certifies_its_instance_only() -> None:
    found = {Witness(0, "kept weights", "float32"), *(Witness(i, "construction", "float64") for i in (0, 7))}
    assert covered(found, [0, 1]) == [Witness(0, "construction", "float64")]
    assert representable(found, [1, 2], "none") is None
    assert representable(found, [0, 0], "none") == "representable, not found (construction in float64, norm none)"
    mixed = {Witness(0, "kept weights", "float32"), Witness(1, "construction", "float64")}
    assert representable(mixed, [0, 1, 2], "none") == (
        "representable for 2 of 3 instances, not found (construction and kept weights in float32 and float64, norm none)"
    )


def test_a_floor_comes_before_a_witness(folder: Path) -> None:
    rows = with_keys(runs([0.001], floor=0.5, floor_of="span", lr=0.1), "a")
    rows += with_keys(runs([0.6], floor=0.5, floor_of="span"), "d")
    readings_ = readings(certified(gathered(rows), folder))
    assert readings_ == ["not representable (above its floor; span, exact arithmetic, norm layer)", "BELOW its floor"]


def test_bounds_of_rows_that_state_none() -> None:
    for columns, expected in (
        ({"floor": 0.5, "floor_degree": 0.5, "floor_structure": 0.2}, "degree"),
        ({"floor": 0.5, "floor_degree": 0.1, "floor_structure": 0.5}, "structure"),
        ({"floor": 0.5, "floor_degree": 0.1, "floor_structure": 0.2}, "degree and structure"),
        ({"floor": 0.5}, "any predictor"),
        ({"floor": 0.0, "floor_degree": 0.0, "floor_structure": 0.0}, ""),
        ({"floor": 0.5, "floor_degree": 0.5, "floor_structure": 0.5, "floor_of": "span"}, "span"),
    ):
        assert gathered(runs([0.6], **columns))[0].floor_of == expected


def test_a_report_takes_other_witnesses(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    witnesses = gathered(with_keys(runs([0.001], lr=0.1), "a"))
    monkeypatch.setattr("expbench.results.certificates.kept.of_folder", lambda path: (witnesses, []))
    mine = tmp_path / "mine"
    mine.mkdir()
    frame = frame_of(runs([0.3]))
    assert "| unknown |" in write_report(frame, mine).read_text()
    path = write_report(frame, mine, witnesses=folder)
    report = path.read_text()
    assert "| representable, not found (kept weights in float32, norm layer) |" in report
    assert f"--witnesses {folder.as_posix()}" in path.with_suffix(".html").read_text()
    with pytest.raises(BadInput, match="no run there solves its task and has kept its weights"):
        write_report(frame, mine, witnesses=mine)

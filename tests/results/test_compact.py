"""A folder of runs as one file: nothing that is reported is lost, and a sweep goes on from it."""

from pathlib import Path

import pytest

from expbench.results import schema, store
from expbench.results.compact import compact
from expbench.results.configurations import gather, with_context
from tests.conftest import TINY, CommandLine, is_bad_input
from tests.results.rows import trained

RUN = ["run", "--task", "polyreg,count-in-row", "--models", "ssm", *TINY, "-t", "count-in-row:classes=4", "--lr", "auto"]


@pytest.mark.parametrize("curves", [True, False])
def test_what_is_reported_stays_and_the_sweep_goes_on(expbench: CommandLine, curves: bool) -> None:
    assert expbench(*RUN).code == 0
    folder = Path("results")
    before = store.read(folder).frame
    kept = expbench("compact", *([] if curves else ["--no-curves"]))
    assert (kept.code, kept.out.strip()) == (0, "results/table.parquet")
    assert [path.name for path in folder.glob("*.parquet")] == ["table.parquet"]
    after = store.read(folder).frame
    assert (len(after) == len(before)) == curves
    assert set(after["key"]) == set(before["key"])
    for old, new in zip(*(gather(with_context(frame)) for frame in (before, after)), strict=True):
        assert (old.facts, old.values, old.interval, old.tuning) == (new.facts, new.values, new.interval, new.tuning)
    assert not curves or set(after["step"].dropna()) == set(before["step"].dropna())
    again = expbench(*RUN)
    assert "ran 0 (none)" in again.err
    more = expbench(*RUN, "--seeds", "0:3")
    assert "ran 2 (2 ok)" in more.err
    assert expbench("compact", "--no-curves").code == 0
    assert set(after["key"]) < set(store.read(folder).frame["key"])


def test_bad_input(expbench: CommandLine) -> None:
    is_bad_input(expbench("compact", "--results", "nowhere"), "nowhere")
    assert expbench("run", "--task", "polyreg", "--models", "ssm", *TINY).code == 0
    (Path("results") / "odd.parquet").write_text("no table")
    count = len(list(Path("results").iterdir()))
    is_bad_input(expbench("compact"), "odd.parquet", "corrupt")
    assert len(list(Path("results").iterdir())) == count, "nothing is lost"


def test_of_a_run_in_epochs_each_epoch_stays_but_not_each_layer(tmp_path: Path) -> None:
    measured = [("train", "epoch", ""), ("train", "loss", ""), ("validation", "perplexity", ""), ("validation", "k_hat", "")]
    measured += [("validation", "abar_max", "layer=0"), ("test", "perplexity", ""), ("test", "perplexity", "context=8")]
    constants = trained(task="wikitext", steps=40, key="a" * 16, value=1.0)
    for kind, kept in (("run", 2 * 6), ("tuning", 1 + 2)):  # of the latter what chose the rate, and that there were epochs
        rows = [
            constants
            | {"kind": kind, "split": split, "step": step, "metric": metric, "slice": part}
            | {"primary": metric == "perplexity" and not part}
            for step in (20, 40)
            for split, metric, part in measured
        ]
        folder = tmp_path / kind
        folder.mkdir()
        store.write(folder, "a" * 16, rows)
        compact(folder, curves=False)
        after = store.read(folder).frame
        assert len(after) == kept
        assert not after["slice"].str.startswith("layer=").any()


def test_what_diverged_after_it_had_been_measured_stays_known(tmp_path: Path) -> None:
    numbers = [(0, "validation", 0.9), (0, "test", 0.9), (20, "validation", 0.8), (20, "test", 0.7)]
    constants = trained(status="diverged", steps=100, primary=True, metric="nmse")
    for kind in schema.TRAINED:
        rows = [
            constants | {"key": kind.ljust(16, "0"), "kind": kind, "split": split, "step": step, "value": value, "slice": ""}
            for step, split, value in numbers
        ]
        store.write(tmp_path, kind.ljust(16, "0"), rows)
    compact(tmp_path, curves=False)
    after = store.read(tmp_path).frame
    assert sorted(after["key"].str.rstrip("0").unique()) == sorted(schema.TRAINED)
    assert set(after["step"]) == {20}
    assert set(store.statuses(tmp_path)[0].values()) == {"diverged"}

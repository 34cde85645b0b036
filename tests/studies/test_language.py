"""The studies of texts: what is run, on which text, what is claimed, and what is refused before anything runs."""

import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from expbench.claims.claim import read
from expbench.results import store
from expbench.results.configurations import gather, with_context
from expbench.studies.published import numbers
from expbench.studies.synthetic import PRESETS, chosen
from expbench.sweep import spec as sweep_spec
from expbench.sweep.expand import expand
from expbench.training.job import Job
from tests.conftest import CommandLine, is_bad_input
from tests.small_language import write_text


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder of a few sentences; what is made of it is kept beside."""
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path / "cache"))
    return str(write_text(tmp_path / "wikitext-2"))


def jobs(name: str, path: str) -> list[Job]:
    """The jobs of a study on that text, with its own models and seeds but short."""
    return [job for request in chosen(name, None, path, small=True).requests for job in expand(request, "cpu")]


def test_table_1_has_the_settings_that_the_paper_states() -> None:
    study = PRESETS["table1-nlp"]()
    seeds: Counter[str] = Counter()
    for request in study.requests:
        stated = (request.L, request.D, request.depth, request.batch_size, request.epochs, request.weight_decay)
        assert stated == ("1024", "384", "12", "32", "20", "0.01")
        assert (request.lr, request.dtype, request.warmup) == ("0.001", "bfloat16", None), "an epoch, of so many"
        for model in request.models.split(","):
            seeds[model] = max(seeds[model], len(sweep_spec.whole("--seeds", request.seeds, least=0)))
    assert seeds == {"s6": 3, "s6-poly": 3, "attn": 3, "s6-poly-disc": 1, "s6-bbar-b": 1, "linattn": 1}
    assert {row.model for row in numbers.table1()} == set(seeds) - {"linattn"}
    assert not study.tunes


def test_the_polynomials_are_of_degree_3_about_both_points(text: str) -> None:
    found = {
        (job.run.model, job.run.model_settings["taylor"], job.run.model_settings["center"])
        for job in jobs("table1-nlp", text)
        if "taylor" in job.run.model_settings
    }
    assert found == {(model, 3, center) for model in ("s6-poly", "s6-poly-disc") for center in ("zero", "bias")}


def test_contexts_have_as_many_tokens_a_step_and_are_all_evaluated_at_all() -> None:
    study = PRESETS["context"]()
    found = {(r.models, r.L): (int(r.L or 0) * int(r.batch_size), r.task_settings, r.seeds) for r in study.requests}
    assert set(found) == {(model, L) for model in ("s6", "s6-poly") for L in ("256", "512", "1024")}
    assert set(found.values()) == {(2**15, ("lengths=256+512+1024",), "0:3")}
    whole = PRESETS["table1-nlp"]().requests
    for request in study.requests:
        assert (request.D, request.depth, request.epochs, request.lr) == (*(whole[0].D, whole[0].depth), "20", whole[0].lr)
    (claim,) = study.claims
    assert claim.text == "s6 < s6-poly"


def test_contexts_in_little(text: str) -> None:
    found = jobs("context", text)
    assert {job.run.L for job in found} == {32, 64, 128}
    assert {job.run.L * job.run.batch_size for job in found} == {1024}
    assert {job.run.task_settings["lengths"] for job in found} == {"32+64+128"}
    assert {(job.run.D, job.run.depth, job.run.steps) for job in found} == {(32, 2, 10)}


def test_what_is_claimed_are_the_orders_of_the_table(text: str) -> None:
    claimed = PRESETS["table1-nlp"]().claims
    values = {row.model: row.value for row in numbers.table1()}
    assert len(claimed) == 10
    assert all(values[claim.left.model] < values[claim.right.model] and claim.relation == "<" for claim in claimed)
    run = {job.run.model for job in jobs("table1-nlp", text)}
    assert all({claim.left.model, claim.right.model} <= run for claim in claimed)


@pytest.mark.usefixtures("text")
def test_smoke_runs_every_row_without_datasets_and_judges_nothing(
    expbench: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)  # to import it fails
    words = ["reproduce", "table1-nlp", "--data", "wikitext-2", "--path", "wikitext-2", "--smoke", "--device", "cpu"]
    answer = expbench(*words)
    assert answer.code == 0, answer.err
    folder = Path("results/table1-nlp-wikitext-2-smoke")
    frame = store.read(folder).frame
    assert set(frame["status"]) == {"ok"}
    assert {configuration["model"] for configuration in gather(with_context(frame))} == {
        row.model for row in numbers.table1()
    } | {"linattn"}
    assert set(frame["kind"]) == {"run", "baseline", "chance"}, "no rate is chosen"
    assert len(read(folder)) == 10
    page = Path(answer.out.strip()).with_suffix(".md")
    report = page.read_text()
    assert "a verdict needs 10 units but has 2 pairs" in report
    assert "supported:" not in report
    assert "## Perplexity over epochs\n\nwikitext, data=wikitext-2, tokenizer=bpe, pieces=1024" in report
    assert len(list(folder.glob("report/figures/epochs-*.svg"))) == 1
    assert expbench("compact", "--results", str(folder), "--no-curves").code == 0
    assert expbench("report", "--results", str(folder)).code == 0
    over_epochs = [
        text.partition("## Perplexity over epochs")[2].partition("## How to read")[0] for text in (report, page.read_text())
    ]
    assert over_epochs[0] == over_epochs[1], "what a repository keeps is all that is reported"
    assert "ran 0 (none)" in expbench(*words).err


def test_results_are_named_by_the_text_that_was_found(expbench: CommandLine, text: str) -> None:
    Path(text).rename("sentences")
    answer = expbench(
        *("reproduce", "context", "--data", "wikitext-103", "--path", "sentences", "--smoke", "--shard", "1/12")
    )
    assert answer.code == 0, answer.err
    frame = store.read(Path("results/context-sentences-smoke")).frame
    assert frame["key"].nunique() == 2, "a run and the controls"
    assert set(frame.loc[frame["slice"].fillna("").str.startswith("context="), "slice"]) == {
        f"context={length}" for length in (32, 64, 128)
    }


def test_what_is_tried_takes_one_thread() -> None:
    code = """
from expbench.cli.main import main
try:
    main(["reproduce", "nosuch", "--smoke"])
except SystemExit:
    import torch
    print(torch.get_num_threads())
"""
    left = {name: value for name, value in os.environ.items() if not name.startswith("OMP_")}
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=left)
    assert answer.stdout.strip() == "1", "of tiny tensors more threads wait for each other, on a busy machine for minutes"


def test_bad_input(expbench: CommandLine, text: str) -> None:
    is_bad_input(expbench("reproduce", "table1"), "table1-nlp")
    is_bad_input(expbench("reproduce", "table1-nlp"), "--data wikitext-2", "--path")
    is_bad_input(expbench("reproduce", "table1-nlp", "--data", "wikitext2"), "did you mean 'wikitext-2'")
    is_bad_input(expbench("reproduce", "table1-nlp", "--path", "nowhere"), "nowhere is not a folder")
    is_bad_input(expbench("reproduce", "table1-nlp", "--path", "a,b"), "--path", "commas")
    is_bad_input(expbench("reproduce", "table1-nlp", "--path", ""), "--path")
    is_bad_input(expbench("reproduce", "table2", "--data", "wikitext-2"), "--data wikitext-2", "table2")
    is_bad_input(expbench("reproduce", "degree", "--path", text), "--path", "degree")
    answer = expbench("reproduce", "table1-nlp", "--path", text)  # whose splits are shorter than the study's context
    is_bad_input(answer._replace(err=answer.err.strip().splitlines()[-1]), "L=1024 is longer than the shortest split")
    assert not Path("results").exists()

"""The task wikitext by the command line: what is run, recorded, continued and refused; on a text of a few sentences."""

import functools
import itertools
import json
import math
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import torch

from expbench.cli.main import main
from expbench.language import family, perplexity
from expbench.language.batches import TokenBatches
from expbench.language.recipe import Recipe
from expbench.nn.positions import rotation
from expbench.regression import invariants
from expbench.results import store
from expbench.run import Run
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.epochs import checkpoint
from expbench.training.epochs.step import Steps
from tests.conftest import CommandLine, is_bad_input, latest
from tests.processes import Child, command
from tests.small_language import corpus_in, write_text

SMALL = ["--task", "wikitext", "-t", "tokenizer=word", "--L", "16", "--D", "32", "--batch-size", "8", "--lr", "0.003"]
RUN = ["run", *SMALL, "--models", "s6", "--depth", "1", "--seeds", "0"]


@pytest.fixture
def text(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The setting that names a folder of text; what is made of it is kept beside."""
    monkeypatch.setenv("EXPBENCH_CACHE", str(tmp_path / "cache"))
    return f"path={write_text(tmp_path / 'sentences')}"


def rows(folder: str = "results", kind: str = "run") -> pd.DataFrame:
    frame, problems = store.read(Path(folder))
    assert not problems
    return frame[frame["kind"] == kind]


def last(frame: pd.DataFrame, split: str, metric: str) -> float:
    found = frame[(frame["split"] == split) & (frame["metric"] == metric) & (frame["slice"] == "")]
    return float(found.sort_values("step")["value"].iloc[-1])


def test_runs_are_recorded_reported_and_not_repeated(expbench: CommandLine, text: str) -> None:
    words = [*RUN, "--models", "s6,attn", "-t", text, "--epochs", "3", "--seeds", "0:2"]
    answer = expbench(*words)
    assert answer.code == 0, answer.err
    assert "ran 4 (4 ok)" in answer.err
    frame = rows()
    assert set(frame["model"]) == {"s6", "attn"}
    corpus = corpus_in(Path("sentences"))
    epoch = (corpus["train"].tokens // 16 - 1) // 8
    assert set(frame["steps"]) == {3 * epoch}
    assert set(frame["warmup"]) == {3 * epoch // 10}, "an epoch, but no more than a tenth of all"
    assert set(frame[frame["split"] == "test"]["step"]) == {epoch, 2 * epoch, 3 * epoch}
    settings = json.loads(frame["task_settings"].iloc[0])
    assert settings["data"] == "sentences"
    assert "path" not in settings, "where a text lies says nothing about it"
    assert settings["stride"] == settings["L"] == 16
    assert settings["test_size"] == corpus["test"].tokens
    assert set(frame["norm"]) == {"rms"}
    assert json.loads(frame[frame["model"] == "s6"]["model_settings"].iloc[0])["N"] == 16, "as Mamba has it"
    for _, run in frame.groupby("key"):
        assert last(run, "test", "perplexity") < 0.6 * corpus.vocabulary
        words_a_token = corpus["test"].tokens / (corpus["test"].words or 0)
        assert math.log(last(run, "test", "word_perplexity")) == pytest.approx(
            words_a_token * math.log(last(run, "test", "perplexity"))
        )
    assert expbench("report").code == 0
    assert "perplexity" in Path("results/report/report.md").read_text()
    assert not Path("results/checkpoints").exists()
    assert "ran 0 (none)" in expbench(*words).err


def test_controls_are_the_closed_forms(expbench: CommandLine, text: str) -> None:
    expbench(*RUN, "-t", text, "--steps", "4")
    corpus = corpus_in(Path("sentences"))
    costs = perplexity.unigram(perplexity.counts(corpus["train"].ids, corpus.vocabulary))
    expected = perplexity.without_context(costs, corpus["test"].ids, words=None).per_token
    assert last(rows(kind="baseline"), "test", "perplexity") == pytest.approx(expected)
    assert last(rows(kind="chance"), "test", "perplexity") == corpus.vocabulary


def test_lengths_beside_the_context(expbench: CommandLine, text: str) -> None:
    words = [*RUN, "-t", text, "--steps", "8"]
    assert expbench(*words, "-t", "lengths=32+8+8").code == 0
    frame = rows()
    assert json.loads(frame["task_settings"].iloc[0])["lengths"] == "8+32"
    assert frame["key"].nunique() == 1, "no axis"
    sliced = frame[frame["slice"].str.startswith("context=")]
    places = {(split, part) for split in ("validation", "test") for part in ("context=8", "context=32")}
    assert set(zip(sliced["split"], sliced["slice"], strict=True)) == places
    assert set(sliced["metric"]) == {"perplexity"}
    assert not sliced["primary"].any(), "judged at its own context"
    command = Run.from_row({str(name): value for name, value in frame.iloc[0].items()}).command()
    assert "lengths=8+32" in command
    assert "ran 1 (1 ok)" in expbench(*words).err, "without them it is another run, whose rows lack them"


def test_the_same_text_elsewhere_is_the_same_run(expbench: CommandLine, text: str, tmp_path: Path) -> None:
    expbench(*RUN, "-t", text, "--steps", "4")
    (tmp_path / "sentences").rename(tmp_path / "moved")
    settings = json.loads(rows()["task_settings"].iloc[0])
    words = [*RUN, "-t", f"path={tmp_path / 'moved'}", "--steps", "4"]
    assert "ran 1 (1 ok)" in expbench(*words).err, "a folder's name is what its text is called"
    assert expbench(*words, "-t", f"text={settings['text']}").code == 0
    is_bad_input(expbench(*words, "-t", "text=0123456789ab"), "text=0123456789ab", settings["text"])


def test_rates_are_chosen_like_those_of_other_tasks(expbench: CommandLine, text: str) -> None:
    words = [w if w != "0.003" else "auto" for w in RUN]
    answer = expbench(*words, "-t", text, "--steps", "3", "--results", "tuned")
    assert answer.code == 0, answer.err
    assert len(set(rows("tuned", "tuning")["lr"])) >= 4
    assert rows("tuned")["key"].nunique() == 1


def test_a_time_limit_ends_at_a_checkpoint_and_the_same_command_goes_on(expbench: CommandLine, text: str) -> None:
    words = [*RUN, "-t", text, "--epochs", "2"]
    assert expbench(*words, "--results", "whole").code == 0
    stopped = expbench(*words, "--time-limit", "0.0001")
    assert stopped.code == 0
    assert "stopped at the time limit" in stopped.err
    for _ in range(200):
        answer = expbench(*words, "--time-limit", "0.005")
        if "ran 1 (1 ok)" in answer.err:
            break
        assert "paused at a checkpoint after" in answer.err
        assert list(Path("results/checkpoints").glob("*/step-*.safetensors"))
    for split in ("validation", "test"):
        assert last(rows(), split, "perplexity") == last(rows("whole"), split, "perplexity")
    assert not Path("results/checkpoints").exists()


def saving_every_step(*words: str) -> None:
    family.TrainerOptions = functools.partial(family.TrainerOptions, save_every=0.0)  # type: ignore[assignment, misc]
    main(latest(words))


def test_killed_and_continued(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*RUN, "-t", text, "--epochs", "2", "--device", "cpu"]
    for kills in (1, 2):
        process = Child(saving_every_step, *words, "--results", "killed")
        while not any(int(p.stem[5:]) >= 8 * kills for p in Path("killed").glob("checkpoints/*/step-*.safetensors")):
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    for folder in ("killed", "whole"):
        process = Child(saving_every_step, *words, "--results", folder)
        assert process.wait() == 0, process.err
    assert last(rows("killed"), "test", "perplexity") == last(rows("whole"), "test", "perplexity")
    for folder in ("killed", "whole"):
        assert rows(folder)["run_seconds"].min() >= rows(folder)["seconds"].max(), "what came before a kill is part of it"


def test_a_damaged_checkpoint_is_said_before_training(expbench: CommandLine, text: str) -> None:
    words = [*RUN, "-t", text, "--epochs", "2"]
    expbench(*words, "--time-limit", "0.0001")
    while not (found := list(Path("results/checkpoints").glob("*/step-*.safetensors"))):
        expbench(*words, "--time-limit", "0.01")
    for path in found:
        path.write_bytes(path.read_bytes()[:100])
    answer = expbench(*words)
    assert answer.code == 2
    assert "is damaged" in answer.err.splitlines()[-1]
    assert found[0].exists()


def test_a_diverged_run_is_called_so(expbench: CommandLine, text: str) -> None:
    words = [w if w != "0.003" else "1000000" for w in RUN]
    answer = expbench(*words, "-t", text, "--steps", "30", "--clip", "1e9")
    assert answer.code == 0
    assert set(rows()["status"]) == {"diverged"}


def test_a_dry_run_on_a_cpu_times_steps_of_a_few_sequences(
    expbench: CommandLine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = []

    class Timed(Steps):
        def __init__(self, workload: Any, recipe: Recipe, *others: Any) -> None:
            rows.append(recipe.batch_size)
            super().__init__(workload, recipe, *others)

    monkeypatch.setattr(family, "Steps", Timed)
    monkeypatch.setattr(family, "time", SimpleNamespace(perf_counter=itertools.count().__next__))
    answer = expbench(*RUN, "-t", text, "--batch-size", "96", "--steps", "30", "--dry-run")
    assert answer.code == 0, answer.err
    assert rows == [1024 // 16]
    assert "estimated time on cpu: 45 s" in answer.out, "a second a step, of two thirds of the sequences"
    assert "language models without their evaluations)" in answer.out


def test_the_dry_run_has_the_sizes_of_the_language_model(expbench: CommandLine, text: str) -> None:
    answer = expbench(*RUN, "-t", text, "--steps", "30", "--dry-run")
    assert answer.code == 0, answer.err
    from expbench.language.model import LanguageModel
    from expbench.models.s6 import S6

    size = LanguageModel(S6, vocabulary=corpus_in(Path("sentences")).vocabulary, width=32, layers=1, context=16)
    assert f" {size.parameter_count()} " in answer.out
    assert "timed steps of each shape" in answer.out
    assert not Path("results").exists()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["-t", "path=nowhere"], "nowhere is not a folder"),
        (["-t", "path=."], "train"),
        (["-t", "data=wikitext-3"], "wikitext-2"),
        (["--L", "100000"], "longer than the shortest split"),
        (["-t", "stride=17"], "stride=17"),
        (["-t", "lengths=256"], "256+512+1024"),
        (["-t", "lengths=8,16"], "integers separated by +"),
        (["-t", "lengths=8+x"], "lengths=8+x"),
        (["-t", "lengths=8+0"], "lengths=8+0"),
        (["-t", "lengths=8+100000"], "leaves no target"),
        (["-t", "tokenizer=words"], "word"),
        (["-t", "pieces=300"], "bpe has"),
        (["--instances", "1"], "no instances"),
        (["-t", "test_size=10"], "test_size=10"),
        (["--norm", "none"], "--norm none"),
        (["--positions", "sin"], "--positions sin"),
        (["--position-base", "500"], "--position-base 500: s6 has no rotary angles"),
        (["--match", "params=300"], "--match"),
        (["--dtype", "float64"], "bfloat16"),
        (["--epochs", "2", "--steps", "3"], "one of the two"),
        (["--batch-size", "100000"], "the largest batch is"),
        (["-m", "M=3"], "setting"),
        (["--models", "thirdparty:None"], "thirdparty"),
    ],
)
def test_bad_input(expbench: CommandLine, text: str, words: list[str], line: str) -> None:
    options = dict(zip(RUN[1::2], RUN[2::2], strict=True)) | {"-t": "tokenizer=word"}
    if words[0] == "--match":
        del options["--D"]
    if words[0] != "-t":
        options |= dict(zip(words[::2], words[1::2], strict=True))
        settings = ["tokenizer=word", text]
    else:
        given = words[1].partition("=")[0]
        settings = [words[1], *(s for s in ("tokenizer=word", text) if s.partition("=")[0] != given and given != "data")]
    del options["-t"]
    answer = expbench("run", *(w for pair in options.items() for w in pair), *(w for s in settings for w in ("-t", s)))
    is_bad_input(answer._replace(err=answer.err.strip().splitlines()[-1]), line)  # above it, how the text is read
    assert not Path("results").exists()


def test_the_base_of_rotary_angles_in_a_text_model(text: str) -> None:
    """The usual base by default, which enters no key; another one only if it is asked for, in a run of its own."""
    asked = {"task_settings": ("tokenizer=word", text), "L": "16", "D": "32", "steps": "2", "seeds": "0"}
    spec = SweepSpec(task="wikitext", models="attn,s6", **asked)  # type: ignore[arg-type]
    usual, former = (
        {job.run.model: job for job in expand(replace(spec, position_base=base), "cpu")} for base in ("auto", "10000")
    )
    (other,) = expand(replace(spec, models="attn", position_base="500"), "cpu")
    assert {model: job.run for model, job in usual.items()} == {model: job.run for model, job in former.items()}
    assert {job.run.position_base for job in usual.values()} == {10000.0}
    assert other.run.position_base == 500.0
    assert other.run.key != usual["attn"].run.key
    assert "--position-base 500.0" in other.run.command()
    assert "--position-base" not in usual["attn"].run.command()
    for job, base in ((usual["attn"], 10000.0), (other, 500.0)):
        made = family.FAMILY.network(job)
        torch.testing.assert_close(made.blocks[0].rotation, rotation(16, 32, base).float())  # type: ignore[attr-defined]


def test_epochs_are_for_texts(expbench: CommandLine) -> None:
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "s6", "--epochs", "2"), "--epochs 2", "--steps")


def test_what_a_run_leaves_is_deleted_when_it_has_ended(tmp_path: Path) -> None:
    folder = tmp_path / checkpoint.FOLDER / "a"
    folder.mkdir(parents=True)
    (folder / "step-000000001.safetensors").touch()
    checkpoint.delete_checkpoints(tmp_path, "a")
    assert list(tmp_path.iterdir()) == []


def test_under_torchrun_only_texts_are_trained(expbench: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    is_bad_input(expbench("run", "--task", "polyreg", "--models", "ssm", "--steps", "3"), "torchrun", "polyreg is not one")


def test_torchrun_trains_what_one_process_trains(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --lr auto, so that runs are wanted that no process knew of beforehand; to rounding, and written once."""
    words = ["run", "--task", "wikitext", "-t", text, "-t", "tokenizer=word", "--models", "linattn", "--L", "8", "--D", "8"]
    words += ["--batch-size", "4", "--steps", "4", "--seeds", "0", "--lr", "auto", "--device", "cpu"]
    monkeypatch.chdir(tmp_path)
    alone = command(*words, "--results", "one")
    two = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "expbench"]
    ended = subprocess.run([*two, *words, "--results", "two"], capture_output=True, text=True, check=False, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert alone.wait() == 0, alone.err
    assert ended.stderr.count("results in") == 1, "the first alone speaks"
    order = ["key", "split", "metric", "slice", "step"]
    frames = [store.read(tmp_path / name).frame.sort_values(order) for name in ("one", "two")]
    told = ["loss", "perplexity", invariants.RATE, invariants.NORM, *invariants.CHECKSUMS]
    metrics = [frame[frame["metric"].isin(told)] for frame in frames]
    assert len(metrics[0]) == len(metrics[1]) > 20
    assert list(metrics[0]["key"]) == list(metrics[1]["key"])
    assert metrics[1]["value"].to_numpy() == pytest.approx(metrics[0]["value"].to_numpy(), rel=1e-4)
    assert set(frames[1][frames[1]["lr"].notna()]["device_name"].str[:4]) == {"2 x "}


@pytest.mark.parametrize(
    ("place", "stand_in", "metric"),
    [
        ("expbench.training.epochs.step.learning_rate_factor", lambda schedule, step: 1.0, "learning_rate"),
        ("expbench.training.epochs.step.clip_grad_norm_", lambda tensors, most: torch.ones(()), "gradient_norm"),
        (
            "expbench.language.batches.TokenBatches.starts",
            lambda self, step, own=TokenBatches.starts: own(self, step + 1),
            "inputs_checksum",
        ),
        ("expbench.models.linattn.LinAttn.mix", lambda self, q, k, v: v, "outputs_checksum"),
    ],
)
def test_what_perplexity_may_not_show_is_recorded(
    expbench: CommandLine, text: str, monkeypatch: pytest.MonkeyPatch, place: str, stand_in: Any, metric: str
) -> None:
    words = [*RUN, "--models", "linattn", "-t", text, "--epochs", "1", "--clip", "0.1", "--results"]
    assert expbench(*words, "before").code == 0
    assert invariants.broken(rows("before")) == []
    monkeypatch.setattr(place, stand_in)
    assert expbench(*words, "after").code == 0
    found = {broken.metric for broken in invariants.broken(rows("after"), rows("before"))}
    assert metric in found
    assert found <= {metric, "targets_checksum"}


def test_show(expbench: CommandLine, text: str) -> None:
    without = expbench("show", "wikitext")
    assert without.code == 0
    assert "nothing is downloaded here" in without.out
    assert re.search(r"stride +int or none +None +-", without.out)
    shown = expbench("show", "wikitext", "-t", text, "-t", "tokenizer=word", "--L", "16").out
    assert "controls: chance (chance), unigram (baseline)" in shown
    words = Path("sentences/wiki.train.tokens").read_text().split()
    assert " ".join(words[:5]) in shown


def test_checkpoints_stay_until_the_results_are_written(
    expbench: CommandLine, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*RUN, "-t", text, "--epochs", "2"]
    write = store.write

    def interrupted(folder: Path, name: str, rows: Any) -> Path:
        rows = list(rows)
        if rows[0]["kind"] == "run":
            raise KeyboardInterrupt
        return write(folder, name, rows)

    monkeypatch.setattr(store, "write", interrupted)
    assert expbench(*words).code == 130
    assert list(Path("results/checkpoints").glob("*/step-*.safetensors"))
    monkeypatch.setattr(store, "write", write)
    assert "ran 1 (1 ok)" in expbench(*words).err
    assert not Path("results/checkpoints").exists()

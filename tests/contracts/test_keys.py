"""The key of a run with default settings stays what it is: another one would have every finished sweep run again."""

import dataclasses

import pytest

from expbench import plugins
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec

# Here a key changes with a version of a task, of a model or of the training, or with a default, and with nothing else.
KEYS = {
    ("polyreg", "attn"): "f0992cd7ba14f7a4",
    ("polyreg", "gru"): "00b31a75534563a5",
    ("polyreg", "linattn"): "8056cc8b572e17bf",
    ("polyreg", "mamba-poly"): "33e375f479346a36",
    ("polyreg", "polyattn"): "225bfcbe7cb1b07c",
    ("polyreg", "s6"): "0d428b377bb111c0",
    ("polyreg", "s6-bbar-b"): "c665e7673b09777b",
    ("polyreg", "s6-poly"): "d33e2810745a0978",
    ("polyreg", "s6-poly-disc"): "a7561ec19bae2cee",
    ("polyreg", "ssm"): "e06f517f10ef557c",
    ("count-in-row", "ssm"): "8a87f8e84fdbf2cc",
    ("finite", "ssm"): "e2db6f7b04fe693e",
}


def test_every_built_in_model_has_a_key_here() -> None:
    built_in = set(plugins.discover("model"))
    assert {model for _, model in KEYS} == built_in


@pytest.mark.parametrize(("task", "model"), KEYS)
def test_the_key_is_what_it_was(task: str, model: str) -> None:
    spec = SweepSpec(task=task, models=model, seeds="0", lr="0.01", steps="100", position_base="10000")
    assert keys(spec) == [KEYS[task, model]]
    by_default = keys(dataclasses.replace(spec, position_base="auto"))
    has_a_base = model in ("attn", "linattn", "polyattn")  # sinusoids, whose base is matched to L since schema 8
    assert (by_default == [KEYS[task, model]]) == (not has_a_base)


def keys(spec: SweepSpec) -> list[str]:
    return [job.run.key for job in expand(spec, "cpu")]


@pytest.mark.parametrize("positions", ["none", "learned", "index"])
def test_a_base_enters_no_key_of_a_code_without_one(positions: str) -> None:
    plain = SweepSpec(task="polyreg", models="attn", positions=positions, seeds="0")
    crossed = dataclasses.replace(plain, positions=f"{positions},sin", position_base="auto,500")
    assert keys(plain) == keys(dataclasses.replace(plain, position_base="10000"))
    assert keys(crossed)[:1] == keys(plain)
    assert len(keys(crossed)) == 3  # one without a base, two with sinusoids


def test_a_run_of_a_former_version_keeps_its_key() -> None:
    """Version 1 of s6-poly had no setting `start`, and began as `literal` does now."""
    request = SweepSpec(
        task="polyreg", models="s6-poly", model_settings=("start=literal",), seeds="0", lr="0.01", steps="100"
    )
    (job,) = expand(request, "cpu")
    settings = {name: value for name, value in job.run.model_settings.items() if name != "start"}
    before = dataclasses.replace(job.run, model_version="1", model_settings=settings)
    assert before.key == "268330b5a5f54113"

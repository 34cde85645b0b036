"""Small inputs that once gave wrong numbers without a word, and what is right: in training."""

import pytest

from expbench import plugins
from expbench.language.model import LanguageModel
from expbench.run import Run, training_version
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.ensemble import Ensemble
from expbench.training.epochs.step import parameter_groups
from expbench.training.job import Job
from expbench.training.loop import build, train
from expbench.training.optimizer import decays

MODELS = sorted(plugins.discover("model"))


def job(**options: object) -> Job:
    fields: dict[str, object] = {"task": "polyreg", "models": "s6", "L": "4", "D": "3", "seeds": "0", "steps": "3"}
    fields |= {"batch_size": "4", "task_settings": ("test_size=64", "validation_size=64")}
    (one,) = expand(SweepSpec(**(fields | options)), "cpu")  # type: ignore[arg-type]
    return one


# The parameters of one layer without weight decay; all others are matrices: linear maps, B and C of ssm.
S6 = {"A_log", "skip", "to_delta.bias"}
EXEMPT = {
    "attn": {"qkv.bias"},
    "linattn": {"qkv.bias"},
    "polyattn": {"qkv.bias"},
    "s6": S6,
    "s6-bbar-b": S6,
    "s6-poly": S6,
    "s6-poly-disc": S6,
    "ssm": {"A_log", "bias", "skip"},
    "mamba-poly": {
        *("to_x.bias", "to_z.bias", "to_out.bias"),
        *("mixer.A_log", "mixer.to_delta.bias", "mixer.to_b.bias", "mixer.to_c.bias"),
    },
}


@pytest.mark.parametrize("model", MODELS)
def test_a3_one_rule_exempts_parameters_from_weight_decay_in_every_model(model: str) -> None:
    one = job(models=model, positions="learned", norm="layer")
    network = build(one.run, one.task, one.model, "cpu")
    around = {"embed.bias", "norms.0.weight", "norms.0.bias", "head.bias"}
    wanted = around | {f"mixers.0.{name}" for name in EXEMPT[model]}
    for size in (1, 2):
        decayed = Ensemble([network, build(one.run, one.task, one.model, "cpu")][:size]).decayed
        names = [name for name, _ in network.named_parameters()]
        assert {name for name, does in zip(names, decayed, strict=True) if not does} == wanted
    assert decays(network.code.weight), "learned positions are an embedding"

    language = LanguageModel(one.model, vocabulary=5, width=16, layers=1, context=4)
    name_of = {id(p): name for name, p in language.named_parameters()}
    _, kept = ({name_of[id(p)] for p in group["params"]} for group in parameter_groups(language, 0.1))  # type: ignore[attr-defined]
    assert {name for name in kept if ".mixer." in name} == {f"blocks.0.mixer.{name}" for name in EXEMPT[model]}


def test_a3_a_large_decay_leaves_a_and_skip_of_ssm_alone() -> None:
    one = job(models="ssm", weight_decay="1e5", lr="1e-6", steps="20", warmup="0", schedule="constant")
    network = build(one.run, one.task, one.model, "cpu")
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    list(train(one.run, one.task, network, "cpu"))
    shrunk = {name for name, p in network.named_parameters() if float(p.detach().norm()) < 0.5 * float(before[name].norm())}
    assert shrunk == {"embed.weight", "mixers.0.B", "mixers.0.C", "head.weight"}


def test_only_runs_that_a_change_concerns_have_a_new_version_of_training() -> None:
    text = {"task": "wikitext", "models": "s6", "L": "16", "D": "8", "task_settings": ("data=markov", "tokenizer=word")}
    runs: dict[str, Run] = {
        "plain": job().run,
        "decayed": job(weight_decay="0.1").run,
        "text, decayed": job(**text, weight_decay="0.1").run,
        "text with ssm, decayed": job(**text | {"models": "ssm"}, weight_decay="0.1").run,
        "a stranger's layer": job(models="torch.nn:Identity").run,
    }
    assert {name: training_version(run) for name, run in runs.items()} == {
        "plain": 2,
        "decayed": 3,
        "text, decayed": 2,
        "text with ssm, decayed": 3,
        "a stranger's layer": 3,
    }

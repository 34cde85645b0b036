import dataclasses
from typing import Any

import pytest
import torch
from expbench_tasks.polyreg import PolyReg

from expbench.algebra.polynomial import Monomials
from expbench.task import total

CONFIGURATIONS: list[dict[str, Any]] = [
    {"family": "suffix"},
    {"family": "suffix", "degree": 3, "inputs": "signs"},
    {"family": "product", "L": 4},
    {"family": "product", "L": 3, "degree": 7},
    {"family": "product", "L": 64, "inputs": "signs", "eps": 0.02},
    {"family": "sparse", "degree": 5},
    {"family": "distant", "degree": 3},
    {"family": "pairwise"},
    {"family": "random", "L": 6},
    {"family": "random", "L": 6, "degree": 4, "terms": 3},
    {"family": "random", "L": 4, "instance": 2},  # one of its monomials is a constant
]
IDS = [" ".join(map(str, configuration.values())) for configuration in CONFIGURATIONS]


def standard_error(task: PolyReg, n: int) -> float:
    return ((task.moments.kurtosis - 1) / n) ** 0.5


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=IDS)
def test_labels_are_standardised_by_their_exact_moments(configuration: dict[str, Any]) -> None:
    n = 20_000
    task = PolyReg(**configuration, label_var=20.0)
    targets = task.train_batch(n, seed=0, step=1).targets
    assert targets.shape == (n, 1)
    assert float(targets.mean()) == pytest.approx(0, abs=5 * (20 / n) ** 0.5)
    assert float(targets.var()) / 20 == pytest.approx(1, abs=6 * standard_error(task, n) + 0.02)


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=IDS)
def test_the_generator_solves_its_task_and_the_mean_does_not(configuration: dict[str, Any]) -> None:
    task = PolyReg(**configuration)
    values = {}
    for control in task.controls():
        parts = [task.measure(control.predict(batch.inputs), batch.targets) for batch in task.split("test")]
        values[control.name] = next(m.value for m in task.summary(total(parts)) if m.metric == "nmse")
    assert values["generator"] < 1e-20
    assert values["mean"] == pytest.approx(1, abs=0.3)
    assert values["linear-regression"] < 1.1


@pytest.mark.parametrize("configuration", CONFIGURATIONS, ids=IDS)
def test_the_degree_is_what_was_asked_for(configuration: dict[str, Any]) -> None:
    task = PolyReg(**configuration)
    if task.degree is not None:
        assert task.polynomial.degree == task.degree
    else:  # random, drawn until it exceeds the length
        assert task.polynomial.degree > task.L


@pytest.mark.parametrize(
    ("configuration", "message"),
    [
        ({"degree": 17}, "1 to 16"),
        ({"degree": 0}, "1 to 16"),
        ({"family": "product", "L": 4, "degree": 3}, "4 to 256"),
        ({"family": "product", "L": 4, "degree": 5, "inputs": "signs"}, "can have 4"),
        ({"family": "pairwise", "degree": 3}, "can have 2"),
        ({"family": "random", "L": 3, "degree": 7}, "1 to 6"),
        ({"family": "random", "inputs": "signs"}, "max_exponent=1"),
        ({"family": "pairwise", "terms": 9}, "1 to 8"),
        ({"family": "random", "terms": 13}, "1 to 12"),
        ({"family": "product", "L": 1024}, "underflows"),
        ({"lo": 1.0}, "below hi"),
        ({"eps": 0.0}, "eps"),
        ({"L": 0}, "above 0"),
        ({"test_size": 0}, "above 0"),
        ({"instance": -1}, "0 or more"),
    ],
)
def test_impossible_settings_say_what_is_possible(configuration: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PolyReg(**configuration)


def test_data_depend_on_settings_instance_and_split_alone() -> None:
    task = PolyReg(family="sparse")
    first = next(task.split("test"))
    assert torch.equal(first.inputs, next(PolyReg(family="sparse").split("test")).inputs)
    others = [
        next(task.split("validation")),
        next(dataclasses.replace(task, instance=1).split("test")),
        next(dataclasses.replace(task, degree=3).split("test")),
        task.train_batch(256, seed=0, step=0),
        task.train_batch(256, seed=0, step=1),
        task.train_batch(256, seed=1, step=0),
    ]
    seen = [tuple(row) for batch in [first, *others] for row in batch.inputs.flatten(1).tolist()]
    assert len(set(seen)) == len(seen), "two of these share a sequence"
    larger = dataclasses.replace(task, test_size=8192)
    assert torch.equal(first.inputs, next(larger.split("test")).inputs), "a larger test set begins with the smaller one"


def test_splits_have_the_size_that_was_asked_for() -> None:
    task = PolyReg(test_size=700, validation_size=300)
    assert [len(batch.inputs) for batch in task.split("test")] == [256, 256, 188]
    assert [len(batch.inputs) for batch in task.split("validation")] == [256, 44]


def test_instances_choose_other_polynomials_and_the_input_distribution_does_not() -> None:
    def positions(**settings: Any) -> list[dict[int, int]]:
        polynomial = PolyReg(family="sparse", L=16, **settings).polynomial
        assert isinstance(polynomial, Monomials)
        return polynomial.exponents

    assert positions(instance=0) == positions(instance=0, lo=0.3)
    assert len({str(positions(instance=i)) for i in range(10)}) > 5


def test_distant_positions_are_spread_from_first_to_last() -> None:
    polynomial = PolyReg(family="distant", L=16, degree=4).polynomial
    assert isinstance(polynomial, Monomials)
    assert sorted(polynomial.exponents[0]) == [0, 5, 10, 15]


def test_well_posed_configurations_and_others() -> None:
    assert PolyReg(L=1024).facts().well_posed
    assert PolyReg(family="product", L=8).facts().well_posed
    assert PolyReg(family="product", L=64, inputs="signs", eps=0.01).facts().well_posed
    assert PolyReg(family="product", L=10).facts().well_posed, "the kurtosis is 387, but the test set is large enough"
    assert not PolyReg(family="product", L=16).facts().well_posed
    few = PolyReg(family="product", L=4, test_size=512).facts()
    assert few.kurtosis is not None
    assert ((few.kurtosis - 1) / 512) ** 0.5 > 0.1
    assert not few.well_posed


def test_every_random_polynomial_of_the_study_is_well_posed() -> None:
    """A fixed limit on kurtosis excluded 8 of these 20, those of the highest order."""
    facts = [PolyReg(L=10, family="random", instance=i, label_var=20.0).facts() for i in range(20)]
    assert all(each.well_posed for each in facts)
    assert sum((each.kurtosis or 0) > 125 for each in facts) == 8
    sizes = [each.effective_sample_size or 0 for each in facts]
    assert (round(min(sizes)), round(max(sizes))) == (225, 10150)


def test_facts_are_those_of_the_test_labels() -> None:
    task = PolyReg(family="product", L=4)
    y = torch.cat([batch.targets for batch in task.split("test")])
    effective = task.facts().effective_sample_size
    assert effective == pytest.approx(float((y**2).sum() ** 2 / (y**4).sum()))


def test_default_test_sizes_make_the_error_precise_within_reason() -> None:
    sizes = {L: PolyReg(L=L).test_size for L in (16, 256, 1024)}
    assert sizes == {16: 8192, 256: 8192, 1024: 2048}
    product = PolyReg(family="product", L=4)
    assert product.test_size == 32768
    y = torch.cat([batch.targets for batch in product.split("test")])
    assert float((y**2).mean()) == pytest.approx(1, abs=0.06)


def test_the_standard_error_of_the_error() -> None:
    task = PolyReg(family="product", L=4)
    values = []
    for step in range(200):  # 200 fresh samples of 500: their spread is what one sample's standard error says
        targets = task.train_batch(500, seed=0, step=step).targets
        values.append({m.metric: m.value for m in task.summary(task.measure(torch.zeros_like(targets), targets))})
    spread = torch.tensor([v["nmse"] for v in values]).std()
    assert float(spread) == pytest.approx(sum(v["nmse_standard_error"] for v in values) / 200, rel=0.25)


def test_r2_and_nmse_of_a_constant() -> None:
    task = PolyReg(label_var=20.0)
    targets = task.train_batch(1000, seed=0, step=1).targets
    values = {m.metric: m.value for m in task.summary(task.measure(torch.zeros_like(targets), targets))}
    assert values["mse"] == pytest.approx(float((targets**2).mean()))
    assert values["nmse"] == pytest.approx(values["mse"] / 20)
    assert values["r2"] == pytest.approx(1 - values["mse"] / float(targets.var(unbiased=False)))

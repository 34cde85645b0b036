"""Starts of the polynomial layers: finite losses and gradients in training, and runs from before the setting."""

from typing import Any

import pytest
import torch

from expbench.models.mamba_poly import MambaPoly
from expbench.models.s6_poly import S6Poly
from expbench.models.s6_poly_disc import START_SCALE, S6PolyDisc
from expbench.results.reported import AT_START, ending
from expbench.run import Run, canonical, command_of
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.ensemble import Ensemble
from expbench.training.family import Diverged
from expbench.training.job import Job
from expbench.training.loop import build, train_together


def jobs(models: str, *settings: str, **changes: Any) -> list[Job]:
    tasks = ("family=suffix", "inputs=signs", "test_size=64", "validation_size=64")
    request: dict[str, Any] = {"task": "polyreg", "models": models, "L": "32", "D": "8", "norm": "none", "seeds": "0:20"}
    request |= {"steps": "1", "lr": "1e-9", "task_settings": tasks, "model_settings": settings}
    return expand(SweepSpec(**(request | changes)), "cpu")


def broken(stack: list[Job]) -> list[str]:
    """Return why runs diverge at the first step of their training, which takes the initial loss and its gradient."""
    ensemble = Ensemble([build(job.run, job.task, job.model, "cpu") for job in stack])
    events = train_together([job.run for job in stack], [job.task for job in stack], ensemble, "cpu")
    return [event.reason for event in events if isinstance(event, Diverged)]


@pytest.mark.parametrize("depth", [1, 2, 3, 4])
def test_all_of_20_seeds_start_with_a_finite_loss_and_gradient(depth: int) -> None:
    assert broken(jobs("s6-poly", depth=str(depth), batch_size="16")) == []


@pytest.mark.parametrize("model", ["s6-poly", "s6-poly-disc", "mamba-poly"])
def test_four_layers_diverge_at_the_start_if_it_is_literal_and_not_if_it_is_scaled(model: str) -> None:
    small = {"depth": "4", "seeds": "0:3", "batch_size": "8"}
    assert {ending("diverged", reason) for reason in broken(jobs(model, "start=literal", **small))} == {AT_START}
    assert broken(jobs(model, "start=scaled", **small)) == []


@pytest.mark.parametrize("layout", ["mamba_rank_D", "full_bias"])
@pytest.mark.parametrize("kind", [S6PolyDisc, S6Poly])
def test_a_scaled_start_scales_the_maps_and_the_skip_and_draws_the_same_numbers(kind: type[S6PolyDisc], layout: Any) -> None:
    literal, scaled = (seeded(kind, layout=layout, start=start) for start in ("literal", "scaled"))
    ratios = {name: START_SCALE for name in literal if name.startswith(("to_all", "to_b", "to_c", "skip"))}
    ratios |= {"to_delta.weight": START_SCALE} if layout == "full_bias" else {}
    for name, value in literal.items():
        torch.testing.assert_close(scaled[name], value * ratios.get(name, 1.0))


def test_the_start_of_each_layer_without_a_setting() -> None:
    for kind, start in ((S6PolyDisc, "literal"), (S6Poly, "scaled"), (MambaPoly, "literal")):
        own, named = seeded(kind), seeded(kind, start=start)
        assert all(torch.equal(own[name], named[name]) for name in named)
    assert S6Poly.version == 2


def seeded(kind: type[torch.nn.Module], **settings: Any) -> dict[str, torch.Tensor]:
    torch.manual_seed(3)
    return kind(4, **settings).state_dict()


def test_layers_whose_default_is_literal_have_the_settings_and_keys_of_before() -> None:
    for model in ("s6-poly-disc", "mamba-poly"):
        keys = [
            {job.run.key for job in jobs(model, *given, seeds="0")} for given in ((), ("start=literal",), ("start=scaled",))
        ]
        assert keys[0] == keys[1] != keys[2]
        assert "start" not in jobs(model, seeds="0")[0].run.model_settings
    assert [job.run.model_settings["start"] for job in jobs("s6-poly", seeds="0")] == ["scaled"]


def test_the_command_of_a_run_of_version_1_repeats_its_start() -> None:
    (now,) = jobs("s6-poly", "start=literal", seeds="0")
    settings = {name: value for name, value in now.run.model_settings.items() if name != "start"}
    row = now.run.values() | {"model_version": "1", "model_settings": canonical(settings)}
    row |= {"task_settings": canonical(now.run.task_settings), "model_origin": "built-in"}
    assert Run.from_row(row).model_settings == settings, "its key is computed from the settings that it had"
    command = command_of(row).split()
    assert command[command.index("start=literal") - 1] == "-m"
    assert "start=scaled" in command_of(row | {"model_settings": canonical({**settings, "start": "scaled"})})
    assert "start=" not in command_of(row | {"model": "s6-poly-disc"})

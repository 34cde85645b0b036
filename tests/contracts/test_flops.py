"""The stated operations a token, against torch's own count of what is a product of matrices, and by how they grow."""

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from expbench.mixer import Mixer
from expbench.ops import backends
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.loop import build

D, L = 6, 12


def mixer(model: str, positions: str | None = None, **settings: object) -> Mixer:
    given = [f"{k}={v}" for k, v in settings.items()]
    request = SweepSpec(
        task="polyreg", models=model, L=str(L), D=str(D), seeds="0", positions=positions, model_settings=given
    )
    (job,) = expand(request, "cpu")
    layer = build(job.run, job.task, job.model, "cpu").mixers[0]
    assert isinstance(layer, Mixer)
    return layer


def products(layer: Mixer) -> float:
    """Operations a token in products of matrices, as torch counts them."""
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH), torch.no_grad():
        layer(torch.randn(5, L, D))
    return counter.get_total_flops() / (5 * L)


def stated(layer: Mixer, length: int = L) -> float:
    found = layer.flops(length)
    assert found is not None
    return found


@pytest.mark.parametrize("layout", ["mamba_rank_D", "full_bias"])
@pytest.mark.parametrize("model", ["s6", "s6-bbar-b", "s6-poly", "s6-poly-disc"])
def test_the_linear_maps_of_s6(model: str, layout: str) -> None:
    few, more = (mixer(model, layout=layout, N=N) for N in (3, 7))
    of_state = (stated(more) - products(more) - stated(few) + products(few)) / (D * 4)
    assert stated(few) - products(few) == pytest.approx(D * 4 + D * 3 * of_state)
    assert of_state == (7 if not model.startswith("s6-poly") else 12)
    assert stated(few) == stated(few, 1000)


def test_attention_counts_the_past_alone() -> None:
    layer = mixer("attn")
    whole = 6 * D**2 + 4 * D * L  # torch multiplies with the future too
    assert products(layer) == whole
    assert stated(layer) == pytest.approx(whole - 2 * D * (L - 1) + 1.5 * (L + 1))
    assert stated(mixer("attn", "rotary")) == stated(layer) + 6 * D
    assert stated(mixer("attn", "alibi", heads=2)) == stated(mixer("attn", heads=2)) + 2 * (L + 1) / 2
    assert stated(mixer("polyattn", taylor=2)) == pytest.approx(whole - 2 * D * (L - 1) + 2 * (L + 1))


def test_linear_attention_and_a_time_invariant_layer_do_not_grow_with_the_length() -> None:
    assert stated(mixer("linattn")) == stated(mixer("linattn"), 1000) == 10 * D**2
    assert stated(mixer("ssm", N=3)) == 5 * D * 3


def test_the_linear_maps_of_gru() -> None:
    """Per state 11 operations: r and z are a sum and a sigmoid; n has a product, a sum and tanh; the new state four."""
    for settings in ({}, {"hidden": 9}):
        layer = mixer("gru", **settings)
        hidden = settings.get("hidden", D)
        maps = 2 * 3 * hidden * (D + hidden) + (2 * hidden * D if hidden != D else 0)
        assert stated(layer) == stated(layer, 1000) == maps + 11 * hidden
        with backends.using("reference"):  # torch counts no product that adds in place
            assert products(layer) == maps


def test_a_network_adds_embedding_and_read_out() -> None:
    (job,) = expand(SweepSpec(task="polyreg", models="ssm", L=str(L), D=str(D), depth="2", seeds="0"), "cpu")
    assert build(job.run, job.task, job.model, "cpu").flops() == 2 * D + 2 * D / L + 2 * 5 * D * D

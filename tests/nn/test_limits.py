"""Limits: which networks have them, that such networks keep them, and the floors in the rows of their runs."""

import pytest
import torch
from expbench_tasks.count_in_row import CountInRow
from expbench_tasks.polyreg import PolyReg
from torch import nn

from expbench.algebra.reach import NO_BOUND
from expbench.algebra.spans import LEARNED
from expbench.models.attn import Attn
from expbench.models.linattn import LinAttn
from expbench.models.polyattn import PolyAttn
from expbench.models.s6 import S6
from expbench.nn.limits import is_symmetric, spanning_codes
from expbench.nn.network import Network
from expbench.run import Norm, Positions
from expbench.sweep.rows import of_floor
from expbench.task import Task
from expbench.training.family import Facts

TASK = PolyReg(L=6, family="sparse", degree=2, test_size=8)


def network(
    mixer: type[nn.Module] = LinAttn,
    positions: Positions = "none",
    *,
    norm: Norm = "none",
    depth: int = 1,
    task: Task = TASK,
) -> Network:
    return Network(task, lambda: mixer(4), width=4, depth=depth, norm=norm, positions=positions, residual=True)


class Mine(LinAttn):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x.cumsum(1))


@pytest.mark.parametrize("mixer", [LinAttn, PolyAttn, Attn])
@pytest.mark.parametrize("norm", ["none", "layer", "rms"])
def test_one_attention_layer_without_positions_ignores_the_order(mixer: type[nn.Module], norm: Norm) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 6, 1, dtype=torch.float64)
    shuffled = x[:, [3, 0, 4, 1, 2, 5]]
    alone = network(mixer, norm=norm).double()
    assert is_symmetric(alone)
    assert torch.allclose(alone(x), alone(shuffled), atol=1e-12)
    for other in (
        network(mixer, "sin", norm=norm),
        network(mixer, norm=norm, depth=2),
        network(mixer, "learned", norm=norm),
    ):
        assert not is_symmetric(other)
        for parameter in other.parameters():
            nn.init.normal_(parameter)
        assert not torch.allclose(other.double()(x), other(shuffled), atol=1e-3)


def test_a_layer_states_its_limits_itself() -> None:
    for other in (Mine, S6):
        assert not is_symmetric(network(other))
        assert spanning_codes(network(other)) is None
    assert spanning_codes(network(PolyAttn)) is None


def test_codes_of_a_network() -> None:
    assert spanning_codes(network()) == ((),) * 6
    assert spanning_codes(network(positions="learned")) == LEARNED
    assert spanning_codes(network(positions="index")) == tuple((float(torch.tensor(t) / 6),) for t in range(1, 7))
    found = network(positions="sin")
    assert spanning_codes(found) == tuple(map(tuple, found.code.table.double().tolist()))  # type: ignore[union-attr]
    assert spanning_codes(network(task=PolyReg(L=8192, family="sparse", degree=1, test_size=8))) is None
    assert spanning_codes(network(depth=2)) is None
    assert spanning_codes(network(norm="layer")) is None
    assert spanning_codes(network(task=CountInRow(L=6, classes=7, supervise="last", test_size=8))) is None


def test_a_row_holds_the_highest_floor_and_its_name() -> None:
    def floors(of: Network, task: Task = TASK) -> dict[str, object]:
        return of_floor(task, Facts(0, None, None, of.reach(), spanning_codes(of), is_symmetric(of)))

    narrow = floors(network(positions="index"))
    assert narrow["floor_of"] == "span"
    assert narrow["floor"] == TASK.span_floor(spanning_codes(network(positions="index")) or ()) > 0.1
    assert narrow["floor"] > narrow["floor_structure"]  # type: ignore[operator]
    alone = floors(network(Attn, norm="layer"))
    assert (alone["floor"], alone["floor_of"], alone["floor_degree"]) == (TASK.symmetry_floor(), "symmetry", None)
    assert floors(network(PolyAttn))["floor_of"] == "symmetry"
    assert floors(network(Attn, "sin")) == dict.fromkeys(["floor", "floor_of", "floor_degree", "floor_structure"])
    triple = PolyReg(L=6, family="sparse", degree=3, inputs="signs", eps=0.5, test_size=8)
    assert floors(network(positions="learned"), triple) == {
        "floor": 1.0, "floor_of": "structure", "floor_degree": 0.0, "floor_structure": 1.0,
    }  # fmt: skip
    last = PolyReg(L=6, family="given", formula="x6", test_size=8)
    assert floors(network(positions="learned"), last)["floor"] == 0
    assert floors(network(positions="learned"), last)["floor_of"] is None, "a floor of 0 comes from no bound"
    assert network(Attn).reach() is NO_BOUND

"""A replayed step is the step; what cannot be replayed goes on as before. With a stand-in for CUDA graphs, and on a GPU."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from torch import Tensor

from expbench import plugins
from expbench.mixer import Mixer
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training import cuda_graph
from expbench.training.batches import TaskBatches
from expbench.training.ensemble import Ensemble
from expbench.training.job import Job
from expbench.training.loop import build, surroundings
from expbench.training.step import Steps

TASKS = {"count-in-row": ("classes=6",), "polyreg": ("family=sparse", "degree=3")}


class Counter:
    """A step that counts by its `stride`, which Python may change behind a graph's back."""

    def __init__(self, stride: float = 1.0, drift: float = 0.0, fails: bool = False) -> None:
        self.value, self.total = torch.zeros(1), torch.zeros(2, 3)
        self.stride, self.drift, self.fails, self.capturing = stride, drift, fails, False

    def __call__(self) -> Tensor:
        if self.capturing and self.fails:
            raise RuntimeError("operation not permitted when stream is capturing\nmore")
        self.value += 1
        self.total += self.stride * self.value
        self.stride += self.drift
        return self.value


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Callable[[Counter], None]:
    """Graphs that do nothing while they capture, and as Python was at that moment when they replay."""

    def install(step: Counter) -> None:
        class Graph:
            def replay(self) -> None:
                stride, drift = step.stride, step.drift
                step.stride, step.drift, step.capturing = self.stride, 0.0, False
                step()
                step.stride, step.drift = stride, drift

        @contextmanager
        def capturing(captured: Any, *, capture_error_mode: str) -> Iterator[None]:
            assert capture_error_mode == ("thread_local" if torch.distributed.is_initialized() else "global")
            before = step.value.clone(), step.total.clone()
            captured.stride, step.capturing = step.stride, True
            try:
                yield
            finally:
                step.capturing = False
                step.value.copy_(before[0])
                step.total.copy_(before[1])

        monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
        monkeypatch.setattr(torch.cuda, "graph", capturing)

    return install


def test_a_step_is_taken_once_and_replayed(stand_in: Callable[[Counter], None]) -> None:
    step = Counter()
    stand_in(step)
    captured = cuda_graph.capture(step, [step.value, step.total], [step.total], 1e-6)
    assert captured.reason is None
    assert captured.replay is not None
    assert (float(step.value), float(step.total[0, 0])) == (1, 1)
    assert captured.replay() is step.value
    assert (float(step.value), float(step.total[0, 0])) == (2, 3)


@pytest.mark.parametrize(
    ("step", "reason"),
    [
        (Counter(drift=0.5), "a replayed step differs from an eager one (by 5.0e-01)"),
        (Counter(stride=float("nan")), None),
        (Counter(fails=True), "it cannot be captured: RuntimeError: operation not permitted when stream is capturing"),
    ],
)
def test_what_cannot_be_replayed_is_taken_as_it_is(
    stand_in: Callable[[Counter], None], step: Counter, reason: str | None
) -> None:
    stand_in(step)
    captured = cuda_graph.capture(step, [step.value, step.total], [step.total], 1e-6)
    assert captured.reason == reason
    assert (captured.replay is None) is (reason is not None)
    assert float(step.value) == 1
    assert reason is None or float(step.total[1, 2]) == 1


def jobs(task: str, model: Any, device: str, **more: object) -> list[Job]:
    fields: dict[str, object] = {"D": "4", "L": "8", "seeds": "0:2", "steps": "50", "warmup": "5", "batch_size": "16"}
    fields |= {"lr": "0.003,0.02", "task_settings": TASKS[task], "models": model if isinstance(model, str) else "s6"}
    found = expand(SweepSpec(task=task, **(fields | more)), device)  # type: ignore[arg-type]
    return found if isinstance(model, str) else [job._replace(model=model) for job in found]


def taken(stack: Sequence[Job], count: int, captured: bool) -> tuple[Steps, list[Tensor], list[float]]:
    """The steps, the parameters after `count` of them, and the mean losses."""
    runs, tasks = [job.run for job in stack], [job.task for job in stack]
    with surroundings(runs[0], "cuda", len(stack)):
        ensemble = Ensemble([build(job.run, job.task, job.model, "cuda") for job in stack])
        steps = Steps(runs, tasks, ensemble, TaskBatches(runs, tasks, "cuda"), "cuda", captured=captured)
        for _ in range(count):
            steps.take()
    return steps, [x.detach().clone() for x in ensemble.leaves], steps.mean_loss()


def on_a_gpu(test: Any) -> Any:
    return pytest.mark.gpu(pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")(test))


@on_a_gpu
@pytest.mark.parametrize("size", [1, 4])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", sorted(plugins.discover("model")))
def test_captured_steps_are_eager_steps(model: str, task: str, size: int) -> None:
    stack = jobs(task, model, "cuda")[:size]
    eager, expected, losses = taken(stack, 12, captured=False)
    steps, found, graphs = taken(stack, 12, captured=True)
    assert steps.captured, steps.no_cuda_graph_reason
    assert not eager.captured
    assert graphs == pytest.approx(losses, rel=1e-4)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@on_a_gpu
@pytest.mark.parametrize("L", ["8", "130"])  # below and above the length from which attention is fused
@pytest.mark.parametrize("positions", ["onehot", "rotary", "alibi"])
def test_steps_with_position_codes_are_captured(positions: str, L: str) -> None:
    stack = jobs("polyreg", "attn", "cuda", positions=positions, L=L, D="8", model_settings=("heads=2",))
    _, expected, losses = taken(stack, 12, captured=False)
    steps, found, graphs = taken(stack, 12, captured=True)
    assert steps.captured, steps.no_cuda_graph_reason
    assert graphs == pytest.approx(losses, rel=1e-4)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@on_a_gpu
@pytest.mark.parametrize("model", sorted(plugins.discover("model")))
def test_float64_on_a_gpu_is_float64_on_a_cpu(model: str) -> None:
    """The same losses to 1e-9 over 12 steps: the same data, drawn there, and the same arithmetic."""
    stack = jobs("polyreg", model, "cuda", dtype="float64")
    if stack[0].unsupported("cuda"):
        pytest.skip("not in float64 there")
    _, _, losses = taken(stack, 12, captured=True)
    runs, tasks = [job.run for job in stack], [job.task for job in stack]
    steps = Steps(
        runs, tasks, Ensemble([build(j.run, j.task, j.model, "cpu") for j in stack]), TaskBatches(runs, tasks, "cpu"), "cpu"
    )
    for _ in range(12):
        steps.take()
    assert losses == pytest.approx(steps.mean_loss(), rel=1e-9)


class Looks(Mixer):
    """Asks the device for a number in the middle of a step."""

    def __init__(self, width: int, **settings: object) -> None:
        super().__init__()
        self.scale = torch.nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.scale(x)
        return y if float(x.detach().sum()) > -1e9 else -y


class Drifts(Looks):
    """Keeps a number in Python that changes from call to call."""

    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        y: Tensor = self.scale(x) * self.calls
        return y


@on_a_gpu
@pytest.mark.parametrize(("model", "reason"), [(Looks, "cannot be captured"), (Drifts, "forward changes its state (calls)")])
def test_what_no_graph_can_hold_runs_eagerly(model: type, reason: str) -> None:
    stack = jobs("polyreg", model, "cuda")[:1]
    steps, _, losses = taken(stack, 12, captured=True)
    assert not steps.captured
    assert reason in str(steps.no_cuda_graph_reason)
    if model is Looks:  # and the device is as good as before
        assert losses == pytest.approx(taken(stack, 12, captured=False)[2], rel=1e-5)


@on_a_gpu
def test_batches_that_a_task_draws_for_each_run_are_fed_to_the_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    stack = jobs("polyreg", "linattn", "cuda")
    expected = taken(stack, 12, captured=True)[2]
    monkeypatch.setattr(TaskBatches, "mapped", False)
    steps, _, losses = taken(stack, 12, captured=True)
    assert steps.captured, steps.no_cuda_graph_reason
    assert losses == pytest.approx(expected, rel=1e-4)


@on_a_gpu
def test_what_a_replay_gave_the_optimizer_is_what_a_step_gives() -> None:
    stack = jobs("polyreg", "linattn", "cuda")
    replayed, eager = (taken(stack, 12, captured=captured)[0] for captured in (True, False))
    assert replayed.captured, replayed.no_cuda_graph_reason
    for mine, its in zip(replayed.applied(), eager.applied(), strict=True):
        assert mine == pytest.approx(its, rel=1e-3)

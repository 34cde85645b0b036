from typing import Any

import pytest
import torch
from torch import Tensor, nn

from expbench.run import Run, Score
from expbench.sweep.expand import expand
from expbench.sweep.spec import SweepSpec
from expbench.training.family import DivergedError
from expbench.training.job import Job
from expbench.training.loop import build, curve_steps, evaluate, surroundings, train
from expbench.training.monitors import checksum
from expbench.training.optimizer import clipped, rows
from expbench.training.schedule import Rates, learning_rate_factor


def job(**changes: Any) -> Job:
    """One small job."""
    request: dict[str, Any] = {"task": "polyreg", "models": "s6", "L": "4", "steps": "30", "seeds": "0", "batch_size": "16"}
    request |= {"task_settings": ("test_size=300", "validation_size=260")} | changes
    jobs = expand(SweepSpec(**request), "cpu")
    assert len(jobs) == 1
    return jobs[0]


def scores(job: Job) -> list[Score]:
    network = build(job.run, job.task, job.model, "cpu")
    return list(train(job.run, job.task, network, "cpu"))


def values(job: Job) -> list[tuple[Any, ...]]:
    return [(s.split, s.step, s.metric, s.slice, s.value) for s in scores(job)]


@pytest.mark.parametrize("model", ["s6", "attn", "linattn"])
@pytest.mark.parametrize("task", ["polyreg", "count-in-row"])
def test_one_seed_gives_the_same_bits_twice_and_another_seed_others(task: str, model: str) -> None:
    settings = () if task == "polyreg" else ("classes=4", "test_size=300")
    one = job(task=task, models=model, task_settings=settings)
    assert values(one) == values(one)
    assert values(one) != values(job(task=task, models=model, task_settings=settings, seeds="1"))


def test_initial_weights_depend_on_the_seed_alone_and_leave_the_global_generator_alone() -> None:
    one = job()
    state = torch.get_rng_state()
    first = build(one.run, one.task, one.model, "cpu").state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.rand(10)
    again = build(one.run, one.task, one.model, "cpu").state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_training_is_plain_adamw_with_the_documented_schedule() -> None:
    one = job(steps="12", warmup="4", lr="0.02", clip="0.5", weight_decay="0.1")
    trained = build(one.run, one.task, one.model, "cpu")
    list(train(one.run, one.task, trained, "cpu"))
    plain = build(one.run, one.task, one.model, "cpu")
    exempt = (".A_log", ".skip", ".bias", "norms.0.weight")
    kept = [p for name, p in plain.named_parameters() if name.endswith(exempt)]
    others = [p for name, p in plain.named_parameters() if not name.endswith(exempt)]
    groups = [{"params": kept, "weight_decay": 0.0}, {"params": others, "weight_decay": 0.1}]
    optimizer = torch.optim.AdamW(groups, foreach=False, fused=False)
    clipped = 0
    for step in range(1, 13):
        fraction = step / 4 if step <= 4 else 0.5 * (1 + torch.cos(torch.tensor((step - 5) / 8 * torch.pi)))
        for group in optimizer.param_groups:
            group["lr"] = 0.02 * float(fraction)
        inputs, targets = one.task.train_batch(16, seed=0, step=step)
        optimizer.zero_grad()
        nn.functional.mse_loss(plain(inputs.float()), targets.float()).backward()
        norm = torch.stack([p.grad.norm() for p in plain.parameters() if p.grad is not None]).norm()
        if norm > 0.5:
            clipped += 1
            for p in plain.parameters():
                if p.grad is not None:
                    p.grad *= 0.5 / (norm + 1e-6)
        optimizer.step()
    assert clipped > 0
    for name, parameter in trained.named_parameters():
        torch.testing.assert_close(parameter, plain.get_parameter(name), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    ("shape", "after"),
    [("cosine", [1, 0.5 + 0.5**1.5, 0.5, 0.5 - 0.5**1.5]), ("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0.5, 0.25])],
)
def test_shapes_of_the_schedule(shape: str, after: list[float]) -> None:
    one = job(steps="6", warmup="2", lr="0.02", schedule=shape)
    due = [0.5, 1, *after]
    assert [learning_rate_factor(one.run, step) for step in range(6)] == pytest.approx(due)
    rates = Rates([one.run, one.run], "cpu")
    for step, factor in enumerate(due):
        assert rates.at(torch.tensor(step)).tolist() == pytest.approx([0.02 * factor] * 2)
    logged = {s.step: s.value for s in scores(one) if s.metric == "learning_rate"}
    assert logged == pytest.approx({step: 0.02 * due[step - 1] for step in logged})
    assert logged


def test_schedule() -> None:
    run = job(steps="2000").run
    assert run.warmup == 200
    factors = [learning_rate_factor(run, step) for step in range(2000)]
    assert factors[0] == pytest.approx(1 / 200)
    assert factors[199] == factors[200] == 1
    assert factors[1100] == pytest.approx(0.5)
    assert 0 < factors[-1] < 1e-5
    assert max(factors) == 1


@pytest.mark.parametrize(("steps", "count"), [(1, 1), (20, 1), (50, 2), (2000, 24), (100_000, 24)])
def test_curves_keep_a_few_dozen_points(steps: int, count: int) -> None:
    points = curve_steps(steps)
    assert len(points) == count
    assert max(points) == steps
    assert min(points) >= 1


def test_what_a_run_yields() -> None:
    one = job(steps="60", norm="none")
    seen = scores(one)
    assert {s.split for s in seen} == {"train", "validation", "test"}
    losses = [s for s in seen if s.metric == "loss"]
    assert [s.step for s in losses] == [30, 60]
    assert all(s.split == "train" for s in losses)
    test = [s for s in seen if s.split == "test"]
    data = {"inputs_checksum", "targets_checksum"}
    assert {s.metric for s in test} == {"nmse", "nmse_standard_error", "mse", "r2", "solved", *data}
    assert all(s.step == 60 for s in test), "the test split is looked at once, at the end"
    assert [s.metric for s in test if s.primary] == ["nmse"]
    layers = {(s.metric, s.slice) for s in seen if s.metric.startswith(("abar", "delta", "k_hat", "frac", "u_"))}
    assert {("abar_max", "layer=0"), ("abar_max_running", "layer=0"), ("k_hat", ""), ("u_min", "layer=0")} <= layers
    running = [s.value for s in seen if s.metric == "abar_max_running"]
    assert running == sorted(running)
    assert not [s for s in scores(job(models="attn")) if "abar" in s.metric]


@pytest.mark.parametrize("task", ["polyreg", "count-in-row"])
def test_rows_record_what_training_was_given(task: str) -> None:
    settings = () if task == "polyreg" else ("classes=4", "test_size=300")
    one = job(task=task, task_settings=settings, steps="60", warmup="40", lr="0.02", clip="0.01")
    network = build(one.run, one.task, one.model, "cpu")
    probe = next(one.task.split("validation")).inputs[:64]
    untrained = network(probe if task == "count-in-row" else probe.float()).detach()
    seen = {(s.split, s.step, s.metric): s.value for s in train(one.run, one.task, network, "cpu") if not s.slice}
    assert seen["validation", 0, "outputs_checksum"] == pytest.approx(float(checksum(untrained[None])), rel=1e-5)
    for step in (30, 60):
        due = one.run.lr * learning_rate_factor(one.run, step - 1)
        assert seen["train", step, "learning_rate"] == pytest.approx(due, rel=1e-9)
        assert seen["train", step, "gradient_norm"] == pytest.approx(0.01, rel=1e-3)
        batch = one.task.train_batch(16, seed=0, step=step)
        for name, x in zip(batch._fields, batch, strict=True):
            assert seen["train", step, f"{name}_checksum"] == pytest.approx(float(checksum(x[None])), rel=1e-5)
    for split in ("validation", "test"):
        first = next(one.task.split(split))  # type: ignore[arg-type]
        for name, x in zip(first._fields, first, strict=True):
            assert seen[split, 60, f"{name}_checksum"] == pytest.approx(float(checksum(x[None])), rel=1e-5)


def test_a_fingerprint_tells_any_change_and_any_other_order_but_not_rounding() -> None:
    x = torch.rand(1, 16, 8, dtype=torch.float64)
    told = float(checksum(x))
    assert float(checksum(x.float())) == pytest.approx(told, rel=1e-5)
    assert abs(float(checksum(x.roll(1, 1))) - told) > 1e-2
    assert abs(float(checksum(x.flip(2))) - told) > 1e-2
    changed = x.clone()
    changed[0, 7, 3] += 0.1
    assert abs(float(checksum(changed)) - told) > 1e-3
    both = checksum(torch.cat([x, changed]))
    assert both.tolist() == pytest.approx([told, float(checksum(changed))])


def test_the_loss_is_the_mean_since_the_last_point() -> None:
    one = job(steps="2", lr="1e-9")
    network = build(one.run, one.task, one.model, "cpu")
    batches = [one.task.train_batch(16, seed=0, step=step) for step in (1, 2)]
    expected = sum(float(one.task.loss(network(b.inputs.float()), b.targets.float()).detach()) for b in batches) / 2
    loss = next(s for s in train(one.run, one.task, network, "cpu") if s.metric == "loss")
    assert loss.value == pytest.approx(expected, rel=1e-5)


def test_evaluation_does_not_depend_on_how_it_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    one = job(models="attn", dtype="float64")
    network = build(one.run, one.task, one.model, "cpu")
    whole = evaluate(one.run, one.task, network, "cpu", "test")
    monkeypatch.setattr("expbench.training.loop._EVALUATED_TOKENS", {"cpu": 12})
    for a, b in zip(whole, evaluate(one.run, one.task, network, "cpu", "test"), strict=True):
        assert a.value == pytest.approx(b.value, rel=1e-12)
    y = torch.cat([batch.targets for batch in one.task.split("test")])
    x = torch.cat([batch.inputs for batch in one.task.split("test")])
    assert len(y) == 300
    nmse = float(((network(x).detach() - y) ** 2).mean())
    assert next(m.value for m in whole if m.metric == "nmse") == pytest.approx(nmse)


class Exploding(nn.Module):
    """Fine for some steps, then not finite."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x * self.scale / (0 if self.calls > 40 else 1)


def test_divergence_is_raised_with_its_step() -> None:
    one = job(models="linattn", steps="100")
    network = build(one.run, one.task, Exploding, "cpu")
    seen = []
    with pytest.raises(DivergedError, match=r"step \d+ of 100"):
        seen += train(one.run, one.task, network, "cpu")


class Dropping(nn.Module):
    """A layer with dropout, which must not act when the network is evaluated."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.mix = nn.Linear(width, width)
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        return self.dropout(self.mix(x))


def test_dropout_is_repeatable_and_off_in_evaluation() -> None:
    one = job(models="linattn", steps="60")

    def run_once() -> list[Any]:
        network = build(one.run, one.task, Dropping, "cpu")
        with surroundings(one.run, "cpu"):
            seen = [tuple(score[:5]) for score in train(one.run, one.task, network, "cpu")]
        first, second = (evaluate(one.run, one.task, network, "cpu", "validation") for _ in range(2))
        assert first == second
        assert network.training
        return seen

    torch.manual_seed(1)
    first = run_once()
    torch.manual_seed(2)
    assert run_once() == first


def test_surroundings_are_put_back() -> None:
    run, large = job().run, job(batch_size="4096").run
    threads, state = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(2)
    with surroundings(run, "cpu"):
        assert torch.get_num_threads() == 1
        torch.rand(3)
    with surroundings(large, "cpu"):
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == 2
    assert torch.equal(torch.get_rng_state(), state)
    torch.set_num_threads(threads)


def test_a_result_that_is_no_number_is_a_divergence() -> None:
    one = job(models="linattn", steps="2")
    network = build(one.run, one.task, Dropping, "cpu")
    network.register_forward_hook(lambda module, _, output: output if module.training else output / 0)
    with pytest.raises(DivergedError, match="nmse of the validation split is not finite"):
        list(train(one.run, one.task, network, "cpu"))


class Rotating(nn.Module):
    """A layer with a complex parameter, and with two parameters whose gradients are one tensor."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.turn = nn.Parameter(1j * torch.ones(width))
        self.a, self.b = nn.Parameter(torch.ones(width)), nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return (x * self.turn * self.turn).real + x * (self.a + self.b)


def test_complex_parameters_keep_their_imaginary_part_and_learn() -> None:
    one = job(models="linattn", steps="5", warmup="0")
    network = build(one.run, one.task, Rotating, "cpu")
    turn = network.get_parameter("mixers.0.turn")
    assert torch.equal(turn.detach().imag, torch.ones(4))
    list(train(one.run, one.task, network, "cpu"))
    assert turn.is_complex()
    assert bool((turn.detach().imag != 1).all())


def test_clipping_scales_a_shared_gradient_once() -> None:
    shared = torch.full((2, 4), 3.0)
    grads, norms = clipped(rows([shared, shared, torch.zeros(2, 2)]), torch.tensor([1.0, 100.0]))
    assert norms.tolist() == pytest.approx([72**0.5] * 2)
    assert float(grads[0].norm()) == pytest.approx(1, rel=1e-5)
    assert torch.equal(grads[1], torch.tensor([3.0] * 8 + [0.0] * 2))  # each run by its own limit
    assert torch.equal(shared, torch.full((2, 4), 3.0))


def test_a_parameter_that_is_no_number_at_the_end_is_a_divergence() -> None:
    one = job(models="linattn", steps="1", warmup="0", lr="1e9", task="count-in-row", task_settings=("classes=4",))
    network = build(one.run, one.task, one.model, "cpu")
    network.get_parameter("head.bias").register_hook(lambda grad: grad * 0 + 1e-30)
    with torch.no_grad():
        network.get_parameter("head.weight").fill_(3e38)
    with pytest.raises(DivergedError):
        list(train(one.run, one.task, network, "cpu"))


def test_the_share_of_test_inputs_that_training_met() -> None:
    one = job(
        task="count-in-row", L="5", models="ssm", task_settings=("classes=4", "test_size=256", "supervise=last"), steps="3"
    )
    network = build(one.run, one.task, one.model, "cpu")
    seen = {tuple(row) for step in (1, 2, 3) for row in one.task.train_batch(16, seed=0, step=step).inputs.tolist()}
    test = [tuple(row) for batch in one.task.split("test") for row in batch.inputs.tolist()]
    share = next(s.value for s in train(one.run, one.task, network, "cpu") if s.metric == "train_test_overlap")
    assert share == pytest.approx(sum(row in seen for row in test) / len(test))
    assert 0 < share < 1
    wide = job(task="count-in-row", L="40", models="ssm", task_settings=("test_size=256",), steps="3")
    network = build(wide.run, wide.task, wide.model, "cpu")
    assert "train_test_overlap" not in {s.metric for s in train(wide.run, wide.task, network, "cpu")}


@pytest.mark.parametrize("dtype", ["float64", "bfloat16"])
def test_other_dtypes(dtype: str) -> None:
    for model in ("s6", "s6-poly", "ssm", "attn", "linattn", "polyattn"):
        one = job(models=model, dtype=dtype)
        network = build(one.run, one.task, one.model, "cpu")
        assert next(network.parameters()).dtype == (torch.float64 if dtype == "float64" else torch.float32)
        assert next(s.value for s in train(one.run, one.task, network, "cpu") if s.split == "test") < 10


def test_keys_change_with_everything_that_changes_the_numbers_and_nothing_else() -> None:
    base = job().run
    changes: list[dict[str, Any]] = [
        {"L": "5"},
        {"D": "5"},
        {"depth": "2"},
        {"norm": "none"},
        {"positions": "sin"},
        {"positions": "sin", "position_base": "10000"},
        {"positions": "onehot"},
        {"residual": "off"},
        {"lr": "0.02"},
        {"steps": "31"},
        {"batch_size": "17"},
        {"warmup": "9"},
        {"weight_decay": "0.1"},
        {"clip": "2"},
        {"seeds": "1"},
        {"instances": "1"},
        {"dtype": "float64"},
        {"models": "s6-bbar-b"},
        {"model_settings": ("layout=full_bias",)},
        {"model_settings": ("N=3",)},
    ]
    keys = {base.key, *(job(**change).run.key for change in changes)}
    assert len(keys) == len(changes) + 1
    assert job(model_settings=("N=4",)).run.key == base.key, "the resolved value is what counts"
    assert job(positions="none", position_base="10000").run.key == base.key
    assert job(degree="4").run.key == base.key
    as_cuda = expand(SweepSpec(task="polyreg", models="s6", L="4"), "cpu")
    assert len({j.run.key for j in as_cuda}) == 3


@pytest.mark.parametrize("base", ["auto", "10000", "37.5"])
def test_a_run_survives_its_row_and_its_command(base: str) -> None:
    import shlex

    from expbench.sweep.rows import of_run

    settings = ("family=sparse", "test_size=300", "degree=3")
    one = job(positions="sin", position_base=base, residual="off", task_settings=settings)
    row = of_run(one, "cpu", {}, [], {"status": "ok"})[0]
    assert Run.from_row(row) == one.run
    words = shlex.split(one.run.command())[2:]
    request: dict[str, Any] = {"task_settings": [], "model_settings": []}
    for option, value in zip(words[::2], words[1::2], strict=True):
        name = {"-t": "task_settings", "-m": "model_settings"}.get(option, option.strip("-").replace("-", "_"))
        if isinstance(request.get(name), list):
            request[name].append(value)
        else:
            request[name] = value
    (again,) = expand(SweepSpec(**request), "cpu")
    assert again.run == one.run

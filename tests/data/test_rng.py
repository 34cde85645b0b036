import statistics

import pytest
import torch

from expbench.data import rng as draws_module
from expbench.data.rng import CounterRNG, advance, advance_all, as_tensor, fold, mix


def test_the_tensor_hash_is_splitmix64() -> None:
    # The first outputs of SplitMix64 from seed 1234567, from the published reference implementation.
    published = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431, 16408922859458223821]
    golden = 0x9E3779B97F4A7C15
    assert [mix(1234567 + i * golden) for i in range(1, 6)] == published
    rng = CounterRNG(99)
    expected = [mix(mix(99 + golden) + i * golden) for i in range(1, 1001)]
    assert [number % 2**64 for number in rng._bits((1000,)).tolist()] == expected


def test_same_key_same_numbers_and_each_call_fresh_ones() -> None:
    first, again = CounterRNG(5), CounterRNG(5)
    a, b = first.uniform(100), first.uniform(100)
    assert torch.equal(a, again.uniform(100))
    assert torch.equal(b, again.uniform(100))
    assert not torch.equal(a, b)
    assert not torch.equal(a, CounterRNG(6).uniform(100))


def test_folded_keys_differ_in_every_part() -> None:
    keys = {fold(text, *counters) for text in ("a", "b") for counters in [(), (0,), (1,), (0, 0), (0, 1), (1, 0)]}
    assert len(keys) == 12


def test_distributions() -> None:
    n = 200_000
    u = CounterRNG(1).uniform(n, low=2, high=4)
    assert u.dtype == torch.float64
    assert float(u.min()) >= 2
    assert float(u.max()) < 4
    assert float(u.mean()) == pytest.approx(3, abs=5 * (1 / 3) ** 0.5 / n**0.5)
    counts = torch.bincount(CounterRNG(2).integers(n, n=7), minlength=7)
    assert len(counts) == 7
    assert float((counts - n / 7).abs().max()) < 5 * (n / 7) ** 0.5
    assert float(CounterRNG(3).coins(n, p=0.1).double().mean()) == pytest.approx(0.1, abs=5 * 0.3 / n**0.5)
    z = CounterRNG(4).normal(n)
    assert float(z.mean()) == pytest.approx(0, abs=5 / n**0.5)
    assert float(z.var()) == pytest.approx(1, abs=0.02)
    # successive numbers are independent: their correlation is that of noise
    assert abs(float(torch.corrcoef(torch.stack([z[:-1], z[1:]]))[0, 1])) < 5 / n**0.5


def test_subsets_and_permutations() -> None:
    assert sorted(CounterRNG(1).permutation(20)) == list(range(20))
    subsets = [tuple(CounterRNG(key).subset(10, 4)) for key in range(50)]
    assert all(list(s) == sorted(set(s)) and len(s) == 4 for s in subsets)
    assert len(set(subsets)) > 40
    assert 3.5 < statistics.mean(i for s in subsets for i in s) < 5.5


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_the_same_numbers() -> None:
    assert torch.equal(CounterRNG(7, "cuda").uniform(1000).cpu(), CounterRNG(7).uniform(1000))


def test_many_keys_at_once_draw_what_each_draws_by_itself() -> None:
    """Under vmap over keys in a tensor, and with a step in a tensor: the same bits."""
    streams = [fold("a stream", seed) for seed in range(3)]
    keys = advance_all(as_tensor(streams), torch.tensor(7))
    assert torch.equal(keys, as_tensor([advance(stream, 7) for stream in streams]))
    assert torch.equal(keys, advance_all(as_tensor(streams), 7))

    def batch(rng: CounterRNG) -> tuple[torch.Tensor, ...]:
        return rng.uniform(4, 2), rng.integers(5, n=9), rng.coins(3), rng.normal(6)

    together = torch.vmap(lambda key: batch(CounterRNG(key)))(keys)
    for i, stream in enumerate(streams):
        for mine, alone in zip(together, batch(CounterRNG(advance(stream, 7))), strict=True):
            assert torch.equal(mine[i], alone)


def test_one_kernel_draws_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("triton")
    keys = as_tensor([fold("a", i) for i in range(6)], "cuda" if torch.cuda.is_available() else "cpu")

    def drawn(key: torch.Tensor) -> list[torch.Tensor]:
        rng = CounterRNG(key, key.device)
        shaped = [rng.uniform(7, 300), rng.uniform(3, low=-2.5, high=7.3), rng.normal(50)]
        return [*shaped, rng.coins(10), rng.integers(9, n=7), rng.uniform(0)]

    monkeypatch.setattr(draws_module, "_one_kernel", lambda key: False)
    plain = torch.vmap(drawn)(keys)
    monkeypatch.setattr(draws_module, "_one_kernel", lambda key: True)
    for i, expected in enumerate(plain):
        assert torch.equal(torch.vmap(drawn)(keys)[i], expected)
        assert torch.equal(torch.vmap(torch.vmap(drawn))(keys.view(2, 3))[i].flatten(0, 1), expected)
        assert torch.equal(drawn(keys[4])[i], expected[4])

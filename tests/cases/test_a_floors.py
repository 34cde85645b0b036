import pytest

from expbench.results.configurations import gather, with_context
from tests.report.test_build import frame_of, runs


@pytest.mark.parametrize(
    ("floor", "values", "where"),
    [
        (0.0158, [0.848, 1.044], "above"),  # linear attention after 10 steps: the interval is 0 to 2.2
        (0.5, [0.5, 0.504, 0.502], "at"),
        (0.5, [0.5, 0.6], "perhaps at"),  # a mean of 1.1 floors; the interval is 0 to 1.2
        (0.5, [0.51], "perhaps at"),  # one run has no interval
        (0.5, [0.9], "above"),
        (0.5, [None], "above"),
    ],
)
def test_a15_a_mean_is_at_its_floor_only_if_its_interval_ends_there(
    floor: float, values: list[float | None], where: str
) -> None:
    (configuration,) = gather(with_context(frame_of(runs(values, floor=floor))))
    assert configuration.reading == f"not representable ({where} its floor; any predictor, exact arithmetic, norm layer)"

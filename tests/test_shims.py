"""Old paths and names that are public still work, with a DeprecationWarning."""

import importlib

import pytest

from expbench.results import reported
from expbench.run import Score
from expbench.training import weights


@pytest.mark.parametrize(
    ("module", "name", "function", "now"),
    [
        ("expbench.weights", "load", weights.load, "expbench.training.weights.load"),
        ("expbench.task", "Measured", Score, "expbench.task.Score"),
        ("expbench.table", "reported", reported.reported, "expbench.results.reported.reported"),
    ],
)
def test_an_old_path_gives_the_function_and_warns(module: str, name: str, function: object, now: str) -> None:
    shim = importlib.import_module(module)
    with pytest.warns(DeprecationWarning, match=f"{module}.{name} is now {now}") as warned:
        assert getattr(shim, name) is function
    assert warned[0].filename == __file__
    with pytest.raises(AttributeError, match="no attribute 'other'"):
        _ = shim.other

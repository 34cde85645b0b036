from dataclasses import dataclass
from typing import Literal

import pytest
from torch import nn

from expbench import settings
from expbench.errors import BadInput


@dataclass(frozen=True, kw_only=True)
class Declared:
    size: int = 3
    rate: float | None = None
    kind: Literal["soft", "hard"] = "soft"
    flag: bool = False


class Stranger(nn.Module):
    def __init__(self, d_model, heads, dropout=0.0, *, bias=True):  # type: ignore[no-untyped-def]
        super().__init__()


def test_texts_become_typed_values() -> None:
    texts = {"size": "5", "rate": "1e-3", "kind": "hard", "flag": "yes"}
    assert settings.resolve(Declared, texts, "it") == {"size": 5, "rate": 0.001, "kind": "hard", "flag": True}
    assert settings.resolve(Declared, {"rate": "none"}, "it") == {"size": 3, "rate": None, "kind": "soft", "flag": False}


@pytest.mark.parametrize(
    ("texts", "words"),
    [
        ({"sise": "3"}, "did you mean 'size'"),
        ({"size": "3.5"}, "not a whole number"),
        ({"rate": "nan"}, "'nan' is not float or none"),
        ({"kind": "sotf"}, "did you mean 'soft'"),
        ({"flag": "maybe"}, "not true or false"),
    ],
)
def test_bad_values_name_the_nearest_choice(texts: dict[str, str], words: str) -> None:
    with pytest.raises(BadInput, match=words):
        settings.resolve(Declared, texts, "it")


def test_a_strangers_constructor_declares_its_parameters_after_the_width() -> None:
    assert list(settings.declared(Stranger)) == ["heads", "dropout", "bias"]
    assert settings.resolve(Stranger, {"heads": "2", "bias": "off"}, "it") == {"heads": "2", "dropout": 0.0, "bias": False}
    with pytest.raises(BadInput, match="needs a value for its setting heads"):
        settings.resolve(Stranger, {}, "it")


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("7", ["7"]),
        ("1,2,3", ["1", "2", "3"]),
        ("0:3", ["0", "1", "2"]),
        ("0:10:4", ["0", "4", "8"]),
        ("5,0:2", ["5", "0", "1"]),
        ("a, b", ["a", "b"]),
        ("x.py:Class", ["x.py:Class"]),
    ],
)
def test_lists_and_ranges(text: str, members: list[str]) -> None:
    assert settings.split_list(text, "--it") == members


@pytest.mark.parametrize("text", ["", ",", "1,,2", "1,", "3:3", "5:0", "0:4:0", ":", "1:", ":3", "1,1", "0:3,2", "0:1:2:3"])
def test_malformed_lists(text: str) -> None:
    with pytest.raises(BadInput, match="--it"):
        settings.split_list(text, "--it")


def test_assignments() -> None:
    assert settings.split_assignment("N=2,4", "-m") == (None, "N", ["2", "4"])
    assert settings.split_assignment("s6:N=0:2", "-m") == ("s6", "N", ["0", "1"])
    assert settings.split_assignment("dir/file.py:Class:N=2", "-m") == ("dir/file.py:Class", "N", ["2"])
    for text in ("N", "=3", "s6:=3", "N="):
        with pytest.raises(BadInput):
            settings.split_assignment(text, "-m")

from pathlib import Path

import pytest

from expbench import files


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_a_file_is_replaced_in_one_stroke_or_not_at_all(tmp_path: Path, error: type[BaseException]) -> None:
    target = tmp_path / "target.txt"
    with files.replacing(target) as aside:
        aside.write_text("old")
        assert not target.exists()

    def fail() -> None:
        with files.replacing(target) as aside:
            aside.write_text("half")
            raise error

    with pytest.raises(error):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("target.txt", "old")]
    with files.replacing(target) as one, files.replacing(target) as other:
        one.write_text("one")
        other.write_text("other")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("target.txt", "one")]

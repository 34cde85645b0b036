"""A16: a baseline whose learning rate would be tuned is refused."""

from pathlib import Path

from tests.conftest import CommandLine, is_bad_input


def test_a16_a_tuned_rate_in_a_baseline_is_refused(expbench: CommandLine) -> None:
    Path("table.parquet").touch()
    for content in (
        "configurations = [{ task = 'polyreg', models = 's6', lr = 'auto' }]",
        "configurations = [{ task = 'polyreg', models = 's6' }]\n[every]\nlr = 'auto'",
    ):
        Path("configurations.toml").write_text(content)
        is_bad_input(expbench("baseline", "check", "--baseline", "."), "lr = 'auto'", "lr = 0.01")
    assert not Path("results").exists()

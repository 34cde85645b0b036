"""Fields of a run: each is declared once, and options, columns, commands and identities follow from it."""

import ast
import dataclasses
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from expbench.results.identity import columns, fields, identity
from expbench.results.schema import COLUMNS
from expbench.run import AXES, FIELDS, LATER, Run
from expbench.sweep.spec import OPTIONS, SweepSpec
from tests.conftest import CommandLine

ROOT = Path(__file__).parents[2]
RUN = Run(
    task="polyreg",
    task_version="1",
    task_settings={"L": 4, "degree": 2, "test_size": 256, "instance": 3},
    model="s6",
    model_version="1",
    model_settings={"N": 4},
    D=4,
    depth=1,
    norm="layer",
    positions="none",
    residual=True,
    steps=20,
    warmup=2,
    batch_size=16,
    lr=0.01,
    weight_decay=0.0,
    clip=1.0,
    seed=0,
    dtype="float32",
)


def test_each_field_is_a_column_and_all_but_versions_an_option_of_a_request() -> None:
    assert list(FIELDS) == [f.name for f in dataclasses.fields(Run)]
    assert [name for name in COLUMNS if name in FIELDS] == list(FIELDS)
    assert set(AXES) <= set(COLUMNS)
    assert {field.name for field in [*FIELDS.values(), *AXES.values()] if field.role != "version"} <= set(OPTIONS)
    assert [f.name for f in dataclasses.fields(SweepSpec)] == list(OPTIONS)
    assert all(field.since > 1 for name, field in FIELDS.items() if name in LATER)


def test_a_command_states_each_field_and_those_that_came_later_where_they_differ() -> None:
    given = {word for word in shlex.split(RUN.command()) if word.startswith("-")}
    stated = {field.flag for name, field in FIELDS.items() if field.flags and name not in {*LATER, "task_settings"}}
    assert given == stated | {"-t", *(axis.flag for axis in AXES.values())}
    for name in LATER:
        other = dataclasses.replace(RUN, **{name: "other" if FIELDS[name].kind is not float else 0.5})
        assert FIELDS[name].flag in shlex.split(other.command())
        assert other.key != RUN.key


def test_an_identity_leaves_out_roles_and_names_and_nothing_else() -> None:
    other_seed = dataclasses.replace(RUN, seed=1)
    other_instance = dataclasses.replace(RUN, task_settings=RUN.task_settings | {"instance": 4})
    assert identity(RUN) == identity(dataclasses.replace(RUN))
    assert identity(RUN) != identity(other_seed)
    assert identity(RUN, {"seed"}) == identity(other_seed, {"seed"})
    assert identity(RUN, {"seed"}) != identity(other_instance, {"seed"})
    assert identity(RUN, {"instance"}) == identity(other_instance, {"instance"})
    wider = dataclasses.replace(RUN, D=8, depth=2)
    assert identity(RUN, {"size"}) == identity(wider, {"size"})
    assert identity(RUN, {"D"}) != identity(wider, {"D"})
    assert identity(RUN, {"rate"}) != identity(dataclasses.replace(RUN, clip=2.0), {"rate"})


def test_fields_and_columns_of_an_identity_follow_the_table() -> None:
    assert fields() == list(FIELDS)
    assert not {"seed", "lr"} & set(fields({"seed", "rate"}))
    assert {"L", "degree", "context", "skip"} <= set(columns({"seed", "instance"}))
    assert "instance" not in columns({"instance"})
    assert "task_settings" not in columns()


def test_what_is_neither_a_role_nor_a_field_is_refused() -> None:
    for asked in (lambda: identity(RUN, {"sed"}), lambda: fields({"sed"}), lambda: columns({"sed"})):
        with pytest.raises(ValueError, match="sed"):
            asked()


def test_the_help_of_run_lists_every_declared_option(expbench: CommandLine) -> None:
    words = set(expbench("run", "--help").out.replace(",", " ").split())
    for option in OPTIONS.values():
        assert set(option.flags) <= words, option.name


def test_the_help_of_run_needs_no_torch() -> None:
    program = (
        "import sys\nfrom expbench.cli.main import main\ntry:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_no_function_of_the_command_has_many_parameters() -> None:
    tree = ast.parse((ROOT / "expbench" / "cli" / "run.py").read_text())
    for function in ast.walk(tree):
        if isinstance(function, ast.FunctionDef):
            args = function.args
            assert len([*args.posonlyargs, *args.args, *args.kwonlyargs]) <= 8, function.name


def test_a_setting_named_like_a_split_is_part_of_the_key_under_its_own_name() -> None:
    one, other = (dataclasses.replace(RUN, task_settings={"L": 4, name: 1}) for name in ("validation", "selection"))
    assert one.key != other.key

"""The reference pages: each is complete, and says what the code says."""

import importlib
import importlib.util
import re
import subprocess
import sys
from types import ModuleType

import pytest

from expbench.results import schema
from tests.documents import ROOT

REFERENCE = ROOT / "docs" / "reference"
PLACES = (
    ROOT,
    ROOT / "expbench",
    ROOT / "expbench" / "training",
    ROOT / "expbench" / "data",
    ROOT / "expbench" / "inspection",
)


@pytest.fixture(scope="module")
def make_cli() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_cli", REFERENCE / "make_cli.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_of_the_commands_is_generated_from_their_help(make_cli: ModuleType) -> None:
    hint = "run python docs/reference/make_cli.py"
    assert (REFERENCE / "cli.md").read_text() == make_cli.page(), hint


def test_the_page_of_the_commands_has_every_command_and_option(make_cli: ModuleType) -> None:
    page = make_cli.page()
    found = dict(make_cli.commands(make_cli.get_command(make_cli.app), "expbench"))
    assert {"expbench run", "expbench doctor", "expbench baseline", "expbench theory bound"} <= set(found)
    for name, command in found.items():
        _, _, below = page.partition(f"\n## `{name}`\n")
        section = below.partition("\n## ")[0]
        assert section, name
        for parameter in command.params:
            if parameter.param_type_name == "option":
                assert all(f"`{option}" in section for option in (*parameter.opts, *parameter.secondary_opts)), (
                    parameter.opts
                )


def test_the_page_of_the_commands_is_made_without_torch() -> None:
    code = "import runpy, sys; runpy.run_path(sys.argv[1]); print('torch' in sys.modules)"
    made = subprocess.run(
        [sys.executable, "-c", code, str(REFERENCE / "make_cli.py")], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == "False"


def test_every_column_of_the_results_table_is_explained_once() -> None:
    page = (REFERENCE / "results-schema.md").read_text()
    section = page.partition("\n## Columns\n")[2].partition("\n## ")[0]
    assert sorted(re.findall(r"^\| `(\w+)` \| \S", section, re.MULTILINE)) == sorted(schema.COLUMNS)


def test_the_results_schema_page_states_the_version() -> None:
    page = (REFERENCE / "results-schema.md").read_text()
    assert f"schema {schema.VERSION};" in page
    assert f"reads schemas 1 to {schema.VERSION}" in page


def test_the_files_named_on_the_page_of_the_architecture_exist() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = {name for name in re.findall(r"`([\w/]+(?:\.py|/))`", page) if "NAME" not in name}
    assert len(named) > 40
    assert [name for name in sorted(named) if not any((root / name).exists() for root in PLACES)] == []


def test_every_package_stands_on_the_page_of_the_architecture() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    for package in (ROOT / "expbench").glob("*/__init__.py"):
        assert f"| `{package.parent.name}/` |" in page


def test_the_names_on_the_page_of_the_python_interface_exist() -> None:
    page = (REFERENCE / "python.md").read_text()
    rows = re.findall(r"^\| `(expbench[\w.]*)` \| (.*?) \|", page, re.MULTILINE)
    assert len(rows) >= 10
    for module, names in rows:
        imported = importlib.import_module(module)
        assert [name for name in re.findall(r"`(\w+)`", names) if not hasattr(imported, name)] == [], module


def test_the_glossary_is_alphabetical() -> None:
    words = re.findall(r"^\| ([^|]+?) \| [A-Z(]", (REFERENCE / "glossary.md").read_text(), re.MULTILINE)
    assert len(words) > 60
    assert words == sorted(words, key=str.casefold)

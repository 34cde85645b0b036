"""The caps of the layout: how full a folder may be, no circles of imports, packages that define nothing in `__init__.py`."""

from pathlib import Path

import pytest

from tests import structure, wording
from tests.test_imports import ROOT, RULE, SOURCES

MODULES_A_FOLDER = 16
ARTICLES = 0.15  # the largest share of docstrings that begin with one: properties, which are named by nouns
README_BYTES = 8000
ENTRIES_AT_THE_TOP = 36
LAZY = {"__getattr__", "__dir__"}
# Names that are resolved when they are asked for: `import expbench` stays free, and the names of the backends must not cost
# an import of torch.
MAY_DEFINE = {"expbench/__init__.py": LAZY, "expbench/ops/__init__.py": LAZY}

TESTS = Path(__file__).parent
# Cases and contracts are those of all packages, and tasks/ is installed as expbench_tasks. All other folders are packages.
NO_PACKAGES = {"cases", "contracts", "tasks"}


@pytest.fixture(scope="module")
def graph() -> dict[str, set[str]]:
    return structure.graph()


def test_no_folder_is_too_full() -> None:
    full = {folder: len(names) for folder, names in structure.folders().items() if len(names) > MODULES_A_FOLDER}
    full.pop("expbench/models", None)  # a shelf of like things
    assert not full


def test_the_top_is_surveyed_at_a_glance() -> None:
    assert len(structure.entries()) <= ENTRIES_AT_THE_TOP, structure.entries()


def test_files_import_one_another_in_no_circle(graph: dict[str, set[str]]) -> None:
    assert structure.circles(graph) == []


def test_packages_import_one_another_in_no_circle(graph: dict[str, set[str]]) -> None:
    assert structure.circles(structure.packages(graph)) == []


def test_names_of_one_group_of_the_rule_do_not_import_one_another(graph: dict[str, set[str]]) -> None:
    assert structure.same_group(structure.packages(graph)) == []


@pytest.mark.parametrize("source", [p for p in SOURCES if p.stem == "__init__"], ids=lambda p: str(p.relative_to(ROOT)))
def test_a_package_defines_nothing_of_its_own(source: Path) -> None:
    allowed = MAY_DEFINE.get(source.relative_to(ROOT).as_posix(), set())
    assert set(structure.definitions(source)) <= allowed


def test_circles_are_found() -> None:
    edges = {"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}, "e": {"d"}}
    assert structure.circles(edges) == [["a", "b", "c"]]
    assert structure.circles(edges | {"c": set()}) == []


def test_imports_of_functions_count_and_those_of_the_type_checker_stand_apart() -> None:
    source = ROOT / "expbench/ops/__init__.py"  # has one of each
    assert structure.imports(source, typing=False) == {"ops.selective.interface"}
    assert structure.imports(source, typing=True) == {"ops.selective.interface"}
    command = ROOT / "expbench/cli/inspect.py"  # imports nothing heavy before a command runs
    assert "inspection.layer_check.run" in structure.imports(command, typing=False)


def test_definitions_are_found(tmp_path: Path) -> None:
    source = tmp_path / "__init__.py"
    source.write_text(
        '"""Doc."""\nimport os\n__all__ = ["f"]\n__path__ += []\nX: int = 1\n\n\ndef f(): ...\n\n\nclass C: ...\n'
    )
    assert structure.definitions(source) == ["X", "f", "C"]


def test_no_document_or_source_has_a_conflict_left_from_a_merge() -> None:
    sources = [*SOURCES, *ROOT.glob("*.*"), *(ROOT / "docs").rglob("*.md"), *TESTS.rglob("*.py")]
    marked = ("<" * 7 + " ", ">" * 7 + " ")
    assert not [p for p in sources if p.is_file() and any(line.startswith(marked) for line in p.read_text().splitlines())]


def test_the_page_on_the_architecture_holds_the_rule() -> None:
    assert f"\n```\n{RULE}\n```\n" in (ROOT / "docs/architecture.md").read_text()


@pytest.mark.parametrize(
    "folder", sorted({path.parent for path in TESTS.rglob("test_*.py")} - {TESTS}), ids=lambda p: p.name
)
def test_folders_of_tests_mirror_the_packages(folder: Path) -> None:
    below = folder.relative_to(TESTS)
    assert below.parts[0] in NO_PACKAGES or (ROOT / "expbench" / below / "__init__.py").is_file()


def test_docstrings_of_functions_begin_with_a_verb() -> None:
    found = wording.docstrings()
    assert [each for each in found if each.word in wording.NOT_A_VERB] == []
    articles = [each for each in found if each.word in wording.ARTICLES]
    assert len(articles) / len(found) < ARTICLES, articles


def test_the_readme_is_short() -> None:
    assert wording.readme_bytes() <= README_BYTES

"""What a report says, before it is written as Markdown, as a page or as LaTeX: sections of texts, tables, figures, claims.

A table knows of each of its lines the cells that its numbers come from, so that a page can lead from a number to its runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expbench.claims import formatting
from expbench.claims.verdicts import Finding
from expbench.console.formatting import markdown_table
from expbench.results.cells import IDENTITY, Cell
from expbench.run import FIELDS, LATER, content_key

_MARKS = re.compile(r"([\\`*\[<])")

# Links to rows hold since this schema: a field that came after it is no part of a link where it has its default.
_LINKED = 4


@dataclass(frozen=True, eq=False)
class Table:
    """Texts in lines below a header.

    cells: of each line the cells that it is about, if any. main: each line is one cell, whose runs can be shown below it; in
    place of the column `folded`. brief: the columns that go into a paper.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    cells: Sequence[Sequence[Cell]] = ()
    main: bool = False
    folded: str = ""
    brief: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure in a file, and the tables that hold what it draws."""

    title: str
    path: Path
    data: Sequence[Table] = ()


@dataclass(frozen=True, eq=False)
class Claims:
    """What has become of claims."""

    findings: Sequence[Finding]


Block = str | Table | Picture | Claims  # a text is Markdown


@dataclass(frozen=True, eq=False)
class Section:
    """A part of a report. context: of a task its settings, a plain text. apart: those of them that tell it from other parts
    of its title. aside: whether a reader may pass it over."""

    title: str
    blocks: Sequence[Block]
    context: str = ""
    apart: str = ""
    aside: bool = False


@dataclass(frozen=True, eq=False)
class Document:
    """A report. summary: what it is of, a plain text; command: what writes it again."""

    summary: str
    sections: Sequence[Section]
    command: str

    @property
    def tables(self) -> Iterator[Table]:
        """Its tables, in order."""
        return (block for section in self.sections for block in section.blocks if isinstance(block, Table))


def name(cell: Cell) -> str:
    """A name of a cell that is the same in every report: ten hexadecimal digits of what was run."""
    later = {name for name, default in LATER.items() if FIELDS[name].since > _LINKED and cell[name] == default}
    return content_key({column: str(cell[column]) for column in IDENTITY if column not in later})[:10]


def markdown(document: Document, folder: Path) -> str:
    """The report in Markdown, for a file in `folder`."""
    parts = ["# expbench report", _escaped(document.summary)]
    for section in document.sections:
        parts.append(f"## {section.title}")
        if section.context:
            parts.append(_escaped(section.context))
        parts += [_markdown(block, folder) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Table():
            return markdown_table(block.header, block.lines)
        case Picture():
            return f"![{block.title}]({block.path.relative_to(folder).as_posix()})"
        case Claims():
            return formatting.markdown(block.findings)
        case _:
            return block


def _escaped(text: str) -> str:
    """A plain text, none of whose characters is taken for markup: a formula multiplies by stars."""
    return _MARKS.sub(r"\\\1", text)

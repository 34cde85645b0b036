"""The content of a report, independent of Markdown, HTML or LaTeX: sections of texts, tables, figures and claims.

A table stores the configurations behind each of its lines, so that the HTML page can link a number to its runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from expbench.claims import formatting
from expbench.claims.judgement import ClaimResult
from expbench.console.formatting import escaped, markdown_table
from expbench.results.configurations import IDENTITY, Configuration
from expbench.run import FIELDS, FORMER_SETTINGS, LATER, content_key

# Links to rows are stable since this schema: a field added later enters a link only if it differs from its default.
_LINKED = 4


@dataclass(frozen=True, eq=False)
class Table:
    """A table of texts with a header.

    configurations: those behind each line, if any. main: whether each line is one configuration, whose runs can be unfolded
    below it; they replace the column `folded`. brief: the columns of the LaTeX table. narrow: the same lines for a screen,
    with the columns that differ only, the most important first.
    """

    title: str
    header: Sequence[str]
    lines: Sequence[Sequence[str]]
    configurations: Sequence[Sequence[Configuration]] = ()
    main: bool = False
    folded: str = ""
    brief: Sequence[str] = ()
    narrow: Table | None = None


@dataclass(frozen=True, eq=False)
class FigureBlock:
    """A figure in a file, and the tables with its data."""

    title: str
    path: Path
    data: Sequence[Table] = ()


@dataclass(frozen=True, eq=False)
class Claims:
    """Claims with their verdicts."""

    findings: Sequence[ClaimResult]


Block = str | Table | FigureBlock | Claims  # a text is Markdown


@dataclass(frozen=True, eq=False)
class Section:
    """A section of a report. context: the settings of its task, a plain text. apart: those settings that distinguish it from
    other sections with the same title. aside: whether it is folded. results: whether it shows results of runs."""

    title: str
    blocks: Sequence[Block]
    context: str = ""
    apart: str = ""
    aside: bool = False
    results: bool = False


@dataclass(frozen=True, eq=False)
class Document:
    """A report. summary: one line on its runs, a plain text; command: the command line that writes it."""

    summary: str
    sections: Sequence[Section]
    command: str

    @property
    def tables(self) -> Iterator[Table]:
        """Tables of all sections, in order."""
        return (block for section in self.sections for block in section.blocks if isinstance(block, Table))


def name(configuration: Configuration) -> str:
    """Return a name of a configuration that is the same in every report: ten hexadecimal digits of its identity's hash."""
    later = {name for name, default in LATER.items() if FIELDS[name].since > _LINKED and configuration[name] == default}
    return content_key(
        {FORMER_SETTINGS.get(column, column): str(configuration[column]) for column in IDENTITY if column not in later}
    )[:10]


def markdown(document: Document, folder: Path) -> str:
    """Return the report in Markdown, for a file in `folder`."""
    parts = ["# expbench report", escaped(document.summary)]
    for section in document.sections:
        parts.append(f"## {escaped(section.title)}")
        if section.context:
            parts.append(escaped(section.context))
        parts += [_markdown(block, folder) for block in section.blocks]
    return "\n\n".join(parts) + "\n"


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Table():
            return markdown_table(block.header, block.lines)
        case FigureBlock():
            return f"![{escaped(block.title)}]({block.path.relative_to(folder).as_posix()})"
        case Claims():
            return formatting.markdown(block.findings)
        case _:
            return block
